"""User namespaces, the other namespaces, and ids."""

from __future__ import annotations

import os
import stat

from minibox.doctor import report
from minibox.doctor.kernel import AROUND, not_tried
from minibox.doctor.report import Check
from minibox.errors import KernelError, StateError
from minibox.kernel import calls, idmap, userns
from minibox.kernel import consts as c
from minibox.runtime import hints
from minibox.store import ids

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from minibox.doctor.case import Case
    from minibox.doctor.report import Finding

MAX_USER = "user/max_user_namespaces"
UNPRIVILEGED = "kernel/unprivileged_userns_clone"
APPARMOR = "kernel/apparmor_restrict_unprivileged_userns"
ENOSPC, EUSERS = 28, 87
OUTSIDE = "run minibox outside of the container around this one, which forbids it in here"
#: what root of a container can be expected to have: the range that useradd gives
USUAL_RANGE = 65536
WORK_OF = {
    "mount": "a file system of its own",
    "pid": "processes of its own",
    "net": "a network of its own",
    "uts": "a host name of its own",
    "ipc": "shared memory and queues of its own",
    "cgroup": "its own cgroup as the top",
    "time": "clocks of its own (--timens)",
}


def _sysctl(case: Case, path: str, value: int) -> str:
    if case.is_root and not os.access(f"/proc/sys/{path}", os.W_OK):  # read-only: a container's
        return OUTSIDE
    return case.as_root(f"sysctl -w {path.replace('/', '.')}={value}")


# --- user namespaces ---------------------------------------------------------------------------------


def max_user_namespaces(case: Case) -> Finding:
    """The quota of this user namespace; those around it have their own."""
    value = case.setting(MAX_USER)
    if value is None and os.path.exists("/proc/self"):
        return report.missing(
            f"/proc/sys/{MAX_USER} is not there",
            "no user namespaces",
            "a kernel with CONFIG_USER_NS",
            needed=True,
        )
    if value is None:
        return report.Finding(status=report.UNKNOWN, fact=f"{report.NOT_TRIED} /proc is not mounted")
    if value == 0:
        return report.missing(
            f"{MAX_USER.replace('/', '.')} = 0", "no container can be made", _sysctl(case, MAX_USER, 15000),
            needed=True,
        )  # fmt: skip
    if value < 64:
        return report.limited(
            f"{MAX_USER.replace('/', '.')} = {value}",
            f"{value} user namespaces of a user at once, and as many containers",
            _sysctl(case, MAX_USER, 15000),
        )
    return report.ok(f"{MAX_USER.replace('/', '.')} = {value}")


def unprivileged_clone(case: Case) -> Finding:
    """A switch that only Debian's and Arch's kernels have."""
    value = case.setting(UNPRIVILEGED)
    if value is None:
        return report.unneeded(f"this kernel has no {UNPRIVILEGED.replace('/', '.')}")
    fact = f"{UNPRIVILEGED.replace('/', '.')} = {value}"
    if value:
        return report.ok(fact)
    if case.is_root:
        return report.limited(fact, "ordinary users can make no containers", _sysctl(case, UNPRIVILEGED, 1))
    return report.missing(fact, "no container can be made", _sysctl(case, UNPRIVILEGED, 1), needed=True)


def apparmor(case: Case) -> Finding:
    """Ubuntu's: creating succeeds, what comes then is refused; unless a profile allows it."""
    value = case.setting(APPARMOR)
    if value is None:
        return report.unneeded(f"this kernel has no {APPARMOR.replace('/', '.')}")
    fact = f"{APPARMOR.replace('/', '.')} = {value}"
    if not value:
        return report.ok(fact)
    mend = _sysctl(case, APPARMOR, 0)
    if case.is_root:
        return report.limited(fact, "ordinary users can make no containers", mend)
    if case.sandbox.tried("private") and case.sandbox.failure("private") is None:
        return report.ok(f"{fact}, but a profile lets this program mount all the same")
    return report.limited(fact, "the steps after the creation are refused: see below", mend)


def why_not(case: Case, error: KernelError) -> str:
    """The command that mends a refused user namespace, or one of the steps in it."""
    if case.setting(MAX_USER) == 0:
        return _sysctl(case, MAX_USER, 15000)
    if not case.is_root and case.setting(UNPRIVILEGED) == 0:
        return _sysctl(case, UNPRIVILEGED, 1)
    if not case.is_root and case.setting(APPARMOR):
        return _sysctl(case, APPARMOR, 0)
    if error.errno in (ENOSPC, EUSERS):
        return (
            "the quota of a user namespace around this one is used up, or namespaces are nested 32 deep: "
            + _sysctl(case, MAX_USER, 15000)
            + " out there"
        )
    return AROUND


