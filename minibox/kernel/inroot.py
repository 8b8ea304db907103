"""Paths inside a root that somebody hostile has filled, and may be changing now.

Facts: a path string is looked up anew at each use, so a check and a use can see two different
files; a symbolic link in the root may point anywhere.  openat2(2) with RESOLVE_IN_ROOT takes every
link and every ".." relative to the root, whatever races with it, and gives a descriptor that stays
on the file it found.  So: every path of the container becomes a descriptor once, here, and is used
as that descriptor alone.  (CVE-2021-30465, CVE-2024-45310, CVE-2019-16884.)
"""

from __future__ import annotations

import os
import stat

from minibox.errors import KernelError
from minibox.kernel import calls
from minibox.kernel import consts as c

IN_ROOT = c.RESOLVE_IN_ROOT | c.RESOLVE_NO_MAGICLINKS
BELOW = c.RESOLVE_BENEATH | c.RESOLVE_NO_XDEV | c.RESOLVE_NO_SYMLINKS


def find(root: int, path: str) -> int:
    """An O_PATH descriptor of `path` in the root.  Raises KernelError, ENOENT among others."""
    return calls.openat2(root, path, c.O_PATH, IN_ROOT)


def make_directory(root: int, path: str, mode: int = 0o755) -> int:
    """`find`, but parents and the directory itself are made where they are missing.

    A component is made in the descriptor of its parent, by its bare name, so nothing is ever made
    outside the root.  A dangling link is an error (EEXIST), not a directory somewhere else.
    """
    try:
        return find(root, path)
    except KernelError as error:
        if error.errno != 2:
            raise
    current = find(root, "/")
    try:
        done = ""
        for name in path.split("/"):
            if name in ("", "."):
                continue
            done += f"/{name}"
            try:
                below = find(root, done)
            except KernelError as error:
                if error.errno != 2:
                    raise
                calls.mkdirat(current, name, mode)
                below = calls.openat2(current, name, c.O_PATH | os.O_DIRECTORY, IN_ROOT)
            os.close(current)
            current = below
        return current
    except BaseException:
        os.close(current)
        raise


def make_file(root: int, path: str) -> int:
    """`find`, but an empty file (and its parents) is made where it is missing: a place to bind a file on."""
    try:
        return find(root, path)
    except KernelError as error:
        if error.errno != 2:
            raise
    head, _, name = path.rstrip("/").rpartition("/")
    parent = make_directory(root, head or "/")
    try:
        flags = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_WRONLY
        os.close(calls.openat(parent, name, flags, 0o644))
        return calls.openat2(parent, name, c.O_PATH, IN_ROOT)
    finally:
        os.close(parent)


def plain_directory(root: int, path: str) -> int:
    """A directory that is one, with no link anywhere on the way: what /proc and /sys are mounted on.

    A root whose /proc is a link to a directory of its own would otherwise choose what the runtime
    takes for procfs (CVE-2019-16884).  Raises KernelError; ELOOP and ENOTDIR when it is no such directory.
    """
    name = path.strip("/")
    resolve = c.RESOLVE_BENEATH | c.RESOLVE_NO_SYMLINKS
    try:
        return calls.openat2(root, name, c.O_PATH | os.O_DIRECTORY, resolve)
    except KernelError as error:
        if error.errno != 2 or "/" in name:
            raise
    calls.mkdirat(root, name, 0o555)
    return calls.openat2(root, name, c.O_PATH | os.O_DIRECTORY, resolve)


def below(directory: int, path: str, flags: int) -> int:
    """A file of procfs or sysfs, with no link, no other mount and no ".." on the way (CVE-2025-52881)."""
    return calls.openat2(directory, path, flags, BELOW)


def is_directory(fd: int) -> bool:
    """Whether the descriptor is a directory's."""
    return stat.S_ISDIR(os.fstat(fd).st_mode)


def read_text(root: int, path: str, limit: int = 1 << 20) -> str:
    """A small regular file of the root, or "" when there is none; EFBIG beyond `limit` bytes.

    Never a device or a fifo, which would block or act: it is opened O_NONBLOCK and checked by descriptor.
    """
    try:
        fd = calls.openat2(root, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY, IN_ROOT)
    except KernelError as error:
        if error.errno in (2, 20):
            return ""
        raise
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise KernelError(22, "openat2", (path, "not a regular file"))
        data = b""
        while len(data) <= limit and (part := os.read(fd, 65536)):
            data += part
        if len(data) > limit:
            raise KernelError(27, "read", (path, f"more than {limit} bytes"))
        return os.fsdecode(data)
    finally:
        os.close(fd)
