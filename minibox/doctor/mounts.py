"""File systems: those that a container mounts, overlay, id maps, devices, terminals."""

from __future__ import annotations

import os

from minibox.doctor import report, trial
from minibox.doctor.kernel import AROUND, NEWER, not_tried
from minibox.doctor.report import Check
from minibox.doctor.sandbox import write_maps
from minibox.doctor.users import APPARMOR, why_not
from minibox.errors import KernelError
from minibox.kernel import calls, userns
from minibox.kernel import consts as c
from minibox.kernel.host import IDMAPPED_SINCE, magic_of
from minibox.plan import ops
from minibox.plan.context import Context
from minibox.spec import defaults

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from minibox.doctor.case import Case
    from minibox.doctor.report import Finding

EPERM, EACCES, EINVAL, ENODEV = 1, 13, 22, 19
UNMASK = (
    "run the container around this one with --security-opt systempaths=unconfined (docker) "
    "or --security-opt unmask=ALL (podman)"
)


def mount(step: str, text: str, option: str) -> Callable[[Case], Finding]:
    """A file system that every container mounts; `option` is what can be done without it, if anything."""

    def find(case: Case) -> Finding:
        if not case.sandbox.tried(step):
            return not_tried(case)
        error = case.sandbox.failure(step)
        if error is None:
            return report.ok(text)
        mend = why_not(case, error)
        if step == "proc" and error.errno == EPERM and covered(case):
            mend = UNMASK
        elif step == "sysfs" and error.errno == EPERM and not case.setting(APPARMOR):
            mend = "a file system is mounted over a part of /sys: umount it, or run minibox outside"
        elif error.errno == ENODEV:
            mend = f"a kernel with {step}"
        return report.missing(str(error), option or "no container can be made", mend, needed=not option)

    return find


def binds(case: Case) -> Finding:
    """The host's mounts as detached copies: root's are taken before the clone, a user's after it."""
    if case.is_root:
        try:
            trial.attempt(lambda: os.close(calls.open_tree(c.AT_FDCWD, "/", c.OPEN_TREE_CLONE)))
        except KernelError as error:
            return report.missing(
                str(error), "no container can be made",
                "this root has no rights over its mounts: run minibox outside of the container around it",
                needed=True,
            )  # fmt: skip
    return mount("open_tree", "the host's mounts can be bound", "")(case)


def covered(case: Case) -> list[str]:
    """What is mounted below /proc over a file of it: a new procfs would show what that hides, so the kernel
    refuses it to a user namespace (mount_too_revealing).  Empty directories may be mounted over."""
    found = []
    for one in case.mounts:
        if not one.mountpoint.startswith("/proc/"):
            continue
        if one.mountpoint in ("/proc/sys/fs/binfmt_misc", "/proc/fs/nfsd", "/proc/openprom", "/proc/xen"):
            continue
        found.append(one.mountpoint)
    return found


def proc_whole(case: Case) -> Finding:
    """Is all of /proc visible here?"""
    if not os.path.exists("/proc/self"):
        return report.missing(
            "no procfs is mounted on /proc", "no container can be made",
            case.as_root("mount -t proc proc /proc"), needed=True,
        )  # fmt: skip
    hidden = covered(case)
    hidepid = [
        option for one in case.mounts if one.mountpoint == "/proc" for option in one.super_options
        if option.startswith(("hidepid=", "subset="))
    ]  # fmt: skip
    shown = " ".join(hidden[:4]) + (f" and {len(hidden) - 4} more" if len(hidden) > 4 else "")
    if not hidden:
        return report.ok("all of it is visible" + (f" ({' '.join(hidepid)})" if hidepid else ""))
    if case.sandbox.tried("proc") and case.sandbox.failure("proc") is None:
        return report.ok(f"{shown} mounted over, which is no hindrance")
    return report.limited(f"mounted over: {shown}", "the kernel refuses a new /proc to containers", UNMASK)


# --- overlay and id maps -----------------------------------------------------------------------------


class Unusable(Exception):
    """An overlay that is mounted and does not work: its upper layer has no user.* attributes."""


