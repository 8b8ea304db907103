"""Limits and verbs on a host with cgroup v1 or the hybrid form; tests/cgroup2 has what v2 does otherwise."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ROOTFS, Minibox

V1 = not os.path.exists("/sys/fs/cgroup/cgroup.controllers")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/cgroup/" in str(item.path):
            item.add_marker(pytest.mark.root)
            if not V1:
                item.add_marker(pytest.mark.skip(reason="needs a host with cgroup v1"))


class Up:
    """A container in the background, and its groups."""

    def __init__(self, minibox: Minibox, name: str) -> None:
        self.minibox = minibox
        self.name = name
        self.state = minibox.state(name)
        self.pid = int(str(self.state["pid"]))

    def read(self, file: str) -> str:
        """A file of whichever of its groups has it."""
        found = [Path(str(one)) / file for one in self.state["cgroups"] if (Path(str(one)) / file).exists()]  # type: ignore[attr-defined]
        assert found, f"no group of {self.name} has {file}: {self.state['cgroups']}"
        return found[0].read_text().strip()


@pytest.fixture
def up(minibox: Minibox) -> Callable[..., Up]:
    def start(name: str, *flags: object, script: str = "sleep 100") -> Up:
        done = minibox("run", "-d", "--name", name, *flags, ROOTFS, "sh", "-c", script)
        assert done.returncode == 0, done.stderr.decode()
        return Up(minibox, name)

    return start


@pytest.fixture
def refused(minibox: Minibox) -> Callable[..., str]:
    """What `run` says of flags that it cannot honour."""

    def run(*flags: object) -> str:
        done = minibox("run", *flags, ROOTFS, "true")
        assert done.returncode == 125, done.stderr.decode()
        return done.stderr.decode()

    return run


@pytest.fixture
def disk() -> tuple[str, str]:
    """(path, "major:minor") of a whole disk."""
    for name in sorted(os.listdir("/sys/block")):
        path = f"/dev/{name}"
        if os.path.exists(path) and not name.startswith(("ram", "zram")):
            status = os.stat(path)
            return path, f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
    pytest.skip("no disk")
