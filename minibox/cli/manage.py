"""The verbs about containers that run, or have run: ps inspect logs kill stop wait rm."""

from __future__ import annotations

import os
import sys
import time

from minibox.cgroup import freeze
from minibox.cli import flags
from minibox.errors import MiniboxError, StateError, UsageError
from minibox.kernel import consts as c
from minibox.runtime import container, live
from minibox.spec import values
from minibox.spec.options import FLAG, VALUE
from minibox.store.state import Store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from minibox.spec.options import Table

PS: Table = {
    "quiet": (FLAG, "q", "", "ids only"),
    "json": (FLAG, "", "", "as JSON"),
    "all": (FLAG, "a", "", "those that have ended too (they are listed anyway)"),
}
LOGS: Table = {
    "follow": (FLAG, "f", "", "go on until the container ends"),
    "tail": (VALUE, "", "N", "the last N lines only"),
    "timestamps": (FLAG, "", "", "with the time of each line"),
}
KILL: Table = {"signal": (VALUE, "s", "SIGNAL", "default: KILL")}
STOP: Table = {"time": (VALUE, "t", "SECONDS", "until SIGKILL (default: its --stop-timeout, or 10)")}
RM: Table = {"force": (FLAG, "f", "", "end running ones first")}
WAIT: Table = {}
INSPECT: Table = {}
VERIFY: Table = {
    "json": (FLAG, "", "", "as JSON"),
    "all": (FLAG, "a", "", "steps that hold, or that nothing can tell of, too"),
}


def ps(argv: list[str]) -> int:
    """List containers."""
    options, words = parse(argv, PS, "ps", least=0)
    if words:
        raise UsageError(f'minibox ps takes no "{words[0]}"')
    store = Store()
    rows = [row for row in (_row(store, name) for name in store.names()) if row is not None]
    if options.get("quiet"):
        for row in rows:
            print(row["id"])
        return 0
    if options.get("json"):
        import json

        print(json.dumps(rows, indent=2))
        return 0
    table: list[tuple[str, ...]] = [("ID", "PID", "STATUS", "CREATED", "COMMAND")]
    table += [
        (row["id"], str(row["pid"] or "-"), row["shown"], _ago(row["created"]), " ".join(row["command"]))
        for row in rows
    ]
    print(columns(table), end="")
    return 0


def columns(table: list[tuple[str, ...]]) -> str:
    """Lines of cells, each column as wide as it needs to be."""
    widths = [max(len(line[column]) for line in table) for column in range(len(table[0]) - 1)]
    lines = []
    for line in table:
        cells = [cell.ljust(width) for cell, width in zip(line, [*widths, 0], strict=True)]
        lines.append("  ".join(cells).rstrip() + "\n")
    return "".join(lines)


def _row(store: Store, name: str) -> dict[str, Any] | None:
    try:
        state = store.read(name)
    except StateError:  # being made, or being removed, at this moment
        return None
    status = current_status(state)
    shown = status
    if status == "stopped":
        shown = f"exited ({state.get('exit_code', '?')})"
        shown += " oom_killed" if state.get("oom_killed") else ""
    return {
        "id": state["id"],
        "pid": state["pid"] if status in ("created", "running", "paused") else 0,
        "status": status,
        "shown": shown,
        "created": state["created"],
        "exit_code": state.get("exit_code"),
        "command": state["command"],
    }


def current_status(state: dict[str, Any]) -> str:
    """The status as it is now, whatever the file says of a container whose keeper was killed."""
    status = str(state["status"])
    if status in ("created", "running") and not live.is_alive(state):
        return "stopped"
    if status == "running" and freeze.is_frozen(live.group_of(state)):
        return "paused"
    return status


def _ago(then: float) -> str:
    passed = max(0, int(time.time() - then))
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if passed >= length:
            return f"{passed // length}{unit} ago"
    return f"{passed}s ago"


def inspect(argv: list[str]) -> int:
    """Print states as JSON, with what the kernel says now."""
    import json

    from minibox.runtime.command import namespaces_of

    _options, words = parse(argv, INSPECT, "inspect")
    store = Store()
    found = []
    for word in words:
        state = store.read(store.find(word))
        state["status"] = current_status(state)
        if state["status"] in ("created", "running", "paused"):
            state["namespaces"] = namespaces_of(state["pid"])
            state["processes"] = sorted(
                {pid for one in live.group_of(state) for pid in live.group_pids(one)} or {state["pid"]}
            )
        state["cgroups"] = live.group_of(state)
        found.append(state)
    print(json.dumps(found, indent=2))
    return 0


def verify(argv: list[str]) -> int:
    """Compare a running container with its Plan; 1 when something is missing."""
    options, words = parse(argv, VERIFY, "verify")
    from minibox.runtime import verify as verifier

    store = Store()
    code = 0
    for word in words:
        findings = verifier.verify(store.read(store.find(word)))
        code |= any(one.verdict == verifier.MISSING for one in findings)
        if options.get("json"):
            import json

            print(json.dumps([one.to_json() for one in findings], indent=2))
        else:
            print("\n".join(verifier.lines(findings, everything=bool(options.get("all")))))
    return int(code)


