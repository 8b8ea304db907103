"""Seccomp profiles: Docker's and OCI's JSON, checked, resolved for a container, and their meaning.

Facts. OCI's `linux.seccomp` is a default action, a list of architectures and a list of rules; a rule
is a set of names, an action and conditions on arguments. Docker's format adds to it what depends on
the container: `archMap` (the ABIs that come with the native one) and `includes` and `excludes` of a
rule by capabilities, architectures and kernel. Neither says what happens when two rules match.

What this means for us. `resolve` answers all conditionals, so that a `Profile` is plain: what is in it
holds. `decide` is the meaning of a Profile in Python, to which the compiled BPF must agree:

- a rule without conditions takes the place of the default action for its names;
- a rule with conditions that all hold goes before that;
- of two that hold, the stricter one goes first, which is what the kernel does with two filters:
  KILL_PROCESS, KILL_THREAD, TRAP, ERRNO, NOTIFY, TRACE, LOG, ALLOW; with equal actions the earlier;
- two conditions on the *same* argument in one rule are alternatives, as runc and crun have them,
  since libseccomp takes one comparison an argument: so `>= 5` with `<= 9` is true for everything,
  and gives a warning.

Sources: OCI runtime specification, config-linux.md, "Seccomp"; moby profiles/seccomp;
seccomp_rule_add(3); seccomp(2).
"""

from __future__ import annotations

import errno
import re
from typing import NamedTuple

from minibox.errors import SpecError
from minibox.seccomp import decode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

ACTIONS = {
    "SCMP_ACT_KILL": decode.SECCOMP_RET_KILL_THREAD,
    "SCMP_ACT_KILL_THREAD": decode.SECCOMP_RET_KILL_THREAD,
    "SCMP_ACT_KILL_PROCESS": decode.SECCOMP_RET_KILL_PROCESS,
    "SCMP_ACT_TRAP": decode.SECCOMP_RET_TRAP,
    "SCMP_ACT_ERRNO": decode.SECCOMP_RET_ERRNO,
    "SCMP_ACT_NOTIFY": decode.SECCOMP_RET_USER_NOTIF,
    "SCMP_ACT_TRACE": decode.SECCOMP_RET_TRACE,
    "SCMP_ACT_LOG": decode.SECCOMP_RET_LOG,
    "SCMP_ACT_ALLOW": decode.SECCOMP_RET_ALLOW,
}

# The actions whose lower 16 bits a profile may set: an errno, or a message for the tracer.
_WITH_DATA = (decode.SECCOMP_RET_ERRNO, decode.SECCOMP_RET_TRACE)

# <linux/err.h> MAX_ERRNO: the kernel answers a larger number with this one.
_MAX_ERRNO = 4095

OPERATORS = (
    "SCMP_CMP_NE",
    "SCMP_CMP_LT",
    "SCMP_CMP_LE",
    "SCMP_CMP_EQ",
    "SCMP_CMP_GE",
    "SCMP_CMP_GT",
    "SCMP_CMP_MASKED_EQ",
)

# <linux/seccomp.h> SECCOMP_FILTER_FLAG_*: those that a profile can name.
FLAGS = {
    "SECCOMP_FILTER_FLAG_TSYNC": 1 << 0,
    "SECCOMP_FILTER_FLAG_LOG": 1 << 1,
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW": 1 << 2,
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV": 1 << 5,
}


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


ARCHITECTURES = tuple(
    f"SCMP_ARCH_{name}"
    for name in _words(
        """X86 X86_64 X32 ARM AARCH64 LOONGARCH64 M68K MIPS MIPS64 MIPS64N32 MIPSEL MIPSEL64 MIPSEL64N32
        PPC PPC64 PPC64LE S390 S390X SH SHEB PARISC PARISC64 RISCV64"""
    )
)

