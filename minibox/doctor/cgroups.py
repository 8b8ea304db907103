"""Control groups: which hierarchies there are, and what the caller may do in them."""

from __future__ import annotations

import os

from minibox.doctor import report
from minibox.doctor.groups import LIMITING, Trial
from minibox.doctor.kernel import NEWER
from minibox.doctor.places import is_nested
from minibox.doctor.report import Check
from minibox.doctor.users import OUTSIDE
from minibox.errors import KernelError, errno_name
from minibox.kernel import calls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from minibox.cgroup.detect import Hierarchy
    from minibox.doctor.case import Case
    from minibox.doctor.report import Finding

EROFS, EBUSY = 30, 16
CONFIG = {"memory": "MEMCG", "pids": "CGROUP_PIDS", "cpu": "CFS_BANDWIDTH", "cpuset": "CPUSETS"}
WITHOUT = {
    "memory": "no --memory, and no report of an OOM kill",
    "pids": "no --pids-limit, and the default limit of 4096 is not in force",
    "cpu": "no --cpus, no --cpu-shares",
    "cpuset": "no --cpuset-cpus",
}
#: nothing of minibox asks for these; they are named for who reads about them elsewhere (v1 and v2 name)
OTHERS = (("devices", ""), ("freezer", ""), ("blkio", "io"), ("hugetlb", "hugetlb"), ("rdma", "rdma"))


def mode(case: Case) -> Finding:
    """Which form the host has."""
    found = case.host.cgroups
    if found.mode == "none":
        return report.missing(
            "no cgroup hierarchy is mounted",
            "no limits of memory, processes and processor time",
            case.as_root("mount -t cgroup2 cgroup2 /sys/fs/cgroup"),
        )
    own = found.v2.own if found.v2 is not None else next((one.own for one in found.v1 if one.own), "")
    where = f"; the caller's own group is {own or '/'}" if found.mode == "v2" else ""
    if found.mode == "v1":
        return report.ok(f"v1: {len(found.v1)} hierarchies")
    return report.ok(
        f"{found.mode}{where}" if found.mode == "v2" else f"hybrid: {len(found.v1)} of v1, and v2"
    )


def controller(name: str) -> Callable[[Case], Finding]:
    """Where one is, and whether a group with it can be made, entered and removed."""

    def find(case: Case) -> Finding:
        hierarchy = case.host.cgroups.find(name)
        if hierarchy is None:
            return report.missing(_absent(case, name), WITHOUT[name], _mount_command(case, name))
        found: Trial = case.groups[hierarchy.mountpoint]
        where = f"{'v2' if found.is_v2 else 'v1'}, {found.parent}"
        if found.made is not None:
            return report.limited(
                f"{where}: no group can be made ({errno_name(found.made.errno)})",
                WITHOUT[name],
                _delegate(case, found),
            )
        if found.entered is not None:
            return report.limited(
                f"{where}: a group can be made, not entered: {found.entered}", WITHOUT[name],
                _delegate(case, found),
            )  # fmt: skip
        if found.is_v2:
            error = found.handed_down.get(name)
            if name not in found.handed_down:
                return report.limited(
                    f"{where}: the groups above do not hand it down", WITHOUT[name], _delegate(case, found)
                )
            if error is not None:
                mend = _delegate(case, found)
                if error.errno == EBUSY:
                    mend = f"systemd-run --scope -p Delegate={name} minibox ... (alone in its group)"
                return report.limited(f"{where}: cannot be handed down: {error}", WITHOUT[name], mend)
        return report.ok(f"{where}: a group can be made, entered and removed")

    return find


def other(v1: str, v2: str) -> Callable[[Case], Finding]:
    """One that no flag of minibox needs."""

    def find(case: Case) -> Finding:
        for name in (v1, v2):
            hierarchy = case.host.cgroups.find(name) if name else None
            if hierarchy is not None:
                return report.unneeded(f"{hierarchy.mountpoint}: no flag of minibox uses it")
        return report.unneeded("mounted nowhere: no flag of minibox uses it")

    return find


def _kernel_list() -> dict[str, tuple[int, bool]]:
    """Controller -> (hierarchy, enabled) by /proc/cgroups."""
    try:
        lines = calls.read_file("/proc/cgroups").splitlines()[1:]
    except KernelError:
        return {}
    fields = [line.split() for line in lines]
    return {one[0]: (int(one[1]), one[3] == "1") for one in fields if len(one) > 3}


