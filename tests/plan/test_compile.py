"""compile() is pure, and the order of its steps holds on every kind of host."""

from __future__ import annotations

import builtins
import json
import os
import re
from pathlib import Path

import pytest
from hosts import (
    HOSTS,
    NO_IDMAP,
    NO_OVERLAY,
    OLD_KERNEL,
    OPTIONS,
    PLAIN,
    ROOT_HYBRID,
    ROOT_V2,
    WITH_RANGE,
    plan,
    spec,
)

from minibox.errors import SpecError
from minibox.plan import edit, ops, show
from minibox.plan.compile import compile, compile_exec
from minibox.plan.model import SIDES, Plan

GOLDEN = Path(__file__).parent / "default-plan.txt"
#: every flag on the two kinds of hosts that root has, and the flags that matter there on the others
PAIRS = [
    pytest.param(host, options, id=f"{name}-{kind}")
    for name, host in HOSTS.items()
    for kind, options in OPTIONS.items()
    if name in ("root-v2", "root-hybrid") or kind in ("default", "terminal", "mounts")
]


def every(test):
    """Parametrize a test with every host and every set of flags."""
    return pytest.mark.parametrize(("host", "options"), PAIRS)(test)


def order(found: Plan, *ids: str) -> None:
    """These steps, as far as the Plan has them, stand in this order."""
    places = [found.index(name) for name in ids if name in found]
    assert places == sorted(places), [name for name in ids if name in found]


def matching(found: Plan, *kinds: type[ops.Op]) -> list[int]:
    """The places of the steps with operations of some kinds."""
    return [number for number, step in enumerate(found, 1) if isinstance(step.op, kinds)]


# --- purity ----------------------------------------------------------------------------------------------


@every
def test_the_same_values_give_the_same_plan(host, options):
    assert plan(host, **options) == plan(host, **options)


def test_compiling_asks_the_machine_nothing(monkeypatch):
    """Not a file, not a system call that tells about it: all facts are in the Host."""
    wanted = spec(ROOT_V2, terminal=(0, 1, 2))

    def forbidden(*_args: object, **_kwargs: object) -> None:
        raise AssertionError("compile() looked at the machine")

    for name in (
        "open",
        "stat",
        "lstat",
        "listdir",
        "scandir",
        "access",
        "readlink",
        "uname",
        "geteuid",
        "getuid",
        "getpid",
    ):
        monkeypatch.setattr(os, name, forbidden)
    monkeypatch.setattr(builtins, "open", forbidden)
    assert compile(wanted, ROOT_V2).steps


def test_compiling_changes_neither_value():
    wanted = spec(ROOT_HYBRID)
    before = wanted.to_json(), ROOT_HYBRID.to_json()
    compile(wanted, ROOT_HYBRID)
    assert (wanted.to_json(), ROOT_HYBRID.to_json()) == before


# --- form ------------------------------------------------------------------------------------------------


@every
def test_ids_are_unique_dotted_and_plain(host, options):
    ids = [step.id for step in plan(host, **options)]
    assert len(set(ids)) == len(ids)
    assert all(part and part == part.strip() and " " not in part for name in ids for part in name.split("."))


@every
def test_every_step_has_a_side_a_reason_and_a_manual_page(host, options):
    for step in plan(host, **options):
        assert step.side in SIDES
        assert step.why.endswith((".", ")")), step.id
        assert step.man.endswith(")"), step.id
        assert step.op.SYSCALL, step.id
        assert step.op.describe(), step.id


@every
def test_a_plan_survives_json(host, options):
    found = plan(host, **options)
    assert Plan.from_json(json.loads(json.dumps(found.to_json()))) == found


@every
def test_what_is_left_on_the_host_has_an_undo(host, options):
    for step in plan(host, **options):
        if isinstance(step.op, (ops.MakeLayer, ops.CgroupCreate)):
            assert step.undo is not None, step.id


def test_the_default_plan_is_the_golden_one():
    """The ids are a promise: flags, docs and tests name them.  A change here is a change for users."""
    ids = [step.id for step in plan(ROOT_V2)]
    assert ids == [line for line in GOLDEN.read_text().splitlines() if line]


@pytest.mark.parametrize("host", HOSTS.values(), ids=HOSTS)
def test_a_step_keeps_its_id_on_every_host(host):
    """Steps that do the same thing have the same name wherever they are done."""
    common = {
        "clone",
        "sync.mapped",
        "process.session",
        "mount.private",
        "mount.proc",
        "mount.dev",
        "root.pivot",
        "process.close",
        "caps.bounding",
        "user.ids",
        "caps.set",
        "process.death-signal",
        "sync.ready",
        "sync.start",
        "process.no-new-privs",
        "seccomp.load",
        "process.execute",
    }
    assert common <= {step.id for step in plan(host)}


