"""Which groups a container gets, where, and what is written to them, on every kind of host.

v1: one group in each hierarchy that is needed, below the caller's own, so that limits on the caller
hold for the container too.  Those that count, find or stop processes (ALWAYS, ALWAYS_V1) are made where
the caller may, so that `stats`, `update` and `pause` have them.
v2: one group.  Controllers reach a group only when its parent hands them down, and a group that has
processes may not do so (the top excepted).  So root's are made at the top, an ordinary user's in the
highest group that is delegated to it.  When only minibox itself is in that group, as after
`systemd-run --user --scope -p Delegate=yes minibox ...`, it makes way into a leaf below for as long.
"""

from __future__ import annotations

from minibox.cgroup import v1, v2
from minibox.errors import SpecError
from minibox.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from minibox.cgroup.detect import Hierarchy
    from minibox.kernel.host import Host
    from minibox.spec.model import Resources

ALWAYS = ("pids", "memory")
ALWAYS_V1 = ("freezer", "cpu", "cpuacct", "blkio")
#: where minibox goes when it stands in the way itself; no container has this name (theirs: minibox-ID)
LEAF = "minibox.supervisor"
#: controller -> the fields of Resources that need it; of those that are asked the first is named in an error
FIELDS = {
    "memory": ("memory", "memory_swap", "memory_reservation", "memory_swappiness", "oom_kill_disable"),
    "pids": ("pids",),
    "cpu": (
        "cpu_quota", "cpu_period", "cpu_shares", "cpu_burst", "cpu_idle", "cpu_rt_period", "cpu_rt_runtime",
    ),
    "cpuset": ("cpuset_cpus", "cpuset_mems"),
    "blkio": (
        "blkio_weight", "blkio_weight_device", "device_read_bps", "device_write_bps", "device_read_iops",
        "device_write_iops",
    ),
    "hugetlb": ("hugetlb",),
    "net_cls": ("net_classid",),
    "net_prio": ("net_priorities",),
    "rdma": ("rdma",),
}  # fmt: skip
FIELDS["io"] = FIELDS["blkio"]
#: where a flag is not called as its field is
NAMES = {
    "pids": "--pids-limit",
    "cpu_quota": "--cpus",
    "net_priorities": "--net-prio",
    "unified": "--cgroup-conf",
}


def flag(controller: str, resources: Resources) -> str:
    """The flag to name when a controller cannot be had."""
    asked = resources.asked()
    name = next((one for one in FIELDS.get(controller, ()) if one in asked), "unified")
    return NAMES.get(name) or "--" + name.replace("_", "-")


class Group(Record):
    """One group to make: `leave` is a leaf to go to first, out of the parent, `enable` are writes to
    parents, `inherit` files copied from the parent."""

    name: str
    directory: str
    version: int
    controllers: tuple[str, ...]
    leave: str = ""
    enable: tuple[tuple[str, str, str], ...] = ()
    inherit: tuple[str, ...] = ()
    settings: tuple[tuple[str, str], ...] = ()
    devices: tuple[str, ...] = ()  # rules of what may be opened and made; () leaves it open


def plan(
    resources: Resources, host: Host, container: str, under: str = "", devices: tuple[str, ...] = ()
) -> tuple[list[Group], list[str]]:
    """(groups, notes for the reader).  `under` is the group to make them in, "" the usual place; `devices`
    are the rules to be in force.  Raises SpecError when a limit that was asked for cannot be had."""
    if host.cgroups.mode == "v2":
        return _plan_v2(resources, host, container, under, devices)
    return _plan_v1(resources, host, container, under, devices)


def existing(directories: tuple[str, ...], host: Host) -> list[Group]:
    """The groups that a running container has, by their directories."""
    found = []
    for directory in directories:
        hierarchy = next((one for one in host.cgroups.v1 if directory.startswith(one.mountpoint + "/")), None)
        controllers = hierarchy.controllers if hierarchy else ()
        name = "+".join(one.removeprefix("name=") for one in controllers) or "unified"
        version = 1 if hierarchy else 2
        found.append(Group(name=name, directory=directory, version=version, controllers=controllers))
    return found


def _plan_v1(
    resources: Resources, host: Host, container: str, under: str, devices: tuple[str, ...]
) -> tuple[list[Group], list[str]]:
    wanted = v1.settings(resources)
    if host.cgroups.v2 is None:
        _refuse(v1.LACKING, resources)
    found: dict[str, Group] = {}
    unified = _unified_of_hybrid(resources, host, container, under)
    handled = unified.controllers if unified else ()
    wanted = {name: lines for name, lines in wanted.items() if name not in handled}
    if devices:
        wanted["devices"] = []
    for controller in dict.fromkeys((*ALWAYS, *ALWAYS_V1, *wanted)):
        asked = controller in wanted and controller != "devices"
        asked = asked and not (controller == "pids" and resources.pids_default)
        hierarchy = next((one for one in host.cgroups.v1 if controller in one.controllers), None)
        if hierarchy is None or (hierarchy.directory not in host.cgroup_writable and not under):
            if asked:
                raise SpecError(flag(controller, resources), _refusal(controller, hierarchy, host))
            continue
        name = "+".join(one.removeprefix("name=") for one in hierarchy.controllers)
        above = hierarchy.mountpoint + under if under else hierarchy.directory
        group = found.get(name) or Group(
            name=name,
            directory=f"{above}/minibox-{container}",
            version=1,
            controllers=hierarchy.controllers,
        )
        inherit: tuple[str, ...] = ()
        if controller == "cpuset":
            inherit = () if resources.cpuset_cpus else ("cpuset.cpus",)
            inherit += () if resources.cpuset_mems else ("cpuset.mems",)
        found[name] = group.replace(
            settings=group.settings + tuple(wanted.get(controller, ())),
            inherit=group.inherit + inherit,
            devices=devices if controller == "devices" else group.devices,
        )
    if unified:
        found["unified"] = unified
    return list(found.values()), _notes(resources, "pids" in found or any("pids" in n for n in found))


