"""What happened to containers, for `events`: RUN/events, a line of JSON each, appended by one write.

A single write to a file opened with O_APPEND is not mixed with another's, so no lock is held.  Past
LIMIT the file is moved to events.1, in the place of the last such one: the journal has a bound.
"""

from __future__ import annotations

import os
import time

from minibox import fastjson

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

LIMIT = 1 << 20  # bytes


def record(run: str, container: str, event: str, **more: Any) -> None:
    """Append an event.  A journal that cannot be written to stops no container."""
    path = f"{run}/events"
    line = fastjson.dumps({"time": time.time(), "id": container, "event": event, **more}) + "\n"
    try:
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, line.encode("utf-8", "backslashreplace"))
            full = os.fstat(fd).st_size > LIMIT
        finally:
            os.close(fd)
        if full:
            os.rename(path, path + ".1")
    except OSError:
        pass


def past(run: str) -> list[dict[str, Any]]:
    """The events that the journal has, oldest first."""
    found = []
    for name in ("events.1", "events"):
        try:
            with open(f"{run}/{name}", "rb") as file:
                found += [_parsed(line) for line in file]
        except FileNotFoundError:
            continue
    return [one for one in found if one]


def follow(run: str, *, from_start: bool, poll: float = 0.1) -> Iterator[dict[str, Any]]:
    """Events as they come, for ever; with `from_start` those that the journal has first."""
    path = f"{run}/events"
    file = _open(path)
    if from_start:
        yield from past(run)
    if file is not None:
        file.seek(0, os.SEEK_END)
    rest = b""
    while True:
        data = file.read() if file is not None else b""
        if not data:
            if file is None or _replaced(file, path):
                newer = _open(path)
                if newer is not None:
                    file, rest = newer, b""
                    continue
            time.sleep(poll)
            continue
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            event = _parsed(line)
            if event:
                yield event


def _open(path: str) -> Any:
    try:
        return open(path, "rb", buffering=0)
    except FileNotFoundError:
        return None


def _replaced(file: Any, path: str) -> bool:
    try:
        return not os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        found = fastjson.loads(line.decode())
    except ValueError:  # a line that a full disk has cut short
        return {}
    return found if isinstance(found, dict) and {"time", "id", "event"} <= found.keys() else {}
