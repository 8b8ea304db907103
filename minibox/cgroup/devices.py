"""Which device nodes a v2 group's processes may open and make: a BPF program, assembled here.

Facts: cgroup v2 has no devices controller.  A program of type BPF_PROG_TYPE_CGROUP_DEVICE that is
attached to a group is asked at each open(2) and mknod(2) of a device node, with a context of three
32-bit words: access << 16 | type (BPF_DEVCG_*), major, minor; 0 refuses (EPERM).  Programs of the
groups above are asked too, and all have to agree.  Loading and attaching one needs CAP_SYS_ADMIN (or
CAP_BPF and CAP_NET_ADMIN) of the first user namespace.  An attached program goes with its group.

So: a rule ("c 1:3 rwm") becomes a few compares that end in "allow"; the program ends in "refuse".
The instruction set: Documentation/bpf/standardization/instruction-set.rst.
"""

from __future__ import annotations

import os
import struct

from minibox.errors import KernelError
from minibox.kernel import calls
from minibox.kernel import consts as c

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

# linux/bpf.h
BPF_PROG_LOAD, BPF_PROG_ATTACH, BPF_PROG_GET_FD_BY_ID, BPF_OBJ_GET_INFO_BY_FD, BPF_PROG_QUERY = (
    5,
    8,
    13,
    15,
    16,
)
BPF_PROG_TYPE_CGROUP_DEVICE = 15
BPF_CGROUP_DEVICE = 6
BPF_F_ALLOW_MULTI, BPF_F_REPLACE = 1 << 1, 1 << 2
BPF_DEVCG_ACC_MKNOD, BPF_DEVCG_ACC_READ, BPF_DEVCG_ACC_WRITE = 1, 2, 4
BPF_DEVCG_DEV_BLOCK, BPF_DEVCG_DEV_CHAR = 1, 2

# opcodes: class | operation | source
LDX_MEM_W = 0x61  # dst = *(u32 *)(src + off)
MOV_K, MOV_X, AND_K, RSH_K = 0xB4, 0xBC, 0x54, 0x74  # 32-bit
JNE_K, JNE_X = 0x56, 0x5E  # 32-bit: if dst != imm (src) skip off instructions
EXIT = 0x95

TYPES = {"b": BPF_DEVCG_DEV_BLOCK, "c": BPF_DEVCG_DEV_CHAR}
ACCESS = {"m": BPF_DEVCG_ACC_MKNOD, "r": BPF_DEVCG_ACC_READ, "w": BPF_DEVCG_ACC_WRITE}
#: registers: r1 context, r2 type, r3 access, r4 major, r5 minor, r6 scratch
CONTEXT, TYPE, WANTED, MAJOR, MINOR, SCRATCH = 1, 2, 3, 4, 5, 6


def instruction(code: int, dst: int = 0, src: int = 0, off: int = 0, imm: int = 0) -> bytes:
    """One struct bpf_insn."""
    return struct.pack("<BBhI", code, src << 4 | dst, off, imm & 0xFFFF_FFFF)


def assemble(rules: Iterable[str]) -> bytes:
    """The program that allows what one of the rules allows whole, and refuses the rest."""
    code = [
        instruction(LDX_MEM_W, TYPE, CONTEXT, 0),
        instruction(MOV_X, WANTED, TYPE),
        instruction(AND_K, TYPE, imm=0xFFFF),
        instruction(RSH_K, WANTED, imm=16),
        instruction(LDX_MEM_W, MAJOR, CONTEXT, 4),
        instruction(LDX_MEM_W, MINOR, CONTEXT, 8),
    ]
    for rule in rules:
        code += _rule(rule)
        if rule == "a *:* rwm":  # all is allowed, and the verifier takes no code that is never reached
            return b"".join(code)
    code += [instruction(MOV_K, 0, imm=0), instruction(EXIT)]
    return b"".join(code)


def _rule(rule: str) -> list[bytes]:
    """Compares, each of which leaves for the next rule when it fails; then "allow"."""
    kind, numbers, access = rule.split()
    major, minor = numbers.split(":")
    bits = 0
    for letter in access:
        bits |= ACCESS[letter]
    tests: list[tuple[int, int, int, int]] = []  # (code, dst, src, imm)
    if kind in TYPES:
        tests.append((JNE_K, TYPE, 0, TYPES[kind]))
    prepare: list[bytes] = []
    if bits != 7:  # every bit that is wanted has to be granted
        prepare = [instruction(MOV_X, SCRATCH, WANTED), instruction(AND_K, SCRATCH, imm=bits)]
        tests.append((JNE_X, SCRATCH, WANTED, 0))
    for register, text in ((MAJOR, major), (MINOR, minor)):
        if text != "*":
            tests.append((JNE_K, register, 0, int(text)))
    code = list(prepare)
    for place, (opcode, dst, src, imm) in enumerate(tests):
        code.append(instruction(opcode, dst, src, len(tests) - place + 1, imm))
    return [*code, instruction(MOV_K, 0, imm=1), instruction(EXIT)]


