"""The Spec: one type for what a container is, in the terms of the OCI runtime configuration.

Field names are those of the OCI's config.json in snake case, and every default is explicit.  What
minibox has beyond the OCI (the overlay over ROOTFS, `init`, where an id map comes from) stands
beside it under its own name.  A Spec is a value: no descriptor, no path looked up, nothing probed.
"""

from __future__ import annotations

from minibox.kernel.idmap import IdMap
from minibox.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: the kinds of namespaces, in the order in which they are shown
NAMESPACE_KINDS = ("user", "pid", "net", "mount", "uts", "ipc", "cgroup", "time")


class Namespace(Record):
    """One namespace: `path` is "" for a new one, "host" for the caller's own, or a file to join."""

    kind: str
    path: str = ""


class Root(Record):
    """The root file system (OCI `root`).

    `layer` says what writes go to: "overlay" (a private upper layer), "direct" (the directory itself).
    """

    path: str
    layer: str = "overlay"
    readonly: bool = False


class Mount(Record):
    """One mount (OCI `mounts[]`).

    `kind` is a file system type, "bind" for the file or directory `source` of the host, or "device" for
    a node of the host, whose `data` then is its type and numbers ("c 10:229").
    `attributes` are the names of mount flags (ro, nosuid, nodev, noexec, noatime, ...), `recursive`
    those that are to hold for every mount below too (rro, ...), `data` what the file system itself is
    told (size=64m), `idmap` whether the owner of `source` is shown as the container's root; `owner` is
    that owner, (uid, gid) on disk.
    """

    destination: str
    kind: str
    source: str = ""
    attributes: tuple[str, ...] = ()
    recursive: tuple[str, ...] = ()
    data: tuple[str, ...] = ()
    propagation: str = "rprivate"
    idmap: bool = False
    owner: tuple[int, int] = (0, 0)
    bind_recursive: bool = True


class Capabilities(Record):
    """The five sets as bit masks (OCI `process.capabilities`)."""

    bounding: int
    permitted: int
    effective: int
    inheritable: int = 0
    ambient: int = 0


class Rlimit(Record):
    """A resource limit (OCI `process.rlimits[]`): name without RLIMIT_, values in setrlimit(2)'s units."""

    kind: str
    soft: int
    hard: int


class Process(Record):
    """What is run (OCI `process`).

    `user` is "NAME|UID[:NAME|GID]", looked up in the container's own files.  `terminal` has the
    descriptors, out of 0, 1 and 2, that are to be a new pty; the others are inherited.
    """

    NESTED = {"capabilities": Capabilities, "rlimits": (Rlimit,)}  # noqa: RUF012

    argv: tuple[str, ...]
    capabilities: Capabilities
    env: tuple[str, ...] = ()
    cwd: str = "/"
    user: str = "0"
    groups: tuple[str, ...] = ()
    terminal: tuple[int, ...] = ()
    rlimits: tuple[Rlimit, ...] = ()
    no_new_privs: bool = True
    umask: int = 0o022
    oom_score_adj: int | None = None


class Resources(Record):
    """Limits of the container's cgroup (OCI `linux.resources`).

    Bytes, counts, microseconds and weights as in the OCI; None asks for nothing.  `pids_default` marks
    a pids limit that nobody asked for, which an unprivileged caller may go without.  Devices are
    (major, minor, value); `devices` are rules as the kernel writes them ("c 1:3 rwm"), on top of the
    default list, or all there is when the first is "deny a".
    """

    memory: int | None = None
    memory_reservation: int | None = None
    memory_swap: int | None = None  # memory and swap together, bytes; -1 is unlimited
    memory_swappiness: int | None = None
    oom_kill_disable: bool = False
    check_before_update: bool = False
    pids: int | None = None
    pids_default: bool = False
    cpu_quota: int | None = None
    cpu_period: int | None = None
    cpu_burst: int | None = None
    cpu_shares: int | None = None
    cpu_idle: int | None = None
    cpu_rt_runtime: int | None = None
    cpu_rt_period: int | None = None
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    blkio_weight: int | None = None
    blkio_weight_device: tuple[tuple[int, int, int], ...] = ()
    device_read_bps: tuple[tuple[int, int, int], ...] = ()
    device_write_bps: tuple[tuple[int, int, int], ...] = ()
    device_read_iops: tuple[tuple[int, int, int], ...] = ()
    device_write_iops: tuple[tuple[int, int, int], ...] = ()
    hugetlb: tuple[tuple[str, int], ...] = ()  # (page size as the kernel writes it, bytes)
    net_classid: int | None = None
    net_priorities: tuple[tuple[str, int], ...] = ()  # (interface, priority)
    rdma: tuple[tuple[str, str], ...] = ()  # (device, "hca_handle=2 hca_object=2000")
    unified: tuple[tuple[str, str], ...] = ()  # (file of the v2 group, value)
    devices: tuple[str, ...] = ()

    def asked(self) -> tuple[str, ...]:
        """The names of the limits that somebody asked for."""
        names = [name for name, value in self.__dict__.items() if value not in (None, "", False, ())]
        return tuple(name for name in names if not name.startswith("pids") or not self.pids_default)


class Spec(Record):
    """A container, whole.

    `userns` says where `uid_maps` and `gid_maps` come from: "auto" (allocated when the container is
    made), "keep-id", "explicit" (given), "host" or "join" (no maps).
    """

    NESTED = {  # noqa: RUF012
        "root": Root,
        "process": Process,
        "mounts": (Mount,),
        "namespaces": (Namespace,),
        "uid_maps": (IdMap,),
        "gid_maps": (IdMap,),
        "resources": Resources,
    }

    id: str
    root: Root
    process: Process
    mounts: tuple[Mount, ...]
    namespaces: tuple[Namespace, ...]
    userns: str = "auto"
    uid_maps: tuple[IdMap, ...] = ()
    gid_maps: tuple[IdMap, ...] = ()
    hostname: str = ""
    domainname: str = ""
    resources: Resources = Resources()
    cgroup_parent: str = ""  # the group to make the container's in, in every hierarchy; "" is the usual place
    seccomp: Any = "default"  # "default", "unconfined", or a profile as parsed JSON
    seccomp_notify: tuple[str, ...] = ()  # calls that a handler answers, whatever the profile says of them
    seccomp_handler: str = ""  # the handler's file, "" when it is a function of the caller's process
    show_denials: str = ""  # "", "yes" or "all": with those that are answered ENOSYS
    masked_paths: tuple[str, ...] = ()
    readonly_paths: tuple[str, ...] = ()
    sysctls: tuple[tuple[str, str], ...] = ()
    time_offsets: tuple[tuple[str, int, int], ...] = ()  # (clock, seconds, nanoseconds)
    annotations: tuple[tuple[str, str], ...] = ()
    privileged: bool = False
    init: str = ""  # "", or what minibox-init is to do as PID 1: "run" the command, or "pause"
    preserve_fds: int = 0
    stop_at_exec: bool = False  # hold the payload before its first instruction, to be looked at

    def namespace(self, kind: str) -> Namespace:
        """The namespace of a kind; the host's own when the Spec does not name it."""
        for one in self.namespaces:
            if one.kind == kind:
                return one
        return Namespace(kind=kind, path="host")

    def is_new(self, kind: str) -> bool:
        """Whether the container gets a namespace of its own of this kind."""
        return self.namespace(kind).path == ""
