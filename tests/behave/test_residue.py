"""Nothing is left behind, however minibox ends: not even by a SIGKILL at a random step.

What is looked at: processes, mounts, cgroups, state directories, private layers, id ranges, locks.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import prctl
import pytest
from conftest import Minibox, host_facts, wait_until

RUNS = 300
AT_ONCE = 8
SEED = 20260731


# --- what other files of this directory use too --------------------------------------------------------


def children() -> dict[int, str]:
    """pid -> state of this process's children."""
    found = {}
    for task in os.listdir("/proc/self/task"):
        with contextlib.suppress(OSError):
            for pid in Path(f"/proc/self/task/{task}/children").read_text().split():
                with contextlib.suppress(OSError):
                    stat = Path(f"/proc/{pid}/stat").read_text()
                    found[int(pid)] = stat.rpartition(")")[2].split()[0]
    return found


@contextlib.contextmanager
def no_orphans() -> Iterator[None]:
    """Whoever is orphaned meanwhile becomes a child of this process; afterwards nobody may be."""
    prctl.set_child_subreaper(True)
    before = set(children())
    try:
        yield
        assert wait_until(lambda: reap_orphans() or set(children()) <= before, 5), (
            f"left: {[command_of(pid) for pid in set(children()) - before]}"
        )
    finally:
        prctl.set_child_subreaper(False)


def reap_orphans() -> None:
    """What init does for others; only when no process of the test's own can be among them."""
    for pid, state in children().items():
        if state == "Z":
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)


def command_of(pid: int) -> str:
    """A process's command line, for a message."""
    try:
        return f"{pid} {Path(f'/proc/{pid}/cmdline').read_bytes().replace(bytes(1), b' ').decode()}"
    except OSError:
        return str(pid)


def processes(minibox: Minibox, name: str) -> list[int]:
    """The processes of a container that has a pid namespace of its own, by that namespace."""
    place = os.readlink(f"/proc/{minibox.state(name)['pid']}/ns/pid")
    found = []
    for entry in os.listdir("/proc"):
        with contextlib.suppress(OSError):
            if (
                entry.isdigit()
                and os.readlink(f"/proc/{entry}/ns/pid") == place
                and not has_ended(int(entry))
            ):
                found.append(int(entry))
    return found


