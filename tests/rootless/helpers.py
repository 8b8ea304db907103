"""What several of these tests use."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

UID, GID = os.geteuid(), os.getegid()


def range_of(file: str) -> tuple[int, int] | None:
    """(first, count) of the user's line in /etc/subuid or /etc/subgid."""
    if not os.path.exists(file):
        return None
    names = (pwd.getpwuid(UID).pw_name, str(UID))
    for line in Path(file).read_text().splitlines():
        name, first, count = line.split(":")
        if name in names:
            return int(first), int(count)
    return None


def namespace(pid: int | str, kind: str) -> str:
    """Which namespace a process is in, as "user:[4026531837]"."""
    return os.readlink(f"/proc/{pid}/ns/{kind}")


def tree_of(place: Path) -> list[tuple[str, int, int, int]]:
    """Everything below a directory with its mode, size and time of change."""
    found = []
    for parent, directories, files in os.walk(place):
        for name in (".", *directories, *files):
            status = os.lstat(os.path.join(parent, name))
            found.append((os.path.join(parent, name), status.st_mode, status.st_size, status.st_mtime_ns))
    return sorted(found)
