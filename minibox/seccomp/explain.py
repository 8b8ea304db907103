"""Filters for people: what happens to a call and by which rule, what differs between two, the listing.

A profile says why, a filter says what: `explain` takes the result from the compiled filter (or the one of a
live process), and the reason from the rule of the profile that decides the same. Where they do not
agree, the filter is right, and that is said.
"""

from __future__ import annotations

import errno
import os
from typing import NamedTuple

from minibox.errors import SpecError
from minibox.seccomp import decode, notify, profile, syscalls, tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Any

# uname(2)'s machine -> AUDIT_ARCH_*
MACHINES = {machine: arch for arch, machine in notify.AUDIT_ARCHES.items()}
# The ABIs that come with a machine: (name, AUDIT_ARCH_*, bits that every number has)
ABIS = {
    "x86_64": (
        ("x86_64", decode.AUDIT_ARCH_X86_64, 0),
        ("i386", decode.AUDIT_ARCH_I386, 0),
        ("x32", decode.AUDIT_ARCH_X86_64, decode.X32_SYSCALL_BIT),
    ),
    "aarch64": (("aarch64", decode.AUDIT_ARCH_AARCH64, 0), ("arm", decode.AUDIT_ARCH_ARM, 0)),
}
BEYOND = 1000  # a number that no Linux has had so far: what happens to calls that are still to come

_ALL_64, _ALL_32 = 0xFFFFFFFF_FFFFFFFF, 0xFFFFFFFF
_OPERATORS = {
    "SCMP_CMP_NE": "!=",
    "SCMP_CMP_LT": "<",
    "SCMP_CMP_LE": "<=",
    "SCMP_CMP_EQ": "==",
    "SCMP_CMP_GE": ">=",
    "SCMP_CMP_GT": ">",
}
_NEGATED = {"==": "!=", ">": "<=", ">=": "<"}

# (call, argument) -> its name in the manual page, and what some values are called there
_FAMILIES = {
    1: "AF_UNIX",
    2: "AF_INET",
    10: "AF_INET6",
    16: "AF_NETLINK",
    17: "AF_PACKET",
    38: "AF_ALG",
    40: "AF_VSOCK",
}
_PERSONALITIES = {
    0: "PER_LINUX",
    8: "PER_LINUX32",
    0x20000: "UNAME26",
    0x20008: "PER_LINUX32|UNAME26",
    _ALL_32: "ask",
}
_ARGUMENTS: dict[tuple[str, int], tuple[str, dict[int, str]]] = {
    ("ioctl", 1): ("request", {0x5412: "TIOCSTI", 0x541C: "TIOCLINUX"}),
    ("socket", 0): ("family", _FAMILIES),
    ("socketpair", 0): ("family", _FAMILIES),
    ("personality", 0): ("persona", _PERSONALITIES),
    ("clone", 0): ("flags", {}),
    ("unshare", 0): ("flags", {}),
    ("setns", 1): ("nstype", {}),
    ("prctl", 0): ("option", {}),
    ("fcntl", 1): ("cmd", {}),
    ("openat", 2): ("flags", {}),
    ("open", 1): ("flags", {}),
    ("mmap", 2): ("prot", {}),
    ("mprotect", 2): ("prot", {}),
    ("bpf", 0): ("cmd", {}),
    ("ptrace", 0): ("request", {}),
}
_CLONE_FLAGS = {
    0x00020000: "NEWNS", 0x02000000: "NEWCGROUP", 0x04000000: "NEWUTS", 0x08000000: "NEWIPC",
    0x10000000: "NEWUSER", 0x20000000: "NEWPID", 0x40000000: "NEWNET",
}  # fmt: skip


class Source(NamedTuple):
    """What is explained: filters (the first loaded first), and the profile that they come from.

    `name` is what it was called, `origin` says where the filters were read. `document` is the profile as
    JSON, `resolved` the same without conditionals; both None for filters of which no profile is known.
    `agrees` is False when the filters are not those that the profile compiles to.
    """

    name: str
    machine: str
    filters: tuple[bytes, ...]
    origin: str = ""
    document: Mapping[str, Any] | None = None
    resolved: profile.Profile | None = None
    capabilities: int = 0
    agrees: bool = True
    warnings: tuple[str, ...] = ()


class Case(NamedTuple):
    """One thing that happens to a call: when (empty: always, or otherwise), the result in words, and which
    rule says so, with its reason."""

    when: str
    result: str
    rule: str
    reason: str


