"""Compiled filters do what the profile says: for every number, on every architecture, for awkward
arguments."""

from __future__ import annotations

import errno
import random
import sys
from typing import Any

import pyseccomp
import pytest

from minibox.seccomp import compile as compile_module
from minibox.seccomp import decode, syscalls
from minibox.seccomp.compile import CompileError, compile_profile
from minibox.seccomp.profile import OPERATORS, Arg, Profile, ProfileError, Rule, decide, resolve

ALLOW = decode.SECCOMP_RET_ALLOW
ERRNO = decode.SECCOMP_RET_ERRNO
EPERM = ERRNO | errno.EPERM
ENOSYS = ERRNO | errno.ENOSYS
KILL = decode.SECCOMP_RET_KILL_PROCESS
X86_64, X86, X32 = "SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"

# Each has a number of its own on x86_64, x32 and i386; two are newer than libseccomp. socket and the
# like are not among them: on i386 libseccomp makes two rules of one.
NAMES = (
    "read",
    "write",
    "openat",
    "ioctl",
    "prctl",
    "clone",
    "kill",
    "getpid",
    "personality",
    "mseal",
    "statmount",
)

AUDIT = {X86_64: decode.AUDIT_ARCH_X86_64, X86: decode.AUDIT_ARCH_I386, X32: decode.AUDIT_ARCH_X86_64}
TOKEN = {X86_64: pyseccomp.Arch.X86_64, X86: pyseccomp.Arch.X86, X32: pyseccomp.Arch.X32}

pytestmark = pytest.mark.skipif(
    pyseccomp.system_arch() != pyseccomp.Arch.X86_64, reason="the numbers in these tests are those of x86_64"
)


def result(bpf: bytes, arch: int, nr: int, args: tuple[int, ...] = (0,) * 6) -> int:
    action, data = decode.evaluate(bpf, arch, nr, args)
    return action | data


def number_on(arch: str, name: str) -> int:
    number: int = pyseccomp.resolve_syscall(TOKEN[arch], name)
    if number < 0:
        number = syscalls.COMMON[name] | (decode.X32_SYSCALL_BIT if arch == X32 else 0)
    return number


def expected(profile: Profile, arch: str, nr: int, args: tuple[int, ...]) -> int:
    """The filter's result, straight from the definitions in profile.py and compile.py."""
    numbers = {number_on(arch, name): name for name in profile.named}
    patched = profile.default & 0xFFFF0000 == ERRNO and profile.default != ENOSYS
    if patched and nr > max(numbers):
        return ENOSYS
    if nr not in numbers:
        return profile.default
    return decide(profile, numbers[nr], args).result


def random_profile(rng: random.Random, architectures: tuple[str, ...]) -> Profile:
    actions = [ALLOW, EPERM, ERRNO | errno.ENOENT, KILL, 0, 0x30000, 0x7FF00007, 0x7FFC0000]
    values = [0, 1, 5, 0x5412, 0xFFFFFFFF, 1 << 32, (1 << 32) + 5, (1 << 63), (1 << 64) - 1]
    rules = []
    for _ in range(rng.randrange(1, 14)):
        args = []
        for index in rng.sample(range(6), rng.choice((0, 0, 1, 1, 1, 2, 3))):
            op = rng.choice(OPERATORS)
            value = rng.choice((rng.choice(values), rng.getrandbits(64)))
            two = value & rng.choice(values) if op == "SCMP_CMP_MASKED_EQ" else 0
            args.append(Arg(index, op, value, two))
        names = tuple(rng.sample(NAMES, rng.randrange(1, 3)))
        rules.append(Rule(names, rng.choice(actions[: rng.choice((2, 8))]), tuple(args)))
    named = tuple(dict.fromkeys(name for rule in rules for name in rule.names))
    default = rng.choice((EPERM, ENOSYS, ALLOW, KILL, 0x7FFC0000))
    return Profile(default, architectures, tuple(rules), named=named)


