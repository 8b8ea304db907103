"""The operations that a Plan is made of.

Each is a frozen value whose operands are plain (text, numbers, tuples), does one thing in `perform`,
names the system call that does it in `SYSCALL`, and reads as one line in `describe`.  Descriptors are
handed on by name in the Context.  `perform` of a container-side operation runs between clone and
execve: it must not import, and paths of the container are looked up through `kernel.inroot` alone.
"""

from __future__ import annotations

import fcntl
import os
import stat

from minibox.cgroup import detect
from minibox.errors import KernelError, StepError
from minibox.kernel import calls, caps, idmap, inroot, tree, userns, users
from minibox.kernel import consts as c
from minibox.plan.context import Context, Program
from minibox.record import Record
from minibox.spec.values import ATTRIBUTES, PROPAGATION

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, ClassVar


class Op(Record):
    """One thing for the kernel to do.  `perform` may return a word on what it found."""

    SYSCALL: ClassVar[str] = ""

    def describe(self) -> str:
        """The call with its operands, as a person reads it."""
        operands = ", ".join(f"{name}={_shown(value)}" for name, value in self.__dict__.items())
        return f"{self.SYSCALL}({operands})"

    def perform(self, ctx: Context) -> str | None:
        """Do it.  Raises KernelError."""
        raise NotImplementedError


def _shown(value: object) -> str:
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, tuple):
        return "[" + " ".join(str(one) for one in value) + "]"
    return str(value)


def attribute_bits(names: tuple[str, ...]) -> int:
    """MOUNT_ATTR_* of flag names: mount_setattr(2)."""
    bits = 0
    for name in names:
        bits |= ATTRIBUTES[name]
    return bits


def propagation_bit(name: str) -> int:
    """MS_* of a propagation, "private" or "rprivate": how far it reaches is the call's own flag."""
    return PROPAGATION[name if name in PROPAGATION else name.removeprefix("r")]


# --- what is made on the host -------------------------------------------------------------------


class MakeLayer(Op):
    """Private directories for what a container writes, owned by its root."""

    SYSCALL = "mkdirat"
    path: str
    names: tuple[str, ...]
    uid: int
    gid: int

    def perform(self, ctx: Context) -> None:
        calls.os_call("mkdir", os.makedirs, self.path.rpartition("/")[0], 0o700, exist_ok=True)
        calls.mkdirat(c.AT_FDCWD, self.path, 0o700)
        directory = calls.openat(c.AT_FDCWD, self.path, c.O_PATH | os.O_DIRECTORY)
        try:
            for name in (*self.names, "."):  # the directory itself last, while it is still the caller's
                if name != ".":
                    calls.mkdirat(directory, name, 0o755)
                if (self.uid, self.gid) != (os.geteuid(), os.getegid()):
                    calls.os_call("fchownat", os.chown, name, self.uid, self.gid, dir_fd=directory)
        finally:
            os.close(directory)


class RemoveTree(Op):
    """Take away a directory of minibox's own with all that is in it."""

    SYSCALL = "unlinkat"
    path: str
    uid_maps: tuple[tuple[int, int, int], ...] = ()  # an ordinary user's subordinate ids: files may
    gid_maps: tuple[tuple[int, int, int], ...] = ()  # belong to them, and only their namespace may delete
    tools: tuple[str, ...] = ()

    def describe(self) -> str:
        return f'unlinkat("{self.path}"), with all below it'

    def perform(self, ctx: Context) -> None:
        try:
            tree.remove(self.path)
        except KernelError:
            if not self.tools:
                raise
            userns.run_inside(self.uid_maps, self.gid_maps, self.tools, lambda: tree.remove(self.path))
            tree.remove(self.path)


class CopyRoot(Op):
    """A private copy of ROOTFS, its owners shifted to those that the container's id map gives."""

    SYSCALL = "copy_file_range"
    source: str
    target: str
    uid_maps: tuple[tuple[int, int, int], ...]
    gid_maps: tuple[tuple[int, int, int], ...]

    def perform(self, ctx: Context) -> str:
        copied, left_out = tree.copy(self.source, self.target, self.uid_maps, self.gid_maps)
        return f"{copied} files" + (f", {left_out} that may not be read left out" if left_out else "")


class CgroupCreate(Op):
    """A group of the container's own in one hierarchy."""

    SYSCALL = "mkdir"
    directory: str

    def perform(self, ctx: Context) -> None:
        calls.mkdirat(c.AT_FDCWD, self.directory, 0o755)


class CgroupRemove(Op):
    """Take the container's group away; its processes have ended."""

    SYSCALL = "rmdir"
    directory: str

    def perform(self, ctx: Context) -> None:
        tree.remove_cgroup(self.directory)


class CgroupLeave(Op):
    """Make way: minibox's own processes, if nobody else, go from a v2 group into a leaf below it."""

    SYSCALL = "write"
    leaf: str

    def describe(self) -> str:
        return f'mkdir("{self.leaf}"), write("{self.leaf}/cgroup.procs", PID)'

    def perform(self, ctx: Context) -> None:
        own = detect.own_processes()
        found = [int(pid) for pid in calls.read_file(self.leaf.rpartition("/")[0] + "/cgroup.procs").split()]
        if not own.issuperset(found):
            raise KernelError(16, "write", (f"{self.leaf}/cgroup.procs", "others came into the group above"))
        try:
            calls.mkdirat(c.AT_FDCWD, self.leaf, 0o755)
        except KernelError as error:
            if error.errno != 17:
                raise
        for pid in found:
            calls.write_file(f"{self.leaf}/cgroup.procs", str(pid))


class CgroupReturn(Op):
    """Back out of the leaf, unless it or its parent has other uses by now."""

    SYSCALL = "rmdir"
    leaf: str

    def describe(self) -> str:
        return f'write(".../cgroup.procs", PID), rmdir("{self.leaf}")'

    def perform(self, ctx: Context) -> None:
        parent = self.leaf.rpartition("/")[0]
        try:
            found = [int(pid) for pid in calls.read_file(f"{self.leaf}/cgroup.procs").split()]
            with os.scandir(parent) as entries:
                below = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
        except OSError as error:
            if error.errno == 2:
                return
            raise
        if below != [self.leaf] or not {os.getpid()}.issuperset(found):
            return  # of another container, which then does this, or of processes started meanwhile
        for name in calls.read_file(f"{parent}/cgroup.subtree_control").split():
            calls.write_file(f"{parent}/cgroup.subtree_control", f"-{name}")
        for pid in found:
            calls.write_file(f"{parent}/cgroup.procs", str(pid))
        tree.remove_cgroup(self.leaf)


