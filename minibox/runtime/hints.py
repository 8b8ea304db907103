"""What to do about an error: one table, keyed by (operation, errno, fact), for what people run into most."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from minibox.errors import StepError
    from minibox.kernel.host import Host
    from minibox.plan.model import Step

    Fact = Callable[[Step, Host], bool]

EPERM, ENOENT, E2BIG, ENOEXEC, EACCES, EEXIST, ENOTDIR = 1, 2, 7, 8, 13, 17, 20
EINVAL, ENOSPC, EROFS, ELOOP, EUSERS, EDQUOT, EAGAIN, ENOSYS = 22, 28, 30, 40, 87, 122, 11, 38


def _always(_step: Step, _host: Host) -> bool:
    return True


def _rootless(_step: Step, host: Host) -> bool:
    return not host.is_root


def _setting(path: str, value: str) -> Fact:
    def holds(_step: Step, _host: Host) -> bool:
        try:
            with open(path, encoding="ascii") as file:
                return file.read().strip() == value
        except OSError:
            return False

    return holds


def _operand(name: str, value: str) -> Fact:
    return lambda step, _host: getattr(step.op, name, None) == value


NO_USERNS = "user namespaces are forbidden here"
DOCTOR = "minibox doctor says what this host allows, and what mends it"
#: operations that need nothing of ROOTFS or of the flags: what refuses them is the host
OF_THE_HOST = ("Clone", "WriteIdMap", "SetPropagation", "MountStaging", "OpenProc", "MountFs", "MountOverlay")
TABLE: tuple[tuple[str, tuple[int, ...], Fact, str], ...] = (
    (
        "Clone",
        (EPERM, ENOSPC),
        _setting("/proc/sys/user/max_user_namespaces", "0"),
        f"{NO_USERNS}: sysctl -w user.max_user_namespaces=15000",
    ),
    (
        "Clone",
        (EPERM,),
        _setting("/proc/sys/kernel/unprivileged_userns_clone", "0"),
        f"{NO_USERNS} to ordinary users: sysctl -w kernel.unprivileged_userns_clone=1",
    ),
    ("Clone", (ENOSPC, EUSERS), _always, "too many namespaces: see /proc/sys/user/max_*_namespaces"),
    (
        "Clone",
        (EPERM,),
        _rootless,
        f"{NO_USERNS} to ordinary users, perhaps by a container or a sandbox around this one: minibox doctor",
    ),
    ("Clone", (EAGAIN,), _always, "too many processes: see ulimit -u and pids.max of the cgroup"),
    (
        "Clone",
        (16,),
        _always,
        "the cgroup has controllers for its children and so takes no process itself: see cgroups(7)",
    ),
    (
        "Clone",
        (EACCES,),
        _always,
        "no cgroup above the caller's and the container's is delegated: go where it was started",
    ),
    (
        "WriteIdMap",
        (EPERM,),
        lambda step, _host: bool(getattr(step.op, "tool", "")),
        "the ranges must be the caller's in /etc/subuid, and newuidmap set-uid root: minibox doctor tries it",
    ),
    (
        "WriteIdMap",
        (EPERM,),
        _rootless,
        "an ordinary user maps its own id alone, or ranges of /etc/subuid: leave --uidmap out",
    ),
    (
        "OpenProc",
        (EPERM,),
        _always,
        (
            "a fresh /proc needs the caller's own to be visible whole; in a container some is masked: "
            "run that one with --security-opt systempaths=unconfined; minibox doctor names what is masked"
        ),
    ),
    (
        "MountFs",
        (EPERM,),
        _operand("kind", "sysfs"),
        "sysfs belongs to the network namespace: its user namespace has to be shared too",
    ),
    (
        "SetPropagation",
        (EACCES, EPERM),
        _setting("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1"),
        "AppArmor restricts user namespaces: sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
    ),
    (
        "AttachProc",
        (ELOOP, ENOTDIR, 18),
        _always,
        "/proc must be mounted on ordinary directory: the root has something else there",
    ),
    (
        "MountFs",
        (ELOOP, ENOTDIR, 18),
        _operand("destination", "/sys"),
        "/sys must be mounted on ordinary directory: the root has something else there",
    ),
    (
        "Bind",
        (ELOOP, ENOTDIR, 18),
        _operand("destination", "/sys"),
        "/sys must be mounted on ordinary directory: the root has something else there",
    ),
    (
        "MountOverlay",
        (EINVAL,),
        _always,
        "overlayfs cannot use these directories: see minibox doctor, or choose others with --data-root",
    ),
    (
        "IdmapTree",
        (EINVAL, EPERM),
        _always,
        "this file system, or this kernel, shows no mount through an id map: minibox doctor ROOTFS",
    ),
    ("OpenTree", (EACCES,), _rootless, "the caller itself may not look there"),
    (
        "OpenTree",
        (EINVAL,),
        _rootless,
        "mounts below it are locked by the caller's own sandbox and cannot be taken apart",
    ),
    (
        "Bind",
        (EEXIST, ENOTDIR, ENOENT),
        _always,
        "the destination is a dangling link, or goes through a file",
    ),
    (
        "Bind",
        (EACCES, EROFS, EPERM),
        _always,
        "the mount point cannot be made in the root: make it there beforehand",
    ),
    (
        "CgroupCreate",
        (EACCES, EPERM, EROFS),
        _always,
        "no permission to make cgroups here: run as root, or delegate as minibox doctor says",
    ),
    (
        "CgroupWrite",
        (16,),
        _always,
        "the group above has processes of its own, so it cannot hand controllers down: see cgroups(7)",
    ),
    (
        "CgroupWrite",
        (ENOENT,),
        _always,
        "this kernel has no such file in its cgroups, or the device that it is for has no such scheduler",
    ),
    (
        "CgroupWriteEither",
        (ENOENT,),
        _always,
        "this kernel has no disk scheduler with weights: neither BFQ nor iocost (io.weight)",
    ),
    (
        "CgroupCreate",
        (ENOENT,),
        _always,
        "the group that --cgroup-parent names has to be there, in every hierarchy that is used",
    ),
    (
        "CgroupWriteEither",
        (95, EINVAL),
        _always,
        "this disk's scheduler knows no weights: echo bfq >/sys/block/DISK/queue/scheduler",
    ),
    ("CgroupWrite", (19,), _always, "no such device, or a partition: limits are for whole disks"),
    (
        "AllowDevices",
        (EPERM,),
        _always,
        "the groups above do not allow it themselves, or root is confined here",
    ),
    ("CgroupWrite", (EACCES, EPERM), _always, "the group is not delegated to the caller: see cgroups(7)"),
    (
        "CgroupLeave",
        (16,),
        _always,
        "start minibox alone in a group of its own: systemd-run --user --scope -p Delegate=yes minibox ...",
    ),
    ("CgroupWrite", (EINVAL, 34), _always, "the kernel refuses this value: see the group above"),
    ("JoinNamespace", (EINVAL,), _always, "the file is no namespace, or one of another kind: see lsns"),
    ("ChangeDirectory", (ENOTDIR,), _always, "--workdir has to be a directory of the container"),
    ("ResolveUser", (0,), _always, "--user and --group-add take numbers, or names of the root's own files"),
    ("SetPropagation", (ENOSYS,), _always, "minibox needs Linux 5.12 or newer, for mount_setattr(2)"),
    ("SetRlimit", (EPERM,), _always, "above the caller's own hard limit: see ulimit -H"),
    (
        "ChangeDirectory",
        (EACCES,),
        _always,
        "the container's root may not enter it: -v SRC:DST:idmap shows a volume as its own",
    ),
    (
        "SetIds",
        (EINVAL,),
        _always,
        "the id is not mapped into the container: an ordinary user without a range in /etc/subuid has one id",
    ),
    (
        "SetIds",
        (EPERM,),
        _rootless,
        "supplementary groups need a range in /etc/subgid for the calling user",
    ),
    ("SetOomScore", (EACCES, EPERM), _always, "less than the caller's own score needs CAP_SYS_RESOURCE"),
    ("MakeLayer", (ENOSPC, EDQUOT), _always, "the disk is full: choose another place with --data-root"),
    ("CopyRoot", (EACCES, EPERM), _rootless, "a copy needs a root that the caller may read, all of it"),
    ("CopyRoot", (ENOSPC, EDQUOT), _always, "the disk is full: choose another place with --data-root"),
    ("SetSysctl", (ENOENT,), _always, "this kernel has no such setting"),
    ("SetSysctl", (EACCES, EPERM), _always, "not a setting of a namespace that the container owns"),
    ("LoadSeccomp", (EINVAL,), _always, "the kernel does not know an action or flag of the profile"),
    (
        "Execute",
        (EACCES,),
        _always,
        "the file is not executable for this user, is a directory, or lies on a noexec mount",
    ),
    ("Execute", (E2BIG,), _always, "the arguments and the environment together are too long"),
    ("Execute", (EPERM,), _always, "is execve in the seccomp profile?"),
    (
        "Execute",
        (ENOEXEC,),
        _always,
        "the file is neither a program for this machine nor a script that begins with #!",
    ),
    ("Execute", (ENOENT,), _always, "is the program in the root? its PATH is the container's"),
)


def find(error: StepError, step: Step | None, host: Host) -> str:
    """The first hint that fits, or ""."""
    if step is None:
        return ""
    operation = type(step.op).__name__
    for name, numbers, fact, text in TABLE:
        if name == operation and error.errno in numbers and fact(step, host):
            return text
    if error.errno == ENOSYS or (operation in OF_THE_HOST and error.errno in (EPERM, EACCES)):
        return DOCTOR
    if error.errno in (ENOSPC, EDQUOT):
        return "the disk, or a limit on it, is full"
    if error.errno == ENOENT and error.what.startswith("lookup"):
        return "a step that this one needs was left out"
    return ""
