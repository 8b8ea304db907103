"""An ordinary user runs on a root file system that belongs to somebody else, such as root's checkout."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

CHECKOUT_ROOT = Path(__file__).resolve().parents[2] / "rootfs"
pytestmark = pytest.mark.rootless


@pytest.fixture
def foreign_root() -> Path:
    if os.stat(CHECKOUT_ROOT).st_uid == os.geteuid():
        pytest.fail("the checkout belongs to this user: run as another one than who set it up")
    return CHECKOUT_ROOT


def test_it_is_copied_and_the_plan_says_why(minibox, foreign_root):
    plan = minibox("plan", foreign_root).stdout.decode()
    assert "root.copy" in plan
    assert "who has no id in the container" in plan


def test_files_can_be_made_and_changed_inside(minibox, foreign_root):
    out = minibox.inside("echo mine >/tmp/x && echo more >>/etc/hosts && cat /tmp/x", rootfs=foreign_root)
    assert out == "mine\n"
    assert "more" not in (foreign_root / "etc" / "hosts").read_text()


def test_a_directory_that_the_user_may_not_read_is_empty(minibox, foreign_root, tmp_path):
    trace = tmp_path / "trace"
    minibox("run", f"--trace={trace}", foreign_root, "true")
    line = next(line for line in trace.read_text().splitlines() if '"root.copy"' in line)
    assert "1 that may not be read left out" in line
    assert minibox.inside("ls -A /root | wc -l", rootfs=foreign_root).strip() == "0"


def test_a_read_only_root_is_not_copied(minibox, foreign_root):
    assert "root.copy" not in minibox("plan", "--read-only", foreign_root).stdout.decode()
    done = minibox("run", "--read-only", foreign_root, "touch", "/tmp/x")
    assert done.returncode == 1
    assert b"Read-only file system" in done.stderr
