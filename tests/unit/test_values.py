"""Single values as people write them."""

from __future__ import annotations

import pytest

from minibox.errors import SpecError
from minibox.kernel import consts as c
from minibox.spec import values
from minibox.spec.model import Mount

INFINITY = c.RLIM_INFINITY


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0), ("4096", 4096), ("1b", 1), ("1B", 1), ("1k", 1024), ("1K", 1024), ("1kb", 1024), ("1KiB",
        1024),
        ("64m", 64 << 20), ("64MB", 64 << 20), ("64Mi", 64 << 20), ("2g", 2 << 30), ("1t", 1 << 40), ("1.5g",
        3 << 29), ("0.5k", 512),
        (" 8m ", 8 << 20), ("007", 7), ("9223372036854775807", 2**63 - 1),
    ],
)  # fmt: skip
def test_sizes(text, expected):
    assert values.size(text, "--memory") == expected


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "m", "-1", "-5m", "+5m", "1e3", "1_000", "5x", "5mm", "5 m", "1.m", ".5m", "1.2.3m", "0x10",
        "m5",
        "inf", "nan", "½", "٣", "9223372036854775808", "8388608t", "5kk", "5bk", "tib",
    ],
)  # fmt: skip
def test_what_is_no_size(text):
    with pytest.raises(SpecError, match=r"^--memory: ") as caught:
        values.size(text, "--memory")
    assert caught.value.pointer == "--memory"
    assert f'"{text}"' in caught.value.message


@pytest.mark.parametrize(("text", "expected"), [("0", 0), ("-1", -1), ("10", 10), ("-0", 0), ("007", 7)])
def test_whole_numbers(text, expected):
    assert values.integer(text, "--n", -1, 10) == expected


@pytest.mark.parametrize(
    "text", ["", "-", "--1", "+1", "1.0", "1e1", "0x1", " 1", "1 ", "1_0", "٣", "11", "-2", "²"]
)
def test_what_is_no_whole_number_between_the_bounds(text):
    with pytest.raises(SpecError, match=r"^--n: "):
        values.integer(text, "--n", -1, 10)


@pytest.mark.parametrize(
    ("text", "expected"), [("1", 1), ("0.5", 0.5), ("2.50", 2.5), (".5", 0.5), ("3.", 3)]
)
def test_decimal_numbers(text, expected):
    assert values.decimal(text, "--cpus") == expected


@pytest.mark.parametrize(
    "text", ["", ".", "0", "0.0", "-1", "+1", "1e3", "inf", "nan", "1.2.3", "1,5", " 1", "0x1", "٣"]
)
def test_what_is_no_positive_number(text):
    with pytest.raises(SpecError, match=r"^--cpus: "):
        values.decimal(text, "--cpus")


@pytest.mark.parametrize(
    ("text", "expected"), [("10", 10), ("0.5", 0.5), ("10s", 10), ("2m", 120), ("1.5h", 5400), ("0.25m", 15)]
)
def test_durations(text, expected):
    assert values.seconds(text, "--timeout") == expected


@pytest.mark.parametrize("text", ["", "s", "m", "0", "0s", "-1s", "1d", "1ms", "1 s", "1h30m", "soon"])
def test_what_is_no_duration(text):
    with pytest.raises(SpecError, match=r"^--timeout: "):
        values.seconds(text, "--timeout")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nofile=10", ("NOFILE", 10, 10)),
        ("NOFILE=10:20", ("NOFILE", 10, 20)),
        ("RLIMIT_CORE=0", ("CORE", 0, 0)),
        ("rlimit_as=1:unlimited", ("AS", 1, INFINITY)),
        ("core=unlimited", ("CORE", INFINITY, INFINITY)),
        ("core=-1:-1", ("CORE", INFINITY, INFINITY)),
        ("nproc=5:", ("NPROC", 5, 5)),
    ],
)
def test_resource_limits(text, expected):
    found = values.rlimit(text, "--ulimit")
    assert (found.kind, found.soft, found.hard) == expected


