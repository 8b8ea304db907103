"""From a Profile to a seccomp filter: libseccomp's program with a short one of our own before it.

Facts. libseccomp (seccomp_rule_add(3)) turns rules into BPF, for several architectures at once, but

- it knows no call newer than itself: `resolve_syscall` says -1 for those. By number they can be added
  to a filter that has the native architecture only, so that one is built by numbers, one for each
  foreign architecture by names, and then they are merged;
- it refuses a rule whose action is the default one (EACCES), and cannot say "all but" for a call:
  where rules of one call differ in action, which one wins depends on the order of its internal tree;
- two rules for one call are joined wrongly when they compare by order: with `<= 1` and `>=
  0x1_0000_0005` for one argument, libseccomp 2.5.4 also takes 2. On x32 it compares half of each
  register;
- a call without a rule gets the default action, EPERM, also when it is newer than the profile. libc
  falls back to an older call on ENOSYS only, so that programs break on new kernels.

What this means for us. libseccomp gets the rules without conditions: numbers, architectures and the tree
that finds a number fast. Before its program stands a prologue that, for each architecture,

1. answers ENOSYS to a number above the largest that the profile names, where the default action is an
   errno. runc does the same (libcontainer/seccomp/patchbpf);
2. decides the calls that depend on arguments, strictest rule first: `profile.decide` is the meaning;
3. allows or refuses, on foreign architectures, the calls that libseccomp cannot name.

All else falls through. The prologue looks at nothing but architecture and number unless the call is one
that depends on arguments: Linux 5.11 and later find out as they load such a filter which numbers are
always allowed, and then do not run it for them at all.

socketcall and ipc, where an architecture has them, hold many calls whose arguments are in memory, where
no filter sees them. A rule without conditions for one of those is for it in there as well. Of a rule with
conditions what is stricter holds in there always, and what is laxer never, so that nobody gets round it.
(libseccomp would allow it in there without the conditions.)

An architecture that the profile does not list kills the process: no call of it, exit included, could
be allowed, and SIGSYS names the reason. x32 numbers count as an architecture to libseccomp; with an
errno as the default they are answered ENOSYS by 1, as by a Linux without x32.
"""

from __future__ import annotations

import errno
import os
import sys
from typing import NamedTuple

from minibox.errors import MiniboxError
from minibox.seccomp import decode, profile, syscalls
from minibox.seccomp.decode import Instruction

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

# <linux/seccomp.h>, beside those that profiles name.
_FLAG_NEW_LISTENER = 1 << 3
_FLAG_TSYNC_ESRCH = 1 << 4

# SCMP_ARCH_* -> AUDIT_ARCH_*, where they differ: x32 is told from x86_64 by a bit of the number.
_SHARED_AUDIT_ARCH = {"SCMP_ARCH_X32": decode.AUDIT_ARCH_X86_64}

# Architectures with tables of their own in `syscalls`, by the name that uname(2) has for them.
_MACHINES = {
    "SCMP_ARCH_X86_64": "x86_64",
    "SCMP_ARCH_X86": "i386",
    "SCMP_ARCH_AARCH64": "aarch64",
    "SCMP_ARCH_RISCV64": "riscv64",
}

# seccomp_syscall_resolve_name(3): -1 is a name that libseccomp does not know. Other negative numbers
# stand for parts of socketcall and ipc (-101 to -299) or for calls that other architectures have.
_UNKNOWN = -1
_PARTS = {"socketcall": range(-101, -200, -1), "ipc": range(-201, -300, -1)}

_ENOSYS = decode.SECCOMP_RET_ERRNO | errno.ENOSYS

# SCMP_FLTATR_CTL_OPTIMIZE, seccomp_attr_set(3): 2 is a binary tree over the numbers.
_BINARY_TREE = 2

# How far a conditional jump reaches, less what stands around a block.
_NEAR = 250

_LD, _JA, _JEQ, _JGT, _JGE, _AND, _RET = 0x20, 0x05, 0x15, 0x25, 0x35, 0x54, 0x06
_OFFSET_NR, _OFFSET_ARCH, _OFFSET_ARGS = 0, 4, 16


class CompileError(MiniboxError):
    """A profile that cannot be made into a filter here: libseccomp is missing, too old, or refuses
    a rule."""


class Compiled(NamedTuple):
    """A filter: `bpf` is an array of struct sock_filter, `flags` are SECCOMP_FILTER_FLAG_* for
    seccomp(2)."""

    bpf: bytes
    flags: int
    warnings: tuple[str, ...]


