"""pause and unpause: every process stands where it is, and nothing that ends a container waits for it."""

from __future__ import annotations

import time

import pytest
from conftest import ROOTFS, wait_until

SPIN = "while :; do :; done"


def used(one) -> int:
    return int(one.read("cpuacct.usage"))


def test_a_paused_container_uses_no_time_and_goes_on_later(minibox, up):
    one = up("one", script=SPIN)
    assert minibox("pause", "one").stdout == b"one\n"
    assert one.read("freezer.state") == "FROZEN"
    before = used(one)
    assert b"paused" in minibox("ps").stdout
    assert minibox.state("one")["status"] == "paused"
    assert used(one) == before
    assert minibox("unpause", "one").returncode == 0
    assert wait_until(lambda: used(one) > before)
    assert b"running" in minibox("ps").stdout


def test_twice_is_an_error(minibox, up):
    up("one")
    assert b"is not paused" in minibox("unpause", "one").stderr
    minibox("pause", "one")
    done = minibox("pause", "one")
    assert (done.returncode, done.stderr) == (125, b"minibox: container one is paused already\n")


def test_exec_is_refused_unless_it_may_wait(minibox, up):
    up("one")
    minibox("pause", "one")
    done = minibox("exec", "one", "true")
    assert done.returncode == 125
    assert b"minibox unpause one" in done.stderr
    with minibox.start("exec", "--ignore-paused", "one", "echo", "there") as waiting:
        minibox("unpause", "one")
        assert waiting.communicate(timeout=20)[0] == b"there\n"


@pytest.mark.parametrize("words", [("kill",), ("stop", "-t", "1"), ("rm", "-f")])
def test_a_paused_container_can_be_ended(minibox, up, words):
    one = up("one", script="trap 'exit 3' TERM; " + SPIN)
    minibox("pause", "one")
    begun = time.monotonic()
    assert minibox(*words, "one").returncode == 0
    assert wait_until(
        lambda: b"running" not in minibox("ps").stdout and b"paused" not in minibox("ps").stdout
    )
    assert time.monotonic() - begun < 8
    assert not wait_until(lambda: one.pid in _pids(), 0)


def _pids() -> set[int]:
    import os

    return {int(name) for name in os.listdir("/proc") if name.isdigit()}


def test_a_deadline_ends_a_paused_container(minibox):
    with minibox.start("run", "--name", "one", "--timeout", "1.5", ROOTFS, "sleep", "100") as running:
        assert wait_until(lambda: b"running" in minibox("ps").stdout)
        assert minibox("pause", "one").returncode == 0
        running.communicate(timeout=20)
    assert running.returncode == 137


def test_a_lost_supervisor_leaves_nothing_of_a_paused_container(minibox, up):
    import os

    one = up("one")
    minibox("pause", "one")
    os.kill(int(str(one.state["supervisor"])), 9)
    assert wait_until(lambda: b"lost its supervisor" in minibox("run", ROOTFS, "true").stderr)
    assert not any(os.path.exists(group) for group in one.state["cgroups"])
