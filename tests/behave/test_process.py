"""The process: its user, directory, variables, names, limits, descriptors and privileges."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from conftest import compile_c, wait_until
from observe import detached, host_uid, mounts, parse_status, status

pytestmark = pytest.mark.root


# --- who -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("user", "wanted"), [
    ("user", "1000 1000"), ("1000", "1000 1000"), ("user:tty", "1000 5"), ("1000:5", "1000 5"),
    ("daemon", "1 1"),
    ("0", "0 0"), ("root", "0 0"), ("4242", "4242 0"), ("4242:4343", "4242 4343"), ("nobody", "65534 65534"),
])  # fmt: skip
def test_the_user_is_the_one_of_the_roots_own_files(minibox, user, wanted):
    out = minibox.inside("echo $(id -u) $(id -g)", "--user", user)
    assert out.strip() == wanted


def test_a_user_of_the_host_means_nothing(minibox, rootfs, own_root):
    name = Path("/etc/passwd").read_text().splitlines()[-1].split(":")[0]
    done = minibox("run", "--user", f"{name}-not", rootfs, "id")
    assert done.returncode == 125
    assert b"process.user" in done.stderr
    (own_root / "etc" / "passwd").write_text(f"{name}:x:77:78::/home/here:/bin/sh\n")
    assert minibox.inside("id -u; id -g; echo $HOME", "--user", name, rootfs=own_root).split() == [
        "77",
        "78",
        "/home/here",
    ]


def test_the_hosts_uid_of_a_user_is_the_mapped_one(minibox):
    root = host_uid(detached(minibox, "one"))
    pid = detached(minibox, "two", "--user", "1000")
    first = int(Path(f"/proc/{pid}/uid_map").read_text().split()[1])
    assert host_uid(pid) == first + 1000
    assert first != root


def test_a_user_has_the_groups_of_the_group_file(minibox, own_root):
    with open(own_root / "etc" / "group", "a", encoding="ascii") as file:
        file.write("video:x:44:user,other\naudio:x:29:other\nwheel:x:10:user\n")
    assert minibox.inside("id -G", "--user", "user", rootfs=own_root).split() == ["1000", "10", "44"]
    assert minibox.inside("id -G", "--user", "user:tty", rootfs=own_root).split() == ["5"]


def test_the_primary_group_is_among_the_supplementary_ones(minibox):
    """Else a set-gid program would shed what the group is denied (CVE-2022-36109)."""
    found = parse_status(minibox.inside("cat /proc/self/status", "--user", "1000:5", "--group-add", "77"))
    assert found["Groups"].split() == ["5", "77"]
    assert parse_status(minibox.inside("cat /proc/self/status"))["Groups"].split() == ["0"]


def test_groups_can_be_added_by_name_and_number(minibox):
    out = minibox.inside("id -G", "--user", "1000", "--group-add", "tty", "--group-add", "77")
    assert out.split() == ["1000", "5", "77"]


def test_the_callers_groups_are_not_inherited(minibox, rootfs):
    process = minibox.start("run", rootfs, "id", "-G", extra_groups=[27, 44])
    assert process.communicate()[0].split() == [b"0"]


def test_home_is_the_users(minibox):
    assert minibox.inside("echo $HOME", "--user", "user") == "/home/user\n"
    assert minibox.inside("echo $HOME", "--user", "4242") == "/\n"
    assert minibox.inside("echo $HOME", "-e", "HOME=/else", "--user", "user") == "/else\n"


def test_the_users_streams_can_be_opened_by_name(minibox):
    assert minibox.inside("echo through >/dev/stdout", "--user", "1000") == "through\n"


# --- where and with what ---------------------------------------------------------------------------


def test_the_working_directory_is_made_when_missing(minibox, rootfs):
    assert minibox.inside("pwd; touch here", "-w", "/new/deep").strip() == "/new/deep"
    assert minibox.inside("pwd") == "/\n"
    assert not (rootfs / "new").exists()


def test_the_working_directory_may_be_a_volume(minibox, tmp_path):
    (tmp_path / "file").touch()
    assert minibox.inside("ls", "-w", "/data", "-v", f"{tmp_path}:/data:ro,idmap") == "file\n"


def test_a_working_directory_that_is_closed_to_the_container_is_named(minibox, rootfs, tmp_path):
    done = minibox("run", "-w", "/data", "-v", f"{tmp_path}:/data", rootfs, "pwd")
    assert done.returncode == 125
    assert b'fchdir("/data") = EACCES' in done.stderr
    assert b"idmap" in done.stderr


@pytest.mark.parametrize("place", ["relative", ""])
def test_a_relative_working_directory_is_refused(minibox, rootfs, place):
    done = minibox("run", "-w", place, rootfs, "pwd")
    assert done.returncode == 125
    assert b"--workdir" in done.stderr


def test_the_environment_is_path_home_and_what_was_asked(minibox, rootfs):
    done = minibox("run", "-e", "A=b c", "--env", "EMPTY=", "-e", "EQ=x=y", rootfs, "env", LEAK="secret")
    assert sorted(done.stdout.decode().splitlines()) == [
        "A=b c", "EMPTY=", "EQ=x=y", "HOME=/root",
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    ]  # fmt: skip


def test_a_variable_of_the_caller_is_passed_on_by_its_name(minibox, rootfs):
    done = minibox("run", "-e", "WANTED", "-e", "UNSET_ANYWHERE", rootfs, "env", WANTED="yes")
    assert b"WANTED=yes\n" in done.stdout
    assert b"UNSET_ANYWHERE" not in done.stdout


def test_the_last_of_a_variable_wins(minibox):
    assert minibox.inside("echo $A", "-e", "A=1", "-e", "A=2") == "2\n"


def test_the_commands_are_looked_up_in_the_given_path(minibox, rootfs):
    done = minibox("run", "-e", "PATH=/nowhere", rootfs, "sh")
    assert done.returncode == 127
    assert minibox("run", "-e", "PATH=/nowhere", rootfs, "/bin/sh", "-c", "exit 4").returncode == 4


def test_an_env_file_has_comments_blanks_and_names_to_pass_on(minibox, rootfs, tmp_path):
    file = tmp_path / "env"
    file.write_text("# comment\n\nA=1\n  B=two words\nWANTED\nC=#no comment\nA2='quoted'\n")
    done = minibox("run", "--env-file", file, "-e", "A=over", rootfs, "env", WANTED="yes")
    lines = done.stdout.decode().splitlines()
    assert {"A=over", "B=two words", "WANTED=yes", "C=#no comment", "A2='quoted'"} <= set(lines)
    assert len(lines) == 7


def test_names_of_host_and_domain_are_set_inside_only(minibox):
    before = os.uname().nodename, Path("/proc/sys/kernel/domainname").read_text()
    out = minibox.inside(
        "hostname; cat /proc/sys/kernel/domainname", "--hostname", "web.example", "--domainname", "nis"
    )
    assert out.split() == ["web.example", "nis"]
    assert (os.uname().nodename, Path("/proc/sys/kernel/domainname").read_text()) == before


def test_an_annotation_is_kept_in_the_state(minibox):
    detached(minibox, "one", "--annotation", "owner=me", "--annotation", "note=a=b")
    assert minibox.state("one")["spec"]["annotations"] == [["owner", "me"], ["note", "a=b"]]


# --- limits of the process ---------------------------------------------------------------------------


def test_ulimits_are_set_soft_and_hard(minibox):
    pid = detached(
        minibox, "one", "--ulimit", "nofile=100:200", "--ulimit", "fsize=4096", "--ulimit", "cpu=unlimited"
    )
    limits = Path(f"/proc/{pid}/limits").read_text().splitlines()
    values = {line[:25].strip(): line[25:].split()[:2] for line in limits}
    assert values["Max open files"] == ["100", "200"]
    assert values["Max file size"] == ["4096", "4096"]
    assert values["Max cpu time"] == ["unlimited", "unlimited"]
    assert values["Max core file size"] == ["0", "0"]


def test_a_ulimit_is_in_force(minibox):
    out = minibox.inside("ulimit -n; (exec 50<&0) 2>&1 || echo refused", "--ulimit", "nofile=20")
    assert out.split()[0] == "20"
    assert out.split()[-1] == "refused"


def test_the_umask_is_the_one_asked_for(minibox):
    assert minibox.inside("umask; touch /f; stat -c %a /f", "--umask", "077").split() == ["0077", "600"]


def test_the_oom_score_is_set(minibox):
    pid = detached(minibox, "one", "--oom-score-adj", "500")
    assert Path(f"/proc/{pid}/oom_score_adj").read_text() == "500\n"
    assert minibox("exec", "one", "cat", "/proc/1/oom_score_adj").stdout == b"500\n"


# --- init ------------------------------------------------------------------------------------------


#: ends once of five orphans nothing is left, not even a zombie
ORPHANS = (
    "for i in 1 2 3 4 5; do (setsid sh -c 'sleep 0.01; exit 1' &); done;"
    "until [ $(ls -d /proc/[0-9]* | wc -w) -le 5 ]; do :; done; echo reaped"
)


def test_init_is_pid_one_and_reaps_orphans(minibox):
    name = "tr '\\0' '\\n' </proc/1/cmdline | head -n 1; echo $$; "
    assert minibox.inside(name + ORPHANS, "--init", timeout=20).split() == ["minibox-init", "2", "reaped"]


def test_without_init_the_command_is_pid_one(minibox):
    assert minibox.inside("echo $$; cat /proc/1/comm; :") == "1\nsh\n"


@pytest.mark.parametrize(("number", "name"), [(15, "TERM"), (10, "USR1"), (1, "HUP")])
def test_init_passes_signals_on(minibox, number, name):
    script = f"trap 'echo got {name}; exit 9' {name}; echo ready; while :; do sleep 1 & wait $!; done"
    detached(minibox, "one", "--init", command=("sh", "-c", script))
    assert wait_until(lambda: b"ready" in minibox("logs", "one").stdout)
    assert minibox("kill", "-s", name, "one").returncode == 0
    assert minibox("wait", "one").stdout == b"9\n"
    assert minibox("logs", "one").stdout == f"ready\ngot {name}\n".encode()


@pytest.mark.parametrize(("script", "code"), [("exit 5", 5), ("kill -TERM $$", 143), ("kill -KILL $$", 137)])
def test_init_ends_as_its_command_ended(minibox, rootfs, script, code):
    assert minibox("run", "--init", rootfs, "sh", "-c", script).returncode == code


def test_init_says_what_cannot_be_run(minibox, rootfs):
    for command, code in (("/nowhere", 127), ("nowhere", 127), ("/etc/passwd", 126), ("/etc", 126)):
        done = minibox("run", "--init", rootfs, command)
        assert done.returncode == code, done.stderr
        assert command.encode() in done.stderr


def test_init_is_a_sealed_memory_file(minibox):
    detached(minibox, "one", "--init")
    pid = minibox.state("one")["pid"]
    assert os.readlink(f"/proc/{pid}/exe").startswith("/memfd:minibox-init")
    with pytest.raises(OSError):
        os.open(f"/proc/{pid}/exe", os.O_WRONLY)


# --- descriptors and files -----------------------------------------------------------------------------


def test_preserved_descriptors_are_handed_on_and_no_others(minibox, rootfs, tmp_path):
    (tmp_path / "given").write_text("given\n")
    command = f'exec 3<{tmp_path}/given 4<{tmp_path}/given 5<{tmp_path}/given; exec "$@"'
    words = [
        "sh",
        "-c",
        command,
        "sh",
        *minibox.command,
        "run",
        "--preserve-fds",
        "2",
        str(rootfs),
        "sh",
        "-c",
        "cat <&3; ls /proc/self/fd; :",
    ]
    out = subprocess.run(words, env=minibox.environment, capture_output=True, check=True).stdout
    assert out.split() == [b"given", b"0", b"1", b"2", b"3", b"4", b"5"]  # 5 is ls's own


def test_a_preserved_descriptor_has_to_be_open(minibox, rootfs):
    done = minibox("run", "--preserve-fds", "1", rootfs, "true")
    assert done.returncode == 125
    assert b"descriptor 3 is not open" in done.stderr


def test_the_pidfile_has_the_hosts_pid_while_it_runs(minibox, rootfs, tmp_path):
    file = tmp_path / "pid"
    process = minibox.start("run", "--pidfile", file, rootfs, "cat", stdin=subprocess.PIPE)
    assert wait_until(file.exists)
    assert status(file.read_text().strip())["Name"] == "cat"
    assert status(file.read_text().strip())["PPid"] == str(process.pid)
    process.communicate()
    assert process.returncode == 0


def test_the_pidfile_of_a_detached_container_is_there_at_once(minibox, tmp_path):
    pid = detached(minibox, "one", "--pidfile", str(tmp_path / "pid"))
    assert int((tmp_path / "pid").read_text()) == pid


# --- privileges ------------------------------------------------------------------------------------


WHO = """
#include <stdio.h>
#include <unistd.h>
int main(void) { printf("%d %d\\n", getuid(), geteuid()); return 0; }
"""


@pytest.fixture
def suid_root(own_root):
    compile_c(WHO, own_root / "bin" / "who")
    (own_root / "bin" / "who").chmod(0o4755)
    return own_root


def test_a_set_uid_program_gains_nothing(minibox, suid_root):
    out = minibox.inside(
        "stat -c %a /bin/who; who=$(/bin/who); echo $who; cat /proc/self/status",
        "--user",
        "1000",
        rootfs=suid_root,
    )
    mode, ids, *rest = out.splitlines()
    assert (mode, ids) == ("4755", "1000 1000")
    assert parse_status("\n".join(rest))["NoNewPrivs"] == "1"


def test_with_new_privileges_allowed_it_is_the_containers_root_and_no_more(minibox, suid_root):
    out = minibox.inside(
        "/bin/who; grep -E 'NoNewPrivs|Seccomp:' /proc/self/status",
        "--user",
        "1000",
        "--allow-new-privs",
        rootfs=suid_root,
    )
    assert out.split() == ["1000", "0", "NoNewPrivs:", "0", "Seccomp:", "2"]


def test_allowing_new_privileges_is_said_in_the_plan(minibox, rootfs):
    out = minibox("plan", "--allow-new-privs", rootfs).stdout.decode()
    assert "note: set-uid programs and file capabilities take effect (--allow-new-privs)" in out
    assert "process.no-new-privs" not in out
    assert minibox("plan", "--no-new-privs", rootfs).stdout == minibox("plan", rootfs).stdout


def test_a_set_uid_program_of_a_volume_gains_nothing_even_then(minibox, suid_root, rootfs):
    out = minibox.inside("/v/who", "--user", "1000", "--allow-new-privs", "-v", f"{suid_root}/bin:/v:idmap")
    assert out == "1000 1000\n"


def test_privileged_takes_filter_and_masks_off_and_stays_in_its_namespaces(minibox):
    pid = detached(minibox, "one", "--privileged")
    found = status(pid)
    assert found["Seccomp"] == "0"
    assert found["NoNewPrivs"] == "1"
    assert host_uid(pid) > 65536
    inside = mounts(Path(f"/proc/{pid}/mountinfo").read_text())
    assert not [place for place in inside if place.startswith("/proc/")]
    assert "ro" not in inside["/sys"].options


def test_privileged_may_mount_what_default_may_not(minibox):
    script = "mkdir /m; mount -t tmpfs tmpfs /m 2>&1 && echo mounted || echo refused"
    assert minibox.inside(script).splitlines()[-1] == "refused"
    assert minibox.inside(script, "--privileged") == "mounted\n"


def test_privileged_cannot_read_what_the_hosts_root_owns(minibox, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("secret\n")
    secret.chmod(0o600)
    out = minibox.inside("cat /secret 2>&1 || echo refused", "--privileged", "-v", f"{secret}:/secret")
    assert out.splitlines()[-1] == "refused"


def test_a_timeout_ends_it_and_is_said(minibox, rootfs):
    done = minibox("run", "--timeout", "0.2", "--name", "slow", rootfs, "sleep", "60")
    assert done.returncode == 137
    assert b"killed after --timeout 0.2" in done.stderr
