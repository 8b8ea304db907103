"""What the kernel says about a container now: is it there, which ids has it, what did it use."""

from __future__ import annotations

import os

from minibox.errors import KernelError, SpecError, StateError
from minibox.kernel import calls
from minibox.kernel import consts as c
from minibox.kernel.idmap import IdMap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def start_time(pid: int) -> int:
    """When a process started, in clock ticks since boot (field 22 of /proc/PID/stat); 0 when it is gone.

    With the pid it names one process for good: a number is used again, at another time.
    """
    try:
        text = calls.read_file(f"/proc/{pid}/stat")
    except KernelError:
        return 0
    fields = text.rpartition(")")[2].split()
    return 0 if fields[0] in ("Z", "X") else int(fields[19])


def is_alive(state: dict[str, Any]) -> bool:
    """Whether the container's PID 1 is the process that the state means, and has not ended."""
    pid = state.get("pid", 0)
    return pid > 0 and start_time(pid) == state.get("start_time") != 0


def running_pid(state: dict[str, Any]) -> int:
    """The pid of a running container's PID 1.  Raises StateError when it does not run."""
    if state.get("status") not in ("created", "running") or not is_alive(state):
        raise StateError(f"container {state.get('id')} is not running")
    return int(state["pid"])


def handles(pid: int, signal: int) -> bool:
    """Whether a process has a handler for a signal, as minibox-init has, or waits for it blocked.

    A PID 1 without one never notices: the kernel drops signals whose default action would end an init.
    """
    try:
        lines = calls.read_file(f"/proc/{pid}/status").splitlines()
    except KernelError:
        return False
    masks = {line[:6]: int(line[8:], 16) for line in lines if line.startswith(("SigCgt", "SigBlk"))}
    return bool((masks.get("SigCgt", 0) | masks.get("SigBlk", 0)) >> (signal - 1) & 1)


def parse_maps(text: str) -> tuple[IdMap, ...]:
    """The maps in the text of a /proc/PID/uid_map."""
    lines = (line.split() for line in text.splitlines())
    return tuple(IdMap(inside=int(i), outside=int(o), size=int(n)) for i, o, n in lines)


def maps_of(path: str) -> tuple[tuple[IdMap, ...], tuple[IdMap, ...]]:
    """(uid maps, gid maps) of the user namespace behind a file, as the caller sees them.

    The kernel tells them of processes only, so that a child enters the namespace and is looked at.
    """
    fd = calls.openat(c.AT_FDCWD, path, os.O_RDONLY)
    first, second = calls.socketpair()
    pid, pidfd = calls.clone3(0)
    if pid == 0:
        try:
            os.close(first)
            calls.setns(fd, c.CLONE_NEWUSER)
            os.write(second, b"in")
            os.read(second, 1)
        except OSError as error:
            os._exit(error.errno or 1)
        os._exit(0)
    os.close(second)
    try:
        if os.read(first, 2):
            return (
                parse_maps(calls.read_file(f"/proc/{pid}/uid_map")),
                parse_maps(calls.read_file(f"/proc/{pid}/gid_map")),
            )
    finally:
        os.close(first)
        os.close(fd)
        status = os.waitpid(pid, 0)[1]
        os.close(pidfd)
    number = os.waitstatus_to_exitcode(status)
    raise SpecError("--userns", f"{path} cannot be entered: {os.strerror(max(number, 0))}")


def group_pids(directory: str) -> list[int]:
    """The processes in a cgroup and in the groups below it."""
    found = []
    try:
        lines = calls.read_file(f"{directory}/cgroup.procs").split()
        found += [pid for pid in map(int, lines) if pid > 0]  # 0: not in the caller's pid namespace
        with os.scandir(directory) as entries:
            below = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return found
    for path in below:
        found += group_pids(path)
    return found


def _number(path: str, key: str = "") -> int | None:
    """A number out of a cgroup file: its only one, or the one behind a key; None without it."""
    try:
        text = calls.read_file(path)
    except KernelError:
        return None
    for line in text.splitlines():
        name, _, value = line.rpartition(" ")
        if name == key and value.isdigit():
            return int(value)
    return None


def oom_kills(directories: list[str]) -> int:
    """How many processes of these groups the kernel has killed for want of memory."""
    counts = [_number(f"{one}/memory.events", "oom_kill") for one in directories]
    counts += [_number(f"{one}/memory.oom_control", "oom_kill") for one in directories]
    return sum(count or 0 for count in counts)


def oom_killed(directories: list[str]) -> bool:
    """Whether the kernel has killed a process of these groups for want of memory."""
    return oom_kills(directories) > 0


def memory_peak(directories: list[str]) -> int | None:
    """The most memory these groups ever had, bytes; None where no group counts it."""
    for one in directories:
        for file in ("memory.peak", "memory.max_usage_in_bytes"):
            value = _number(f"{one}/{file}")
            if value is not None:
                return value
    return None


def group_of(state: dict[str, Any]) -> list[str]:
    """The cgroup directories of a container."""
    return [one["directory"] for one in state.get("undo", ()) if one["op"] == "CgroupRemove"]
