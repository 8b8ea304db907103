"""proc-is-fake (CVE-2019-16884, CVE-2019-19921): an image that chooses what the runtime takes for /proc."""

from __future__ import annotations

import os
import shutil

import pytest

from minibox.kernel import inroot
from minibox.plan import ops


def spoil(root, name, kind):
    shutil.rmtree(root / name)
    (root / "bad" / "self").mkdir(parents=True)
    (root / "bad" / "self" / "status").write_text("fake\n")
    if kind == "file":
        (root / name).write_text("")
    else:
        os.symlink(
            {"absolute": "/bad", "relative": "bad", "dangling": "/nowhere", "self": name}[kind], root / name
        )


@pytest.mark.parametrize("kind", ["absolute", "relative", "dangling", "self", "file"])
@pytest.mark.parametrize("name", ["proc", "sys"])
def test_it_must_be_a_real_directory(attack, own_root, name, kind):
    spoil(own_root, name, kind)
    ended = attack("true", rootfs=own_root)
    assert ended.step == f"mount.{name}"
    assert ended.error.errno in (20, 40)  # ENOTDIR, ELOOP
    assert f'"{name}"' in str(ended.error)


def test_followed_it_would_be_mounted_where_the_image_says(attack, own_root, monkeypatch):
    """The place alone: the file system is procfs all the same, since it is mounted by descriptor."""
    monkeypatch.setattr(inroot, "plain_directory", inroot.find)
    spoil(own_root, "proc", "absolute")
    ended = attack.sh("grep -c ^Name: /bad/self/status", rootfs=own_root)
    assert ended.out == "1\n"


def test_without_the_mount_the_fake_is_what_programs_read(attack, own_root):
    spoil(own_root, "proc", "absolute")

    def change(plan):
        gone = [
            step
            for step in plan
            if step.id == "mount.proc" or step.id.startswith(("mask.proc", "readonly.proc"))
        ]
        return plan.replace(steps=tuple(step for step in plan if step not in gone))

    ended = attack("cat", "/proc/self/status", rootfs=own_root, change=change)
    assert ended.out == "fake\n", (ended.error, ended.err)


def test_what_is_mounted_is_looked_at(attack, own_root):
    """A tmpfs in place of the procfs that the runtime has opened."""

    def change(plan):
        tmpfs = ops.MountFs(destination="/mnt", kind="tmpfs", source="x", options=(), attributes=())
        steps = []
        for step in plan:
            if step.id == "mount.proc":
                steps.append(step.replace(id="decoy", op=tmpfs))
                steps.append(step.replace(id="swap", op=_Swap()))
            steps.append(step)
        return plan.replace(steps=tuple(steps))

    ended = attack("true", rootfs=own_root, change=change)
    assert ended.step == "mount.proc"
    assert "not the root of a procfs" in str(ended.error)


class _Swap(ops.Op):
    SYSCALL = "none"

    def perform(self, ctx):
        ctx.fds["proc"] = ctx.fds["/mnt"]
