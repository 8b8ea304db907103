"""One more command in a running container: it is in the same place, under the same rules."""

from __future__ import annotations

import os
import pty
from pathlib import Path

import pytest
from conftest import wait_until
from observe import detached, group, host_uid, namespace, parse_status, status

KINDS = ("user", "pid", "net", "mnt", "uts", "ipc", "cgroup", "time")


def pid_of(minibox, name: str, word: str) -> int:
    """The host's number of the process in a container's pid namespace whose last argument is `word`."""
    inside = minibox.state(name)["namespaces"]["pid"]
    for entry in os.listdir("/proc"):
        try:
            words = Path(f"/proc/{entry}/cmdline").read_bytes().split(b"\0")
            if words[-2:-1] == [word.encode()] and namespace(entry, "pid") == inside:
                return int(entry)
        except OSError:
            continue
    return 0


@pytest.fixture
def inner(minibox):
    """(PID 1, an exec'ed process) of a container, as the host numbers them."""

    def start(*flags: object, exec_flags: tuple[str, ...] = ()) -> tuple[int, int]:
        first = detached(minibox, "one", *flags)
        process = minibox.start("exec", *exec_flags, "one", "sleep", "61.5")
        assert wait_until(lambda: pid_of(minibox, "one", "61.5") > 0), process.communicate()
        started.append(process)
        return first, pid_of(minibox, "one", "61.5")

    started: list[object] = []
    yield start
    minibox("rm", "-f", "one")
    for process in started:
        process.communicate()


def test_it_prints_what_the_command_prints_and_ends_as_it_ends(minibox):
    detached(minibox, "one")
    done = minibox("exec", "one", "sh", "-c", "cat; echo problem >&2; exit 5", stdin=b"text")
    assert (done.stdout, done.stderr, done.returncode) == (b"text", b"problem\n", 5)


@pytest.mark.parametrize(("command", "code"), [
    (("true",), 0), (("false",), 1),
    (("sh", "-c", "kill -USR1 $$"), 138), (("sh", "-c", "kill -KILL $$"), 137),
    (("nowhere",), 127), (("/nowhere",), 127), (("/etc/passwd",), 126), (("/etc",), 126),
])  # fmt: skip
def test_exit_codes(minibox, command, code):
    detached(minibox, "one")
    assert minibox("exec", "one", *command).returncode == code


def test_it_is_in_every_namespace_of_the_container(inner):
    first, second = inner()
    for kind in KINDS:
        assert namespace(second, kind) == namespace(first, kind), kind
    assert namespace(second, "pid") != namespace("self", "pid")


def test_it_is_in_the_shared_namespaces_of_the_container_too(inner):
    first, second = inner("--net", "host", "--ipc", "host")
    assert namespace(second, "net") == namespace("self", "net")
    for kind in KINDS:
        assert namespace(second, kind) == namespace(first, kind), kind


def test_it_is_in_every_cgroup_of_the_container(inner):
    first, second = inner()
    assert Path(f"/proc/{second}/cgroup").read_text() == Path(f"/proc/{first}/cgroup").read_text()


@pytest.mark.root
def test_it_is_counted_in_the_containers_group(minibox, inner):
    first, second = inner()
    members = (group(minibox, "one", "pids") / "cgroup.procs").read_text().split()
    assert {str(first), str(second)} <= set(members)


@pytest.mark.parametrize(
    "flags",
    [
        (),
        ("--cap-add", "NET_ADMIN", "--cap-drop", "KILL"),
        ("--allow-new-privs",),
        ("--user", "1000"),
        ("--seccomp", "unconfined"),
    ],
)
@pytest.mark.root
def test_capabilities_filter_and_privileges_are_the_containers(inner, flags):
    first, second = map(status, inner(*flags))
    for key in (
        "CapInh",
        "CapPrm",
        "CapEff",
        "CapBnd",
        "CapAmb",
        "NoNewPrivs",
        "Seccomp",
        "Seccomp_filters",
        "Uid",
        "Gid",
        "Groups",
        "Umask",
    ):
        assert second[key] == first[key], key


