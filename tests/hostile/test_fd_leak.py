"""fd-leak (CVE-2024-21626): a descriptor of a host directory that is left open, or a way through one."""

from __future__ import annotations

import os

import pytest

from hostile.harness import Attack
from minibox.kernel import inroot
from minibox.plan import ops

MODES = [{}, pytest.param({"userns": "host"}, marks=pytest.mark.root), {"init": True}]


@pytest.fixture
def open_directory(tripwire):
    """A directory of the host that the caller left open, and inheritable, as other runtimes' did."""
    fd = os.open(tripwire, os.O_RDONLY | os.O_DIRECTORY)
    os.set_inheritable(fd, True)
    yield fd
    os.close(fd)


LIST = (
    "for fd in /proc/self/fd/*; do [ -e $fd ] && echo ${fd##*/}; done; cat /proc/self/fd/*/file 2>/dev/null"
)


@pytest.mark.parametrize("how", MODES)
def test_only_three_descriptors(attack, open_directory, how):
    ended = attack.sh(LIST, **how)
    assert ended.out.split() == ["0", "1", "2"]


def test_only_three_descriptors_in_exec(attack, open_directory):
    with attack.running("sh", "-c", "echo up; exec sleep 30") as container:
        ended = attack.exec(container.state["id"], "sh", "-c", LIST)
        assert ended.out.split() == ["0", "1", "2"]


def test_without_close_range_the_directory_is_open(attack, open_directory):
    ended = attack.sh(LIST, leave_out=("process.close",))
    assert str(open_directory) in ended.out.split()
    # The directory itself is open to the canary's mode; a container's root is nobody to the rest.
    assert "untouched" in ended.out


def directories() -> list[str]:
    return [f"/proc/self/fd/{number}" for number in range(100)] + ["/link", "/link/..", "/dev/fd/3"]


def test_a_working_directory_through_a_descriptor_is_refused(attack: Attack, own_root, open_directory):
    (own_root / "link").symlink_to(f"/proc/self/fd/{open_directory}")
    (own_root / "below").symlink_to("/link/../..")
    for path in (*directories(), "/below"):
        ended = attack("cat", "file", rootfs=own_root, workdir=path)
        assert ended.step == "process.cwd", path
        assert "untouched" not in ended.out


def test_exec_refuses_it_too(attack, own_root, open_directory):
    (own_root / "link").symlink_to(f"/proc/self/fd/{open_directory}")
    with attack.running("sh", "-c", "echo up; exec sleep 30", rootfs=own_root) as container:
        for path in directories():
            ended = attack.exec(container.state["id"], "cat", "file", workdir=path)
            assert ended.step == "process.cwd", path


def test_without_no_magiclinks_the_directory_is_reached(attack, own_root, open_directory, monkeypatch):
    """And without the look at getcwd, which sees that the directory lies outside the root."""
    (own_root / "link").symlink_to(f"/proc/self/fd/{open_directory}")
    real = ops.ChangeDirectory.perform

    def follow(self, ctx):  # type: ignore[no-untyped-def]
        os.chdir(self.path)

    monkeypatch.setattr(ops.ChangeDirectory, "perform", follow)
    assert attack("cat", "file", rootfs=own_root, workdir="/link").out == "untouched\n"

    def follow_then_look(self, ctx):  # type: ignore[no-untyped-def]
        found = inroot.find
        inroot.find = inroot.make_directory = lambda root, path: os.open(path, os.O_PATH)  # type: ignore[assignment]
        try:
            return real(self, ctx)
        finally:
            inroot.find = found

    monkeypatch.setattr(ops.ChangeDirectory, "perform", follow_then_look)
    ended = attack("cat", "file", rootfs=own_root, workdir="/link")
    assert ended.step == "process.cwd"
    assert "getcwd" in str(ended.error)