class _Plan(NamedTuple):
    """What is to be compiled for one architecture: `rules` by libseccomp, `guards` by the prologue.

    A rule goes with the number of its call on the host's architecture, with the name on others. A
    guard is (number, rules in the order they are tried); `last` is the largest number named, or None.
    """

    arch: str
    rules: tuple[tuple[int | str, profile.Rule], ...]
    guards: tuple[tuple[int, tuple[profile.Rule, ...]], ...]
    last: int | None


def compile_profile(what: profile.Profile, *, strict: bool = False) -> Compiled:
    """Compile a resolved profile for the architectures that it lists, the first of which is the
    container's.

    A name that neither libseccomp nor the tables know is a warning, or with *strict* a ProfileError.
    Raises CompileError where libseccomp is missing or refuses, or where the filter has more than
    4,096 instructions.
    """
    library = _library()
    warnings = [*what.warnings, *_unknown_names(library, what)]
    if strict and warnings:
        raise profile.ProfileError("/syscalls", "; ".join(warnings))
    for arch in what.architectures:
        if bool(_audit_arch(library, arch) & decode.AUDIT_ARCH_LE) != (sys.byteorder == "little"):
            raise CompileError(f"a filter for {arch} cannot be compiled here: its byte order is another")
    plans = [_plan(library, what, arch) for arch in what.architectures]
    try:
        program = _with_libseccomp(library, what, plans)
    except OSError as error:
        raise CompileError(f"libseccomp refuses the profile: {error.strerror}") from error
    bpf = decode.pack(_prologue(library, what, plans)) + program
    if len(bpf) > 8 * decode.BPF_MAXINSNS:
        raise CompileError(
            f"a filter of {len(bpf) // 8} instructions; the kernel takes {decode.BPF_MAXINSNS}"
        )
    decode.unpack(bpf)
    return Compiled(bpf, _flags(what), tuple(warnings))


def _library() -> Any:
    """pyseccomp, which looks for libseccomp as it is imported."""
    try:
        import pyseccomp
    except (ImportError, OSError, RuntimeError) as error:
        raise CompileError(
            f"seccomp profiles are compiled by pyseccomp and libseccomp: {error} (Debian: libseccomp2)"
        ) from error
    return pyseccomp


def _flags(what: profile.Profile) -> int:
    flags = 0
    for name in what.flags:
        flags |= profile.FLAGS[name]
    if any(rule.action == decode.SECCOMP_RET_USER_NOTIF for rule in what.rules):
        flags |= _FLAG_NEW_LISTENER
        if flags & profile.FLAGS["SECCOMP_FILTER_FLAG_TSYNC"]:
            # The descriptor and the id of a thread that cannot follow would both be the call's result.
            flags |= _FLAG_TSYNC_ESRCH
    return flags


def _unknown_names(library: Any, what: profile.Profile) -> list[str]:
    native = _token(library, what.architectures[0])
    return [
        f"system call {name!r} is unknown to libseccomp and Linux {syscalls.LATEST}: its rule has no effect"
        for name in profile.rules_by_name(what)
        if library.resolve_syscall(native, name) == _UNKNOWN and not syscalls.is_known(name)
    ]


def _token(library: Any, arch: str) -> int:
    """libseccomp's number of an architecture."""
    token = getattr(library.Arch, arch.removeprefix("SCMP_ARCH_"), None)
    if not isinstance(token, int):
        raise CompileError(f"pyseccomp does not know {arch}")
    return token


class _Call(NamedTuple):
    """A call on an architecture: its number, None where it has none of its own; whether libseccomp
    can name it; and the call of which it is a part too (socketcall, ipc), with what that
    has as its first argument."""

    number: int | None
    nameable: bool
    part_of: str = ""
    selector: int = 0


def _call(library: Any, arch: str, name: str) -> _Call | None:
    """Look a name up; None where the architecture has no such call."""
    number = library.resolve_syscall(_token(library, arch), name)
    if number >= 0:
        return _Call(number, nameable=True)
    own = syscalls.number(_MACHINES.get(arch, ""), name)
    for whole, numbers in _PARTS.items():
        if number in numbers:
            return _Call(own, nameable=True, part_of=whole, selector=numbers[0] - number + 1)
    if number != _UNKNOWN or own is None:
        return None
    return _Call(own | decode.X32_SYSCALL_BIT if arch == "SCMP_ARCH_X32" else own, nameable=False)


