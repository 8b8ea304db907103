"""Staying with a running container until it ends: signals, terminal, pipes, deadline, exit status.

Facts: PID 1 of a pid namespace gets no signal that it does not handle, SIGKILL and SIGSTOP from
outside excepted; so "pass SIGTERM on" would often do nothing.  What this means: a signal that asks
minibox to end is passed on when the payload handles it, and is a SIGKILL otherwise; the exit code is
128 + the signal's number in both cases, as a shell expects.
"""

from __future__ import annotations

import _signal
import os
import select
import time

from minibox.errors import KernelError
from minibox.kernel import calls
from minibox.kernel import consts as c
from minibox.record import Record
from minibox.runtime import live, terminal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

HUP, INT, QUIT, KILL, TERM, WINCH, CONT = (
    c.SIGNALS[name] for name in ("HUP", "INT", "QUIT", "KILL", "TERM", "WINCH", "CONT")
)
ENDING = (HUP, INT, QUIT, TERM)
USER = (c.SIGNALS["USR1"], c.SIGNALS["USR2"])
FORWARDED = (*ENDING, *USER, WINCH, CONT)
#: seconds from a passed-on request to end until SIGKILL; a closed terminal does not wait for long
GRACE = {TERM: 10.0, HUP: 2.0}
PATIENCE = 3  # so many ^C end a payload that handles them
CHUNK = 65536


class Exit(Record):
    """How a payload ended.

    `code` is what a shell would see (its own status, or 128 + a signal); times are seconds, `max_rss` the
    largest process in bytes.
    """

    code: int
    signal: int = 0
    timed_out: bool = False
    wall: float = 0.0
    cpu_user: float = 0.0
    cpu_system: float = 0.0
    max_rss: int = 0


