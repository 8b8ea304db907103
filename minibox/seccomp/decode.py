"""Seccomp's BPF read back: disassemble a filter, check it as the kernel does, run it for a system call.

Facts. A filter is an array of `struct sock_filter { u16 code; u8 jt, jf; u32 k; }`, 8 bytes each in
the byte order of the machine, at most 4,096 of them. It reads nothing but `struct seccomp_data { int
nr; u32 arch; u64 instruction_pointer; u64 args[6]; }`, 64 bytes, by aligned 32-bit loads, so a 64-bit
argument takes two loads and two comparisons. Jumps go forward only: every filter ends. The 32 bits it
returns are an action (the upper half) and the action's data (the lower half). Source: seccomp(2),
kernel/seccomp.c.

What this means for us. The whole language fits in a page of Python, and what a filter does can be
*asked*: for any architecture, number and arguments, without loading it and without trusting whoever
compiled it.
"""

from __future__ import annotations

import struct
import sys
from errno import errorcode
from functools import lru_cache
from typing import NamedTuple

SECCOMP_RET_KILL_PROCESS = 0x80000000
SECCOMP_RET_KILL_THREAD = 0x00000000
SECCOMP_RET_TRAP = 0x00030000
SECCOMP_RET_ERRNO = 0x00050000
SECCOMP_RET_USER_NOTIF = 0x7FC00000
SECCOMP_RET_TRACE = 0x7FF00000
SECCOMP_RET_LOG = 0x7FFC0000
SECCOMP_RET_ALLOW = 0x7FFF0000
SECCOMP_RET_ACTION_FULL = 0xFFFF0000
SECCOMP_RET_DATA = 0x0000FFFF

ACTION_NAMES = {
    SECCOMP_RET_KILL_PROCESS: "KILL_PROCESS",
    SECCOMP_RET_KILL_THREAD: "KILL_THREAD",
    SECCOMP_RET_TRAP: "TRAP",
    SECCOMP_RET_ERRNO: "ERRNO",
    SECCOMP_RET_USER_NOTIF: "NOTIFY",
    SECCOMP_RET_TRACE: "TRACE",
    SECCOMP_RET_LOG: "LOG",
    SECCOMP_RET_ALLOW: "ALLOW",
}

# <linux/audit.h>: the ELF machine, with bit 31 for 64-bit and bit 30 for little-endian.
AUDIT_ARCH_X86_64 = 0xC000003E
AUDIT_ARCH_I386 = 0x40000003
AUDIT_ARCH_AARCH64 = 0xC00000B7
AUDIT_ARCH_ARM = 0x40000028
AUDIT_ARCH_LE = 0x40000000
X32_SYSCALL_BIT = 0x40000000

_ARCH_NAMES = {
    AUDIT_ARCH_X86_64: "x86_64",
    AUDIT_ARCH_I386: "i386",
    AUDIT_ARCH_AARCH64: "aarch64",
    AUDIT_ARCH_ARM: "arm",
}

BPF_MAXINSNS = 4096
DATA_SIZE = 64

_MASK32 = 0xFFFFFFFF
_MEMORY_WORDS = 16

# The operation codes that seccomp_check_filter() and bpf_check_classic() accept, by class.
_LD_ABS, _LD_LEN, _LD_IMM, _LD_MEM = 0x20, 0x80, 0x00, 0x60
_LDX_LEN, _LDX_IMM, _LDX_MEM = 0x81, 0x01, 0x61
_ST, _STX = 0x02, 0x03
_RET_K, _RET_A = 0x06, 0x16
_TAX, _TXA = 0x07, 0x87
_JA = 0x05
_ALU = {0x00: "+", 0x10: "-", 0x20: "*", 0x30: "/", 0x40: "|", 0x50: "&", 0x60: "<<", 0x70: ">>", 0xA0: "^"}
_NEG = 0x84
_JUMPS = {0x10: "==", 0x20: ">", 0x30: ">=", 0x40: "&"}
_SOURCE_X = 0x08


class BPFError(ValueError):
    """A byte string that the kernel would not accept as a seccomp filter."""


class Instruction(NamedTuple):
    """One `struct sock_filter`."""

    code: int
    jt: int
    jf: int
    k: int


def pack(program: list[Instruction]) -> bytes:
    """Return the program as an array of `struct sock_filter` in this machine's byte order."""
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)