@pytest.mark.parametrize(
    "text",
    ["", "nofile", "nofile=", "=1", "files=1", "nofile=x", "nofile=5:1", "nofile=-1:5", "nofile=-2",
     "nofile=1:2:3",
     "nofile=18446744073709551615", "rlimit_=1", "nofile =1"],
)  # fmt: skip
def test_what_is_no_resource_limit(text):
    with pytest.raises(SpecError, match=r"^--ulimit: "):
        values.rlimit(text, "--ulimit")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a=b", ("a", "b")), ("a=", ("a", "")), ("a=b=c", ("a", "b=c")), (" = ", (" ", " "))],
)
def test_pairs(text, expected):
    assert values.pair(text, "--annotation") == expected


@pytest.mark.parametrize("text", ["", "a", "=", "=b"])
def test_what_is_no_pair(text):
    with pytest.raises(SpecError, match=r"^--annotation: "):
        values.pair(text, "--annotation")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("/a", "/a"), ("/a/", "/a"), ("//a///b", "/a/b"), ("/./a/.", "/a"), ("/...", "/..."), ("/a..", "/a..")],
)
def test_places_inside(text, expected):
    assert values.absolute(text, "--volume") == expected


@pytest.mark.parametrize(
    "text", ["", "a", "./a", "../a", "/", "//", "/.", "/..", "/a/..", "/../a", "/a/../../b", "~/a"]
)
def test_what_is_no_place_inside(text):
    with pytest.raises(SpecError, match=r"^--volume: "):
        values.absolute(text, "--volume")


BIND = Mount(destination="/x", kind="bind", source="/s", attributes=("nosuid", "nodev"))
TMPFS = Mount(destination="/x", kind="tmpfs", attributes=("nosuid", "nodev", "noexec"), data=("mode=1777",))


@pytest.mark.parametrize(
    ("options", "changes"),
    [
        ([], {}),
        ([""], {}),
        (["ro"], {"attributes": ("nosuid", "nodev", "ro")}),
        (["ro", "rw"], {}),
        (["rro"], {"recursive": ("ro",)}),
        (["rnoexec", "rnosuid"], {"recursive": ("noexec", "nosuid")}),
        (["suid", "dev"], {"attributes": ()}),
        (["nosuid", "nosuid"], {}),
        (["exec", "atime", "defaults"], {}),
        (["relatime"], {"attributes": ("nosuid", "nodev", "relatime")}),
        (["idmap"], {"idmap": True}),
        (["bind"], {"bind_recursive": False}),
        (["rbind"], {"bind_recursive": True}),
        (["shared"], {"propagation": "shared"}),
        (["rslave"], {"propagation": "rslave"}),
    ],
)
def test_options_of_a_bind(options, changes):
    assert values.mount_options(BIND, options, "--volume") == BIND.replace(**changes)


@pytest.mark.parametrize(
    ("options", "data"),
    [
        (["size=64m"], ("mode=1777", "size=67108864")),
        (["size=50%"], ("mode=1777", "size=50%")),
        (["mode=700", "uid=0"], ("mode=1777", "mode=700", "uid=0")),
        (["nr_inodes=10k"], ("mode=1777", "nr_inodes=10k")),
    ],
)
def test_options_of_a_tmpfs(options, data):
    assert values.mount_options(TMPFS, options, "--tmpfs").data == data


@pytest.mark.parametrize(
    "option", ["fast", "size=1m", "mode=700", "RO", "r", "rrw", "nosuidx", "lowerdir=/", "ro=1"]
)
def test_what_is_no_option_of_a_bind(option):
    with pytest.raises(SpecError, match=rf'^--volume: unknown mount option "{option}"'):
        values.mount_options(BIND, [option], "--volume")


@pytest.mark.parametrize(
    "option", ["idmap", "bind", "rbind", "size", "size=much", "mode=", "mode=9", "fast", "source=/etc"]
)
def test_what_is_no_option_of_a_tmpfs(option):
    with pytest.raises(SpecError, match=r"^--tmpfs: "):
        values.mount_options(TMPFS, [option], "--tmpfs")
