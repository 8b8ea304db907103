"""An ordinary user: limits where a group is delegated to it, a clear word where none is."""

from __future__ import annotations

import os
import subprocess

import pytest

from cgroup2.conftest import USER
from cgroup2.helpers import TOP, Group

pytestmark = pytest.mark.cgroup2

LIMITS = ("-m", "32m", "--pids-limit", "20", "--cpus", "0.5")
SHOW = "cat /proc/self/cgroup; cd /sys/fs/cgroup; cat memory.max pids.max cpu.max"
VALUES = ["0::/", str(32 << 20), "20", "50000 100000"]


def test_without_delegation_a_limit_is_an_error_and_the_default_a_note(theirs):
    done = theirs(TOP, "run", "-m", "32m", "{root}", "true")
    assert done.returncode == 125
    assert "--memory: no permission to make a group in /sys/fs/cgroup" in done.stderr
    assert "run as root, or have the controller memory delegated to you" in done.stderr
    done = theirs(TOP, "run", "{root}", "cat", "/proc/self/uid_map")
    assert (done.returncode, done.stdout.split()) == (0, ["0", str(USER), "1"]), done.stderr
    assert "the default limit of processes is not in force" in theirs(TOP, "plan", "{root}").stdout


def test_a_leaf_below_a_delegated_group_has_limits(theirs, delegated):
    leaf = delegated.make("leaf")
    done = theirs(leaf.path, "run", *LIMITS, "{root}", "sh", "-c", SHOW)
    assert done.stdout.splitlines() == VALUES, done.stderr
    assert delegated.below() == ["leaf"]


def test_a_leaf_that_is_roots_own_will_do(theirs, delegated):
    (delegated.path / "leaf").mkdir()
    done = theirs(delegated.path / "leaf", "run", "-m", "32m", "{root}", "cat", "/sys/fs/cgroup/memory.max")
    assert done.stdout.split() == [str(32 << 20)], done.stderr


def test_a_user_whose_memory_is_used_up_is_told(theirs, delegated):
    leaf = delegated.make("leaf")
    done = theirs(leaf.path, "run", "-m", "16m", "{root}", "tail", "/dev/zero")
    assert done.returncode == 137
    assert "oom_killed" in done.stderr


def test_exec_joins_the_group_from_within_and_is_refused_from_without(theirs, delegated):
    leaf = delegated.make("leaf")
    assert theirs(leaf.path, "run", "-d", "--name", "one", *LIMITS, "{root}", "sleep", "300").returncode == 0
    group = Group(delegated.path / "minibox-one")
    assert group.read("pids.max") == "20"
    assert theirs(leaf.path, "exec", "one", "sh", "-c", SHOW).stdout.splitlines() == VALUES
    done = theirs(TOP, "exec", "one", "true")
    assert done.returncode == 125
    assert "clone3" in done.stderr
    assert "try: " in done.stderr
    assert theirs(leaf.path, "rm", "-f", "one").returncode == 0
    assert delegated.below() == ["leaf"]


# --- the user's process is in the delegated group itself ---------------------------------------------------


def test_minibox_alone_in_the_group_makes_way_and_comes_back(theirs, delegated):
    done = theirs(delegated.path, "run", *LIMITS, "{root}", "sh", "-c", SHOW)
    assert done.stdout.splitlines() == VALUES, done.stderr
    assert delegated.below() == []
    assert delegated.read("cgroup.subtree_control") == ""


def test_a_monitor_alone_in_the_group_makes_way_until_its_container_ends(theirs, delegated):
    done = theirs(delegated.path, "run", "-d", "--name", "one", *LIMITS, "{root}", "sleep", "300")
    assert done.returncode == 0, done.stderr
    assert delegated.below() == ["minibox-one", "minibox.supervisor"]
    assert delegated.pids() == []
    assert Group(delegated.path / "minibox-one").read("memory.max") == str(32 << 20)
    assert theirs(TOP, "stop", "-t", "0", "one").returncode == 0
    assert delegated.below() == []
    assert theirs(TOP, "rm", "one").returncode == 0


def test_a_run_that_fails_comes_back_too(theirs, delegated):
    done = theirs(delegated.path, "run", "-m", "32m", "{root}", "nowhere")
    assert done.returncode == 127
    assert delegated.below() == []


def test_the_processes_of_others_are_left_alone(theirs, delegated):
    with subprocess.Popen(["sleep", "300"]) as other:
        (delegated.path / "cgroup.procs").write_text(str(other.pid))
        done = theirs(delegated.path, "run", "-m", "32m", "{root}", "true")
        assert done.returncode == 125
        assert f"--memory: {delegated.path} has other processes in it" in done.stderr
        assert "systemd-run --user --scope -p Delegate=yes" in done.stderr
        assert delegated.pids() == [other.pid]
        assert theirs(delegated.path, "run", "{root}", "true").returncode == 0  # without a limit of its own
        assert delegated.pids() == [other.pid]
        other.kill()


def test_a_controller_that_is_not_handed_down_is_named(theirs, delegated):
    below = delegated.make("leaf")  # memory, pids and cpu stay in the group above
    for name in ("cgroup.procs", "."):
        os.chown(delegated.path / name, 0, 0)
    done = theirs(below.path, "run", "-m", "32m", "{root}", "true")
    assert done.returncode == 125
    assert f"--memory: the cgroup controller memory is not handed down to {below.path}" in done.stderr