@lru_cache(maxsize=32)
def unpack(bpf: bytes) -> tuple[Instruction, ...]:
    """Return the instructions of *bpf*, checked as seccomp(2) checks them.

    Raises BPFError, which names the instruction: a size that is no multiple of 8, none or more than
    4,096 instructions, an operation that seccomp does not allow, a load outside of `struct
    seccomp_data`, a memory word read before it is written, a jump past the end, no return at the end.
    """
    if not bpf or len(bpf) % 8:
        raise BPFError(f"{len(bpf)} bytes are not a whole number of 8-byte instructions")
    program = tuple(Instruction(*fields) for fields in struct.iter_unpack("=HBBI", bpf))
    if len(program) > BPF_MAXINSNS:
        raise BPFError(f"{len(program)} instructions; the kernel takes {BPF_MAXINSNS}")
    for at, instruction in enumerate(program):
        fault = _fault(at, instruction, len(program))
        if fault:
            raise BPFError(f"instruction {at}: {fault}")
    if program[-1].code not in (_RET_K, _RET_A):
        raise BPFError("the last instruction is not a return")
    _check_memory(program)
    return program


def _check_memory(program: tuple[Instruction, ...]) -> None:
    """Raise BPFError where a memory word may be read that no store filled, on any way to it.

    All jumps go forward, so that one pass in order sees every way: a word is filled at an instruction
    when it is at all those that lead to it (check_load_and_stores() in net/core/filter.c).
    """
    everything = (1 << _MEMORY_WORDS) - 1
    filled_at = [everything] * (len(program) + 1)
    filled = 0
    for at, (code, jt, jf, k) in enumerate(program):
        filled &= filled_at[at]
        targets = []
        if code in (_ST, _STX):
            filled |= 1 << k
        elif code in (_LD_MEM, _LDX_MEM) and not filled >> k & 1:
            raise BPFError(f"instruction {at}: memory word {k} is read before it is written")
        elif code & 0x07 == 0x05:
            targets = [k] if code == _JA else [jt, jf]
        for target in targets:
            filled_at[at + 1 + target] &= filled
        if targets or code in (_RET_K, _RET_A):
            filled = everything


def _fault(at: int, instruction: Instruction, length: int) -> str:
    code, jt, jf, k = instruction
    kind = code & 0x07
    if code == _LD_ABS:
        return "" if k % 4 == 0 and k < DATA_SIZE else f"load of offset {k}, unaligned or outside of the data"
    if code in (_LD_MEM, _LDX_MEM, _ST, _STX):
        return "" if k < _MEMORY_WORDS else f"memory word {k} of {_MEMORY_WORDS}"
    if code in (_LD_LEN, _LD_IMM, _LDX_LEN, _LDX_IMM, _RET_K, _RET_A, _TAX, _TXA, _NEG):
        return ""
    if code == _JA:
        return "" if at + 1 + k < length else f"jump to {at + 1 + k}, past the end"
    if kind == 0x05 and code & 0xF0 in _JUMPS and not code & 0xFF00:
        return "" if at + 1 + max(jt, jf) < length else f"jump to {at + 1 + max(jt, jf)}, past the end"
    if kind == 0x04 and code & 0xF0 in _ALU and not code & 0xFF00:
        if code == 0x34 and k == 0:
            return "division by zero"
        if code in (0x64, 0x74) and k >= 32:
            return f"shift by {k}"
        return ""
    return f"operation {code:#06x} is not allowed in a seccomp filter"


def evaluate(
    bpf: bytes, arch: int, nr: int, args: tuple[int, ...] = (0, 0, 0, 0, 0, 0), ip: int = 0
) -> tuple[int, int]:
    """Run the filter for one system call, as the kernel would.

    *arch* is an AUDIT_ARCH_* value, *nr* the number (an int or its unsigned 32 bits), *args* up to
    six 64-bit registers, *ip* the instruction pointer. Returns (action, data): a SECCOMP_RET_* value
    and its 16 bits, for ERRNO the errno. An action that the kernel does not know kills the process,
    so KILL_PROCESS is returned for it. Raises BPFError for a filter that the kernel would not take.
    Source: seccomp(2), "Filters".
    """
    registers = [*args, *[0] * (6 - len(args))]
    data = struct.pack("=II7Q", nr & _MASK32, arch, ip, *(value & 0xFFFFFFFFFFFFFFFF for value in registers))
    value = _run(unpack(bpf), struct.unpack("=16I", data))
    action = value & SECCOMP_RET_ACTION_FULL
    if action not in ACTION_NAMES:
        return SECCOMP_RET_KILL_PROCESS, 0
    return action, value & SECCOMP_RET_DATA


