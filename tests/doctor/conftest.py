"""`minibox doctor` as a user calls it, here and on hosts that are broken for real."""

from __future__ import annotations

import glob
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
COMMAND = shlex.join([sys.executable, "-I", "-m", "minibox", "doctor", "--json"])
SOMEBODY = 21987  # a uid that no account has


class Diagnosis:
    """What it printed as JSON, by check."""

    def __init__(self, done: subprocess.CompletedProcess[bytes]) -> None:
        assert done.stdout, done.stderr.decode()
        self.exit_code = done.returncode
        self.data = json.loads(done.stdout)
        self.checks = {one["id"]: one for one in self.data["checks"]}

    def __getitem__(self, check: str) -> dict[str, object]:
        return self.checks[check]

    def status(self, check: str) -> object:
        return self.checks[check]["status"]

    def with_status(self, *statuses: str) -> list[str]:
        return [one["id"] for one in self.data["checks"] if one["status"] in statuses]


class Doctor:
    """The command, perhaps behind a shell script that breaks something first."""

    def __init__(self, run_dir: Path, data_dir: Path) -> None:
        self.run_dir, self.data_dir = run_dir, data_dir

    def __call__(self, *words: object, **environment: str) -> Diagnosis:
        return self.after("exec " + " ".join([COMMAND, *map(shlex.quote, map(str, words))]), **environment)

    def after(
        self, script: str, wrapper: tuple[str, ...] = (), data: Path | None = None, **environment: str
    ) -> Diagnosis:
        """The report printed by a shell script, in which $DOCTOR is the command."""
        return Diagnosis(self.run(script, wrapper, data, **environment))

    def run(
        self, script: str, wrapper: tuple[str, ...] = (), data: Path | None = None, **environment: str
    ) -> subprocess.CompletedProcess[bytes]:
        """The same, as it ended; $DOCTOR_TEXT is the command without --json."""
        given = {
            **os.environ,
            "MINIBOX_ROOT": str(self.run_dir),
            "MINIBOX_DATA": str(data or self.data_dir),
            "DOCTOR": COMMAND,
            "DOCTOR_TEXT": COMMAND.removesuffix(" --json"),
            **environment,
        }
        return subprocess.run(
            [*wrapper, "/bin/sh", "-euc", script],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=given,
            timeout=60,
            check=False,
        )


@pytest.fixture
def doctor(store_dirs: tuple[Path, Path]) -> Iterator[Doctor]:
    """The command with a store of the test's own; afterwards nothing of it may be left."""
    mounts = Path("/proc/self/mountinfo").read_text()
    yield Doctor(*store_dirs)
    assert Path("/proc/self/mountinfo").read_text() == mounts
    assert glob.glob("/sys/fs/cgroup/**/minibox-doctor-*", recursive=True) == []
    assert list(store_dirs[0].parent.glob("**/minibox-doctor-*")) == []


@pytest.fixture
def home() -> Iterator[Path]:
    """A directory that an ordinary user can reach: those of pytest's are closed to others."""
    place = Path(tempfile.mkdtemp(prefix="minibox-doctor-test.", dir="/tmp"))
    place.chmod(0o755)
    yield place
    shutil.rmtree(place)


@pytest.fixture
def as_somebody(home: Path) -> tuple[str, ...]:
    """A wrapper that makes root an ordinary user without an account, with a home and a store."""
    os.chown(home, SOMEBODY, SOMEBODY)
    ids = [f"--reuid={SOMEBODY}", f"--regid={SOMEBODY}", "--clear-groups", "--inh-caps=-all"]
    store = (f"MINIBOX_ROOT={home}/run", f"MINIBOX_DATA={home}/data")
    return ("env", "-u", "XDG_CACHE_HOME", f"HOME={home}", *store, "setpriv", *ids, "--")


@pytest.fixture
def as_user(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """A wrapper that makes the caller an ordinary user, where that is not one already."""
    if os.geteuid():
        return ()
    return request.getfixturevalue("as_somebody")  # type: ignore[no-any-return]