def load(rules: Iterable[str]) -> tuple[int, int]:
    """(descriptor of the loaded program, number of its instructions).  Raises KernelError."""
    program = assemble(rules)
    code = calls.ffi.new("char[]", program)
    license_text = calls.ffi.new("char[]", b"Apache-2.0")
    attributes = struct.pack(
        "<IIQQIIQII16s",
        BPF_PROG_TYPE_CGROUP_DEVICE, len(program) // 8,
        int(calls.ffi.cast("uintptr_t", code)), int(calls.ffi.cast("uintptr_t", license_text)),
        0, 0, 0, 0, 0, b"minibox_devices"[:15],
    )  # fmt: skip
    fd, _ = calls.bpf(BPF_PROG_LOAD, attributes, "BPF_PROG_LOAD of BPF_PROG_TYPE_CGROUP_DEVICE")
    os.set_inheritable(fd, False)
    return fd, len(program) // 8


def attach(directory: str, rules: Iterable[str]) -> int:
    """Put rules in force for a group, in the place of those that it has; the number of instructions.

    Replaced at once (BPF_F_REPLACE, since Linux 5.6): there is no moment without a program.
    """
    program, count = load(rules)
    group = calls.openat(c.AT_FDCWD, directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        old = [descriptor(number) for number in attached(group)]
        flags = BPF_F_ALLOW_MULTI | (BPF_F_REPLACE if old else 0)
        replaced = old[-1] if old else 0
        attributes = struct.pack("<IIIII", group, program, BPF_CGROUP_DEVICE, flags, replaced)
        calls.bpf(BPF_PROG_ATTACH, attributes, f"BPF_PROG_ATTACH to {directory}")
        for fd in old:
            os.close(fd)
    finally:
        os.close(group)
        os.close(program)
    return count


def attached(group: int) -> tuple[int, ...]:
    """The ids of the programs that are attached to a group itself, by its descriptor."""
    ids = calls.ffi.new("unsigned int[]", 64)
    attributes = struct.pack(
        "<IIIIQI4x", group, BPF_CGROUP_DEVICE, 0, 0, int(calls.ffi.cast("uintptr_t", ids)), 64
    )
    _, answer = calls.bpf(BPF_PROG_QUERY, attributes, "BPF_PROG_QUERY of BPF_CGROUP_DEVICE")
    return tuple(ids[0 : struct.unpack_from("<I", answer, 24)[0]])


def descriptor(number: int) -> int:
    """A loaded program by its id."""
    fd, _ = calls.bpf(BPF_PROG_GET_FD_BY_ID, struct.pack("<II4x", number, 0), "BPF_PROG_GET_FD_BY_ID")
    os.set_inheritable(fd, False)
    return fd


def tag(program: int) -> bytes:
    """The kernel's hash of a program's instructions."""
    info = calls.ffi.new("char[]", 256)
    attributes = struct.pack("<IIQ", program, 256, int(calls.ffi.cast("uintptr_t", info)))
    calls.bpf(BPF_OBJ_GET_INFO_BY_FD, attributes, "BPF_OBJ_GET_INFO_BY_FD")
    return bytes(calls.ffi.buffer(info)[8:16])


def holds(directory: str, rules: Iterable[str]) -> bool:
    """Whether a group has exactly the program of these rules."""
    wanted, _ = load(rules)
    group = calls.openat(c.AT_FDCWD, directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        found = [descriptor(number) for number in attached(group)]
        tags = [tag(fd) for fd in found]
        for fd in found:
            os.close(fd)
        return tags == [tag(wanted)]
    finally:
        os.close(group)
        os.close(wanted)


def lacking(mountpoint: str) -> str:
    """Why this kernel and caller have no such programs, "" when they have: asked of the top group."""
    try:
        group = calls.openat(c.AT_FDCWD, mountpoint, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        return f"{mountpoint}: {error.strerror}"
    try:
        attached(group)
    except KernelError as error:
        if error.errno == 38:
            return "this kernel has no bpf(2) (CONFIG_BPF_SYSCALL)"
        if error.errno == 22:
            return "this kernel has no BPF programs for cgroups (CONFIG_CGROUP_BPF)"
        return f"bpf(2): {error.strerror} (CAP_BPF or CAP_SYS_ADMIN of the host is needed)"
    finally:
        os.close(group)
    return ""
