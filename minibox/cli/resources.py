"""The verbs about what containers use: stats top update pause unpause events."""

from __future__ import annotations

import os
import sys
import time

from minibox.cgroup import freeze
from minibox.cgroup import stats as usage
from minibox.cli import manage
from minibox.errors import StateError, UsageError
from minibox.kernel import calls
from minibox.runtime import live
from minibox.spec.options import FLAG, RUN
from minibox.store import journal
from minibox.store.state import Store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from minibox.spec.options import Table

STATS: Table = {
    "no-stream": (FLAG, "", "", "once, and end"),
    "json": (FLAG, "", "", "a line of JSON for each container and sample"),
}
EVENTS: Table = {
    "json": (FLAG, "", "", "a line of JSON each"),
    "all": (FLAG, "a", "", "those that the journal has, first"),
    "no-follow": (FLAG, "", "", "those that the journal has, and end"),
}
#: the flags of run that a running container's limits can be changed by
CHANGEABLE = (
    "memory", "memory-reservation", "memory-swap", "memory-swappiness", "oom-kill-disable", "pids-limit",
    "cpus", "cpu-quota", "cpu-period", "cpu-burst", "cpu-shares", "cpu-idle", "cpu-rt-runtime",
    "cpu-rt-period", "cpuset-cpus", "cpuset-mems", "blkio-weight", "blkio-weight-device", "device-read-bps",
    "device-write-bps", "device-read-iops", "device-write-iops", "hugetlb", "net-classid", "net-prio", "rdma",
    "cgroup-conf",
)  # fmt: skip
UPDATE: Table = {
    **{name: RUN[name] for name in CHANGEABLE},
    "check-before-update": (FLAG, "", "", "refuse a memory limit below what is in use"),
}
PAUSE: Table = {}
INTERVAL = 1.0  # seconds between two samples
FIRST = 0.2  # before the first table, so that it has a share of processor time


# --- pause, unpause, update ---------------------------------------------------------------------------


def pause(argv: list[str]) -> int:
    """Stop every process of containers."""
    _options, words = manage.parse(argv, PAUSE, "pause")
    return manage.each(words, _pause)


def _pause(store: Store, name: str) -> None:
    with store.lock():
        state = store.read(name)
        live.running_pid(state)
        if freeze.is_frozen(live.group_of(state)):
            raise StateError(f"container {name} is paused already")
        try:
            freeze.freeze(live.group_of(state))
        except StateError as error:
            raise StateError(f"container {name} cannot be paused: {error}") from None
    journal.record(store.run, name, "pause")


def unpause(argv: list[str]) -> int:
    """Let paused containers go on."""
    _options, words = manage.parse(argv, PAUSE, "unpause")
    return manage.each(words, _unpause)


def _unpause(store: Store, name: str) -> None:
    with store.lock():
        state = store.read(name)
        live.running_pid(state)
        if not freeze.is_frozen(live.group_of(state)):
            raise StateError(f"container {name} is not paused")
        freeze.thaw(live.group_of(state))
    journal.record(store.run, name, "unpause")


def update(argv: list[str]) -> int:
    """Change the limits of running containers."""
    options, words = manage.parse(argv, UPDATE, "update")
    if not options:
        raise UsageError("minibox update FLAG... ID...: no limit is given")
    from minibox.runtime import update as updating

    return manage.each(words, lambda store, name: updating.update(store, name, options))


# --- stats ---------------------------------------------------------------------------------------------


def stats(argv: list[str]) -> int:
    """Show what containers use, again and again."""
    options, words = manage.parse(argv, STATS, "stats", least=0)
    store = Store()
    names = [store.find(word) for word in words]
    as_json, once = bool(options.get("json")), bool(options.get("no_stream"))
    screen = not as_json and not once and os.isatty(1)
    before = _samples(store, names, strict=True)
    wait = FIRST
    try:
        while True:
            time.sleep(wait)
            wait = INTERVAL
            after = _samples(store, names, strict=False)
            rows = [_measured(name, before.get(name), now) for name, now in after.items()]
            if as_json:
                from minibox import fastjson

                text = "".join(fastjson.dumps(row) + "\n" for row in rows)
            else:
                text = _table(rows)
            if screen:  # home, each line cleared behind its end, and what is left below
                text = "\x1b[H" + text.replace("\n", "\x1b[K\n") + "\x1b[J"
            sys.stdout.write(text)
            sys.stdout.flush()
            if once or (words and not after):
                return 0
            before = after
    except KeyboardInterrupt:
        return 0


def _samples(store: Store, names: list[str], *, strict: bool) -> dict[str, usage.Sample]:
    found = {}
    for name in names or store.names():
        try:
            state = store.read(name)
            live.running_pid(state)
        except StateError:
            if strict and names:
                raise
            continue
        directories = live.group_of(state)
        if not directories and strict and names:
            raise StateError(f"container {name} has no group of its own: nothing counts what it uses")
        found[name] = usage.sample(directories)
    return found


def _measured(name: str, before: usage.Sample | None, now: usage.Sample) -> dict[str, Any]:
    percent = usage.cpu_percent(before, now) if before else None
    return {
        "id": name,
        "cpu_percent": None if percent is None else round(percent, 2),
        "cpu_time": None if now.cpu is None else now.cpu / 1e9,
        "memory": now.memory,
        "memory_limit": now.memory_limit,
        "pids": now.pids,
        "pids_limit": now.pids_limit,
        "io_read": now.read,
        "io_written": now.written,
        "periods": now.periods,
        "throttled": now.throttled,
        "throttled_time": None if now.throttled_time is None else now.throttled_time / 1e9,
        "oom_kills": now.oom_kills,
        "pressure": dict(now.pressure),
    }


