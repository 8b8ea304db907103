# ruff: noqa: E501  (tables of words)
"""user-parse (CVE-2026-30892): a malformed user that turns into root."""

from __future__ import annotations

import os

import pytest

from minibox.errors import MiniboxError
from minibox.kernel import users

BAD = [
    "", "-1", "-0", "+0", "+1", "4294967295", "4294967296", "4294967297", "18446744073709551616", "0x0", "0b0",
    "1e3", "0.0", " 0", "0 ", "0\t", "0\n", "0,0", "0;1", "0/0", "../0", ":", ":0", "0:", "0:-1", "0:4294967296", "0:+0",
    "0:0:0", "0: 0", "nobody-there", "0:nobody-there", "\u0660", "\u00b2", "\uff10", "*", "~root", "root\n",
    "1000000000000000000000000000000000000000000000000",
]  # fmt: skip
#: passwd files whose entries mean nothing, or nothing that may become uid 0
FILES = [
    "evil:x:-1:0::/:", "evil:x:4294967296:0::/:", "evil:x:4294967295:0::/:", "evil:x:0x0:0::/:", "evil:x::0::/:",
    "evil:x: 0:0::/:", "evil:x:+0:0::/:", "evil:x:0 :0::/:", "evil:x:\u0660:0::/:", "evil:x:0", "evil", "#evil:x:0:0::/:",
    "evil:x:0:-1::/:", "evil:x:0:4294967296::/:", "EVIL:x:0:0::/:", " evil:x:0:0::/:", "evil :x:0:0::/:",
]  # fmt: skip


@pytest.mark.parametrize("how", ["run", "exec"])
def test_a_malformed_user_is_an_error(attack, how):
    with attack.running("sh", "-c", "echo up; exec sleep 30") as container:
        for user in BAD:
            try:
                if how == "run":
                    ended = attack("/ids", user=user)
                else:
                    ended = attack.exec(container.state["id"], "/ids", user=user)
            except (MiniboxError, ValueError):
                continue
            assert ended.step == "process.user", user
            assert (ended.code, ended.out) == (125, "")


def test_a_malformed_group_is_an_error(attack):
    for group in BAD:
        if ":" not in group:
            assert attack("/ids", group_add=[group]).step == "process.user", group


def test_ids_are_what_they_say(attack):
    for user, expected in (
        ("1000", "ruid 1000 euid 1000 rgid"),
        ("65534:7", "ruid 65534 euid 65534 rgid 7 egid 7"),
    ):
        assert attack("/ids", user=user).out.startswith(expected)


def test_hostile_files_give_nobody_uid_0(attack, own_root):
    for text in FILES:
        (own_root / "etc/passwd").write_text(text + "\n")
        ended = attack("/ids", rootfs=own_root, user="evil")
        assert ended.step == "process.user", text


def test_files_that_are_none(attack, own_root):
    passwd = own_root / "etc/passwd"
    passwd.unlink()
    for make in (
        lambda: passwd.symlink_to("/dev/zero"), lambda: passwd.symlink_to("/proc/self/mem"), lambda: os.mkfifo(passwd),
        lambda: passwd.symlink_to("/proc/kmsg"), lambda: passwd.symlink_to("passwd"), passwd.mkdir,
        lambda: passwd.write_bytes(b"evil:x:0:0::/:\n" * 100_000), lambda: passwd.symlink_to("/nowhere"),
        lambda: passwd.symlink_to("/proc/self/fd/0"),
    ):  # fmt: skip
        make()
        ended = attack("/ids", rootfs=own_root, user="evil")
        assert ended.step == "process.user"
        passwd.rmdir() if passwd.is_dir() and not passwd.is_symlink() else passwd.unlink()


def test_a_parser_like_atoi_would_make_them_root(attack, monkeypatch):
    def resolve(wanted, extra, passwd, group):  # type: ignore[no-untyped-def]
        digits = wanted.lstrip(" +-0") or "0"
        return users.User(uid=(int(digits) if digits.isdecimal() else 0) & 0xFFFFFFFF, gid=0)

    monkeypatch.setattr(users, "resolve", resolve)
    root = [
        user
        for user in ("4294967296", "nobody-there", "-0", "0x0")
        if attack("/ids", user=user).out.startswith("ruid 0")
    ]
    assert root == ["4294967296", "nobody-there", "-0", "0x0"]
