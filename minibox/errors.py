"""What can go wrong, as types: each says what was tried, with what, and what the kernel said."""

from __future__ import annotations

import errno as _errno
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

FAILED = 125  # minibox itself failed
CANNOT_RUN = 126  # the command was found and cannot be run
NOT_FOUND = 127  # the command was not found


class MiniboxError(Exception):
    """The base of every error that minibox raises on purpose.

    `exit_code` is what a command line ends with: 125, 126 or 127, as docker and runc use them.
    """

    exit_code = FAILED


class UsageError(MiniboxError):
    """A command line that cannot be understood."""


class SpecError(MiniboxError):
    """A value that no container can be made from; `pointer` is a JSON pointer (RFC 6901) or a flag."""

    def __init__(self, pointer: str, message: str) -> None:
        super().__init__(f"{pointer}: {message}")
        self.pointer = pointer
        self.message = message


class StateError(MiniboxError):
    """A container that does not exist, exists already, or is in the wrong state for the request."""


class KernelError(OSError, MiniboxError):
    """A system call that failed, with its name and operands."""

    def __init__(self, number: int, syscall: str, operands: tuple[object, ...] = ()) -> None:
        OSError.__init__(self, number, os.strerror(number))
        self.syscall = syscall
        self.operands = operands

    def syscall_text(self) -> str:
        """The call with its operands, without the result."""
        return call_text(self.syscall, self.operands)

    def __str__(self) -> str:
        return f"{self.syscall_text()} = {errno_name(self.errno)}"


class StepError(MiniboxError):
    """A step of a Plan that failed, on either side of the clone.

    Attributes: `step` (its id), `index` and `total` (its place in the Plan, counted from 1),
    `what` (the call with its operands), `errno` (0 when no call failed), `why` (the reason, one
    sentence) and `hint` (what to do about it).
    """

    def __init__(
        self,
        step: str,
        what: str,
        *,
        index: int = 0,
        total: int = 0,
        errno: int = 0,
        why: str = "",
        hint: str = "",
        exit_code: int = FAILED,
    ) -> None:
        super().__init__(step, what)
        self.step = step
        self.what = what
        self.index = index
        self.total = total
        self.errno = errno
        self.why = why
        self.hint = hint
        self.exit_code = exit_code

    def __str__(self) -> str:
        result = f" = {errno_name(self.errno)}" if self.errno else ""
        text = f"step {self.index}/{self.total} {self.step} failed: {self.what}{result}"
        if self.why:
            text += f"\n  why: {self.why}"
        if self.hint:
            text += f"\n  try: {self.hint}"
        return text

    def to_json(self) -> dict[str, object]:
        """The error as it crosses the pipe."""
        return dict(self.__dict__)

    @classmethod
    def from_json(cls, data: Mapping[str, object]) -> StepError:
        """The inverse of `to_json`."""
        error = cls("", "")
        error.__dict__.update(data)
        error.args = (error.step, error.what)
        return error


def errno_name(number: int | None) -> str:
    """`EPERM` for 1; the number itself when it has no name."""
    return _errno.errorcode.get(number or 0, str(number))


def call_text(syscall: str, operands: tuple[object, ...]) -> str:
    """A call as a person reads it: strings quoted, the rest as printed."""
    shown = (f'"{plain(operand)}"' if isinstance(operand, str) else str(operand) for operand in operands)
    return f"{syscall}({', '.join(shown)})"


def plain(text: str) -> str:
    """Text that may be the container's, fit for a terminal: control characters as \\x1b.

    By `ascii`, since a codec would be looked up: this runs between clone and execve too.
    """
    return text if text.isprintable() else ascii(text)[1:-1]
