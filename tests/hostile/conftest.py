"""The probes, a root that has them, and the proof that the host is as it was."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import IS_ROOT, ROOTFS, compile_c, wait_until

from hostile.harness import RUNTIME_FILES, Attack, facts_of, host_same
from minibox.runtime import sweep
from minibox.store.state import Store

SOURCES = Path(__file__).parent / "probes"


@pytest.fixture(scope="session")
def probes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of the compiled probes."""
    place = tmp_path_factory.mktemp("probes")
    for source in sorted(SOURCES.glob("*.c")):
        flags: tuple[str, ...] = ("-static", "-D_GNU_SOURCE")
        if source.stem == "loader":  # stands where a program's dynamic loader is looked for
            flags = ("-static", "-nostdlib", "-fno-stack-protector", "-Wl,-Ttext-segment=0x60000000")
        compile_c(source.read_text(), place / source.stem, flags)
    return place


@pytest.fixture(scope="session", autouse=True)
def runtime_bytes() -> Iterator[None]:
    """The host's python and its libraries, byte by byte, before all attacks and after them."""
    before = [facts_of(path) for path in RUNTIME_FILES]
    yield
    assert [facts_of(path) for path in RUNTIME_FILES] == before


def copy_root(target: Path, probes: Path) -> Path:
    """A copy of the busybox root with the probes in /."""
    # An ordinary user may not read all of it, and needs no more than the shell.
    subprocess.run(["cp", "-a", str(ROOTFS), str(target)], check=IS_ROOT, stderr=subprocess.DEVNULL)
    subprocess.run(["cp", *map(str, probes.iterdir()), str(target)], check=True)
    return target


@pytest.fixture(scope="session")
def probe_root(tmp_path_factory: pytest.TempPathFactory, probes: Path) -> Path:
    """A root with the probes in it; not to be changed."""
    return copy_root(tmp_path_factory.mktemp("hostile") / "root", probes)


@pytest.fixture
def own_root(tmp_path: Path, probes: Path) -> Path:
    """A root with the probes in it, for the test to spoil."""
    return copy_root(tmp_path / "root", probes)


@pytest.fixture
def attack(store_dirs: tuple[Path, Path], probe_root: Path) -> Iterator[Attack]:
    """Containers made in this process.  Afterwards the host is as before, and nothing is left.

    Only groups of this store's containers are looked for: others may run containers at the same time.
    """
    store = Store(*map(str, store_dirs))
    found, before = Attack(store, probe_root), host_same()
    yield found
    if (store_dirs[0] / "lock").exists():
        with store.lock():
            sweep.sweep(store)
    wait_until(lambda: host_same() == before and not found.groups(), 5)
    after = host_same()
    for key, value in before.items():
        assert after[key] == value, f"the host's {key} changed"
    assert found.groups() == []
    for place in (store_dirs[0] / "containers", store_dirs[0] / "removed", store_dirs[1]):
        assert not place.exists() or sorted(place.iterdir()) == []


@pytest.fixture
def tripwire() -> Iterator[Path]:
    """A directory of the host, open to everybody: whoever reaches it can change it.

    Not below /tmp, which the container's side of a start has covered by a file system of its own.
    """
    place = Path(tempfile.mkdtemp(prefix="minibox-tripwire-", dir="/var/tmp"))
    place.chmod(0o711)
    found = place / "canary"
    found.mkdir()
    found.chmod(0o777)
    (found / "file").write_text("untouched\n")
    (found / "file").chmod(0o666)
    yield found
    shutil.rmtree(place)
