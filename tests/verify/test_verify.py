"""`minibox verify`: what the kernel reports beside what the Plan asked for, and proof that it notices."""

from __future__ import annotations

import os

import pytest

from minibox.errors import MiniboxError
from minibox.plan import ops
from minibox.runtime import verify
from minibox.runtime.container import Container
from minibox.store.state import Store

#: steps whose absence verify cannot see in a default container -> why, and what notices instead
EQUIVALENT = {
    "process.session": "the caller's session reads as 0 inside all the same; tests/hostile/test_tty_inject",
    "process.undumpable": "execve makes the process dumpable again; tests/hostile/test_joined_ptrace",
    "process.keyring": "only the process may name its session keyring; tests/hostile/test_keyring",
    "process.death-signal": "no interface tells; tests/behave/test_signals kills minibox",
    "process.own-pipes": "a convenience; tests/behave/test_process opens /dev/stdout",
    "process.user": "the default user is root, which the Context starts with; tests/behave/test_process",
    "process.cwd": "the pivot leaves the process in /, which is the default; tests/behave/test_process",
    "process.close": "every descriptor of the runtime is close-on-exec anyway; tests/hostile/test_fd_leak",
    "process.umask": "the test runs with the default umask; tests/behave/test_process",
    "caps.keep": "the default user is root, whose sets survive; tests/behave/test_capabilities",
    "caps.set": "root's execve computes the same sets from the bounding set; tests/behave/test_capabilities",
    "user.ids": "the default user is the container's root, who it is already; tests/behave/test_process",
    "mount.private": "a less privileged mount namespace is a slave at once; the pivot lets the rest go",
    "rlimit.core": "when the caller has no core files either",
    "sync.ready": "a rendezvous: leaving one end out of it would wait for ever",
    "sync.start": "a rendezvous",
    "sync.mapped": "a rendezvous",
    "cgroup.pids.enter": "not in a group: the pids of the group are looked at",
}
SYNC = ("sync.",)


def keep_running(minibox, rootfs, leave_out=(), **options):
    """A container of this process that sleeps, with some steps left out."""
    store = Store(str(minibox.run_dir), str(minibox.data_dir))
    box = Container.make(store, "mutant", str(rootfs), ("sleep", "30"), options, leave_out=leave_out)
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    box.ctx.streams = {0: null, 1: null, 2: null}
    try:
        box.start()
    finally:
        os.close(null)
    return box


def end(box):
    attendant = box.attendant()
    attendant.kill()
    box.finish(attendant.run())


def test_everything_holds_in_a_default_container(minibox, rootfs):
    box = keep_running(minibox, rootfs)
    try:
        findings = verify.verify(box.state)
    finally:
        end(box)
    assert [one for one in findings if one.verdict == verify.MISSING] == []
    assert sum(one.verdict == verify.HELD for one in findings) > 60


def test_every_operation_has_a_check():
    unchecked = set(ops.REGISTRY.values()) - set(verify.CHECKS)
    of_the_host = {ops.RemoveTree, ops.CgroupRemove, ops.CgroupLeave, ops.CgroupReturn}  # there and back
    of_exec = {ops.OpenProcess, ops.JoinProcess, ops.OpenDevpts}
    assert unchecked == of_the_host | of_exec


@pytest.mark.root
def test_leaving_out_any_step_is_noticed(minibox, rootfs):
    """Mutation: each step of the default Plan left out.  The start fails, or verify says so."""
    plan = verify.full_plan(_state(minibox, rootfs))
    unnoticed = []
    for step in plan:
        if step.id.startswith("sync."):
            continue
        try:
            box = keep_running(minibox, rootfs, leave_out=(step.id,))
        except MiniboxError:
            continue  # a later step needs it: noticed
        try:
            findings = {one.step: one for one in verify.verify(box.state)}
        except MiniboxError:
            continue  # the payload could not go on without it: noticed
        finally:
            end(box)
        missing = [one.step for one in findings.values() if one.verdict == verify.MISSING]
        absent = findings[step.id].text == "this kernel has no such path"
        if not missing and not absent and step.id not in EQUIVALENT:
            unnoticed.append(step.id)
    assert unnoticed == []


def _state(minibox, rootfs):
    box = keep_running(minibox, rootfs)
    state = dict(box.state)
    end(box)
    return state


def test_a_change_made_from_outside_is_noticed(minibox, rootfs):
    minibox("run", "-d", "--name", "one", rootfs, "sleep", "60")
    assert minibox("verify", "one").returncode == 0
    state = minibox.state("one")
    for directory in state["cgroups"]:
        if os.path.exists(f"{directory}/pids.max"):
            with open(f"{directory}/pids.max", "w") as file:
                file.write("17")
            done = minibox("verify", "one")
            assert done.returncode == 1
            assert b"17, and 4096 was asked for" in done.stdout
            return
    assert not state["cgroups"], "no pids group to change"


def test_run_verify_says_so_and_goes_on(minibox, rootfs):
    done = minibox("run", "--verify", rootfs, "echo", "payload")
    assert done.stdout == b"payload\n"
    assert b"0 missing" in done.stderr


@pytest.mark.root
def test_a_laxer_filter_than_the_planned_one_is_noticed(minibox, rootfs):
    lax = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["reboot"], "action": "SCMP_ACT_ERRNO"}],
    }
    box = keep_running(minibox, rootfs, seccomp=lax)
    try:
        own = {one.step: one for one in verify.verify(box.state)}["seccomp.load"]
        assert own.verdict == verify.HELD
        assert "the very filter" in own.text
        box.state["spec"]["seccomp"] = "default"
        default = {one.step: one for one in verify.verify(box.state)}["seccomp.load"]
    finally:
        end(box)
    assert default.verdict == verify.MISSING
    assert "let through and not to be" in default.text