# --- operations ------------------------------------------------------------------------------------------


def sample(kind: type[ops.Op]) -> ops.Op:
    """An operation with something in each of its fields."""
    values: dict[str, object] = {}
    hints = (
        kind.__annotations__
        if kind.__bases__[0] is ops.Op
        else {**kind.__bases__[0].__annotations__, **kind.__annotations__}
    )
    for name, text in hints.items():
        if text.startswith("ClassVar"):
            continue
        if text.startswith("tuple[tuple[int"):
            values[name] = ((0, 100, 5),)
        elif text.startswith("tuple[tuple[str, int"):
            values[name] = (("monotonic", 1, 2),)
        elif text.startswith("tuple[tuple[str, ..."):
            values[name] = (("cpu", "cpuacct"), ("pids",))
        elif text.startswith("tuple[int"):
            values[name] = (0, 1)
        elif text.startswith("tuple[str"):
            values[name] = ("nosuid", "nodev")
        elif text == "int":
            values[name] = 3
        elif text == "bool":
            values[name] = True
        else:
            values[name] = "null" if name == "name" else "text"
    return kind(**values)


@pytest.mark.parametrize("name", ops.REGISTRY)
def test_every_operation_survives_json(name):
    one = sample(ops.REGISTRY[name])
    again = ops.from_json(json.loads(json.dumps(ops.to_json(one))))
    assert again == one
    assert type(again) is type(one)


@pytest.mark.parametrize("name", ops.REGISTRY)
def test_every_operation_names_its_call_and_performs_it(name):
    kind = ops.REGISTRY[name]
    assert kind.SYSCALL
    assert kind.perform is not ops.Op.perform
    assert kind.__doc__


@pytest.mark.parametrize("name", ops.REGISTRY)
def test_every_operation_is_one_that_somebody_asks_for(name):
    package = Path(ops.__file__).parent.parent
    users = [*package.glob("plan/*.py"), *package.glob("runtime/*.py"), *package.glob("cgroup/*.py")]
    texts = [path.read_text() for path in users if path.name != "ops.py"]
    assert any(re.search(rf"ops\.{name}\b", text) for text in texts)


# --- order -----------------------------------------------------------------------------------------------


@every
def test_id_maps_come_first_after_the_clone(host, options):
    found = plan(host, **options)
    order(
        found,
        "clone",
        "user.setgroups",
        "user.map-uids",
        "user.map-gids",
        "root.idmap",
        "sync.mapped",
        "sync.mapped.wait",
    )
    assert found.index("user.map-gids") < min(
        matching(found, ops.MountFs, ops.Bind, ops.AttachProc, ops.SetHostname)
    )


@every
def test_nothing_is_done_inside_before_the_ids_mean_something(host, options):
    found = plan(host, **options)
    wait = found.index("sync.mapped.wait")
    assert all(number >= wait for number, step in enumerate(found, 1) if step.side == "child")


@every
def test_the_cgroup_is_entered_before_its_namespace_is_made(host, options):
    found = plan(host, **options)
    enters = matching(found, ops.EnterCgroup)
    namespace = [
        number for number in matching(found, ops.Unshare) if found.steps[number - 1].op.kind == "cgroup"
    ]
    assert len(namespace) == 1
    assert all(number < namespace[0] for number in enters)


@every
def test_limits_are_written_before_anyone_is_in_the_group(host, options):
    found = plan(host, **options)
    writes = matching(found, ops.CgroupWrite, ops.LimitSwap, ops.CgroupInherit)
    assert all(number < found.index("clone") for number in writes)


@every
def test_mounts_are_private_before_the_first_is_made_and_pivoted_after_the_last(host, options):
    found = plan(host, **options)
    kinds = (
        ops.MountStaging,
        ops.MountFs,
        ops.Bind,
        ops.AttachProc,
        ops.MountOverlay,
        ops.AttachRoot,
        ops.MountCgroups,
        ops.BindDevice,
        ops.MaskPath,
        ops.ReadonlyPath,
        ops.ReadonlyRoot,
        ops.OpenTerminal,
    )
    places = matching(found, *kinds)
    assert found.index("mount.private") < places[0]
    assert places[-1] < found.index("root.pivot")


