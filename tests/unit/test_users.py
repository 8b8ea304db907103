"""Users and groups out of hostile passwd and group files: never root by accident."""

from __future__ import annotations

import random

import pytest

from minibox.kernel import users
from minibox.kernel.users import UnknownUser, User

PASSWD = """\
root:x:0:0:root:/root:/bin/sh
# comment:x:0:0::/:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/bin/false
web:x:1000:2000::/srv/web:/bin/sh
web:x:0:0:a second one:/root:/bin/sh
bare:x:1001:2001:::
7up:x:1007:2007::/home/7up:/bin/sh
"""
GROUP = """\
root:x:0:
daemon:x:1:
www:x:33:web,daemon
logs:x:44:other,web
web:x:2000:web
big:x:4294967294:
"""


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("root", User(uid=0, gid=0, home="/root")),
        ("0", User(uid=0, gid=0, home="/root")),
        ("00", User(uid=0, gid=0, home="/root")),
        ("web", User(uid=1000, gid=2000, groups=(33, 44), home="/srv/web")),
        ("1000", User(uid=1000, gid=2000, groups=(33, 44), home="/srv/web")),
        ("web:www", User(uid=1000, gid=33, home="/srv/web")),
        ("web:7", User(uid=1000, gid=7, home="/srv/web")),
        ("5555", User(uid=5555, gid=0)),
        ("5555:6666", User(uid=5555, gid=6666)),
        ("bare", User(uid=1001, gid=2001)),
        ("7up", User(uid=1007, gid=2007, home="/home/7up")),
        ("4294967294", User(uid=4294967294, gid=0)),
        ("daemon:big", User(uid=1, gid=4294967294, home="/usr/sbin")),
    ],
)
def test_users(wanted, expected):
    assert users.resolve(wanted, (), PASSWD, GROUP) == expected


def test_further_groups():
    found = users.resolve("web", ("logs", "77", "www", "77"), PASSWD, GROUP)
    assert found.groups == (33, 44, 77)


@pytest.mark.parametrize(
    "wanted",
    [
        "", ":", ":0", "-1", "+0", "-0", " 0", "0 ", "0x0", "0.0", "4294967295", "4294967296",
        "18446744073709551616",
        "99999999999999999999", "nobody", "Root", "ROOT", "root ", "root\n", "root\0", "web:", "web:-1",
        "web:nogroup",
        "web:4294967295", "web:www:0", "a b", "/root", "#", "# comment", "٠", "０", "1e3", "1_0", "root:x:0",
    ],
)  # fmt: skip
def test_what_is_no_user(wanted):
    with pytest.raises(UnknownUser):
        users.resolve(wanted, (), PASSWD, GROUP)


@pytest.mark.parametrize("group", ["", "-1", "nogroup", "4294967295", "+1", " 33", "www "])
def test_what_is_no_further_group(group):
    with pytest.raises(UnknownUser):
        users.resolve("web", (group,), PASSWD, GROUP)


@pytest.mark.parametrize(
    "line",
    [
        "evil:x::0::/:/bin/sh",
        "evil:x:-1:0::/:/bin/sh",
        "evil:x:4294967295:0::/:/bin/sh",
        "evil:x:4294967296:4294967296::/:/bin/sh",
        "evil:x: 0:0::/:/bin/sh",
        "evil:x:0x0:0::/:/bin/sh",
        "evil:x:99999999999999999999:0::/:/bin/sh",
        "evil:x:root:0::/:/bin/sh",
        "evil:x",
        "evil",
        "evil:x:5",
        "evil:x:٠:0::/:/bin/sh",
        ":evil:0:0::/:/bin/sh",
        "#evil:x:0:0::/:/bin/sh",
        "\tevil:x:0:0::/:/bin/sh",
    ],
)
def test_malformed_lines_are_nobody(line):
    """Who reads "", "-1" or 2^32 as 0 makes root of it."""
    with pytest.raises(UnknownUser):
        users.resolve("evil", (), line + "\n", "")


def test_an_empty_root_has_numbers_only():
    assert users.resolve("0", (), "", "") == User(uid=0, gid=0)
    with pytest.raises(UnknownUser):
        users.resolve("root", (), "", "")


def zeros(text: str) -> bool:
    """Whether a text is the number 0, written as such."""
    return text != "" and set(text) == {"0"}


def test_nobody_is_root_by_accident():
    """Random files and requests, of the characters that parsers trip over: who comes out as uid 0 was
    asked for as such, or has a well-formed line that says 0."""
    chance = random.Random(20260731)
    pieces = ["0", "-", "1", "4294967295", "4294967296", "root", "evil", ":", "::", "x", " ", "\t", "+"]
    pieces += [
        "\n",
        "\0",
        "٠",
        "０",
        "é",
        "\udc80",
        "#",
        ",",
        "00",
        "0x",
        "\r",
        "\x0b",
        "\x85",
        "\u2028",
        "/",
    ]
    roots = 0
    for _ in range(30000):
        wanted = "".join(chance.choices(pieces, k=chance.randint(0, 4)))
        lines = ["".join(chance.choices(pieces, k=chance.randint(0, 9))) for _ in range(chance.randint(0, 3))]
        if chance.random() < 0.3:
            lines.append(f"evil:x:{''.join(chance.choices(pieces, k=chance.randint(0, 2)))}:0::/:")
        passwd = "\n".join(lines)
        try:
            found = users.resolve(wanted, (), passwd, passwd)
        except UnknownUser:
            continue
        assert 0 <= found.uid <= users.MAX_ID
        assert all(0 <= number <= users.MAX_ID for number in (found.gid, *found.groups))
        if found.uid == 0:
            roots += 1
            name = wanted.partition(":")[0]
            fields = [line.split(":") for line in passwd.split("\n")]
            named = any(len(one) >= 6 and one[0] == name and zeros(one[2]) for one in fields)
            assert zeros(name) or named, (wanted, passwd)
    assert roots > 50, "then this shows nothing"


def test_random_bytes_as_files():
    chance = random.Random(1)
    for _ in range(2000):
        text = chance.randbytes(chance.randint(0, 200)).decode("utf-8", "surrogateescape")
        try:
            found = users.resolve("evil", ("evil",), text, text)
        except UnknownUser:
            continue
        assert found.uid == 0 or "evil" in text
