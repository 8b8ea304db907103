"""The container in its group: from its first instruction on, and without sight of any other."""

from __future__ import annotations

from pathlib import Path

import pytest

pytestmark = pytest.mark.cgroup2


def test_it_is_cloned_into_its_group(minibox, rootfs, up):
    plan = minibox("plan", "-m", "64m", rootfs).stdout.decode()
    assert "CLONE_INTO_CGROUP" in plan
    group = up("one", script="sleep 300 & sleep 300")
    assert minibox.state("one")["pid"] in group.pids()


def test_it_sees_itself_at_the_top(inside):
    assert inside("cat /proc/self/cgroup; readlink /proc/self/ns/cgroup").splitlines()[0] == "0::/"


def test_it_sees_its_own_group_and_nobody_elses(inside, up):
    up("other")
    script = (
        "cd /sys/fs/cgroup; ls -d */ 2>/dev/null; cat cgroup.procs >/tmp/f; wc -l </tmp/f; cat memory.max"
    )
    assert inside(script, "-m", "64m").split() == ["2", str(64 << 20)]  # sh and cat


def test_its_groups_cannot_be_changed(inside):
    script = """cd /sys/fs/cgroup; grep ' /sys/fs/cgroup ' /proc/mounts; mkdir x 2>&1
        (echo max >memory.max) 2>&1; (echo 1 >cgroup.kill) 2>&1; true"""
    mount, *errors = inside(script, "-m", "64m").splitlines()
    assert mount.startswith("cgroup /sys/fs/cgroup cgroup2 ro,nosuid,nodev,noexec")
    assert [line.rpartition(": ")[2] for line in errors] == ["Read-only file system"] * 3


def test_its_root_may_not_mount_them_anew(inside):
    assert "permission denied" in inside("mount -t cgroup2 none /tmp 2>&1 || true")


def test_whoever_may_mount_them_anew_may_still_not_change_them(inside):
    script = """mount -t cgroup2 none /tmp; (echo max >/tmp/memory.max) 2>&1; mkdir /tmp/x 2>&1
        cat /tmp/memory.max"""
    out = inside(script, "--cap-add", "SYS_ADMIN", "-m", "64m").splitlines()
    assert [line.rpartition(": ")[2] for line in out[:2]] == ["Permission denied"] * 2
    assert out[2] == str(64 << 20)


def test_the_hosts_namespace_shows_no_groups(inside):
    out = inside("cat /proc/self/cgroup; ls -A /sys/fs/cgroup | wc -l", "--name", "one", "--cgroupns", "host")
    assert out.split() == ["0::/minibox-one", "0"]


def test_exec_joins_the_group_and_its_namespace(minibox, up):
    group = up("one", "-m", "64m")
    before = group.pids()
    done = minibox("exec", "-d", "one", "sleep", "250")
    assert done.returncode == 0, done.stderr
    assert len(group.pids()) == len(before) + 1
    script = "cat /proc/self/cgroup; for pid in self 1; do readlink /proc/$pid/ns/cgroup; done"
    top, own, first = minibox("exec", "one", "sh", "-c", script).stdout.decode().split()
    assert (top, own) == ("0::/", first)


def test_exec_is_held_by_the_containers_limit(minibox, up):
    up("one", "-m", "16m")
    done = minibox("exec", "one", "tail", "/dev/zero")
    assert done.returncode == 137


def test_two_containers_have_a_group_each(up):
    one, two = up("one"), up("two")
    assert one.path != two.path
    assert not set(one.pids()) & set(two.pids())


def test_the_supervisor_stays_where_it_was(minibox, up):
    up("one")
    supervisor = Path(f"/proc/{minibox.state('one')['supervisor']}/cgroup")
    assert supervisor.read_text() == Path("/proc/self/cgroup").read_text()
