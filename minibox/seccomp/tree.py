"""What a filter does with one call, for all arguments at once: its decision tree, and that in words.

Facts. `decode.evaluate` runs a filter for given arguments; there are 2**384 of them. But a filter only
ever compares words of the arguments with constants, and mostly a handful.

What this means for us. `tree` runs it with architecture and number known and the arguments unknown, and
goes both ways at each comparison. A 64-bit argument takes two comparisons, of its halves; those that
belong together are joined again, so that one reads `arg1 == 0x5412` and not what the machine does.
"""

from __future__ import annotations

import itertools
import sys
from typing import NamedTuple, TypeAlias

from minibox.seccomp import decode, profile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_HIGH, _LOW, _FULL = 0xFFFFFFFF_00000000, 0xFFFFFFFF, 0xFFFFFFFF_FFFFFFFF
_MASK32 = 0xFFFFFFFF
_MOST_STEPS = 200_000

_LD_ABS, _LD_IMM, _RET_K, _RET_A, _JA, _AND_K = 0x20, 0x00, 0x06, 0x16, 0x05, 0x54
_TESTS = {0x15: "==", 0x25: ">", 0x35: ">=", 0x45: "&"}


#: what happens to a call: a result (SECCOMP_RET_* with data), or a comparison that decides
Tree: TypeAlias = "int | Node"


class TooComplex(decode.BPFError):
    """A filter that computes with its arguments in a way that has no short description."""


class Test(NamedTuple):
    """A comparison: `args[position] & mask` with `value`; `op` is "==", ">", ">=" or "&" (any bit of
    `value` is set)."""

    op: str
    position: int
    mask: int
    value: int

    def holds(self, args: Sequence[int]) -> bool:
        """Whether it is true of these registers."""
        have = args[self.position] & self.mask
        if self.op == "==":
            return have == self.value
        if self.op == ">":
            return have > self.value
        if self.op == ">=":
            return have >= self.value
        return bool(have & self.value)


class Node(NamedTuple):
    """A comparison and what follows: results (SECCOMP_RET_* with data) or further comparisons."""

    test: Test
    yes: Tree
    no: Tree


def tree(bpf: bytes, arch: int, nr: int) -> Tree:
    """What the filter does with call *nr* (its 32 bits) on AUDIT_ARCH_* *arch*: a result, or a Node.

    Raises TooComplex where it does more with the arguments than to compare them, BPFError for what is no
    filter.
    """
    try:
        return _Walk(decode.unpack(bpf), arch, nr & _MASK32).at(0, 0)
    except RecursionError:
        raise TooComplex("the filter compares the call's arguments with hundreds of values") from None


