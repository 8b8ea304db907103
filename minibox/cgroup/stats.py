"""What a container uses, out of the files of its groups, v1 and v2 alike."""

from __future__ import annotations

import os
import time

from minibox.errors import KernelError
from minibox.kernel import calls
from minibox.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

UNLIMITED = 1 << 60


class Sample(Record):
    """A container at one moment.

    Times are in nanoseconds, memory and io in bytes; None where no group counts it.  `pressure` has, for
    cpu, memory and io, the percent of the last ten seconds in which somebody waited: PSI, v2 only.
    """

    taken: int
    cpu: int | None
    memory: int | None
    memory_limit: int | None
    pids: int | None
    pids_limit: int | None
    read: int | None
    written: int | None
    periods: int | None
    throttled: int | None
    throttled_time: int | None
    oom_kills: int | None
    pressure: tuple[tuple[str, float], ...]


def sample(directories: list[str]) -> Sample:
    """Read the files of a container's groups."""
    files = _Files(directories)
    cpu = files.number("cpuacct.usage")
    stat = files.keyed("cpu.stat")
    if cpu is None and "usage_usec" in stat:
        cpu = stat["usage_usec"] * 1000
    memory = files.keyed("memory.stat")
    used = files.number("memory.usage_in_bytes", "memory.current")
    inactive = memory.get("total_inactive_file", memory.get("inactive_file", 0))
    throttled = stat.get(
        "throttled_time", stat["throttled_usec"] * 1000 if "throttled_usec" in stat else None
    )
    read, written = files.io()
    events = {**files.keyed("memory.oom_control"), **files.keyed("memory.events")}
    return Sample(
        taken=time.monotonic_ns(),
        cpu=cpu,
        # As docker stats: what can be dropped at once is not counted.
        memory=None if used is None else max(0, used - inactive),
        memory_limit=files.limit("memory.limit_in_bytes", "memory.max"),
        pids=files.number("pids.current"),
        pids_limit=files.limit("pids.max"),
        read=read,
        written=written,
        periods=stat.get("nr_periods"),
        throttled=stat.get("nr_throttled"),
        throttled_time=throttled,
        oom_kills=events.get("oom_kill"),
        pressure=tuple(
            (name, value)
            for name in ("cpu", "memory", "io")
            if (value := files.pressure(f"{name}.pressure")) is not None
        ),
    )


def cpu_percent(before: Sample, after: Sample) -> float | None:
    """Of one processor, between two samples: 200 is two processors, busy."""
    if before.cpu is None or after.cpu is None or after.taken <= before.taken:
        return None
    return 100 * (after.cpu - before.cpu) / (after.taken - before.taken)


class _Files:
    """Files by name, in whichever group has them."""

    def __init__(self, directories: list[str]) -> None:
        self.directories = directories

    def text(self, name: str) -> str:
        for directory in self.directories:
            try:
                return calls.read_file(f"{directory}/{name}")
            except KernelError:
                continue
        return ""

    def number(self, *names: str) -> int | None:
        for name in names:
            text = self.text(name).strip()
            if text.isdigit():
                return int(text)
        return None

    def limit(self, *names: str) -> int | None:
        value = self.number(*names)
        return None if value is None or value > UNLIMITED else value

    def keyed(self, name: str) -> dict[str, int]:
        pairs = (line.split() for line in self.text(name).splitlines())
        return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}

    def io(self) -> tuple[int | None, int | None]:
        """Bytes read from and written to all disks."""
        for name in ("blkio.throttle.io_service_bytes", "io.stat"):
            if not any(os.path.exists(f"{directory}/{name}") for directory in self.directories):
                continue
            read = written = 0
            for line in self.text(name).splitlines():
                words = line.split()
                if name == "io.stat":
                    fields: dict[str, Any] = dict(word.partition("=")[::2] for word in words[1:])
                    read += int(fields.get("rbytes", 0))
                    written += int(fields.get("wbytes", 0))
                elif len(words) == 3 and words[1] == "Read":
                    read += int(words[2])
                elif len(words) == 3 and words[1] == "Write":
                    written += int(words[2])
            return read, written
        return None, None

    def pressure(self, name: str) -> float | None:
        for line in self.text(name).splitlines():
            if line.startswith("some "):
                return float(line.split()[1].partition("=")[2])
        return None
