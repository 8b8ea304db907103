"""What every test may use: the command, roots, and the proof that nothing is left behind."""

from __future__ import annotations

import glob
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parent
ROOTFS = CHECKOUT / "rootfs"
IS_ROOT = os.geteuid() == 0
SKIPS = HERE / "skips.txt"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """`root` needs root, `rootless` an ordinary user, `cgroup2` a host with cgroup v2 only."""
    pure_v2 = os.path.exists("/sys/fs/cgroup/cgroup.controllers")
    for item in items:
        if item.get_closest_marker("root") and not IS_ROOT:
            item.add_marker(pytest.mark.skip(reason="needs root"))
        if item.get_closest_marker("rootless") and IS_ROOT:
            item.add_marker(pytest.mark.skip(reason="needs an ordinary user"))
        if item.get_closest_marker("cgroup2") and not pure_v2:
            item.add_marker(pytest.mark.skip(reason="needs a host with cgroup v2 only"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Every skip is printed with its reason."""
    for report in terminalreporter.stats.get("skipped", []):
        terminalreporter.write_line(f"skipped: {report.nodeid}: {_reason(report)}")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Under CI a skip must be one that tests/skips.txt explains."""
    if not os.environ.get("CI"):
        return
    known = [line.split("#")[0].strip() for line in SKIPS.read_text().splitlines()]
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    for report in reporter.stats.get("skipped", []):
        if not any(reason and reason in _reason(report) for reason in known):
            reporter.write_line(f"unexplained skip: {report.nodeid}: {_reason(report)}", red=True)
            session.exitstatus = 1


def _reason(report: pytest.TestReport) -> str:
    return str(report.longrepr[2]) if isinstance(report.longrepr, tuple) else str(report.longrepr)


@dataclass
class Minibox:
    """The command line as a user calls it, with a store of the test's own."""

    run_dir: Path
    data_dir: Path
    command: list[str] = field(default_factory=lambda: [sys.executable, "-I", "-m", "minibox"])

    @property
    def environment(self) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if key not in ("PYTHONDONTWRITEBYTECODE",)}
        return {**kept, "MINIBOX_ROOT": str(self.run_dir), "MINIBOX_DATA": str(self.data_dir)}

    def __call__(
        self, *words: object, stdin: bytes | None = None, timeout: float = 60, **environment: str
    ) -> subprocess.CompletedProcess[bytes]:
        """Run `minibox WORDS...` to its end; never raises for its exit code."""
        return subprocess.run(  # noqa: UP022  (both are pipes, and stdin may be one)
            [*self.command, *map(str, words)],
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            timeout=timeout,
            env={**self.environment, **environment},
            check=False,
        )

    def inside(self, script: str, *flags: object, rootfs: Path = ROOTFS, timeout: float = 60) -> str:
        """What a shell script prints in a new container; fails the test when it fails."""
        done = self("run", *flags, rootfs, "sh", "-c", script, timeout=timeout)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()

    def start(self, *words: object, **options: object) -> subprocess.Popen[bytes]:
        """`minibox WORDS...` in the background: the test ends it."""
        defaults: dict[str, object] = {
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            "env": self.environment,
        }
        return subprocess.Popen([*self.command, *map(str, words)], **{**defaults, **options})  # type: ignore[call-overload,no-any-return]

    def state(self, name: str) -> dict[str, object]:
        """`minibox inspect` of one container."""
        import json

        done = self("inspect", name)
        assert done.returncode == 0, done.stderr.decode()
        return json.loads(done.stdout)[0]  # type: ignore[no-any-return]


@pytest.fixture
def store_dirs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """RUN and DATA of the test's own, on a file system that overlayfs can write to."""
    base = tmp_path_factory.mktemp("store")
    yield base / "run", base / "data"
    shutil.rmtree(base, ignore_errors=True)


@pytest.fixture
def minibox(store_dirs: tuple[Path, Path]) -> Iterator[Minibox]:
    """The command; afterwards its containers are removed, and nothing of them may be left."""
    before, before_groups = host_facts(), set(cgroups())
    found = Minibox(*store_dirs)
    yield found
    names = found("ps", "-q").stdout.decode().split()
    if names:
        found("rm", "-f", *names)
    groups = set(cgroups())  # those of a neighbour who uses minibox too come and go: what stays counts
    wait_until(lambda: not left_of(groups, before_groups), 5)
    assert left_of(groups, before_groups) == set()
    wait_until(lambda: host_facts() == before, 5)
    assert host_facts() == before
    for place in (store_dirs[0] / "containers", store_dirs[0] / "removed", store_dirs[1]):
        assert not place.exists() or sorted(place.iterdir()) == []


@pytest.fixture
def library(minibox: Minibox, monkeypatch: pytest.MonkeyPatch) -> object:
    """The package, with the test's own store."""
    import minibox as package

    monkeypatch.setenv("MINIBOX_ROOT", str(minibox.run_dir))
    monkeypatch.setenv("MINIBOX_DATA", str(minibox.data_dir))
    return package


def cgroups() -> list[str]:
    """The groups of all containers that there are on the machine."""
    return glob.glob("/sys/fs/cgroup/**/minibox-*", recursive=True)


def left_of(groups: set[str], before: set[str]) -> set[str]:
    """Those of `groups` that were not there before and are there still; `groups` shrinks to them."""
    groups &= set(cgroups()) - before
    return groups


def host_facts() -> dict[str, object]:
    """What a container must not change or leave: mounts, groups, links, and children of this process."""
    return {
        "mounts": Path("/proc/self/mountinfo").read_text(),
        "links": sorted(os.listdir("/sys/class/net")),
        "hostname": os.uname().nodename,
    }


@pytest.fixture
def rootfs() -> Path:
    """The busybox root; not to be changed."""
    assert (ROOTFS / "bin" / "busybox").exists(), "scripts/build-rootfs has not been run"
    return ROOTFS


@pytest.fixture
def own_root(tmp_path: Path) -> Path:
    """A copy of the busybox root for a test to spoil."""
    target = tmp_path / "root"
    subprocess.run(["cp", "-a", str(ROOTFS), str(target)], check=True)
    return target


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """A host directory with a file that nothing may touch; checked afterwards by the test itself."""
    place = tmp_path / "canary"
    place.mkdir()
    (place / "file").write_text("untouched\n")
    return place


def wait_until(condition: Callable[[], bool], seconds: float = 10) -> bool:
    """Poll a condition until it holds or the deadline passes; whether it held."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def compile_c(source: str, target: Path, flags: Sequence[str] = ("-static",)) -> Path:
    """A static program for a test to run inside."""
    subprocess.run(
        ["cc", "-O1", "-w", *flags, "-x", "c", "-", "-o", str(target)], input=source.encode(), check=True
    )
    return target