class CgroupWrite(Op):
    """One setting of a group."""

    SYSCALL = "write"
    directory: str
    file: str
    value: str

    def describe(self) -> str:
        return f'write("{self.directory}/{self.file}", "{self.value}")'

    def perform(self, ctx: Context) -> str | None:
        calls.write_file(f"{self.directory}/{self.file}", self.value)
        return None


class CgroupWriteEither(CgroupWrite):
    """One setting of a group that kernels have under two names, with a value for each."""

    other: str
    other_value: str

    def perform(self, ctx: Context) -> str | None:
        try:
            calls.write_file(f"{self.directory}/{self.file}", self.value)
        except KernelError as error:
            if error.errno != 2 or not os.path.exists(f"{self.directory}/{self.other}"):
                raise
            calls.write_file(f"{self.directory}/{self.other}", self.other_value)
            return f"{self.other} = {self.other_value}"
        return None


class AllowDevices(Op):
    """What the processes of a v1 group may do with device nodes: nothing, then these."""

    SYSCALL = "write"
    directory: str
    rules: tuple[str, ...]

    def describe(self) -> str:
        return f'write("{self.directory}/devices.deny", "a"), devices.allow: {"; ".join(self.rules)}'

    def perform(self, ctx: Context) -> None:
        calls.write_file(f"{self.directory}/devices.deny", "a")
        for rule in self.rules:
            calls.write_file(f"{self.directory}/devices.allow", rule)


class FilterDevices(Op):
    """What the processes of a v2 group may do with device nodes: a BPF program of ours, attached to it."""

    SYSCALL = "bpf"
    directory: str
    rules: tuple[str, ...]

    def describe(self) -> str:
        return f'bpf(BPF_PROG_ATTACH, "{self.directory}", BPF_CGROUP_DEVICE): {"; ".join(self.rules)}'

    def perform(self, ctx: Context) -> str:
        from minibox.cgroup import devices  # before the clone, so that it may be imported now

        return f"{devices.attach(self.directory, self.rules)} instructions"


class LimitSwap(CgroupWrite):
    """A limit on swap, which a machine without swap need not be able to keep."""

    def perform(self, ctx: Context) -> str | None:
        try:
            calls.write_file(f"{self.directory}/{self.file}", self.value)
        except KernelError as error:
            if error.errno != 2 or len(calls.read_file("/proc/swaps").splitlines()) > 1:
                raise
            return "this machine has no swap, and counts none"
        return None


class CgroupInherit(Op):
    """A setting that a new v1 cpuset must have before a process may enter, copied from its parent."""

    SYSCALL = "write"
    directory: str
    file: str

    def perform(self, ctx: Context) -> str:
        parent = self.directory.rpartition("/")[0]
        value = calls.read_file(f"{parent}/{self.file}").strip()
        calls.write_file(f"{self.directory}/{self.file}", value)
        return value


class OpenFile(Op):
    """A descriptor of something of the host, kept under a name for a later step."""

    SYSCALL = "openat"
    path: str
    name: str
    write: bool = False

    def perform(self, ctx: Context) -> None:
        flags = os.O_WRONLY if self.write else os.O_RDONLY
        ctx.fds[self.name] = calls.openat(c.AT_FDCWD, self.path, flags)


class OpenTree(Op):
    """A detached copy of a mount of the host: attached to nothing yet, so nobody can race with it."""

    SYSCALL = "open_tree"
    path: str
    name: str
    recursive: bool = True

    def perform(self, ctx: Context) -> None:
        flags = c.OPEN_TREE_CLONE | (c.AT_RECURSIVE if self.recursive else 0)
        ctx.fds[self.name] = calls.open_tree(c.AT_FDCWD, self.path, flags)


class OpenDevice(Op):
    """A device node of the host as a detached mount, if it still is the device that was meant."""

    SYSCALL = "open_tree"
    path: str
    name: str
    device: str  # "c 10:229"

    def perform(self, ctx: Context) -> None:
        node = calls.open_tree(c.AT_FDCWD, self.path, c.OPEN_TREE_CLONE)
        ctx.fds[self.name] = node
        _check_device(node, self.path, self.device)


def _check_device(node: int, path: str, device: str) -> os.stat_result:
    """What fstat says of an open node, which has to be this device."""
    status = os.fstat(node)
    kind = "b" if stat.S_ISBLK(status.st_mode) else "c" if stat.S_ISCHR(status.st_mode) else "-"
    found = f"{kind} {os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
    if found != device:
        raise KernelError(19, "fstat", (path, f"is {found}, not {device}"))
    return status


class NewNodes(Op):
    """An unattached tmpfs of the host's user namespace, the only kind in which device nodes work."""

    SYSCALL = "fsmount"
    name: str

    def perform(self, ctx: Context) -> None:
        bits = c.MOUNT_ATTR_NOSUID | c.MOUNT_ATTR_NOEXEC
        ctx.fds[self.name] = _new_mount("tmpfs", ("mode=755", "size=64k"), bits)


class MakeNode(Op):
    """A second node for a device of the host, with the mode of the first and an owner in the container."""

    SYSCALL = "mknodat"
    path: str
    name: str  # of the tmpfs
    node: str  # the file in it
    device: str
    uid: int
    gid: int

    def perform(self, ctx: Context) -> None:
        first = calls.openat(c.AT_FDCWD, self.path, c.O_PATH)
        try:
            status = _check_device(first, self.path, self.device)
        finally:
            os.close(first)
        place = ctx.fd(self.name)
        calls.os_call("mknodat", os.mknod, self.node, status.st_mode, status.st_rdev, dir_fd=place)
        calls.os_call("fchmodat", os.chmod, self.node, stat.S_IMODE(status.st_mode), dir_fd=place)
        calls.os_call("fchownat", os.chown, self.node, self.uid, self.gid, dir_fd=place)


# --- the clone ----------------------------------------------------------------------------------


