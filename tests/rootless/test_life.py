"""A container of an ordinary user from its start to its end, and that nothing of it is left."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from conftest import wait_until

from minibox.kernel import host
from rootless.helpers import UID, namespace

pytestmark = pytest.mark.rootless


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


# --- exec and the other verbs -----------------------------------------------------------------------


def test_exec_is_in_the_containers_namespaces_with_its_rights(minibox, up):
    pid = up("one")
    script = "for ns in user pid net mnt uts ipc cgroup; do readlink /proc/self/ns/$ns; done; id -u"
    out = minibox("exec", "one", "sh", "-c", script).stdout.decode().split()
    assert out == [
        *(namespace(pid, kind) for kind in ("user", "pid", "net", "mnt", "uts", "ipc", "cgroup")),
        "0",
    ]
    script = "for pid in self 1; do grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/$pid/status; done"
    rights = minibox("exec", "one", "sh", "-c", script).stdout.decode().splitlines()
    assert len(rights) == 14
    assert rights[:7] == rights[7:]


def test_exec_as_another_user_needs_a_range(minibox, up, subuids):
    up("one")
    done = minibox("exec", "--user", "user", "one", "id", "-u")
    if subuids:
        assert done.stdout == b"1000\n", done.stderr
    else:
        assert done.returncode == 125
        assert b"not mapped" in done.stderr


def test_exec_in_a_keep_id_container_is_the_user(minibox, up):
    up("one", "--userns", "keep-id")
    assert minibox("exec", "one", "id", "-u").stdout.decode().strip() == str(UID)


def test_a_detached_container_is_listed_stopped_and_removed(minibox, up, rootfs):
    pid = up("one")
    assert os.stat(f"/proc/{pid}").st_uid == UID
    assert b"running" in minibox("ps").stdout
    assert minibox("stop", "one").returncode == 0
    assert not alive(pid)
    assert b"exited (3)" in minibox("ps").stdout
    assert minibox("wait", "one").stdout == b"3\n"
    assert minibox("rm", "one").returncode == 0
    assert minibox("ps", "-q").stdout == b""


def test_what_a_detached_container_prints_is_kept(minibox, rootfs):
    minibox("run", "-d", "--name", "one", rootfs, "echo", "hello")
    assert minibox("wait", "one").stdout == b"0\n"
    assert minibox("logs", "one").stdout == b"hello\n"


@pytest.mark.parametrize(
    ("flag", "kind"), [("--pid", "pid"), ("--net", "net"), ("--ipc", "ipc"), ("--uts", "uts")]
)
def test_sharing_with_a_container_shares_its_user_namespace(up, inside, flag, kind):
    pid = up("one")
    out = inside(f"readlink /proc/self/ns/{kind}; readlink /proc/self/ns/user; id -u", flag, "container:one")
    assert out.split() == [namespace(pid, kind), namespace(pid, "user"), "0"]


def test_two_who_share_a_pid_namespace_see_each_other(up, inside):
    up("one")
    assert "sleep 100" in inside("ps", "--pid", "container:one", "--net", "container:one")


def test_a_terminal_is_the_containers_own(minibox, rootfs):
    done = minibox("run", "-t", rootfs, "sh", "-c", "tty; stty size; test -t 0 && echo terminal")
    assert done.returncode == 0, done.stderr
    assert b"/dev/" in done.stdout
    assert b"terminal" in done.stdout


def test_an_init_reaps(inside):
    assert "minibox-init" in inside("cat /proc/1/cmdline", "--init")


# --- limits -----------------------------------------------------------------------------------------


def may_limit() -> bool:
    """Whether somebody has delegated a cgroup to the user who runs the tests (scripts/test's have none)."""
    facts = host.probe()
    return bool(facts.cgroup_base if facts.cgroups.mode == "v2" else facts.cgroup_writable)


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--memory", "64m"),
        ("--pids-limit", "20"),
        ("--cpus", "0.5"),
        ("--cpu-shares", "512"),
        ("--cpuset-cpus", "0"),
    ],
)
def test_a_limit_without_permission_is_an_error_that_says_what_to_do(minibox, rootfs, refused, flag, value):
    if may_limit():
        assert minibox("run", flag, value, rootfs, "true").returncode == 0
        return
    error = refused(flag, value)
    assert "no permission to make a group in /sys/fs/cgroup" in error or "not available on this host" in error
    assert flag.removesuffix("-shares") in error.replace("--cpus:", "--cpu:") or flag in error
    if "not available" not in error:
        assert "run as root, or have the controller" in error


