"""A child that builds what a container is built of, one thing at a time, and tells how each went.

The order is a container's: user namespace, id maps, time and the other namespaces, root's ids, then, as
PID 1 of a new pid namespace, the mounts.  A step that fails does not stop the next: AppArmor's restriction
lets a user namespace be made and refuses the first mount, a container around this one may refuse /proc alone.
"""

from __future__ import annotations

import os

from minibox.doctor import trial
from minibox.errors import KernelError
from minibox.kernel import calls, userns
from minibox.kernel import consts as c
from minibox.plan import ops
from minibox.plan.context import Context
from minibox.spec import defaults

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from minibox.doctor.case import Case

    Maps = tuple[tuple[int, int, int], ...]

#: made by unshare one by one, since a clone with all flags does not say which one was refused
KINDS = ("mount", "uts", "ipc", "net", "cgroup")


class Outcome:
    """Step -> None where it worked, or the failure; what is not there was never reached."""

    def __init__(self) -> None:
        self.steps: dict[str, KernelError | None] = {}
        self.end = ""  # how the child ended, when it did not end by itself

    def tried(self, step: str) -> bool:
        """Whether there is an answer."""
        return step in self.steps

    def failure(self, step: str) -> KernelError | None:
        """What the kernel said, None when it worked.  Raises LookupError when it was not reached."""
        if step not in self.steps:
            raise LookupError(step)
        return self.steps[step]

    @property
    def first_failure(self) -> str:
        """The step that others were waiting for, or how the child ended."""
        return next((name for name, error in self.steps.items() if error is not None), self.end or "nothing")


class Steps:
    """The child's side: does a thing and tells how it went."""

    def __init__(self, child: trial.Child) -> None:
        self.child = child
        self.ctx = Context()

    def do(self, name: str, work: Callable[[], object]) -> bool:
        """Whether it worked."""
        try:
            work()
        except OSError as error:
            self.child.tell({"step": name, "failure": trial.as_json(error)})
            return False
        self.child.tell({"step": name, "failure": None})
        return True

    def op(self, name: str, operation: ops.Op) -> bool:
        """The same for an operation of a Plan."""
        return self.do(name, lambda: operation.perform(self.ctx))


def build(case: Case) -> Outcome:
    """Build it, throw it away, and say how each step went."""
    found = Outcome()
    staging = case.host.staging
    hierarchies = tuple(one.controllers for one in case.host.cgroups.v1)
    mode = case.host.cgroups.mode

    def work(child: trial.Child) -> None:
        if child.hear().get("go"):
            _inside(Steps(child), staging, hierarchies, mode)

    try:
        child = trial.Child(work, flags=c.CLONE_NEWUSER)
    except KernelError as error:
        found.steps["create"] = error
        return found
    found.steps["create"] = None
    with child:
        try:
            found.steps["maps"] = None
            write_maps(child.pid, case.maps, is_root=case.is_root)
        except KernelError as error:
            found.steps["maps"] = error
            try:  # the one line that needs no right over ids, so that the rest can be tried all the same
                write_maps(child.pid, ((0, case.euid, 1),), is_root=False)
            except KernelError:
                return found
        child.tell({"go": True})
        try:
            while message := child.hear():
                said = message["failure"]
                found.steps[message["step"]] = said and KernelError(
                    said["errno"], said["syscall"], tuple(said["operands"])
                )
        except KernelError as error:
            found.end = str(error)
        status = child.wait()
        if status < 0:
            found.end = f"ended by {trial.signal_name(-status)}"
    return found


def write_maps(pid: int, maps: Maps, *, is_root: bool) -> None:
    """Both maps, uids and gids alike but for an ordinary user's own gid.  Raises KernelError."""
    if is_root:
        userns.write_map(pid, "uid", maps)
        userns.write_map(pid, "gid", maps)
        return
    userns.write_map(pid, "uid", maps)
    calls.write_file(f"/proc/{pid}/setgroups", "deny")
    userns.write_map(pid, "gid", ((maps[0][0], os.getegid(), 1),))