def awkward_arguments(rng: random.Random, profile: Profile, wide: bool) -> list[tuple[int, ...]]:
    """Register values at, beside and 32 bits away from those that the rules compare with."""
    points = {0, 1, (1 << 64) - 1}
    for rule in profile.rules:
        for arg in rule.args:
            for value in (arg.value, arg.value_two):
                points |= {value + step & (1 << 64) - 1 for step in (-1, 0, 1, 1 << 32, -1 << 32)}
    pool = sorted(points if wide else {point & 0xFFFFFFFF for point in points})
    return [tuple(rng.choice(pool) for _ in range(6)) for _ in range(12)]


@pytest.mark.parametrize("architectures", [(X86_64,), (X86_64, X86), (X86_64, X86, X32), (X86_64, X32)])
def test_the_filter_agrees_with_the_profile(architectures: tuple[str, ...]) -> None:
    rng = random.Random(20240607 + len(architectures))
    for round_ in range(150):
        profile = random_profile(rng, architectures)
        bpf = compile_profile(profile).bpf
        for arch in architectures:
            base = decode.X32_SYSCALL_BIT if arch == X32 else 0
            numbers = {number_on(arch, name) for name in NAMES} | {base + n for n in (3, 400, 470, 600)}
            for nr in sorted(numbers):
                for args in awkward_arguments(rng, profile, arch != X86):
                    assert result(bpf, AUDIT[arch], nr, args) == expected(profile, arch, nr, args), (
                        f"round {round_}: {arch} {nr} {[hex(arg) for arg in args]} in {profile}"
                    )


def test_the_property_is_not_vacuous() -> None:
    """The random profiles reach every action, rules in conflict, and several results for one call."""
    rng = random.Random(20240608)
    profiles = [random_profile(rng, (X86_64,)) for _ in range(150)]
    assert {rule.action for profile in profiles for rule in profile.rules} >= {ALLOW, EPERM, KILL, 0x30000}
    answers = [
        {decide(profile, name, args).result for args in awkward_arguments(rng, profile, True)}
        for profile in profiles
        for name in profile.named
    ]
    assert sum(len(one) > 1 for one in answers) > 100


@pytest.mark.parametrize("op", OPERATORS)
@pytest.mark.parametrize("conflict", [False, True], ids=["one action", "two actions"])
@pytest.mark.parametrize("value", [0, 5, 0xFFFFFFFF, 1 << 32, 0x1_0000_5412, (1 << 64) - 1])
def test_each_operator_at_its_borders(op: str, conflict: bool, value: int) -> None:
    arg = Arg(1, op, value, value & 0xFFFF_FFFF_0000_5412 if op == "SCMP_CMP_MASKED_EQ" else 0)
    rules = [Rule(("ioctl",), ALLOW, (arg,))]
    if conflict:
        rules.append(Rule(("ioctl",), ERRNO | errno.ENOTTY))
    profile = Profile(EPERM, (X86_64,), tuple(rules), named=("ioctl",))
    bpf = compile_profile(profile).bpf
    for step in (-(1 << 32), -1, 0, 1, 1 << 32):
        args = (0, (value + step) % (1 << 64), 0, 0, 0, 0)
        assert result(bpf, decode.AUDIT_ARCH_X86_64, 16, args) == decide(profile, "ioctl", args).result


def allow(*names: str, **more: Any) -> Profile:
    return Profile(EPERM, (X86_64,), (Rule(names, ALLOW),), named=names)._replace(**more)


def test_a_number_above_those_named_is_enosys_and_one_below_is_the_default() -> None:
    bpf = compile_profile(allow("read", "statx")).bpf
    assert result(bpf, decode.AUDIT_ARCH_X86_64, 0) == ALLOW
    assert result(bpf, decode.AUDIT_ARCH_X86_64, 331) == EPERM
    assert result(bpf, decode.AUDIT_ARCH_X86_64, 332) == ALLOW
    for nr in (333, 469, 600, 0x3FFFFFFF, 0x40000000, 0xFFFFFFFF):
        assert result(bpf, decode.AUDIT_ARCH_X86_64, nr) == ENOSYS