# uname(2)'s machine -> the architecture in a profile, and the names that Docker's `arches` have for it.
_MACHINES: dict[str, tuple[str, tuple[str, ...]]] = {
    "x86_64": ("SCMP_ARCH_X86_64", ("amd64",)),
    "i386": ("SCMP_ARCH_X86", ("386", "x86")),
    "i486": ("SCMP_ARCH_X86", ("386", "x86")),
    "i586": ("SCMP_ARCH_X86", ("386", "x86")),
    "i686": ("SCMP_ARCH_X86", ("386", "x86")),
    "aarch64": ("SCMP_ARCH_AARCH64", ("arm64",)),
    "armv6l": ("SCMP_ARCH_ARM", ("arm",)),
    "armv7l": ("SCMP_ARCH_ARM", ("arm",)),
    "armv8l": ("SCMP_ARCH_ARM", ("arm",)),
    "loongarch64": ("SCMP_ARCH_LOONGARCH64", ("loong64",)),
    "ppc64": ("SCMP_ARCH_PPC64", ("ppc64",)),
    "ppc64le": ("SCMP_ARCH_PPC64LE", ("ppc64le",)),
    "riscv64": ("SCMP_ARCH_RISCV64", ("riscv64",)),
    "s390x": ("SCMP_ARCH_S390X", ("s390x",)),
}

# What a profile may write in `arches`: Go's names, and those that Docker's own profile uses beside them.
_GO_ARCHES = _words(
    """386 amd64 arm arm64 loong64 mips mips64 mips64le mips64n32 mipsle mipsel mipsel64 mipsel64n32
    parisc parisc64 ppc ppc64 ppc64le riscv64 s390 s390x x32 x86"""
)

# In the order of their numbers: capabilities(7). Here once more because minibox.kernel needs the native
# module, and a profile can be read and judged without it.
CAPABILITIES = tuple(
    f"CAP_{name}"
    for name in _words(
        """CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE
        NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO
        SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME
        SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG
        WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE"""
    )
)

_UINT64 = (1 << 64) - 1

_TOP_KEYS = _words(
    """defaultAction defaultErrnoRet defaultErrno architectures archMap syscalls flags listenerPath
    listenerMetadata comment note"""
)
_RULE_KEYS = _words("names name action errnoRet errno args includes excludes comment note")
_ARG_KEYS = _words("index value valueTwo op")
_FILTER_KEYS = _words("caps arches minKernel")
_ARCH_KEYS = _words("architecture subArchitectures")


class ProfileError(SpecError):
    """A profile that cannot be used: `pointer` is a JSON pointer (RFC 6901) to the place in it."""


class Arg(NamedTuple):
    """A condition on one argument, all six of which the kernel gives as unsigned 64-bit registers.

    For SCMP_CMP_MASKED_EQ `value` is the mask and `value_two` what must remain; else `value` is what
    the argument is compared with.
    """

    position: int
    op: str
    value: int
    value_two: int = 0

    def holds(self, args: tuple[int, ...]) -> bool:
        """Whether the condition is true of these six registers."""
        have = args[self.position] & _UINT64
        if self.op == "SCMP_CMP_MASKED_EQ":
            return have & self.value == self.value_two
        if self.op == "SCMP_CMP_EQ":
            return have == self.value
        if self.op == "SCMP_CMP_NE":
            return have != self.value
        if self.op == "SCMP_CMP_LT":
            return have < self.value
        if self.op == "SCMP_CMP_LE":
            return have <= self.value
        if self.op == "SCMP_CMP_GT":
            return have > self.value
        return have >= self.value


class Rule(NamedTuple):
    """What happens to some system calls when all of `args` hold.

    `action` is the filter's whole result, a SECCOMP_RET_* with its data; `note` is what the profile
    says about the rule, for people; `pointer` is where in the profile it stands.
    """

    names: tuple[str, ...]
    action: int
    args: tuple[Arg, ...] = ()
    note: str = ""
    pointer: str = ""


class Profile(NamedTuple):
    """A profile without conditionals.

    `default` is the result for calls without a rule; `architectures` are SCMP_ARCH_* names, the native
    one first; `flags` are names of FLAGS; `named` is every name in the document, those whose conditions
    are not met included: a number above the largest of them is one its author did not know.
    """

    default: int
    architectures: tuple[str, ...]
    rules: tuple[Rule, ...] = ()
    flags: tuple[str, ...] = ()
    named: tuple[str, ...] = ()
    listener_path: str = ""
    listener_metadata: str = ""
    warnings: tuple[str, ...] = ()


class Decision(NamedTuple):
    """What a profile does to a call: the result (SECCOMP_RET_* with data) and the rule, None for the
    default."""

    result: int
    rule: Rule | None


