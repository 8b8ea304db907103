# ruff: noqa: E501  (tables of words)
"""handle-walk ("shocker", 2014): a file by its number on the file system, whatever a mount namespace hides."""

from __future__ import annotations

import ctypes

import pytest

from hostile.harness import syscall

pytestmark = pytest.mark.root
FILTER = "seccomp.load"


@pytest.fixture
def words(tripwire):
    """A volume beside the canary, and the handle of a file that is not in the volume."""
    volume = tripwire.parent / "volume"
    volume.mkdir()
    (volume / "x").write_text("")
    buffer = ctypes.create_string_buffer(8 + 128)
    ctypes.memmove(buffer, (128).to_bytes(4, "little"), 4)
    mount = ctypes.c_int()
    assert syscall(303, -100, str(tripwire / "file").encode(), buffer, ctypes.byref(mount), 0) == 0
    size, kind = int.from_bytes(buffer.raw[:4], "little"), int.from_bytes(buffer.raw[4:8], "little")
    return ["/handle", "/vol/x", kind, buffer.raw[8 : 8 + size].hex()], {"volume": [f"{volume}:/vol"]}


STRONG = {"cap_add": ["DAC_READ_SEARCH"]}


@pytest.mark.parametrize("how", [{}, {"userns": "host"}, STRONG, {"userns": "host", **STRONG}])
def test_it_is_refused(attack, words, how):
    argv, options = words
    assert attack(*argv, **options, **how).out == "EPERM\n"


def test_one_of_the_defences_is_enough(attack, words):
    argv, options = words
    for how in (
        {"leave_out": (FILTER,)},  # the capability and the user namespace are left
        {"leave_out": (FILTER,), **STRONG},  # the user namespace alone
        {"leave_out": (FILTER,), "userns": "host"},  # the capability alone
    ):
        assert attack(*argv, **options, **how).out in ("EPERM\n", "ESTALE\n"), how


def test_without_all_three_the_canary_is_read(attack, words):
    argv, options = words
    ended = attack(*argv, **options, userns="host", leave_out=(FILTER,), **STRONG)
    assert ended.out == "read untouched\n"
