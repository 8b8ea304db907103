"""Users and groups of a root, out of its passwd(5) and group(5), parsed by hand.

By hand, since `pwd` and `grp` go through the C library's name service, which loads libraries of
whichever root it runs in (CVE-2019-14271), and strictly, since "-1", "4294967296" or "" once meant
root to other runtimes.
"""

from __future__ import annotations

from minibox.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_ID = 2**32 - 2


class User(Record):
    """Who the payload runs as: ids inside the container, and the home directory."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    home: str = "/"


class UnknownUser(ValueError):
    """A user or group that the root does not know, or that is malformed."""


def parse_id(text: str) -> int | None:
    """A decimal id, or None when it is a name.  Raises UnknownUser beyond the last id."""
    if not (text.isascii() and text.isdigit()):
        return None
    if len(text) > 10 or int(text) > MAX_ID:
        raise UnknownUser(f"id {text} is beyond the last one, {MAX_ID}")
    return int(text)


def check_name(text: str, what: str) -> None:
    """Refuse what cannot be a name or an id: "", "-1", "a b", "+1".  Raises UnknownUser."""
    good = text and text[0] not in "-+" and all(ch.isalnum() or ch in "._-$" for ch in text)
    if not good or (not text.isdigit() and text[0].isdigit() and not any(ch.isalpha() for ch in text)):
        raise UnknownUser(f'"{text}" is no {what}: a name or a number is wanted')


def _entries(text: str, fields: int) -> Iterable[list[str]]:
    for line in text.split("\n"):  # not splitlines, which has ten more ideas of what ends a line
        parts = line.split(":")
        if len(parts) >= fields and parts[0] and not line.startswith("#"):
            yield parts


def _file_id(text: str) -> int | None:
    try:
        return parse_id(text)
    except UnknownUser:
        return None


def resolve(wanted: str, extra_groups: Iterable[str], passwd: str, group: str) -> User:
    """The ids of "NAME|UID[:NAME|GID]" by the texts of the root's passwd and group files.

    Without a group, the user's own of the passwd file (0 when it has no entry) and the groups that
    list the user; with one, that group alone; then `extra_groups`.  Raises UnknownUser.
    """
    user, colon, group_name = wanted.partition(":")
    check_name(user, "user")
    uid, gid, home, login = parse_id(user), 0, "/", user
    for entry in _entries(passwd, 6):
        entry_uid, entry_gid = _file_id(entry[2]), _file_id(entry[3])
        if entry_uid is None or entry_gid is None:
            continue
        if (uid is None and entry[0] == user) or (uid is not None and entry_uid == uid):
            uid, gid, home, login = entry_uid, entry_gid, entry[5] or "/", entry[0]
            break
    if uid is None:
        raise UnknownUser(f'no user "{user}" in the container\'s /etc/passwd')
    groups: list[int] = []
    if colon:
        gid = group_id(group_name, group)
    else:
        for entry in _entries(group, 4):
            number = _file_id(entry[2])
            if number is not None and number != gid and login in entry[3].split(","):
                groups.append(number)
    groups += [group_id(name, group) for name in extra_groups]
    return User(uid=uid, gid=gid, groups=tuple(dict.fromkeys(groups)), home=home)


def group_id(name: str, group: str) -> int:
    """The id of a group by name or number.  Raises UnknownUser."""
    check_name(name, "group")
    number = parse_id(name)
    if number is not None:
        return number
    for entry in _entries(group, 3):
        if entry[0] == name and (found := _file_id(entry[2])) is not None:
            return found
    raise UnknownUser(f'no group "{name}" in the container\'s /etc/group')
