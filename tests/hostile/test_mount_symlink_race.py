# ruff: noqa: E501  (tables of words)
"""mount-symlink-race (CVE-2021-30465): a directory on the way to a mount's destination becomes a link.

A volume that others write to holds a directory and a link that change places all the time; containers
mount onto a path through them.
"""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from hostile.harness import facts_of, host_same
from minibox.kernel import calls
from minibox.kernel import consts as c
from minibox.plan import ops

SECONDS = 2.5
MODES = [{}, pytest.param({"userns": "host"}, marks=pytest.mark.root)]


@pytest.fixture
def race(tmp_path, tripwire, probes):
    """A volume with a directory and a link to the tripwire that keep changing places."""
    volume = tmp_path / "volume"
    (volume / "way").mkdir(parents=True)
    volume.chmod(0o777)
    (volume / "way").chmod(0o777)
    processes = []

    def run(target: str) -> Path:
        (volume / "link").symlink_to(target)
        racer = subprocess.Popen(
            [probes / "exchange", volume / "way", volume / "link"], stdout=subprocess.PIPE
        )
        processes.append(racer)
        assert racer.stdout is not None
        assert racer.stdout.readline() == b"exchanging\n"
        return volume

    yield run
    for one in processes:
        one.kill()
        one.wait()
        one.stdout.close()


def inside_link(tripwire: Path, relative: bool) -> str:
    return "../" * 20 + str(tripwire).lstrip("/") if relative else str(tripwire)


@pytest.mark.parametrize("how", MODES)
@pytest.mark.parametrize("relative", [False, True], ids=["absolute", "dots"])
def test_nothing_is_made_or_mounted_outside(attack, race, tripwire, relative, how):
    volume = race(inside_link(tripwire, relative))
    source = tripwire.parent / "source"
    source.mkdir()
    before, host = facts_of(tripwire), host_same()["mounts"]
    results, turn = [], 0
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        ended = attack.sh(
            "cat /proc/self/mountinfo",
            volume=[f"{volume}:/shared", f"{source}:/shared/way/{turn}/place", f"/etc/hosts:/shared/way/file-{turn}"], **how,
        )  # fmt: skip
        turn += 1
        results.append(ended.step.rstrip("0123456789"))
        assert facts_of(tripwire) == before
        assert host_same()["mounts"] == host
    assert len(results) > 10
    assert all(step.startswith(("mount.shared-way-", "")) for step in results)
    assert "" in results


def test_paths_joined_as_strings_lose_the_race(attack, race, tripwire, monkeypatch):
    """What other runtimes did: look that no component is a link, then make and mount by the same path."""

    def place(ctx, destination, directory):  # type: ignore[no-untyped-def]
        if destination in ("/proc", "/sys") or not destination.startswith("/shared/"):
            return real(ctx, destination, directory)
        path = f"/proc/self/fd/{ctx.fd('root')}"
        for name in destination.split("/")[1:]:
            path += "/" + name
            if os.path.islink(path):
                raise ops.KernelError(40, "lstat", (path,))
        os.makedirs(path, exist_ok=True)
        return calls.openat(c.AT_FDCWD, path, c.O_PATH)

    real = ops._place
    monkeypatch.setattr(ops, "_place", place)
    volume = race(str(tripwire))
    source = tripwire.parent / "source"
    source.mkdir()
    before = facts_of(tripwire)
    end, turn = time.monotonic() + 20, 0
    while facts_of(tripwire) == before and time.monotonic() < end:
        attack("true", volume=[f"{volume}:/shared", f"{source}:/shared/way/{turn}/place"])
        turn += 1
    assert facts_of(tripwire) != before
