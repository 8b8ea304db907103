"""mask-null-fake (CVE-2025-31133): the image's /dev/null, used to mask a file, is a link to another."""

from __future__ import annotations

import os

import pytest

from minibox.kernel import calls, inroot
from minibox.kernel import consts as c
from minibox.plan import ops

MASKED = "/proc/keys /proc/interrupts /proc/timer_list"
MODES = [{}, pytest.param({"userns": "host"}, marks=pytest.mark.root)]


@pytest.fixture
def spoiled(own_root):
    (own_root / "dev" / "null").symlink_to("/secret")
    (own_root / "secret").write_text("of the image\n")
    return own_root


@pytest.mark.parametrize("how", MODES)
def test_masks_are_empty_and_cannot_be_written(attack, spoiled, how):
    before = (spoiled / "secret").stat()
    ended = attack.sh(
        f"cat {MASKED}; for file in {MASKED}; do (echo x >$file) 2>/dev/null && echo written; done; "
        "cat /secret; ls -l /dev/null | cut -c1",
        rootfs=spoiled, **how,
    )  # fmt: skip
    assert ended.out == "of the image\nc\n"
    assert (spoiled / "secret").stat() == before


def test_a_mask_made_of_the_images_null_shows_what_it_likes(attack, spoiled, monkeypatch):
    def perform(self, ctx):
        place = inroot.below(ctx.fd("proc"), self.path.removeprefix("/proc/"), c.O_PATH)
        null = inroot.find(ctx.fd("root"), "/dev/null")
        calls.move_mount(calls.open_tree(null, "", c.OPEN_TREE_CLONE | c.AT_EMPTY_PATH), place)

    monkeypatch.setattr(ops.MaskPath, "perform", perform)
    container = attack.make(["true"])
    masks = [
        one.id for one in container.prepared.plan if one.id.startswith("mask.") and one.id != "mask.proc-keys"
    ]
    container.discard()
    dev = ("mount.dev", "dev", "mount.dev-pts", "mount.dev-shm", "mount.dev-mqueue")
    ended = attack("cat", "/proc/keys", rootfs=spoiled, leave_out=(*masks, *dev))
    assert ended.out == "of the image\n"


def test_the_hosts_devices_are_looked_at(attack, monkeypatch):
    """What /dev/null of the host is must be character 1:3; here it is expected to be another."""
    monkeypatch.setitem(ops.DEVICE_NUMBERS, "null", (1, 9))
    assert attack("true").step == "dev.null"
    assert os.major(os.stat("/dev/null").st_rdev) == 1