def strictness(result: int) -> int:
    """Order filter results as the kernel does, strictest first: the action as a signed 32-bit number."""
    action = result & decode.SECCOMP_RET_ACTION_FULL
    return action - (1 << 32) if action & 0x80000000 else action


def rules_by_name(profile: Profile) -> dict[str, list[Rule]]:
    """Return the rules of each name in the order in which `decide` tries them: those with conditions,
    strictest first, then at most one without."""
    found: dict[str, list[Rule]] = {}
    for rule in profile.rules:
        for name in rule.names:
            found.setdefault(name, []).append(rule)
    return {name: in_order(rules) for name, rules in found.items()}


def in_order(rules: list[Rule]) -> list[Rule]:
    """Order the rules of one call as `decide` tries them, without those that it never reaches."""
    rules = sorted(rules, key=lambda rule: (not rule.args, strictness(rule.action)))
    first = next((index for index, rule in enumerate(rules) if not rule.args), len(rules))
    return rules[: first + 1]


def decide(profile: Profile, name: str, args: tuple[int, ...] = (0, 0, 0, 0, 0, 0)) -> Decision:
    """Say what the profile does to call *name* with these six registers, and which rule says so.

    This is the profile as written, for its own architectures and for names that it knows. The compiled
    filter answers ENOSYS for numbers above those named, and refuses other architectures.
    """
    for rule in in_order([rule for rule in profile.rules if name in rule.names]):
        if all(arg.holds(args) for arg in rule.args):
            return Decision(rule.action, rule)
    return Decision(profile.default, None)


def go_arches(machine: str) -> tuple[str, ...]:
    """What a rule's `arches` may call a machine, which is named as by uname(2)."""
    return _MACHINES[machine][1] if machine in _MACHINES else ()


def resolve(
    document: Mapping[str, object], *, capabilities: int, arch: str, release: str, at: str = ""
) -> Profile:
    """Validate a profile in Docker's or OCI's format and answer its conditionals.

    *document* is the parsed JSON; *capabilities* the container's bounding set, a mask by capability
    number; *arch* the machine and *release* the kernel release as uname(2) gives them; *at* a JSON
    pointer to put before those of errors (`/linux/seccomp`). The whole document is checked, including
    the rules that do not apply. Raises ProfileError.
    """
    return _Reader(capabilities, arch, release, at).profile(document)


