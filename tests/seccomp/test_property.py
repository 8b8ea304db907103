"""Profile, compiled filter and decision tree say the same: for every number of x86_64, i386 and x32."""

from __future__ import annotations

import errno
import platform
import random

import pyseccomp
import pytest

from minibox.seccomp import compile as compile_module
from minibox.seccomp import decode, profile, syscalls, tree
from minibox.seccomp.default import document

pytestmark = pytest.mark.skipif(
    platform.machine() != "x86_64", reason="the numbers in these tests are those of x86_64"
)

ERRNO = decode.SECCOMP_RET_ERRNO
ENOSYS = ERRNO | errno.ENOSYS
BIT = decode.X32_SYSCALL_BIT
DEFAULT_CAPS = 0xA80425FB
ABIS = {
    "SCMP_ARCH_X86_64": (decode.AUDIT_ARCH_X86_64, pyseccomp.Arch.X86_64, "x86_64", 0),
    "SCMP_ARCH_X86": (decode.AUDIT_ARCH_I386, pyseccomp.Arch.X86, "i386", 0),
    "SCMP_ARCH_X32": (decode.AUDIT_ARCH_X86_64, pyseccomp.Arch.X32, "", BIT),
}
SOCKETCALL, IPC = 102, 117  # of i386: parts of both are rules of their own in libseccomp
NUMBERS = range(1000)


def numbers_of(arch: str, names: tuple[str, ...]) -> dict[int, str]:
    """number -> name, from libseccomp and, for what it does not know, from the tables."""
    _audit, token, machine, bits = ABIS[arch]
    found = {}
    for name in names:
        number = pyseccomp.resolve_syscall(token, name)
        if number < -1 and number not in range(-299, -100):  # a call of other architectures
            continue
        if number < 0:
            own = syscalls.number(machine, name)
            if own is None:
                continue
            number = own | bits
        found[number] = name
    return found


def random_registers(rng: random.Random, pools: list[list[int]]) -> tuple[int, ...]:
    return tuple(rng.choice(pool) if rng.random() < 0.8 else rng.getrandbits(64) for pool in pools)


def pools_of(what: profile.Profile, name: str) -> list[list[int]]:
    """Registers at and beside what the rules of a call compare with."""
    pools: list[set[int]] = [{0, 1, (1 << 64) - 1} for _ in range(6)]
    for rule in what.rules:
        if name in rule.names:
            for arg in rule.args:
                for value in (arg.value, arg.value_two):
                    for step in (-1, 0, 1, 1 << 32, -(1 << 32)):
                        pools[arg.position].add(value + step & (1 << 64) - 1)
    return [sorted(pool) for pool in pools]


def check(what: profile.Profile, seed: int) -> int:
    """Compare all three at every number; how many comparisons that were."""
    rng = random.Random(seed)
    bpf = compile_module.compile_profile(what).bpf
    compared = 0
    patched = what.default & decode.SECCOMP_RET_ACTION_FULL == ERRNO and what.default != ENOSYS
    for arch in what.architectures:
        audit, _token, _machine, bits = ABIS[arch]
        named = numbers_of(arch, what.named)
        last = max(named)
        for low in (*NUMBERS, 0x3FFFFFFF):
            nr = low | bits
            name = named.get(nr, "")
            if arch == "SCMP_ARCH_X86" and nr in (SOCKETCALL, IPC):
                continue
            found = tree.tree(bpf, audit, nr)
            pools = pools_of(what, name)
            for _ in range(12 if any(name in rule.names and rule.args for rule in what.rules) else 2):
                args = random_registers(rng, pools)
                if patched and nr > last:
                    expected = ENOSYS
                elif not name:
                    expected = what.default
                else:
                    expected = profile.decide(what, name, args).result
                action, data = decode.evaluate(bpf, audit, nr, args)
                where = f"{arch} {name or nr} {[hex(arg) for arg in args]}"
                assert action | data == expected, where
                assert tree.decide(found, args) == expected, where
                compared += 1
    return compared


@pytest.mark.parametrize("caps", [0, DEFAULT_CAPS, (1 << 41) - 1], ids=["none", "default", "all"])
@pytest.mark.parametrize("abis", [[], ["SCMP_ARCH_X86", "SCMP_ARCH_X32"]], ids=["native", "three ABIs"])
def test_the_default_profile(caps: int, abis: list[str]) -> None:
    what = profile.resolve(
        {**document(), "architectures": abis}, capabilities=caps, arch="x86_64", release="6.18"
    )
    assert check(what, caps) > 2000 * len(what.architectures)


@pytest.mark.parametrize("seed", range(12))
def test_random_profiles(seed: int) -> None:
    rng = random.Random(seed)
    names = [name for name in syscalls.X86_64 if name not in ("socketcall", "ipc")]
    rules = []
    for _ in range(rng.randrange(5, 60)):
        args = []
        for position in rng.sample(range(6), rng.choice((0, 0, 1, 2))):
            operator = rng.choice(profile.OPERATORS)
            value = rng.choice((0, 1, 0xFFFFFFFF, 1 << 32, rng.getrandbits(64), rng.getrandbits(16)))
            two = value & rng.getrandbits(64) if operator == "SCMP_CMP_MASKED_EQ" else 0
            args.append(profile.Arg(position, operator, value, two))
        action = rng.choice(
            (decode.SECCOMP_RET_ALLOW, ERRNO | 1, ERRNO | 13, 0x30000, 0x7FC00000, 0x7FF00003)
        )
        rules.append(profile.Rule(tuple(rng.sample(names, rng.randrange(1, 9))), action, tuple(args)))
    named = tuple(dict.fromkeys(name for rule in rules for name in rule.names))
    default = rng.choice((ERRNO | 1, ENOSYS, decode.SECCOMP_RET_ALLOW, 0x80000000))
    architectures = tuple(ABIS)[: rng.randrange(1, 4)]
    assert check(profile.Profile(default, architectures, tuple(rules), named=named), seed) > 1000


def test_a_foreign_abi_is_killed_whatever_the_number() -> None:
    what = profile.resolve(document(), capabilities=DEFAULT_CAPS, arch="x86_64", release="6.18")
    bpf = compile_module.compile_profile(what).bpf
    for nr in NUMBERS:
        assert tree.tree(bpf, decode.AUDIT_ARCH_I386, nr) == decode.SECCOMP_RET_KILL_PROCESS
        assert tree.tree(bpf, decode.AUDIT_ARCH_X86_64, nr | BIT) == ENOSYS
