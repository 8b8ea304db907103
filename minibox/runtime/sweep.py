"""Cleaning up after containers whose supervisor is gone: killed, or lost with the machine.

A container's lock is free exactly then.  What is left is in its state: the pid with its start time,
and the undo steps of its Plan.
"""

from __future__ import annotations

import os
import sys
import time

from minibox.cgroup import freeze
from minibox.errors import KernelError, MiniboxError
from minibox.kernel import calls
from minibox.kernel import consts as c
from minibox.plan import ops
from minibox.plan.context import Context
from minibox.runtime import live
from minibox.store import ids, journal
from minibox.store.state import Lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from minibox.store.state import Store

STOPPED = "stopped"


def sweep(store: Store) -> None:
    """Look after every container that has no supervisor; says on stderr what was done.

    The caller holds the store's lock, so no container is in the making.
    """
    store.empty_removed()
    for name in store.names():
        try:
            lock = Lock(f"{store.directory(name)}/lock", create=True)
        except KernelError:
            continue  # removed meanwhile
        try:
            if lock.acquire(wait=False) and lock.is_at(f"{store.directory(name)}/lock"):
                _look_after(store, name)
        finally:
            lock.close()


def _look_after(store: Store, name: str) -> None:
    try:
        state = store.read(name)
    except MiniboxError:  # it died before the first state was written: nothing else had been made
        state = {"id": name, "status": "creating", "undo": [], "keep": False}
    if state["status"] == STOPPED and state["keep"]:
        return
    kill(state)
    failures = undo(state, groups_only=state["keep"])
    if state["keep"]:
        store.write(name, {**state, "status": STOPPED, "exit_code": 255, "error": "its monitor was killed"})
        what = "ended"
    else:
        forget(store, state)
        what = "removed"
    print(f"minibox: {name} had lost its supervisor: {what}", file=sys.stderr)
    for failure in failures:
        print(f"minibox: left behind: {failure}", file=sys.stderr)


def kill(state: dict[str, Any]) -> None:
    """End PID 1 of a container, if it is still the same process, and whoever is left in its groups."""
    if live.is_alive(state):
        try:
            pidfd = calls.pidfd_open(state["pid"])
        except KernelError:
            pidfd = -1
        if pidfd >= 0:
            if live.is_alive(state):
                calls.pidfd_send_signal(pidfd, c.SIGNALS["KILL"])
            os.close(pidfd)
    kill_groups(live.group_of(state))


def kill_groups(directories: list[str], deadline: float = 10.0) -> None:
    """SIGKILL to every process of these groups, until none is left that was not killed, for `deadline`
    seconds at most.

    A v2 group is killed as one (cgroup.kill, since 5.14).  Elsewhere its processes are frozen first, so
    that none makes others meanwhile, and thawed to die.
    """
    if not any(live.group_pids(directory) for directory in directories):
        return
    whole = [directory for directory in directories if os.path.exists(f"{directory}/cgroup.kill")]
    for directory in whole:
        calls.write_file(f"{directory}/cgroup.kill", "1")
    if whole != directories:
        _freeze(directories)
    end = time.monotonic() + deadline
    for directory in directories:
        killed: set[int] = set()
        while (fresh := set(live.group_pids(directory)) - killed) and time.monotonic() < end:
            for pid in fresh:
                try:
                    os.kill(pid, c.SIGNALS["KILL"])
                except ProcessLookupError:
                    pass
            killed |= fresh
            freeze.thaw(directories)
    freeze.thaw(directories)


def _freeze(directories: list[str]) -> None:
    """Begin to freeze, as far as it goes: it only helps against what forks quicker than it is killed."""
    path = freeze.find(directories)
    if path:
        try:
            calls.write_file(path, "FROZEN" if path.endswith("freezer.state") else "1")
        except KernelError:
            pass


def kill_children() -> None:
    """SIGKILL to every child of this process, and to those that become its children by that."""
    while True:
        try:
            os.waitpid(-1, os.WNOHANG)
            children = calls.read_file(f"/proc/self/task/{os.getpid()}/children").split()
        except (ChildProcessError, KernelError):
            return
        for child in children:
            try:
                os.kill(int(child), c.SIGNALS["KILL"])
                os.waitpid(int(child), 0)
            except (ProcessLookupError, ChildProcessError):
                pass


def undo(state: dict[str, Any], *, groups_only: bool) -> list[str]:
    """The undo steps, last made first; what could not be taken away, as text."""
    failures = []
    for data in reversed(state["undo"]):
        if groups_only and data["op"] not in ("CgroupRemove", "CgroupReturn"):
            continue
        try:
            ops.from_json(data).perform(Context())
        except OSError as error:
            failures.append(str(error))
    return failures


def forget(store: Store, state: dict[str, Any]) -> None:
    """The last of a container: its id range and its directory."""
    journal.record(store.run, state["id"], "remove")
    ids.release(store.run, state["id"], state.get("slot", -1))
    store.forget(state["id"])