def _plan(library: Any, what: profile.Profile, arch: str) -> _Plan:
    """Divide the rules between libseccomp and the prologue."""
    host = _token(library, arch) == library.system_arch()
    by_name = profile.rules_by_name(what)
    calls = {name: _call(library, arch, name) for name in (*what.named, *by_name)}
    rules: list[tuple[int | str, profile.Rule]] = []
    guards: dict[int, list[profile.Rule]] = {}
    for name, tried in by_name.items():
        call = calls[name]
        if call is None:
            continue
        rest = [rule for rule in tried if not rule.args]
        base = rest[0].action if rest else what.default
        guard = [rule for rule in tried if rule.args]
        while guard and guard[-1].action == base:
            guard.pop()
        if guard and call.part_of and profile.strictness(guard[0].action) < profile.strictness(base):
            whole = _call(library, arch, call.part_of)
            if whole and whole.number is not None:
                selected = profile.Arg(0, "SCMP_CMP_MASKED_EQ", 0xFFFFFFFF, call.selector)
                guards.setdefault(whole.number, []).append(guard[0]._replace(args=(selected,)))
        if host or call.nameable:
            key = call.number if host and not call.part_of else None
            rules += [(name if key is None else key, rule) for rule in rest if rule.action != what.default]
        else:
            guard += rest
        if guard and call.number is not None:
            guards.setdefault(call.number, []).extend(guard)
    known = [call.number for call in calls.values() if call and call.number is not None]
    ordered = tuple((number, tuple(profile.in_order(group))) for number, group in guards.items())
    return _Plan(arch, tuple(rules), ordered, max(known) if known else None)


def _with_libseccomp(library: Any, what: profile.Profile, plans: Iterable[_Plan]) -> bytes:
    """Let libseccomp compile what the plans leave to it, one filter for each architecture, and
    merge them."""
    merged: Any = None
    for plan in plans:
        part = _filter(library, what, plan)
        if merged is None:
            merged = part
        else:
            merged.merge(part)
    if merged is None:
        raise CompileError("a profile without an architecture")
    with open(os.memfd_create("seccomp"), "w+b") as file:
        merged.export_bpf(file)
        file.seek(0)
        return file.read()


def _filter(library: Any, what: profile.Profile, plan: _Plan) -> Any:
    result = library.SyscallFilter(what.default)
    # Without it, what the kernel or the allocator says arrives as ECANCELED.
    result.set_attr(library.Attr.API_SYSRAWRC, 1)
    result.set_attr(library.Attr.ACT_BADARCH, library.KILL_PROCESS)
    try:
        result.set_attr(library.Attr.CTL_OPTIMIZE, _BINARY_TREE)
    except OSError:
        pass  # libseccomp before 2.5: the same filter, as a list
    token = _token(library, plan.arch)
    if token != library.system_arch():
        result.remove_arch(library.system_arch())
        result.add_arch(token)
    for call, rule in plan.rules:
        result.add_rule(rule.action, call)
    return result


class _Label:
    """A place in the prologue, to jump to before it is known where it is."""

    def __init__(self) -> None:
        self.at = -1


class _Program:
    """Instructions whose jumps go to labels.

    A conditional jump reaches 255 instructions ahead, which a condition of a rule never exceeds; for
    all that is farther it skips an unconditional one, which has 32 bits.
    """

    def __init__(self) -> None:
        self.code: list[tuple[int, _Label | None, _Label | None, int | _Label]] = []

    def emit(self, code: int, k: int | _Label, yes: _Label | None = None, no: _Label | None = None) -> None:
        self.code.append((code, yes, no, k))

    def place(self, label: _Label) -> None:
        label.at = len(self.code)

    def go_if(self, code: int, k: int, target: _Label) -> None:
        """Jump to *target*, however far, when the comparison is true."""
        over = _Label()
        self.emit(code, k, no=over)
        self.emit(_JA, target)
        self.place(over)

    def instructions(self) -> list[Instruction]:
        done = []
        for index, (code, yes, no, k) in enumerate(self.code):
            jt, jf = ((label.at - index - 1) if label else 0 for label in (yes, no))
            done.append(Instruction(code, jt, jf, k.at - index - 1 if isinstance(k, _Label) else k))
        return done


def _prologue(library: Any, what: profile.Profile, plans: Iterable[_Plan]) -> list[Instruction]:
    """The instructions before libseccomp's program; their end is where that begins."""
    program, end = _Program(), _Label()
    sections: dict[int, tuple[_Label, list[_Plan]]] = {}
    for plan in plans:
        if plan.guards or _patch(what, plan) is not None:
            sections.setdefault(_audit_arch(library, plan.arch), (_Label(), []))[1].append(plan)
    if not sections:
        return []
    program.emit(_LD, _OFFSET_ARCH)
    for audit, (label, _) in sections.items():
        program.go_if(_JEQ, audit, label)
    program.emit(_JA, end)
    for audit, (label, group) in sections.items():
        program.place(label)
        program.emit(_LD, _OFFSET_NR)
        # x32 shares the value of x86_64 and has the larger numbers, so it goes first.
        for plan in sorted(group, key=lambda plan: plan.arch != "SCMP_ARCH_X32"):
            _section(program, end, what, plan, little=bool(audit & decode.AUDIT_ARCH_LE))
        program.emit(_JA, end)
    program.place(end)
    return program.instructions()


