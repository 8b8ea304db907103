"""Profiles: what is refused with which pointer, what the conditionals of Docker's format mean, what a
rule means."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from minibox.seccomp import decode
from minibox.seccomp.profile import CAPABILITIES, Arg, Profile, ProfileError, Rule, decide, resolve

ALLOW = decode.SECCOMP_RET_ALLOW
EPERM = decode.SECCOMP_RET_ERRNO | errno.EPERM


def read(
    document: Any, caps: tuple[str, ...] = (), arch: str = "x86_64", release: str = "6.1.0-9-amd64"
) -> Profile:
    mask = sum(1 << CAPABILITIES.index(cap) for cap in caps)
    return resolve(document, capabilities=mask, arch=arch, release=release)


def with_rule(**rule: Any) -> dict[str, Any]:
    return {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"action": "SCMP_ACT_ALLOW", **rule}]}


def with_arg(**arg: Any) -> dict[str, Any]:
    return with_rule(names=["read"], args=[{"index": 0, "value": 0, "op": "SCMP_CMP_EQ", **arg}])


def test_there_are_as_many_capabilities_as_the_kernel_headers_name() -> None:
    assert len(CAPABILITIES) == 41
    assert CAPABILITIES[21] == "CAP_SYS_ADMIN"
    assert CAPABILITIES[40] == "CAP_CHECKPOINT_RESTORE"


@pytest.mark.parametrize(
    ("document", "pointer"),
    [
        ([], "/"),
        ("default", "/"),
        ({}, "/defaultAction"),
        ({"defaultAction": "allow"}, "/defaultAction"),
        ({"defaultAction": None}, "/defaultAction"),
        ({"defaultAction": "SCMP_ACT_NOTIFY"}, "/defaultAction"),
        ({"defaultAction": "SCMP_ACT_ALLOW", "defaultErrnoRet": 1}, "/defaultErrnoRet"),
        ({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 4096}, "/defaultErrnoRet"),
        ({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrno": "EWHAT"}, "/defaultErrno"),
        ({"defaultAction": "SCMP_ACT_ALLOW", "sycalls": []}, "/sycalls"),
        ({"defaultAction": "SCMP_ACT_ALLOW", "a/b~": 1}, "/a~1b~0"),
        ({"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_FAST"]}, "/flags/0"),
        ({"defaultAction": "SCMP_ACT_ALLOW", "flags": "SECCOMP_FILTER_FLAG_LOG"}, "/flags"),
        ({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["amd64"]}, "/architectures/0"),
        ({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": 3}, "/listenerPath"),
        ({"defaultAction": "SCMP_ACT_ALLOW", "listenerMetadata": []}, "/listenerMetadata"),
        ({"defaultAction": "SCMP_ACT_ALLOW", "archMap": [{"architecture": "x"}]}, "/archMap/0/architecture"),
        (
            {"defaultAction": "SCMP_ACT_ALLOW", "archMap": [{"subArchitectures": []}]},
            "/archMap/0/architecture",
        ),
        (
            {
                "defaultAction": "SCMP_ACT_ALLOW",
                "architectures": ["SCMP_ARCH_X86"],
                "archMap": [{"architecture": "SCMP_ARCH_X86_64"}],
            },
            "/archMap",
        ),
        ({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": {}}, "/syscalls"),
        ({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [1]}, "/syscalls/0"),
        ({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"]}]}, "/syscalls/0/action"),
        (with_rule(), "/syscalls/0/names"),
        (with_rule(names=[]), "/syscalls/0/names"),
        (with_rule(names=["read", 1]), "/syscalls/0/names/1"),
        (with_rule(names=["re ad"]), "/syscalls/0/names/0"),
        (with_rule(name=""), "/syscalls/0/name/0"),
        (with_rule(name="read", names=["write"]), "/syscalls/0/name"),
        (with_rule(names=["read"], action="SCMP_ACT_DENY"), "/syscalls/0/action"),
        (with_rule(names=["read"], errnoRet=1), "/syscalls/0/errnoRet"),
        (with_rule(names=["read"], action="SCMP_ACT_ERRNO", errnoRet=-1), "/syscalls/0/errnoRet"),
        (with_rule(names=["read"], action="SCMP_ACT_ERRNO", errnoRet=True), "/syscalls/0/errnoRet"),
        (with_rule(names=["read"], action="SCMP_ACT_TRACE", errnoRet=65536), "/syscalls/0/errnoRet"),
        (with_rule(names=["read"], action="SCMP_ACT_ERRNO", errno=1), "/syscalls/0/errno"),
        (with_rule(names=["read"], priority=1), "/syscalls/0/priority"),
        (with_rule(names=["read"], comment=1), "/syscalls/0/comment"),
        (with_rule(names=["read"], args=[{}]), "/syscalls/0/args/0/index"),
        (with_rule(names=["read"], args={}), "/syscalls/0/args"),
        (with_arg(index=6), "/syscalls/0/args/0/index"),
        (with_arg(index=-1), "/syscalls/0/args/0/index"),
        (with_arg(value=1.0), "/syscalls/0/args/0/value"),
        (with_arg(value=1 << 64), "/syscalls/0/args/0/value"),
        (with_arg(valueTwo="0"), "/syscalls/0/args/0/valueTwo"),
        (with_arg(op="SCMP_CMP_IN"), "/syscalls/0/args/0/op"),
        (with_arg(op="=="), "/syscalls/0/args/0/op"),
        (with_arg(mask=1), "/syscalls/0/args/0/mask"),
        (with_rule(names=["read"], includes=[]), "/syscalls/0/includes"),
        (with_rule(names=["read"], includes={"cap": []}), "/syscalls/0/includes/cap"),
        (with_rule(names=["read"], includes={"caps": ["SYS_ADMIN"]}), "/syscalls/0/includes/caps/0"),
        (with_rule(names=["read"], excludes={"arches": ["x86_64"]}), "/syscalls/0/excludes/arches/0"),
        (with_rule(names=["read"], excludes={"minKernel": "new"}), "/syscalls/0/excludes/minKernel"),
        (with_rule(names=["read"], excludes={"minKernel": 4.8}), "/syscalls/0/excludes/minKernel"),
    ],
)
def test_a_bad_profile_is_refused_at_its_place(document: Any, pointer: str) -> None:
    with pytest.raises(ProfileError) as caught:
        read(document)
    assert caught.value.pointer == pointer
    assert caught.value.message


def test_the_pointer_begins_where_the_caller_says() -> None:
    with pytest.raises(ProfileError) as caught:
        resolve({"x": 1}, capabilities=0, arch="x86_64", release="6.1", at="/linux/seccomp")
    assert caught.value.pointer == "/linux/seccomp/x"


def test_rules_that_do_not_apply_are_checked_too() -> None:
    with pytest.raises(ProfileError):
        read(with_rule(names=["read"], action="SCMP_ACT_WHAT", includes={"caps": ["CAP_BPF"]}))


@pytest.mark.parametrize(("arch", "release"), [("pdp11", "6.1"), ("x86_64", "latest")])
def test_an_unknown_machine_or_release_is_an_error(arch: str, release: str) -> None:
    with pytest.raises(ProfileError):
        read({"defaultAction": "SCMP_ACT_ALLOW"}, arch=arch, release=release)


@pytest.mark.parametrize(
    ("includes", "excludes", "caps", "applies"),
    [
        ({}, {}, (), True),
        ({"caps": ["CAP_BPF"]}, {}, (), False),
        ({"caps": ["CAP_BPF"]}, {}, ("CAP_BPF",), True),
        ({"caps": ["CAP_BPF", "CAP_SYS_ADMIN"]}, {}, ("CAP_BPF",), False),
        ({"caps": ["CAP_BPF", "CAP_SYS_ADMIN"]}, {}, ("CAP_BPF", "CAP_SYS_ADMIN"), True),
        ({}, {"caps": ["CAP_BPF", "CAP_SYS_ADMIN"]}, (), True),
        ({}, {"caps": ["CAP_BPF", "CAP_SYS_ADMIN"]}, ("CAP_SYS_ADMIN",), False),
        ({"arches": ["arm64", "amd64"]}, {}, (), True),
        ({"arches": ["arm64"]}, {}, (), False),
        ({}, {"arches": ["arm64"]}, (), True),
        ({}, {"arches": ["amd64", "arm64"]}, (), False),
        ({"minKernel": "6.1"}, {}, (), True),
        ({"minKernel": "6.2"}, {}, (), False),
        ({"minKernel": "5.19"}, {}, (), True),
        ({"minKernel": "10.0"}, {}, (), False),
        ({}, {"minKernel": "6.1"}, (), False),
        ({}, {"minKernel": "6.2"}, (), True),
        ({"arches": ["amd64"], "caps": ["CAP_BPF"]}, {}, (), False),
        (None, None, (), True),
    ],
)
def test_conditionals(includes: Any, excludes: Any, caps: tuple[str, ...], applies: bool) -> None:
    profile = read(with_rule(names=["read"], includes=includes, excludes=excludes), caps)
    assert bool(profile.rules) is applies
    assert profile.named == ("read",)


def test_docker_formats_architectures_are_those_of_the_native_one() -> None:
    document = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "archMap": [
            {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"]},
            {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]},
            {"architecture": "SCMP_ARCH_RISCV64", "subArchitectures": None},
        ],
    }
    assert read(document).architectures == ("SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32")
    assert read(document, arch="aarch64").architectures == ("SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM")
    assert read(document, arch="riscv64").architectures == ("SCMP_ARCH_RISCV64",)


def test_ocis_architectures_are_added_to_the_native_one() -> None:
    document = {"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X86_64"]}
    assert read(document).architectures == ("SCMP_ARCH_X86_64", "SCMP_ARCH_X86")


@pytest.mark.parametrize(
    ("rule", "action"),
    [
        ({"action": "SCMP_ACT_KILL"}, 0),
        ({"action": "SCMP_ACT_KILL_THREAD"}, 0),
        ({"action": "SCMP_ACT_KILL_PROCESS"}, 0x80000000),
        ({"action": "SCMP_ACT_TRAP"}, 0x30000),
        ({"action": "SCMP_ACT_ERRNO"}, 0x50001),
        ({"action": "SCMP_ACT_ERRNO", "errnoRet": 38}, 0x50026),
        ({"action": "SCMP_ACT_ERRNO", "errnoRet": 0}, 0x50000),
        ({"action": "SCMP_ACT_ERRNO", "errno": "ENOSYS"}, 0x50026),
        ({"action": "SCMP_ACT_TRACE", "errnoRet": 7}, 0x7FF00007),
        ({"action": "SCMP_ACT_NOTIFY"}, 0x7FC00000),
        ({"action": "SCMP_ACT_LOG"}, 0x7FFC0000),
        ({"action": "SCMP_ACT_ALLOW"}, 0x7FFF0000),
    ],
)
def test_every_action_is_the_kernels(rule: Any, action: int) -> None:
    assert read(with_rule(names=["read"], **rule)).rules[0].action == action


@pytest.mark.parametrize(
    ("op", "holds"),
    [
        ("SCMP_CMP_EQ", (False, True, False)),
        ("SCMP_CMP_NE", (True, False, True)),
        ("SCMP_CMP_LT", (True, False, False)),
        ("SCMP_CMP_LE", (True, True, False)),
        ("SCMP_CMP_GT", (False, False, True)),
        ("SCMP_CMP_GE", (False, True, True)),
    ],
)
def test_operators_compare_all_64_bits_unsigned(op: str, holds: tuple[bool, ...]) -> None:
    value = 0x8000_0000_0000_0000
    assert tuple(Arg(2, op, value).holds((0, 0, value + step, 0, 0, 0)) for step in (-1, 0, 1)) == holds


def test_masked_equality_takes_the_mask_first() -> None:
    arg = Arg(0, "SCMP_CMP_MASKED_EQ", 0xF0, 0x20)
    assert arg.holds((0x2F, 0, 0, 0, 0, 0))
    assert not arg.holds((0x3F, 0, 0, 0, 0, 0))


def test_notes_and_comments_are_kept() -> None:
    assert read(with_rule(names=["read"], note="Why.", comment="More.")).rules[0].note == "Why. More."


def test_the_stricter_of_two_rules_that_hold_goes_first() -> None:
    conditions = (Arg(0, "SCMP_CMP_GE", 5),), (Arg(0, "SCMP_CMP_LE", 5),)
    order = [0x80000000, 0, 0x30000, 0x50001, 0x7FC00000, 0x7FF00000, 0x7FFC0000, ALLOW]
    for stricter, laxer in zip(order, order[1:], strict=False):
        for first, second in ((stricter, laxer), (laxer, stricter)):
            rules = (Rule(("read",), first, conditions[0]), Rule(("read",), second, conditions[1]))
            profile = Profile(EPERM, ("SCMP_ARCH_X86_64",), rules)
            assert decide(profile, "read", (5, 0, 0, 0, 0, 0)).result == stricter


def test_a_rule_with_conditions_goes_before_one_without() -> None:
    rules = (Rule(("read",), EPERM), Rule(("read",), ALLOW, (Arg(0, "SCMP_CMP_EQ", 1),)))
    profile = Profile(EPERM, ("SCMP_ARCH_X86_64",), rules)
    assert decide(profile, "read", (1, 0, 0, 0, 0, 0)) == (ALLOW, rules[1])
    assert decide(profile, "read") == (EPERM, rules[0])
    assert decide(profile, "write") == (EPERM, None)


def test_two_conditions_on_one_argument_are_alternatives_and_warn() -> None:
    args = [{"index": 0, "value": value, "op": "SCMP_CMP_EQ"} for value in (3, 4)]
    profile = read(with_rule(names=["read"], args=args))
    assert [decide(profile, "read", (n, 0, 0, 0, 0, 0)).result == ALLOW for n in (2, 3, 4)] == [
        False,
        True,
        True,
    ]
    assert "/syscalls/0/args" in profile.warnings[0]


def test_a_condition_that_can_never_hold_warns() -> None:
    profile = read(with_arg(op="SCMP_CMP_MASKED_EQ", value=1, valueTwo=2))
    assert profile.rules == ()
    assert "never applies" in profile.warnings[0]


def test_flags_and_listener_are_read() -> None:
    profile = read(
        {
            "defaultAction": "SCMP_ACT_ALLOW",
            "flags": ["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_TSYNC"],
            "listenerPath": "/run/l.sock",
            "listenerMetadata": "m",
        }
    )
    assert profile.flags == ("SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_TSYNC")
    assert (profile.listener_path, profile.listener_metadata) == ("/run/l.sock", "m")