@every
def test_masks_are_the_last_mounts(host, options):
    found = plan(host, **options)
    masks = matching(found, ops.MaskPath, ops.ReadonlyPath)
    others = matching(found, ops.MountFs, ops.Bind, ops.AttachProc, ops.MountCgroups, ops.BindDevice)
    assert all(number > others[-1] for number in masks)
    order(
        found,
        *(step.id for step in found if step.id.startswith(("mask.", "readonly."))),
        "root.readonly",
        "root.pivot",
    )


@every
def test_a_mount_comes_after_those_that_it_lies_in(host, options):
    found = plan(host, **options)
    places = {
        step.op.destination: number for number, step in enumerate(found, 1) if hasattr(step.op, "destination")
    }
    for destination, number in places.items():
        parents = [place for place in places if destination.startswith(place + "/")]
        assert all(places[parent] < number for parent in parents), destination


@every
def test_settings_are_written_while_proc_is_attached_nowhere(host, options):
    found = plan(host, **options)
    settings = matching(found, ops.SetSysctl)
    assert all(found.index("mount.proc.open") < number < found.index("mount.proc") for number in settings)


@every
def test_sources_are_taken_before_the_old_root_goes(host, options):
    found = plan(host, **options)
    trees = matching(found, ops.OpenTree)
    limit = found.index("clone") if host.is_root else found.index("root.staging")
    assert all(number < limit for number in trees)
    sides = {found.steps[number - 1].side for number in trees}
    assert sides <= ({"supervisor"} if host.is_root else {"child"})


@every
def test_nobody_can_trace_it_from_the_change_of_ids_on(host, options):
    found = plan(host, **options)
    order(found, "user.become-root", "process.undumpable", "root.staging")
    assert found.index("process.undumpable") == found.index("user.become-root") + 1


@every
def test_privileges_go_in_the_order_that_each_needs(host, options):
    found = plan(host, **options)
    order(
        found,
        "process.prepare",
        "process.close",
        "caps.bounding",
        "caps.keep",
        "user.ids",
        "caps.set",
        "caps.ambient",
        "process.death-signal",
        "sync.ready",
        "sync.ready.wait",
        "sync.start",
        "sync.start.wait",
        "process.no-new-privs",
        "process.execute",
    )


@every
def test_the_death_signal_is_set_after_the_last_change_of_credentials(host, options):
    """Such a change clears it; that the supervisor is alive then is shown by the wait behind it."""
    found = plan(host, **options)
    changes = matching(found, ops.SetIds, ops.SetCapabilities, ops.RaiseAmbient, ops.BecomeRoot)
    assert max(changes) < found.index("process.death-signal") < found.index("sync.start.wait")


@every
def test_the_filter_is_loaded_when_it_may_be_and_after_what_it_could_refuse(host, options):
    found = plan(host, **options)
    if "seccomp.load" not in found:
        assert options.get("privileged") or options.get("seccomp") == "unconfined"
        return
    load = found.index("seccomp.load")
    if "process.no-new-privs" in found:
        assert load == found.index("process.no-new-privs") + 1
        assert load == found.index("process.execute") - 1
    else:
        assert load < found.index("caps.bounding")
    assert found.index("process.close") < load
    assert found.index("process.prepare") < load


@every
def test_execve_is_the_last_step(host, options):
    found = plan(host, **options)
    assert isinstance(found.steps[-1].op, ops.Execute)
    assert len(matching(found, ops.Execute)) == 1


@every
def test_what_one_side_releases_the_other_awaits(host, options):
    found = plan(host, **options)
    for number in matching(found, ops.Release):
        step = found.steps[number - 1]
        wait = found[f"{step.id}.wait"]
        assert wait.side != step.side
        assert wait.op.event == step.op.event
        assert found.index(wait.id) > number


@every
def test_a_descriptor_is_opened_before_it_is_used(host, options):
    found = plan(host, **options)
    opened = {}
    for number, step in enumerate(found, 1):
        if isinstance(step.op, (ops.OpenFile, ops.OpenTree)):
            opened[step.op.name] = number
        elif isinstance(step.op, (ops.EnterCgroup, ops.Bind, ops.AttachTree, ops.AttachRoot, ops.IdmapTree)):
            assert opened[step.op.name] < number, step.id
        elif isinstance(step.op, ops.Clone) and step.op.cgroup:
            assert opened[step.op.cgroup] < number


# --- what a host changes -----------------------------------------------------------------------------------


def test_root_gets_an_overlay_over_an_idmapped_root():
    found = plan(ROOT_V2)
    assert {"root.overlay", "root.idmap", "root.layer"} <= {step.id for step in found}
    assert found["root.overlay"].op.user_xattr
    assert found.notes == ()