class Explanation(NamedTuple):
    """All that happens to a call; the cases are read from above. `hints` say what other capabilities, kernels
    or machines would change."""

    name: str
    number: int | None
    cases: tuple[Case, ...]
    hints: tuple[str, ...] = ()


def of_profile(
    name: str, document: Mapping[str, Any], capabilities: int, *, machine: str = "", release: str = ""
) -> Source:
    """A profile (parsed JSON), compiled for the running kernel unless told otherwise. Raises ProfileError and
    CompileError."""
    from minibox.seccomp.compile import compile_profile

    running = os.uname()
    machine, release = machine or running.machine, release or running.release
    resolved = profile.resolve(document, capabilities=capabilities, arch=machine, release=release)
    compiled = compile_profile(resolved)
    return Source(
        name=name,
        machine=machine,
        filters=(compiled.bpf,),
        origin="compiled",
        document=document,
        resolved=resolved,
        capabilities=capabilities,
        warnings=compiled.warnings,
    )


def unconfined(machine: str = "") -> Source:
    """No filter at all."""
    return Source("unconfined", machine or os.uname().machine, (), "no filter: everything is allowed")


def numbers(machine: str) -> dict[str, int]:
    """The calls of a machine by name, in the order of their numbers."""
    table = {"x86_64": syscalls.X86_64, "aarch64": syscalls.AARCH64}.get(machine, syscalls.COMMON)
    return dict(sorted(table.items(), key=lambda entry: entry[1]))


def outcome(source: Source, arch: int, nr: int) -> tree.Tree:
    """What the filters together do with a call. Raises TooComplex."""
    found: tree.Tree = decode.SECCOMP_RET_ALLOW
    for bpf in source.filters:
        found = tree.combine(tree.tree(bpf, arch, nr), found)
    return found


# --- words -----------------------------------------------------------------------------------------


def argument(call: str, position: int) -> str:
    """`request` for ioctl's second argument; `arg1` where it has no name here."""
    return _ARGUMENTS.get((call, position), (f"arg{position}", {}))[0]


def _value(call: str, position: int, value: int) -> str:
    known = _ARGUMENTS.get((call, position), ("", {}))[1].get(value)
    number = str(value) if value < 10 else f"{value:#x}"
    return f"{known} ({number})" if known else number


def _mask_name(call: str, position: int, mask: int) -> str:
    names = [name for bit, name in _CLONE_FLAGS.items() if mask & bit]
    if argument(call, position) != "flags" or call not in ("clone", "unshare") or not names:
        return ""
    return "CLONE_" + "|".join(names) if mask == sum(bit for bit in _CLONE_FLAGS if mask & bit) else ""


def condition(call: str, arg: profile.Arg) -> str:
    """A condition of a profile as a person reads it."""
    if arg.op == "SCMP_CMP_MASKED_EQ":
        return test_text(call, tree.Test("==", arg.position, arg.value, arg.value_two), True)
    shown = _value(call, arg.position, arg.value)
    return f"{argument(call, arg.position)} {_OPERATORS[arg.op]} {shown}"


def test_text(call: str, test: tree.Test, truth: bool) -> str:
    """A comparison of a filter as a person reads it."""
    name = argument(call, test.position)
    if test.op == "&":
        return f"({name} & {test.value & test.mask:#x}) {'!=' if truth else '=='} 0"
    operator = test.op if truth else _NEGATED[test.op]
    value = _value(call, test.position, test.value)
    if test.mask == _ALL_64:
        return f"{name} {operator} {value}"
    if test.mask == _ALL_32:
        return f"low 32 bits of {name} {operator} {value}"
    if test.mask == _ALL_64 ^ _ALL_32:
        return f"high 32 bits of {name} {operator} {test.value >> 32:#x}"
    flags = _mask_name(call, test.position, test.mask)
    if flags and test.value == 0 and test.op == "==":
        return f"{'no' if truth else 'some'} flag of {flags}"
    return f"({name} & {test.mask:#x}) {operator} {value}"


def case_text(call: str, conditions: Iterable[tuple[tree.Test, bool]]) -> str:
    """All conditions of a case, in words."""
    return " and ".join(test_text(call, test, truth) for test, truth in conditions)


# --- explain ---------------------------------------------------------------------------------------