def test_names_whose_conditions_are_not_met_count_as_named() -> None:
    bpf = compile_profile(allow("read")._replace(named=("read", "mseal"))).bpf
    assert result(bpf, decode.AUDIT_ARCH_X86_64, 462) == EPERM
    assert result(bpf, decode.AUDIT_ARCH_X86_64, 463) == ENOSYS


@pytest.mark.parametrize("default", [ALLOW, KILL, 0x7FFC0000, 0x30000])
def test_there_is_no_enosys_where_the_default_is_not_an_errno(default: int) -> None:
    rule = Rule(("read",), ERRNO | errno.EIO)
    bpf = compile_profile(allow("read", default=default, rules=(rule,))).bpf
    assert result(bpf, decode.AUDIT_ARCH_X86_64, 600) == default
    assert result(bpf, decode.AUDIT_ARCH_X86_64, 0) == ERRNO | errno.EIO


@pytest.mark.parametrize("default", [EPERM, ALLOW])
def test_other_architectures_are_killed_and_x32_numbers_are_refused(default: int) -> None:
    rule = Rule(("read",), ALLOW if default == EPERM else EPERM)
    bpf = compile_profile(allow("read", default=default, rules=(rule,))).bpf
    for nr in (0, 3, 20, 600):
        for arch in (decode.AUDIT_ARCH_I386, decode.AUDIT_ARCH_AARCH64, 0):
            assert result(bpf, arch, nr) == KILL
        assert result(bpf, decode.AUDIT_ARCH_X86_64, 0x40000000 + nr) == (
            ENOSYS if default == EPERM else KILL
        )


def test_enosys_is_answered_on_each_architecture_above_its_own_numbers() -> None:
    bpf = compile_profile(allow("read", "getpid", architectures=(X86_64, X86, X32))).bpf
    assert result(bpf, decode.AUDIT_ARCH_I386, 20) == ALLOW
    assert result(bpf, decode.AUDIT_ARCH_I386, 19) == EPERM
    assert result(bpf, decode.AUDIT_ARCH_I386, 21) == ENOSYS
    assert result(bpf, decode.AUDIT_ARCH_X86_64, 39) == ALLOW
    assert result(bpf, decode.AUDIT_ARCH_X86_64, 40) == ENOSYS
    assert result(bpf, decode.AUDIT_ARCH_X86_64, 0x40000000 + 39) == ALLOW
    assert result(bpf, decode.AUDIT_ARCH_X86_64, 0x40000000 + 38) == EPERM
    assert result(bpf, decode.AUDIT_ARCH_X86_64, 0x40000000 + 40) == ENOSYS


def test_calls_newer_than_libseccomp_are_refused_on_foreign_architectures_too() -> None:
    rules = (Rule(("mseal",), EPERM), Rule(("statmount",), EPERM, (Arg(0, "SCMP_CMP_EQ", 1),)))
    profile = Profile(ALLOW, (X86_64, X86, X32), rules, named=("mseal", "statmount"))
    bpf = compile_profile(profile).bpf
    for arch, base in (
        (decode.AUDIT_ARCH_X86_64, 0),
        (decode.AUDIT_ARCH_I386, 0),
        (decode.AUDIT_ARCH_X86_64, 1 << 30),
    ):
        assert result(bpf, arch, base + 462) == EPERM
        assert result(bpf, arch, base + 457) == ALLOW
        assert result(bpf, arch, base + 457, (1, 0, 0, 0, 0, 0)) == EPERM


