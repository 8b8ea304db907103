"""You are in the child: between clone and execve.

Facts: after the pivot, every file name means a file of the container, and the container is hostile.
An import would run its .py files with our privileges; so would a look-up of a user, a codec, or the
printing of a traceback.  Descriptors of the host are still open.

So: nothing is imported here (the tripwire below makes an attempt fail), errors are sent as plain
data through the channel, and the only ways out are execve and `os._exit`.
"""

from __future__ import annotations

import _locale
import gc
import os
import sys
import time

from minibox.errors import CANNOT_RUN, FAILED, NOT_FOUND, KernelError, StepError, plain
from minibox.kernel import calls
from minibox.plan.context import Context, PeerGone

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import NoReturn

    from minibox.plan.model import Step

    Numbered = Sequence[tuple[int, Step]]

TEXT_LIMIT = 4000  # of what an error carries: it has to fit a message


def run(steps: Numbered, total: int, ctx: Context, trace: bool) -> NoReturn:
    """Perform the child's steps; does not return.  `steps` are (number in the Plan, step)."""
    try:
        disarm()
        _attach_streams(ctx.streams)
        for number, step in steps:
            _perform(number, step, total, ctx, trace)
    except PeerGone:
        os._exit(FAILED)
    except BaseException:  # a bug, or no memory even to say so: nothing may unwind into the caller's code
        os._exit(FAILED)
    os._exit(FAILED)


def disarm() -> None:
    """No import can succeed, no collector run finalizers of the caller's, no signal handler of its run.

    Nor may strerror(3) look for a translation: the C library would read its catalogue from the
    container and load the converter for the catalogue's character set, a library, from there too.
    """
    _locale.setlocale(_locale.LC_ALL, "C")
    gc.disable()
    sys.path.clear()
    sys.meta_path.clear()
    sys.path_hooks.clear()
    calls.reset_signals()


def _attach_streams(streams: Mapping[int, int]) -> None:
    """Put the descriptors meant as stdin, stdout and stderr there; all are above 2."""
    for target, fd in streams.items():
        os.dup2(fd, target, inheritable=True)


def _perform(number: int, step: Step, total: int, ctx: Context, trace: bool) -> None:
    if trace and step.op.SYSCALL == "execve":  # it does not come back to tell
        ctx.send({"trace": number, "us": 0, "note": ""})
    start = time.monotonic_ns() if trace else 0
    try:
        note = step.op.perform(ctx)
    except PeerGone:
        raise
    except BaseException as error:
        _report(number, step, total, ctx, error)
    if trace:
        micros = (time.monotonic_ns() - start) // 1000
        ctx.send({"trace": number, "us": micros, "note": note or ""})


def _report(number: int, step: Step, total: int, ctx: Context, error: BaseException) -> NoReturn:
    failure = failed(number, step, total, error)
    if step.op.SYSCALL == "execve":
        failure.exit_code = NOT_FOUND if failure.errno in (2, 20) else CANNOT_RUN
        if (failure.errno == 2 and isinstance(error, KernelError)) or (
            failure.errno == 8 and isinstance(error, KernelError)
        ):
            _look_closer(failure, str(error.operands[0]))
    try:
        ctx.send({"error": failure.to_json()})
    except BaseException:
        os._exit(FAILED)
    os._exit(failure.exit_code)


def failed(number: int, step: Step, total: int, error: BaseException) -> StepError:
    """The error of a step, whole and plain, on whichever side it happened."""
    if isinstance(error, KernelError):
        what, errno = error.syscall_text()[:TEXT_LIMIT], error.errno or 0
    elif isinstance(error, StepError):
        what, errno = error.what[:TEXT_LIMIT], error.errno
    else:
        what, errno = f"{type(error).__name__}: {error}"[:TEXT_LIMIT], 0
    return StepError(step.id, what, index=number, total=total, errno=errno, why=step.why)


def _look_closer(failure: StepError, path: str) -> None:
    """ENOENT and ENOEXEC of a file that is there: what it is that execve misses.

    The file is hostile, and is only ever compared and quoted; it is opened without blocking.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        head = os.read(fd, 256)
        os.close(fd)
    except OSError:
        return
    if failure.errno == 2:
        failure.exit_code = CANNOT_RUN
        if head.startswith(b"#!"):
            words = head[2:].split(b"\n", 1)[0].split()
            interpreter = words[0].decode("ascii", "replace") if words else ""
            failure.hint = (
                f'the file is a script, and its interpreter "{plain(interpreter)}" is not in the root'
            )
        elif head.startswith(b"\x7fELF"):
            failure.hint = "the file is a program, and its dynamic loader (readelf -l) is not in the root"
    elif head.startswith(b"\x7fELF") and len(head) > 19:
        machine = int.from_bytes(head[18:20], "little" if head[5] == 1 else "big")
        failure.hint = f"the file is a program for another machine (ELF machine {machine})"
    else:
        failure.hint = "the file is neither a program nor a script that begins with #!"
