"""Capabilities by name, number and bit mask: capabilities(7)."""

from __future__ import annotations

from minibox.errors import SpecError
from minibox.kernel import calls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

#: In the order of their numbers, linux/capability.h of Linux 6.18.
NAMES = (
    "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID",
    "SETPCAP", "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW",
    "IPC_LOCK", "IPC_OWNER", "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT",
    "SYS_ADMIN", "SYS_BOOT", "SYS_NICE", "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD",
    "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP", "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG",
    "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF", "CHECKPOINT_RESTORE",
)  # fmt: skip
ALL = (1 << len(NAMES)) - 1


def number(name: str, pointer: str = "capability") -> int:
    """The number of a capability, with or without CAP_, in any case.  Raises SpecError."""
    plain = name.upper().removeprefix("CAP_")
    if plain not in NAMES:
        raise SpecError(pointer, f'unknown capability "{name}" (the names are in capabilities(7))')
    return NAMES.index(plain)


def mask(names: Iterable[str], pointer: str = "capability") -> int:
    """The bit mask of some names; `ALL` stands for every one."""
    bits = 0
    for name in names:
        bits |= ALL if name.upper() == "ALL" else 1 << number(name, pointer)
    return bits


def names(bits: int) -> tuple[str, ...]:
    """The names, with CAP_, in the order of their numbers."""
    return tuple(f"CAP_{name}" for bit, name in enumerate(NAMES) if bits >> bit & 1)


def last_known() -> int:
    """The highest capability that the running kernel has: /proc/sys/kernel/cap_last_cap."""
    return int(calls.read_file("/proc/sys/kernel/cap_last_cap"))


def bounding_set() -> int:
    """The caller's bounding set as a mask: CapBnd of /proc/self/status."""
    for line in calls.read_file("/proc/self/status").splitlines():
        if line.startswith("CapBnd:"):
            return int(line.split()[1], 16)
    raise SpecError("capability", "/proc/self/status has no CapBnd: is /proc mounted?")
