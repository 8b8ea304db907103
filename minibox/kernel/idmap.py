"""User and group id maps: user_namespaces(7), subuid(5)."""

from __future__ import annotations

import os

from minibox.errors import SpecError
from minibox.kernel import calls
from minibox.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    Lines = tuple[tuple[int, int, int], ...]

ID_LIMIT = 2**32 - 1  # the id 2^32-1 means "none" to the kernel
MAX_EXTENTS = 340  # lines of a uid_map, Linux 4.15


class IdMap(Record):
    """`size` ids from `inside` (the container) on are those from `outside` (the host) on."""

    inside: int
    outside: int
    size: int


def lines(maps: Iterable[IdMap]) -> Lines:
    """The maps as the triples that operations and the kernel take: (inside, outside, size)."""
    return tuple((one.inside, one.outside, one.size) for one in maps)


def to_host(maps: Lines, inside: int) -> int | None:
    """The id that the host sees for one of the container's, or None when it is not mapped."""
    for first, outside, size in maps:
        if first <= inside < first + size:
            return outside + inside - first
    return None


def check(maps: tuple[IdMap, ...], pointer: str) -> None:
    """Refuse what the kernel would: sizes, ends, overlaps.  Raises SpecError."""
    if len(maps) > MAX_EXTENTS:
        raise SpecError(pointer, f"{len(maps)} lines: the kernel takes {MAX_EXTENTS}")
    for entry in maps:
        if entry.size < 1:
            raise SpecError(pointer, f"the size of {show(entry)} must be at least 1")
        if max(entry.inside, entry.outside) + entry.size > ID_LIMIT:
            raise SpecError(pointer, f"{show(entry)} goes beyond the last id, {ID_LIMIT - 1}")
    for side in ("inside", "outside"):
        ordered = sorted(maps, key=lambda entry: getattr(entry, side))
        for before, after in zip(ordered, ordered[1:], strict=False):
            if getattr(before, side) + before.size > getattr(after, side):
                place = "container" if side == "inside" else "host"
                raise SpecError(pointer, f"{show(before)} and {show(after)} overlap in the {place}")


def show(entry: IdMap) -> str:
    """`IN:OUT:SIZE`, as the command line has it."""
    return f"{entry.inside}:{entry.outside}:{entry.size}"


def parse(value: str, pointer: str) -> IdMap:
    """An `IN:OUT:SIZE` of the command line.  Raises SpecError."""
    parts = value.split(":")
    if len(parts) != 3 or not all(part.isascii() and part.isdigit() for part in parts):
        raise SpecError(pointer, f'"{value}" is not IN:OUT:SIZE (three numbers)')
    inside, outside, size = map(int, parts)
    return IdMap(inside=inside, outside=outside, size=size)


def subordinate_ranges(path: str, name: str, uid: int) -> tuple[tuple[int, int], ...]:
    """The (first id, count) ranges that /etc/subuid or /etc/subgid gives an account: subuid(5)."""
    try:
        lines = calls.read_file(path).splitlines()
    except OSError:
        return ()
    ranges = []
    for line in lines:
        owner, _, numbers = line.strip().partition(":")
        first, _, count = numbers.partition(":")
        if owner in (name, str(uid)) and owner and first.isdigit() and count.isdigit() and int(count):
            ranges.append((int(first), int(count)))
    return tuple(ranges)


def account_ids(path: str = "/etc/passwd") -> tuple[int, ...]:
    """The ids of the accounts in a passwd(5) or group(5) file."""
    try:
        lines = calls.read_file(path).splitlines()
    except OSError:
        return ()
    fields = (line.split(":") for line in lines)
    return tuple(int(part[2]) for part in fields if len(part) > 2 and part[2].isdigit())


def account_name(uid: int, path: str = "/etc/passwd") -> str:
    """The login name of a host's uid, or "" when the passwd file has none."""
    try:
        lines = calls.read_file(path).splitlines()
    except OSError:
        return ""
    for line in lines:
        fields = line.split(":")
        if len(fields) > 2 and fields[2] == str(uid):
            return fields[0]
    return ""


def find_tool(name: str) -> str:
    """The path of newuidmap or newgidmap, or ""."""
    for directory in os.environ.get("PATH", "/usr/bin:/bin").split(":"):
        path = f"{directory}/{name}"
        if directory.startswith("/") and os.access(path, os.X_OK):
            return path
    return ""
