# ruff: noqa: E501  (tables of words)
"""dev-link (CVE-2026-41579): /dev of the image is a link, and devices and links are made where it leads."""

from __future__ import annotations

import os
import shutil

import pytest

from hostile.harness import facts_of
from minibox.kernel import calls
from minibox.kernel import consts as c
from minibox.plan import ops

MODES = [{}, pytest.param({"userns": "host"}, marks=pytest.mark.root)]
NAMES = (
    "null",
    "zero",
    "full",
    "random",
    "urandom",
    "tty",
    "fd",
    "stdin",
    "stdout",
    "stderr",
    "ptmx",
    "console",
    "core",
)


def spoil(root, kind, tripwire):
    shutil.rmtree(root / "dev")
    if kind == "absolute":
        (root / "dev").symlink_to(tripwire)
    elif kind == "dots":
        (root / "dev").symlink_to("../" * 20 + str(tripwire).lstrip("/"))
    elif kind == "inside":  # a directory of that name is in the root as well
        (root / str(tripwire).lstrip("/")).mkdir(parents=True)
        (root / "dev").symlink_to(tripwire)
    else:
        (root / "dev").mkdir()
        for name in NAMES:
            (root / "dev" / name).symlink_to(tripwire / "file")
        for name in ("pts", "shm", "mqueue"):
            (root / "dev" / name).symlink_to(tripwire)


@pytest.mark.parametrize("how", MODES)
@pytest.mark.parametrize("kind", ["absolute", "dots", "inside", "entries"])
def test_nothing_is_made_where_it_leads(attack, own_root, tripwire, kind, how):
    spoil(own_root, kind, tripwire)
    before = facts_of(tripwire)
    ended = attack.sh("echo x >/dev/null; ls /dev", rootfs=own_root, **how)
    assert facts_of(tripwire) == before
    assert ended.step.startswith("mount.dev") or "urandom" in ended.out.split()
    if kind in ("inside", "entries"):
        assert ended.step == ""


@pytest.mark.parametrize("how", MODES)
def test_looked_up_as_a_string_the_links_are_made_on_the_host(attack, own_root, tripwire, monkeypatch, how):
    def perform(self, ctx):
        path = (
            "/tmp/root/dev" if os.path.isdir("/tmp/root") else "/dev"
        )  # the root as it stands before the pivot
        ctx.fds["/dev"] = calls.openat(c.AT_FDCWD, path, os.O_RDONLY)

    spoil(own_root, "absolute", tripwire)
    before = facts_of(tripwire)
    devices = [f"dev.{name}" for name in ("null", "zero", "full", "random", "urandom", "tty")]
    monkeypatch.setattr(ops.MountFs, "perform", perform)
    rest = ("mount.sys", "mount.dev-pts", "mount.dev-shm", "mount.dev-mqueue", "mount.sys-fs-cgroup")
    attack("true", rootfs=own_root, leave_out=(*devices, *rest), **how)
    assert facts_of(tripwire) != before
    assert os.path.islink(tripwire / "stdin")


@pytest.mark.root
def test_the_hosts_device_files_keep_mode_owner_and_times(attack):
    """The nodes are the host's own: with its root, a container could close /dev/null to everybody."""
    ended = attack.sh(
        "for name in null zero full random urandom tty; do chmod 666 /dev/$name; chown 0:0 /dev/$name; touch /dev/$name; done; "
        "echo x >/dev/null && head -c 3 /dev/zero | wc -c",
        userns="host",
    )
    assert ended.err.count("Read-only file system") == 18
    assert ended.out == "3\n"


@pytest.mark.root
def test_without_the_read_only_mounts_they_do_not(attack, monkeypatch):
    """touch -r of itself: the attempt succeeds, and changes nothing but the time of the change."""
    real = calls.mount_setattr

    def leave_writable(fd, path, flags, **how):
        if (
            flags == c.AT_EMPTY_PATH
            and how.get("set") == c.MOUNT_ATTR_RDONLY | c.MOUNT_ATTR_NOSUID | c.MOUNT_ATTR_NOEXEC
        ):
            return
        real(fd, path, flags, **how)

    monkeypatch.setattr(calls, "mount_setattr", leave_writable)
    ended = attack.sh("touch -r /dev/full /dev/full && echo done", userns="host")
    assert ended.out == "done\n"