def _table(rows: list[dict[str, Any]]) -> str:
    lines: list[tuple[str, ...]] = [
        ("ID", "CPU", "MEMORY / LIMIT", "PIDS", "READ / WRITTEN", "THROTTLED", "PRESSURE cpu/mem/io")
    ]
    for row in rows:
        pressure = row["pressure"]
        lines.append(
            (
                row["id"],
                "-" if row["cpu_percent"] is None else f"{row['cpu_percent']:.1f}%",
                f"{_size(row['memory'])} / {_size(row['memory_limit'], 'no limit')}",
                f"{_plain(row['pids'])} / {_plain(row['pids_limit'])}",
                f"{_size(row['io_read'])} / {_size(row['io_written'])}",
                _throttled(row),
                "/".join(f"{pressure[one]:.1f}" for one in pressure) or "-",
            )
        )
    return manage.columns(lines)


def _throttled(row: dict[str, Any]) -> str:
    if not row["periods"]:
        return "-"
    return f"{100 * row['throttled'] // row['periods']}% of periods"


def _plain(value: int | None) -> str:
    return "-" if value is None else str(value)


def _size(value: int | None, none: str = "-") -> str:
    if value is None:
        return none
    number, unit = float(value), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if number < 1024 or unit == "TiB":
            break
        number /= 1024
    return f"{value}B" if unit == "B" else f"{number:.1f}{unit}"


# --- top -------------------------------------------------------------------------------------------------


def top(argv: list[str]) -> int:
    """List a container's processes, as the host and as the container numbers them."""
    if argv[:1] in (["-h"], ["--help"]):
        from minibox.cli.flags import HelpWanted

        raise HelpWanted("top")
    if not argv or argv[0].startswith("-"):
        raise UsageError("minibox top ID [PS-ARG...]")
    store = Store()
    state = store.read(store.find(argv[0]))
    first = live.running_pid(state)
    pids = sorted({first, *(pid for one in live.group_of(state) for pid in live.group_pids(one))})
    if argv[1:]:
        return _ps(argv[1:], pids)
    rows: list[tuple[str, ...]] = [("PID", "INSIDE", "UID", "STATE", "THREADS", "MEMORY", "TIME", "COMMAND")]
    rows += [row for row in (_process(pid) for pid in pids) if row is not None]
    sys.stdout.write(manage.columns(rows))
    return 0


def _process(pid: int) -> tuple[str, ...] | None:
    try:
        lines = calls.read_file(f"/proc/{pid}/status").splitlines()
        words = calls.read_file(f"/proc/{pid}/cmdline").split("\0")
        fields = calls.read_file(f"/proc/{pid}/stat").rpartition(")")[2].split()
    except OSError:
        return None  # it has ended meanwhile
    status = {line.partition(":")[0]: line.partition(":")[2].split() for line in lines}
    seconds = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    command = " ".join(words).strip() or f"[{status['Name'][0]}]"
    shown = "".join(one if one.isprintable() else "?" for one in command)
    memory = int(status["VmRSS"][0]) << 10 if "VmRSS" in status else None
    return (
        str(pid),
        status["NSpid"][-1],
        status["Uid"][1],
        status["State"][0],
        status["Threads"][0],
        _size(memory),
        f"{int(seconds) // 60}:{seconds % 60:05.2f}",
        shown,
    )


def _ps(arguments: list[str], pids: list[int]) -> int:
    """ps(1) of the host, its lines that are about the container; it has to print a column PID."""
    import subprocess

    done = subprocess.run(["ps", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise StateError(f"ps {' '.join(arguments)}: {done.stderr.strip() or done.returncode}")
    head, *lines = done.stdout.splitlines()
    titles = head.split()
    if "PID" not in titles:
        raise StateError(f"ps {' '.join(arguments)} prints no column PID")
    column = titles.index("PID")
    print(head)
    for line in lines:
        words = line.split(None, column + 1)
        if len(words) > column and words[column].isdigit() and int(words[column]) in pids:
            print(line)
    return 0


# --- events ----------------------------------------------------------------------------------------------


def events(argv: list[str]) -> int:
    """Print events, of all containers or of those named, which need not exist (any more)."""
    options, words = manage.parse(argv, EVENTS, "events", least=0)
    store = Store()
    store.prepare()
    found = (
        iter(journal.past(store.run))
        if options.get("no_follow")
        else journal.follow(store.run, from_start=bool(options.get("all")))
    )
    as_json = bool(options.get("json"))
    try:
        for event in found:
            if not words or any(str(event["id"]).startswith(word) for word in words):
                print(_shown(event, as_json=as_json), flush=True)
    except KeyboardInterrupt:
        pass
    return 0


def _shown(event: dict[str, Any], *, as_json: bool) -> str:
    from minibox import fastjson

    if as_json:
        return fastjson.dumps(event)
    whole = float(event["time"])
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(whole)) + f".{int(whole % 1 * 1000):03}"
    more = " ".join(
        f"{key}={fastjson.dumps(value) if isinstance(value, (list, dict)) else value}"
        for key, value in event.items()
        if key not in ("time", "id", "event")
    )
    return f"{stamp}  {event['event']:8} {event['id']}  {more}".rstrip()