def _inside(steps: Steps, staging: str, hierarchies: tuple[tuple[str, ...], ...], mode: str) -> None:
    # Offsets belong to the ids that the process was cloned with, so the time namespace comes first.
    if steps.op("time", ops.Unshare(kind="time")):
        steps.do("time.offsets", _write_offsets)
    own = {kind: steps.op(kind, ops.Unshare(kind=kind)) for kind in KINDS}
    steps.do("ids", _become_root)
    steps.op("keyring", ops.JoinKeyring())
    if own["uts"]:
        steps.op("hostname", ops.SetHostname(name="doctor"))
    if own["net"]:
        steps.op("loopback", ops.LinkUp(name="lo"))
    if not steps.op("pid", ops.Unshare(kind="pid")):
        return
    pid = os.fork()
    if pid == 0:
        if own["mount"]:
            _mounts(steps, staging, hierarchies, mode)
        os._exit(0)
    os.waitpid(pid, 0)


def _write_offsets() -> None:
    calls.write_file("/proc/self/timens_offsets", "monotonic 86400 0\n")


def _become_root() -> None:
    calls.setresgid(0)
    calls.setresuid(0)


def _mounts(steps: Steps, staging: str, hierarchies: tuple[tuple[str, ...], ...], mode: str) -> None:
    steps.op("private", ops.SetPropagation(path="/", propagation="private"))
    steps.do("tmpfs", lambda: os.close(detached("tmpfs", ("mode=755",))))
    steps.op("staging", ops.MountStaging(path=staging, directories=("root",)))
    steps.do("open_tree", lambda: os.close(_whole_root()))
    steps.op("proc", ops.OpenProc(attributes=("nosuid", "nodev", "noexec")))
    if "proc" in steps.ctx.fds:
        steps.op("sysctl", ops.SetSysctl(name="user/max_user_namespaces", value="0"))
    steps.do("sysfs", lambda: os.close(detached("sysfs")))
    steps.do("mqueue", lambda: os.close(detached("mqueue")))
    steps.do("devpts", lambda: os.close(detached("devpts", ("newinstance", "ptmxmode=0666"))))
    steps.do("pty", _terminal)
    if mode == "v2":
        steps.do("cgroupfs", lambda: os.close(detached("cgroup2")))
    elif hierarchies:
        steps.do("cgroupfs", lambda: os.close(detached("cgroup", _v1_options(hierarchies[0]))))
    for name in defaults.DEVICES:
        steps.do(f"dev.{name}", lambda name=name: _device(name))  # type: ignore[misc]


def _v1_options(controllers: tuple[str, ...]) -> tuple[str, ...]:
    return tuple("none," + one if one.startswith("name=") else one for one in controllers)


def detached(kind: str, options: tuple[str, ...] = ()) -> int:
    """A new mount of a file system, attached nowhere: fsopen(2), fsconfig(2), fsmount(2)."""
    fs = calls.fsopen(kind)
    try:
        for option in (f"source={kind}", *",".join(options).split(",")):
            if option:
                name, equals, value = option.partition("=")
                command = c.FSCONFIG_SET_STRING if equals else c.FSCONFIG_SET_FLAG
                calls.fsconfig(fs, command, name, value if equals else None)
        calls.fsconfig(fs, c.FSCONFIG_CMD_CREATE)
        return calls.fsmount(fs, c.MOUNT_ATTR_NOSUID | c.MOUNT_ATTR_NODEV)
    finally:
        os.close(fs)


def _whole_root() -> int:
    return calls.open_tree(c.AT_FDCWD, "/", c.OPEN_TREE_CLONE | c.AT_RECURSIVE)


def _terminal() -> None:
    """A pty of a new devpts: what `run -t` needs, within the host's limit."""
    devpts = calls.fsopen("devpts")
    try:
        calls.fsconfig(devpts, c.FSCONFIG_SET_STRING, "ptmxmode", "0666")
        calls.fsconfig(devpts, c.FSCONFIG_CMD_CREATE)
        mount = calls.fsmount(devpts, c.MOUNT_ATTR_NOSUID | c.MOUNT_ATTR_NOEXEC)
    finally:
        os.close(devpts)
    os.close(calls.openat(mount, "ptmx", os.O_RDWR | os.O_NOCTTY))
    os.close(mount)


def _device(name: str) -> None:
    """A node of the host's as a mount of its own, and that it is the device it should be."""
    device = calls.open_tree(c.AT_FDCWD, f"/dev/{name}", c.OPEN_TREE_CLONE)
    try:
        status = os.fstat(device)
        number = (os.major(status.st_rdev), os.minor(status.st_rdev))
        if status.st_mode & 0o170000 != 0o020000 or number != ops.DEVICE_NUMBERS[name]:
            raise KernelError(19, "fstat", (f"/dev/{name}", "not the device it should be"))
    finally:
        os.close(device)