class JoinNamespace(Op):
    """Enter a namespace that exists already."""

    SYSCALL = "setns"
    kind: str
    name: str

    def perform(self, ctx: Context) -> None:
        calls.setns(ctx.fd(self.name), c.NAMESPACES[self.kind][0])


class OpenProcess(Op):
    """A process by descriptor, which stays that process whatever happens to its number."""

    SYSCALL = "pidfd_open"
    pid: int
    name: str

    def perform(self, ctx: Context) -> None:
        ctx.fds[self.name] = calls.pidfd_open(self.pid)


class JoinProcess(Op):
    """Enter several namespaces of a process at once."""

    SYSCALL = "setns"
    name: str
    kinds: tuple[str, ...]

    def perform(self, ctx: Context) -> None:
        flags = 0
        for kind in self.kinds:
            flags |= c.NAMESPACES[kind][0]
        calls.setns(ctx.fd(self.name), flags)


class Clone(Op):
    """A process in new namespaces; the rest of the Plan is done on both sides of it."""

    SYSCALL = "clone3"
    namespaces: tuple[str, ...]
    cgroup: str = ""  # the name of a v2 group's descriptor

    def describe(self) -> str:
        flags = [f"CLONE_NEW{c.NAMESPACES[kind][1].upper().replace('MNT', 'NS')}" for kind in self.namespaces]
        flags += ["CLONE_PIDFD"] + (["CLONE_INTO_CGROUP"] if self.cgroup else [])
        return f"clone3({'|'.join(flags)})"

    def flags(self) -> int:
        """The clone flags of the namespaces."""
        bits = 0
        for kind in self.namespaces:
            bits |= c.NAMESPACES[kind][0]
        return bits

    def perform(self, ctx: Context) -> None:
        if ctx.pid == 0:  # in a joiner, which is in the group already; its child is the supervisor's
            ctx.pid, ctx.pidfd = calls.clone3(self.flags() | c.CLONE_PARENT)
        else:
            cgroup = ctx.fd(self.cgroup) if self.cgroup else -1
            ctx.pid, ctx.pidfd = calls.clone3(self.flags(), cgroup)


class DenySetgroups(Op):
    """Nobody in the namespace may drop a group: a file may be closed to a group (CVE-2014-8989)."""

    SYSCALL = "write"

    def describe(self) -> str:
        return 'write("/proc/PID/setgroups", "deny")'

    def perform(self, ctx: Context) -> None:
        calls.write_file(f"/proc/{ctx.pid}/setgroups", "deny")


class WriteIdMap(Op):
    """Which ids of the host those in the user namespace are."""

    SYSCALL = "write"
    kind: str  # "uid" or "gid"
    maps: tuple[tuple[int, int, int], ...]
    tool: str = ""  # the set-uid newuidmap(1) or newgidmap(1), for an ordinary user

    def describe(self) -> str:
        lines = ", ".join(" ".join(map(str, line)) for line in self.maps)
        if self.tool:
            return f"execve({self.tool} PID {lines.replace(',', '')})"
        return f'write("/proc/PID/{self.kind}_map", "{lines}")'

    def perform(self, ctx: Context) -> None:
        if self.tool:
            userns.run_tool(self.tool, ctx.pid, self.maps)
        else:
            userns.write_map(ctx.pid, self.kind, self.maps)


class IdmapTree(Op):
    """Show a detached mount through an id map: files keep their owners on disk and have others here.

    With `maps` empty the container's own map is used; otherwise a map made for this mount alone.
    """

    SYSCALL = "mount_setattr"
    name: str
    uid_maps: tuple[tuple[int, int, int], ...] = ()
    gid_maps: tuple[tuple[int, int, int], ...] = ()
    recursive: bool = False

    def perform(self, ctx: Context) -> None:
        flags = c.AT_EMPTY_PATH | (c.AT_RECURSIVE if self.recursive else 0)
        if self.uid_maps:
            namespace = userns.descriptor(self.uid_maps, self.gid_maps)
        else:
            namespace = calls.openat(c.AT_FDCWD, f"/proc/{ctx.pid}/ns/user", os.O_RDONLY)
        try:
            calls.mount_setattr(ctx.fd(self.name), "", flags, set=c.MOUNT_ATTR_IDMAP, userns=namespace)
        finally:
            os.close(namespace)


class SetOomScore(Op):
    """How readily the kernel ends the container when memory is short, -1000 to 1000."""

    SYSCALL = "write"
    value: int

    def perform(self, ctx: Context) -> None:
        calls.write_file(f"/proc/{ctx.pid}/oom_score_adj", str(self.value))


class OwnStreams(Op):
    """Pipes among the caller's stdin, stdout and stderr go to the container's user, who could not
    open /dev/stdout otherwise.  Anonymous pipes only: never a file, a device or a named fifo."""

    SYSCALL = "fchown"
    uid_maps: tuple[tuple[int, int, int], ...]
    gid_maps: tuple[tuple[int, int, int], ...]

    def describe(self) -> str:
        return "fchown(0, 1, 2) of those that are pipes, to the payload's user"

    def perform(self, ctx: Context) -> str:
        uid = idmap.to_host(self.uid_maps, ctx.user.uid)
        gid = idmap.to_host(self.gid_maps, ctx.user.gid)
        if uid is None or gid is None:
            return "the payload's user is not mapped"
        done = []
        for number in (0, 1, 2):
            fd = ctx.streams.get(number, number)
            try:
                if calls.fstatfs_type(fd) == c.PIPEFS_MAGIC:
                    calls.os_call("fchown", os.fchown, fd, uid, gid)
                    done.append(str(number))
            except KernelError as error:
                if error.errno != 9:
                    raise
        return " ".join(done) or "none is a pipe"


class Release(Op):
    """Let the other side go on, and tell it who the payload is."""

    SYSCALL = "sendmsg"
    event: str

    def perform(self, ctx: Context) -> None:
        ctx.send({"sync": self.event, "ids": [ctx.user.uid, ctx.user.gid]})


class Await(Op):
    """Wait until the other side has got there."""

    SYSCALL = "recvmsg"
    event: str

    def perform(self, ctx: Context) -> None:
        ctx.wait_for(self.event)


# --- the new process: who it is -------------------------------------------------------------------


