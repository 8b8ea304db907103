"""Stopping and going on with every process of a container at once: the v1 freezer, or cgroup.freeze of v2.

Facts: a process that is frozen by v1 takes no signal, SIGKILL included, until it is thawed; by v2 it
dies of SIGKILL where it stands.  Freezing takes a moment: the file says FREEZING, or frozen 0, until
the last process stands still.
"""

from __future__ import annotations

import os
import time

from minibox.errors import KernelError, StateError
from minibox.kernel import calls

DEADLINE = 10.0  # seconds; a process in an uninterruptible call of the kernel's cannot be stopped


def find(directories: list[str]) -> str:
    """The file that freezes, out of a container's groups; "" when none of them can."""
    for name in ("freezer.state", "cgroup.freeze"):
        for directory in directories:
            path = f"{directory}/{name}"
            if os.path.exists(path):
                return path
    return ""


def is_frozen(directories: list[str]) -> bool:
    """Whether these groups are frozen, or about to be."""
    path = find(directories)
    try:
        return bool(path) and calls.read_file(path).strip() not in ("THAWED", "0")
    except KernelError:
        return False


def freeze(directories: list[str]) -> None:
    """Return when every process stands still.  Raises StateError, with all of them going on, when one
    does not, or when there is no group for it."""
    path = find(directories)
    if not path:
        raise StateError("no group of its own can be frozen: it was made without the right to make groups")
    v1 = path.endswith("freezer.state")
    end = time.monotonic() + DEADLINE
    calls.write_file(path, "FROZEN" if v1 else "1")
    while not _stands_still(path, v1=v1):
        if time.monotonic() > end:
            thaw(directories)
            raise StateError(f"not every process stood still within {DEADLINE:.0f} seconds: all go on")
        time.sleep(0.002)
        if v1:  # a process forked meanwhile: the kernel's documentation says to write again
            calls.write_file(path, "FROZEN")


def _stands_still(path: str, *, v1: bool) -> bool:
    if v1:
        return calls.read_file(path).strip() == "FROZEN"
    events = calls.read_file(path.rpartition("/")[0] + "/cgroup.events").splitlines()
    return "frozen 1" in events


def thaw(directories: list[str]) -> None:
    """Let every process go on; nothing when there is no such group."""
    path = find(directories)
    try:
        if path:
            calls.write_file(path, "THAWED" if path.endswith("freezer.state") else "0")
    except KernelError as error:
        if error.errno not in (2, 19):  # the group went meanwhile
            raise