@pytest.mark.parametrize("host", [OLD_KERNEL, NO_IDMAP], ids=["old-kernel", "no-idmap"])
def test_where_nothing_can_be_idmapped_a_copy_is_shifted_and_said(host):
    found = plan(host)
    assert found["root.copy"].op.uid_maps == ((0, 0x7000_0000, 65536),)
    assert "root.idmap" not in found
    assert "root.overlay" not in found
    assert any("is copied" in note for note in found.notes)


def test_where_there_is_no_overlay_a_user_gets_a_copy_with_its_own_owners():
    found = plan(NO_OVERLAY)
    assert found["root.copy"].op.uid_maps == ()
    assert any("is copied" in note for note in found.notes)


def test_writable_is_refused_where_it_would_need_a_copy():
    with pytest.raises(SpecError, match="idmapped"):
        plan(NO_IDMAP, writable=True)
    assert "root.copy" not in plan(NO_IDMAP, writable=True, userns="host")


def test_a_user_without_a_range_maps_one_id_and_denies_setgroups():
    found = plan(PLAIN)
    assert found["user.map-uids"].op.maps == ((0, 1000, 1),)
    assert found["user.map-uids"].op.tool == ""
    order(found, "user.setgroups", "user.map-gids")
    assert "user.setgroups" in found
    assert found["user.ids"].op.groups is False


def test_a_user_with_a_range_maps_it_by_the_set_uid_tools():
    found = plan(WITH_RANGE)
    assert found["user.map-uids"].op.tool == "/usr/bin/newuidmap"
    assert found["user.map-gids"].op.tool == "/usr/bin/newgidmap"
    assert "user.setgroups" not in found
    assert found["user.ids"].op.groups is True


def test_root_never_calls_the_tools():
    assert plan(ROOT_V2.replace(newuidmap="/usr/bin/newuidmap"))["user.map-uids"].op.tool == ""


def test_the_clone_goes_into_the_v2_group_and_a_v1_group_is_entered():
    assert plan(ROOT_V2)["clone"].op.cgroup == "cgroup.unified"
    assert matching(plan(ROOT_V2), ops.EnterCgroup) == []
    assert plan(ROOT_HYBRID)["clone"].op.cgroup == ""
    found = plan(ROOT_HYBRID)
    assert len(matching(found, ops.EnterCgroup)) == len(matching(found, ops.CgroupCreate)) >= 2


def test_controllers_are_handed_down_before_limits_are_written():
    found = plan(ROOT_V2, memory="64m", cpus="0.5")
    order(
        found,
        "cgroup.unified",
        "cgroup.unified.enable",
        "cgroup.unified.memory.max",
        "cgroup.unified.open",
        "clone",
    )
    assert found["cgroup.unified.memory.max"].op.value == str(64 << 20)
    assert found["cgroup.unified.cpu.max"].op.value == "50000 100000"


def test_swap_is_counted_with_memory_on_v1_and_apart_on_v2():
    options = {"memory": "64m", "memory_swap": "96m"}
    assert plan(ROOT_HYBRID, **options)["cgroup.memory.memory.memsw.limit_in_bytes"].op.value == str(96 << 20)
    assert plan(ROOT_V2, **options)["cgroup.unified.memory.swap.max"].op.value == str(32 << 20)


def test_a_limit_that_cannot_be_had_is_an_error_and_the_default_one_a_note():
    with pytest.raises(SpecError) as caught:
        plan(PLAIN, memory="64m")
    assert caught.value.pointer == "--memory"
    assert any("default limit of processes is not in force" in note for note in plan(PLAIN).notes)


def test_a_capability_that_the_caller_lacks_is_left_out_or_an_error():
    lacking = ROOT_V2.replace(bounding=ROOT_V2.bounding & ~(1 << 27) & ~(1 << 25))
    found = plan(lacking)
    assert found["caps.bounding"].op.keep >> 27 & 1 == 0
    assert any("CAP_MKNOD" in note for note in found.notes)
    with pytest.raises(SpecError, match="CAP_SYS_TIME"):
        plan(lacking, cap_add=["SYS_TIME"])
    assert plan(lacking, privileged=True)["caps.bounding"].op.keep == lacking.bounding


def test_without_a_user_namespace_the_last_stage_is_sealed_memory():
    found = plan(ROOT_V2, userns="host")
    assert found["process.prepare"].op.init == "exec"
    assert "exe-overwrite" in found["process.prepare"].guards
    assert plan(ROOT_V2)["process.prepare"].op.init == ""
    assert any(note.startswith("NO USER NAMESPACE") for note in found.notes)


