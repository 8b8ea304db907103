"""Ranges of host ids, one a container, so that no two containers ever have a uid in common.

The pool is the range that /etc/subuid and /etc/subgid give the user "minibox", where there is one;
otherwise 0x70000000 to 0x7FFFFFFE, which no distribution's accounts, subuid ranges or
systemd-nspawn's containers use.  Ranges are handed out in turn, so that one is used again late: files
that a container left in a volume then belong to nobody for long.
"""

from __future__ import annotations

import os

from minibox.errors import KernelError, StateError
from minibox.kernel import calls, idmap

RANGE = 65536
POOL = (0x7000_0000, 0x0FFF_0000)
OWNER = "minibox"


def pool() -> tuple[int, int]:
    """(first id, count) of the pool.  Raises StateError when accounts have ids in it."""
    ranges = [idmap.subordinate_ranges(path, OWNER, -1) for path in ("/etc/subuid", "/etc/subgid")]
    if ranges[0] and ranges[1]:
        uids, gids = ranges[0][0], ranges[1][0]
        if uids != gids:
            raise StateError(f"/etc/subuid and /etc/subgid give {OWNER} different ranges: make them equal")
        first, count = uids
    else:
        first, count = POOL
    taken = [number for number in idmap.account_ids() if first <= number < first + count]
    if taken:
        raise StateError(
            f"account id {taken[0]} lies in the pool of ids: give {OWNER} a range in /etc/subuid"
        )
    if count < RANGE:
        raise StateError(f"the pool of ids has {count}, and a container needs {RANGE}")
    return first, count


def peek(run: str) -> tuple[int, int]:
    """(slot, first id) that the next container would get; nothing is reserved."""
    first, count = pool()
    slots = count // RANGE
    used = _used(run)
    try:
        start = int(calls.read_file(f"{run}/ids/next"))
    except (OSError, ValueError):  # none handed out yet, or cut short: any free one will do
        start = 0
    for turn in range(slots):
        slot = (start + turn) % slots
        if slot not in used:
            return slot, first + slot * RANGE
    raise StateError(f"all {slots} id ranges are in use: minibox ps shows by whom")


def _used(run: str) -> set[int]:
    try:
        return {int(name) for name in os.listdir(f"{run}/ids") if name.isdigit()}
    except FileNotFoundError:
        return set()


def reserve(run: str, container: str) -> tuple[int, int]:
    """(slot, first id) for a container.  The caller holds the store's lock."""
    slot, first = peek(run)
    with open(f"{run}/ids/{slot}", "x", encoding="ascii") as file:
        file.write(container)
    with open(f"{run}/ids/next.new", "w", encoding="ascii") as file:
        file.write(str(slot + 1))
    os.rename(f"{run}/ids/next.new", f"{run}/ids/next")
    return slot, first


def release(run: str, container: str, slot: int = -1) -> None:
    """Give a container's range back; without its slot all are looked through."""
    names = [str(slot)] if slot >= 0 else [name for name in os.listdir(f"{run}/ids") if name.isdigit()]
    for name in names:
        path = f"{run}/ids/{name}"
        try:
            if calls.read_file(path) == container:
                os.unlink(path)
        except KernelError as error:
            if error.errno != 2:
                raise
