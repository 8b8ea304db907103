"""Every operation of a Plan is made to fail, on either side: the error names it, and all is undone."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from conftest import Minibox, host_facts, wait_until
from test_residue import leftovers, no_orphans, processes

from minibox.errors import KernelError, StepError
from minibox.plan import ops
from minibox.plan.context import Context
from minibox.plan.model import Plan
from minibox.runtime.command import Command
from minibox.runtime.container import Container
from minibox.store.state import Store

EPROTO = 71  # none of these calls gives it, so no hint is about it


@pytest.fixture(autouse=True)
def _nobody_is_left() -> Iterator[None]:
    with no_orphans():
        yield


def failing(op: ops.Op) -> ops.Op:
    """An operation with the same operands, which the kernel refuses."""

    def perform(self: ops.Op, ctx: Context) -> None:
        raise KernelError(EPROTO, self.SYSCALL, ("as the test wants it",))

    kind = type(type(op).__name__, (type(op),), {"perform": perform, "__annotations__": {}})
    return kind(**op.__dict__)  # type: ignore[no-any-return]


def with_failure(plan: Plan, index: int) -> Plan:
    """The Plan with its step number `index` (from 0) failing."""
    steps = list(plan.steps)
    steps[index] = steps[index].replace(op=failing(steps[index].op))
    return plan.replace(steps=tuple(steps))


def check(error: StepError, plan: Plan, index: int) -> None:
    """Whether an error tells all about the step that failed."""
    step = plan.steps[index]
    assert error.step == step.id
    assert (error.index, error.total) == (index + 1, len(plan))
    assert error.errno == EPROTO
    assert error.what == f'{step.op.SYSCALL}("as the test wants it")'
    assert error.why == step.why
    assert error.exit_code == (126 if isinstance(step.op, ops.Execute) else 125)
    text = str(error)
    head = f"step {index + 1}/{len(plan)} {step.id} failed: {step.op.SYSCALL}("
    assert text.startswith(head)
    assert " = EPROTO\n  why: " in text


CONTAINERS: dict[str, dict[str, object]] = {
    "default": {},
    "much": {
        "memory": "64m",
        "cpus": "0.5",
        "cpuset_cpus": "0",
        "tmpfs": ["/scratch"],
        "volume": ["/etc:/host:ro"],
        "time_offset": ["5"],
        "domainname": "example",
        "oom_score_adj": "500",
        "ulimit": ["nofile=100"],
        "read_only": True,
        "user": "1",
        "cap_ambient": ["CHOWN"],
        "init": True,
        "terminal": (0, 1, 2),
    },
    "privileged": {"privileged": True, "allow_new_privs": True, "network": "host", "ipc": "host"},
}
NOT_ROOTLESS = ("memory", "cpus", "cpuset_cpus", "user", "cap_ambient", "oom_score_adj")
ROOT_ONLY: dict[str, dict[str, object]] = {
    "no user namespace": {"userns": "host"},
    "writable": {"volume": ["/etc:/host:idmap"]},
}


@pytest.mark.parametrize(
    "name", [*CONTAINERS, *(pytest.param(name, marks=pytest.mark.root) for name in ROOT_ONLY)]
)
def test_each_failing_step_is_named_and_undone(minibox, monkeypatch, own_root, name):
    options = {**CONTAINERS, **ROOT_ONLY}[name]
    if os.geteuid():  # who may have neither groups nor other ids
        options = {key: value for key, value in options.items() if key not in NOT_ROOTLESS}
    store = store_of(minibox, monkeypatch)
    before = host_facts()
    sides = set()
    index, total = 0, 1
    while index < total:
        container = Container.make(store, f"step{index}", str(own_root), ("true",), options)
        plan = container.prepared.plan
        total = len(plan)
        container.prepared = container.prepared.replace(plan=with_failure(plan, index))
        descriptors = len(os.listdir("/proc/self/fd"))
        with pytest.raises(StepError) as caught:
            container.start()
        check(caught.value, plan, index)
        sides.add(plan.steps[index].side)
        assert leftovers(minibox) == [], f"after {plan.steps[index].id}"
        assert len(os.listdir("/proc/self/fd")) == descriptors - 1, (
            "the lock's is closed, others are as before"
        )
        index += 1
    assert sides == {"supervisor", "child"}
    assert wait_until(lambda: host_facts() == before, 5)
    assert host_facts() == before


def test_each_failing_step_that_joins_namespaces(minibox, monkeypatch, rootfs):
    """The joiner is a third process."""
    assert minibox("run", "-d", "--name", "other", rootfs, "sleep", "1000").returncode == 0
    store = store_of(minibox, monkeypatch)
    others = leftovers(minibox)
    options = {"network": "container:other", "pid": "container:other"}
    seen = fail_each(
        minibox,
        lambda: Container.make(store, "joins", str(rootfs), ("true",), options),
        others,
    )
    assert seen == {"supervisor", "joiner", "child"}
    assert minibox.state("other")["status"] == "running"
    assert len(processes(minibox, "other")) == 1


def test_each_failing_step_of_exec(minibox, monkeypatch, rootfs):
    assert minibox("run", "-d", "--name", "up", rootfs, "sleep", "1000").returncode == 0
    store = store_of(minibox, monkeypatch)
    others = leftovers(minibox)
    seen = fail_each(minibox, lambda: Command(store, "up", ("true",), {"terminal": (0, 1, 2)}), others)
    assert seen == {"supervisor", "joiner", "child"}
    assert len(processes(minibox, "up")) == 1
    assert minibox("exec", "up", "echo", "well").stdout == b"well\n"


def fail_each(minibox: Minibox, make: object, others: list[str]) -> set[str]:
    """Every step of what `make` makes fails once; the sides they were on."""
    seen = set()
    index, total = 0, 1
    while index < total:
        made = make()  # type: ignore[operator]
        plan = made.prepared.plan
        total = len(plan)
        made.prepared = made.prepared.replace(plan=with_failure(plan, index))
        with pytest.raises(StepError) as caught:
            made.start()
        check(caught.value, plan, index)
        seen.add(plan.steps[index].side)
        assert leftovers(minibox) == others, f"after {plan.steps[index].id}"
        index += 1
    return seen


@pytest.mark.parametrize("error", [ValueError("made up"), RuntimeError("made up"), MemoryError()])
@pytest.mark.parametrize("step", ["mount.proc", "caps.set"])
def test_a_bug_in_the_child_is_told_too(minibox, monkeypatch, rootfs, step, error):
    """Whatever goes wrong there, it is said as plain data and the step is named."""
    store = store_of(minibox, monkeypatch)
    container = Container.make(store, "bug", str(rootfs), ("true",), {})
    plan = container.prepared.plan
    index = plan.index(step) - 1

    def perform(_self: ops.Op, _ctx: Context) -> None:
        raise error

    steps = list(plan.steps)
    op = steps[index].op
    kind = type(type(op).__name__, (type(op),), {"perform": perform, "__annotations__": {}})
    steps[index] = steps[index].replace(op=kind(**op.__dict__))
    container.prepared = container.prepared.replace(plan=plan.replace(steps=tuple(steps)))
    with pytest.raises(StepError) as caught:
        container.start()
    assert caught.value.step == step
    assert type(error).__name__ in caught.value.what
    assert leftovers(minibox) == []


def test_a_child_that_is_killed_before_it_is_ready(minibox, monkeypatch, rootfs):
    """It cannot say why; the step at which it was missed is named."""
    store = store_of(minibox, monkeypatch)
    container = Container.make(store, "dies", str(rootfs), ("true",), {})
    plan = container.prepared.plan
    index = plan.index("root.overlay" if "root.overlay" in plan else "root.attach") - 1
    steps = list(plan.steps)
    op = steps[index].op

    def perform(_self: ops.Op, _ctx: Context) -> None:
        os.kill(os.getpid(), 9) if os.getpid() != 1 else os._exit(9)

    kind = type(type(op).__name__, (type(op),), {"perform": perform, "__annotations__": {}})
    steps[index] = steps[index].replace(op=kind(**op.__dict__))
    container.prepared = container.prepared.replace(plan=plan.replace(steps=tuple(steps)))
    with pytest.raises(StepError) as caught:
        container.start()
    assert caught.value.step == "sync.ready.wait"
    assert caught.value.what == "the new process ended without a word"
    assert caught.value.hint
    assert leftovers(minibox) == []


def store_of(minibox: Minibox, monkeypatch: pytest.MonkeyPatch) -> Store:
    """The fixture's store, for the library."""
    monkeypatch.setenv("MINIBOX_ROOT", str(minibox.run_dir))
    monkeypatch.setenv("MINIBOX_DATA", str(minibox.data_dir))
    return Store()