class NewSession(Op):
    """A session without the caller's terminal: what the container sends cannot reach it as input."""

    SYSCALL = "setsid"

    def perform(self, ctx: Context) -> None:
        calls.os_call("setsid", os.setsid)


class BecomeRoot(Op):
    """The ids of the namespace's root: files made from here on belong to it."""

    SYSCALL = "setresuid"
    uid: int
    gid: int
    groups: bool  # whether setgroups(2) is allowed here

    def perform(self, ctx: Context) -> None:
        if self.groups:
            calls.setgroups(())
        calls.setresgid(self.gid)
        calls.setresuid(self.uid)


class SetDumpable(Op):
    """Nobody may trace this process, or reach its descriptors and memory through /proc."""

    SYSCALL = "prctl"

    def describe(self) -> str:
        return "prctl(PR_SET_DUMPABLE, 0)"

    def perform(self, ctx: Context) -> None:
        calls.set_dumpable(False)


class EnterCgroup(Op):
    """Move into the container's own v1 group, by a descriptor that the supervisor opened.

    A single thread that moves itself (a "0" to `tasks`) takes no global lock of the kernel's; moving
    another process waits for an RCU grace period, some 5 to 10 ms for each hierarchy.
    """

    SYSCALL = "write"
    name: str

    def perform(self, ctx: Context) -> None:
        calls.os_call("write", os.write, ctx.fd(self.name), b"0")


class Unshare(Op):
    """A new namespace for this process, at this point of the Plan and not at the clone."""

    SYSCALL = "unshare"
    kind: str

    def perform(self, ctx: Context) -> None:
        calls.unshare(c.NAMESPACES[self.kind][0])


class SetTimeOffsets(Op):
    """Clocks of the time namespace, set while nobody is in it, and then entered: time_namespaces(7)."""

    SYSCALL = "write"
    offsets: tuple[tuple[str, int, int], ...]

    def perform(self, ctx: Context) -> None:
        proc = ctx.fd("proc")
        fd = inroot.below(proc, f"{_self_pid(proc)}/timens_offsets", os.O_WRONLY)
        try:
            text = "".join("{} {} {}\n".format(*line) for line in self.offsets)
            calls.os_call("write", lambda data: os.write(fd, data.encode()), text)
        finally:
            os.close(fd)


class EnterTimeNamespace(Op):
    """Move into the time namespace made for this process's children."""

    SYSCALL = "setns"

    def perform(self, ctx: Context) -> None:
        proc = ctx.fd("proc")
        fd = calls.openat(proc, f"{_self_pid(proc)}/ns/time_for_children", os.O_RDONLY)
        try:
            calls.setns(fd, c.CLONE_NEWTIME)
        finally:
            os.close(fd)


def _self_pid(proc: int) -> str:
    """This process's number in a procfs, which may be another pid namespace's than getpid's."""
    return str(calls.os_call("readlinkat", os.readlink, "self", dir_fd=proc))


class SetHostname(Op):
    """The host name of the UTS namespace."""

    SYSCALL = "sethostname"
    name: str

    def perform(self, ctx: Context) -> None:
        calls.sethostname(self.name)


class SetDomainname(Op):
    """The NIS domain name of the UTS namespace."""

    SYSCALL = "setdomainname"
    name: str

    def perform(self, ctx: Context) -> None:
        calls.setdomainname(self.name)


class LinkUp(Op):
    """Bring a network interface of the namespace up."""

    SYSCALL = "ioctl"
    name: str

    def perform(self, ctx: Context) -> None:
        calls.link_up(self.name)


class JoinKeyring(Op):
    """A session keyring of the container's own: the caller's keys stay the caller's."""

    SYSCALL = "keyctl"

    def describe(self) -> str:
        return "keyctl(KEYCTL_JOIN_SESSION_KEYRING, NULL)"

    def perform(self, ctx: Context) -> None:
        calls.keyctl_join_session()


# --- the new process: what it sees ----------------------------------------------------------------


class SetPropagation(Op):
    """How mounts travel between this namespace and the one it was copied from."""

    SYSCALL = "mount_setattr"
    path: str
    propagation: str
    recursive: bool = True

    def perform(self, ctx: Context) -> None:
        flags = c.AT_RECURSIVE if self.recursive else 0
        calls.mount_setattr(c.AT_FDCWD, self.path, flags, propagation=propagation_bit(self.propagation))


def _new_mount(kind: str, options: tuple[str, ...], attributes: int, source: str = "") -> int:
    """A detached mount of a new instance of a file system: fsopen(2), fsconfig(2), fsmount(2)."""
    fs = calls.fsopen(kind)
    try:
        for option in (f"source={source or kind}", *options):
            name, equals, value = option.partition("=")
            command = c.FSCONFIG_SET_STRING if equals else c.FSCONFIG_SET_FLAG
            calls.fsconfig(fs, command, name, value if equals else None)
        calls.fsconfig(fs, c.FSCONFIG_CMD_CREATE)
        return calls.fsmount(fs, attributes)
    finally:
        os.close(fs)


class MountStaging(Op):
    """A private tmpfs in which the root is put together, over a directory of the copied namespace.

    It also holds the empty file and the empty directory that masked paths show: no /dev/null of an
    image or a host has a part in that (CVE-2025-31133).
    """

    SYSCALL = "fsmount"
    path: str
    directories: tuple[str, ...]

    def perform(self, ctx: Context) -> None:
        staging = _new_mount("tmpfs", ("mode=755", "size=65536k"), c.MOUNT_ATTR_NOSUID | c.MOUNT_ATTR_NODEV)
        calls.move_mount(staging, c.AT_FDCWD, self.path)
        for name in self.directories:
            calls.mkdirat(staging, name, 0o755)
        calls.mkdirat(staging, "empty", 0o555)
        os.close(calls.openat(staging, "blank", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o444))
        ctx.fds["staging"] = staging


class AttachTree(Op):
    """Attach a detached mount at a place in the staging tmpfs."""

    SYSCALL = "move_mount"
    name: str
    place: str

    def perform(self, ctx: Context) -> None:
        calls.move_mount(ctx.fd(self.name), ctx.fd("staging"), self.place)


