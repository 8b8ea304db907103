"""Making a group in each cgroup hierarchy, putting a process in it, and taking it away again."""

from __future__ import annotations

import os

from minibox.cgroup import detect
from minibox.doctor import trial
from minibox.errors import KernelError
from minibox.kernel import calls, tree
from minibox.kernel import consts as c

TYPE_CHECKING = False
if TYPE_CHECKING:
    from minibox.kernel.host import Host


#: the controllers that the usual limits need; others are named by the error of their own flag
LIMITING = ("memory", "pids", "cpu", "cpuset")


class Trial:
    """What happened in one hierarchy; the failures are None where it worked."""

    def __init__(self, hierarchy: detect.Hierarchy, parent: str, *, is_v2: bool) -> None:
        self.hierarchy = hierarchy
        self.parent = parent  # the group in which one was made
        self.is_v2 = is_v2
        self.made: KernelError | None = None
        self.entered: KernelError | None = None
        self.born_inside: KernelError | None = None  # CLONE_INTO_CGROUP
        self.killed: KernelError | None = None  # cgroup.kill
        self.handed_down: dict[str, KernelError | None] = {}  # controller -> could the parent hand it down


def try_all(host: Host) -> dict[str, Trial]:
    """One trial a hierarchy, by mount point."""
    found = {}
    for hierarchy in host.cgroups.v1:
        found[hierarchy.mountpoint] = _try_v1(Trial(hierarchy, hierarchy.directory, is_v2=False))
    v2 = host.cgroups.v2
    if v2 is not None:
        parent = host.cgroup_base or v2.directory
        found[v2.mountpoint] = _try_v2(Trial(v2, parent, is_v2=True))
    return found


def _try_v1(found: Trial) -> Trial:
    group = f"{found.parent}/{trial.name()}"
    try:
        calls.mkdirat(c.AT_FDCWD, group, 0o755)
    except KernelError as error:
        found.made = error
        return found
    try:
        if "cpuset" in found.hierarchy.controllers:  # a new one is empty, and lets nobody in
            for file in ("cpuset.cpus", "cpuset.mems"):
                calls.write_file(f"{group}/{file}", calls.read_file(f"{found.parent}/{file}").strip())
        # "0" is the writer itself: the way a container goes into its group.
        trial.attempt(lambda: calls.write_file(f"{group}/tasks", "0"))
    except KernelError as error:
        found.entered = error
    finally:
        tree.remove_cgroup(group, 1.0)
    return found


def _try_v2(found: Trial) -> Trial:
    group = f"{found.parent}/{trial.name()}"
    enabled: list[str] = []
    try:
        calls.mkdirat(c.AT_FDCWD, group, 0o755)
    except KernelError as error:
        found.made = error
        return found
    try:
        _hand_down(found, enabled)
        _be_inside(found, group)
    except KernelError as error:
        found.entered = error
    finally:
        tree.remove_cgroup(group, 1.0)
        for controller in enabled:
            try:
                calls.write_file(f"{found.parent}/cgroup.subtree_control", f"-{controller}")
            except KernelError:
                pass  # somebody else's group uses it by now
    return found


def _hand_down(found: Trial, enabled: list[str]) -> None:
    """See that the parent gives each controller that limits use to its children; `enabled` are those that
    it did not give before."""
    file = f"{found.parent}/cgroup.subtree_control"
    before = calls.read_file(file).split()
    for controller in calls.read_file(f"{found.parent}/cgroup.controllers").split():
        if controller not in LIMITING:
            continue
        found.handed_down[controller] = None
        if controller in before:
            continue
        try:
            calls.write_file(file, f"+{controller}")
            enabled.append(controller)
        except KernelError as error:
            found.handed_down[controller] = error


def _be_inside(found: Trial, group: str) -> None:
    directory = calls.openat(c.AT_FDCWD, group, c.O_PATH | os.O_DIRECTORY)
    try:
        try:
            trial.attempt(lambda: None, cgroup=directory)
        except KernelError as error:
            found.born_inside = error
    finally:
        os.close(directory)
    with trial.Child(lambda child: _enter(child, group)) as child:
        child.hear()
        try:
            calls.write_file(f"{group}/cgroup.kill", "1")
            status = child.wait(1.0)
            if status != -c.SIGNALS["KILL"]:
                found.killed = KernelError(
                    5, "write", (f"{group}/cgroup.kill", f"the child ended by {status}")
                )
        except KernelError as error:
            found.killed = error


def _enter(child: trial.Child, group: str) -> None:
    calls.write_file(f"{group}/cgroup.procs", "0")
    child.tell({"entered": True})
    child.hear(2 * trial.DEADLINE)
