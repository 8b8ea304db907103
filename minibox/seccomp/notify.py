"""Seccomp notifications: a process waits in a system call until a function of yours has answered it.

Facts. A filter whose result is SCMP_ACT_NOTIFY stops the calling thread; whoever has the filter's
listener reads `struct seccomp_notif` by ioctl, and answers with a value, an errno, a descriptor put
into the caller, or "go on". Each notification has an id that is valid for as long as that thread
waits. Its pid may be another process's as soon as it does not, and what its pointers point to may be
changed by another of its threads at any time. Source: seccomp_unotify(2), <linux/seccomp.h>.

What this means for us. What is read from the caller's memory counts only if the id is still valid after
the read, which `Request.read_memory` looks at. And nothing that was read may decide about a call that
then goes on: the kernel reads it again. Notifications are there to *do* something for a process (answer
in its place, with rights that it lacks), never to look whether it may.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import sys

from minibox.errors import MiniboxError, SpecError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType
    from typing import Any, Self

# <linux/seccomp.h>: _IOWR('!', 0, struct seccomp_notif) and so on; sizes are part of the numbers.
_RECV = 0xC050_2100
_SEND = 0xC018_2101
_ID_VALID = 0x4008_2102
_ID_VALID_BEFORE_5_9 = 0x8008_2102
_ADDFD = 0x4018_2103

_CONTINUE = 1 << 0
_ADDFD_SETFD, _ADDFD_SEND = 1 << 0, 1 << 1

# struct seccomp_notif has 80 bytes; a later kernel may write more, never less.
_ROOM = 256
_PAGE = 4096
_MAX_ERRNO = 4095

X32_SYSCALL_BIT = 0x4000_0000
AUDIT_ARCHES = {
    0xC000_003E: "x86_64",
    0x4000_0003: "i386",
    0xC000_00B7: "aarch64",
    0x4000_0028: "arm",
    0xC000_00F3: "riscv64",
}


class NotifyError(MiniboxError):
    """A notification that cannot be read, or an answer that the kernel does not take."""


class Gone(NotifyError):
    """The caller does not wait any more: it was killed, or a signal ended its call."""


class Response:
    """An answer to a Request.

    `Response(value=3)` is the call's result, `Response(errno=13)` its failure. `continue_` lets the
    kernel do the call, `add_fd` gives the caller a descriptor as its result.
    """

    __slots__ = ("cloexec", "errno", "fd", "goes_on", "number", "value")

    def __init__(self, *, value: int = 0, errno: int = 0) -> None:
        if not 0 <= errno <= _MAX_ERRNO:
            raise ValueError(f"errno {errno} is not between 0 and {_MAX_ERRNO}")
        if errno and value:
            raise ValueError("a call that fails has no value")
        self.value = value
        self.errno = errno
        self.goes_on = False
        self.fd = -1
        self.number: int | None = None
        self.cloexec = True

    @classmethod
    def continue_(cls) -> Self:
        """Let the kernel do the call, with the arguments as they are *then*: no decision may rest on what
        was read before (time of check, time of use). Linux 5.5."""
        made = cls()
        made.goes_on = True
        return made

    @classmethod
    def add_fd(cls, fd: int, *, number: int | None = None, cloexec: bool = True) -> Self:
        """A copy of our descriptor `fd` in the caller, as the call's result; at `number` there when given
        (Linux 5.9), else at the lowest free one (5.14). `fd` stays open here."""
        made = cls()
        made.fd, made.number, made.cloexec = fd, number, cloexec
        return made

    def __repr__(self) -> str:
        if self.goes_on:
            return "Response.continue_()"
        if self.fd >= 0:
            return f"Response.add_fd({self.fd})"
        return f"Response(errno={self.errno})" if self.errno else f"Response(value={self.value})"


class Request:
    """A system call that waits for an answer.

    `pid` is the calling thread as numbered here (0: not visible from here), `nr` the call's number,
    `name` its name (or "#N"), `args` six unsigned 64-bit registers, `arch` an AUDIT_ARCH_* value.
    """

    __slots__ = ("_listener", "arch", "args", "id", "instruction_pointer", "nr", "pid")

    def __init__(self, listener: int, data: bytes | bytearray) -> None:
        self._listener = listener
        order = sys.byteorder
        words = [int.from_bytes(data[at : at + 4], order) for at in range(0, 24, 4)]
        self.id = int.from_bytes(data[0:8], order)
        self.pid = words[2]
        self.nr = words[4]
        self.arch = words[5]
        self.instruction_pointer = int.from_bytes(data[24:32], order)
        self.args = tuple(int.from_bytes(data[at : at + 8], order) for at in range(32, 80, 8))

    @property
    def name(self) -> str:
        """The call's name; "#N" where nobody knows one."""
        return call_name(self.arch, self.nr)

    def valid(self) -> bool:
        """Whether the caller still waits for the answer."""
        data = self.id.to_bytes(8, sys.byteorder)
        for request in (_ID_VALID, _ID_VALID_BEFORE_5_9):
            try:
                fcntl.ioctl(self._listener, request, data)
                return True
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.ENOTTY):
                    return False
        return False

    def check(self) -> None:
        """Raises Gone when the caller does not wait any more."""
        if not self.valid():
            raise Gone(f"{self.name} of process {self.pid}: the caller waits no longer")

    def read_memory(self, address: int, size: int) -> bytes:
        """Up to `size` bytes of the caller's memory, fewer when a page behind them is not there.

        Raises Gone when the caller does not wait any more after the read, NotifyError when nothing can
        be read. What is read may be changed by the caller at once: see the head of this module.
        """
        try:
            memory = os.open(f"/proc/{self.pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            self.check()
            raise NotifyError(
                f"the memory of process {self.pid} cannot be opened: {error.strerror}"
            ) from None
        try:
            self.check()  # the number is the caller's still, so the file is the caller's memory
            data = self._read(memory, address, size)
        finally:
            os.close(memory)
        self.check()
        return data

    def _read(self, memory: int, address: int, size: int) -> bytes:
        parts: list[bytes] = []
        while size > 0:
            step = min(size, _PAGE - address % _PAGE)
            try:
                part = os.pread(memory, step, address)
            except (OSError, OverflowError):  # above 2**63 is no address of a program
                part = b""
            if not part:
                if parts:
                    break
                self.check()
                raise NotifyError(f"there is no memory at {address:#x} in process {self.pid}")
            parts.append(part)
            address, size = address + len(part), size - len(part)
        return b"".join(parts)

    def read_string(self, address: int, limit: int = 4096) -> str:
        """The C string at `address`, as `os.fsdecode` has it. Raises as read_memory, and NotifyError when it
        has no end within `limit` bytes."""
        data = b""
        while len(data) < limit:
            start = address + len(data)
            data += self.read_memory(start, min(limit - len(data), 256, _PAGE - start % _PAGE))
            text, found, _ = data.partition(b"\0")
            if found:
                return os.fsdecode(text)
        raise NotifyError(f"the string at {address:#x} in process {self.pid} has more than {limit} bytes")

    def add_fd(self, fd: int, *, number: int | None = None, cloexec: bool = True) -> int:
        """Put a copy of our descriptor `fd` into the caller, which goes on waiting; the number there.
        Linux 5.9. Raises Gone and NotifyError."""
        return self._add_fd(fd, number, cloexec, flags=0)

    def _add_fd(self, fd: int, number: int | None, cloexec: bool, flags: int) -> int:
        if number is not None:
            flags |= _ADDFD_SETFD
        numbers = (flags, fd, number or 0, os.O_CLOEXEC if cloexec else 0)
        data = self.id.to_bytes(8, sys.byteorder)
        data += b"".join(value.to_bytes(4, sys.byteorder) for value in numbers)
        try:
            return self._ioctl(_ADDFD, data)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.EINPROGRESS):
                raise Gone(f"{self.name} of process {self.pid}: the caller waits no longer") from None
            if error.errno in (errno.EINVAL, errno.ENOTTY):
                since = "5.14" if flags & _ADDFD_SEND else "5.9"
                raise NotifyError(f"to put a descriptor into a process takes Linux {since}") from None
            text = f"descriptor {fd} cannot be put into process {self.pid}: {error.strerror}"
            raise NotifyError(text) from None

    def answer(self, response: Response) -> None:
        """Send the answer. Raises Gone when nobody waits for it, NotifyError when the kernel refuses."""
        if response.fd >= 0:
            if response.number is None:
                self._add_fd(response.fd, None, response.cloexec, flags=_ADDFD_SEND)
                return
            response = Response(value=self._add_fd(response.fd, response.number, response.cloexec, flags=0))
        flags = _CONTINUE if response.goes_on else 0
        data = (
            self.id.to_bytes(8, sys.byteorder)
            + response.value.to_bytes(8, sys.byteorder, signed=True)
            + (-response.errno).to_bytes(4, sys.byteorder, signed=True)
            + flags.to_bytes(4, sys.byteorder)
        )
        try:
            self._ioctl(_SEND, data)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.EINPROGRESS):
                raise Gone(f"{self.name} of process {self.pid}: the caller waits no longer") from None
            raise NotifyError(f"the kernel does not take {response!r}: {error.strerror}") from None

    def _ioctl(self, request: int, data: bytes) -> int:
        while True:
            try:
                return int(fcntl.ioctl(self._listener, request, bytearray(data), True))
            except InterruptedError:
                continue

    def __repr__(self) -> str:
        shown = ", ".join(f"{value:#x}" for value in self.args)
        return f"Request({self.name}({shown}), pid={self.pid})"