class MountOverlay(Op):
    """The root as an overlay: ROOTFS below, a private layer above that takes every change."""

    SYSCALL = "fsmount"
    lower: str
    upper: str
    work: str
    attributes: tuple[str, ...]
    user_xattr: bool  # overlayfs's own marks as user.* attributes: what a user namespace may write

    def perform(self, ctx: Context) -> None:
        options: tuple[str, ...] = (
            f"lowerdir={self.lower}",
            f"upperdir={self.upper}",
            f"workdir={self.work}",
        )
        if self.user_xattr:
            options += ("userxattr",)
        root = _new_mount("overlay", options, attribute_bits(self.attributes))
        calls.move_mount(root, ctx.fd("staging"), "root")
        ctx.fds["root"] = root


class AttachRoot(Op):
    """The root as a mount of a directory itself."""

    SYSCALL = "move_mount"
    name: str
    attributes: tuple[str, ...]

    def perform(self, ctx: Context) -> None:
        root = ctx.fd(self.name)
        flags = c.AT_EMPTY_PATH | c.AT_RECURSIVE
        calls.mount_setattr(root, "", flags, set=attribute_bits(self.attributes), propagation=c.MS_PRIVATE)
        calls.move_mount(root, ctx.fd("staging"), "root")
        ctx.fds["root"] = root


class OpenProc(Op):
    """A procfs of the new pid namespace, attached nowhere yet.

    What the runtime itself reads or writes below /proc goes through it: nothing can be mounted over
    its files (CVE-2025-52881), and no link in the root can stand for it.
    """

    SYSCALL = "fsmount"
    attributes: tuple[str, ...]

    def perform(self, ctx: Context) -> None:
        ctx.fds["proc"] = _new_mount("proc", (), attribute_bits(self.attributes))


def _place(ctx: Context, destination: str, directory: bool) -> int:
    """An O_PATH descriptor of a mount's destination in the root, made when missing."""
    if destination in ("/proc", "/sys"):
        return inroot.plain_directory(ctx.fd("root"), destination)
    make = inroot.make_directory if directory else inroot.make_file
    return make(ctx.fd("root"), destination)


def _attach(ctx: Context, mount: int, destination: str, *, directory: bool = True) -> None:
    place = _place(ctx, destination, directory)
    try:
        calls.move_mount(mount, place)
    finally:
        os.close(place)
    ctx.fds[destination] = mount


class AttachProc(Op):
    """Put the procfs at its place, which has to be a real directory (CVE-2019-16884)."""

    SYSCALL = "move_mount"
    destination: str = "/proc"

    def perform(self, ctx: Context) -> None:
        proc = ctx.fd("proc")
        if calls.fstatfs_type(proc) != c.PROC_SUPER_MAGIC or os.fstat(proc).st_ino != c.PROC_ROOT_INO:
            raise KernelError(22, "fstatfs", (self.destination, "not the root of a procfs"))
        _attach(ctx, proc, self.destination)


class MountFs(Op):
    """A new file system inside the root."""

    SYSCALL = "fsmount"
    destination: str
    kind: str
    source: str
    options: tuple[str, ...]
    attributes: tuple[str, ...]

    def perform(self, ctx: Context) -> None:
        mount = _new_mount(self.kind, self.options, attribute_bits(self.attributes), self.source)
        _attach(ctx, mount, self.destination)


class MountCgroups(Op):
    """/sys/fs/cgroup of a v1 or hybrid host: a tmpfs with the container's own groups, one a hierarchy."""

    SYSCALL = "fsmount"
    destination: str
    hierarchies: tuple[tuple[str, ...], ...]  # the controllers of each
    attributes: tuple[str, ...]

    def perform(self, ctx: Context) -> None:
        bits = attribute_bits(self.attributes)
        writable = bits & ~c.MOUNT_ATTR_RDONLY
        base = _new_mount("tmpfs", ("mode=755", "size=64k"), writable)
        _attach(ctx, base, self.destination)
        for controllers in self.hierarchies:
            directory = ",".join(name.removeprefix("name=") for name in controllers)
            calls.mkdirat(base, directory, 0o755)
            options = tuple(controllers)
            if options[0].startswith("name="):
                options = ("none", *options)
            calls.move_mount(_new_mount("cgroup", options, bits), base, directory)
            if len(controllers) > 1:
                for name in controllers:
                    calls.symlinkat(directory, base, name)
        if bits & c.MOUNT_ATTR_RDONLY:
            calls.mount_setattr(base, "", c.AT_EMPTY_PATH, set=c.MOUNT_ATTR_RDONLY)


class Bind(Op):
    """A file or directory of the host, shown inside the root."""

    SYSCALL = "move_mount"
    name: str
    destination: str
    attributes: tuple[str, ...] = ()
    recursive: tuple[str, ...] = ()
    propagation: str = "rprivate"

    def perform(self, ctx: Context) -> None:
        mount = ctx.fd(self.name)
        calls.mount_setattr(
            mount, "", c.AT_EMPTY_PATH | c.AT_RECURSIVE,
            set=attribute_bits(self.recursive), propagation=propagation_bit(self.propagation),
        )  # fmt: skip
        if self.attributes:
            calls.mount_setattr(mount, "", c.AT_EMPTY_PATH, set=attribute_bits(self.attributes))
        _attach(ctx, mount, self.destination, directory=inroot.is_directory(mount))


DEVICE_NUMBERS = {
    "null": (1, 3),
    "zero": (1, 5),
    "full": (1, 7),
    "random": (1, 8),
    "urandom": (1, 9),
    "tty": (5, 0),
}


class BindDevice(Op):
    """A device node of the host, checked by its number: a user namespace can make none."""

    SYSCALL = "move_mount"
    name: str

    def describe(self) -> str:
        major, minor = DEVICE_NUMBERS[self.name]
        return f'move_mount(open_tree("/dev/{self.name}"), "/dev/{self.name}"), char {major}:{minor}'

    def perform(self, ctx: Context) -> None:
        device = calls.open_tree(c.AT_FDCWD, f"/dev/{self.name}", c.OPEN_TREE_CLONE)
        try:
            status = os.fstat(device)
            number = (os.major(status.st_rdev), os.minor(status.st_rdev))
            if not stat.S_ISCHR(status.st_mode) or number != DEVICE_NUMBERS[self.name]:
                raise KernelError(19, "fstat", (f"/dev/{self.name}", "not the device it should be"))
            # The node is the host's: read-only keeps its owner, mode and times, and hinders no writing to
            # the device behind it.
            flags = c.MOUNT_ATTR_RDONLY | c.MOUNT_ATTR_NOSUID | c.MOUNT_ATTR_NOEXEC
            calls.mount_setattr(device, "", c.AT_EMPTY_PATH, set=flags)
            place = _make_file(ctx.fd("/dev"), self.name)
            try:
                calls.move_mount(device, place)
            finally:
                os.close(place)
        finally:
            os.close(device)


