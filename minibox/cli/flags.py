"""Reading argv by a table: what argparse would do, for a hundredth of its start-up time.

`--name value`, `--name=value`, `-n value`, `-nvalue`, `-it` (flags together); options end at the first
word that is none, so that the payload's own flags stay its own, and at `--`.
"""

from __future__ import annotations

from minibox.errors import UsageError
from minibox.spec.options import FLAG, LIST, MAYBE, PAIR

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from minibox.spec.options import Table

HELP: Table = {"help": (FLAG, "h", "", "this text")}
ALIASES = {
    "net": "network",
    "volumes": "volume",
    "cgroup-ns": "cgroupns",
    "no-new-privileges": "no-new-privs",
}


class HelpWanted(Exception):
    """`--help` among the flags of a verb."""

    def __init__(self, verb: str) -> None:
        super().__init__(verb)
        self.verb = verb


def parse(argv: list[str], table: Table, verb: str) -> tuple[dict[str, Any], list[str]]:
    """(options by name with underscores, the words behind them).  Raises UsageError and HelpWanted."""
    table = {**table, **HELP}
    short = {entry[1]: name for name, entry in table.items() if entry[1]}
    options: dict[str, Any] = {}
    place = 0
    while place < len(argv):
        word = argv[place]
        if word == "--":
            return options, argv[place + 1 :]
        if not word.startswith("-") or word == "-":
            break
        place += 1
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            place = _take(
                options, table, ALIASES.get(name, name), value if equals else None, argv, place, verb
            )
        else:
            place = _take_short(options, table, short, word[1:], argv, place, verb)
    return options, argv[place:]


def _take_short(
    options: dict[str, Any],
    table: Table,
    short: dict[str, str],
    letters: str,
    argv: list[str],
    place: int,
    verb: str,
) -> int:
    for index, letter in enumerate(letters):
        name = short.get(letter)
        if name is None:
            raise unknown(f"-{letter}", table, verb)
        if table[name][0] in (FLAG, MAYBE):
            _take(options, table, name, None, argv, place, verb)
            continue
        rest = letters[index + 1 :].removeprefix("=")
        return _take(options, table, name, rest or None, argv, place, verb)
    return place


def _take(
    options: dict[str, Any],
    table: Table,
    name: str,
    value: str | None,
    argv: list[str],
    place: int,
    verb: str,
) -> int:
    """Store one option; the place behind it."""
    if name not in table:
        raise unknown(f"--{name}", table, verb)
    kind = table[name][0]
    key = name.replace("-", "_")
    if name == "help":
        raise HelpWanted(verb)
    if kind == FLAG:
        if value not in (None, "true", "false"):
            raise UsageError(f"--{name} takes no value but true or false")
        options[key] = value != "false"
        return place
    if kind == MAYBE:
        options[key] = value or True
        return place
    if kind == PAIR:
        if value is not None or place + 2 > len(argv):
            raise UsageError(f"--{name} needs two values: {table[name][2]}")
        options[key] = argv[place : place + 2]
        return place + 2
    if value is None:
        if place >= len(argv):
            raise UsageError(f"--{name} needs a value: {table[name][2]}")
        value = argv[place]
        place += 1
    if kind == LIST:
        options.setdefault(key, []).append(value)
    else:
        options[key] = value
    return place


def unknown(flag: str, table: Table, verb: str) -> UsageError:
    """The error for a flag that the verb does not have, with the nearest that it has."""
    import difflib

    near = difflib.get_close_matches(flag.lstrip("-"), [*table, *ALIASES], 1)
    guess = f"; did you mean --{near[0]}?" if near and len(flag) > 2 else ""
    return UsageError(f"unknown flag {flag}{guess} (minibox help {verb} lists them)")