def explain(source: Source, name: str) -> Explanation:
    """What happens to call `name`. Raises SpecError for a name that nobody knows."""
    number = _number(source, name)
    if number is None:
        if not syscalls.is_known(name) and not _named(source, name):
            raise SpecError(
                "SYSCALL", f"no Linux up to {syscalls.LATEST} has a call {name!r}{_near(source, name)}"
            )
        return Explanation(name, None, (Case("", "does not exist", "", f"not a call of {source.machine}"),))
    arch = MACHINES[source.machine]
    by_filter = _cases_of_filter(source, arch, number, name)
    hints = _hints(source, name)
    if source.resolved is None:
        return Explanation(name, number, by_filter, hints)
    by_profile = _cases_of_profile(source, source.resolved, name, number)
    if source.agrees or _same(source, arch, name, number):
        return Explanation(name, number, by_profile, hints)
    note = "the filter in force differs from the profile here"
    return Explanation(name, number, by_filter, (note, *hints))


def explain_all(source: Source) -> list[Explanation]:
    """Every call of the machine, and one that is still to come."""
    return [explain(source, name) for name in numbers(source.machine)] + [explain(source, f"#{BEYOND}")]


def _number(source: Source, name: str) -> int | None:
    if name.startswith("#") and name[1:].isdigit():
        return int(name[1:])
    if name.isdigit():
        return int(name)
    found = numbers(source.machine).get(name)
    return found if found is not None else syscalls.number(source.machine, name)


def _named(source: Source, name: str) -> bool:
    return source.resolved is not None and name in source.resolved.named


def _near(source: Source, name: str) -> str:
    import difflib

    near = difflib.get_close_matches(name, numbers(source.machine), 1)
    return f"; did you mean {near[0]}?" if near else ""


def _cases_of_filter(source: Source, arch: int, number: int, name: str) -> tuple[Case, ...]:
    if not source.filters:
        return (Case("", "ALLOW", "", "there is no filter"),)
    try:
        found = tree.cases(outcome(source, arch, number))
    except tree.TooComplex as error:
        return (Case("", "cannot be told", "", str(error)),)
    return tuple(
        Case(
            _otherwise(case_text(name, conditions), len(found)), decode.describe_action(result), "filter", ""
        )
        for conditions, result in found
    )


def _otherwise(text: str, count: int) -> str:
    return text or ("otherwise" if count > 1 else "")


def _cases_of_profile(source: Source, resolved: profile.Profile, name: str, number: int) -> tuple[Case, ...]:
    rules = profile.rules_by_name(resolved).get(name, [])
    last = max((found for one in resolved.named if (found := _number(source, one)) is not None), default=None)
    enosys = decode.SECCOMP_RET_ERRNO | errno.ENOSYS
    errs = resolved.default & decode.SECCOMP_RET_ACTION_FULL == decode.SECCOMP_RET_ERRNO
    if errs and last is not None and number > last:
        reason = f"above {last}, the last call that the profile names: libc then falls back to an older one"
        return (Case("", decode.describe_action(enosys), "newer", reason),)
    cases = []
    for rule in rules:
        when = " and ".join(condition(name, arg) for arg in rule.args)
        cases.append((when, rule.action, rule.pointer, rule.note))
    if not rules or rules[-1].args:
        cases.append(("", resolved.default, "defaultAction", "" if rules else "no rule names it"))
    while len(cases) > 1 and cases[-2][1] == cases[-1][1] and cases[-1][2] == "defaultAction":
        cases.pop(-2)  # a condition that changes nothing
    return tuple(
        Case(_otherwise(when, len(cases)), decode.describe_action(action), rule, note)
        for when, action, rule, note in cases
    )


def _same(source: Source, arch: int, name: str, number: int) -> bool:
    """Whether filter and profile agree about a call, at all arguments that can matter."""
    from minibox.seccomp.compile import compile_profile

    if source.resolved is None:
        return False
    wanted = source._replace(filters=(compile_profile(source.resolved).bpf,))
    return not _differing(source, wanted, arch, number)


def _hints(source: Source, name: str) -> tuple[str, ...]:
    """What rules that do not apply would say of the call."""
    if source.document is None or source.resolved is None:
        return ()
    applied = {rule.pointer for rule in source.resolved.rules}
    found: list[str] = []
    for index, entry in enumerate(source.document.get("syscalls") or ()):
        names = entry.get("names") or [entry.get("name")]
        if name not in names or f"/syscalls/{index}" in applied:
            continue
        text = _missing(source, entry)
        if text:
            action = _action_text(entry)
            note = entry.get("note") or entry.get("comment") or ""
            found.append(f"{text}: {action}{f' ({note})' if note else ''}")
    return tuple(dict.fromkeys(found))


