"""System calls, one wrapper each under the call's own name; a failure is a KernelError with the operands.

Where Python's `os` has the call it is used; the rest is `minibox._native`.  Nothing here decides
anything, and everything here may run in the child of a clone: nothing is imported late.
"""

from __future__ import annotations

import fcntl
import os

import prctl as python_prctl

from minibox import _native
from minibox.errors import KernelError
from minibox.kernel import consts as c

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

lib: Any = _native.lib
ffi: Any = _native.ffi


def _checked(result: int, syscall: str, *operands: object) -> int:
    if result < 0:
        raise KernelError(-result, syscall, operands)
    return result


def _text(value: str, syscall: str) -> bytes:
    """A C string.  A NUL would cut it short in the kernel's eyes, so it is refused (CVE-2021-43784)."""
    data = os.fsencode(value)
    if b"\0" in data:
        raise KernelError(22, syscall, (value,))
    return data


def os_call(syscall: str, function: Callable[..., Any], *operands: Any, **options: Any) -> Any:
    """A call that Python's `os` has, its failure as a KernelError like any other."""
    try:
        return function(*operands, **options)
    except OSError as error:
        shown = operands + tuple(f"{name}={value}" for name, value in options.items())
        raise KernelError(error.errno or 0, syscall, shown) from None
    except ValueError:  # an embedded NUL
        raise KernelError(22, syscall, operands) from None


# --- processes ---------------------------------------------------------------------------------


def clone3(flags: int, cgroup_fd: int = -1) -> tuple[int, int]:
    """(pid, pidfd) in the parent, (0, -1) in the child.  clone(2), with Python's own fork hooks."""
    pidfd = ffi.new("int *", -1)
    if cgroup_fd >= 0:
        flags |= c.CLONE_INTO_CGROUP
    pid = _checked(lib.mb_clone3(flags | c.CLONE_PIDFD, cgroup_fd, pidfd), "clone3", hex(flags))
    return pid, pidfd[0] if pid else -1


def unshare(flags: int) -> None:
    _checked(lib.mb_unshare(flags), "unshare", hex(flags))


def setns(fd: int, flags: int) -> None:
    _checked(lib.mb_setns(fd, flags), "setns", fd, hex(flags))


def strings(values: Sequence[str]) -> Any:
    """A NULL-terminated `char **`, with its strings kept alive by it."""
    return StringArray(values)


class StringArray:
    """A C `char *const []` for execve(2), made before it is needed."""

    __slots__ = ("_kept", "array")

    def __init__(self, values: Sequence[str]) -> None:
        self._kept = [ffi.new("char[]", _text(value, "execve")) for value in values]
        self.array = ffi.new("char *[]", [*self._kept, ffi.NULL])


def execveat(fd: int, path: str, argv: StringArray, envp: StringArray, flags: int = 0) -> int:
    """The errno of the failure; there is no return from success.  execveat(2)"""
    return -int(lib.mb_execveat(fd, _text(path, "execveat"), argv.array, envp.array, flags))


def close_range(first: int, last: int, flags: int) -> None:
    _checked(lib.mb_close_range(first, last, flags), "close_range", first, last, hex(flags))


def pidfd_open(pid: int) -> int:
    return _checked(lib.mb_pidfd_open(pid, 0), "pidfd_open", pid)


def pidfd_send_signal(pidfd: int, signal: int) -> None:
    _checked(lib.mb_pidfd_send_signal(pidfd, signal), "pidfd_send_signal", pidfd, signal)


def reset_signals() -> None:
    _checked(lib.mb_reset_signals(), "rt_sigprocmask")


def sealed_memfd(name: str, data: bytes) -> int:
    """A memory file with `data` that nobody can change any more, executable: memfd_create(2)."""
    flags = c.MFD_CLOEXEC | c.MFD_ALLOW_SEALING
    fd = lib.mb_memfd_create(_text(name, "memfd_create"), flags | c.MFD_EXEC)
    if fd == -22:  # before Linux 6.3 there is no MFD_EXEC, and every memory file is executable
        fd = lib.mb_memfd_create(_text(name, "memfd_create"), flags)
    _checked(fd, "memfd_create", name, hex(flags))
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
    fcntl.fcntl(fd, c.F_ADD_SEALS, c.F_SEAL_ALL)
    return int(fd)


