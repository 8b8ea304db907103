"""`minibox seccomp explain`, `show` and `diff`."""

from __future__ import annotations

import json

import pytest
from conftest import CHECKOUT

from minibox.seccomp import decode, explain, syscalls, tree
from minibox.seccomp.default import document
from seccomp.programs import profile, written

CAPS = 0xA80425FB
ALLOW = decode.SECCOMP_RET_ALLOW


def explained(minibox, *words):
    done = minibox("seccomp", "explain", "--json", *words)
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)


def test_every_call_has_a_result_and_a_rule(minibox):
    data = explained(minibox, "default")
    names = [one["name"] for one in data["syscalls"]]
    assert names[:-1] == list(explain.numbers(data["machine"]))
    for one in data["syscalls"]:
        assert one["cases"]
        for case in one["cases"]:
            assert case["result"]
            assert case["rule"]


def test_the_results_are_those_of_the_filter():
    source = explain.of_profile("default", document(), CAPS, machine="x86_64", release="6.18")
    for one in explain.explain_all(source):
        number = one.number
        found = [
            decode.describe_action(result)
            for _when, result in tree.cases(explain.outcome(source, decode.AUDIT_ARCH_X86_64, number))
        ]
        assert [case.result for case in one.cases] == found, one.name


def test_conditions_are_readable_and_reasons_are_the_profiles(minibox):
    calls = {
        one["name"]: one for one in explained(minibox, "default", "ioctl", "clone", "socket")["syscalls"]
    }
    tiocsti, _linux, rest = calls["ioctl"]["cases"]
    assert tiocsti["when"] == "low 32 bits of request == TIOCSTI (0x5412)"
    assert tiocsti["result"] == "ERRNO EPERM"
    assert "CVE-2017-5226" in tiocsti["reason"]
    assert (rest["when"], rest["result"]) == ("otherwise", "ALLOW")
    assert calls["clone"]["cases"][0]["when"].startswith("no flag of CLONE_NEWNS|")
    assert "AF_UNIX" in calls["socket"]["cases"][0]["when"]


def test_capabilities_change_the_answer_and_a_hint_says_which(minibox):
    (call,) = explained(minibox, "default", "mount")["syscalls"]
    assert call["cases"][0]["result"] == "ERRNO EPERM"
    assert call["hints"][0].startswith("with CAP_SYS_ADMIN: ALLOW")
    (call,) = explained(minibox, "--caps", "default,SYS_ADMIN", "default", "mount")["syscalls"]
    assert call["cases"][0]["result"] == "ALLOW"
    (call,) = explained(minibox, "--caps=none", "default", "chroot")["syscalls"]
    assert call["cases"][0]["result"] == "ERRNO EPERM"


def test_calls_to_come_and_calls_of_other_machines(minibox):
    newer, other = explained(minibox, "default", "#1000", "arm_fadvise64_64")["syscalls"]
    assert newer["cases"][0]["result"] == "ERRNO ENOSYS"
    assert other["cases"][0]["result"] == "does not exist"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("explain", "default", "monut"), "did you mean mount?"),
        (("explain", "nobody"), "nobody"),
        (("explain", "./none.json"), "is no file"),
        (("explain",), "PROFILE|ID"),
        (("explian", "default"), "explain, show or diff"),
        (("diff", "default"), "PROFILE|ID"),
        (("explain", "--caps", "SYS_ADMN", "default"), "SYS_ADMN"),
    ],
)
def test_errors_name_what_is_wrong(minibox, words, expected):
    done = minibox("seccomp", *words)
    assert done.returncode == 125
    assert expected in done.stderr.decode()


def test_a_bad_profile_names_the_place(minibox, tmp_path):
    done = minibox("seccomp", "explain", written(tmp_path, profile("SCMP_ACT_ALOW", "read")))
    assert done.returncode == 125
    assert "/syscalls/0/action" in done.stderr.decode()


def test_a_running_container_is_explained_by_what_it_has(minibox, rootfs, tmp_path):
    path = written(tmp_path, profile("SCMP_ACT_ERRNO", "acct", errnoRet=5))
    minibox("run", "-d", "--name", "one", "--seccomp", path, rootfs, "sleep", "60")
    data = explained(minibox, "one", "acct", "read")
    assert [one["cases"][0]["result"] for one in data["syscalls"]] == ["ERRNO EIO", "ALLOW"]
    assert "Spec" in data["origin"]
    assert minibox("seccomp", "diff", "one", path).stdout == b"no difference\n"


@pytest.mark.root
def test_it_is_read_from_the_live_process(minibox, rootfs):
    minibox("run", "-d", "--name", "one", rootfs, "sleep", "60")
    assert "read from process" in explained(minibox, "one", "read")["origin"]


@pytest.mark.root
def test_filters_that_the_payload_added_count(minibox, rootfs, tmp_path):
    """Two filters: the container's, and one that a program in it has loaded."""
    first, second = (
        explain.of_profile(name, profile("SCMP_ACT_ERRNO", call), CAPS)
        for name, call in (("a", "acct"), ("b", "sync"))
    )
    both = first._replace(filters=(*first.filters, *second.filters), resolved=None, document=None)
    for call, expected in (("acct", "ERRNO EPERM"), ("sync", "ERRNO EPERM"), ("read", "ALLOW")):
        assert explain.explain(both, call).cases[0].result == expected