def _missing(source: Source, entry: Mapping[str, Any]) -> str:
    """Why a rule does not apply, as what would have to be; empty where it is for other machines."""
    includes, excludes = entry.get("includes") or {}, entry.get("excludes") or {}
    arches = profile.go_arches(source.machine)
    if includes.get("arches") and not set(arches) & set(includes["arches"]):
        return ""
    if set(arches) & set(excludes.get("arches") or ()):
        return ""
    have = {cap for bit, cap in enumerate(profile.CAPABILITIES) if source.capabilities >> bit & 1}
    wanted = [cap for cap in includes.get("caps") or () if cap not in have]
    unwanted = [cap for cap in excludes.get("caps") or () if cap in have]
    parts = [f"with {' and '.join(wanted)}"] if wanted else []
    parts += [f"without {' and '.join(unwanted)}"] if unwanted else []
    if not parts and includes.get("minKernel"):
        parts.append(f"on Linux {includes['minKernel']} and later")
    return " ".join(parts)


def _action_text(entry: Mapping[str, Any]) -> str:
    text = str(entry.get("action", "")).removeprefix("SCMP_ACT_")
    number = entry.get("errnoRet")
    if text == "ERRNO":
        return f"ERRNO {errno.errorcode.get(1 if number is None else number, str(number))}"
    return text + (" under conditions" if entry.get("args") else "")


def reason(what: Any, name: str, capabilities: int) -> str:
    """Why a profile ("default" or parsed JSON) refuses a call, in one line; empty where nothing is known."""
    if what == "default":
        from minibox.seccomp.default import document

        what = document()
    if not isinstance(what, dict):
        return ""
    running = os.uname()
    try:
        resolved = profile.resolve(
            what, capabilities=capabilities, arch=running.machine, release=running.release
        )
    except profile.ProfileError:
        return ""
    source = Source("", running.machine, (), document=what, resolved=resolved, capabilities=capabilities)
    notes = [rule.note for rule in profile.rules_by_name(resolved).get(name, ()) if rule.note]
    hints = [hint for hint in _hints(source, name) if hint.startswith("with ")]
    return "; ".join([*dict.fromkeys(notes), *hints][:2]) or "no rule of the profile names it"


# --- diff ------------------------------------------------------------------------------------------


class Difference(NamedTuple):
    """A call that two sources treat differently: on which ABI, when, and what each does."""

    abi: str
    name: str
    number: int
    when: str
    first: str
    second: str