# --- files -------------------------------------------------------------------------------------


def openat(dirfd: int, path: str, flags: int, mode: int = 0) -> int:
    directory = None if dirfd == c.AT_FDCWD else dirfd
    return int(os_call("openat", os.open, path, flags | os.O_CLOEXEC, mode, dir_fd=directory))


def openat2(dirfd: int, path: str, flags: int, resolve: int, mode: int = 0) -> int:
    """openat2(2).  The kernel says EAGAIN when a rename raced with it: tried again, 64 times at most."""
    data = _text(path, "openat2")
    for _ in range(64):
        result = lib.mb_openat2(dirfd, data, flags | os.O_CLOEXEC, mode, resolve)
        if result != -11:
            break
    return _checked(result, "openat2", dirfd, path, hex(flags), hex(resolve))


def mkdirat(dirfd: int, name: str, mode: int) -> None:
    os_call("mkdirat", os.mkdir, name, mode, dir_fd=dirfd)


def symlinkat(target: str, dirfd: int, name: str) -> None:
    os_call("symlinkat", os.symlink, target, name, dir_fd=dirfd)


def write_file(path: str, text: str) -> None:
    """One write(2) of the whole text: what the files of procfs and cgroupfs want."""
    fd = openat(c.AT_FDCWD, path, os.O_WRONLY)
    try:
        os_call("write", lambda _path, data: os.write(fd, data.encode()), path, text)
    finally:
        os.close(fd)


def read_file(path: str) -> str:
    """The whole of a small text file.  Raises KernelError."""
    fd = openat(c.AT_FDCWD, path, os.O_RDONLY)
    try:
        return read_all(fd, path)
    finally:
        os.close(fd)


def read_all(fd: int, path: str = "") -> str:
    """What is left to read from `fd`, as text; bytes that are not UTF-8 become lone surrogates."""
    parts = []
    while part := os_call("read", lambda _path: os.read(fd, 65536), path):
        parts.append(part)
    return os.fsdecode(b"".join(parts))


def fchdir(fd: int) -> None:
    os_call("fchdir", os.fchdir, fd)


# --- mounts ------------------------------------------------------------------------------------


def open_tree(dirfd: int, path: str, flags: int) -> int:
    data = _text(path, "open_tree")
    result = lib.mb_open_tree(dirfd, data, flags | c.OPEN_TREE_CLOEXEC)
    return _checked(result, "open_tree", dirfd, path, hex(flags))


def move_mount(from_fd: int, to_fd: int, to: str = "") -> None:
    """Attach the detached mount `from_fd` on the file that `to_fd` (with `to`) stands for."""
    flags = c.MOVE_MOUNT_F_EMPTY_PATH | (0 if to else c.MOVE_MOUNT_T_EMPTY_PATH)
    result = lib.mb_move_mount(from_fd, b"", to_fd, _text(to, "move_mount"), flags)
    _checked(result, "move_mount", from_fd, "", to_fd, to, hex(flags))


def fsopen(kind: str) -> int:
    return _checked(lib.mb_fsopen(_text(kind, "fsopen"), c.FSOPEN_CLOEXEC), "fsopen", kind)


def fsconfig(fd: int, command: int, key: str | None = None, value: str | None = None) -> None:
    c_key = ffi.NULL if key is None else _text(key, "fsconfig")
    c_value = ffi.NULL if value is None else _text(value, "fsconfig")
    result = lib.mb_fsconfig(fd, command, c_key, c_value, 0)
    if result < 0:
        detail = _mount_log(fd)
        operands = (fd, command, key, value) + ((f"kernel: {detail}",) if detail else ())
        raise KernelError(-result, "fsconfig", operands)


