"""Limits as files of the container's group, and what they do."""

from __future__ import annotations

import os

import pytest
from conftest import wait_until

from cgroup2.helpers import TOP, Group
from minibox.kernel import host

pytestmark = pytest.mark.cgroup2


def test_memory_and_processes_are_limited_before_the_first_instruction(inside):
    files = ("memory.max", "memory.swap.max", "pids.max")
    out = inside(f"cd /sys/fs/cgroup; cat {' '.join(files)}", "-m", "64m", "--pids-limit", "50").split()
    assert out == [str(64 << 20), "0", "50"]


def test_the_host_sees_the_values_in_the_groups_files(up):
    group = up("one", "-m", "32m", "--memory-swap", "48m", "--cpus", "0.5", "--cpu-shares", "512")
    assert group.read("memory.max") == str(32 << 20)
    assert group.read("memory.swap.max") == str(16 << 20)
    assert group.read("cpu.max") == "50000 100000"
    assert group.read("cpu.weight") == "59"
    assert group.read("pids.max") == "4096"  # the default


def test_no_limit_of_swap_and_processes(up):
    group = up("one", "-m", "32m", "--memory-swap", "-1", "--pids-limit", "-1")
    assert (group.read("memory.swap.max"), group.read("pids.max")) == ("max", "max")


def test_a_controller_that_the_kernel_lacks_is_an_error_and_one_that_it_has_works(minibox, rootfs):
    done = minibox("run", "--cpuset-cpus", "0", rootfs, "cat", "/sys/fs/cgroup/cpuset.cpus")
    if "cpuset" in Group(TOP).read("cgroup.controllers").split():
        assert (done.returncode, done.stdout) == (0, b"0\n"), done.stderr
    else:
        assert done.returncode == 125
        assert b"--cpuset-cpus: the cgroup controller cpuset is not available on this host" in done.stderr


def test_a_processor_that_does_not_exist_is_an_error_and_leaves_no_group(minibox, rootfs):
    done = minibox("run", "--name", "one", "--cpuset-cpus", "4000", rootfs, "true")
    assert done.returncode == 125
    assert b"cpuset" in done.stderr
    assert not (TOP / "minibox-one").exists()


def test_too_much_memory_is_the_end_and_is_told(minibox, rootfs):
    done = minibox("run", "-m", "16m", rootfs, "tail", "/dev/zero")
    assert done.returncode == 137
    assert b"out of memory: a process was killed (oom_killed)" in done.stderr


def test_a_child_that_is_killed_for_memory_is_told_too(library, rootfs):
    result = library.run(str(rootfs), ["sh", "-c", "tail /dev/zero; echo $?"], memory="16m")
    assert (result.exit_code, result.stdout, result.oom_killed) == (0, b"137\n", True)


def test_the_library_knows_the_peak_of_the_group(library, rootfs):
    fill = ["dd", "if=/dev/zero", "of=/dev/shm/f", "bs=1M", "count=24"]
    result = library.run(str(rootfs), fill, memory="64m")
    assert (result.exit_code, result.oom_killed) == (0, False)
    if host.probe().release >= (5, 19):  # memory.peak
        assert 24 << 20 <= result.usage.peak_memory <= 64 << 20
    else:  # that of the largest process
        assert result.usage.peak_memory < 24 << 20


def test_a_fork_bomb_is_held_by_the_limit(minibox, up):
    group = up("one", "--pids-limit", "12", script="bomb() { bomb | bomb & }; bomb 2>/dev/null; sleep 300")
    assert wait_until(lambda: int(group.read("pids.events").split()[1]) > 0)
    assert int(group.read("pids.current")) <= 12
    assert minibox("rm", "-f", "one").returncode == 0
    assert not group.path.exists()


def test_processor_time_is_held_back(up):
    group = up("one", "--cpus", "0.05", script="while :; do :; done")
    assert wait_until(lambda: "nr_throttled 0" not in group.read("cpu.stat"), 20)


def test_the_group_is_removed_with_what_is_below_it(minibox, up):
    group = up("one")
    (group.path / "a" / "b").mkdir(parents=True)
    assert minibox("rm", "-f", "one").returncode == 0
    assert not group.path.exists()


def test_a_group_in_which_others_put_a_process_is_emptied(minibox, up):
    group = up("one")
    pid = os.fork()
    if pid == 0:
        os.execvp("sleep", ["sleep", "300"])
    (group.path / "cgroup.procs").write_text(str(pid))
    assert minibox("rm", "-f", "one").returncode == 0
    assert os.waitpid(pid, 0)[1] == 9
    assert not group.path.exists()


def test_the_top_keeps_handing_down_what_it_did(inside):
    before = Group(TOP).read("cgroup.subtree_control").split()
    inside("true", "-m", "64m")
    assert set(before) <= set(Group(TOP).read("cgroup.subtree_control").split())
