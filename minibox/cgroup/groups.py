"""Which groups a container gets, where, and what is written to them, on every kind of host.

v1: one group in each hierarchy that is needed, below the caller's own, so that limits on the caller
hold for the container too.  `pids` and `memory` are always made where the caller may: they count and
find processes, and tell of an OOM kill.
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
#: where minibox goes when it stands in the way itself; no container has this name (theirs: minibox-ID)
LEAF = "minibox.supervisor"
FLAGS = {"memory": "--memory", "pids": "--pids-limit", "cpu": "--cpus", "cpuset": "--cpuset-cpus"}


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


def plan(resources: Resources, host: Host, container: str) -> tuple[list[Group], list[str]]:
    """(groups, notes for the reader).  Raises SpecError when a limit that was asked for cannot be had."""
    if host.cgroups.mode == "v2":
        return _plan_v2(resources, host, container)
    return _plan_v1(resources, host, container)


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


def _plan_v1(resources: Resources, host: Host, container: str) -> tuple[list[Group], list[str]]:
    wanted = v1.settings(resources)
    found: dict[str, Group] = {}
    for controller in dict.fromkeys((*ALWAYS, *wanted)):
        asked = controller in wanted and not (controller == "pids" and resources.pids_default)
        hierarchy = next((one for one in host.cgroups.v1 if controller in one.controllers), None)
        if hierarchy is None or hierarchy.directory not in host.cgroup_writable:
            if asked:
                raise SpecError(FLAGS[controller], _refusal(controller, hierarchy, host))
            continue
        name = "+".join(one.removeprefix("name=") for one in hierarchy.controllers)
        group = found.get(name) or Group(
            name=name,
            directory=f"{hierarchy.directory}/minibox-{container}",
            version=1,
            controllers=hierarchy.controllers,
        )
        inherit: tuple[str, ...] = ()
        if controller == "cpuset":
            inherit = ("cpuset.mems",) if resources.cpuset_cpus else ("cpuset.cpus", "cpuset.mems")
        found[name] = group.replace(
            settings=group.settings + tuple(wanted.get(controller, ())), inherit=group.inherit + inherit
        )
    return list(found.values()), _notes(resources, "pids" in found or any("pids" in n for n in found))


def _plan_v2(resources: Resources, host: Host, container: str) -> tuple[list[Group], list[str]]:
    hierarchy = host.cgroups.v2
    wanted = v2.settings(resources)
    asked = [one for one in wanted if one != "pids" or not resources.pids_default]
    if hierarchy is None or not host.cgroup_base:
        for controller in asked:
            raise SpecError(FLAGS[controller], _refusal(controller, hierarchy, host))
        return [], _notes(resources, False)
    for controller in asked:
        if controller not in host.cgroup_controllers:
            raise SpecError(FLAGS[controller], _missing(controller, host))
        if host.cgroup_tenants == "others":
            raise SpecError(FLAGS[controller], _occupied(host))
    usable = [one for one in dict.fromkeys((*ALWAYS, *wanted)) if one in host.cgroup_controllers]
    why = "" if "pids" in usable else _missing("pids", host)
    if host.cgroup_tenants == "others":
        usable, why = [], _occupied(host)
    handed_down = " ".join(f"+{one}" for one in usable)
    settings = tuple(line for one in usable for line in wanted.get(one, ()))
    group = Group(
        name="unified",
        directory=f"{host.cgroup_base}/minibox-{container}",
        version=2,
        controllers=tuple(usable),
        leave=f"{host.cgroup_base}/{LEAF}" if usable and host.cgroup_tenants == "self" else "",
        enable=((host.cgroup_base, "cgroup.subtree_control", handed_down),) if usable else (),
        settings=settings,
    )
    return [group], _notes(resources, not why, why)


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