def test_nested_user_namespaces_are_closed_wherever_one_is_made():
    for host in HOSTS.values():
        assert plan(host)["sysctl.user.max_user_namespaces"].op.value == "0"
    assert "sysctl.user.max_user_namespaces" not in plan(ROOT_V2, privileged=True)


def test_namespaces_that_are_shared_are_not_made():
    assert plan(ROOT_V2)["clone"].op.namespaces == ("user", "pid", "net", "mount", "uts", "ipc")
    found = plan(ROOT_V2, network="host", pid="host", uts="host", ipc="host", cgroupns="host")
    assert found["clone"].op.namespaces == ("user", "mount")
    assert not {"net.loopback", "uts.hostname", "cgroup.namespace"} & {step.id for step in found}


def test_a_namespace_given_by_a_file_is_joined_by_a_process_of_its_own():
    found = plan(ROOT_V2, network="ns:/run/netns/x")
    assert found["join.net"].side == "joiner"
    assert found["clone"].side == "joiner"
    order(found, "join.net.open", "join.undumpable", "join.net", "clone", "user.map-uids")


# --- exec ------------------------------------------------------------------------------------------------


def exec_plan(host, **options):
    made = spec(host)
    wanted = from_options(made, options)
    groups = (
        ("/sys/fs/cgroup/pids/minibox-test",)
        if host.cgroups.mode == "hybrid"
        else ("/sys/fs/cgroup/minibox-test",)
    )
    return compile_exec(wanted, host, 4242, groups)


def from_options(made, options):
    from minibox.spec import from_flags

    return from_flags.with_command(made, ("ls",), options)


@pytest.mark.parametrize(
    "host", [ROOT_V2, ROOT_HYBRID, PLAIN, WITH_RANGE], ids=["v2", "hybrid", "plain", "range"]
)
@pytest.mark.parametrize("options", [{}, {"terminal": (0, 1, 2)}, {"user": "1000", "workdir": "/x"}], ids=str)
def test_an_exec_ends_as_a_run_does(host, options):
    found = exec_plan(host, **options)
    order(
        found,
        "join.open",
        "join.undumpable",
        "join.own",
        "clone",
        "process.session",
        "user.become-root",
        "process.undumpable",
        "terminal.open",
        "process.user",
        "process.cwd",
        "process.close",
        "caps.bounding",
        "caps.keep",
        "user.ids",
        "caps.set",
        "process.death-signal",
        "sync.ready",
        "sync.start",
        "process.no-new-privs",
        "seccomp.load",
        "process.execute",
    )
    ends = ("process.close", "caps.bounding", "user.ids", "caps.set", "process.no-new-privs", "seccomp.load")
    run = plan(host)
    assert all(found[name].op == run[name].op for name in ends)


def test_an_exec_has_ids_of_its_own_and_survives_json():
    found = exec_plan(ROOT_HYBRID, terminal=(0,))
    assert len({step.id for step in found}) == len(found)
    assert Plan.from_json(json.loads(json.dumps(found.to_json()))) == found


# --- plans made out of plans -------------------------------------------------------------------------------


def test_a_step_can_be_left_out_alone_or_with_all_below():
    found = plan(ROOT_V2)
    assert "seccomp.load" not in edit.leave_out(found, ("seccomp.load",))
    less = edit.leave_out(found, ("mask",))
    assert not [step for step in less if step.id.startswith("mask.")]
    assert len(less) == len(found) - len([step for step in found if step.id.startswith("mask.")])


def test_a_step_that_is_not_there_cannot_be_left_out():
    from minibox.errors import UsageError

    with pytest.raises(UsageError, match='no step "nonsense"'):
        edit.leave_out(plan(ROOT_V2), ("nonsense",))


@every
def test_the_difference_to_itself_is_nothing(host, options):
    found = plan(host, **options)
    assert show.diff(found, found) == []


@every
def test_a_difference_names_what_only_one_has(host, options):
    first, second = plan(host), plan(host, **options)
    lines = show.diff(first, second)
    only_first = {step.id for step in first} - {step.id for step in second}
    only_second = {step.id for step in second} - {step.id for step in first}
    assert only_first <= {line.split()[1] for line in lines if line.startswith("- ")}
    assert only_second <= {line.split()[1] for line in lines if line.startswith("+ ")}
    assert len(lines) == len(set(lines))


def test_a_printed_plan_has_every_step():
    found = plan(ROOT_V2)
    text = "\n".join(show.lines(found))
    assert all(step.id in text and step.op.describe() in text and step.why in text for step in found)