def test_the_default_limit_without_permission_is_a_note(minibox, rootfs):
    plan = minibox("plan", rootfs).stdout.decode()
    assert ("the default limit of processes is not in force" in plan) != may_limit()
    assert minibox("run", rootfs, "true").returncode == 0


def test_a_resource_limit_needs_no_permission(inside):
    assert inside("ulimit -n", "--ulimit", "nofile=123:123").strip() == "123"


# --- the end ----------------------------------------------------------------------------------------


def test_the_exit_code_is_the_payloads(minibox, rootfs):
    assert minibox("run", rootfs, "sh", "-c", "exit 7").returncode == 7
    assert minibox("run", rootfs, "sh", "-c", "kill -9 $$; sleep 1").returncode in (0, 137)  # PID 1 is immune
    assert minibox("run", rootfs, "nowhere").returncode == 127
    assert minibox("run", rootfs, "/etc/passwd").returncode == 126


def test_a_timeout_ends_it(minibox, rootfs):
    done = minibox("run", "--timeout", "0.3", rootfs, "sleep", "100")
    assert done.returncode == 137
    assert b"--timeout" in done.stderr


def test_killing_minibox_ends_the_container_and_the_next_command_cleans_up(minibox, rootfs, subuids):
    script = "mkdir -m 700 /srv/d; touch /srv/d/f; chown -R 33:33 /srv/d; sleep 100 & echo up; wait"
    running = minibox.start("run", "--name", "one", rootfs, "sh", "-c", script)
    assert running.stdout
    assert running.stdout.readline() == b"up\n"
    state = minibox.state("one")
    running.send_signal(signal.SIGKILL)
    running.communicate()
    assert wait_until(lambda: not alive(int(str(state["pid"]))))
    assert (minibox.data_dir / "one" / "upper" / "srv" / "d").exists()
    assert b"one had lost its supervisor: removed" in minibox("run", rootfs, "true").stderr
    assert minibox("ps", "-q").stdout == b""
    assert list(minibox.data_dir.iterdir()) == []


def test_killing_a_monitor_ends_the_container_and_keeps_its_state(minibox, up, rootfs):
    pid = up("one")
    os.kill(int(str(minibox.state("one")["supervisor"])), signal.SIGKILL)
    assert wait_until(lambda: not alive(pid))
    assert b"one had lost its supervisor: ended" in minibox("run", rootfs, "true").stderr
    assert b"exited (255)" in minibox("ps").stdout
    assert minibox("rm", "one").returncode == 0
    assert list(minibox.data_dir.iterdir()) == []


def test_a_failed_start_leaves_nothing(minibox, rootfs, tmp_path):
    assert minibox("run", "-w", "/etc/passwd", rootfs, "true").returncode == 125
    assert list(minibox.data_dir.iterdir()) == []
    assert minibox("ps", "-q").stdout == b""


# --- the library ------------------------------------------------------------------------------------


def test_the_library_runs_a_command(library, rootfs):
    result = library.run(rootfs, ["sh", "-c", "cat; id -u >&2; exit 4"], stdin=b"in", timeout=30)
    assert (result.exit_code, result.stdout, result.stderr) == (4, b"in", b"0\n")
    assert result.usage.peak_memory > 0


def test_a_sandbox_keeps_files_between_commands(library, rootfs, subuids):
    with library.Sandbox(rootfs) as sandbox:
        assert sandbox.exec(["sh", "-c", "echo kept >/srv/f; chown 5 /srv/f"]).exit_code == (
            0 if subuids else 1
        )
        assert sandbox.exec(["cat", "/srv/f"]).stdout == b"kept\n"
        assert os.stat(f"/proc/{sandbox.pid}").st_uid == UID


def test_the_library_raises_what_the_command_line_prints(library, rootfs):
    with pytest.raises(library.SpecError, match="host is for root"):
        library.run(rootfs, ["true"], userns="host")