def overlay(case: Case) -> Finding:
    """An overlay in a user namespace whose upper layer is where layers are kept, made as a container's is."""
    place = trial.existing(case.store.data)
    kind = case.mount_of(place).kind
    text = f"on {place} ({kind})"
    try:
        with trial.scratch(place) as directory:
            _try_overlay(case, directory)
    except KernelError as error:
        if error.errno in (EACCES, EPERM, 30) and error.syscall == "mkdirat":
            return report.Finding(status=report.UNKNOWN, fact=f"not tried: {error}; see store.data")
        steps = ("create", "maps", "mount", "staging")
        if any(not case.sandbox.tried(step) or case.sandbox.failure(step) for step in steps):
            return not_tried(case)
        return _no_overlay(case, f"{text}: {error}", place, error)
    except Unusable as error:
        return report.limited(
            f"{text}: mounted, but {error}",
            "a container cannot replace every file or directory of ROOTFS (EIO)",
            "minibox --data-root DIR ... with a DIR on ext4, xfs or btrfs (tmpfs: since Linux 6.6)",
        )
    if not case.host.can_overlay:
        return report.limited(f"{text}: works, though not expected", "ROOTFS is copied", "report it")
    return report.ok(f"{text}: an upper layer works in a user namespace (userxattr)")


def _no_overlay(case: Case, fact: str, place: str, error: KernelError) -> Finding:
    if error.errno == ENODEV:
        mend = case.as_root("modprobe overlay")
    else:
        mend = "minibox --data-root DIR ... with a DIR on ext4, xfs, btrfs or tmpfs"
    if case.host.can_overlay:  # a container would try it, and fail
        return report.missing(fact, "no container can be made with its layer there", mend, needed=True)
    return report.limited(fact, "each container copies ROOTFS: slow, and as much disk again", mend)


def _try_overlay(case: Case, directory: str) -> None:
    """The steps of a Plan, by the same operations; then a change to a file of the lower layer."""
    lower, layer = f"{directory}/lower", f"{directory}/layer"
    for path in (lower, f"{lower}/kept", layer):
        calls.mkdirat(c.AT_FDCWD, path, 0o755)
    with open(f"{lower}/gone", "w", encoding="ascii") as file:
        file.write("lower\n")
    ctx = Context()
    uid = case.maps[0][1] if case.is_root else case.euid
    for path in (f"{layer}/upper", f"{layer}/work"):
        calls.mkdirat(c.AT_FDCWD, path, 0o755)
    if case.is_root:
        for path in (lower, f"{lower}/kept", f"{lower}/gone", layer, f"{layer}/upper", f"{layer}/work"):
            calls.os_call("chown", os.chown, path, uid, uid)
        _open_layers(ctx, lower, layer, recursive=False)

    def work(child: trial.Child) -> None:
        if not child.hear().get("go"):
            return
        calls.setresgid(0)
        calls.setresuid(0)
        staging = case.host.staging
        ops.SetPropagation(path="/", propagation="private").perform(ctx)
        if not case.is_root:
            _open_layers(ctx, lower, layer, recursive=True)
        ops.MountStaging(path=staging, directories=("lower", "layer", "root")).perform(ctx)
        for place, name in (("lower", "root.lower"), ("layer", "root.layer")):
            ops.AttachTree(name=name, place=place).perform(ctx)
        ops.MountOverlay(
            lower=f"{staging}/lower",
            upper=f"{staging}/layer/upper",
            work=f"{staging}/layer/work",
            attributes=("nosuid", "nodev"),
            user_xattr=True,
        ).perform(ctx)
        root = ctx.fd("root")
        child.tell({"mounted": True})
        # A whiteout, an opaque directory and a new file are all that an upper layer has to be able to keep.
        calls.os_call("unlinkat", os.unlink, "gone", dir_fd=root)
        calls.os_call("unlinkat", os.rmdir, "kept", dir_fd=root)
        calls.mkdirat(root, "kept", 0o755)
        os.close(calls.openat(root, "new", os.O_CREAT | os.O_WRONLY, 0o644))
        child.tell({"done": True})

    try:
        _in_user_namespace(case, work)
    finally:
        for fd in ctx.fds.values():
            os.close(fd)


def _open_layers(ctx: Context, lower: str, layer: str, *, recursive: bool) -> None:
    for path, name in ((lower, "root.lower"), (layer, "root.layer")):
        ops.OpenTree(path=path, name=name, recursive=recursive).perform(ctx)


def _in_user_namespace(case: Case, work: Callable[[trial.Child], None]) -> None:
    """A child with the ids and mounts of a container.  Raises KernelError, and Unusable when it comes
    after the first thing that the child tells."""
    with trial.Child(work, flags=c.CLONE_NEWUSER | c.CLONE_NEWNS) as child:
        write_maps(child.pid, case.maps, is_root=case.is_root)
        child.tell({"go": True})
        if not child.hear():
            raise KernelError(4, "the child", (f"ended by {child.wait()}",))
        try:
            child.hear()
        except KernelError as error:
            raise Unusable(str(error)) from None