def _audit_arch(library: Any, arch: str) -> int:
    """AUDIT_ARCH_*, which libseccomp's numbers are but for x32."""
    return _SHARED_AUDIT_ARCH.get(arch) or _token(library, arch)


def _patch(what: profile.Profile, plan: _Plan) -> int | None:
    """The number above which ENOSYS is the answer, if any."""
    if what.default & decode.SECCOMP_RET_ACTION_FULL != decode.SECCOMP_RET_ERRNO or what.default == _ENOSYS:
        return None
    return plan.last


def _section(program: _Program, end: _Label, what: profile.Profile, plan: _Plan, *, little: bool) -> None:
    """What the prologue does for one architecture, with the number in the accumulator before and after."""
    after, last = _Label(), _patch(what, plan)
    if plan.arch == "SCMP_ARCH_X32":
        inside = _Label()
        program.emit(_JGE, decode.X32_SYSCALL_BIT, yes=inside)
        program.emit(_JA, after)
        program.place(inside)
    elif plan.arch == "SCMP_ARCH_X86_64" and "SCMP_ARCH_X32" in what.architectures:
        program.go_if(_JGE, decode.X32_SYSCALL_BIT, after)
    if last is not None:
        known = _Label()
        program.emit(_JGT, last, no=known)
        program.emit(_RET, _ENOSYS)
        program.place(known)
    for number, rules in plan.guards:
        skip, block = _Label(), _Label()
        if sum(6 * len(rule.args) + 1 for rule in rules) < _NEAR:
            program.emit(_JEQ, number, no=skip)
        else:
            program.emit(_JEQ, number, yes=block)
            program.emit(_JA, skip)
        program.place(block)
        for rule in rules:
            _guard(program, rule, little=little)
        program.emit(_JA, end)
        program.place(skip)
    program.place(after)


def _guard(program: _Program, rule: profile.Rule, *, little: bool) -> None:
    """Return the rule's action when all of its conditions hold; else go on after it."""
    fails = _Label()
    for arg in rule.args:
        _condition(program, arg, fails, little=little)
    program.emit(_RET, rule.action)
    program.place(fails)


def _condition(program: _Program, arg: profile.Arg, fails: _Label, *, little: bool) -> None:
    """Go on when the condition holds, to *fails* when not. 64 bits are two words, the upper one decides
    first."""
    base = _OFFSET_ARGS + 8 * arg.position
    low, high = (base, base + 4) if little else (base + 4, base)
    holds = _Label()
    value_high, value_low = arg.value >> 32, arg.value & 0xFFFFFFFF
    if arg.op == "SCMP_CMP_MASKED_EQ":
        for offset, mask, wanted in (
            (high, value_high, arg.value_two >> 32),
            (low, value_low, arg.value_two & 0xFFFFFFFF),
        ):
            if mask:
                program.emit(_LD, offset)
                if mask != 0xFFFFFFFF:
                    program.emit(_AND, mask)
                program.emit(_JEQ, wanted, no=fails)
        return
    program.emit(_LD, high)
    if arg.op == "SCMP_CMP_EQ":
        program.emit(_JEQ, value_high, no=fails)
        program.emit(_LD, low)
        program.emit(_JEQ, value_low, no=fails)
    elif arg.op == "SCMP_CMP_NE":
        program.emit(_JEQ, value_high, no=holds)
        program.emit(_LD, low)
        program.emit(_JEQ, value_low, yes=fails)
    elif arg.op in ("SCMP_CMP_GT", "SCMP_CMP_GE"):
        program.emit(_JGT, value_high, yes=holds)
        program.emit(_JEQ, value_high, no=fails)
        program.emit(_LD, low)
        program.emit(_JGT if arg.op == "SCMP_CMP_GT" else _JGE, value_low, no=fails)
    else:
        program.emit(_JGT, value_high, yes=fails)
        program.emit(_JEQ, value_high, no=holds)
        program.emit(_LD, low)
        program.emit(_JGE if arg.op == "SCMP_CMP_LT" else _JGT, value_low, yes=fails)
    program.place(holds)
