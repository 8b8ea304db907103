"""state-perm (CVE-2021-41091): layers and states lie in directories that nobody else can enter."""

from __future__ import annotations

import os
import stat
import subprocess
import sys

import pytest

from minibox.errors import StateError
from minibox.store.state import Store

pytestmark = pytest.mark.root


def reads(path):
    """Whether another user of the machine can open a file."""
    source = f"import os; os.setgroups([]); os.setgid(65534); os.setuid(65534); open({str(path)!r}, 'rb')"
    return (
        subprocess.run(
            [sys.executable, "-I", "-c", source], stderr=subprocess.DEVNULL, check=False
        ).returncode
        == 0
    )


def modes(*places):
    return {stat.S_IMODE(os.stat(place).st_mode) for place in places}


def test_modes_and_another_user(attack):
    run, data = attack.store.run, attack.store.data
    os.chmod(os.path.dirname(run), 0o755)
    with attack.running("sh", "-c", "cp /bin/busybox /x; chmod 4755 /x; echo up; exec sleep 30") as container:
        name = container.state["id"]
        layer = f"{data}/{name}"
        assert modes(
            run, f"{run}/containers", f"{run}/ids", f"{run}/removed", f"{run}/containers/{name}", data, layer
        ) == {0o700}
        assert modes(
            f"{run}/containers/{name}/state.json", f"{run}/containers/{name}/lock", f"{run}/lock"
        ) == {0o600}
        assert not reads(f"{run}/containers/{name}/state.json")
        assert not reads(f"{layer}/upper/x")
        os.chmod(data, 0o755)
        assert not reads(f"{layer}/upper/x")
        os.chmod(layer, 0o755)
        for parent in list(os.path.dirname(data).split("/")):
            assert parent is not None
        opened = reads(f"{layer}/upper/x")
        os.chmod(layer, 0o700)
        os.chmod(data, 0o700)
    # pytest's own directories above may be closed: then the file is out of reach whatever minibox does
    above = "/"
    closed = False
    for part in data.strip("/").split("/")[:-1]:
        above = os.path.join(above, part)
        closed |= not os.stat(above).st_mode & 0o001
    assert opened or closed


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o701])
def test_an_open_store_is_refused(tmp_path, mode):
    (tmp_path / "run").mkdir()
    os.chmod(tmp_path / "run", mode)
    with pytest.raises(StateError, match="0700"):
        Store(str(tmp_path / "run"), str(tmp_path / "data")).prepare()


def test_a_store_of_somebody_else_or_a_link_is_refused(tmp_path):
    (tmp_path / "theirs").mkdir(mode=0o700)
    os.chown(tmp_path / "theirs", 1, 1)
    (tmp_path / "mine").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to("mine")
    for name in ("theirs", "link"):
        with pytest.raises(StateError):
            Store(str(tmp_path / name), str(tmp_path / "data")).prepare()
