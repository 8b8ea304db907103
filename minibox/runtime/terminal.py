"""The caller's terminal while a container uses another one.

Facts: in raw mode every key goes to the container, ^C included; whoever sets it has to put it back,
and a process that is killed cannot.  So a guard, forked before, holds one end of a pipe: when the
pipe closes without a word, it restores the terminal and ends.
"""

from __future__ import annotations

import _signal
import fcntl
import os
import termios

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def window_size(fd: int) -> bytes:
    """The struct winsize of a terminal, as bytes; 24 by 80 when it has none."""
    try:
        return fcntl.ioctl(fd, termios.TIOCGWINSZ, bytes(8))
    except OSError:
        return b"\x18\x00\x50\x00\x00\x00\x00\x00"


def set_window_size(fd: int, size: bytes) -> None:
    """Tell a pty its size: its foreground processes get SIGWINCH."""
    try:
        fcntl.ioctl(fd, termios.TIOCSWINSZ, size)
    except OSError:
        pass  # the container's side is closed: it is ending


class RawMode:
    """Raw mode of a terminal, until `restore`, or until this process is gone."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._saved: list[Any] = termios.tcgetattr(fd)
        reading, self._pipe = os.pipe()
        self._guard = os.fork()
        if self._guard == 0:
            _guard(fd, self._saved, reading, self._pipe)
        os.close(reading)
        self.enter()

    def enter(self) -> None:
        """What cfmakeraw(3) does."""
        mode = termios.tcgetattr(self.fd)
        mode[0] &= ~(
            termios.IGNBRK | termios.BRKINT | termios.PARMRK | termios.ISTRIP
            | termios.INLCR | termios.IGNCR | termios.ICRNL | termios.IXON
        )  # fmt: skip
        mode[1] &= ~termios.OPOST
        mode[2] = mode[2] & ~(termios.CSIZE | termios.PARENB) | termios.CS8
        mode[3] &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.ISIG | termios.IEXTEN)
        mode[6] = list(mode[6])
        mode[6][termios.VMIN], mode[6][termios.VTIME] = 1, 0
        termios.tcsetattr(self.fd, termios.TCSADRAIN, mode)

    def resume(self) -> None:
        """Raw mode again, after a stop in which somebody else had the terminal."""
        try:
            self.enter()
        except termios.error:
            pass  # the terminal is closed: a SIGCONT comes with the SIGHUP

    def restore(self) -> None:
        """The terminal as it was."""
        try:
            termios.tcsetattr(self.fd, termios.TCSADRAIN, self._saved)
            os.write(self._pipe, b"restored")
        except (OSError, termios.error):
            pass  # the terminal is closed
        os.close(self._pipe)
        os.waitpid(self._guard, 0)


def _guard(fd: int, saved: list[Any], reading: int, writing: int) -> None:
    """The guard's whole life; it ignores what a terminal sends, and what a background process gets for
    changing one."""
    for name in ("SIGINT", "SIGQUIT", "SIGTERM", "SIGHUP", "SIGTSTP", "SIGTTOU", "SIGTTIN"):
        _signal.signal(getattr(_signal, name), _signal.SIG_IGN)
    try:
        os.close(writing)
        os.closerange(reading + 1, reading + 256)
        if not os.read(reading, 16):
            termios.tcsetattr(fd, termios.TCSADRAIN, saved)
    finally:
        os._exit(0)
