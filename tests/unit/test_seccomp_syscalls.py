"""The number tables agree with libseccomp where it knows a call, and with the kernel's list where it
does not."""

from __future__ import annotations

import pyseccomp
import pytest

from minibox.seccomp import syscalls

TABLES = {
    "x86_64": (pyseccomp.Arch.X86_64, syscalls.X86_64),
    "aarch64": (pyseccomp.Arch.AARCH64, syscalls.AARCH64),
}
UNKNOWN = -1


@pytest.mark.parametrize("arch", TABLES)
def test_numbers_agree_with_libseccomp(arch: str) -> None:
    token, table = TABLES[arch]
    theirs = {name: pyseccomp.resolve_syscall(token, name) for name in table}
    known = {name: number for name, number in theirs.items() if number != UNKNOWN}
    assert len(known) > 300
    assert known == {name: table[name] for name in known}


@pytest.mark.parametrize("arch", TABLES)
def test_libseccomp_knows_no_call_that_the_table_lacks(arch: str) -> None:
    token, table = TABLES[arch]
    for number in range(600):
        try:
            name = pyseccomp.resolve_syscall(token, number).decode()
        except ValueError:
            continue
        assert table.get(name) == number


@pytest.mark.parametrize("arch", TABLES)
def test_no_number_has_two_names(arch: str) -> None:
    _, table = TABLES[arch]
    assert len(set(table.values())) == len(table)
    assert all(syscalls.name(arch, number) == name for name, number in table.items())


def test_new_calls_have_one_number_everywhere() -> None:
    assert syscalls.COMMON["pidfd_send_signal"] == 424
    for name, number in syscalls.COMMON.items():
        assert syscalls.X86_64[name] == number
        assert syscalls.number("s390x", name) == number


def test_calls_newer_than_libseccomp_have_the_kernels_numbers() -> None:
    expected = {
        "uretprobe": 335, "uprobe": 336, "cachestat": 451, "fchmodat2": 452, "map_shadow_stack": 453,
        "futex_wake": 454, "futex_wait": 455, "futex_requeue": 456, "statmount": 457, "listmount": 458,
        "lsm_get_self_attr": 459, "lsm_set_self_attr": 460, "lsm_list_modules": 461, "mseal": 462,
        "setxattrat": 463, "getxattrat": 464, "listxattrat": 465, "removexattrat": 466,
        "open_tree_attr": 467, "file_getattr": 468, "file_setattr": 469,
    }  # fmt: skip
    assert {name: syscalls.X86_64[name] for name in expected} == expected
    assert max(syscalls.X86_64.values()) == max(syscalls.AARCH64.values()) == 469


def test_a_call_of_one_architecture_is_unknown_to_another() -> None:
    assert syscalls.number("aarch64", "arch_prctl") is None
    assert syscalls.number("riscv64", "riscv_hwprobe") == 258
    assert syscalls.is_known("arch_prctl")
    assert not syscalls.is_known("oepn")
