"""`minibox plan` and `--trace`: what would be done, what differs, and what was done."""

from __future__ import annotations

import json
import os

import pytest
from conftest import host_facts
from observe import detached


def plan(minibox, *words):
    from minibox.plan.model import Plan

    done = minibox("plan", "--json", *words)
    assert done.returncode == 0, done.stderr
    return Plan.from_json(json.loads(done.stdout))


def test_a_step_is_a_number_an_id_a_side_a_call_a_reason_and_a_manual_page(minibox, rootfs):
    lines = minibox("plan", rootfs).stdout.decode().splitlines()
    found = plan(minibox, rootfs)
    steps = [
        (line, below) for line, below in zip(lines, lines[1:], strict=False) if line[:4].strip().isdigit()
    ]
    assert len(steps) == len(found)
    sides = {"supervisor": "host", "child": "container", "joiner": "join"}
    for number, (step, (line, below)) in enumerate(zip(found, steps, strict=True), 1):
        assert line.split()[:3] == [str(number), step.id, sides[step.side]]
        assert line.endswith(step.op.describe())
        assert step.why in below
        assert step.man in below
        assert all(guard in below for guard in step.guards)


def test_json_makes_the_same_plan_again(minibox, rootfs):
    data = json.loads(minibox("plan", "--json", "--init", "-v", "/etc:/x:ro", rootfs, "id").stdout)
    from minibox.plan.model import Plan

    assert Plan.from_json(data).to_json() == data
    assert len(data["steps"]) > 50


def test_the_same_flags_give_the_same_plan(minibox, rootfs):
    assert minibox("plan", rootfs).stdout == minibox("plan", rootfs).stdout


def test_planning_changes_nothing_on_the_host(minibox, rootfs, tmp_path):
    before = host_facts()
    minibox("plan", "-m", "64m", "-v", f"{tmp_path}:/data", rootfs, "sh")
    assert host_facts() == before
    assert not minibox.run_dir.exists()
    assert not minibox.data_dir.exists()


def test_planning_takes_no_name_and_no_ids(minibox, rootfs):
    detached(minibox, "one")
    before = sorted(os.listdir(minibox.run_dir / "ids"))
    assert minibox("plan", "--name", "one", rootfs).returncode == 0
    assert sorted(os.listdir(minibox.run_dir / "ids")) == before


@pytest.mark.root
def test_the_plan_has_the_ids_that_the_next_container_gets(minibox, rootfs):
    detached(minibox, "one")
    maps = plan(minibox, rootfs)["user.map-uids"].op.maps
    assert minibox.inside("cat /proc/self/uid_map").split() == [str(number) for number in maps[0]]


def test_the_command_is_in_the_plan(minibox, rootfs):
    assert plan(minibox, rootfs, "echo", "a b")["process.execute"].op.argv == ("echo", "a b")
    assert plan(minibox, rootfs)["process.execute"].op.argv == ("sh",)


def test_bad_flags_are_the_errors_of_run(minibox, rootfs):
    for flags in (("--memory", "x"), ("--cap-add", "NONSENSE"), ("--nonsense",)):
        assert minibox("plan", *flags, rootfs).returncode == 125
        assert minibox("plan", *flags, rootfs).stderr == minibox("run", *flags, rootfs).stderr.replace(
            b"help run", b"help plan"
        )


# --- diff ----------------------------------------------------------------------------------------------


def diff(minibox, first, second, rootfs):
    done = minibox("plan", "--diff", first, second, rootfs)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode().splitlines()


def test_diff_shows_what_comes_and_goes(minibox, rootfs):
    lines = diff(minibox, "", "--init --hostname web", rootfs)
    signs = {line.split()[1]: line[0] for line in lines}
    assert signs["uts.hostname"] in "+-"
    assert {line[0] for line in lines if "uts.hostname" in line} == {"-", "+"}
    assert {line.split()[1] for line in lines} == {"uts.hostname", "process.prepare"}


def test_diff_of_privileged_is_what_it_takes_away(minibox, rootfs):
    lines = diff(minibox, "", "--privileged", rootfs)
    gone = {line.split()[1] for line in lines if line[0] == "-"}
    come = {line.split()[1] for line in lines if line[0] == "+"}
    assert {
        "seccomp.load",
        "mask.proc-kcore",
        "readonly.proc-sys",
        "sysctl.user.max_user_namespaces",
    } <= gone - come
    assert "caps.bounding" in gone & come
    assert any(line.startswith("+ note: no seccomp filter") for line in lines)


def test_diff_of_the_same_is_no_difference(minibox, rootfs):
    assert diff(minibox, "-e A=1", "--env A=1", rootfs) == ["no difference"]


