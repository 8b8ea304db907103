"""BPF read back: what the interpreter computes, what it refuses, and how a filter reads."""

from __future__ import annotations

import ctypes
import errno
import os
import struct

import pytest

from minibox.seccomp import decode
from minibox.seccomp.decode import Instruction as I

ALLOW = decode.SECCOMP_RET_ALLOW
ERRNO = decode.SECCOMP_RET_ERRNO
X86_64 = decode.AUDIT_ARCH_X86_64


def program(*instructions: tuple[int, int, int, int]) -> bytes:
    return decode.pack([I(*one) for one in instructions])


RETURN_A = (0x16, 0, 0, 0)
ALLOWS = (0x06, 0, 0, ALLOW)


def value_of(*instructions: tuple[int, int, int, int]) -> int:
    """What the instructions leave in A, shown as an errno: 16 bits of it."""
    finish = ((0x54, 0, 0, 0xFFFF), (0x44, 0, 0, ERRNO), RETURN_A)
    action, data = decode.evaluate(program(*instructions, *finish), X86_64, 0)
    assert action == ERRNO
    return data


def test_every_word_of_the_data_is_where_the_kernel_puts_it() -> None:
    args = (0x1111_2222, 0x3333_4444_0000_5555, 2, 3, 4, 0xFFFF_0000_0000_0007)
    words = (7, X86_64, 0x9ABC, 0x12) + tuple(half for arg in args for half in (arg & 0xFFFFFFFF, arg >> 32))
    for index, word in enumerate(words):
        bpf = program((0x20, 0, 0, 4 * index), (0x15, 0, 1, word), ALLOWS, (0x06, 0, 0, ERRNO | 1))
        assert decode.evaluate(bpf, X86_64, 7, args, 0x12_0000_9ABC) == (ALLOW, 0), index


@pytest.mark.parametrize(
    ("code", "a", "k", "expected"),
    [
        (0x04, 5, 7, 12), (0x14, 5, 7, 0xFFFE), (0x24, 5, 7, 35), (0x34, 36, 7, 5),
        (0x44, 0b1010, 0b0110, 0b1110), (0x54, 0b1010, 0b0110, 0b0010), (0xA4, 0b1010, 0b0110, 0b1100),
        (0x64, 3, 4, 48), (0x74, 48, 4, 3),
        (0x84, 1, 0, 0xFFFF),
    ],
)  # fmt: skip
def test_arithmetic_is_unsigned_and_wraps(code: int, a: int, k: int, expected: int) -> None:
    assert value_of((0x00, 0, 0, a), (code, 0, 0, k)) == expected
    if code != 0x84:
        assert value_of((0x00, 0, 0, a), (0x01, 0, 0, k), (code | 8, 0, 0, 0)) == expected


@pytest.mark.parametrize(
    ("code", "a", "k", "taken"),
    [
        (0x15, 3, 3, True), (0x15, 3, 4, False), (0x25, 4, 3, True), (0x25, 3, 3, False), (0x35, 3, 3, True),
        (0x35, 2, 3, False), (0x45, 6, 4, True), (0x45, 2, 4, False), (0x25, 0x80000000, 1, True),
    ],
)  # fmt: skip
def test_jumps_compare_unsigned(code: int, a: int, k: int, taken: bool) -> None:
    for jump in ((code, 0, 1, k), (code | 8, 0, 1, 0)):
        bpf = program((0x00, 0, 0, a), (0x01, 0, 0, k), jump, ALLOWS, (0x06, 0, 0, ERRNO | 1))
        assert (decode.evaluate(bpf, X86_64, 0)[0] == ALLOW) is taken


def test_memory_registers_and_length() -> None:
    assert value_of((0x00, 0, 0, 9), (0x02, 0, 0, 3), (0x00, 0, 0, 1), (0x60, 0, 0, 3)) == 9
    assert value_of((0x01, 0, 0, 8), (0x03, 0, 0, 15), (0x61, 0, 0, 15), (0x87, 0, 0, 0)) == 8
    assert value_of((0x00, 0, 0, 6), (0x07, 0, 0, 0), (0x00, 0, 0, 1), (0x87, 0, 0, 0)) == 6
    assert value_of((0x80, 0, 0, 0)) == 64
    assert value_of((0x81, 0, 0, 0), (0x87, 0, 0, 0)) == 64


