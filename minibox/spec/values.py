"""Single values as people write them: sizes, limits, ids, mounts.  Each parser raises SpecError."""

from __future__ import annotations

from minibox.errors import SpecError
from minibox.kernel import consts as c
from minibox.spec.model import Mount, Rlimit

UNITS = {"": 0, "b": 0, "k": 10, "m": 20, "g": 30, "t": 40}
ATTRIBUTES = {
    "ro": c.MOUNT_ATTR_RDONLY,
    "nosuid": c.MOUNT_ATTR_NOSUID,
    "nodev": c.MOUNT_ATTR_NODEV,
    "noexec": c.MOUNT_ATTR_NOEXEC,
    "noatime": c.MOUNT_ATTR_NOATIME,
    "relatime": c.MOUNT_ATTR_RELATIME,
    "strictatime": c.MOUNT_ATTR_STRICTATIME,
    "nodiratime": c.MOUNT_ATTR_NODIRATIME,
    "nosymfollow": c.MOUNT_ATTR_NOSYMFOLLOW,
}
PROPAGATION = {
    "private": c.MS_PRIVATE,
    "slave": c.MS_SLAVE,
    "shared": c.MS_SHARED,
    "unbindable": c.MS_UNBINDABLE,
}


def size(text: str, pointer: str) -> int:
    """Bytes of "64m", "1.5g", "4096": binary units b k m g t, with "ib" or "b" behind them allowed."""
    plain = text.strip().lower()
    number = plain.rstrip("kmgtib")
    unit = plain[len(number) :].removesuffix("b").removesuffix("i")
    whole, dot, fraction = number.partition(".")
    digits = whole.isascii() and whole.isdigit() and (not dot or (fraction.isascii() and fraction.isdigit()))
    if unit not in UNITS or not digits:
        raise SpecError(pointer, f'"{text}" is no size: a number and k, m, g or t are wanted, such as 64m')
    value = int(float(number) * 2 ** UNITS[unit]) if dot else int(whole) << UNITS[unit]
    if value >= 2**63:
        raise SpecError(pointer, f'"{text}" is more than 2^63 bytes')
    return value


def integer(text: str, pointer: str, least: int, most: int = 2**63 - 1) -> int:
    """A whole number within bounds."""
    body = text[1:] if text[:1] == "-" else text
    if not (body.isascii() and body.isdigit()):
        raise SpecError(pointer, f'"{text}" is no whole number')
    value = int(text)
    if not least <= value <= most:
        raise SpecError(pointer, f"{text} is not between {least} and {most}")
    return value


def number_list(text: str, pointer: str, of: str) -> str:
    """A list of processors or memory nodes, such as "0-1,3", as it is."""
    for part in text.split(","):
        first, _, last = part.partition("-")
        ends = (first, last or first)
        if not all(end.isascii() and end.isdigit() for end in ends) or int(ends[0]) > int(ends[1]):
            raise SpecError(pointer, f'"{text}" is no list of {of} such as 0-1,3')
    return text


def decimal(text: str, pointer: str) -> float:
    """A positive decimal number."""
    whole, _dot, fraction = text.partition(".")
    digits = whole + fraction
    if not (digits.isascii() and digits.isdigit()) or float(text) <= 0:
        raise SpecError(pointer, f'"{text}" is no number above 0')
    return float(text)


def seconds(text: str, pointer: str) -> float:
    """A duration: "10", "0.5", "2m", "1h", in seconds."""
    factor = {"s": 1, "m": 60, "h": 3600}.get(text[-1:], 0)
    return decimal(text[:-1] if factor else text, pointer) * (factor or 1)


def rlimit(text: str, pointer: str) -> Rlimit:
    """A `NAME=SOFT[:HARD]` with "unlimited" or -1 for no limit."""
    name, equals, values = text.partition("=")
    kind = name.upper().removeprefix("RLIMIT_")
    if kind not in c.RLIMITS or not equals:
        known = " ".join(c.RLIMITS).lower()
        raise SpecError(pointer, f'"{text}" is not NAME=SOFT[:HARD] with one of {known}')
    soft, _colon, hard = values.partition(":")
    bounds = [
        c.RLIM_INFINITY if one in ("unlimited", "-1") else integer(one, pointer, 0, 2**64 - 2)
        for one in (soft, hard or soft)
    ]
    if bounds[0] > bounds[1]:
        raise SpecError(pointer, f'"{text}": the soft limit is above the hard one')
    return Rlimit(kind=kind, soft=bounds[0], hard=bounds[1])


def pair(text: str, pointer: str) -> tuple[str, str]:
    """A `KEY=VALUE`."""
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise SpecError(pointer, f'"{text}" is not KEY=VALUE')
    return key, value


def absolute(path: str, pointer: str) -> str:
    """An absolute path inside the container, that is not its root, in its plain form.

    ".." is refused rather than resolved: what it means depends on links that are not known yet.
    """
    if not path.startswith("/"):
        raise SpecError(pointer, f'"{path}" is not an absolute path inside the container')
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise SpecError(pointer, f'"{path}" has ".." in it: it could leave the root')
    if not parts:
        raise SpecError(pointer, "the root itself is no place for a mount: see --writable and --read-only")
    return "/" + "/".join(parts)


def mount_options(mount: Mount, options: list[str], pointer: str) -> Mount:
    """A mount with the options of mount(8) and of the OCI applied in order."""
    attributes, recursive, data = list(mount.attributes), list(mount.recursive), list(mount.data)
    changes: dict[str, object] = {}
    for option in options:
        plain = option.removeprefix("r") if option[1:] in ATTRIBUTES else option
        if option in ATTRIBUTES:
            attributes.append(option)
        elif plain in ATTRIBUTES:
            recursive.append(plain)
        elif option in ("rw", "suid", "dev", "exec", "atime", "defaults", ""):
            cleared = {"rw": "ro", "suid": "nosuid", "dev": "nodev", "exec": "noexec", "atime": "noatime"}
            attributes = [one for one in attributes if one != cleared.get(option)]
        elif option in PROPAGATION or option.removeprefix("r") in PROPAGATION:
            changes["propagation"] = option
        elif option == "idmap" and mount.kind == "bind":
            changes["idmap"] = True
        elif option in ("bind", "rbind") and mount.kind == "bind":
            changes["bind_recursive"] = option == "rbind"
        elif mount.kind == "tmpfs" and option.partition("=")[0] in TMPFS_DATA and "=" in option:
            data.append(_tmpfs_data(option, pointer))
        else:
            raise SpecError(pointer, f'unknown mount option "{option}"')
    return mount.replace(
        attributes=tuple(dict.fromkeys(attributes)),
        recursive=tuple(dict.fromkeys(recursive)),
        data=tuple(data),
        **changes,
    )


TMPFS_DATA = ("size", "nr_inodes", "nr_blocks", "mode", "uid", "gid", "huge", "mpol")


def _tmpfs_data(option: str, pointer: str) -> str:
    name, _, value = option.partition("=")
    if name == "size" and not value.endswith("%"):
        return f"size={size(value, pointer)}"
    if name == "mode" and not (value and all(digit in "01234567" for digit in value)):
        raise SpecError(pointer, f'mode "{value}" is no octal number')
    return option
