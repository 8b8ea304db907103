"""Reading argv by a table."""

from __future__ import annotations

import random
import string

import pytest

from minibox.cli import flags
from minibox.errors import UsageError
from minibox.spec.options import FLAG, LIST, MAYBE, RUN, VALUE

TABLE = {
    "interactive": (FLAG, "i", "", ""),
    "tty": (FLAG, "t", "", ""),
    "name": (VALUE, "n", "NAME", ""),
    "env": (LIST, "e", "ENV", ""),
    "trace": (MAYBE, "", "FILE", ""),
    "read-only": (FLAG, "", "", ""),
    "network": (VALUE, "", "NET", ""),
}


@pytest.mark.parametrize(
    ("line", "options", "words"),
    [
        ("", {}, []),
        ("root cmd", {}, ["root", "cmd"]),
        ("-i root", {"interactive": True}, ["root"]),
        ("-it root", {"interactive": True, "tty": True}, ["root"]),
        ("-n web root", {"name": "web"}, ["root"]),
        ("-nweb root", {"name": "web"}, ["root"]),
        ("-n=web root", {"name": "web"}, ["root"]),
        ("-itn web root", {"interactive": True, "tty": True, "name": "web"}, ["root"]),
        ("-itnweb root", {"interactive": True, "tty": True, "name": "web"}, ["root"]),
        ("--name web root", {"name": "web"}, ["root"]),
        ("--name=web root", {"name": "web"}, ["root"]),
        ("--name= root", {"name": ""}, ["root"]),
        ("--name=a=b root", {"name": "a=b"}, ["root"]),
        ("--name -x root", {"name": "-x"}, ["root"]),
        ("--name -- root", {"name": "--"}, ["root"]),
        ("--name a --name b root", {"name": "b"}, ["root"]),
        ("-e A=1 --env B -eC=3 root", {"env": ["A=1", "B", "C=3"]}, ["root"]),
        ("--read-only root", {"read_only": True}, ["root"]),
        ("--read-only=true root", {"read_only": True}, ["root"]),
        ("--read-only=false root", {"read_only": False}, ["root"]),
        ("--trace root", {"trace": True}, ["root"]),
        ("--trace=file root", {"trace": "file"}, ["root"]),
        ("--net host root", {"network": "host"}, ["root"]),
        ("--net=host root", {"network": "host"}, ["root"]),
        ("root -i --name x", {}, ["root", "-i", "--name", "x"]),
        ("-i -- -t root", {"interactive": True}, ["-t", "root"]),
        ("-- -- x", {}, ["--", "x"]),
        ("- x", {}, ["-", "x"]),
        ("-i - x", {"interactive": True}, ["-", "x"]),
    ],
)
def test_lines(line, options, words):
    assert flags.parse(line.split(), TABLE, "run") == (options, words)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--nam x", "unknown flag --nam; did you mean --name?"),
        ("--read_only", "unknown flag --read_only; did you mean --read-only?"),
        ("--qqqq", "unknown flag --qqqq (minibox help run lists them)"),
        ("-x", "unknown flag -x (minibox help run lists them)"),
        ("-ix", "unknown flag -x"),
        ("--name", "--name needs a value: NAME"),
        ("-n", "--name needs a value: NAME"),
        ("-in", "--name needs a value: NAME"),
        ("--tty=yes", "--tty takes no value but true or false"),
        ("--=x", "unknown flag --"),
        ("---name x", "unknown flag ---name"),
    ],
)
def test_lines_that_cannot_be_understood(line, message):
    with pytest.raises(UsageError) as caught:
        flags.parse(line.split(), TABLE, "run")
    assert str(caught.value).startswith(message)
    assert caught.value.exit_code == 125


@pytest.mark.parametrize("line", ["--help", "-h", "-ih", "--help root", "-i --help"])
def test_help_is_asked_for(line):
    with pytest.raises(flags.HelpWanted):
        flags.parse(line.split(), TABLE, "run")


@pytest.mark.parametrize("line", ["root --help", "-- --help", "--name --help root"])
def test_help_for_somebody_else(line):
    flags.parse(line.split(), TABLE, "run")


def test_the_payloads_words_are_never_touched():
    """Whatever stands behind the first word that is no flag comes out as it went in."""
    chance = random.Random(3)
    alphabet = "-=aeint \n\0\udc80é" + string.ascii_lowercase
    for _ in range(2000):
        rest = [
            "".join(chance.choices(alphabet, k=chance.randint(0, 6))) for _ in range(chance.randint(0, 6))
        ]
        assert flags.parse(["-i", "root", *rest], TABLE, "run") == ({"interactive": True}, ["root", *rest])
        assert flags.parse(["--", *rest], TABLE, "run") == ({}, rest)


def test_any_words_at_all_are_parsed_or_refused():
    chance = random.Random(4)
    alphabet = "---=-aeinthdmv" + "rx /:\0é\udc80"
    for _ in range(5000):
        argv = [
            "".join(chance.choices(alphabet, k=chance.randint(0, 8))) for _ in range(chance.randint(0, 5))
        ]
        try:
            options, words = flags.parse(list(argv), RUN, "run")
        except (UsageError, flags.HelpWanted):
            continue
        assert words == argv[len(argv) - len(words) :]
        assert all(name.replace("_", "-") in RUN for name in options)


def test_every_flag_of_run_is_read_as_its_table_says():
    for name, (kind, short, _value, _text) in RUN.items():
        key = name.replace("-", "_")
        expected = {FLAG: True, VALUE: "v", LIST: ["v"], MAYBE: True}[kind]
        words = [] if kind in (FLAG, MAYBE) else ["v"]
        assert flags.parse([f"--{name}", *words, "root"], RUN, "run") == ({key: expected}, ["root"])
        if short:
            assert flags.parse([f"-{short}", *words, "root"], RUN, "run") == ({key: expected}, ["root"])


def test_no_two_flags_have_the_same_letter():
    letters = [entry[1] for entry in {**RUN, **flags.HELP}.values() if entry[1]]
    assert len(letters) == len(set(letters))