def _run(program: tuple[Instruction, ...], data: tuple[int, ...]) -> int:
    """Interpret a checked program over the sixteen words of `struct seccomp_data`."""
    a = x = at = 0
    memory = [0] * _MEMORY_WORDS
    while True:
        code, jt, jf, k = program[at]
        at += 1
        if code == _LD_ABS:
            a = data[k // 4]
        elif code & 0x07 == 0x05:
            at += k if code == _JA else jt if _test(code, a, x if code & _SOURCE_X else k) else jf
        elif code == _RET_K:
            return k
        elif code == _RET_A:
            return a
        elif code == _NEG:
            a = -a & _MASK32
        elif code & 0x07 == 0x04:
            operand = x if code & _SOURCE_X else k
            if code & 0xF0 == 0x30 and operand == 0:
                return 0  # Division by a zero X ends a classic program with 0, here KILL_THREAD.
            a = _calculate(code & 0xF0, a, operand)
        elif code in (_LD_LEN, _LDX_LEN, _LD_IMM, _LDX_IMM, _LD_MEM, _LDX_MEM):
            value = DATA_SIZE if code & 0xE0 == 0x80 else memory[k] if code & 0xE0 == 0x60 else k
            a, x = (a, value) if code & 1 else (value, x)
        elif code == _ST:
            memory[k] = a
        elif code == _STX:
            memory[k] = x
        elif code == _TAX:
            x = a
        else:
            a = x


def _test(code: int, a: int, operand: int) -> bool:
    kind = code & 0xF0
    if kind == 0x10:
        return a == operand
    if kind == 0x20:
        return a > operand
    if kind == 0x30:
        return a >= operand
    return bool(a & operand)


def _calculate(kind: int, a: int, operand: int) -> int:
    if kind == 0x50:
        return a & operand
    if kind == 0x00:
        value = a + operand
    elif kind == 0x10:
        value = a - operand
    elif kind == 0x20:
        value = a * operand
    elif kind == 0x30:
        value = a // operand
    elif kind == 0x40:
        value = a | operand
    elif kind == 0x60:
        value = a << (operand & 31)
    elif kind == 0x70:
        value = a >> (operand & 31)
    else:
        value = a ^ operand
    return value & _MASK32


def describe_action(value: int) -> str:
    """Return a filter's 32-bit result in words: `ALLOW`, `ERRNO EPERM`, `TRACE 7`."""
    action, data = value & SECCOMP_RET_ACTION_FULL, value & SECCOMP_RET_DATA
    name = ACTION_NAMES.get(action, f"unknown action {action:#x} (kills)")
    if action == SECCOMP_RET_ERRNO:
        return f"{name} {errorcode.get(data, str(data))}"
    return f"{name} {data}" if data else name


def disassemble(bpf: bytes) -> list[str]:
    """Return one readable line for each instruction: its index, what it does, and where it goes
    from there.

    `A` is the accumulator; the words of `struct seccomp_data` have their names (`nr`, `arch`,
    `args[1].low`). Raises BPFError as unpack() does.
    """
    return [f"{at:4}  {_line(at, instruction)}" for at, instruction in enumerate(unpack(bpf))]


def _line(at: int, instruction: Instruction) -> str:
    code, jt, jf, k = instruction
    if code == _LD_ABS:
        return f"A = {_word(k)}"
    if code == _RET_K:
        return f"return {describe_action(k)}"
    if code == _JA:
        return f"goto {at + 1 + k}"
    operand = "X" if code & _SOURCE_X else _number(k)
    if code & 0x07 == 0x05:
        test = f"A {_JUMPS[code & 0xF0]} {operand}"
        yes, no = at + 1 + jt, at + 1 + jf
        if not jf:
            return f"if ({test}) goto {yes}"
        return f"if (!({test})) goto {no}" if not jt else f"if ({test}) goto {yes} else goto {no}"
    if code == _NEG:
        return "A = -A"
    if code & 0x07 == 0x04:
        return f"A {_ALU[code & 0xF0]}= {operand}"
    return {
        _LD_LEN: f"A = {DATA_SIZE}",
        _LDX_LEN: f"X = {DATA_SIZE}",
        _LD_IMM: f"A = {k:#x}",
        _LDX_IMM: f"X = {k:#x}",
        _LD_MEM: f"A = memory[{k}]",
        _LDX_MEM: f"X = memory[{k}]",
        _ST: f"memory[{k}] = A",
        _STX: f"memory[{k}] = X",
        _TAX: "X = A",
        _TXA: "A = X",
        _RET_A: "return A",
    }[code]


def _number(k: int) -> str:
    if k in _ARCH_NAMES:
        return f"{k:#x} ({_ARCH_NAMES[k]})"
    return str(k) if k < 1024 else f"{k:#x}"


def _word(offset: int) -> str:
    """Name a 32-bit word of `struct seccomp_data`."""
    if offset < 8:
        return ("nr", "arch")[offset // 4]
    low = (offset % 8 == 0) == (sys.byteorder == "little")
    half = "low" if low else "high"
    return f"instruction_pointer.{half}" if offset < 16 else f"args[{(offset - 16) // 8}].{half}"