def _mount_log(fd: int) -> str:
    """What the file system itself said of the failure; reading the context gives it, a line a read."""
    lines = []
    try:
        while line := os.read(fd, 4096):
            lines.append(line.decode("ascii", "replace")[2:].strip())
    except OSError:
        pass
    return "; ".join(lines)


def fsmount(fd: int, attributes: int) -> int:
    return _checked(lib.mb_fsmount(fd, c.FSMOUNT_CLOEXEC, attributes), "fsmount", fd, hex(attributes))


def mount_setattr(
    fd: int, path: str, flags: int, *, set: int = 0, clear: int = 0, propagation: int = 0, userns: int = -1
) -> None:
    data = _text(path, "mount_setattr")
    result = lib.mb_mount_setattr(fd, data, flags, set, clear, propagation, userns)
    _checked(result, "mount_setattr", fd, path, hex(flags), hex(set), hex(clear), hex(propagation))


def pivot_root(new_root: str, put_old: str) -> None:
    result = lib.mb_pivot_root(_text(new_root, "pivot_root"), _text(put_old, "pivot_root"))
    _checked(result, "pivot_root", new_root, put_old)


def umount2(path: str, flags: int) -> None:
    _checked(lib.mb_umount2(_text(path, "umount2"), flags), "umount2", path, flags)


def fstatfs_type(fd: int) -> int:
    """The magic number of the file system that `fd` lies on: statfs(2), f_type."""
    return int(_checked(lib.mb_fstatfs_type(fd), "fstatfs", fd))


# --- credentials -------------------------------------------------------------------------------


def capget() -> tuple[int, int, int]:
    """(effective, permitted, inheritable) of the caller, as bit masks."""
    sets = [ffi.new("uint64_t *") for _ in range(3)]
    _checked(lib.mb_capget(*sets), "capget")
    return sets[0][0], sets[1][0], sets[2][0]


def capset(effective: int, permitted: int, inheritable: int) -> None:
    result = lib.mb_capset(effective, permitted, inheritable)
    _checked(result, "capset", hex(effective), hex(permitted), hex(inheritable))


def _prctl(option: str, function: Callable[[Any], Any], value: object) -> Any:
    """One of the operations that python-prctl has, its failure named as in prctl(2)."""
    return os_call("prctl", lambda _option, operand: function(operand), option, value)


def set_dumpable(value: bool) -> None:
    _prctl("PR_SET_DUMPABLE", python_prctl.set_dumpable, value)


def set_child_subreaper(value: bool) -> None:
    _prctl("PR_SET_CHILD_SUBREAPER", python_prctl.set_child_subreaper, value)


def set_keepcaps(value: bool) -> None:
    _prctl("PR_SET_KEEPCAPS", python_prctl.set_keepcaps, value)


def set_pdeathsig(signal: int) -> None:
    _prctl("PR_SET_PDEATHSIG", python_prctl.set_pdeathsig, signal)


def set_no_new_privs() -> None:
    _prctl("PR_SET_NO_NEW_PRIVS", python_prctl.set_no_new_privs, 1)


def capbset_drop(number: int) -> None:
    _prctl("PR_CAPBSET_DROP", python_prctl.capbset_drop, number)


def raise_ambient(number: int) -> None:
    """python-prctl has no ambient set: capabilities(7), Linux 4.3."""
    result = lib.mb_prctl(c.PR_CAP_AMBIENT, c.PR_CAP_AMBIENT_RAISE, number, 0, 0)
    _checked(result, "prctl", "PR_CAP_AMBIENT", "PR_CAP_AMBIENT_RAISE", number)


def setgroups(groups: Sequence[int]) -> None:
    array = ffi.new("uint32_t[]", list(groups))
    _checked(lib.mb_setgroups(array, len(groups)), "setgroups", *groups)


def setresgid(gid: int) -> None:
    _checked(lib.mb_setresgid(gid, gid, gid), "setresgid", gid, gid, gid)


def setresuid(uid: int) -> None:
    _checked(lib.mb_setresuid(uid, uid, uid), "setresuid", uid, uid, uid)


