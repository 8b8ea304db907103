"""The mounts of a process as the kernel lists them: /proc/PID/mountinfo, proc_pid_mountinfo(5)."""

from __future__ import annotations

from minibox.kernel import calls
from minibox.record import Record


class MountEntry(Record):
    """One mounted file system; `options` are the mount's own flags, `super_options` the file system's."""

    root: str
    mountpoint: str
    options: tuple[str, ...]
    propagation: tuple[str, ...]  # "shared:1", "master:2", "unbindable", or nothing when private
    kind: str
    source: str
    super_options: tuple[str, ...]


def unescape(text: str) -> str:
    """A field with its octal escapes (space, tab, newline, backslash) undone."""
    head, *rest = text.split("\\")
    return head + "".join(chr(int(part[:3], 8)) + part[3:] for part in rest)


def parse(text: str, kinds: tuple[str, ...] = ()) -> list[MountEntry]:
    """The entries in the order of the file: of those at one place the last is on top.

    `kinds` are the file system types that are wanted; all when it is empty.
    """
    found = []
    for line in text.splitlines():
        left, _, right = line.partition(" - ")
        if kinds and right.partition(" ")[0] not in kinds:
            continue
        _id, _parent, _device, root, mountpoint, options, *propagation = left.split(" ")
        kind, source, super_options = (right.split(" ", 2) + [""])[:3]
        found.append(
            MountEntry(
                root=unescape(root),
                mountpoint=unescape(mountpoint),
                options=tuple(options.split(",")),
                propagation=tuple(propagation),
                kind=kind,
                source=unescape(source),
                super_options=tuple(super_options.split(",")),
            )
        )
    return found


def of(pid: int) -> list[MountEntry]:
    """The mounts that a process sees.  Raises KernelError when it is gone."""
    return parse(calls.read_file(f"/proc/{pid}/mountinfo"))
