"""joined-ptrace (CVE-2016-9962): who is in the container already gets at a process that joins it.

The joining process is held, by a pipe, at a chosen step of its Plan; a strong attacker (CAP_SYS_PTRACE, no
filter) looks at it from inside meanwhile.
"""

from __future__ import annotations

import os
import threading

import pytest

from hostile.harness import Ended
from minibox.plan import ops

pytestmark = pytest.mark.root
STRONG = {"cap_add": ["SYS_PTRACE"], "seccomp": "unconfined"}
DENIED = {"EACCES", "EPERM"}


@pytest.fixture
def held(attack, monkeypatch):
    """Run `exec` in a container, held at an operation, and what the attacker sees of it there."""

    def run(operation: type[ops.Op], leave_out: tuple[str, ...] = ()) -> dict[str, str]:
        arrived, release = os.pipe(), os.pipe()
        real = operation.perform

        def perform(self, ctx):  # type: ignore[no-untyped-def]
            if holding and os.getpid() != own:
                os.write(arrived[1], b"x")
                os.read(release[0], 1)
            return real(self, ctx)

        own, holding = os.getpid(), False
        monkeypatch.setattr(operation, "perform", perform)
        with attack.running("sh", "-c", "echo up; exec sleep 30", **STRONG) as container:
            name = container.state["id"]
            joined: list[Ended] = []
            holding = True
            thread = threading.Thread(
                target=lambda: joined.append(attack.exec(name, "true", leave_out=leave_out))
            )
            thread.start()
            try:
                assert os.read(arrived[0], 1) == b"x"
                holding = False
                seen = attack.exec(name, "/snoop")
            finally:
                os.write(release[1], b"x")
                thread.join()
        for fd in (*arrived, *release):
            os.close(fd)
        assert joined[0].code == 0, joined[0].error
        (line,) = [one for one in seen.out.splitlines() if one.startswith("process")]
        return dict(word.split("=") for word in line.split()[1:])

    return run


@pytest.mark.parametrize(
    "operation", [ops.NewSession, ops.BecomeRoot, ops.JoinKeyring, ops.ResolveUser, ops.SetCapabilities]
)
def test_a_joining_process_cannot_be_looked_into(held, operation):
    seen = held(operation)
    assert len(seen) == 8
    assert set(seen.values()) <= DENIED, seen


def test_without_the_defence_it_can_be_traced(held):
    """From the join until its ids change, which makes the kernel itself take the flag away.  A tracer has
    memory and descriptors; the files of /proc for them belong to an id that is not mapped."""
    seen = held(ops.NewSession, leave_out=("join.undumpable",))
    assert seen["ptrace"] == seen["exe"] == seen["root"] == seen["maps"] == "ok", seen


def test_the_kernel_takes_the_flag_away_with_the_ids(held):
    """process.undumpable is a second layer there: leaving both out changes nothing after become-root."""
    seen = held(ops.ResolveUser, leave_out=("join.undumpable", "process.undumpable"))
    assert set(seen.values()) <= DENIED, seen


def test_a_starting_process_in_a_shared_pid_namespace(attack, monkeypatch):
    """A container that shares another's pid namespace, while it is made."""
    arrived, release = os.pipe(), os.pipe()
    real, own = ops.NewSession.perform, os.getpid()
    with attack.running("sh", "-c", "echo up; exec sleep 30", **STRONG) as container:
        name = container.state["id"]

        def perform(self, ctx):  # type: ignore[no-untyped-def]
            if holding and os.getpid() != own:
                os.write(arrived[1], b"x")
                os.read(release[0], 1)
            return real(self, ctx)

        monkeypatch.setattr(ops.NewSession, "perform", perform)
        holding, ended = True, []
        thread = threading.Thread(target=lambda: ended.append(attack("true", pid=f"container:{name}")))
        thread.start()
        try:
            assert os.read(arrived[0], 1) == b"x"
            holding = False
            seen = attack.exec(name, "/snoop")
        finally:
            os.write(release[1], b"x")
            thread.join()
    for fd in (*arrived, *release):
        os.close(fd)
    assert ended[0].code == 0, ended[0].error
    (line,) = [one for one in seen.out.splitlines() if one.startswith("process")]
    assert {word.split("=")[1] for word in line.split()[1:]} <= DENIED, line