def create(case: Case) -> Finding:
    """By clone3."""
    error = case.sandbox.failure("create")
    if error is None:
        return report.ok("a user namespace can be made")
    return report.missing(
        f"{error}", f"{hints.NO_USERNS}: no container can be made", why_not(case, error), needed=True
    )


def maps(case: Case) -> Finding:
    """The map that a container would have (an ordinary user's range: see ids.newuidmap)."""
    if not case.sandbox.tried("maps"):
        return not_tried(case)
    error = case.sandbox.failure("maps")
    first, outside, size = case.maps[0]
    if error is None:
        return report.ok(
            f"{size} {'id' if size == 1 else 'ids'} from {outside} on can be mapped, {first} inside"
        )
    mend = why_not(case, error)
    if case.is_root and not _is_mapped(outside, size):
        mend = OUTSIDE
    return report.missing(str(error), "no container can be made", mend, needed=True)


def _is_mapped(first: int, size: int) -> bool:
    """Whether the caller's own user namespace has all of these ids."""
    try:
        lines = calls.read_file("/proc/self/uid_map").splitlines()
    except KernelError:
        return True
    ranges = [tuple(map(int, line.split())) for line in lines]
    return any(start <= first and first + size <= start + count for start, _outside, count in ranges)


# --- the others --------------------------------------------------------------------------------------


def namespace(kind: str) -> Callable[[Case], Finding]:
    """One kind, made in the user namespace."""

    def find(case: Case) -> Finding:
        if not case.sandbox.tried(kind):
            return not_tried(case)
        error = case.sandbox.failure(kind)
        needed = kind != "time"
        if error is not None:
            mend = why_not(case, error)
            quota = f"user/max_{c.NAMESPACES[kind][1]}_namespaces"
            if case.setting(quota) == 0:
                mend = _sysctl(case, quota, 15000)
            elif error.errno == 22:  # EINVAL: not compiled in
                mend = "a kernel with " + (
                    "CONFIG_TIME_NS (5.6)" if kind == "time" else f"CONFIG_{kind.upper()}_NS"
                )
            consequence = "no container can be made" if needed else f"a container cannot have {WORK_OF[kind]}"
            return report.missing(str(error), consequence, mend, needed=needed)
        return _more(case, kind)

    return find


def _more(case: Case, kind: str) -> Finding:
    """What is done in a namespace as soon as there is one."""
    step = {"net": "loopback", "uts": "hostname", "time": "time.offsets"}.get(kind)
    error = case.sandbox.failure(step) if step and case.sandbox.tried(step) else None
    if error is not None:
        return report.limited(
            f"can be made, but: {error}", f"a container cannot have {WORK_OF[kind]}", AROUND
        )
    return report.ok(f"{WORK_OF[kind]}")


# --- ids ---------------------------------------------------------------------------------------------


def pool(case: Case) -> Finding:
    """Root's: the pool that store/ids.py hands ranges out of."""
    if not case.is_root:
        return report.unneeded("root's containers take their ids from a pool; yours have your own")
    mend = f"echo {ids.OWNER}:{_free_range(1 << 24)}:{1 << 24} | tee -a /etc/subuid /etc/subgid"
    try:
        first, count = case.pool
        slot, _next = ids.peek(case.store.run)
    except StateError as error:
        return report.missing(str(error), "no container can be made", mend, needed=True)
    slots = count // ids.RANGE
    try:
        used = sum(name.isdigit() for name in os.listdir(f"{case.store.run}/ids"))
    except OSError:
        used = 0
    fact = f"{slots} ranges of {ids.RANGE} from {first} on, {used} in use, next is {slot}"
    if not _is_mapped(first, count):
        return report.missing(
            f"{fact}; this user namespace does not have these ids",
            "no container can be made with a range of its own",
            OUTSIDE,
            needed=True,
        )
    if slots - used < 16:
        return report.limited(fact, f"{slots - used} more containers", "minibox ps; minibox rm ID...")
    return report.ok(fact)


def subordinate(kind: str) -> Callable[[Case], Finding]:
    """The ranges that /etc/subuid or /etc/subgid gives the caller."""

    def find(case: Case) -> Finding:
        path = f"/etc/sub{kind}"
        if case.is_root:
            return report.unneeded("an ordinary user's: root's containers take their ids from a pool")
        ranges = case.host.subuid if kind == "uid" else case.host.subgid
        total = sum(count for _first, count in ranges)
        shown = " ".join(f"{first}:{count}" for first, count in ranges)
        mend = _give_range(case)
        if not ranges:
            return report.missing(
                f"{path} gives {case.who} no range",
                "the container has one id: programs that change to another user fail",
                mend,
            )
        if ranges[0][1] < USUAL_RANGE:
            return report.limited(
                f"{path} gives {case.who} {shown}",
                f"the container has {ranges[0][1]} ids: files of ids above that belong to nobody",
                mend,
            )
        more = f" ({total} in all; the first is used)" if len(ranges) > 1 else ""
        return report.ok(f"{path} gives {case.who} {shown}{more}")

    return find