class BindNode(Op):
    """A node made for the container, at its place in the root."""

    SYSCALL = "move_mount"
    node: str  # below the staging tmpfs
    destination: str

    def perform(self, ctx: Context) -> None:
        mount = calls.open_tree(ctx.fd("staging"), self.node, c.OPEN_TREE_CLONE)
        _attach(ctx, mount, self.destination, directory=False)


def _make_file(directory: int, name: str) -> int:
    """A new empty file in a directory of our own making; a bare name, so no link is followed."""
    flags = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_WRONLY
    return calls.openat(directory, name, flags, 0o644)


class LinkDevice(Op):
    """A symbolic link in the container's own /dev."""

    SYSCALL = "symlinkat"
    target: str
    name: str

    def perform(self, ctx: Context) -> None:
        calls.symlinkat(self.target, ctx.fd("/dev"), self.name)


class OpenTerminal(Op):
    """A pty of the container's own devpts, its slave as /dev/console; the master goes to the supervisor.

    The slave is taken from the master (TIOCGPTPEER), not looked up by a path in the root.
    """

    SYSCALL = "ioctl"
    console: bool = True

    def describe(self) -> str:
        return 'ioctl(open("/dev/pts/ptmx"), TIOCGPTPEER), sendmsg(SCM_RIGHTS)'

    def perform(self, ctx: Context) -> None:
        pts = ctx.fd("/dev/pts")
        if calls.fstatfs_type(pts) != c.DEVPTS_SUPER_MAGIC:
            raise KernelError(22, "fstatfs", ("/dev/pts", "not a devpts"))
        flags = os.O_RDWR | os.O_NOCTTY | os.O_NOFOLLOW
        master = calls.openat(pts, "ptmx", flags)
        calls.os_call("ioctl", fcntl.ioctl, master, c.TIOCSPTLCK, b"\0\0\0\0")
        slave = calls.tiocgptpeer(master, flags | os.O_CLOEXEC)
        if self.console:
            place = _make_file(ctx.fd("/dev"), "console")
            mount = calls.open_tree(slave, "", c.OPEN_TREE_CLONE | c.AT_EMPTY_PATH)
            calls.move_mount(mount, place)
            os.close(mount)
            os.close(place)
        ctx.send({"fd": "terminal"}, master)
        os.close(master)
        ctx.fds["terminal"] = slave


class OpenDevpts(Op):
    """The devpts of a container that runs already: no link may stand for it (CVE-2025-52565)."""

    SYSCALL = "openat2"

    def perform(self, ctx: Context) -> None:
        resolve = c.RESOLVE_BENEATH | c.RESOLVE_NO_SYMLINKS
        ctx.fds["/dev/pts"] = calls.openat2(ctx.fd("root"), "dev/pts", c.O_PATH | os.O_DIRECTORY, resolve)


class UseTerminal(Op):
    """The pty as the session's terminal and as the streams that are to be it."""

    SYSCALL = "dup2"
    streams: tuple[int, ...]

    def perform(self, ctx: Context) -> None:
        slave = ctx.fd("terminal")
        calls.os_call("ioctl", fcntl.ioctl, slave, c.TIOCSCTTY, 0)
        if ctx.user.uid:
            calls.os_call("fchown", os.fchown, slave, ctx.user.uid, -1)
        for fd in self.streams:
            os.dup2(slave, fd, inheritable=True)


class MaskPath(Op):
    """Show nothing at a path: an empty file or directory, read-only."""

    SYSCALL = "move_mount"
    path: str

    def perform(self, ctx: Context) -> str | None:
        try:
            place = _system_path(ctx, self.path)
        except KernelError as error:
            if error.errno in (2, 20):
                return "this kernel has no such path"
            raise
        try:
            blank = "empty" if inroot.is_directory(place) else "blank"
            mount = calls.open_tree(ctx.fd("staging"), blank, c.OPEN_TREE_CLONE)
            try:
                calls.mount_setattr(mount, "", c.AT_EMPTY_PATH, set=c.MOUNT_ATTR_RDONLY | c.MOUNT_ATTR_NOEXEC)
                calls.move_mount(mount, place)
            finally:
                os.close(mount)
        finally:
            os.close(place)
        return None


class ReadonlyPath(Op):
    """Make what is at a path read-only, with all mounts below."""

    SYSCALL = "mount_setattr"
    path: str

    def perform(self, ctx: Context) -> str | None:
        try:
            place = _system_path(ctx, self.path)
        except KernelError as error:
            if error.errno in (2, 20):
                return "this kernel has no such path"
            raise
        try:
            flags = c.OPEN_TREE_CLONE | c.AT_EMPTY_PATH | c.AT_RECURSIVE
            mount = calls.open_tree(place, "", flags)
            try:
                calls.mount_setattr(mount, "", c.AT_EMPTY_PATH | c.AT_RECURSIVE, set=c.MOUNT_ATTR_RDONLY)
                calls.move_mount(mount, place)
            finally:
                os.close(mount)
        finally:
            os.close(place)
        return None


def _system_path(ctx: Context, path: str) -> int:
    """A path below /proc or /sys by the descriptor of that mount itself; others through the root."""
    top, _, rest = path.lstrip("/").partition("/")
    if rest and top == "proc" and "proc" in ctx.fds:
        return inroot.below(ctx.fd("proc"), rest, c.O_PATH)
    if rest and "/" + top in ctx.fds:  # a bound /sys has other mounts below it: they may be crossed
        resolve = c.RESOLVE_BENEATH | c.RESOLVE_NO_SYMLINKS
        return calls.openat2(ctx.fd("/" + top), rest, c.O_PATH, resolve)
    return inroot.find(ctx.fd("root"), path)


