"""How the host sees a container: what the tests of this directory compare the inside with."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from conftest import ROOTFS, Minibox

FOURTEEN = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
]


class Mounted(NamedTuple):
    """A line of mountinfo: `propagation` is "shared:1", "master:1" or "" for a private mount."""

    place: str
    options: set[str]
    propagation: str
    kind: str


def status(pid: int | str) -> dict[str, str]:
    """/proc/PID/status by its keys."""
    return parse_status(Path(f"/proc/{pid}/status").read_text())


def parse_status(text: str) -> dict[str, str]:
    """The text of a /proc/PID/status by its keys."""
    return {line.partition(":")[0]: line.partition(":")[2].strip() for line in text.splitlines()}


def host_uid(pid: int | str) -> int:
    """The uid of a process as the host counts."""
    return int(status(pid)["Uid"].split()[0])


def namespace(pid: int | str, kind: str) -> str:
    """The identity of a namespace: `pid:[4026531836]`."""
    return os.readlink(f"/proc/{pid}/ns/{kind}")


def mounts(text: str) -> dict[str, Mounted]:
    """The mounts of a mountinfo by their places."""
    found = {}
    for line in text.splitlines():
        left, _, right = line.partition(" - ")
        fields = left.split(" ")
        found[fields[4]] = Mounted(
            fields[4], set(fields[5].split(",")), " ".join(fields[6:]), right.split(" ")[0]
        )
    return found


def detached(minibox: Minibox, name: str, *flags: object, command: tuple[str, ...] = ("sleep", "60")) -> int:
    """A container in the background; the host's number of its PID 1."""
    done = minibox("run", "-d", "--name", name, *flags, ROOTFS, *command)
    assert done.returncode == 0, done.stderr.decode()
    return int(minibox.state(name)["pid"])  # type: ignore[call-overload]


def group(minibox: Minibox, name: str, controller: str) -> Path:
    """The directory of a container's cgroup that has a controller, v1 or v2."""
    found = [Path(one) for one in minibox.state(name)["cgroups"]]  # type: ignore[attr-defined]
    v1 = [one for one in found if f"/{controller}/" in f"{one}/" or f",{controller}" in str(one)]
    if v1:
        return v1[0]
    return next(one for one in found if (one / "cgroup.controllers").exists())


def setting(directory: Path, *names: str) -> str:
    """The text of the first of some files that a group has: the v1 name, the v2 name."""
    return next((directory / name).read_text().strip() for name in names if (directory / name).exists())


def privately(
    script: Callable[[], str] | str, *arguments: object, timeout: float = 60, env: dict[str, str]
) -> str:
    """What a shell script prints in a mount namespace of the test's own; mounts end with it."""
    text = script if isinstance(script, str) else script()
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "sh", "-euc", text, "sh", *map(str, arguments)],
        capture_output=True, timeout=timeout, env=env, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()