def idmapped(case: Case) -> Finding:
    """ROOTFS (or where layers are kept) shown through an id map."""
    place = case.rootfs or trial.existing(case.store.data)
    kind = case.mount_of(place).kind
    text = f"on {place} ({kind})"
    if not case.is_root:
        return report.unneeded("root's: your own files belong to a container's root without")
    namespace = -1
    try:
        try:
            namespace = userns.descriptor(case.maps, case.maps)
        except KernelError:  # ids that there are not here, see userns.maps
            namespace = userns.descriptor(((0, 0, 1),), ((0, 0, 1),))
        tree = calls.open_tree(c.AT_FDCWD, place, c.OPEN_TREE_CLONE)
        try:
            calls.mount_setattr(tree, "", c.AT_EMPTY_PATH, set=c.MOUNT_ATTR_IDMAP, userns=namespace)
        finally:
            os.close(tree)
    except KernelError as error:
        if namespace < 0:
            return not_tried(case)
        since = IDMAPPED_SINCE.get(magic_of(place))
        mend = "put ROOTFS on ext4, xfs or btrfs"
        if error.errno == EPERM:
            mend = "this root does not own the file system: run minibox outside of the container around it"
        if since is not None and case.host.release < since:
            mend = f"Linux {since[0]}.{since[1]} can: {NEWER}"
        if case.host.can_idmap(magic_of(place)):
            return report.missing(f"{text}: {error}", "no container can be made from it", mend, needed=True)
        return report.limited(
            f"{text}: {error}", "containers copy ROOTFS; no --writable, no -v ...:idmap of it", mend
        )
    finally:
        if namespace >= 0:
            os.close(namespace)
    if not case.host.can_idmap(magic_of(place)):
        return report.limited(f"{text}: works, though not expected", "ROOTFS is copied", "report it")
    return report.ok(f"{text}: files are shown with other owners")


# --- devices -----------------------------------------------------------------------------------------


def devices(case: Case) -> Finding:
    """The nodes that a container gets, taken as mounts and looked at."""
    wrong = {}
    for name in defaults.DEVICES:
        if case.sandbox.tried(f"dev.{name}"):
            error = case.sandbox.failure(f"dev.{name}")
            if error is not None:
                wrong[name] = str(error)
        elif not _is_device(name):
            wrong[name] = "not the device it should be"
    if not wrong:
        return report.ok(" ".join(f"/dev/{name}" for name in defaults.DEVICES))
    commands = [
        f"{{ rm -f /dev/{name}; mknod -m 666 /dev/{name} c {ops.DEVICE_NUMBERS[name][0]} "
        f"{ops.DEVICE_NUMBERS[name][1]}; }}"
        for name in wrong
    ]
    command = " && ".join(commands)
    return report.missing(
        "; ".join(f"/dev/{name}: {said}" for name, said in wrong.items()),
        "no container can be made",
        command if case.is_root else f"sudo sh -c '{command}'",
        needed=True,
    )


def _is_device(name: str) -> bool:
    try:
        status = os.stat(f"/dev/{name}")
    except OSError:
        return False
    number = (os.major(status.st_rdev), os.minor(status.st_rdev))
    return status.st_mode & 0o170000 == 0o020000 and number == ops.DEVICE_NUMBERS[name]


def terminals(case: Case) -> Finding:
    """A pty of a new devpts; all of the host share one limit."""
    used, most = case.setting("kernel/pty/nr"), case.setting("kernel/pty/max")
    reserve = case.setting("kernel/pty/reserve") or 0
    fact = f"{used} of {most} in use, {reserve} of them kept for the host"
    more = case.as_root(f"sysctl -w kernel.pty.max={max(4096, 2 * (most or 0))}")
    error = case.sandbox.failure("pty") if case.sandbox.tried("pty") else None
    if error is not None:
        mend = more if error.errno in (28, 5) else AROUND
        return report.limited(f"{fact}: {error}", "no terminal in a container: run -T, or < /dev/null", mend)
    if used is not None and most is not None and most - reserve - used < 16:
        return report.limited(fact, f"{max(0, most - reserve - used)} more terminals in containers", more)
    return report.ok(fact)


CHECKS = (
    Check("mount.private", mount("private", "mounts are taken out of the host's sight", "")),
    Check("mount.tmpfs", mount("staging", "a tmpfs is mounted", "")),
    Check("mount.binds", binds),
    Check("mount.proc", mount("proc", "a fresh procfs", "")),
    Check("mount.proc-whole", proc_whole),
    Check("mount.sysctl", mount("sysctl", "a setting of the namespace is written through it", "")),
    Check("mount.sysfs", mount("sysfs", "a fresh sysfs", "")),
    Check("mount.mqueue", mount("mqueue", "a fresh mqueue", "")),
    Check("mount.devpts", mount("devpts", "a fresh devpts", "")),
    Check("mount.overlay", overlay),
    Check("mount.idmapped", idmapped),
    Check("host.devices", devices),
    Check("host.ptys", terminals),
)
