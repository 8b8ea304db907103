"""New limits for a container that runs: `update`.

The settings of the old and of the new Resources are compared; what differs is written to the groups
that the container has.  Files depend on one another (memory and swap of v1, quota and burst), and the
order that works depends on the direction of the change: what the kernel refuses is tried again after
the rest.  When something is refused in the end, what was written is put back.
"""

from __future__ import annotations

import os

from minibox.cgroup import files, v1
from minibox.errors import KernelError, StateError
from minibox.kernel import calls
from minibox.kernel.host import Host
from minibox.plan import compile as plans
from minibox.plan import ops
from minibox.plan.context import Context
from minibox.runtime import live
from minibox.runtime.container import UPDATED
from minibox.spec import from_flags
from minibox.spec.model import Resources, Spec
from minibox.store import journal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from minibox.plan.model import Plan
    from minibox.spec.from_flags import Options
    from minibox.store.state import Store

EINVAL, EBUSY = 22, 16


def update(store: Store, name: str, options: Options) -> None:
    """Change limits of a running container as flags of `run` say.  Raises MiniboxError, with the old
    limits in force."""
    with store.lock():
        state = store.read(name)
        live.running_pid(state)
        spec, host = Spec.from_json(state["spec"]), Host.from_json(state["host"])
        wanted = merged(spec.resources, options)
        new = spec.replace(resources=wanted.replace(check_before_update=spec.resources.check_before_update))
        if wanted.check_before_update:
            _check_usage(live.group_of(state), wanted)
        before, after = plans.compile(spec, host), plans.compile(new, host)
        _write(_changed(before, after, live.group_of(state)), after)
        state["spec"] = new.to_json()
        with open(f"{store.directory(name)}/{UPDATED}", "wb"):
            pass
        store.write(name, state)
    journal.record(store.run, name, "update", changes=sorted(key for key in options if options[key]))


def merged(old: Resources, options: Options) -> Resources:
    """The limits with those that are asked for in the place of the old ones.  Raises SpecError."""
    asked = dict(options)
    if "memory_swap" in asked and "memory" not in asked and old.memory is not None:
        asked["memory"] = str(old.memory)
    elif "memory_reservation" in asked and "memory" not in asked and old.memory is not None:
        asked["memory"] = str(old.memory)
        asked["memory_swap"] = str(old.memory if old.memory_swap is None else old.memory_swap)
    parsed = from_flags.resources(asked)
    changes = {one: getattr(parsed, one) for one in parsed.asked() if one != "pids_default"}
    if "pids_limit" in asked:
        changes.update(pids=parsed.pids, pids_default=False)
    if "cpu_idle" in asked and not asked["cpu_idle"]:
        changes["cpu_idle"] = 0
    if "unified" in changes:
        changes["unified"] = tuple({**dict(old.unified), **dict(parsed.unified)}.items())
    for field in (
        "blkio_weight_device",
        "device_read_bps",
        "device_write_bps",
        "device_read_iops",
        "device_write_iops",
    ):
        if field in changes:
            by_device = {line[:2]: line for line in (*getattr(old, field), *changes[field])}
            changes[field] = tuple(by_device.values())
    return old.replace(**changes)


def _check_usage(directories: list[str], wanted: Resources) -> None:
    for directory in directories:
        for file in ("memory.usage_in_bytes", "memory.current"):
            path = f"{directory}/{file}"
            if wanted.memory is not None and os.path.exists(path):
                used = int(calls.read_file(path))
                if used > wanted.memory:
                    raise StateError(f"{used} bytes are in use, more than the new limit: nothing was changed")


def _changed(before: Plan, after: Plan, directories: list[str]) -> list[ops.CgroupWrite]:
    """The writes of the new Plan that the old one has not, in an order that is likely to work."""
    known = {step.op for step in before}
    found = []
    for step in after:
        op = step.op
        if not isinstance(op, ops.CgroupWrite) or op in known:
            continue
        if op.directory not in directories and op.file != "cgroup.subtree_control":
            controller = op.file.partition(".")[0]
            raise StateError(
                f"the container has no group with the controller {controller}: give the flag to run instead"
            )
        found.append(op)
    if _grows(found):
        found.sort(key=lambda op: op.file != v1.SWAP_FILE)
    return found


def _grows(writes: list[ops.CgroupWrite]) -> bool:
    """Whether the v1 limit of memory and swap has to be raised before that of memory."""
    swap = next((op for op in writes if op.file == v1.SWAP_FILE), None)
    path = f"{swap.directory}/{swap.file}" if swap else ""
    if swap is None or not os.path.exists(path):
        return False
    return int(swap.value) < 0 or int(swap.value) > int(calls.read_file(path))


def _write(writes: list[ops.CgroupWrite], plan: Plan) -> None:
    old: list[tuple[str, str, str]] = []
    todo = list(writes)
    try:
        while todo:
            refused: list[tuple[ops.CgroupWrite, KernelError]] = []
            for op in todo:
                before = _read(op)
                try:
                    op.perform(Context())
                except KernelError as error:
                    if error.errno not in (EINVAL, EBUSY):
                        raise
                    refused.append((op, error))
                else:
                    old.append((op.directory, op.file, before))
            if len(refused) == len(todo):
                raise refused[0][1]
            todo = [op for op, _error in refused]
    except KernelError as error:
        for directory, file, text in reversed(old):
            _restore(directory, file, text)
        raise StateError(f"{error}: the old limits stay in force") from None


def _read(op: ops.CgroupWrite) -> str:
    try:
        return calls.read_file(f"{op.directory}/{op.file}").strip()
    except KernelError:
        return ""


def _restore(directory: str, file: str, text: str) -> None:
    """Put a single value back; files with a line for each device are left: no limit was lowered in part."""
    if file == "cgroup.subtree_control" or "\n" in text or not text:
        return
    value = "-1" if text.isdigit() and int(text) > files.HUGE else text
    try:
        calls.write_file(f"{directory}/{file}", value)
    except KernelError:
        pass
