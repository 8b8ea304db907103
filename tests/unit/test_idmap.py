"""Id maps: what is parsed, what is refused, what an id means on the other side."""

from __future__ import annotations

import pytest

from minibox.errors import SpecError
from minibox.kernel import idmap
from minibox.kernel.idmap import IdMap


def maps(*texts: str) -> tuple[IdMap, ...]:
    return tuple(idmap.parse(text, "--uidmap") for text in texts)


@pytest.mark.parametrize("text", ["0:100000:65536", "0:0:1", "5:4294967293:1", "00:1:02"])
def test_a_map(text):
    inside, outside, size = map(int, text.split(":"))
    assert idmap.parse(text, "--uidmap") == IdMap(inside=inside, outside=outside, size=size)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0",
        "0:1",
        "0:1:",
        ":1:1",
        "0:1:1:1",
        "0:1:x",
        "-1:0:1",
        "0:-1:1",
        "0:1:-1",
        " 0:1:1",
        "0x0:1:1",
        "٠:1:1",
    ],
)
def test_what_is_no_map(text):
    with pytest.raises(SpecError, match=r"^--uidmap: .* is not IN:OUT:SIZE"):
        idmap.parse(text, "--uidmap")


@pytest.mark.parametrize(
    "texts",
    [
        (),
        ("0:1:1",),
        ("0:100:10", "10:200:10"),
        ("10:100:10", "0:200:10"),
        ("0:110:10", "10:100:10"),
        ("0:4294967293:1",),
    ],
)
def test_maps_that_go_together(texts):
    idmap.check(maps(*texts), "--uidmap")


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (("0:1:0",), "must be at least 1"),
        (("0:4294967294:2",), "beyond the last id"),
        (("4294967294:0:2",), "beyond the last id"),
        (("0:1:4294967295",), "beyond the last id"),
        (("0:1:99999999999999999999",), "beyond the last id"),
        (("0:100:10", "9:200:1"), "0:100:10 and 9:200:1 overlap in the container"),
        (("9:200:1", "0:100:10"), "0:100:10 and 9:200:1 overlap in the container"),
        (("0:100:10", "10:109:1"), "overlap in the host"),
        (("0:100:10", "0:100:10"), "overlap in the container"),
    ],
)
def test_maps_that_the_kernel_would_refuse(texts, message):
    with pytest.raises(SpecError, match=r"^--uidmap: ") as caught:
        idmap.check(maps(*texts), "--uidmap")
    assert message in caught.value.message


def test_the_number_of_lines_is_the_kernels():
    many = maps(*(f"{2 * number}:{2 * number}:1" for number in range(idmap.MAX_EXTENTS + 1)))
    idmap.check(many[:-1], "--uidmap")
    with pytest.raises(SpecError, match="341 lines"):
        idmap.check(many, "--uidmap")


def test_ids_on_the_other_side():
    lines = idmap.lines(maps("0:100000:10", "20:5:1"))
    found = {number: idmap.to_host(lines, number) for number in (0, 9, 10, 19, 20, 21, 4294967295)}
    assert found == {0: 100000, 9: 100009, 10: None, 19: None, 20: 5, 21: None, 4294967295: None}


def test_a_map_reads_as_it_was_written():
    assert idmap.show(idmap.parse("0:100000:65536", "--uidmap")) == "0:100000:65536"


SUBUID = """\
# a comment
user:100000:65536
1000:300000:10
user:200000:5
other:400000:65536
user:x:5
user:5
user:5:0
user:-1:5
:1:1
 user:500000:7
user:600000:7:8
"""


def test_ranges_of_an_account(tmp_path):
    """Malformed lines give nothing; the account counts by name and by number."""
    (tmp_path / "subuid").write_text(SUBUID)
    path = str(tmp_path / "subuid")
    found = idmap.subordinate_ranges(path, "user", 1000)
    assert found == ((100000, 65536), (300000, 10), (200000, 5), (500000, 7))
    assert idmap.subordinate_ranges(path, "", 1234) == ()
    assert idmap.subordinate_ranges(path, "nobody", 1234) == ()
    assert idmap.subordinate_ranges(str(tmp_path / "none"), "user", 1000) == ()


def test_accounts(tmp_path):
    (tmp_path / "passwd").write_text("root:x:0:0::/:\nuser:x:1000:5::/:\nbad:x:-1\nbad\n\nbig:x:70000:1\n")
    path = str(tmp_path / "passwd")
    assert idmap.account_ids(path) == (0, 1000, 70000)
    assert idmap.account_name(1000, path) == "user"
    assert idmap.account_name(1, path) == ""
    assert idmap.account_ids(str(tmp_path / "none")) == ()
    assert idmap.account_name(0, str(tmp_path / "none")) == ""


def test_a_tool_is_found_in_absolute_directories_only(tmp_path, monkeypatch):
    (tmp_path / "newuidmap").write_text("")
    (tmp_path / "newuidmap").chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f":.:{tmp_path.name}:/no/such")
    assert idmap.find_tool("newuidmap") == ""
    monkeypatch.setenv("PATH", f"/no/such:{tmp_path}")
    assert idmap.find_tool("newuidmap") == f"{tmp_path}/newuidmap"
