"""Throw-away children and directories: where things are tried out."""

from __future__ import annotations

import contextlib
import os
import select
import time

from minibox import fastjson
from minibox.errors import KernelError
from minibox.kernel import calls, tree
from minibox.kernel import consts as c

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

DEADLINE = 5.0  # seconds; a child that hangs (a network file system, a broken set-uid program) is killed
ENOSYS, ETIMEDOUT = 38, 110


def name() -> str:
    """What everything is called that a trial makes on the host."""
    return f"minibox-doctor-{os.getpid()}"


class Child:
    """A process made by clone3, or by fork and unshare where a sandbox around us forbids clone3.

    `work` gets a function that tells the parent something, in one message; what it raises is told as a
    failure.  The parent reads with `hear`, and ends it with `end`; a context manager.
    """

    def __init__(self, work: Callable[[Child], None], *, flags: int = 0, cgroup: int = -1) -> None:
        self.inside = False  # in the child itself
        self.ours, self._theirs = calls.socketpair()
        try:
            self.pid, self.pidfd = self._make(flags, cgroup)
        except BaseException:
            os.close(self.ours)
            os.close(self._theirs)
            raise
        if self.pid == 0:
            self._be(work)
        os.close(self._theirs)

    def _make(self, flags: int, cgroup: int) -> tuple[int, int]:
        try:
            return calls.clone3(flags, cgroup)
        except KernelError as error:
            if error.errno != ENOSYS or cgroup >= 0:
                raise
        pid = os.fork()
        if pid == 0 and flags:
            self.inside = True
            try:
                calls.unshare(flags)
            except KernelError as error:
                self.tell({"born": False, **as_json(error)})
                os._exit(1)
            self.tell({"born": True})
        if pid and flags:
            try:
                self.hear()
            except BaseException:
                os.waitpid(pid, 0)
                raise
        return pid, -1

    def _be(self, work: Callable[[Child], None]) -> None:
        code = 1
        self.inside = True
        try:
            os.close(self.ours)
            self.ours = self._theirs
            calls.set_pdeathsig(c.SIGNALS["KILL"])
            work(self)
            code = 0
        except OSError as error:
            self.tell(as_json(error))
        except Exception as error:
            self.tell({"error": f"{type(error).__name__}: {error}"})
        finally:
            os._exit(code)

    def tell(self, message: dict[str, Any]) -> None:
        """One message to the other side."""
        there = self._theirs if self.inside else self.ours
        calls.send(there, fastjson.dumps(message).encode())

    def hear(self, seconds: float = DEADLINE) -> dict[str, Any]:
        """The next message, {} when the other side has ended; a failure that it tells is raised.

        Raises KernelError; ETIMEDOUT when nothing comes.
        """
        poll = select.poll()
        poll.register(self.ours, select.POLLIN)
        if not poll.poll(seconds * 1000):
            raise KernelError(ETIMEDOUT, "recvmsg", (f"no answer within {seconds:g} s",))
        data, fd = calls.recv(self.ours)
        if fd >= 0:
            os.close(fd)
        message: dict[str, Any] = fastjson.loads(data.decode()) if data else {}
        if "error" in message:
            raise RuntimeError(message["error"])
        if message.get("errno"):
            raise KernelError(message["errno"], message["syscall"], tuple(message["operands"]))
        return message

    def end(self) -> int:
        """Kill it if need be, and take its status as `os.waitstatus_to_exitcode` does."""
        if self.pid <= 0:
            return 0
        pid, self.pid = self.pid, 0
        os.close(self.ours)
        try:
            os.kill(pid, c.SIGNALS["KILL"])
        except ProcessLookupError:
            pass
        if self.pidfd >= 0:
            os.close(self.pidfd)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def wait(self, seconds: float = DEADLINE) -> int:
        """Its status once it has ended by itself, or has been killed at the deadline."""
        end = time.monotonic() + seconds
        pause = 0.0002
        while time.monotonic() < end:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.pid = 0
                os.close(self.ours)
                if self.pidfd >= 0:
                    os.close(self.pidfd)
                return os.waitstatus_to_exitcode(status)
            time.sleep(pause)
            pause = min(pause * 2, 0.01)
        return self.end()

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()


def as_json(error: OSError) -> dict[str, Any]:
    """A failure as it crosses to the parent."""
    if isinstance(error, KernelError):
        operands = [one if isinstance(one, int | str) else str(one) for one in error.operands]
        return {"errno": error.errno or 5, "syscall": error.syscall, "operands": operands}
    return {"errno": error.errno or 5, "syscall": str(error.filename or "call"), "operands": []}


def attempt(work: Callable[[], Any], *, flags: int = 0, cgroup: int = -1) -> Any:
    """Do `work` in a child; what it returns (plain data).

    Raises KernelError as the child did; EINTR with the signal's number when something killed it.
    """
    with Child(lambda child: child.tell({"value": work()}), flags=flags, cgroup=cgroup) as child:
        message = child.hear()
        if "value" not in message:
            status = child.wait()
            raise KernelError(
                4, "the child", (f"ended by {signal_name(-status)}" if status < 0 else "ended",)
            )
        return message["value"]


def signal_name(number: int) -> str:
    """`SIGSYS` for 31."""
    names = {value: name for name, value in c.SIGNALS.items()}
    return "SIG" + names.get(number, str(number))


def existing(path: str) -> str:
    """The nearest directory of a path that is there."""
    while path not in ("", "/") and not os.path.isdir(path):
        path = os.path.dirname(path)
    return path or "/"


@contextlib.contextmanager
def scratch(where: str) -> Iterator[str]:
    """A directory of our own in `where`, or in the nearest parent that exists, taken away afterwards.

    Raises KernelError.
    """
    path = f"{existing(where).rstrip('/')}/{name()}"
    calls.mkdirat(c.AT_FDCWD, path, 0o700)
    try:
        yield path
    finally:
        tree.remove(path)