class _Reader:
    """Reads one document; a method for each kind of object in it."""

    def __init__(self, capabilities: int, arch: str, release: str, at: str) -> None:
        if arch not in _MACHINES:
            raise ProfileError(at or "/", f"no seccomp architecture is known for machine {arch!r}")
        version = re.match(r"(\d+)\.(\d+)", release)
        if not version:
            raise ProfileError(at or "/", f"{release!r} does not begin like a kernel release (6.18)")
        self.at = at
        self.caps = {name for bit, name in enumerate(CAPABILITIES) if capabilities >> bit & 1}
        self.native, self.arches = _MACHINES[arch]
        self.kernel = (int(version[1]), int(version[2]))
        self.warnings: list[str] = []

    def profile(self, document: Mapping[str, object]) -> Profile:
        top = _object(document, self.at, _TOP_KEYS)
        if "defaultAction" not in top:
            raise ProfileError(f"{self.at}/defaultAction", "missing")
        default = _action(top, self.at, "defaultAction", "defaultErrnoRet", "defaultErrno")
        if default & decode.SECCOMP_RET_ACTION_FULL == decode.SECCOMP_RET_USER_NOTIF:
            raise ProfileError(
                f"{self.at}/defaultAction",
                "SCMP_ACT_NOTIFY as the default would stop the runtime itself before it hands over the "
                "listener",
            )
        for key in ("comment", "note"):
            _string(top.get(key, ""), f"{self.at}/{key}")
        rules: list[Rule] = []
        named: dict[str, None] = {}
        for index, item in enumerate(_list(top.get("syscalls"), f"{self.at}/syscalls")):
            pointer = f"{self.at}/syscalls/{index}"
            applies, rule = self.rule(item, pointer)
            named.update(dict.fromkeys(rule.names))
            if applies:
                rules += self.alternatives(rule)
        return Profile(
            default=default,
            architectures=self.architectures(top),
            rules=tuple(rules),
            flags=tuple(_choices(top.get("flags"), f"{self.at}/flags", FLAGS, "filter flag")),
            named=tuple(named),
            listener_path=_string(top.get("listenerPath", ""), f"{self.at}/listenerPath"),
            listener_metadata=_string(top.get("listenerMetadata", ""), f"{self.at}/listenerMetadata"),
            warnings=tuple(self.warnings),
        )

    def architectures(self, top: Mapping[str, object]) -> tuple[str, ...]:
        """The native architecture, then those that the profile adds to it."""
        listed = _choices(top.get("architectures"), f"{self.at}/architectures", ARCHITECTURES, "architecture")
        entries = _list(top.get("archMap"), f"{self.at}/archMap")
        if listed and entries:
            raise ProfileError(f"{self.at}/archMap", "use either architectures or archMap")
        for index, item in enumerate(entries):
            pointer = f"{self.at}/archMap/{index}"
            entry = _object(item, pointer, _ARCH_KEYS)
            main = _choice(
                entry.get("architecture"), f"{pointer}/architecture", ARCHITECTURES, "architecture"
            )
            others = _choices(
                entry.get("subArchitectures"), f"{pointer}/subArchitectures", ARCHITECTURES, "architecture"
            )
            if main == self.native:
                listed += others
        return tuple(dict.fromkeys([self.native, *listed]))

    def rule(self, item: object, pointer: str) -> tuple[bool, Rule]:
        """Read one entry of `syscalls`: whether its conditions are met, and what it says."""
        entry = _object(item, pointer, _RULE_KEYS)
        if "action" not in entry:
            raise ProfileError(f"{pointer}/action", "missing")
        includes = self.condition(entry.get("includes"), f"{pointer}/includes")
        excludes = self.condition(entry.get("excludes"), f"{pointer}/excludes")
        args = _list(entry.get("args"), f"{pointer}/args")
        rule = Rule(
            names=_names(entry, pointer),
            action=_action(entry, pointer, "action", "errnoRet", "errno"),
            args=tuple(_arg(arg, f"{pointer}/args/{index}") for index, arg in enumerate(args)),
            note=" ".join(
                filter(None, (_string(entry.get(key, ""), f"{pointer}/{key}") for key in ("note", "comment")))
            ),
            pointer=pointer,
        )
        return all(includes) and not any(excludes), rule

    def condition(self, item: object, pointer: str) -> list[bool]:
        """Read `includes` or `excludes`: one truth for each capability, for the architecture, for
        the kernel.

        To include, all must be true, so every capability is needed; to exclude, one is enough.
        """
        if item is None:
            return []
        entry = _object(item, pointer, _FILTER_KEYS)
        truths = [
            cap in self.caps
            for cap in _choices(entry.get("caps"), f"{pointer}/caps", CAPABILITIES, "capability")
        ]
        arches = _choices(entry.get("arches"), f"{pointer}/arches", _GO_ARCHES, "architecture")
        if arches:
            truths.append(any(name in arches for name in self.arches))
        minimum = entry.get("minKernel")
        if minimum is not None:
            text = _string(minimum, f"{pointer}/minKernel")
            version = re.fullmatch(r"(\d+)\.(\d+)", text)
            if not version and text:
                raise ProfileError(f"{pointer}/minKernel", f"{text!r} is not of the form 4.8")
            if version:
                truths.append(self.kernel >= (int(version[1]), int(version[2])))
        return truths

    def alternatives(self, rule: Rule) -> list[Rule]:
        """Split a rule with two conditions on one argument, and leave out what can never be true."""
        positions = [arg.position for arg in rule.args]
        split = [rule]
        if len(set(positions)) < len(positions):
            self.warnings.append(
                f"{rule.pointer}/args: conditions on the same argument are alternatives (OR), not a range"
            )
            split = [rule._replace(args=(arg,)) for arg in rule.args]
        return [one for one in split if self.possible(one)]

    def possible(self, rule: Rule) -> bool:
        for arg in rule.args:
            if arg.op == "SCMP_CMP_MASKED_EQ" and arg.value_two & ~arg.value:
                self.warnings.append(
                    f"{rule.pointer}/args: {arg.value_two:#x} has bits outside of the mask {arg.value:#x}, "
                    "so the rule never applies (value is the mask, valueTwo the result)"
                )
                return False
        return True


