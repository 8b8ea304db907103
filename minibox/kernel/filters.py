"""The seccomp filters of a process, read back: ptrace(2), PTRACE_SECCOMP_GET_FILTER.

Facts. The kernel shows a filter to a tracer with CAP_SYS_ADMIN in the first user namespace that has no
filter itself, of a process that is stopped. PTRACE_SEIZE does not stop it, PTRACE_INTERRUPT does, and
PTRACE_DETACH lets it go on; a call that it waits in is begun anew, but for a few (epoll_wait(2) and
semop(2) among them) that then say EINTR: signal(7), "Interruption of system calls by stop signals".
"""

from __future__ import annotations

import os

from minibox.errors import KernelError, StateError
from minibox.kernel import calls
from minibox.kernel import consts as c

PTRACE_SEIZE = 0x4206
PTRACE_INTERRUPT = 0x4207
PTRACE_SECCOMP_GET_FILTER = 0x420C
_WALL = 0x4000_0000
_ENOENT = 2


def seccomp_status(pid: int) -> tuple[int, int]:
    """(mode, number of filters) of a process: 0 none, 1 strict, 2 filters. Raises KernelError."""
    fields = dict(
        line.split(":", 1) for line in calls.read_file(f"/proc/{pid}/status").splitlines() if ":" in line
    )
    return int(fields.get("Seccomp", "0")), int(fields.get("Seccomp_filters", "0"))


def read(pid: int) -> tuple[bytes, ...]:
    """The filters of a process, the one loaded first being the first. Stops it for a moment.

    Raises KernelError: EPERM for somebody who may not trace it, EACCES for somebody who may not read
    filters; StateError when it ends meanwhile.
    """
    if _is_stopped_for_us(pid):
        return _all(pid)
    calls.ptrace(PTRACE_SEIZE, pid)
    try:
        calls.ptrace(PTRACE_INTERRUPT, pid)
        _pid, status = os.waitpid(pid, _WALL)
        if not os.WIFSTOPPED(status):
            raise StateError(f"process {pid} has ended")
        return _all(pid)
    finally:
        try:
            calls.ptrace(c.PTRACE_DETACH, pid)
        except KernelError:
            pass  # it has ended


def _is_stopped_for_us(pid: int) -> bool:
    """Whether the caller traces the process already, and it stands still."""
    lines = calls.read_file(f"/proc/{pid}/status").splitlines()
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    return fields["State"].split()[0] == "t" and int(fields["TracerPid"]) == os.getpid()


def _all(pid: int) -> tuple[bytes, ...]:
    found: list[bytes] = []
    while (one := _nth(pid, len(found))) is not None:
        found.append(one)
    return tuple(found)


def _nth(pid: int, index: int) -> bytes | None:
    """Filter *index*, counted from the one loaded first."""
    try:
        count = calls.ptrace(PTRACE_SECCOMP_GET_FILTER, pid, index)
    except KernelError as error:
        if error.errno == _ENOENT:
            return None
        raise
    buffer = calls.ffi.new("char[]", 8 * count)
    calls.ptrace(PTRACE_SECCOMP_GET_FILTER, pid, index, buffer)
    return bytes(calls.ffi.buffer(buffer, 8 * count))
