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
from minibox.kernel import consts as c

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
    _write(f"{run}/ids/{slot}", container)
    _write(f"{run}/ids/next", str(slot + 1))
    return slot, first


def _write(path: str, text: str) -> None:
    """Whole or not at all: a slot's file without its owner's name would never be given back."""
    temporary = f"{path}.new"
    try:
        fd = calls.openat(c.AT_FDCWD, temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            calls.os_call("write", os.write, fd, text.encode())
        finally:
            os.close(fd)
        calls.os_call("rename", os.rename, temporary, path)
    except KernelError:
        try:
            os.unlink(temporary)
        except FileNotFoundError:
            pass
        raise


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
