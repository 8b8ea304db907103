"""The facts of a host that a Plan depends on, probed once: the same facts give the same Plan."""

from __future__ import annotations

import os

from minibox.cgroup import detect
from minibox.kernel import calls, caps, idmap
from minibox.kernel import consts as c
from minibox.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: file system magic (statfs(2)) -> the first Linux that mounts it with an id map (mount_setattr(2))
IDMAPPED_SINCE = {
    0xEF53: (5, 12),  # ext2, ext3, ext4
    0x58465342: (5, 12),  # xfs
    0x4D44: (5, 12),  # fat
    0x9123683E: (5, 15),  # btrfs
    0x7366746E: (5, 15),  # ntfs3
    0xF2F52010: (5, 18),  # f2fs
    0xE0F5E1E2: (5, 19),  # erofs
    0x73717368: (6, 2),  # squashfs
    c.TMPFS_MAGIC: (6, 3),
    0x00C36400: (6, 7),  # ceph
}
#: file systems that overlayfs refuses to write its upper layer to
NO_UPPER = {
    c.OVERLAYFS_SUPER_MAGIC,
    0x01021997,  # 9p
    0x00C0FFEE,  # hostfs
    0x6969,  # nfs
    0x4D44,  # fat
    0x65735546,  # fuse
    0x73717368,  # squashfs
    0xE0F5E1E2,  # erofs
}
OVERLAY_IN_USERNS = (5, 11)
TMPFS_USER_XATTR = (6, 6)  # overlayfs of a user namespace marks directories with user.overlay.opaque
OVERLAY_OVER_IDMAPPED = (5, 19)


class Host(Record):
    """What this machine is and what the caller may do on it."""

    NESTED = {"cgroups": detect.Cgroups}  # noqa: RUF012

    euid: int
    egid: int
    user: str  # the caller's login name, "" when the passwd file has none
    release: tuple[int, ...]  # (6, 18)
    machine: str  # x86_64
    cgroups: detect.Cgroups
    cgroup_writable: tuple[str, ...]  # the groups, among the caller's own, in which it may make others
    cgroup_base: str  # the v2 group to make groups in, "" when the caller may do so nowhere
    cgroup_controllers: tuple[str, ...]  # those that the base has to hand down
    cgroup_tenants: str  # who is in the base, and keeps it from that: "", "self" or "others"
    no_devices: str = ""  # why the caller can set no rules for devices, "" when it can
    bounding: int  # the caller's bounding set, a mask
    last_cap: int  # the highest capability the kernel knows
    subuid: tuple[tuple[int, int], ...] = ()  # (first, count) ranges of an ordinary user
    subgid: tuple[tuple[int, int], ...] = ()
    newuidmap: str = ""
    newgidmap: str = ""
    runtime_owner: int = 0  # who owns the program that runs minibox: the python that /proc/self/exe names
    staging: str = "/tmp"  # an empty tmpfs is laid over it, in the container's mount namespace only
    layers: str = ""  # where private layers are kept
    layers_type: int = 0  # magic of the file system there
    root_type: int = 0  # magic of the file system of ROOTFS
    root_owner: int = 0  # the uid that ROOTFS belongs to

    @property
    def is_root(self) -> bool:
        """Whether the caller has the host's uid 0."""
        return self.euid == 0

    def can_idmap(self, magic: int) -> bool:
        """Whether a mount of this file system can be shown through an id map."""
        since = IDMAPPED_SINCE.get(magic)
        return since is not None and self.release >= since

    @property
    def can_overlay(self) -> bool:
        """Whether a user namespace may lay an overlay whose upper layer is in `layers`."""
        if self.layers_type == c.TMPFS_MAGIC and self.release < TMPFS_USER_XATTR:
            return False  # it could, and `rm -r` in it would end in EIO
        return self.release >= OVERLAY_IN_USERNS and self.holds_upper

    @property
    def holds_upper(self) -> bool:
        """Whether overlayfs writes to the file system of `layers` at all."""
        return self.layers_type not in NO_UPPER


def magic_of(path: str) -> int:
    """The magic number of the file system of the nearest existing parent of a path."""
    while True:
        try:
            fd = calls.openat(c.AT_FDCWD, path or "/", c.O_PATH)
        except OSError:
            if path in ("", "/"):
                raise
            path = path.rpartition("/")[0]
            continue
        try:
            return calls.fstatfs_type(fd)
        finally:
            os.close(fd)


def _no_devices(cgroups: detect.Cgroups, own: list[str], *, is_root: bool) -> str:
    if not is_root:
        return "an ordinary user may set none, and needs none: its containers can make no device node"
    v1 = next((one for one in cgroups.v1 if "devices" in one.controllers), None)
    if v1 is not None:
        return "" if detect.writable(v1.directory) else f"no permission to make a group in {v1.directory}"
    if cgroups.v2 is None or cgroups.mode != "v2":
        return "this host has no hierarchy with the cgroup controller devices"
    from minibox.cgroup import devices

    return devices.lacking(cgroups.v2.mountpoint)


def probe(rootfs: str = "", layers: str = "") -> Host:
    """The running host, as the calling process sees it.  Changes nothing."""
    name = os.uname()
    numbers = name.release.split("-")[0].split("+")[0].split(".")
    euid = os.geteuid()
    cgroups = detect.detect()
    own = [one.directory for one in cgroups.v1]
    if cgroups.v2 is not None:
        own.append(cgroups.v2.directory)
    base = detect.base(cgroups.v2, is_root=euid == 0)
    facts: dict[str, Any] = {}
    if euid:
        user = idmap.account_name(euid)
        facts = {
            "user": user,
            "subuid": idmap.subordinate_ranges("/etc/subuid", user, euid),
            "subgid": idmap.subordinate_ranges("/etc/subgid", user, euid),
            "newuidmap": idmap.find_tool("newuidmap"),
            "newgidmap": idmap.find_tool("newgidmap"),
        }
    staging = next((path for path in ("/tmp", "/run", "/var") if os.path.isdir(path)), "/")
    known: dict[str, Any] = {
        "euid": euid,
        "egid": os.getegid(),
        "user": "root",
        "release": tuple(int(number) for number in numbers[:2] if number.isdigit()),
        "machine": name.machine,
        "cgroups": cgroups,
        "cgroup_writable": tuple(path for path in own if detect.writable(path)),
        "cgroup_base": base,
        "cgroup_controllers": detect.available(base) if base else (),
        "cgroup_tenants": detect.tenants(base),
        "no_devices": _no_devices(cgroups, own, is_root=euid == 0),
        "bounding": caps.bounding_set(),
        "last_cap": caps.last_known(),
        "runtime_owner": os.stat("/proc/self/exe").st_uid,
        "staging": staging,
        "layers": layers,
        "layers_type": magic_of(layers) if layers else 0,
        "root_type": magic_of(rootfs) if rootfs else 0,
        "root_owner": os.stat(rootfs).st_uid if rootfs else 0,
    }
    return Host(**{**known, **facts})