class _Walk:
    """One symbolic run. The accumulator is a number, or (position, high half or not, mask)."""

    def __init__(self, program: tuple[decode.Instruction, ...], arch: int, nr: int) -> None:
        self.program = program
        self.known = {0: nr, 4: arch}
        self.seen: dict[tuple[int, object], Tree] = {}
        self.steps = 0

    def at(self, place: int, a: int | tuple[int, bool, int]) -> Tree:
        key = (place, a)
        if key not in self.seen:
            self.seen[key] = self.walk(place, a)
        return self.seen[key]

    def walk(self, place: int, a: int | tuple[int, bool, int]) -> Tree:
        while True:
            self.steps += 1
            if self.steps > _MOST_STEPS:
                raise TooComplex("the filter has too many ways through it")
            code, jt, jf, k = self.program[place]
            place += 1
            if code == _RET_K:
                return _result(k)
            if code == _RET_A and isinstance(a, int):
                return _result(a)
            if code == _LD_ABS:
                a = self.load(k)
            elif code == _LD_IMM:
                a = k
            elif code == _JA:
                place += k
            elif code in _TESTS and isinstance(a, int):
                place += jt if _true(code, a, k) else jf
            elif code in _TESTS and isinstance(a, tuple):
                return self.fork(a, _TESTS[code], k, place + jt, place + jf)
            elif code == _AND_K:
                a = a & k if isinstance(a, int) else (a[0], a[1], a[2] & k)
            else:
                raise TooComplex(f"instruction {place - 1} computes with what is not known")

    def load(self, offset: int) -> int | tuple[int, bool, int]:
        if offset in self.known:
            return self.known[offset]
        if offset < 16:
            raise TooComplex("the filter depends on the instruction pointer")
        second = bool((offset - 16) % 8)
        return ((offset - 16) // 8, second == (sys.byteorder == "little"), _MASK32)

    def fork(self, a: tuple[int, bool, int], op: str, k: int, yes: int, no: int) -> Tree:
        position, high, mask = a
        shift = 32 if high else 0
        test = Test(op, position, mask << shift, k << shift)
        return _node(test, self.at(yes, a), self.at(no, a))


def _true(code: int, a: int, k: int) -> bool:
    return {"==": a == k, ">": a > k, ">=": a >= k, "&": bool(a & k)}[_TESTS[code]]


def _result(value: int) -> int:
    """As the kernel takes it: an action that it does not know kills the process."""
    known = value & decode.SECCOMP_RET_ACTION_FULL in decode.ACTION_NAMES
    return value if known else decode.SECCOMP_RET_KILL_PROCESS


def _node(test: Test, yes: Tree, no: Tree) -> Tree:
    """A node, joined with the one below it where both look at halves of one argument."""
    if yes == no:
        return yes
    if test.op == "&" and test.value & (test.value - 1) == 0 and test.value:
        return _node(Test("==", test.position, test.value & test.mask, test.value), yes, no)
    if test.op == "==" and isinstance(yes, Node) and yes.no == no and _halves(test, yes.test, ("==",)):
        other = yes.test
        joined = Test("==", test.position, test.mask | other.mask, test.value | other.value)
        return Node(joined, yes.yes, no)
    if (
        test.op == ">"
        and test.mask == _HIGH
        and isinstance(no, Node)
        and no.test == Test("==", test.position, _HIGH, test.value)
        and isinstance(no.yes, Node)
        and (no.yes.yes, no.yes.no) == (yes, no.no)
        and no.yes.test.mask == _LOW
        and _halves(test, no.yes.test, (">", ">="))
    ):
        lower = no.yes.test
        return Node(Test(lower.op, test.position, _FULL, test.value | lower.value), yes, no.no)
    return Node(test, yes, no)


def _halves(first: Test, second: Test, ops: tuple[str, ...]) -> bool:
    return second.op in ops and second.position == first.position and not first.mask & second.mask


def combine(first: Tree, second: Tree) -> Tree:
    """What two filters do together: the stricter result. Source: seccomp(2), "Filters"."""
    if isinstance(first, Node):
        return _node(first.test, combine(first.yes, second), combine(first.no, second))
    if isinstance(second, Node):
        return _node(second.test, combine(first, second.yes), combine(first, second.no))
    return min(first, second, key=profile.strictness)


def decide(found: Tree, args: Sequence[int]) -> int:
    """The result for six registers."""
    while isinstance(found, Node):
        found = found.yes if found.test.holds(args) else found.no
    return found


def tests(found: Tree) -> Iterator[Test]:
    """Every comparison in a tree, some more than once."""
    stack = [found]
    seen = set()
    while stack:
        one = stack.pop()
        if isinstance(one, Node) and id(one) not in seen:
            seen.add(id(one))
            yield one.test
            stack += [one.no, one.yes]


def cases(found: Tree) -> list[tuple[tuple[tuple[Test, bool], ...], int]]:
    """A tree as a list that is read from above, the first case that holds being the one: conditions
    (test, whether it must be true), all of which hold, and the result. The last has no conditions."""
    listed: list[tuple[tuple[tuple[Test, bool], ...], int]] = []
    _list_cases(found, (), listed)
    return listed


def _list_cases(
    found: Tree,
    path: tuple[tuple[Test, bool], ...],
    listed: list[tuple[tuple[tuple[Test, bool], ...], int]],
) -> None:
    while isinstance(found, Node):
        if isinstance(found.no, Node) or not isinstance(found.yes, Node):
            _list_cases(found.yes, (*path, (found.test, True)), listed)
            found = found.no
        else:
            _list_cases(found.no, (*path, (found.test, False)), listed)
            found = found.yes
    listed.append((path, found))


def interesting(trees: Sequence[Tree], most: int = 4096) -> list[tuple[int, ...]]:
    """Arguments at, beside and between all that the trees compare with: where they can differ, some of these
    tell. At most `most` of them, evenly taken, where there are more."""
    pools: list[set[int]] = [{0} for _ in range(6)]
    for one in trees:
        for test in tests(one):
            free = ~test.mask & _FULL
            near = [
                test.value,
                test.value | free,
                test.value ^ (test.mask & -test.mask),
                test.mask ^ test.value,
            ]
            if test.op != "==" or test.mask in (_FULL, _LOW, _HIGH):
                unit = test.mask & -test.mask
                near += [test.value + unit & _FULL, test.value - unit & _FULL]
            pools[test.position].update(near)
    ordered = [sorted(pool) for pool in pools]
    total = 1
    for pool in ordered:
        total *= len(pool)
    if total <= most:
        return list(itertools.product(*ordered))
    step = total // most + 1
    step += step % 2 == 0
    return [_mixed(index, ordered) for index in range(0, total, step)]


def _mixed(index: int, pools: Sequence[Sequence[int]]) -> tuple[int, ...]:
    found = []
    for pool in pools:
        index, place = divmod(index, len(pool))
        found.append(pool[place])
    return tuple(found)