class ReadonlyRoot(Op):
    """The root's own mount read-only; what is mounted in it keeps its own flags."""

    SYSCALL = "mount_setattr"

    def perform(self, ctx: Context) -> None:
        calls.mount_setattr(ctx.fd("root"), "", c.AT_EMPTY_PATH, set=c.MOUNT_ATTR_RDONLY)


class PivotRoot(Op):
    """Make the new root the root of the mount namespace and let the old one go: pivot_root(2).

    Stacked on itself, so that no directory for the old root is needed; detached, so that nothing of
    the host is left to climb back to.  chroot(2) would leave it all in place.
    """

    SYSCALL = "pivot_root"

    def describe(self) -> str:
        return 'fchdir(root), pivot_root(".", "."), umount2(".", MNT_DETACH), chdir("/")'

    def perform(self, ctx: Context) -> None:
        calls.fchdir(ctx.fd("root"))
        calls.pivot_root(".", ".")
        calls.umount2(".", c.MNT_DETACH)
        calls.os_call("chdir", os.chdir, "/")


class OpenRoot(Op):
    """The root as it stands, for a process that keeps to a mount namespace that exists."""

    SYSCALL = "openat"

    def perform(self, ctx: Context) -> None:
        ctx.fds["root"] = calls.openat(c.AT_FDCWD, "/", c.O_PATH | os.O_DIRECTORY)


class SetSysctl(Op):
    """A kernel setting of one of the container's own namespaces."""

    SYSCALL = "write"
    name: str
    value: str

    def describe(self) -> str:
        return f'write("/proc/sys/{self.name}", "{self.value}")'

    def perform(self, ctx: Context) -> None:
        fd = inroot.below(ctx.fd("proc"), f"sys/{self.name}", os.O_WRONLY)
        try:
            calls.os_call("write", lambda data: os.write(fd, data.encode()), self.value)
        finally:
            os.close(fd)


# --- the new process: what it may do ----------------------------------------------------------------


class SetRlimit(Op):
    """A resource limit: setrlimit(2)."""

    SYSCALL = "prlimit64"
    kind: str
    soft: int
    hard: int

    def describe(self) -> str:
        soft, hard = ("unlimited" if one == c.RLIM_INFINITY else one for one in (self.soft, self.hard))
        return f"prlimit64(RLIMIT_{self.kind}, {soft}, {hard})"

    def perform(self, ctx: Context) -> None:
        calls.prlimit(c.RLIMITS[self.kind], self.soft, self.hard)


class SetUmask(Op):
    """The file mode creation mask."""

    SYSCALL = "umask"
    mask: int

    def describe(self) -> str:
        return f"umask(0{self.mask:03o})"

    def perform(self, ctx: Context) -> None:
        os.umask(self.mask)


class ResolveUser(Op):
    """Who the payload is, by the passwd and group files of the container, read by hand."""

    SYSCALL = "openat2"
    user: str
    groups: tuple[str, ...]

    def perform(self, ctx: Context) -> str:
        root = ctx.fd("root")
        passwd = inroot.read_text(root, "/etc/passwd")
        group = inroot.read_text(root, "/etc/group")
        try:
            ctx.user = users.resolve(self.user, self.groups, passwd, group)
        except users.UnknownUser as error:
            raise StepError("", str(error)) from None
        found = ctx.user
        return f"uid={found.uid} gid={found.gid} groups={','.join(map(str, found.groups)) or 'none'}"


class ChangeDirectory(Op):
    """The payload's working directory, made when missing, and shown to lie inside the root.

    By descriptor and without magic links: /proc/self/fd/N of a leaked directory once led outside
    (CVE-2024-21626).
    """

    SYSCALL = "fchdir"
    path: str
    create: bool = True

    def perform(self, ctx: Context) -> None:
        root = ctx.fd("root")
        directory = inroot.make_directory(root, self.path) if self.create else inroot.find(root, self.path)
        try:
            calls.fchdir(directory)
        except KernelError as error:
            raise KernelError(error.errno or 0, "fchdir", (self.path,)) from None
        finally:
            os.close(directory)
        where = calls.os_call("getcwd", os.getcwd)
        if not where.startswith("/"):
            raise KernelError(2, "getcwd", (where, "outside the root"))


class DropBounding(Op):
    """Capabilities that no program of the container can ever gain, not even by a file that has them."""

    SYSCALL = "prctl"
    keep: int  # mask
    last: int  # the highest capability of this kernel

    def describe(self) -> str:
        count = sum(not self.keep >> bit & 1 for bit in range(self.last + 1))
        kept = " ".join(caps.names(self.keep)) or "none"
        return f"prctl(PR_CAPBSET_DROP) of {count}, keeping {kept}"

    def perform(self, ctx: Context) -> None:
        for bit in range(self.last + 1):
            if not self.keep >> bit & 1:
                calls.capbset_drop(bit)


class KeepCapabilities(Op):
    """Let the permitted set outlive the change of user that comes next: prctl(2)."""

    SYSCALL = "prctl"

    def describe(self) -> str:
        return "prctl(PR_SET_KEEPCAPS, 1)"

    def perform(self, ctx: Context) -> None:
        calls.set_keepcaps(True)


class SetIds(Op):
    """The payload's groups and ids, in this order: without CAP_SETGID groups could not follow."""

    SYSCALL = "setresuid"
    groups: bool  # whether setgroups(2) is allowed here

    def describe(self) -> str:
        return "setgroups(...), setresgid(...), setresuid(...) of the payload's user"

    def perform(self, ctx: Context) -> str:
        user = ctx.user
        if (
            self.groups
        ):  # the primary one too: a set-gid program would lose it, and with it what the group is denied
            calls.setgroups(tuple(dict.fromkeys((user.gid, *user.groups))))  # (CVE-2022-36109)
        elif user.groups:
            raise KernelError(1, "setgroups", user.groups)
        calls.setresgid(user.gid)
        calls.setresuid(user.uid)
        return f"uid={user.uid} gid={user.gid}"


class SetCapabilities(Op):
    """Effective, permitted and inheritable sets: capset(2)."""

    SYSCALL = "capset"
    effective: int
    permitted: int
    inheritable: int

    def describe(self) -> str:
        return (
            f"capset(effective={self.effective:#x}, permitted={self.permitted:#x}, "
            f"inheritable={self.inheritable:#x})"
        )

    def perform(self, ctx: Context) -> None:
        calls.capset(self.effective, self.permitted, self.inheritable)


