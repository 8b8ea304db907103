"""What several of these tests use: groups as files, and processes of another user in a group."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

TOP = Path("/sys/fs/cgroup")


@dataclass
class Group:
    """A cgroup by its directory."""

    path: Path

    def read(self, file: str) -> str:
        """The content of one of its files."""
        return (self.path / file).read_text().strip()

    def pids(self) -> list[int]:
        """The processes that are in it, and not in a group below."""
        return [int(line) for line in self.read("cgroup.procs").split()]

    def below(self) -> list[str]:
        """The names of the groups in it."""
        return sorted(one.name for one in self.path.iterdir() if one.is_dir())

    def make(self, name: str) -> Group:
        """A group below, with the same owner."""
        status = self.path.stat()
        made = Group(self.path / name)
        made.path.mkdir()
        for file in (".", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads"):
            os.chown(made.path / file, status.st_uid, status.st_gid)
        return made


def as_user(
    uid: int, group: Path, command: Sequence[str], environment: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    """Run a command as an ordinary user, its process in a cgroup from the start."""

    def enter() -> None:
        (group / "cgroup.procs").write_text("0")
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)

    return subprocess.run(
        list(command),
        preexec_fn=enter,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