def _absent(case: Case, name: str) -> str:
    known = _kernel_list()
    if name not in known:
        return (
            "the kernel has no such v1 controller"
            if case.host.cgroups.mode != "v2"
            else "not in the v2 hierarchy"
        )
    if not known[name][1]:
        return "switched off on the kernel's command line"
    return "in no hierarchy that is mounted here"


def _mount_command(case: Case, name: str) -> str:
    if case.is_root and is_nested("user"):
        return OUTSIDE
    known = _kernel_list()
    if name not in known:
        return f"a kernel with CONFIG_{CONFIG[name]}"
    if not known[name][1]:
        return f"boot with cgroup_enable={name} (and without cgroup_disable={name})"
    if case.host.cgroups.mode == "v2":
        return f"a v1 hierarchy has it: umount that, or boot with cgroup_no_v1={name}"
    place = f"/sys/fs/cgroup/{name}"
    return case.as_root(f"sh -c 'mkdir -p {place} && mount -t cgroup -o {name} none {place}'")


def _delegate(case: Case, found: Trial) -> str:
    """The command that gives the caller a group of its own."""
    if case.is_root:
        if found.made is not None and found.made.errno == EROFS and not is_nested("user"):
            return f"mount -o remount,rw {found.hierarchy.mountpoint}"
        return OUTSIDE
    if found.is_v2 and os.path.isdir("/run/systemd/system"):
        return "systemd-run --user --scope -p Delegate=yes minibox ..."
    name, owner = case.host.user or str(case.euid), f"{case.euid}:{case.egid}"
    # The shell ($$, which is $0 in there) goes in too: on v1 containers come below its group; on v2 a move
    # needs rights to a group above both ends, and what hands controllers down has no processes itself.
    if found.is_v2:
        wanted = " ".join(f"+{one}" for one in LIMITING if one in found.hierarchy.controllers)
        return (
            f'sudo sh -c \'cd {found.hierarchy.mountpoint} && echo "{wanted}" >cgroup.subtree_control && '
            f"mkdir -p {name}/shell && chown -R {owner} {name} && echo $0 >{name}/shell/cgroup.procs' $$"
        )
    places = [
        one.parent
        for one in case.groups.values()
        if one.made is not None and any(used in LIMITING for used in one.hierarchy.controllers)
    ]
    return (
        f"sudo sh -c 'for d in {' '.join(places)}; do mkdir -p $d/{name} && chown -R {owner} $d/{name} && "
        f"for f in cpuset.cpus cpuset.mems; do [ ! -e $d/$f ] || cat $d/$f >$d/{name}/$f; done && "
        f"echo $0 >$d/{name}/cgroup.procs; done' $$"
    )


def clone_into(case: Case) -> Finding:
    """CLONE_INTO_CGROUP, Linux 5.7."""
    found = _v2(case)
    if found is None or (case.host.cgroups.mode != "v2" and (found.made or found.born_inside)):
        return report.unneeded("v2's: on v1 a container moves itself into its group")
    if found.made is not None:
        return _no_group(case, found, found.made)
    if found.born_inside is not None:
        mend = NEWER if found.born_inside.errno in (7, 22, 38) else _delegate(case, found)
        return report.missing(str(found.born_inside), "no container can be made", mend, needed=True)
    return report.ok("a child is born in its group")


def _no_group(case: Case, found: Trial, error: KernelError) -> Finding:
    fact = f"{found.parent}: no group can be made or entered ({errno_name(error.errno)})"
    return report.limited(fact, "containers have no group", _delegate(case, found))


def kill(case: Case) -> Finding:
    """cgroup.kill, Linux 5.14."""
    found = _v2(case)
    if found is None or (case.host.cgroups.mode != "v2" and (found.made or found.entered or found.killed)):
        return report.unneeded("v2's: on v1 processes of a group are killed one by one")
    failure = found.made or found.entered
    if failure is not None:
        return _no_group(case, found, failure)
    if found.killed is not None:
        return report.limited(str(found.killed), "processes are killed one by one", NEWER)
    return report.ok("all processes of a group are killed at once")


def _v2(case: Case) -> Trial | None:
    hierarchy: Hierarchy | None = case.host.cgroups.v2
    return None if hierarchy is None else case.groups[hierarchy.mountpoint]


CHECKS = (
    Check("cgroup.mode", mode),
    *(Check(f"cgroup.{name}", controller(name)) for name in LIMITING),
    *(Check(f"cgroup.{v2 or v1}", other(v1, v2)) for v1, v2 in OTHERS),
    Check("cgroup.clone-into", clone_into),
    Check("cgroup.kill", kill),
)