def test_division_by_zero_in_x_kills() -> None:
    bpf = program((0x00, 0, 0, 1), (0x01, 0, 0, 0), (0x3C, 0, 0, 0), ALLOWS)
    assert decode.evaluate(bpf, X86_64, 0) == (decode.SECCOMP_RET_KILL_THREAD, 0)


def test_an_action_that_the_kernel_does_not_know_kills() -> None:
    assert decode.evaluate(program((0x06, 0, 0, 0x12340000)), X86_64, 0) == (
        decode.SECCOMP_RET_KILL_PROCESS,
        0,
    )


@pytest.mark.parametrize(
    ("bpf", "words"),
    [
        (b"", "0 bytes"),
        (b"1234567", "7 bytes"),
        (program((0x00, 0, 0, 1)), "not a return"),
        (program((0x20, 0, 0, 64), ALLOWS), "instruction 0: load of offset 64"),
        (program((0x20, 0, 0, 2), ALLOWS), "offset 2"),
        (program((0x28, 0, 0, 0), ALLOWS), "operation 0x0028"),
        (program((0x15, 1, 0, 0), ALLOWS), "jump to 2"),
        (program((0x05, 0, 0, 1), ALLOWS), "jump to 2"),
        (program((0x60, 0, 0, 16), ALLOWS), "memory word 16"),
        (program((0x60, 0, 0, 1), ALLOWS), "memory word 1 is read"),
        (program((0x15, 1, 0, 0), (0x02, 0, 0, 1), (0x60, 0, 0, 1), ALLOWS), "instruction 2: memory word 1"),
        (program((0x34, 0, 0, 0), ALLOWS), "division by zero"),
        (program((0x64, 0, 0, 32), ALLOWS), "shift by 32"),
        (program(*[ALLOWS] * 4097), "4097 instructions"),
    ],
)
def test_what_the_kernel_refuses_is_refused(bpf: bytes, words: str) -> None:
    with pytest.raises(decode.BPFError, match=words):
        decode.unpack(bpf)
    if bpf and len(bpf) % 8 == 0:
        assert seccomp_check(bpf) == errno.EINVAL


def test_what_we_accept_the_kernel_accepts() -> None:
    """Every operation code, asked of the kernel."""
    for code in range(0x100):
        bpf = program((0x02, 0, 0, 0), (0x02, 0, 0, 1), (code, 0, 0, 1 if code & 7 == 4 else 0), ALLOWS)
        try:
            decode.unpack(bpf)
        except decode.BPFError:
            assert seccomp_check(bpf) == errno.EINVAL, hex(code)
        else:
            assert seccomp_check(bpf) == 0, hex(code)


def seccomp_check(bpf: bytes) -> int:
    """Load the filter in a child; return the kernel's errno, or 0 when it took the filter."""
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(bpf, len(bpf))
    packed = struct.pack("@HP", len(bpf) // 8 & 0xFFFF, ctypes.addressof(buffer))
    prog = ctypes.create_string_buffer(packed, len(packed))
    pid = os.fork()
    if pid == 0:
        libc.prctl(38, 1, 0, 0, 0)
        failed = libc.prctl(22, 2, ctypes.c_void_p(ctypes.addressof(prog)), 0, 0)
        os._exit(ctypes.get_errno() if failed else 0)
    _, status = os.waitpid(pid, 0)
    # A filter that was taken may well kill its own child: that is a "yes".
    return os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else 0


def test_a_filter_reads_as_words() -> None:
    bpf = program(
        (0x20, 0, 0, 4), (0x15, 1, 0, X86_64), (0x06, 0, 0, 0x80000000), (0x20, 0, 0, 24),
        (0x54, 0, 0, 0xFFFFFFFF),
        (0x15, 0, 1, 0x5412), (0x06, 0, 0, ERRNO | errno.EPERM), (0x20, 0, 0, 28), (0x25, 1, 2, 3),
        (0x05, 0, 0, 0), ALLOWS, (0x06, 0, 0, 0x7FF00007),
    )  # fmt: skip
    assert decode.disassemble(bpf) == [
        "   0  A = arch",
        "   1  if (A == 0xc000003e (x86_64)) goto 3",
        "   2  return KILL_PROCESS",
        "   3  A = args[1].low",
        "   4  A &= 0xffffffff",
        "   5  if (!(A == 0x5412)) goto 7",
        "   6  return ERRNO EPERM",
        "   7  A = args[1].high",
        "   8  if (A > 3) goto 10 else goto 11",
        "   9  goto 10",
        "  10  return ALLOW",
        "  11  return TRACE 7",
    ]
