"""Limits of the container's cgroups: in the files before the first exec, and in force."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest
from conftest import wait_until
from observe import detached, group, setting

pytestmark = pytest.mark.root
#: everything that a limit is tried with stops by itself
EAT = "tail /dev/zero"


def v2() -> bool:
    return os.path.exists("/sys/fs/cgroup/cgroup.controllers")


# --- values ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("flags", "controller", "files", "value"), [
    (("-m", "64m"), "memory", ("memory.limit_in_bytes", "memory.max"), str(64 << 20)),
    (("--memory", "1g"), "memory", ("memory.limit_in_bytes", "memory.max"), str(1 << 30)),
    (("--pids-limit", "33"), "pids", ("pids.max",), "33"),
    (("--pids-limit", "-1"), "pids", ("pids.max",), "max"),
    ((), "pids", ("pids.max",), "4096"),
    (("--cpu-shares", "512"), "cpu", ("cpu.shares",), "512"),
    (("--cpuset-cpus", "0"), "cpuset", ("cpuset.cpus",), "0"),
])  # fmt: skip
def test_the_value_stands_in_the_groups_file(minibox, flags, controller, files, value):
    if v2() and controller == "cpu":
        files, value = ("cpu.weight",), "59"
    pid = detached(minibox, "one", *flags)
    directory = group(minibox, "one", controller)
    assert setting(directory, *files) == value
    assert str(pid) in (directory / "cgroup.procs").read_text().split()


def test_cpus_are_a_quota_of_a_period(minibox):
    detached(minibox, "one", "--cpus", "1.5")
    directory = group(minibox, "one", "cpu")
    if v2():
        assert setting(directory, "cpu.max") == "150000 100000"
    else:
        assert setting(directory, "cpu.cfs_quota_us") == "150000"
        assert setting(directory, "cpu.cfs_period_us") == "100000"


def test_swap_is_limited_with_memory_and_apart_from_it(minibox):
    detached(minibox, "one", "-m", "64m", "--memory-swap", "128m")
    directory = group(minibox, "one", "memory")
    names = ("memory.memsw.limit_in_bytes", "memory.swap.max")
    if not any((directory / name).exists() for name in names):
        pytest.skip("this kernel counts no swap")
    assert setting(directory, *names) in (str(128 << 20), str(64 << 20))


def test_a_swap_limit_does_not_keep_a_container_from_starting_where_there_is_no_swap(minibox):
    assert minibox.inside("echo ran", "-m", "64m", "--memory-swap", "-1") == "ran\n"
    assert minibox.inside("echo ran", "-m", "64m", "--memory-swap", "64m") == "ran\n"


def test_the_limit_is_in_force_before_the_first_instruction(minibox, rootfs):
    """Of the steps in the order in which they were done, the write comes before the move and the exec."""
    done = minibox("run", "--trace", "-m", "64m", "--pids-limit", "7", rootfs, "true")
    ids = [line.split()[4] for line in done.stderr.decode().splitlines() if "/" in line.split()[0]]
    writes = [one for one in ids if one.endswith((".pids.max", ".memory.max", ".memory.limit_in_bytes"))]
    assert len(writes) == 2
    enter = min(ids.index(one) for one in ids if one == "clone" or one.endswith(".enter"))
    assert all(ids.index(one) < enter < ids.index("process.execute") for one in writes)


def test_the_container_sees_its_limit_and_cannot_change_it(minibox):
    out = minibox.inside(
        "cd /sys/fs/cgroup; f=$(ls pids/pids.max pids.max 2>/dev/null); cat $f;"
        "echo 99 2>&1 >$f || echo refused",
        "--pids-limit",
        "44",
    )
    assert out.splitlines()[0] == "44"
    assert out.splitlines()[-1] == "refused"


def test_the_container_sees_no_group_of_others(minibox):
    detached(minibox, "other")
    out = minibox.inside("ls -R /sys/fs/cgroup | grep -c minibox || :")
    assert out == "0\n"


# --- effects ---------------------------------------------------------------------------------------


def test_memory_above_the_limit_is_an_oom_kill_137_and_said(minibox, rootfs):
    done = minibox("run", "--keep", "--name", "eater", "-m", "16m", rootfs, "sh", "-c", f"exec {EAT}")
    assert done.returncode == 137
    assert b"oom_killed" in done.stderr
    state = minibox.state("eater")
    assert (state["oom_killed"], state["exit_code"]) == (True, 137)
    assert 8 << 20 < state["memory_peak"] <= 17 << 20


def test_an_oom_kill_of_a_child_is_noticed_too(minibox, rootfs):
    done = minibox("run", "--keep", "--name", "eater", "-m", "16m", rootfs, "sh", "-c", f"{EAT}; echo $?")
    assert done.stdout == b"137\n"
    assert done.returncode == 0
    assert minibox.state("eater")["oom_killed"] is True


def test_an_end_by_a_kill_is_no_oom_kill(minibox, rootfs):
    done = minibox(
        "run", "--keep", "--name", "one", "-m", "64m", "--init", rootfs, "sh", "-c", "kill -KILL $$"
    )
    assert done.returncode == 137
    assert minibox.state("one")["oom_killed"] is False


def test_memory_below_the_limit_is_had(minibox):
    assert (
        minibox.inside(
            "dd if=/dev/zero of=/dev/shm/x bs=1M count=20 2>/dev/null; wc -c </dev/shm/x", "-m", "64m"
        )
        == f"{20 << 20}\n"
    )


def test_files_of_a_tmpfs_count_as_memory(minibox, rootfs):
    done = minibox(
        "run", "-m", "16m", "--tmpfs", "/t", rootfs, "dd", "if=/dev/zero", "of=/t/x", "bs=1M", "count=64"
    )
    assert done.returncode == 137


def test_a_fork_bomb_stops_at_the_limit_and_the_host_still_forks(minibox, rootfs):
    detached(minibox, "bomb", "--pids-limit", "50")
    minibox("exec", "-d", "bomb", "sh", "-c", "bomb() { bomb | bomb & }; bomb")
    directory = group(minibox, "bomb", "pids")
    failures = directory / "pids.events"
    assert wait_until(lambda: int(failures.read_text().split()[1]) > 0)
    assert int((directory / "pids.current").read_text()) <= 50
    assert minibox.inside("echo others start") == "others start\n"
    assert minibox("rm", "-f", "bomb").returncode == 0
    assert not directory.exists()


def test_the_limit_of_processes_is_eagain_inside(minibox):
    out = minibox.inside(
        "(for i in 1 2 3 4 5 6 7 8 9; do sleep 5 >/dev/null & done) 2>&1; :", "--pids-limit", "5"
    )
    assert "Resource temporarily unavailable" in out


@pytest.mark.parametrize("cpus", [0.25, 0.5])
def test_cpus_are_given_and_no_more(minibox, rootfs, cpus):
    pid = detached(minibox, "busy", "--cpus", str(cpus), command=("sh", "-c", "while :; do :; done"))
    start, before = time.monotonic(), processor_seconds(pid)
    assert wait_until(lambda: time.monotonic() > start + 2, 3)
    used = (processor_seconds(pid) - before) / (time.monotonic() - start)
    assert used <= cpus * 1.15
    throttled = (group(minibox, "busy", "cpu") / "cpu.stat").read_text().split("nr_throttled ")[1].split()[0]
    assert int(throttled) > 0


def processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_a_cpuset_is_where_it_may_run(minibox):
    assert minibox.inside("grep Cpus_allowed_list /proc/self/status", "--cpuset-cpus", "0").split() == [
        "Cpus_allowed_list:",
        "0",
    ]


def test_a_processor_that_is_not_there_is_an_error(minibox, rootfs):
    done = minibox("run", "--cpuset-cpus", "4000", rootfs, "true")
    assert done.returncode == 125
    assert b"cpuset.cpus" in done.stderr


def test_an_exec_counts_against_the_same_limit(minibox):
    detached(minibox, "one", "--pids-limit", "4")
    done = minibox("exec", "one", "sh", "-c", "for i in 1 2 3 4 5; do sleep 1 >/dev/null 2>&1 & done; :")
    assert b"Resource temporarily unavailable" in done.stderr


def test_the_groups_are_gone_with_the_container(minibox):
    detached(minibox, "one", "-m", "64m", "--cpus", "1", "--cpuset-cpus", "0")
    places = minibox.state("one")["cgroups"]
    assert all(os.path.isdir(place) for place in places)
    assert places
    minibox("rm", "-f", "one")
    assert not any(os.path.exists(place) for place in places)


# --- an ordinary user --------------------------------------------------------------------------------


@pytest.mark.parametrize(("flags", "word"), [
    (("-m", "64m"), b"--memory"), (("--cpus", "1"), b"--cpus"), (("--pids-limit", "10"), b"--pids-limit"),
    (("--cpuset-cpus", "0"), b"--cpuset-cpus"), (("--cpu-shares", "10"), b"--cpu-shares"),
])  # fmt: skip
def test_a_limit_without_permission_to_make_groups_is_an_error(ordinary, flags, word):
    done = ordinary("run", *flags)
    assert done.returncode == 125
    assert word in done.stderr
    assert b"no permission to make a group" in done.stderr


def test_without_a_limit_no_permission_is_needed_and_the_plan_says_what_is_missing(ordinary):
    done = ordinary("plan")
    assert done.returncode == 0, done.stderr
    assert (
        b"note: no permission to make cgroups: the default limit of processes is not in force" in done.stdout
    )


@pytest.fixture
def ordinary(minibox, rootfs):
    """`minibox VERB FLAGS rootfs true` by uid 4242, who sees the checkout whatever lies above it."""

    def call(verb: str, *flags: str) -> subprocess.CompletedProcess[bytes]:
        words = [*minibox.command, verb, *flags, str(rootfs), "true"]
        environment = {
            **minibox.environment,
            "MINIBOX_ROOT": "/tmp/x/run",
            "MINIBOX_DATA": "/tmp/x/data",
            "HOME": "/tmp",
        }
        return subprocess.run(
            ["unshare", "--mount", "setpriv", "--reuid=4242", "--regid=4242", "--clear-groups", *words],
            env=environment, capture_output=True, check=False,
        )  # fmt: skip

    return call
