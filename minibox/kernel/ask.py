"""Questions to the kernel that change nothing, and that only an examination of the host asks.

By ctypes: the runtime itself never asks them, so they have no place in the native module.
"""

from __future__ import annotations

import ctypes
import os

from minibox.errors import KernelError
from minibox.seccomp import syscalls

# seccomp.h
SECCOMP_GET_ACTION_AVAIL = 2
SECCOMP_ACTIONS = {
    "allow": 0x7FFF_0000,
    "log": 0x7FFC_0000,
    "trace": 0x7FF0_0000,
    "user_notif": 0x7FC0_0000,
    "errno": 0x0005_0000,
    "trap": 0x0003_0000,
    "kill_thread": 0x0000_0000,
    "kill_process": 0x8000_0000,
}
# landlock.h
LANDLOCK_CREATE_RULESET_VERSION = 1
#: ABI -> (the first Linux that has it, what it added): landlock(7)
LANDLOCK_ABIS = {
    1: ("5.13", "files"),
    2: ("5.19", "renaming between directories"),
    3: ("6.2", "truncation"),
    4: ("6.7", "TCP ports"),
    5: ("6.10", "device ioctls"),
    6: ("6.12", "abstract sockets and signals"),
    7: ("6.15", "audit"),
}


def _syscall(name: str, *operands: object) -> int:
    number = syscalls.number(os.uname().machine, name)
    if number is None:
        raise KernelError(38, name, operands)
    libc = ctypes.CDLL(None, use_errno=True)
    result = int(libc.syscall(ctypes.c_long(number), *operands))
    if result < 0:
        raise KernelError(ctypes.get_errno(), name, operands)
    return result


def seccomp_action_available(action: int) -> bool:
    """Whether the kernel knows an action of filters: seccomp(2), SECCOMP_GET_ACTION_AVAIL (Linux 4.14).

    Raises KernelError when the operation itself is not there.
    """
    value = ctypes.c_uint32(action)
    try:
        _syscall("seccomp", SECCOMP_GET_ACTION_AVAIL, 0, ctypes.byref(value))
    except KernelError as error:
        if error.errno == 95:  # EOPNOTSUPP: the operation is known, the action is not
            return False
        raise
    return True


def landlock_abi() -> int:
    """The version of Landlock's interface: landlock_create_ruleset(2).

    Raises KernelError: ENOSYS when it is not compiled in, EOPNOTSUPP when it is not switched on.
    """
    return _syscall(
        "landlock_create_ruleset", None, ctypes.c_size_t(0), ctypes.c_uint(LANDLOCK_CREATE_RULESET_VERSION)
    )


def libseccomp_version() -> str:
    """The version of the C library that compiles filters, or "" where there is none: seccomp_version(3)."""
    try:
        library = ctypes.CDLL("libseccomp.so.2")
    except OSError:
        return ""

    class Version(ctypes.Structure):
        _fields_ = (("major", ctypes.c_uint), ("minor", ctypes.c_uint), ("micro", ctypes.c_uint))

    library.seccomp_version.restype = ctypes.POINTER(Version)
    found = library.seccomp_version().contents
    return f"{found.major}.{found.minor}.{found.micro}"
