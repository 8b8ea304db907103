"""The table of hints: each is about an operation that exists, and the first that fits is given."""

from __future__ import annotations

import pytest

from minibox.errors import StepError
from minibox.kernel import host
from minibox.plan import ops
from minibox.plan.model import Step
from minibox.runtime import hints

HOST = host.probe("/", "/tmp")
ROOT = HOST.replace(euid=0, egid=0)
USER = HOST.replace(euid=1000, egid=1000)


def step(op: ops.Op) -> Step:
    return Step(id="x.y", side="child", op=op, why="It has to be.", man="none(7)")


def hint(op: ops.Op, errno: int, on: host.Host = ROOT, what: str = "call()") -> str:
    return hints.find(StepError("x.y", what, errno=errno), step(op), on)


CLONE = ops.Clone(namespaces=("user",))
EXECUTE = ops.Execute(argv=("x",))


def test_every_hint_is_about_an_operation_there_is():
    names = {name for name, _numbers, _fact, _text in hints.TABLE}
    assert names <= set(ops.REGISTRY)


def test_every_hint_is_one_line():
    for _name, numbers, _fact, text in hints.TABLE:
        assert text
        assert "\n" not in text
        assert text.endswith("...") or not text.endswith(".")
        assert all(isinstance(number, int) for number in numbers)


@pytest.mark.parametrize(
    ("op", "errno", "on", "expected"),
    [
        (CLONE, 28, ROOT, "too many namespaces"),
        (CLONE, 87, ROOT, "too many namespaces"),
        (CLONE, 11, ROOT, "too many processes"),
        (CLONE, 1, USER, "user namespaces are forbidden here to ordinary users"),
        (ops.WriteIdMap(kind="uid", maps=((0, 1, 1),)), 1, USER, "an ordinary user maps its own id alone"),
        (ops.WriteIdMap(kind="uid", maps=((0, 1, 1),), tool="/bin/newuidmap"), 1, USER, "/etc/subuid"),
        (ops.OpenProc(attributes=()), 1, USER, "systempaths=unconfined"),
        (ops.MakeLayer(path="/x", names=(), uid=0, gid=0), 28, ROOT, "--data-root"),
        (ops.MakeLayer(path="/x", names=(), uid=0, gid=0), 122, ROOT, "--data-root"),
        (ops.CgroupCreate(directory="/x"), 13, USER, "no permission to make cgroups"),
        (ops.CgroupWrite(directory="/x", file="f", value="1"), 22, ROOT, "refuses this value"),
        (ops.JoinNamespace(kind="net", name="n"), 22, ROOT, "no namespace, or one of another kind"),
        (ops.SetIds(groups=True), 22, ROOT, "not mapped"),
        (ops.SetRlimit(kind="NOFILE", soft=1, hard=1), 1, ROOT, "ulimit -H"),
        (ops.SetSysctl(name="net/x", value="1"), 2, ROOT, "no such setting"),
        (ops.ResolveUser(user="x", groups=()), 0, ROOT, "--user and --group-add"),
        (ops.ChangeDirectory(path="/x"), 20, ROOT, "--workdir"),
        (EXECUTE, 2, ROOT, "is the program in the root"),
        (EXECUTE, 13, ROOT, "not executable"),
        (EXECUTE, 8, ROOT, "for this machine"),
        (EXECUTE, 7, ROOT, "too long"),
        (EXECUTE, 1, ROOT, "seccomp"),
    ],
)
def test_what_people_run_into(op, errno, on, expected):
    assert expected in hint(op, errno, on)


def test_a_full_disk_is_told_wherever_it_shows():
    assert hint(ops.SetUmask(mask=0), 28) == "the disk, or a limit on it, is full"
    assert hint(ops.SetUmask(mask=0), 122) == "the disk, or a limit on it, is full"


def test_a_step_that_was_left_out_is_told():
    assert hint(ops.SetUmask(mask=0), 2, what='lookup("root")') == "a step that this one needs was left out"


def test_nothing_is_made_up():
    assert hint(ops.SetUmask(mask=0), 71) == ""
    assert hint(CLONE, 71) == ""
    assert hints.find(StepError("x", "y", errno=1), None, ROOT) == ""


def test_facts_that_cannot_be_read_do_not_hold():
    assert hints._setting("/no/such/file", "0")(step(CLONE), ROOT) is False
    assert hints._setting("/proc/sys/kernel/ostype", "Linux")(step(CLONE), ROOT) is True