def test_socketcall_is_no_way_round_the_conditions_of_socket() -> None:
    rules = (Rule(("socket",), ALLOW, (Arg(0, "SCMP_CMP_EQ", 1),)), Rule(("listen",), ALLOW))
    profile = Profile(EPERM, (X86_64, X86), rules, named=("socket", "listen"))
    bpf = compile_profile(profile).bpf
    i386 = decode.AUDIT_ARCH_I386
    assert result(bpf, i386, 359, (1, 0, 0, 0, 0, 0)) == ALLOW
    assert result(bpf, i386, 359, (2, 0, 0, 0, 0, 0)) == EPERM
    assert result(bpf, i386, 102, (1, 0, 0, 0, 0, 0)) == EPERM
    assert result(bpf, i386, 363) == ALLOW
    assert result(bpf, i386, 102, (4, 0, 0, 0, 0, 0)) == ALLOW


def test_socketcall_is_no_way_round_a_refusal_with_conditions() -> None:
    """What a filter cannot see in memory is refused whole, where part of it is to be refused."""
    refusals = [Rule((name,), EPERM, (Arg(0, "SCMP_CMP_EQ", 40),)) for name in ("socket", "accept", "semget")]
    rules = (*refusals, Rule(("socketcall",), ERRNO | errno.EIO, (Arg(0, "SCMP_CMP_EQ", 7),)))
    names = ("socket", "accept", "semget", "socketcall")
    bpf = compile_profile(Profile(ALLOW, (X86_64, X86), rules, named=names)).bpf
    i386 = decode.AUDIT_ARCH_I386
    assert result(bpf, i386, 359, (40, 0, 0, 0, 0, 0)) == EPERM
    assert result(bpf, i386, 359, (1, 0, 0, 0, 0, 0)) == ALLOW
    answers = [result(bpf, i386, 102, (part, 0, 0, 0, 0, 0)) for part in range(1, 9)]
    assert answers == [EPERM, ALLOW, ALLOW, ALLOW, EPERM, ALLOW, ERRNO | errno.EIO, ALLOW]
    assert [result(bpf, i386, 117, (part, 0, 0, 0, 0, 0)) for part in (1, 2, 3)] == [ALLOW, EPERM, ALLOW]


def test_comparisons_by_order_are_joined_rightly() -> None:
    """libseccomp 2.5.4 compiles these two rules to a filter that allows 2 as well."""
    rules = tuple(
        Rule(("ioctl",), ALLOW, (arg,))
        for arg in (Arg(0, "SCMP_CMP_LE", 1), Arg(0, "SCMP_CMP_GE", 0x1_0000_0005))
    )
    bpf = compile_profile(Profile(EPERM, (X86_64,), rules, named=("ioctl",))).bpf
    for value, wanted in ((1, ALLOW), (2, EPERM), (0x1_0000_0004, EPERM), (0x1_0000_0005, ALLOW)):
        assert result(bpf, decode.AUDIT_ARCH_X86_64, 16, (value, 0, 0, 0, 0, 0)) == wanted


def test_a_filter_for_another_machine_can_be_compiled() -> None:
    profile = allow("openat", "mseal", architectures=("SCMP_ARCH_AARCH64",))
    bpf = compile_profile(profile).bpf
    assert result(bpf, decode.AUDIT_ARCH_AARCH64, 56) == ALLOW
    assert result(bpf, decode.AUDIT_ARCH_AARCH64, 462) == ALLOW
    assert result(bpf, decode.AUDIT_ARCH_AARCH64, 57) == EPERM
    assert result(bpf, decode.AUDIT_ARCH_AARCH64, 463) == ENOSYS
    assert result(bpf, decode.AUDIT_ARCH_X86_64, 56) == KILL


def test_the_prologue_is_right_for_big_endian_machines() -> None:
    """The lower word of an argument comes second there. libseccomp writes such a filter in that
    byte order."""
    rules = (
        Rule(("ioctl",), ALLOW),
        Rule(("ioctl",), EPERM, (Arg(1, "SCMP_CMP_MASKED_EQ", 0xFFFFFFFF, 0x5412),)),
    )
    profile = Profile(EPERM, ("SCMP_ARCH_S390X",), rules, named=("ioctl",))
    plan = compile_module._plan(pyseccomp, profile, "SCMP_ARCH_S390X")
    prologue = compile_module._prologue(pyseccomp, profile, [plan])
    at = next(index for index, instruction in enumerate(prologue) if instruction.k == 0x5412)
    assert prologue[at - 1] == (0x20, 0, 0, 16 + 8 * 1 + 4)


