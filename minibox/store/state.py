"""Containers on disk.

    RUN/lock                     held for moments: making, listing for clean-up
    RUN/ids/SLOT                 an id range in use; the text is the container's id (see ids.py)
    RUN/containers/ID/lock       held by the container's supervisor for as long as it lives
    RUN/containers/ID/state.json replaced whole (rename), never written in place
    RUN/containers/ID/log        of a detached container
    RUN/removed/                 directories of containers on their way out: a rename takes one out of the
                                 list at once, whatever happens during the removal
    DATA/ID/                     its private layer

RUN is /run/minibox for root, else below $XDG_RUNTIME_DIR (or /tmp/minibox-UID); DATA is
/var/lib/minibox, or ~/.local/share/minibox.  Directories are 0700 (CVE-2021-41091).

A free lock means that the supervisor is gone: the kernel lets go of flock(2) whatever ended it.  So
nobody has to guess from process numbers, and whoever finds such a container may clean up after it.
"""

from __future__ import annotations

import fcntl
import os
import stat
import time

from minibox import fastjson
from minibox.errors import KernelError, StateError
from minibox.kernel import calls, tree
from minibox.kernel import consts as c
from minibox.kernel.host import NO_UPPER, magic_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any, Self


class Lock:
    """An advisory lock on a file, flock(2); a context manager."""

    __slots__ = ("fd",)

    def __init__(self, path: str, *, create: bool = False) -> None:
        flags = os.O_RDWR | os.O_NOFOLLOW | (os.O_CREAT if create else 0)
        self.fd = calls.openat(c.AT_FDCWD, path, flags, 0o600)

    def acquire(self, *, wait: bool = True, shared: bool = False) -> bool:
        """Take the lock; False when somebody else has it and `wait` is False."""
        kind = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB)
        try:
            fcntl.flock(self.fd, kind)
        except BlockingIOError:
            return False
        return True

    def is_at(self, path: str) -> bool:
        """Whether the file that is locked is still the one at `path`."""
        try:
            return os.path.samestat(os.fstat(self.fd), os.stat(path))
        except FileNotFoundError:
            return False

    def close(self) -> None:
        """Let go of it."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Store:
    """The two directories of one user's containers.  Raises StateError when they are not safe to use."""

    def __init__(self, run: str = "", data: str = "") -> None:
        self.run = os.path.abspath(run) if run else default_run()
        self.data = os.path.abspath(data) if data else default_data(self.run)

    def prepare(self) -> None:
        """Make what is missing of RUN."""
        make_private(self.run)
        for name in ("containers", "ids", "removed"):
            try:
                os.mkdir(f"{self.run}/{name}", 0o700)
            except FileExistsError:
                pass

    def lock(self) -> Lock:
        """The store's own lock, to be used in a `with`."""
        return Lock(f"{self.run}/lock", create=True)

    def directory(self, container: str) -> str:
        """The directory of a container's state."""
        return f"{self.run}/containers/{container}"

    def forget(self, container: str) -> None:
        """Take a container's directory out of the list, then off the disk."""
        gone = f"{self.run}/removed/{container}.{os.getpid()}.{time.monotonic_ns()}"
        try:
            os.rename(self.directory(container), gone)
        except FileNotFoundError:
            return
        tree.remove(gone)

    def empty_removed(self) -> None:
        """What a removal that was cut short has left."""
        for name in os.listdir(f"{self.run}/removed"):
            tree.remove(f"{self.run}/removed/{name}")

    def names(self) -> list[str]:
        """The ids of all containers, in the order in which they were made."""
        try:
            listed = os.listdir(f"{self.run}/containers")
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StateError(f"{self.run} holds no containers: {error.strerror}") from None
        found = []
        for name in listed:
            try:
                found.append((os.stat(self.directory(name)).st_ctime_ns, name))
            except FileNotFoundError:
                continue  # removed meanwhile
        return [name for _made, name in sorted(found)]

    def exists(self, container: str) -> bool:
        """Whether there is such a container, in whatever state."""
        return os.path.isdir(self.directory(container))

    def read(self, container: str) -> dict[str, Any]:
        """The state of a container.  Raises StateError when there is none."""
        try:
            state = fastjson.loads(calls.read_file(f"{self.directory(container)}/state.json"))
        except KernelError as error:
            if error.errno in (2, 20):
                raise StateError(f'no container "{container}": minibox ps lists them') from None
            raise
        except ValueError as error:
            raise StateError(f'the state of "{container}" cannot be read: {error}') from None
        if not isinstance(state, dict):
            raise StateError(f'the state of "{container}" cannot be read: not an object')
        return state

    def find(self, name: str) -> str:
        """The id that a name, or the unambiguous beginning of one, stands for.  Raises StateError."""
        names = self.names()
        if name in names:
            return name
        found = [one for one in names if name and one.startswith(name)]
        if len(found) == 1:
            return found[0]
        if found:
            raise StateError(f'"{name}" is ambiguous: {" ".join(found)}')
        raise StateError(f'no container "{name}": minibox ps lists them')

    def write(self, container: str, state: dict[str, Any]) -> None:
        """Replace a container's state: the old one or the new one is there, never half of it."""
        path = f"{self.directory(container)}/state.json"
        temporary = f"{path}.{os.getpid()}"
        fd = calls.openat(c.AT_FDCWD, temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            view = memoryview(fastjson.dumps(state).encode())
            while view:
                view = view[calls.os_call("write", os.write, fd, view) :]
        except BaseException:
            os.unlink(temporary)
            raise
        finally:
            os.close(fd)
        calls.os_call("rename", os.rename, temporary, path)


def default_run() -> str:
    """Where states live when nobody says: $MINIBOX_ROOT, or by the user."""
    given = os.environ.get("MINIBOX_ROOT")
    if given:
        return os.path.abspath(given)
    uid = os.geteuid()
    if uid == 0:
        return "/run/minibox"
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if runtime.startswith("/") and os.access(runtime, os.W_OK):
        return f"{runtime}/minibox"
    return f"/tmp/minibox-{uid}"


def default_data(run: str) -> str:
    """Where layers live when nobody says: $MINIBOX_DATA, or by the user; below RUN when overlayfs cannot
    write to the file system there."""
    given = os.environ.get("MINIBOX_DATA")
    if given:
        return os.path.abspath(given)
    if os.geteuid() == 0:
        path = "/var/lib/minibox"
    else:
        home = os.environ.get("XDG_DATA_HOME", "")
        path = f"{home if home.startswith('/') else os.path.expanduser('~/.local/share')}/minibox"
        parent = path
        while not os.path.isdir(parent):
            parent = os.path.dirname(parent)
        if not os.access(parent, os.W_OK):
            return f"{run}/layers"
    return f"{run}/layers" if magic_of(path) in NO_UPPER else path


def make_private(path: str) -> None:
    """A directory of the caller's own that nobody else can enter.  Raises StateError."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            pass
        status = os.lstat(path)
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise StateError(f"{path} must be a directory of yours with mode 0700: remove it, or name another")
