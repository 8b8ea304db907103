"""A detached container's keeper: a process of its own session that outlives the command that made it.

    minibox run -d ---fork---> monitor ---clone---> container
              \\<--- "started", or the error --/

It holds the container's lock, writes what the payload prints to the log, keeps the deadline, and
writes the last state.
"""

from __future__ import annotations

import os
import time

from minibox import fastjson
from minibox.errors import MiniboxError, StepError
from minibox.kernel import consts as c
from minibox.runtime.attend import Attendant
from minibox.runtime.container import check_preserved

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from minibox.runtime.container import Container

LOG_LIMIT = 16 << 20  # bytes; then the log is moved to log.1 and begun anew


class Log:
    """A payload's output, a line each: `2026-01-31T12:00:00.000000000Z stdout F text`.

    The format of Kubernetes' CRI logs: F ends a line, P is a part of one that had no end yet.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self.size = os.fstat(self.fd).st_size

    def write(self, stream: str, data: bytes) -> None:
        """Append what came from "stdout" or "stderr"."""
        stamp = _stamp()
        lines = data.split(b"\n")
        rest = lines.pop()
        head = f"{stamp} {stream} ".encode()
        text = b"".join(head + b"F " + line + b"\n" for line in lines)
        if rest:
            text += head + b"P " + rest + b"\n"
        try:
            os.write(self.fd, text)
        except OSError:
            return  # a full disk takes the log, not the container
        self.size += len(text)
        if self.size > LOG_LIMIT:
            os.close(self.fd)
            os.rename(self.path, self.path + ".1")
            self.__init__(self.path)  # type: ignore[misc]


def _stamp() -> str:
    nanoseconds = time.time_ns()
    whole, rest = divmod(nanoseconds, 10**9)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole)) + f".{rest:09}Z"


def detach(
    make: Callable[[], Container],
    *,
    timeout: float | None,
    preserved: int,
    pidfile: Callable[[int], None],
) -> None:
    """Fork the monitor.  In the caller: returns once the payload runs, or raises what went wrong.

    `preserved` descriptors from 3 on are handed on to the container.  The monitor does not return.  A
    caller that is interrupted meanwhile takes the monitor along, and with it the container.
    """
    check_preserved(preserved)
    reading, writing = os.pipe()
    child = os.fork()
    if child:
        os.close(writing)
        try:
            with os.fdopen(reading, "rb") as pipe:
                answer = pipe.read()
        except BaseException:
            os.kill(child, c.SIGNALS["TERM"])
            os.waitpid(child, 0)
            raise
        _tell(answer)
        return
    os.close(reading)
    try:
        _close_others(writing, preserved)
        _monitor(make, writing, timeout, pidfile)
    except MiniboxError as error:
        data: dict[str, Any] = {"text": str(error), "exit_code": error.exit_code}
        if isinstance(error, StepError):
            data["step"] = error.to_json()
        os.write(writing, fastjson.dumps(data).encode())
    except BaseException as error:
        os.write(writing, fastjson.dumps({"text": f"{type(error).__name__}: {error}"}).encode())
    os._exit(125)


def _tell(answer: bytes) -> None:
    if answer == b"started":
        return
    data: dict[str, Any] = {"text": "the monitor was killed"}
    if answer:
        data = fastjson.loads(answer.decode())
    if "step" in data:
        raise StepError.from_json(data["step"])
    error = MiniboxError(data["text"])
    error.exit_code = data.get("exit_code", 125)
    raise error


def _monitor(
    make: Callable[[], Container], answer: int, timeout: float | None, pidfile: Callable[[int], None]
) -> None:
    os.setsid()
    container = make()
    try:
        attendant = _started(container, timeout, pidfile)
        os.write(answer, b"started")
        os.close(answer)
    except BaseException:
        container.discard()
        raise
    container.finish(attendant.run())
    os._exit(0)


def _started(container: Container, timeout: float | None, pidfile: Callable[[int], None]) -> Attendant:
    """The payload running, its output on the way to the log, and nothing of the caller's left."""
    container.adopt_orphans()
    log = Log(f"{container.store.directory(container.state['id'])}/log")
    if container.ctx.listener is not None:
        container.ctx.listener.report = lambda text: log.write("stderr", f"minibox: {text}\n".encode())
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    pipes: dict[str, tuple[int, int]] = {}
    streams = {0: null}
    if not container.prepared.spec.process.terminal:
        pipes = {name: os.pipe() for name in ("stdout", "stderr")}
        streams.update({1: pipes["stdout"][1], 2: pipes["stderr"][1]})
    container.ctx.streams = streams
    container.start()
    attendant = container.attendant(timeout=timeout)
    for name, (reading, writing) in pipes.items():
        os.close(writing)
        attendant.read(reading, _logger(log, name))
    if "terminal" in container.ctx.fds:
        attendant.read(container.ctx.fds["terminal"], _logger(log, "stdout"))
    pidfile(container.ctx.pid)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.chdir("/")
    _trim(container, attendant)
    attendant.catch_signals()
    return attendant


def _close_others(answer: int, preserved: int) -> None:
    """The caller's descriptors: a monitor that kept a pipe of its open would keep its reader waiting."""
    first = 3 + preserved
    if answer > first:
        os.closerange(first, answer)
    os.closerange(max(first, answer + 1), os.sysconf("SC_OPEN_MAX"))


def _logger(log: Log, stream: str) -> Callable[[bytes], None]:
    return lambda data: log.write(stream, data)


def _trim(container: Container, attendant: Attendant) -> None:
    """A monitor that is asked to end takes its container with it, as quickly as `stop` would."""
    attendant.grace = float(container.state.get("stop_timeout", 10.0))
    container.ctx.init_image = b""
    container.ctx.filters = {}
