"""suid: a set-uid program of the image gives its caller nothing."""

from __future__ import annotations

import os

import pytest

from hostile.harness import without_attribute

pytestmark = pytest.mark.root
NO_NEW_PRIVS = ("process.no-new-privs", "seccomp.load")  # the filter needs the former, so goes with it
SUID_ROOT = without_attribute("root.overlay", "nosuid")
MODES = [{}, {"userns": "host"}]


@pytest.fixture
def euid(attack, own_root):
    os.chown(own_root / "ids", 0, 0)
    os.chmod(own_root / "ids", 0o4755)

    def run(**how: object) -> str:
        return attack("/ids", rootfs=own_root, user="1000", **how).out.split()[3]

    return run


@pytest.mark.parametrize("how", MODES)
def test_it_gains_nothing(euid, how):
    assert euid(**how) == "1000"


@pytest.mark.parametrize("how", MODES)
def test_one_of_the_two_defences_is_enough(euid, how):
    assert euid(leave_out=NO_NEW_PRIVS, **how) == "1000"
    assert euid(change=SUID_ROOT, **how) == "1000"


@pytest.mark.parametrize("how", MODES)
def test_without_both_it_is_root(euid, how):
    assert euid(leave_out=NO_NEW_PRIVS, change=SUID_ROOT, **how) == "0"


def test_in_a_volume(attack, tmp_path, own_root):
    """A program that the host has set-uid root, or that another container made so."""
    os.chmod(tmp_path, 0o755)
    volume = tmp_path / "volume"
    volume.mkdir()
    (volume / "ids").write_bytes((own_root / "ids").read_bytes())
    os.chmod(volume / "ids", 0o4755)
    for how in MODES:
        ended = attack("/vol/ids", user="1000", volume=[f"{volume}:/vol"], **how)
        assert ended.out.split()[3] == "1000"
    leave_out = NO_NEW_PRIVS
    ended = attack(
        "/vol/ids", user="1000", volume=[f"{volume}:/vol:suid"], userns="host", leave_out=leave_out
    )
    assert ended.out.split()[3] == "0"