def logs(argv: list[str]) -> int:
    """Print the log of a detached container; its stderr goes to stderr."""
    options, words = parse(argv, LOGS, "logs")
    if len(words) != 1:
        raise UsageError("minibox logs [FLAG...] ID")
    store = Store()
    name = store.find(words[0])
    path = f"{store.directory(name)}/log"
    if not os.path.exists(path):
        raise StateError(f"container {name} has no log: it was not started with --detach")
    tail = options.get("tail")
    count = None if tail is None else values.integer(tail, "--tail", 0)
    stamps = bool(options.get("timestamps"))
    with open(path, "rb") as file:
        lines = _old_lines(path) + file.readlines()
        for line in lines if count is None else _last(lines, count):
            _print_log(line, stamps)
        while options.get("follow"):
            ended = not live.is_alive(store.read(name)) if store.exists(name) else True
            while line := file.readline():
                _print_log(line, stamps)
            if ended:
                break
            time.sleep(0.1)
    return 0


def _old_lines(path: str) -> list[bytes]:
    try:
        with open(path + ".1", "rb") as file:
            return file.readlines()
    except FileNotFoundError:
        return []


def _last(entries: list[bytes], count: int) -> list[bytes]:
    """Those that make the last `count` lines: what was written in parts (P) is one line with its end (F)."""
    numbers: list[int] = []
    open_lines: dict[bytes, int] = {}
    total = 0
    for entry in entries:
        _stamp, stream, kind, _text = entry.split(b" ", 3)
        if stream not in open_lines:
            total += 1
            open_lines[stream] = total
        numbers.append(open_lines[stream])
        if kind == b"F":
            del open_lines[stream]
    return [entry for entry, number in zip(entries, numbers, strict=True) if number > total - count]


def _print_log(line: bytes, stamps: bool) -> None:
    stamp, stream, kind, text = line.rstrip(b"\n").split(b" ", 3)
    out = sys.stderr.buffer if stream == b"stderr" else sys.stdout.buffer
    out.write((stamp + b" " if stamps else b"") + text + (b"\n" if kind == b"F" else b""))
    out.flush()


def kill(argv: list[str]) -> int:
    """Send a signal to the first process of containers."""
    options, words = parse(argv, KILL, "kill")
    number = signal_number(options.get("signal", "KILL"))
    return each(words, lambda store, name: container.signal_container(store.read(name), number))


def signal_number(text: str) -> int:
    """The number of "TERM", "SIGTERM", "sigterm" or "15".  Raises UsageError."""
    if text.isascii() and text.isdigit() and int(text) <= 64:
        return int(text)
    name = text.upper().removeprefix("SIG")
    if name not in c.SIGNALS:
        raise UsageError(f'unknown signal "{text}"')
    return c.SIGNALS[name]


def stop(argv: list[str]) -> int:
    """Ask containers to end, and end them when they do not."""
    options, words = parse(argv, STOP, "stop")
    text = options.get("time")
    grace = None if text is None else 0.0 if text == "0" else values.seconds(text, "--time")
    return each(words, lambda store, name: container.stop(store, name, grace))


def wait(argv: list[str]) -> int:
    """Wait for containers to end; a line with the exit code of each."""
    _options, words = parse(argv, WAIT, "wait")
    store = Store()
    for name in [store.find(word) for word in words]:
        state = container.wait_until_stopped(store, name)
        print((state or {}).get("exit_code", "removed"))
    return 0


def rm(argv: list[str]) -> int:
    """Remove containers."""
    options, words = parse(argv, RM, "rm")
    force = bool(options.get("force"))
    return each(words, lambda store, name: container.remove(store, name, force=force))


def parse(argv: list[str], table: Table, verb: str, least: int = 1) -> tuple[dict[str, Any], list[str]]:
    """The flags of a verb about containers, and their ids.  Raises UsageError."""
    options, words = flags.parse(argv, table, verb)
    while words and words[-1].startswith("-") and len(words[-1]) > 1:  # flags behind the ids, as in docker
        more, rest = flags.parse([words.pop()], table, verb)
        options.update(more)
        words += rest
    if len(words) < least:
        raise UsageError(f"ID is missing: minibox {verb} [FLAG...] ID...")
    return options, words


def each(words: list[str], act: Callable[[Store, str], None]) -> int:
    """Do something to each of several containers; one that fails does not spare the others."""
    store = Store()
    code = 0
    for word in words:
        try:
            act(store, store.find(word))
            print(word)
        except MiniboxError as error:
            print(f"minibox: {error}", file=sys.stderr)
            code = error.exit_code
    return code
