# ruff: noqa: E501  (tables of words)
"""mknod: devices of the machine.  The canary is /dev/zero's number; what holds for it holds for the disk's."""

from __future__ import annotations

import pytest

from hostile.harness import without_attribute

PLACES = "/ /dev /dev/shm /dev/pts /dev/mqueue /tmp /run /scratch /vol /proc /sys"
SCRIPT = (
    f"for place in {PLACES}; do mknod $place/made $KIND 2>/dev/null && echo made $place && "
    "dd if=$place/made bs=1 count=1 of=/dev/null 2>/dev/null && echo opened $place; done; true"
)
HOST = pytest.param({"userns": "host"}, marks=pytest.mark.root)


@pytest.fixture
def volume(tmp_path):
    (tmp_path / "volume").mkdir()
    return {"tmpfs": ["/scratch"], "volume": [f"{tmp_path}/volume:/vol"]}


@pytest.mark.parametrize("kind", ["c 1 1", "b 254 0", "c 1 5", "b 7 0"])
def test_none_can_be_made_in_a_user_namespace(attack, volume, kind):
    assert attack.sh(SCRIPT, env=[f"KIND={kind}"], **volume).out == ""


@pytest.mark.root
def test_with_the_hosts_root_one_can_be_made_and_not_opened(attack, volume):
    ended = attack.sh(SCRIPT, env=["KIND=c 1 5"], userns="host", **volume)
    assert "made /dev\n" in ended.out
    assert "opened" not in ended.out


@pytest.mark.root
@pytest.mark.parametrize(
    ("step", "place"), [("mount.dev", "/dev"), ("root.overlay", "/"), ("mount.dev-shm", "/dev/shm")]
)
def test_where_a_mount_lets_devices_be_it_is_opened(attack, volume, step, place):
    how = {"env": ["KIND=c 1 5"], "change": without_attribute(step, "nodev"), **volume}
    assert f"opened {place}\n" in attack.sh(SCRIPT, userns="host", **how).out
    assert attack.sh(SCRIPT, **how).out == ""  # the user namespace is one defence more


@pytest.mark.root
def test_a_device_of_the_image_cannot_be_opened(attack, own_root):
    import os

    os.mknod(own_root / "zero", 0o20666, os.makedev(1, 5))
    script = "dd if=/zero bs=1 count=1 of=/dev/null 2>/dev/null && echo opened; true"
    for how in ({}, {"userns": "host"}):
        assert attack.sh(script, rootfs=own_root, **how).out == ""
        change = without_attribute("root.overlay", "nodev")
        opened = attack.sh(script, rootfs=own_root, change=change, **how).out
        assert opened == ("opened\n" if how else "")