@pytest.mark.root
def test_ambient_capabilities_are_the_containers(inner):
    first, second = map(status, inner("--user", "1000", "--cap-ambient", "KILL"))
    assert int(second["CapAmb"], 16) == int(first["CapAmb"], 16) == 1 << 5


def test_limits_of_the_process_are_the_containers(inner):
    first, second = inner("--ulimit", "nofile=99", "--ulimit", "fsize=4096")
    assert Path(f"/proc/{second}/limits").read_text() == Path(f"/proc/{first}/limits").read_text()


def test_it_sees_the_containers_processes_and_is_not_pid_one(minibox):
    detached(minibox, "one", command=("sleep", "62"))
    out = minibox("exec", "one", "sh", "-c", "echo $$; ps -o args=").stdout.decode()
    assert out.splitlines()[0] != "1"
    assert "sleep 62" in out.splitlines()


def test_three_descriptors_are_open(minibox):
    detached(minibox, "one")
    out = minibox("exec", "one", "sh", "-c", "ls /proc/$$/fd; :").stdout
    assert out.split() == [b"0", b"1", b"2"]


def test_its_session_is_its_own(inner):
    _first, second = inner()
    assert os.getsid(second) == second


@pytest.mark.root
def test_the_user_may_be_another(minibox):
    first = host_uid(detached(minibox, "one"))
    done = minibox("exec", "--user", "user:tty", "one", "sh", "-c", "id -u; id -g; echo $HOME")
    assert done.stdout.split() == [b"1000", b"5", b"/home/user"]
    process = minibox.start("exec", "--user", "1000", "one", "sleep", "61.5")
    assert wait_until(lambda: pid_of(minibox, "one", "61.5") > 0)
    assert host_uid(pid_of(minibox, "one", "61.5")) == first + 1000
    minibox("rm", "-f", "one")
    process.communicate()


@pytest.mark.root
def test_the_user_is_the_containers_when_nobody_says(minibox):
    detached(minibox, "one", "--user", "1000:5", "--group-add", "77")
    assert minibox("exec", "one", "id").stdout == b"uid=1000(user) gid=5(tty) groups=5(tty),77\n"


@pytest.mark.root
def test_an_unknown_user_is_an_error(minibox):
    detached(minibox, "one")
    done = minibox("exec", "--user", "nobody-here", "one", "id")
    assert done.returncode == 125
    assert b"process.user" in done.stderr


@pytest.mark.root
def test_another_user_than_root_has_no_capabilities(minibox):
    detached(minibox, "one")
    found = parse_status(minibox("exec", "--user", "1000", "one", "cat", "/proc/self/status").stdout.decode())
    assert int(found["CapEff"], 16) == int(found["CapPrm"], 16) == int(found["CapInh"], 16) == 0


def test_path_home_and_variables(minibox):
    detached(minibox, "one", "-e", "A=container", "-e", "B=container")
    done = minibox("exec", "-e", "B=exec", "-e", "FROM", "one", "env", FROM="caller", LEAK="secret")
    assert sorted(done.stdout.decode().splitlines()) == [
        "A=container", "B=exec", "FROM=caller", "HOME=/root",
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    ]  # fmt: skip


def test_the_path_is_the_containers(minibox):
    detached(minibox, "one", "-e", "PATH=/bin:/own")
    assert minibox("exec", "one", "sh", "-c", "echo $PATH").stdout == b"/bin:/own\n"
    assert minibox("exec", "-e", "PATH=/bin", "one", "sh", "-c", "echo $PATH").stdout == b"/bin\n"


def test_an_env_file_of_an_exec_goes_before_the_containers_variables(minibox, tmp_path):
    (tmp_path / "env").write_text("A=file\nPATH=/bin:/file\n")
    detached(minibox, "one", "-e", "A=container", "-e", "PATH=/bin:/own")
    done = minibox("exec", "--env-file", tmp_path / "env", "one", "sh", "-c", "echo $A $PATH")
    assert done.stdout == b"file /bin:/file\n"