def diff(first: Source, second: Source) -> list[Difference]:
    """What differs, call by call: both are asked about every number of every ABI of the machine and, where
    either looks at arguments, about all that it compares them with and the values beside those."""
    found: list[Difference] = []
    for abi, arch, bits in ABIS.get(first.machine, ((first.machine, MACHINES[first.machine], 0),)):
        name_of = _names_on(arch, bits)
        whole = _whole_abi(first, second, arch, bits)
        if whole:
            found.append(Difference(abi, "*", -1, "every call", *whole))
            continue
        for number in (*range(BEYOND // 2), BEYOND):
            nr = number | bits
            for args, one, other in _differing(first, second, arch, nr):
                name = "calls to come" if number == BEYOND else name_of(nr)
                found.append(Difference(abi, name, nr, args, one, other))
    return _grouped(found)


def _names_on(arch: int, bits: int) -> Callable[[int], str]:
    if not bits:
        return lambda nr: notify.call_name(arch, nr)
    return lambda nr: notify.call_name(arch, nr).replace(f"#{nr}", f"#{nr & ~bits}")


def _whole_abi(first: Source, second: Source, arch: int, bits: int) -> tuple[str, str] | None:
    """(what one does, what the other does) where both do one thing to every call of an ABI, and not the same;
    or where one kills or refuses it as a whole."""
    kinds = []
    for source in (first, second):
        results = set()
        for number in (*range(BEYOND // 2), BEYOND):
            try:
                results.add(outcome(source, arch, number | bits))
            except tree.TooComplex:
                return None
        kinds.append(results)
    if len(kinds[0]) == 1 and len(kinds[1]) == 1:
        one, other = next(iter(kinds[0])), next(iter(kinds[1]))
        if one != other and isinstance(one, int) and isinstance(other, int):
            return decode.describe_action(one), decode.describe_action(other)
        return None
    for kind, rest in ((0, 1), (1, 0)):
        if len(kinds[kind]) == 1 and len(kinds[rest]) > 1:
            only = next(iter(kinds[kind]))
            if isinstance(only, int) and only != decode.SECCOMP_RET_ALLOW:
                texts = (decode.describe_action(only), "has rules for its calls")
                return texts if kind == 0 else (texts[1], texts[0])
    return None


def _differing(first: Source, second: Source, arch: int, nr: int) -> list[tuple[str, str, str]]:
    """(when, what the first does, what the second does) for a call; nothing where they agree."""
    try:
        one, other = outcome(first, arch, nr), outcome(second, arch, nr)
    except tree.TooComplex as error:
        return [("", str(error), str(error))]
    if one == other:
        return []
    name = notify.call_name(arch, nr)
    if isinstance(one, int) and isinstance(other, int):
        return [("", decode.describe_action(one), decode.describe_action(other))]
    used = sorted({test.position for found in (one, other) for test in tree.tests(found)})
    found: dict[tuple[str, str], list[str]] = {}
    agree = 0
    for args in tree.interesting((one, other)):
        results = (tree.decide(one, args), tree.decide(other, args))
        if results[0] == results[1]:
            agree += 1
            continue
        key = (decode.describe_action(results[0]), decode.describe_action(results[1]))
        found.setdefault(key, []).append(
            ", ".join(f"{argument(name, place)} = {_value(name, place, args[place])}" for place in used)
        )
    many = agree or len(found) > 1
    return [(_examples(examples) if many else "", *key) for key, examples in found.items()]


def _examples(texts: Sequence[str]) -> str:
    shown = "; ".join(texts[:6])
    return f"{shown}; ..." if len(texts) > 6 else shown


def _grouped(found: list[Difference]) -> list[Difference]:
    """By ABI, then by what changes, so that a listing has headings."""
    order = {abi: place for place, abi in enumerate(dict.fromkeys(one.abi for one in found))}
    return sorted(found, key=lambda one: (order[one.abi], one.first, one.second, one.number))


# --- the listing -----------------------------------------------------------------------------------


def listing(source: Source) -> list[str]:
    """The filters as rules again, ABI by ABI, calls that are treated alike together: what libseccomp's "pfc"
    shows, in fewer lines."""
    lines: list[str] = []
    for index, bpf in enumerate(source.filters):
        if len(source.filters) > 1:
            lines.append(f"# filter {index + 1} of {len(source.filters)}")
        single = source._replace(filters=(bpf,))
        for abi, arch, bits in ABIS.get(source.machine, ((source.machine, MACHINES[source.machine], 0),)):
            lines += _listing_of(single, abi, arch, bits)
    return lines or ["# no filter: every call is allowed"]


def _listing_of(source: Source, abi: str, arch: int, bits: int) -> list[str]:
    name_of = _names_on(arch, bits)
    alike: dict[tree.Tree, list[int]] = {}
    for number in (*range(BEYOND // 2), BEYOND):
        try:
            found = outcome(source, arch, number | bits)
        except tree.TooComplex as error:
            return [f"{abi}:", f"    # {error}"]
        alike.setdefault(found, []).append(number | bits)
    beyond = outcome(source, arch, BEYOND | bits)
    if len(alike) == 1 and isinstance(beyond, int):
        return [f"{abi}: {decode.describe_action(beyond)} for every call"]
    lines = [f"{abi}:"]
    simple = [(found, held) for found, held in alike.items() if isinstance(found, int)]
    for found, held in sorted(simple, key=lambda entry: -len(entry[1])):
        unnamed = [nr for nr in held if name_of(nr).startswith("#")]
        names = [name_of(nr) for nr in held if nr not in unnamed]
        if unnamed:
            names.append(_ranges([nr & ~bits for nr in unnamed]))
        lines += [f"    {decode.describe_action(found)}:", *_wrapped(names, "        ")]
    for found, held in alike.items():
        if isinstance(found, int):
            continue
        lines.append(f"    {' '.join(name_of(nr) for nr in held)}:")
        for conditions, result in tree.cases(found):
            when = case_text(name_of(held[0]), conditions)
            lines.append(f"        {f'if {when}: ' if when else 'else: '}{decode.describe_action(result)}")
    return lines


def _ranges(held: Sequence[int]) -> str:
    """`#335-423 #470-`: numbers without names."""
    runs: list[list[int]] = []
    for number in held:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    if len(runs) > 1 and runs[-1] == [BEYOND, BEYOND] and runs[-2][1] == BEYOND // 2 - 1:
        runs.pop()
        return " ".join([*(_run(one) for one in runs[:-1]), f"#{runs[-1][0]}-"])
    return " ".join(_run(one) for one in runs)


def _run(run: Sequence[int]) -> str:
    if run[0] == BEYOND:
        return f"#{BEYOND // 2}-"
    return f"#{run[0]}" if run[0] == run[1] else f"#{run[0]}-{run[1]}"


def _wrapped(words: Sequence[str], indent: str, width: int = 100) -> list[str]:
    import textwrap

    return textwrap.wrap(
        " ".join(words), width, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False
    )