def test_diff_the_other_way_round_has_the_other_signs(minibox, rootfs):
    swap = str.maketrans("+-", "-+")
    forward = {line[0].translate(swap) + line[1:] for line in diff(minibox, "", "--net host", rootfs)}
    assert forward == set(diff(minibox, "--net host", "", rootfs))


def test_common_flags_hold_for_both(minibox, rootfs):
    assert minibox("plan", "--privileged", "--diff", "", "", rootfs).stdout == b"no difference\n"


def test_diff_needs_two_sets_of_flags(minibox, rootfs):
    for words in (("--diff",), ("--diff", ""), ("--diff=x", "", rootfs)):
        done = minibox("plan", *words)
        assert done.returncode == 125
        assert b"--diff needs two values: 'FLAGS' 'FLAGS'" in done.stderr


# --- trace ---------------------------------------------------------------------------------------------


def traced(text: str) -> list[tuple[int, str]]:
    """(number, id) of the lines of a --trace: `N/TOTAL MICROSECONDS us SIDE ID CALL`."""
    found = []
    for line in text.splitlines():
        words = line.replace("/", " ", 1).split()
        if len(words) > 5 and words[0].isdigit() and words[3] == "us":
            found.append((int(words[0]), words[5]))
    return found


@pytest.mark.parametrize(
    "flags",
    [
        (),
        ("--init",),
        ("--userns", "host"),
        ("--allow-new-privs", "--tmpfs", "/t"),
        ("-m", "64m", "--time-offset", "1"),
    ],
)
@pytest.mark.root
def test_trace_has_every_step_of_the_plan_once(minibox, rootfs, flags):
    wanted = [step.id for step in plan(minibox, *flags, "--name", "one", rootfs, "true")]
    done = minibox("run", "--trace", *flags, "--name", "one", rootfs, "true")
    assert done.returncode == 0
    assert sorted(traced(done.stderr.decode())) == list(enumerate(wanted, 1))


def test_trace_into_a_file_is_json_lines(minibox, rootfs, tmp_path):
    wanted = list(plan(minibox, "--name", "one", rootfs, "true"))
    done = minibox("run", f"--trace={tmp_path}/trace", "--name", "one", rootfs, "true")
    assert (done.returncode, traced(done.stderr.decode())) == (0, [])
    lines = [json.loads(line) for line in (tmp_path / "trace").read_text().splitlines()]
    assert sorted(line["n"] for line in lines) == list(range(1, len(wanted) + 1))
    by_number = {line["n"]: line for line in lines}
    for number, step in enumerate(wanted, 1):
        line = by_number[number]
        assert (line["id"], line["side"]) == (step.id, step.side)
        assert line["us"] >= 0
        assert isinstance(line["note"], str)


@pytest.mark.root
def test_trace_covers_the_joining_of_namespaces(minibox, rootfs):
    detached(minibox, "web")
    flags = ("--net", "container:web")
    wanted = [step.id for step in plan(minibox, *flags, "--name", "two", rootfs, "true")]
    done = minibox("run", "--trace", *flags, "--name", "two", rootfs, "true")
    assert sorted(traced(done.stderr.decode())) == list(enumerate(wanted, 1))
    assert "join.net" in wanted


def test_trace_of_an_exec(minibox):
    detached(minibox, "one")
    done = minibox("exec", "--trace", "one", "true")
    found = traced(done.stderr.decode())
    assert [number for number, _id in sorted(found)] == list(range(1, len(found) + 1))
    assert {"join.open", "clone", "caps.bounding", "process.execute"} <= {step for _number, step in found}


@pytest.mark.root
def test_trace_stops_at_the_step_that_fails(minibox, rootfs):
    done = minibox("run", "--trace", "--user", "nobody-here", rootfs, "true")
    text = done.stderr.decode()
    number = int(text.split("minibox: step ")[1].split("/")[0])
    assert max(found for found, _id in traced(text)) < number
    assert "process.user failed" in text


def test_what_the_trace_says_of_a_step_is_what_the_plan_says(minibox, rootfs, tmp_path):
    steps = plan(minibox, "--name", "one", rootfs, "true")
    minibox("run", f"--trace={tmp_path}/trace", "--name", "one", rootfs, "true")
    lines = [json.loads(line) for line in (tmp_path / "trace").read_text().splitlines()]
    said = {line["id"]: line["call"] for line in lines}
    moving = {
        "root.layer",
        "user.map-uids",
        "user.map-gids",
        "process.own-pipes",
    }  # they name the next free ids
    assert all(said[step.id] == step.op.describe() for step in steps if step.id not in moving)