def _names(entry: Mapping[str, object], pointer: str) -> tuple[str, ...]:
    """`names`, or `name` of Docker's first format."""
    if "name" in entry and "names" in entry:
        raise ProfileError(f"{pointer}/name", "use either name or names")
    if "name" in entry:
        items, place = [entry["name"]], f"{pointer}/name"
    else:
        items, place = _list(entry.get("names"), f"{pointer}/names"), f"{pointer}/names"
    if not items:
        raise ProfileError(place, "at least one system call must be named")
    names = []
    for index, item in enumerate(items):
        name = _string(item, f"{place}/{index}")
        if not re.fullmatch(r"[A-Za-z0-9_]+", name):
            raise ProfileError(f"{place}/{index}", f"{name!r} is not a name of a system call")
        names.append(name)
    return tuple(dict.fromkeys(names))


def _arg(item: object, pointer: str) -> Arg:
    entry = _object(item, pointer, _ARG_KEYS)
    for key in ("index", "value", "op"):
        if key not in entry:
            raise ProfileError(f"{pointer}/{key}", "missing")
    op = _choice(entry["op"], f"{pointer}/op", OPERATORS, "operator")
    return Arg(
        position=_integer(entry["index"], f"{pointer}/index", 5),
        op=op,
        value=_integer(entry["value"], f"{pointer}/value", _UINT64),
        value_two=_integer(entry.get("valueTwo", 0), f"{pointer}/valueTwo", _UINT64),
    )


def _action(entry: Mapping[str, object], pointer: str, key: str, number_key: str, name_key: str) -> int:
    """Read an action with its errno, given as a number (OCI, Docker) or as a name (Podman)."""
    name = _choice(entry[key], f"{pointer}/{key}", ACTIONS, "action")
    action = ACTIONS[name]
    data = entry.get(number_key)
    symbol = entry.get(name_key)
    for given, place in ((data, number_key), (symbol, name_key)):
        if given not in (None, "") and action not in _WITH_DATA:
            raise ProfileError(f"{pointer}/{place}", f"{name} takes no errno")
    if action not in _WITH_DATA:
        return action
    if data is not None:
        limit = _MAX_ERRNO if action == decode.SECCOMP_RET_ERRNO else decode.SECCOMP_RET_DATA
        return action | _integer(data, f"{pointer}/{number_key}", limit)
    if symbol:
        text = _choice(symbol, f"{pointer}/{name_key}", errno.errorcode.values(), "errno")
        return action | int(getattr(errno, text))
    return action | errno.EPERM


def _object(item: object, pointer: str, keys: Collection[str]) -> Mapping[str, object]:
    if not isinstance(item, dict):
        raise ProfileError(pointer or "/", f"an object is wanted, not {_kind(item)}")
    for key in item:
        if key not in keys:
            raise ProfileError(f"{pointer}/{_escape(str(key))}", f"unknown key (known: {', '.join(keys)})")
    return item


def _list(item: object, pointer: str) -> list[object]:
    """A list; null, which Docker's own files use, is an empty one."""
    if item is None:
        return []
    if not isinstance(item, list):
        raise ProfileError(pointer, f"a list is wanted, not {_kind(item)}")
    return item


def _string(item: object, pointer: str) -> str:
    if not isinstance(item, str):
        raise ProfileError(pointer, f"a string is wanted, not {_kind(item)}")
    return item


def _integer(item: object, pointer: str, limit: int) -> int:
    if isinstance(item, bool) or not isinstance(item, int):
        raise ProfileError(pointer, f"an integer is wanted, not {_kind(item)}")
    if not 0 <= item <= limit:
        raise ProfileError(pointer, f"{item} is not between 0 and {limit}")
    return item


def _choice(item: object, pointer: str, known: Collection[str], what: str) -> str:
    text = _string(item, pointer)
    if text not in known:
        raise ProfileError(pointer, f"unknown {what} {text!r}")
    return text


def _choices(item: object, pointer: str, known: Collection[str], what: str) -> list[str]:
    items = enumerate(_list(item, pointer))
    return [_choice(one, f"{pointer}/{index}", known, what) for index, one in items]


def _kind(item: object) -> str:
    if item is None:
        return "null"
    names = {bool: "a boolean", dict: "an object", list: "a list", str: "a string", int: "an integer"}
    return names.get(type(item), f"a {type(item).__name__}")


def _escape(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")