def seccomp(operation: int, flags: int, program: bytes) -> int:
    data = ffi.from_buffer(program)
    result = lib.mb_seccomp(operation, flags, data, len(program))
    return _checked(result, "seccomp", operation, hex(flags), f"{len(program) // 8} instructions")


def seccomp_listener(flags: int, program: bytes, socket: int, message: bytes, *, by_thread: bool) -> None:
    """Load a filter and send its listener through `socket`; `by_thread` where sendmsg(2) is not allowed."""
    data = ffi.from_buffer(program)
    result = lib.mb_seccomp_listener(flags, data, len(program), socket, message, len(message), int(by_thread))
    size = f"{len(program) // 8} instructions"
    _checked(
        result, "seccomp", c.SECCOMP_SET_MODE_FILTER, hex(flags), size, "SECCOMP_FILTER_FLAG_NEW_LISTENER"
    )


def ptrace(request: int, pid: int, address: int = 0, data: Any = None) -> int:
    """ptrace(2), but for the requests that return data by value; `data` is a number or a cffi buffer."""
    pointer = ffi.cast("void *", data or 0) if data is None or isinstance(data, int) else data
    return _checked(lib.mb_ptrace(request, pid, address, pointer), "ptrace", hex(request), pid, address)


def keyctl_join_session() -> None:
    _checked(lib.mb_keyctl_join_session(), "keyctl", "KEYCTL_JOIN_SESSION_KEYRING")


def bpf(command: int, attributes: bytes, operand: str = "") -> tuple[int, bytes]:
    """(result, the attributes as the kernel left them).  bpf(2); `operand` is for the error's text."""
    memory = ffi.new("char[]", len(attributes))
    ffi.buffer(memory)[:] = attributes
    result = _checked(lib.mb_bpf(command, memory, len(attributes)), "bpf", command, operand)
    return result, bytes(ffi.buffer(memory))


def prlimit(resource: int, soft: int, hard: int) -> None:
    _checked(lib.mb_prlimit(resource, soft, hard), "prlimit64", resource, soft, hard)


# --- names, links, descriptors -----------------------------------------------------------------


def sethostname(name: str) -> None:
    data = _text(name, "sethostname")
    _checked(lib.mb_sethostname(data, len(data)), "sethostname", name)


def setdomainname(name: str) -> None:
    data = _text(name, "setdomainname")
    _checked(lib.mb_setdomainname(data, len(data)), "setdomainname", name)


def link_up(name: str) -> None:
    _checked(lib.mb_link_up(_text(name, "ioctl")), "ioctl", "SIOCSIFFLAGS", name, "IFF_UP")


def socketpair(kind: int = c.SOCK_SEQPACKET) -> tuple[int, int]:
    """A connected pair of unix(7) sockets, close-on-exec."""
    first, second = ffi.new("int *"), ffi.new("int *")
    _checked(lib.mb_socketpair(kind, first, second), "socketpair", kind)
    return first[0], second[0]


def send(socket: int, message: bytes, fd: int = -1) -> None:
    """One message, with a descriptor when `fd` is given: unix(7), SCM_RIGHTS."""
    _checked(lib.mb_send_fd(socket, fd, message, len(message)), "sendmsg", socket, len(message))


def recv(socket: int, size: int = 65536) -> tuple[bytes, int]:
    """The next message and the descriptor that came with it, or -1; b"" when the peer is gone."""
    buffer, fd = ffi.new("char[]", size), ffi.new("int *")
    # EINTR: Python has run its signal handlers, and none of them raised.  ECONNRESET, said once: the peer is
    # gone and had not read all that was sent to it; what it sent itself is still to come.
    while (count := lib.mb_recv_fd(socket, buffer, size, fd)) in (-4, -104):
        pass
    _checked(count, "recvmsg", socket, size)
    return bytes(ffi.buffer(buffer, count)), fd[0]


def tiocgptpeer(master: int, flags: int) -> int:
    return _checked(lib.mb_tiocgptpeer(master, flags), "ioctl", master, "TIOCGPTPEER", hex(flags))