class Attendant:
    """One loop over everything that can happen while a payload runs.

    `readers` maps a descriptor to what is done with its bytes; it is closed at its end.  `feed` is what
    the payload reads from `feed_fd`.
    """

    def __init__(
        self, pid: int, pidfd: int, *, timeout: float | None = None, grace: float | None = None
    ) -> None:
        self.pid = pid
        self.pidfd = pidfd
        self.started = time.monotonic()
        self.deadline = None if timeout is None else self.started + timeout
        self.grace = grace
        self.timed_out = False
        self.readers: dict[int, Callable[[bytes], None]] = {}
        self.feed_fd = -1
        self.feed = memoryview(b"")
        self.on_kill: Callable[[], None] | None = None
        self._kill_at: float | None = None
        self._asked = 0
        self._interrupts = 0
        self._poll = select.poll()
        self._master = -1
        self._keys = -1
        self._line_open = False  # whether the last key was none that ends a line
        self._raw: terminal.RawMode | None = None
        self._signals: dict[int, Any] = {}
        self._wakeup = (-1, -1)

    # --- what is attended to -----------------------------------------------------------------------

    def read(self, fd: int, consume: Callable[[bytes], None]) -> None:
        """Pass what arrives on a pipe to `consume`."""
        self.readers[fd] = consume

    def write(self, fd: int, data: bytes) -> None:
        """Write all of `data` to a pipe as it is taken, then close it."""
        self.feed_fd, self.feed = fd, memoryview(data)
        os.set_blocking(fd, False)

    def use_terminal(self, master: int, streams: tuple[int, ...]) -> None:
        """Join the caller's terminal to the container's: keys in, screen out, size, raw mode."""
        self._master = master
        os.set_blocking(master, False)
        screen = next((fd for fd in (1, 2, 0) if fd in streams), 1)
        self.readers[master] = lambda data: _write_all(screen, data)
        if 0 in streams:
            self._keys = 0
            if os.isatty(0):
                self._raw = terminal.RawMode(0)
        self._resize()

    def catch_signals(self) -> None:
        """Take the signals that are the payload's business; only in a process's main thread."""
        reading, writing = os.pipe()
        os.set_blocking(reading, False)
        os.set_blocking(writing, False)
        self._wakeup = (reading, writing)
        # Blocked meanwhile: each signal goes either to the handler that was there or into the pipe.
        before = _signal.pthread_sigmask(_signal.SIG_BLOCK, FORWARDED)
        for number in FORWARDED:
            if _signal.getsignal(number) == _signal.SIG_IGN:  # nohup stays nohup
                continue
            self._signals[number] = _signal.signal(number, lambda _number, _frame: None)
        _signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        _signal.pthread_sigmask(_signal.SIG_SETMASK, before)

    # --- the loop ----------------------------------------------------------------------------------

    def run(self) -> Exit:
        """Until the payload has ended and its output is read.  Restores terminal and signals."""
        try:
            self._loop()
            return self._reap()
        finally:
            self.release()

    def abandon(self) -> Exit:
        """End the payload and read nothing more of it; restores terminal and signals."""
        self.kill()
        self.release()
        for fd in self.readers:
            os.close(fd)
        self.readers = {}
        return self._reap()

    def release(self) -> None:
        """Terminal and signals back as they were."""
        if self._raw is not None:
            self._raw.restore()
            self._raw = None
        if self._wakeup[0] >= 0:
            _signal.set_wakeup_fd(-1)
            for number, handler in self._signals.items():
                _signal.signal(number, handler)
            for fd in self._wakeup:
                os.close(fd)
            self._wakeup = (-1, -1)

    def _loop(self) -> None:
        self._register(self.pidfd, select.POLLIN)
        self._register(self._wakeup[0], select.POLLIN)
        for fd in self.readers:
            self._register(fd, select.POLLIN)
        if self._keys >= 0:
            self._register(self._keys, select.POLLIN)
        if self.feed_fd >= 0:
            self._register(self.feed_fd, select.POLLOUT)
        ended = False
        while not ended:
            for fd, _events in self._poll.poll(self._wait_time()):
                if fd == self.pidfd:
                    ended = True
                elif fd == self._wakeup[0]:
                    self._take_signals()
                elif fd == self.feed_fd:
                    self._feed()
                elif fd == self._keys:
                    self._take_keys()
                else:
                    self._take_output(fd)
            self._check_time()
        self._drain()

    def _register(self, fd: int, events: int) -> None:
        if fd >= 0:
            self._poll.register(fd, events)

    def _wait_time(self) -> int | None:
        ends = [end for end in (self.deadline, self._kill_at) if end is not None]
        return max(0, int((min(ends) - time.monotonic()) * 1000) + 1) if ends else None

    def _check_time(self) -> None:
        now = time.monotonic()
        if self.deadline is not None and now >= self.deadline:
            self.deadline, self.timed_out = None, True
            self.kill()
        if self._kill_at is not None and now >= self._kill_at:
            self._kill_at = None
            self.kill()

    def kill(self) -> None:
        """End the payload now."""
        try:
            calls.pidfd_send_signal(self.pidfd, KILL)
        except KernelError:
            pass  # it has ended
        if self.on_kill is not None:
            self.on_kill()

    # --- events ------------------------------------------------------------------------------------

    def _take_signals(self) -> None:
        for number in os.read(self._wakeup[0], 256):
            if number == WINCH:
                self._resize()
            elif number == CONT:
                if self._raw is not None:
                    self._raw.resume()
                self._resize()
            else:
                self.pass_on(number)

    def pass_on(self, number: int) -> None:
        """A signal that minibox got: the payload's when it handles it, its end when it asks for one."""
        handled = live.handles(self.pid, number)
        if number in ENDING:
            self._asked = number
            self._interrupts += number == INT
        if handled:
            calls.pidfd_send_signal(self.pidfd, number)
            if number in GRACE:
                self._kill_at = time.monotonic() + (self.grace if self.grace is not None else GRACE[number])
        if number in ENDING and (not handled or self._interrupts >= PATIENCE):
            self.kill()

    def _resize(self) -> None:
        if self._master >= 0:
            source = next((fd for fd in (0, 1, 2) if os.isatty(fd)), -1)
            if source >= 0:
                terminal.set_window_size(self._master, terminal.window_size(source))

    def _feed(self) -> None:
        try:
            self.feed = self.feed[os.write(self.feed_fd, self.feed[:CHUNK]) :]
        except BlockingIOError:
            return
        except OSError:  # EPIPE: the payload does not want the rest
            self.feed = memoryview(b"")
        if not self.feed:
            self._poll.unregister(self.feed_fd)
            os.close(self.feed_fd)
            self.feed_fd = -1

    def _take_keys(self) -> None:
        """Keys for the container.  At their end (a pipe as stdin) it reads ^D, as from a keyboard."""
        try:
            data = os.read(self._keys, 4096)
        except OSError:  # EIO: the caller's terminal is closed, and SIGHUP is on its way
            data = b""
        if not data:
            self._poll.unregister(self._keys)
            self._keys = -1
            data = b"\x04\x04" if self._line_open else b"\x04"  # the first one only ends the open line
        self._line_open = data[-1:] not in (b"\n", b"\r", b"\x04")
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._master, view) :]
            except BlockingIOError:  # its input queue is full: look after its output meanwhile
                self._take_output(self._master)
                time.sleep(0.001)
                if select.select([self.pidfd], [], [], 0)[0]:
                    return
            except OSError:
                return

    def _take_output(self, fd: int) -> bool:
        """What there is on a descriptor; False at its end or when there is nothing."""
        try:
            data = os.read(fd, CHUNK)
        except BlockingIOError:
            return False
        except OSError:  # EIO of a pty: its last user is gone
            data = b""
        if data:
            self.readers[fd](data)
            return True
        self._poll.unregister(fd)
        del self.readers[fd]
        os.close(fd)
        if fd == self._master:
            self._master = -1
        return False

    def _drain(self) -> None:
        """The rest of the output.  A process that shares the pid namespace may hold a pipe for ever, so
        that it is read only until nothing more comes at once."""
        for fd in list(self.readers):
            os.set_blocking(fd, False)
            while fd in self.readers and self._take_output(fd):
                pass
            if fd in self.readers:
                del self.readers[fd]
                os.close(fd)
        if self.feed_fd >= 0:
            os.close(self.feed_fd)
            self.feed_fd = -1

    def _reap(self) -> Exit:
        _pid, status, usage = os.wait4(self.pid, 0)
        code = os.waitstatus_to_exitcode(status)
        number = -code if code < 0 else 0
        if number == KILL and self._asked:
            number = self._asked
        return Exit(
            code=128 + number if number else code,
            signal=number,
            timed_out=self.timed_out,
            wall=time.monotonic() - self.started,
            cpu_user=usage.ru_utime,
            cpu_system=usage.ru_stime,
            max_rss=usage.ru_maxrss * 1024,
        )


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:  # somebody else made the caller's terminal non-blocking
            select.select([], [fd], [], 1.0)
        except OSError:  # nobody reads any more: the container goes on without
            return