class RaiseAmbient(Op):
    """Capabilities that a program run by another user than root keeps across execve."""

    SYSCALL = "prctl"
    mask: int

    def describe(self) -> str:
        return f"prctl(PR_CAP_AMBIENT_RAISE, {' '.join(caps.names(self.mask))})"

    def perform(self, ctx: Context) -> None:
        for bit in range(len(caps.NAMES)):
            if self.mask >> bit & 1:
                calls.raise_ambient(bit)


class SetDeathSignal(Op):
    """The container is killed when its supervisor dies.

    After the last change of ids or capabilities, which clears it; that the supervisor is alive then is
    shown by the rendezvous that follows.
    """

    SYSCALL = "prctl"

    def describe(self) -> str:
        return "prctl(PR_SET_PDEATHSIG, SIGKILL)"

    def perform(self, ctx: Context) -> None:
        calls.set_pdeathsig(c.SIGNALS["KILL"])


class PrepareProgram(Op):
    """Everything that execve wants, made ready: from here on nothing is opened or looked up."""

    SYSCALL = "memfd_create"
    argv: tuple[str, ...]
    env: tuple[str, ...]
    init: str = ""  # "", or a mode of minibox-init: "run", "exec" or "pause"

    def describe(self) -> str:
        where = f"minibox-init {self.init}" if self.init else "argv"
        return f"{where} [{' '.join(self.argv)}], {len(self.env)} variables"

    def perform(self, ctx: Context) -> None:
        env = list(self.env)
        if not any(entry.startswith("HOME=") for entry in env):
            env.append(f"HOME={ctx.user.home}")
        if self.init:
            fd = calls.sealed_memfd("minibox-init", ctx.init_image)
            argv = ("minibox-init", self.init, str(ctx.channel), *self.argv)
            os.set_inheritable(ctx.channel, True)
            ctx.program = Program(("",), calls.strings(argv), calls.strings(env), fd)
            return
        name = self.argv[0]
        candidates: tuple[str, ...] = (name,)
        search = "/" not in name
        if search:
            path = next((one[5:] for one in reversed(env) if one.startswith("PATH=")), "")
            candidates = tuple(f"{part}/{name}" for part in path.split(":") if part.startswith("/"))
        ctx.program = Program(candidates, calls.strings(self.argv), calls.strings(env), search=search)


class TraceMe(Op):
    """Let the parent see the execve: the process stops there until it is let go."""

    SYSCALL = "ptrace"

    def describe(self) -> str:
        return "ptrace(PTRACE_TRACEME)"

    def perform(self, ctx: Context) -> None:
        calls.ptrace(c.PTRACE_TRACEME, 0)


class SetNoNewPrivs(Op):
    """No program run from here on gains anything by being set-uid or having capabilities."""

    SYSCALL = "prctl"

    def describe(self) -> str:
        return "prctl(PR_SET_NO_NEW_PRIVS, 1)"

    def perform(self, ctx: Context) -> None:
        calls.set_no_new_privs()


class CloseDescriptors(Op):
    """Every descriptor above the first ones closes at execve, wherever it came from (CVE-2024-21626)."""

    SYSCALL = "close_range"
    first: int

    def describe(self) -> str:
        return f"close_range({self.first}, ~0, CLOSE_RANGE_CLOEXEC)"

    def perform(self, ctx: Context) -> None:
        for fd in range(3, self.first):
            os.set_inheritable(fd, True)
        channel = ctx.channel if ctx.program is not None and ctx.program.fd >= 0 else -1
        calls.close_range(self.first, 0xFFFF_FFFF, c.CLOSE_RANGE_CLOEXEC)
        if channel >= 0:  # minibox-init reports through it, and closes it itself
            os.set_inheritable(channel, True)


class LoadSeccomp(Op):
    """The system calls the payload may make: a filter that no descendant can take off."""

    SYSCALL = "seccomp"
    profile: str
    needs_no_new_privs: bool = True
    notify: tuple[str, ...] = ()  # calls that a handler answers
    denials: str = ""  # "yes" or "all": what the profile refuses is told

    def describe(self) -> str:
        more = f", notify: {' '.join(self.notify)}" if self.notify else ""
        more += ", denials are told" if self.denials else ""
        return f"seccomp(SECCOMP_SET_MODE_FILTER, {self.profile}{more})"

    def perform(self, ctx: Context) -> str:
        program, flags = ctx.filters[self.profile]
        if flags & c.SECCOMP_FILTER_FLAG_NEW_LISTENER:
            calls.seccomp_listener(
                flags, program, ctx.channel, b'{"fd": "seccomp.listener"}', by_thread=ctx.listener_by_thread
            )
        else:
            calls.seccomp(c.SECCOMP_SET_MODE_FILTER, flags, program)
        return f"{len(program) // 8} instructions"


class Execute(Op):
    """Become the payload."""

    SYSCALL = "execve"
    argv: tuple[str, ...]

    def describe(self) -> str:
        return f"execve([{' '.join(self.argv)}])"

    def perform(self, ctx: Context) -> None:
        program = ctx.program
        if program is None:
            raise KernelError(9, "execve", ("the step that prepares the program was left out",))
        kept, tried = 2, program.candidates[0] if program.candidates else self.argv[0]
        for path in program.candidates:
            flags = c.AT_EMPTY_PATH if program.fd >= 0 else 0
            fd = program.fd if program.fd >= 0 else c.AT_FDCWD
            number = calls.execveat(fd, path, program.argv, program.envp, flags)
            if number not in (2, 20) or (kept == 2 and os.access(path, os.F_OK)):
                kept, tried = number, path
            if number not in (2, 13, 20):
                break
        name = self.argv[0] if kept == 2 and program.search else tried
        raise KernelError(kept, "execve", (name,))


REGISTRY: dict[str, type[Op]] = {
    name: value
    for name, value in list(globals().items())
    if isinstance(value, type) and issubclass(value, Op) and value is not Op
}


def to_json(op: Op) -> dict[str, Any]:
    """The operation as plain data, its class under "op"."""
    return {"op": type(op).__name__, **op.to_json()}


def from_json(data: dict[str, Any]) -> Op:
    """The inverse of `to_json`."""
    operands = dict(data)
    return REGISTRY[operands.pop("op")].from_json(operands)