class Handler:
    """What answers: a function, the names of the calls that are notified to it, the file it came from."""

    def __init__(
        self, handle: Callable[[Request], Response | None], names: Iterable[str], path: str = ""
    ) -> None:
        self.handle = handle
        self.names = tuple(dict.fromkeys(names))
        self.path = path


class Supervisor:
    """Answers the notifications of one listener by a function.

    `handler` gets each Request and returns a Response; None lets the call go on. An exception in it is
    told to `report`, and the call fails with EPERM. `afterwards` is called when the answer was sent. Calls
    are answered one after another: while the handler works, other callers wait. The listener is closed by
    `close`, after which a call that is notified fails with ENOSYS.

    Use `start` for a thread that serves until no process with the filter is left, `serve` for the same in
    the calling thread, or `fileno` and `handle_one` in a loop of your own.
    """

    def __init__(
        self,
        listener: int,
        handler: Callable[[Request], Response | None],
        *,
        report: Callable[[str], None] | None = None,
        afterwards: Callable[[Request], None] | None = None,
    ) -> None:
        self.handler = handler
        self.report = report or _print
        self.afterwards = afterwards
        self._listener = listener
        self._stop = os.pipe()
        self._done: Any = None

    def fileno(self) -> int:
        """The listener: readable when a call waits, POLLHUP when nobody is left who could make one."""
        return self._listener

    def receive(self) -> Request | None:
        """The next request; None when its caller was gone before it could be read. Waits for one."""
        data = bytearray(_ROOM)
        try:
            fcntl.ioctl(self._listener, _RECV, data, True)
        except InterruptedError:
            return None
        except OSError as error:
            if error.errno == errno.ENOENT:
                return None
            raise NotifyError(f"no notification can be read: {error.strerror}") from None
        return Request(self._listener, data)

    def handle_one(self) -> Request | None:
        """Receive one request and answer it; the request, None when its caller was gone already."""
        request = self.receive()
        if request is None:
            return None
        try:
            response = self.handler(request)
            if response is None:
                response = Response.continue_()
            if not isinstance(response, Response):
                raise NotifyError(f"the handler returned {response!r}, which is no Response")
            request.answer(response)
        except Gone:
            return None
        except Exception as error:
            self._failed(request, error)
        if self.afterwards is not None:
            self.afterwards(request)
        return request

    def _failed(self, request: Request, error: Exception) -> None:
        """The handler has no answer; the caller is not to wait for ever."""
        try:
            request.answer(Response(errno=errno.EPERM))
        except NotifyError:
            pass
        self.report(f"the handler of {request!r} failed: {type(error).__name__}: {error}")

    def serve(self) -> None:
        """Answer until no process with the filter is left, or until `stop`."""
        poll = select.poll()
        poll.register(self._listener, select.POLLIN)
        poll.register(self._stop[0], select.POLLIN)
        while True:
            events = dict(poll.poll())
            happened = events.get(self._listener, 0)
            if happened & select.POLLIN:
                self.handle_one()
            elif happened or self._stop[0] in events:
                return

    def start(self) -> None:
        """Serve in a thread of its own."""
        import _thread

        self._done = _thread.allocate_lock()
        self._done.acquire()
        _thread.start_new_thread(self._run, ())

    def _run(self) -> None:
        try:
            self.serve()
        except Exception as error:
            os.close(self._listener)  # who waits, and who calls from now on, gets ENOSYS
            self._listener = -1
            self.report(f"notifications are answered no more: {type(error).__name__}: {error}")
        finally:
            self._done.release()

    def stop(self, patience: float = 0.0) -> bool:
        """End `serve`, after `patience` seconds at most for it to end by itself; whether it has ended.

        A handler that is at work is waited for no longer than a second.
        """
        if self._done is None:
            os.write(self._stop[1], b"x")
            return True
        if patience > 0 and self._done.acquire(timeout=patience):
            self._done.release()
            return True
        os.write(self._stop[1], b"x")
        if not self._done.acquire(timeout=1.0):
            return False
        self._done.release()
        return True

    def close(self) -> None:
        """End `serve` and close the listener."""
        if self._stop[0] < 0:
            return
        if self.stop():
            for fd in (self._listener, *self._stop):
                if fd >= 0:
                    os.close(fd)
        self._listener, self._stop = -1, (-1, -1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _print(text: str) -> None:
    os.write(2, f"minibox: {text}\n".encode("utf-8", "backslashreplace"))


def call_name(arch: int, nr: int) -> str:
    """The name of a call on an AUDIT_ARCH_*; "#N" where neither the tables nor libseccomp know one."""
    from minibox.seccomp import syscalls

    machine = AUDIT_ARCHES.get(arch, "")
    x32 = machine == "x86_64" and nr & X32_SYSCALL_BIT
    found = None if x32 else syscalls.name(machine, nr)
    return found or _libseccomp_name(arch, nr) or f"#{nr}"


def _libseccomp_name(arch: int, nr: int) -> str | None:
    try:
        import pyseccomp

        token = pyseccomp.Arch.X32 if nr & X32_SYSCALL_BIT and arch == 0xC000_003E else arch
        name = pyseccomp.resolve_syscall(token, nr)
    except (ImportError, OSError, RuntimeError, ValueError):
        return None
    return name.decode("ascii") if isinstance(name, bytes) else str(name)


def load_handler(path: str) -> Handler:
    """Run a Python file that has a function `handle(request)` and names of calls in `SYSCALLS`. It runs with
    the rights of whoever runs minibox. Raises SpecError, which names the file and what it lacks."""
    pointer = "--seccomp-notify"
    path = os.path.abspath(path)
    try:
        with open(path, "rb") as file:
            code = compile(file.read(), path, "exec")
        space: dict[str, Any] = {"__name__": "minibox_notify_handler", "__file__": path}
        exec(code, space)
    except OSError as error:
        raise SpecError(pointer, f"{path}: {error.strerror}") from None
    except Exception as error:
        line = _line_in(error, path)
        raise SpecError(pointer, f"{path}{line}: {type(error).__name__}: {error}") from None
    return as_handler(space.get("handle"), space.get("SYSCALLS"), path)


def as_handler(handle: object, names: object, path: str = "") -> Handler:
    """A Handler from a function and a list or set of names. Raises SpecError."""
    pointer, where = "--seccomp-notify", f"{path}: " if path else ""
    if not callable(handle):
        raise SpecError(pointer, f"{where}a function handle(request) is wanted")
    if not isinstance(names, (list, tuple, set, frozenset)) or not names:
        raise SpecError(pointer, f"{where}SYSCALLS is wanted: a list or set of names of system calls")
    for name in names:
        if not isinstance(name, str):
            raise SpecError(pointer, f"{where}SYSCALLS: {name!r} is not a name")
        if not _known(name):
            raise SpecError(pointer, f"{where}SYSCALLS: {name!r} is not a system call of this machine")
    return Handler(handle, sorted(names), path)


def _known(name: str) -> bool:
    from minibox.seccomp import syscalls

    return syscalls.number(os.uname().machine, name) is not None or syscalls.is_known(name)


def _line_in(error: BaseException, path: str) -> str:
    line = getattr(error, "lineno", None) if isinstance(error, SyntaxError) else None
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == path:
            line = trace.tb_lineno
        trace = trace.tb_next
    return f":{line}" if line else ""


def notified(document: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """A profile in Docker's or OCI's format in which the calls `names` are notified, whatever it said of
    them."""
    taken = set(names)
    rules = []
    for rule in document.get("syscalls") or ():
        own = rule.get("names", [rule["name"]] if "name" in rule else [])
        kept = [name for name in own if name not in taken]
        if kept or not own:
            rule = {key: value for key, value in rule.items() if key != "name"}
            rules.append({**rule, "names": kept} if own else rule)
    note = "Answered by the handler of --seccomp-notify."
    rules.append({"names": sorted(taken), "action": "SCMP_ACT_NOTIFY", "note": note})
    return {**document, "syscalls": rules}
