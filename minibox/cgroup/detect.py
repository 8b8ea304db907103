"""Which cgroup hierarchies a host has, and where the caller stands in them: cgroups(7).

Facts: a v1 hierarchy carries one or more controllers and is mounted somewhere (by custom below
/sys/fs/cgroup); the v2 hierarchy is mounted at /sys/fs/cgroup (pure) or, in the hybrid form, at
/sys/fs/cgroup/unified, where it has only the controllers that no v1 hierarchy took.
/proc/self/cgroup names the caller's group in each; a mount may show a subtree only, named as its
root in mountinfo.
"""

from __future__ import annotations

import os

from minibox.kernel import calls, mounts
from minibox.record import Record


class Hierarchy(Record):
    """One mounted hierarchy: its controllers ("name=systemd" for a named one), the directory it is
    mounted on, and the caller's own group below that directory ("" for its top)."""

    controllers: tuple[str, ...]
    mountpoint: str
    own: str

    @property
    def directory(self) -> str:
        """The caller's own group as a directory."""
        return self.mountpoint + self.own


class Cgroups(Record):
    """The host's hierarchies; `mode` is "v1", "hybrid", "v2" or "none"."""

    NESTED = {"v1": (Hierarchy,), "v2": Hierarchy}  # noqa: RUF012

    mode: str
    v1: tuple[Hierarchy, ...] = ()
    v2: Hierarchy | None = None

    def find(self, controller: str) -> Hierarchy | None:
        """The hierarchy that a controller is in, v1 first, or None when the host has it nowhere."""
        for hierarchy in self.v1:
            if controller in hierarchy.controllers:
                return hierarchy
        if self.v2 is not None and controller in self.v2.controllers:
            return self.v2
        return None


def parse(own_groups: str, mountinfo: str, v2_controllers: tuple[str, ...] = ()) -> Cgroups:
    """The hierarchies by the texts of /proc/self/cgroup and /proc/self/mountinfo."""
    own: dict[str, str] = {}
    for line in own_groups.splitlines():
        _number, names, path = line.split(":", 2)
        own[names] = path
    v1: list[Hierarchy] = []
    v2 = None
    for mount in mounts.parse(mountinfo, ("cgroup", "cgroup2")):
        if mount.kind == "cgroup2":
            if v2 is None:
                below = _below(own.get("", "/"), mount.root)
                v2 = Hierarchy(controllers=v2_controllers, mountpoint=mount.mountpoint, own=below)
            continue
        for names, path in own.items():
            wanted = tuple(names.split(","))
            if names and all(name in mount.super_options for name in wanted):
                below = _below(path, mount.root)
                v1.append(Hierarchy(controllers=wanted, mountpoint=mount.mountpoint, own=below))
                break
    has_v1 = any(not name.startswith("name=") for one in v1 for name in one.controllers)
    mode = "hybrid" if v2 and has_v1 else "v2" if v2 else "v1" if has_v1 else "none"
    return Cgroups(mode=mode, v1=tuple(v1), v2=v2)


def _below(path: str, root: str) -> str:
    """The caller's group relative to a mount whose root is `root`; its top when it lies elsewhere."""
    if root == "/":
        return "" if path == "/" else path
    return path.removeprefix(root) if path == root or path.startswith(root + "/") else ""


def detect() -> Cgroups:
    """The running host's hierarchies."""
    found = parse(calls.read_file("/proc/self/cgroup"), calls.read_file("/proc/self/mountinfo"))
    if found.v2 is None:
        return found
    return found.replace(v2=found.v2.replace(controllers=available(found.v2.mountpoint)))


def writable(directory: str) -> bool:
    """Whether the caller may make a group in this one and move processes into it."""
    return os.access(directory, os.W_OK) and os.access(directory + "/cgroup.procs", os.W_OK)


def base(v2: Hierarchy | None, *, is_root: bool) -> str:
    """The v2 group to make groups in: the top for root, else the highest above the caller's own that
    is delegated to it (a move needs write permission to a group above both ends); "" when none is."""
    if v2 is None:
        return ""
    if is_root:
        return v2.mountpoint if writable(v2.mountpoint) else ""
    found, directory = "", v2.directory
    while directory.startswith(v2.mountpoint):
        if writable(directory):
            found = directory
        directory = directory.rpartition("/")[0]
    return found


def available(directory: str) -> tuple[str, ...]:
    """The controllers that a v2 group has, and so may hand down."""
    try:
        return tuple(calls.read_file(directory + "/cgroup.controllers").split())
    except OSError:
        return ()


def tenants(directory: str) -> str:
    """Who keeps a v2 group from handing controllers down by being in it: nobody (""), only this process
    ("self"), or "others".  The top of the hierarchy may have processes and hand down."""
    if not directory or not os.path.exists(directory + "/cgroup.type"):
        return ""
    try:
        found = set(map(int, calls.read_file(directory + "/cgroup.procs").split()))
    except OSError:  # EOPNOTSUPP: a group of threads, which hands down as little
        return "others"
    if not found:
        return ""
    return "self" if found <= own_processes() else "others"


def own_processes() -> set[int]:
    """This process; of a monitor, the command too that it was forked from and that waits for it."""
    found = {os.getpid()}
    if os.getsid(0) == os.getpid():
        try:
            parent = os.getppid()
            if calls.read_file(f"/proc/{parent}/cmdline") == calls.read_file("/proc/self/cmdline"):
                found.add(parent)
        except OSError:
            pass
    return found
