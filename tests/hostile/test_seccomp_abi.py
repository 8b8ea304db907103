"""seccomp-abi: a second ABI has other numbers for the same calls, and would pass a filter that forgets it."""

from __future__ import annotations

import platform

import pytest

from minibox.seccomp import decode

ARCHES = {
    "i386": 0x40000003, "x86_64": 0xC000003E, "arm": 0x40000028, "aarch64": 0xC00000B7, "mips": 0x8,
    "ppc64le": 0xC0000015, "riscv64": 0xC00000F3, "s390x": 0x80000016, "none": 0,
}  # fmt: skip
OWN = ARCHES.get(platform.machine(), 0)
ALLOW = (decode.SECCOMP_RET_ALLOW, 0)
pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="the probes are for x86_64")


def loaded(attack):
    container = attack.make(["true"])
    try:
        ((bpf, _flags),) = container.ctx.filters.values()
        return bpf
    finally:
        container.discard()


def test_the_loaded_filter_allows_no_foreign_number(attack):
    """The program that the kernel gets, interpreted: every number up to 600 of every architecture."""
    bpf = loaded(attack)
    allowed = [
        (name, number)
        for name, arch in ARCHES.items()
        for number in range(600)
        if arch != OWN and decode.evaluate(bpf, arch=arch, nr=number) == ALLOW
    ]
    assert allowed == []
    x32 = [number for number in range(600) if decode.evaluate(bpf, arch=OWN, nr=1 << 30 | number) == ALLOW]
    assert x32 == []
    assert decode.evaluate(bpf, arch=OWN, nr=39) == ALLOW  # getpid


@pytest.mark.parametrize("how", [{}, pytest.param({"userns": "host"}, marks=pytest.mark.root)])
def test_live_calls(attack, how):
    assert attack("/abi", "native", **how).out == "ok\n"
    assert attack("/abi", "x32", **how).out == "refused\n"
    ended = attack.sh("/abi i386; echo $?", **how)
    assert ended.out.split()[-1] == "159"  # SIGSYS


def test_without_the_filter_i386_is_there(attack):
    """x32 is refused by the kernel alone where it was built without it, as distributions' are."""
    out = attack.sh("/abi i386; echo $?", leave_out=("seccomp.load",)).out.split()
    assert out == ["ok", "0"] or out[-1] == "139"  # a kernel without IA32_EMULATION: SIGSEGV
