"""Hosts made by hand: the facts that compile() may ask for, of machines that the tests do not run on."""

from __future__ import annotations

from minibox.cgroup.detect import Cgroups, Hierarchy
from minibox.kernel.host import Host
from minibox.plan.compile import compile
from minibox.plan.model import Plan
from minibox.spec import from_flags
from minibox.spec.model import Spec

EXT4, TMPFS, OVERLAY = 0xEF53, 0x01021994, 0x794C7630
ALL = (1 << 41) - 1

_V1 = tuple(
    Hierarchy(controllers=(name,), mountpoint=f"/sys/fs/cgroup/{name}", own="")
    for name in ("cpu", "cpuset", "memory", "pids")
)
HYBRID = Cgroups(
    mode="hybrid", v1=_V1, v2=Hierarchy(controllers=(), mountpoint="/sys/fs/cgroup/unified", own="")
)
V2 = Cgroups(
    mode="v2",
    v2=Hierarchy(
        controllers=("cpuset", "cpu", "io", "memory", "pids"),
        mountpoint="/sys/fs/cgroup",
        own="/user.slice/me.scope",
    ),
)
CONTROLLERS = ("cpuset", "cpu", "io", "memory", "pids")

ROOT_V2 = Host(
    euid=0,
    egid=0,
    user="root",
    release=(6, 12),
    machine="x86_64",
    cgroups=V2,
    cgroup_writable=("/sys/fs/cgroup/user.slice/me.scope",),
    cgroup_base="/sys/fs/cgroup",
    cgroup_controllers=CONTROLLERS,
    cgroup_tenants="",
    bounding=ALL,
    last_cap=40,
    layers="/var/lib/minibox",
    layers_type=EXT4,
    root_type=EXT4,
)
ROOT_HYBRID = ROOT_V2.replace(
    cgroups=HYBRID,
    cgroup_writable=tuple(one.mountpoint for one in _V1),
    cgroup_base="/sys/fs/cgroup/unified",
    cgroup_controllers=(),
)
PLAIN = ROOT_V2.replace(
    euid=1000,
    egid=1000,
    user="me",
    cgroup_writable=(),
    cgroup_base="",
    cgroup_controllers=(),
    layers="/home/me/.local/share/minibox",
)
WITH_RANGE = PLAIN.replace(
    subuid=((100000, 65536),),
    subgid=((100000, 65536),),
    newuidmap="/usr/bin/newuidmap",
    newgidmap="/usr/bin/newgidmap",
)
OLD_KERNEL = ROOT_HYBRID.replace(release=(5, 10))
NO_IDMAP = ROOT_V2.replace(root_type=OVERLAY)
NO_OVERLAY = PLAIN.replace(layers_type=OVERLAY)

HOSTS = {
    "root-v2": ROOT_V2,
    "root-hybrid": ROOT_HYBRID,
    "plain-user": PLAIN,
    "user-with-range": WITH_RANGE,
    "old-kernel": OLD_KERNEL,
    "no-idmap": NO_IDMAP,
    "no-overlay": NO_OVERLAY,
}

#: flags that change what is in a plan
OPTIONS: dict[str, dict[str, object]] = {
    "default": {},
    "terminal": {"terminal": (0, 1, 2)},
    "init": {"init": True},
    "allow-new-privs": {"allow_new_privs": True},
    "privileged": {"privileged": True},
    "unconfined": {"seccomp": "unconfined"},
    "read-only": {"read_only": True},
    "ambient": {"user": "1000", "cap_ambient": ["KILL"]},
    "mounts": {
        "tmpfs": ["/t", "/t/deep"],
        "mount": ["type=tmpfs,target=/dev/x"],
        "volume": ["/etc:/x:ro", "/usr:/y"],
    },
    "names": {
        "hostname": "web",
        "domainname": "nis",
        "sysctl": ["net.ipv4.ip_forward=1"],
        "time_offset": ["5"],
    },
    "process": {"ulimit": ["nofile=10"], "oom_score_adj": "5", "workdir": "/srv", "group_add": ["5"]},
    "host-network": {"network": "host", "ipc": "host"},
}


def spec(host: Host, **options: object) -> Spec:
    """The Spec of flags, with the ids that a host like this would give it."""
    found = from_flags.build("test", "/srv/rootfs", ("sh",), options)
    if not found.is_new("user") or found.uid_maps:
        return found
    from minibox.kernel.idmap import IdMap

    if host.is_root:
        maps = (IdMap(inside=0, outside=0x7000_0000, size=65536),)
    else:
        maps = (IdMap(inside=0, outside=host.euid, size=1),)
        if host.subuid:
            maps += (IdMap(inside=1, outside=host.subuid[0][0], size=host.subuid[0][1]),)
    return found.replace(uid_maps=maps, gid_maps=maps)


def plan(host: Host, **options: object) -> Plan:
    """The Plan of flags on a host."""
    return compile(spec(host, **options), host)
