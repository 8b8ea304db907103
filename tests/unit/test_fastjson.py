"""JSON as the standard library reads and writes it."""

from __future__ import annotations

import json
import random
import subprocess
import sys

import pytest

from minibox import fastjson

VALUES = [
    None, True, False, 0, -1, 2**70, 1.5, -0.0, 1e300, "", "text", "é", "\u2028", "\U0001f600",
    "\0\x1f\"\\/", "\udc80",
    [], {}, [1, [2, [3]]], {"a": {"b": []}}, {"": ""}, [None, True], {"k\n": "v\t"},
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_there_and_back(value):
    text = fastjson.dumps(value)
    assert fastjson.loads(text) == value
    assert text == json.dumps(value)
    assert text.isascii()
    assert "\n" not in text


def test_tuples_are_lists():
    assert fastjson.loads(fastjson.dumps({"a": (1, (2,))})) == {"a": [1, [2]]}


@pytest.mark.parametrize("value", [{1}, b"bytes", object()])
def test_what_has_no_json(value):
    with pytest.raises(TypeError, match=r"^no JSON for"):
        fastjson.dumps(value)


@pytest.mark.parametrize(
    "text",
    ["", " ", "{", "}", "[", "[1,]", '{"a"}', '{"a":}', "{'a': 1}", "nul", "tru",
     '"', '"\\x"', '"a\nb"', "1 2", "{} x",
     "01", "-", "[1 2]", '{"a": 1,}', "\ufeff{}"],
)  # fmt: skip
def test_what_is_no_json(text):
    with pytest.raises(ValueError):
        fastjson.loads(text)


@pytest.mark.parametrize("text", [" 1 ", "\n{}\n", "\t[ ]\r\n"])
def test_space_around_it(text):
    assert fastjson.loads(text) == json.loads(text)


def test_random_texts_are_read_as_the_standard_library_reads_them():
    chance = random.Random(5)
    pieces = [
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        '"',
        "a",
        "1",
        "-",
        ".",
        "e",
        "true",
        "null",
        " ",
        "\\",
        "\n",
        '"k":',
        "[]",
        "0",
    ]
    agreed = 0
    for _ in range(20000):
        text = "".join(chance.choices(pieces, k=chance.randint(0, 8)))
        try:
            expected = json.loads(text)
        except ValueError:
            with pytest.raises(ValueError):
                fastjson.loads(text)
            continue
        agreed += 1
        assert fastjson.loads(text) == expected
    assert agreed > 500


@pytest.mark.parametrize("text", ["{", "[1,", "nul", '"'])
def test_errors_where_the_json_module_is_not_loaded(text):
    """The C scanner looks for its exception class in `json.decoder`."""
    script = (
        f"from minibox import fastjson\ntry: fastjson.loads({text!r})\nexcept ValueError: print('ValueError')"
    )
    done = subprocess.run([sys.executable, "-I", "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout == "ValueError\n", done.stderr


def test_reading_and_writing_do_not_load_the_json_module():
    script = (
        "import sys; from minibox import fastjson; fastjson.loads(fastjson.dumps({'a': [1]})); "
        "print('json' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-I", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
