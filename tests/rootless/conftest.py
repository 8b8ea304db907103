"""An ordinary user, with or without a range of ids beside its own: what the tests expect depends on that.

scripts/test runs them as one of each.  No test skips itself for being run by the other.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import CHECKOUT, Minibox

from rootless.helpers import range_of


@pytest.fixture(scope="session")
def subuids() -> tuple[int, int] | None:
    """The user's subordinate uids; with them it has newuidmap and gids too, without it has none of these."""
    found = range_of("/etc/subuid")
    assert (found is None) == (range_of("/etc/subgid") is None), (
        "a range in one of /etc/subuid and subgid only"
    )
    assert found is None or shutil.which("newuidmap"), "a range, but no newuidmap: apt-get install uidmap"
    return found


@pytest.fixture(scope="session")
def rootfs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root of the user's own; not to be changed."""
    place = tmp_path_factory.mktemp("rootfs")
    subprocess.run([CHECKOUT / "scripts" / "build-rootfs", place], check=True, capture_output=True)
    return place


@pytest.fixture
def own_root(rootfs: Path, tmp_path: Path) -> Path:
    """A copy for a test to spoil.  Of the user's own root: somebody else's cannot be read in all places."""
    target = tmp_path / "root"
    subprocess.run(["cp", "-a", rootfs, target], check=True)
    return target


@pytest.fixture
def inside(minibox: Minibox, rootfs: Path) -> Callable[..., str]:
    """What a shell script prints in a new container; the test fails when the script does."""

    def run(script: str, *flags: object) -> str:
        return minibox.inside(script, *flags, rootfs=rootfs)

    return run


@pytest.fixture
def refused(minibox: Minibox, rootfs: Path) -> Callable[..., str]:
    """The error of a run that minibox itself refuses."""

    def run(*flags: object, code: int = 125) -> str:
        done = minibox("run", *flags, rootfs, "true")
        assert done.returncode == code, done.stderr
        assert done.stdout == b""
        return done.stderr.decode()

    return run


@pytest.fixture
def up(minibox: Minibox, rootfs: Path) -> Callable[..., int]:
    """A container in the background, under a name; its PID 1 as the host sees it."""

    def start(name: str, *flags: object) -> int:
        done = minibox(
            "run", "-d", "--name", name, *flags, rootfs, "sh", "-c", "trap 'exit 3' TERM; sleep 100 & wait"
        )
        assert done.returncode == 0, done.stderr.decode()
        return int(str(minibox.state(name)["pid"]))

    return start