def _give_range(case: Case) -> str:
    """usermod, or a line by number for a user without an account."""
    first, last = _free_range(USUAL_RANGE), _free_range(USUAL_RANGE) + USUAL_RANGE - 1
    if not case.host.user:
        return f"echo {case.euid}:{first}:{USUAL_RANGE} | sudo tee -a /etc/subuid /etc/subgid"
    return f"sudo usermod --add-subuids {first}-{last} --add-subgids {first}-{last} {case.host.user}"


def _free_range(size: int) -> int:
    """The first id of a range behind all that are given, so that no two users share an id."""
    first = 100_000
    for path in ("/etc/subuid", "/etc/subgid"):
        try:
            lines = calls.read_file(path).splitlines()
        except KernelError:
            continue
        for line in lines:
            start, _, count = line.strip().partition(":")[2].partition(":")
            if start.isdigit() and count.isdigit():
                first = max(first, int(start) + int(count))
    return -(-first // size) * size if size > USUAL_RANGE else first


def tool(kind: str) -> Callable[[Case], Finding]:
    """newuidmap or newgidmap: there, allowed to do it, and doing it."""
    name = f"new{kind}map"

    def find(case: Case) -> Finding:
        if case.is_root:
            return report.unneeded("an ordinary user's: root writes maps itself")
        path = idmap.find_tool(name)
        consequence = "the container has one id: programs that change to another user fail"
        if not path:
            install = case.package(
                debian="uidmap", fedora="shadow-utils", arch="shadow", alpine="shadow-uidmap", suse="shadow"
            )
            return report.missing(f"{name} is not in PATH", consequence, install)
        right = _right(path)
        if not right:
            return report.limited(
                f"{path} is neither set-uid root nor has it CAP_SET{kind.upper()}",
                consequence,
                case.as_root(f"chmod u+s {path}"),
            )
        if not (case.host.subuid and case.host.subgid):
            return report.unneeded(f"{path}, {right}; there is no range to map")
        return _use_tools(case, name, f"{path}, {right}")

    return find


def _right(path: str) -> str:
    """ "set-uid root" or "with file capabilities"; "" when it has no right at all."""
    status = os.stat(path)
    if status.st_mode & stat.S_ISUID and status.st_uid == 0:
        return "set-uid root"
    try:
        os.getxattr(path, "security.capability")
    except OSError:
        return ""
    return "with file capabilities"


def _use_tools(case: Case, name: str, text: str) -> Finding:
    """Map the whole range, as a container's would be."""
    uids, gids = case.host.subuid[0], case.host.subgid[0]
    uid_maps = ((0, case.euid, 1), (1, *uids))
    gid_maps = ((0, case.egid, 1), (1, *gids))
    tools = (idmap.find_tool("newuidmap"), idmap.find_tool("newgidmap"))
    if not all(tools):
        return report.unneeded(f"{text}; the other one is missing")
    try:
        userns.run_inside(uid_maps, gid_maps, tools, lambda: None)
    except KernelError as error:
        if error.syscall in ("newuidmap", "newgidmap") and error.syscall != name:
            return report.ok(f"{text}; see {error.syscall}")
        said = str(error.operands[-1]) if error.operands else str(error)
        mend = case.as_root("sh -c 'chmod u+s /usr/bin/newuidmap /usr/bin/newgidmap'")
        if case.status("NoNewPrivs") == "1":
            mend = "run minibox outside of the sandbox that set no_new_privs"
        elif "nosuid" in case.mount_of(tools[0]).options:
            mend = case.as_root(f"mount -o remount,suid {case.mount_of(tools[0]).mountpoint}")
        elif case.setting(APPARMOR) or case.setting(MAX_USER) == 0 or case.setting(UNPRIVILEGED) == 0:
            mend = why_not(case, error)
        return report.missing(
            f"{text}, does not work: {said}", "no container can be made with the range", mend, needed=True
        )
    return report.ok(f"{text}, maps the range")


CHECKS = (
    Check("userns.max", max_user_namespaces),
    Check("userns.unprivileged", unprivileged_clone),
    Check("userns.apparmor", apparmor),
    Check("userns.create", create, needed=True),
    Check("userns.maps", maps),
    *(Check(f"namespace.{kind}", namespace(kind)) for kind in WORK_OF),
    Check("ids.pool", pool),
    Check("ids.subuid", subordinate("uid")),
    Check("ids.subgid", subordinate("gid")),
    Check("ids.newuidmap", tool("uid")),
    Check("ids.newgidmap", tool("gid")),
)