def test_the_working_directory(minibox):
    detached(minibox, "one", "-w", "/srv")
    assert minibox("exec", "one", "pwd").stdout == b"/srv\n"
    assert minibox("exec", "-w", "/etc", "one", "pwd").stdout == b"/etc\n"


def test_files_written_by_one_are_there_for_the_next(minibox, rootfs):
    detached(minibox, "one")
    minibox("exec", "one", "sh", "-c", "echo text >/tmp/file")
    assert minibox("exec", "one", "cat", "/tmp/file").stdout == b"text\n"
    assert not (rootfs / "tmp" / "file").exists()


def test_a_terminal_of_its_own(minibox):
    detached(minibox, "one")
    done = minibox(
        "exec",
        "-t",
        "one",
        "sh",
        "-c",
        "tty; test -t 0 && test -t 1 && test -t 2 && echo all; ls /dev/pts",
        stdin=b"",
    )
    lines = done.stdout.decode().split()
    assert lines[0].startswith("/dev/pts/")
    assert lines[1] == "all"
    assert os.path.basename(lines[0]) in lines[2:]


def test_a_terminal_is_the_default_where_the_caller_has_one(minibox):
    detached(minibox, "one")
    master, slave = pty.openpty()
    process = minibox.start("exec", "one", "sh", "-c", "tty", stdin=slave, stdout=slave, stderr=slave)
    os.close(slave)
    process.wait()
    assert b"/dev/pts/" in os.read(master, 1000)
    os.close(master)


def test_in_the_background(minibox):
    detached(minibox, "one")
    assert minibox("exec", "-d", "one", "sh", "-c", "echo done >/tmp/file; sleep 61.5").returncode == 0
    assert wait_until(lambda: minibox("exec", "one", "cat", "/tmp/file").stdout == b"done\n")


def test_the_pidfile_has_the_hosts_pid(minibox, tmp_path):
    detached(minibox, "one")
    minibox("exec", "-d", "--pidfile", tmp_path / "pid", "one", "sleep", "61.5")
    assert int((tmp_path / "pid").read_text()) == pid_of(minibox, "one", "61.5")


def test_a_timeout_ends_the_command_and_not_the_container(minibox):
    detached(minibox, "one")
    assert minibox("exec", "--timeout", "0.2", "one", "sleep", "60").returncode == 137
    assert minibox("exec", "one", "true").returncode == 0


def test_the_end_of_the_container_is_the_commands_end(minibox):
    detached(minibox, "one")
    process = minibox.start("exec", "one", "sh", "-c", "echo ready; sleep 60")
    assert process.stdout.readline() == b"ready\n"
    minibox("kill", "one")
    process.communicate(timeout=10)
    assert process.returncode == 137


def test_a_stopped_container_takes_no_command(minibox, rootfs):
    minibox("run", "--keep", "--name", "one", rootfs, "true")
    done = minibox("exec", "one", "true")
    assert done.returncode == 125
    assert b"container one is not running" in done.stderr


def test_a_container_that_is_not_there_takes_no_command(minibox):
    done = minibox("exec", "nobody", "true")
    assert done.returncode == 125
    assert b'no container "nobody"' in done.stderr


@pytest.mark.parametrize("words", [(), ("one",), ("--nonsense", "one", "true")])
def test_a_malformed_call_is_an_error(minibox, words):
    detached(minibox, "one")
    assert minibox("exec", *words).returncode == 125


@pytest.mark.root
def test_a_working_directory_that_leads_out_is_refused(minibox):
    detached(minibox, "one")
    for number in range(12):
        done = minibox("exec", "-w", f"/proc/self/fd/{number}", "one", "pwd")
        assert done.returncode == 125, done.stdout


def test_many_at_once(minibox):
    detached(minibox, "one")
    processes = [minibox.start("exec", "one", "sh", "-c", f"echo {n}; exit {n}") for n in range(10)]
    assert [process.communicate()[0] for process in processes] == [f"{n}\n".encode() for n in range(10)]
    assert [process.returncode for process in processes] == list(range(10))