def _unified_of_hybrid(resources: Resources, host: Host, container: str, under: str) -> Group | None:
    """The v2 group of a hybrid host, when something is asked of a controller that is there and in no v1."""
    hierarchy = host.cgroups.v2
    if hierarchy is None:
        return None
    wanted = v2.settings(resources)
    v1_names = {name for one in host.cgroups.v1 for name in one.controllers}
    here = [one for one in wanted if one in hierarchy.controllers and one not in v1_names]
    for file, _value in resources.unified:
        controller = file.partition(".")[0]
        if controller not in (*here, "cgroup"):
            where = "in a v1 hierarchy of this host" if controller in v1_names else "not on this host"
            raise SpecError(
                "--cgroup-conf", f"{file} is of cgroup v2, and the controller {controller} is {where}"
            )
    if not here and not resources.unified:
        return None
    if not host.cgroup_base:
        raise SpecError(
            flag(here[0] if here else "", resources), _refusal((here or ["cgroup"])[0], hierarchy, host)
        )
    return _unified_group(here, {**wanted, "cgroup": wanted.get("cgroup", [])}, host, container, under)


def _unified_group(
    usable: list[str], wanted: dict[str, list[tuple[str, str]]], host: Host, container: str, under: str
) -> Group:
    """The v2 group with these controllers, which each group above it has to hand down."""
    handed_down = " ".join(f"+{one}" for one in usable)
    above, enable = host.cgroup_base, []
    for name in ("", *under.strip("/").split("/")):
        if name:
            above += "/" + name
        if (name or above == host.cgroup_base) and (
            above,
            "cgroup.subtree_control",
            handed_down,
        ) not in enable:
            enable.append((above, "cgroup.subtree_control", handed_down))
    return Group(
        name="unified",
        directory=f"{above}/minibox-{container}",
        version=2,
        controllers=tuple(usable),
        leave=f"{host.cgroup_base}/{LEAF}" if usable and host.cgroup_tenants == "self" else "",
        enable=tuple(enable) if usable else (),
        settings=tuple(line for one in (*usable, "cgroup") for line in wanted.get(one, ())),
    )


def _plan_v2(
    resources: Resources, host: Host, container: str, under: str, devices: tuple[str, ...]
) -> tuple[list[Group], list[str]]:
    hierarchy = host.cgroups.v2
    _refuse(v2.LACKING, resources)
    wanted = v2.settings(resources)
    asked = [one for one in wanted if one != "cgroup" and (one != "pids" or not resources.pids_default)]
    if hierarchy is None or not host.cgroup_base:
        for controller in asked:
            raise SpecError(flag(controller, resources), _refusal(controller, hierarchy, host))
        return [], _notes(resources, False)
    for controller in asked:
        if controller not in host.cgroup_controllers:
            raise SpecError(flag(controller, resources), _missing(controller, host))
        if host.cgroup_tenants == "others":
            raise SpecError(flag(controller, resources), _occupied(host))
    usable = [one for one in dict.fromkeys((*ALWAYS, *wanted)) if one in host.cgroup_controllers]
    why = "" if "pids" in usable else _missing("pids", host)
    if host.cgroup_tenants == "others":
        usable, why = [], _occupied(host)
    group = _unified_group(usable, wanted, host, container, under).replace(devices=devices)
    return [group], _notes(resources, not why, why)


def _refuse(lacking: dict[str, tuple[str, str]], resources: Resources) -> None:
    asked = resources.asked()
    for name, (pointer, text) in lacking.items():
        if name in asked:
            raise SpecError(pointer, text)


def _notes(resources: Resources, has_pids: bool, why: str = "") -> list[str]:
    if resources.pids_default and not has_pids:
        return [f"{why or 'no permission to make cgroups'}: the default limit of processes is not in force"]
    return []


def _missing(controller: str, host: Host) -> str:
    if host.cgroups.v2 is not None and controller in host.cgroups.v2.controllers:
        return f"the cgroup controller {controller} is not handed down to {host.cgroup_base}"
    return f"the cgroup controller {controller} is not available on this host (see /proc/cgroups)"


def _occupied(host: Host) -> str:
    return (
        f"{host.cgroup_base} has other processes in it, so cgroup v2 lets it hand no controller down: move "
        "them into a group below, or start minibox alone in a group of its own "
        "(systemd-run --user --scope -p Delegate=yes minibox ...)"
    )


def _refusal(controller: str, hierarchy: Hierarchy | None, host: Host) -> str:
    if hierarchy is None and controller not in (host.cgroups.v2.controllers if host.cgroups.v2 else ()):
        return _missing(controller, host)
    where = hierarchy.directory if hierarchy else "any cgroup"
    return (
        f"no permission to make a group in {where}: run as root, or have the controller {controller} "
        "delegated to you (systemd-run --user --scope -p Delegate=yes ...)"
    )