def test_a_filter_of_another_byte_order_is_refused() -> None:
    with pytest.raises(CompileError, match="byte order"):
        compile_profile(allow("read", architectures=(X86_64, "SCMP_ARCH_S390X")))


@pytest.mark.parametrize("rules", [300, 40])
def test_many_rules_for_one_call_stay_within_reach_of_the_jumps(rules: int) -> None:
    many = tuple(Rule(("ioctl",), EPERM, (Arg(1, "SCMP_CMP_EQ", n * 3),)) for n in range(rules))
    profile = Profile(
        EPERM, (X86_64,), (*many, Rule(("ioctl",), ALLOW), Rule(("read",), ALLOW)), named=("ioctl", "read")
    )
    bpf = compile_profile(profile).bpf
    for n in range(0, rules, 7):
        for value in (n * 3, n * 3 + 1):
            args = (0, value, 0, 0, 0, 0)
            assert result(bpf, decode.AUDIT_ARCH_X86_64, 16, args) == decide(profile, "ioctl", args).result
    assert result(bpf, decode.AUDIT_ARCH_X86_64, 0) == ALLOW


def test_a_filter_that_is_too_long_is_an_error() -> None:
    many = tuple(Rule(("ioctl",), EPERM, (Arg(1, "SCMP_CMP_EQ", n),)) for n in range(1200))
    with pytest.raises(CompileError, match="4096"):
        compile_profile(Profile(EPERM, (X86_64,), (*many, Rule(("ioctl",), ALLOW)), named=("ioctl",)))


def test_an_unknown_name_warns_and_with_strict_is_an_error() -> None:
    profile = allow("read", "oepn", "chown32", "riscv_hwprobe")
    compiled = compile_profile(profile)
    assert [warning.split("'")[1] for warning in compiled.warnings] == ["oepn"]
    with pytest.raises(ProfileError, match="oepn"):
        compile_profile(profile, strict=True)


def test_flags_are_those_of_the_kernel() -> None:
    names = (
        "SECCOMP_FILTER_FLAG_LOG",
        "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
        "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
    )
    assert compile_profile(allow("read", flags=names)).flags == 0b100110
    assert compile_profile(allow("read")).flags == 0


def test_notify_asks_for_a_listener() -> None:
    rules = (Rule(("mount",), decode.SECCOMP_RET_USER_NOTIF),)
    compiled = compile_profile(allow("mount", rules=rules))
    assert compiled.flags == 1 << 3
    assert result(compiled.bpf, decode.AUDIT_ARCH_X86_64, 165) == decode.SECCOMP_RET_USER_NOTIF
    with_tsync = compile_profile(allow("mount", rules=rules, flags=("SECCOMP_FILTER_FLAG_TSYNC",)))
    assert with_tsync.flags == 1 << 3 | 1 << 4 | 1 << 0


def test_a_missing_libseccomp_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyseccomp", None)
    with pytest.raises(CompileError, match="libseccomp2"):
        compile_profile(allow("read"))


def test_an_oci_profile_compiles_as_it_is_written() -> None:
    document = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": [X86, X32],
        "syscalls": [{"names": ["getcwd", "chmod"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13}],
    }
    bpf = compile_profile(resolve(document, capabilities=0, arch="x86_64", release="6.1")).bpf
    for arch, nr in (
        (decode.AUDIT_ARCH_X86_64, 79),
        (decode.AUDIT_ARCH_I386, 183),
        (decode.AUDIT_ARCH_I386, 15),
    ):
        assert result(bpf, arch, nr) == ERRNO | errno.EACCES
    assert result(bpf, decode.AUDIT_ARCH_X86_64, 80) == ALLOW
