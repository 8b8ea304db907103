"""What is examined: this host, for this user, with this store and perhaps a ROOTFS; and the trials that
several checks read, each made once."""

from __future__ import annotations

import functools
import os

from minibox.doctor import groups, root, sandbox, trial
from minibox.errors import KernelError, StateError
from minibox.kernel import calls, host
from minibox.kernel import mounts as mountinfo
from minibox.store import ids
from minibox.store.state import Store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from minibox.kernel.host import Host

    Maps = tuple[tuple[int, int, int], ...]


def once(make: Callable[[Any], Any]) -> Any:
    """A property that is computed once; a failure is kept too, so that nothing hangs twice."""

    @functools.wraps(make)
    def get(self: Case) -> Any:
        name = make.__name__
        if name not in self.known:
            try:
                self.known[name] = make(self)
            except Exception as error:
                self.known[name] = error
        found = self.known[name]
        if isinstance(found, Exception):
            raise found
        return found

    return property(get)


class Case:
    """The facts and the trials."""

    def __init__(self, store: Store, rootfs: str = "") -> None:
        self.store = store
        self.rootfs = os.path.abspath(rootfs) if rootfs else ""
        self.known: dict[str, Any] = {}
        self.euid, self.egid = os.geteuid(), os.getegid()
        self.is_root = self.euid == 0

    @property
    def who(self) -> str:
        """The user as a name, or a number."""
        try:
            name = "root" if self.is_root else self.host.user
        except Exception:
            name = ""
        return name or f"uid {self.euid}"

    def as_root(self, command: str) -> str:
        """A command that root has to give."""
        return command if self.is_root else f"sudo {command}"

    @once
    def host(self) -> Host:
        """What the Plan is made from."""
        there = self.rootfs if self.rootfs and os.path.isdir(self.rootfs) else ""
        return host.probe(there, self.store.data)

    @once
    def mounts(self) -> list[mountinfo.MountEntry]:
        """The mounts that the caller sees."""
        return mountinfo.parse(calls.read_file("/proc/self/mountinfo"))

    @once
    def pool(self) -> tuple[int, int]:
        """(first, count) of root's ids.  Raises StateError."""
        return ids.pool()

    @once
    def maps(self) -> Maps:
        """The id map that root's containers get, or the one line that an ordinary user may always write."""
        if not self.is_root:
            return ((0, self.euid, 1),)
        try:
            return ((0, ids.peek(self.store.run)[1], ids.RANGE),)
        except (StateError, KernelError):
            return ((0, self.pool[0], ids.RANGE),)

    @once
    def sandbox(self) -> sandbox.Outcome:
        """How each step went of a sandbox like a container's."""
        return sandbox.build(self)

    @once
    def groups(self) -> dict[str, groups.Trial]:
        """What came of making a group in each hierarchy, by the hierarchy's mount point."""
        return groups.try_all(self.host)

    @once
    def shape(self) -> root.Shape:
        """What a walk over ROOTFS has counted."""
        return root.walk(self)

    def setting(self, path: str) -> int | None:
        """A number of /proc/sys, or None where this kernel has no such setting."""
        try:
            return int(calls.read_file(f"/proc/sys/{path}").split()[0])
        except (KernelError, ValueError, IndexError):
            return None

    def status(self, key: str) -> str:
        """A field of /proc/self/status, "" when there is none."""
        for line in calls.read_file("/proc/self/status").splitlines():
            name, _, value = line.partition(":")
            if name == key:
                return value.strip()
        return ""

    def mount_of(self, path: str) -> mountinfo.MountEntry:
        """The mount that the nearest existing directory of a path lies on.  Raises LookupError."""
        there = os.path.realpath(trial.existing(path))
        above = [one for one in self.mounts if f"{there}/".startswith(one.mountpoint.rstrip("/") + "/")]
        if not above:
            raise LookupError(f"{there} is on no mount of /proc/self/mountinfo")
        found: mountinfo.MountEntry = max(reversed(above), key=lambda one: len(one.mountpoint))
        return found  # of several at one place, the last is on top

    def package(self, **names: str) -> str:
        """The command that installs a package, by the distribution that /etc/os-release names."""
        try:
            text = calls.read_file("/etc/os-release")
        except KernelError:
            text = ""
        fields = dict(line.partition("=")[::2] for line in text.splitlines())
        family = f"{fields.get('ID', '')} {fields.get('ID_LIKE', '')}".replace('"', "").split()
        for distribution, install in INSTALL.items():
            if distribution in family and distribution in names:
                return self.as_root(f"{install} {names[distribution]}")
        return self.as_root(f"apt-get install {names['debian']}")


INSTALL = {
    "debian": "apt-get install",
    "fedora": "dnf install",
    "arch": "pacman -S",
    "alpine": "apk add",
    "suse": "zypper install",
}