def has_ended(pid: int) -> bool:
    """Whether a process is gone, or waits only to be reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def leftovers(minibox: Minibox) -> list[str]:
    """What the store still has of any container, an id range and a locked file included."""
    found = []
    for place in (minibox.run_dir / "containers", minibox.run_dir / "removed", minibox.data_dir):
        found += [str(one) for one in place.glob("*")]
    found += [str(one) for one in (minibox.run_dir / "ids").glob("*") if one.name != "next"]
    inodes = [os.stat(one).st_ino for one in minibox.run_dir.rglob("*") if one.is_file()]
    locks = [line.split()[5].split(":") for line in Path("/proc/locks").read_text().splitlines()]
    device = os.stat(minibox.run_dir).st_dev if minibox.run_dir.exists() else 0
    for major, minor, inode in (one for one in locks if len(one) == 3):
        if os.makedev(int(major, 16), int(minor, 16)) == device and int(inode) in inodes:
            found.append(f"a lock on inode {inode}")
    return found


def slow_pipe() -> tuple[int, int]:
    """A pipe that holds one write(2): whoever writes the second waits until the first is read."""
    reading, writing = os.pipe2(os.O_CLOEXEC | os.O_DIRECT)
    fcntl.fcntl(writing, 1031, 4096)  # F_SETPIPE_SZ
    return reading, writing


# --- runs that are killed ------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _nobody_is_left() -> Iterator[None]:
    with no_orphans():
        yield


def test_runs_killed_at_random_steps_leave_nothing(minibox, rootfs, tmp_path):
    before = host_facts()
    chance = random.Random(SEED)
    total = minibox("run", "--trace", rootfs, "true").stderr.count(b" us  ")
    assert total > 50
    fates = [chance.randint(1, total) if number % 3 == 0 else 0 for number in range(RUNS)]
    assert sum(fate > 0 for fate in fates) == RUNS // 3

    def one(fate: int) -> tuple[int, bytes, int]:
        """(exit code, stdout, how many containers it cleaned up after)"""
        reading, writing = slow_pipe()
        flags = ("--tmpfs", "/scratch", *(() if os.geteuid() else ("-m", "64m"))) if fate % 2 else ()
        process = minibox.start(
            "run", "--trace", *flags, rootfs, "sh", "-c", "echo done; exit 7", stderr=writing
        )
        os.close(writing)
        number = cleaned = 0
        while line := os.read(reading, 4096):
            cleaned += b"had lost its supervisor" in line
            number += b" us  " in line
            if fate and number == fate:
                process.kill()
        os.close(reading)
        out, _ = process.communicate(timeout=60)
        return process.returncode, out, cleaned

    with ThreadPoolExecutor(AT_ONCE) as pool:
        ends = list(pool.map(one, fates))
    assert {end[:2] for end, fate in zip(ends, fates, strict=True) if not fate} == {(7, b"done\n")}
    assert {end[0] for end, fate in zip(ends, fates, strict=True) if fate} == {-signal.SIGKILL}
    last = minibox("run", rootfs, "true")  # the next command cleans up
    cleaned = sum(end[2] for end in ends) + last.stderr.count(b"had lost its supervisor")
    assert cleaned > RUNS // 6, "hardly any was killed where it matters"
    assert leftovers(minibox) == []
    assert wait_until(lambda: host_facts() == before, 5)
    assert host_facts() == before


def test_the_next_command_cleans_up_and_says_so(minibox, rootfs):
    process = minibox.start("run", "--name", "lost", rootfs, "sleep", "1000")
    assert wait_until(lambda: b"running" in minibox("ps").stdout)
    pid = int(minibox.state("lost")["pid"])
    group = minibox.state("lost")["cgroups"]
    process.kill()
    process.communicate(timeout=10)
    assert wait_until(lambda: has_ended(pid)), "the container outlives minibox"
    assert leftovers(minibox) != [], "then this test would show nothing"
    done = minibox("run", rootfs, "true")
    assert done.returncode == 0
    assert done.stderr == b"minibox: lost had lost its supervisor: removed\n"
    assert leftovers(minibox) == []
    assert not any(os.path.exists(one) for one in group)


def test_a_killed_monitor_is_noticed_too(minibox, rootfs):
    assert minibox("run", "-d", "--name", "web", rootfs, "sleep", "1000").returncode == 0
    state = minibox.state("web")
    os.kill(int(state["supervisor"]), signal.SIGKILL)
    assert wait_until(lambda: has_ended(int(state["pid"])))
    assert b"exited" in minibox("ps").stdout
    done = minibox("run", rootfs, "true")
    assert b"web had lost its supervisor: ended" in done.stderr
    assert minibox.state("web")["status"] == "stopped"
    assert minibox("rm", "web").returncode == 0
    assert leftovers(minibox) == []


def test_a_range_whose_container_is_gone_is_given_back(minibox, rootfs):
    """A SIGKILL between taking the range and writing the first state."""
    minibox("run", rootfs, "true")
    ids = minibox.run_dir / "ids"
    if os.geteuid():
        return  # an ordinary user has no ranges to give
    lost = minibox.run_dir / "containers" / "early"
    lost.mkdir(0o700)
    (ids / "77").write_text("early")
    done = minibox("run", rootfs, "true")
    assert b"early had lost its supervisor: removed" in done.stderr
    assert leftovers(minibox) == []


def test_a_hundred_runs_leave_the_mount_table_as_it_was(minibox, rootfs, tmp_path):
    (tmp_path / "source").mkdir()
    before = Path("/proc/self/mountinfo").read_bytes()
    flags = ("-v", f"{tmp_path}/source:/source", "--tmpfs", "/scratch")

    def one(number: int) -> int:
        return minibox("run", *(flags if number % 2 else ()), rootfs, "true").returncode

    with ThreadPoolExecutor(AT_ONCE) as pool:
        assert set(pool.map(one, range(100))) == {0}
    assert Path("/proc/self/mountinfo").read_bytes() == before
    assert leftovers(minibox) == []


def test_containers_made_and_removed_at_once_do_not_meet(minibox, rootfs):
    """Names in use, clean-ups and removals race; each command still does its own."""

    def one(number: int) -> set[int]:
        name = f"c{number % 4}"
        code = minibox("run", "-d", "--name", name, rootfs, "sleep", "1000").returncode
        return {code, minibox("rm", "-f", name).returncode}

    with ThreadPoolExecutor(AT_ONCE) as pool:
        codes = set().union(*pool.map(one, range(24)))
    assert codes <= {0, 125}
    names = minibox("ps", "-q").stdout.decode().split()
    assert names == [] or minibox("rm", "-f", *names).returncode == 0
    assert leftovers(minibox) == []


def test_the_output_of_many_at_once_is_each_ones_own(minibox, rootfs):
    def one(number: int) -> subprocess.CompletedProcess[bytes]:
        return minibox("run", rootfs, "sh", "-c", f"seq {number} {number + 500} | tail -1")

    with ThreadPoolExecutor(AT_ONCE) as pool:
        outputs = [done.stdout for done in pool.map(one, range(24))]
    assert outputs == [b"%d\n" % (number + 500) for number in range(24)]