def test_the_listing_has_every_call_once(minibox):
    lines = minibox("seccomp", "show", "default").stdout.decode().splitlines()
    start = lines.index("x86_64:")
    end = next(index for index, line in enumerate(lines) if line.startswith("i386:"))
    words = [word.rstrip(":") for line in lines[start:end] for word in line.split()]
    for name in syscalls.X86_64:
        assert words.count(name) == 1, name
    assert lines[end] == "i386: KILL_PROCESS for every call"


def test_the_disassembly_has_every_instruction(minibox):
    data = json.loads(minibox("seccomp", "show", "--bpf", "--json", "default").stdout)
    (one,) = data["filters"]
    assert len(one["instructions"]) == len(one["bpf"]) // 16 == data["instructions"]


def test_unconfined_allows_everything(minibox):
    assert b"every call is allowed" in minibox("seccomp", "show", "unconfined").stdout
    (call,) = explained(minibox, "unconfined", "mount")["syscalls"]
    assert call["cases"][0]["result"] == "ALLOW"


def test_diff_finds_calls_conditions_and_abis(minibox, tmp_path):
    one = profile("SCMP_ACT_ERRNO", "acct")
    one["syscalls"].append(
        {
            "names": ["ioctl"],
            "action": "SCMP_ACT_ERRNO",
            "args": [{"index": 1, "value": 5, "op": "SCMP_CMP_GT"}],
        }
    )
    two = profile("SCMP_ACT_ERRNO", "acct", errnoRet=5, architectures=["SCMP_ARCH_X86"])
    two["syscalls"].append(
        {
            "names": ["ioctl"],
            "action": "SCMP_ACT_ERRNO",
            "args": [{"index": 1, "value": 5, "op": "SCMP_CMP_GE"}],
        }
    )
    paths = (written(tmp_path, one, "one.json"), written(tmp_path, two, "two.json"))
    done = minibox("seccomp", "diff", "--json", *paths)
    assert done.returncode == 1
    found = {(d["abi"], d["name"]): d for d in json.loads(done.stdout)["differences"]}
    assert set(found) == {("x86_64", "acct"), ("x86_64", "ioctl"), ("i386", "*")}
    assert (found["x86_64", "acct"]["first"], found["x86_64", "acct"]["second"]) == (
        "ERRNO EPERM",
        "ERRNO EIO",
    )
    assert found["x86_64", "ioctl"]["when"] == "request = 5"
    assert minibox("seccomp", "diff", paths[0], paths[0]).returncode == 0


def test_the_tree_of_a_filter_agrees_with_running_it():
    source = explain.of_profile("default", document(), CAPS, machine="x86_64", release="6.18")
    bpf = source.filters[0]
    for name in ("ioctl", "socket", "clone", "personality", "read"):
        number = syscalls.X86_64[name]
        found = tree.tree(bpf, decode.AUDIT_ARCH_X86_64, number)
        for args in tree.interesting((found,)):
            action, data = decode.evaluate(bpf, decode.AUDIT_ARCH_X86_64, number, args)
            assert tree.decide(found, args) == action | data


def test_two_filters_give_the_stricter_result():
    errno_node = tree.Node(tree.Test("==", 0, 0xFFFFFFFF, 1), 0x50001, ALLOW)
    assert tree.combine(errno_node, ALLOW) == errno_node
    assert tree.combine(errno_node, 0x80000000) == 0x80000000
    assert tree.combine(0x50001, 0x7FC00000) == 0x50001


def test_a_filter_that_computes_is_not_guessed_at():
    program = [
        decode.Instruction(0x20, 0, 0, 16),
        decode.Instruction(0x04, 0, 0, 1),
        decode.Instruction(0x16, 0, 0, 0),
    ]
    with pytest.raises(tree.TooComplex):
        tree.tree(decode.pack(program), decode.AUDIT_ARCH_X86_64, 0)


def test_help_lists_the_flags(minibox):
    done = minibox("seccomp", "-h")
    assert done.returncode == 0
    for flag in ("--caps", "--bpf", "--json"):
        assert flag in done.stdout.decode()
    assert "minibox seccomp" in (CHECKOUT / "docs" / "cli.md").read_text()


def test_a_call_with_hundreds_of_conditions_is_said_to_be_too_complex(minibox, tmp_path):
    arg = {"index": 1, "op": "SCMP_CMP_EQ"}
    document = profile("SCMP_ACT_ERRNO", "acct")
    document["syscalls"] += [
        {"names": ["ioctl"], "action": "SCMP_ACT_ERRNO", "args": [{**arg, "value": n * 3}]}
        for n in range(400)
    ]
    path = written(tmp_path, document)
    for words in (("explain", path, "acct"), ("show", path), ("diff", path, "default")):
        done = minibox("seccomp", *words)
        assert done.returncode in (0, 1), done.stderr.decode()
        assert b"internal error" not in done.stderr
