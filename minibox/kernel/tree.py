"""Directory trees of minibox's own: copied and taken away by descriptor, links never followed."""

from __future__ import annotations

import os
import stat
import time

from minibox.errors import KernelError
from minibox.kernel import calls, idmap
from minibox.kernel import consts as c

TYPE_CHECKING = False
if TYPE_CHECKING:
    Maps = tuple[tuple[int, int, int], ...]

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
LEVELS = 64  # of directories open at once while a tree is removed; a container may have nested thousands


def remove(path: str) -> None:
    """Remove a directory and all below it; what is not there, or goes meanwhile, is no error.

    Raises KernelError.
    """
    parent, _, name = path.rpartition("/")
    try:
        directory = calls.openat(c.AT_FDCWD, parent or "/", c.O_PATH | os.O_DIRECTORY)
    except KernelError as error:
        if error.errno == 2:
            return
        raise
    try:
        _remove_entry(directory, name)
    finally:
        os.close(directory)


def _remove_entry(parent: int, name: str, level: int = 0, top: int = -1) -> None:
    """Remove a file or a tree.  What lies LEVELS below `top` is moved up there, to be removed in its turn."""
    try:
        os.unlink(name, dir_fd=parent)
        return
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno not in (1, 21):  # EPERM or EISDIR: a directory
            raise KernelError(error.errno or 0, "unlinkat", (name,)) from None
    try:
        directory = _open_directory(parent, name)
    except KernelError as error:
        if error.errno == 2:
            return
        raise
    try:
        while names := _names(directory):
            for one in names:
                if level < LEVELS or not _move_up(directory, one, top):
                    _remove_entry(directory, one, level + 1, top if level else directory)
            if level:
                break
    finally:
        os.close(directory)
    try:
        os.rmdir(name, dir_fd=parent)
    except FileNotFoundError:
        return
    except OSError as error:
        raise KernelError(error.errno or 0, "unlinkat", (name, "AT_REMOVEDIR")) from None


def _names(directory: int) -> list[str]:
    with os.scandir(directory) as entries:
        return [entry.name for entry in entries]


def _move_up(directory: int, name: str, top: int) -> bool:
    """Move a directory into `top`, under a name that nobody can have foreseen; False when it is none."""
    if not stat.S_ISDIR(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
        return False
    os.close(_open_directory(directory, name))  # which makes it writable: its ".." is about to change
    fresh = f"deep-{os.urandom(8).hex()}"
    calls.os_call("renameat", os.rename, name, fresh, src_dir_fd=directory, dst_dir_fd=top)
    return True


def _open_directory(parent: int, name: str) -> int:
    """A directory to be emptied; overlayfs leaves its "work" with mode 000, which its owner may change."""
    try:
        directory = calls.openat(parent, name, DIRECTORY)
        if os.fstat(directory).st_mode & 0o300 != 0o300:
            os.fchmod(directory, 0o700)
        return directory
    except KernelError as error:
        if error.errno != 13:
            raise
    calls.os_call("fchmodat", os.chmod, name, 0o700, dir_fd=parent)
    return calls.openat(parent, name, DIRECTORY)


def copy(source: str, target: str, uid_maps: Maps, gid_maps: Maps) -> tuple[int, int]:
    """Copy the tree `source` into the existing directory `target`; (files copied, files left out).

    Owners become those that the maps give, and "nobody" where an owner has no place in them, as an id
    map would show it; without maps they are not changed.  Modes, times, links and user attributes are
    kept; devices, sockets and fifos are left out: a root has no use for the host's.  What an ordinary user
    may not read is left out too and counted: a directory of that kind is empty.  Raises KernelError.
    """
    from_fd = calls.openat(c.AT_FDCWD, source, os.O_RDONLY | os.O_DIRECTORY)
    to_fd = calls.openat(c.AT_FDCWD, target, DIRECTORY)
    try:
        job = _Copy(to_fd, uid_maps, gid_maps)
        job.directory(from_fd, to_fd, "")
        return job.copied, job.left_out
    finally:
        os.close(from_fd)
        os.close(to_fd)


class _Copy:
    """One copy on its way: what the directories of a tree have in common."""

    def __init__(self, top: int, uid_maps: Maps, gid_maps: Maps) -> None:
        self.top = top
        self.uid_maps = uid_maps
        self.gid_maps = gid_maps
        self.links: dict[tuple[int, int], str] = {}  # (device, inode) -> where its first name was copied to
        self.copied = 0
        self.left_out = 0

    def directory(self, from_fd: int, to_fd: int, path: str) -> None:
        """The entries of a directory, then its own status, which may forbid to write in it."""
        if path.count("/") > DEEPEST:
            raise KernelError(36, "mkdirat", (f"{path[:60]}...", f"more than {DEEPEST} directories deep"))
        with os.scandir(from_fd) as entries:
            names = sorted(entry.name for entry in entries)
        for name in names:
            self._entry(from_fd, to_fd, name, f"{path}{name}")
        self._status(from_fd, to_fd)

    def _entry(self, from_fd: int, to_fd: int, name: str, where: str) -> None:
        status = os.stat(name, dir_fd=from_fd, follow_symlinks=False)
        self.copied += 1
        if stat.S_ISLNK(status.st_mode):
            self._link(from_fd, to_fd, name, status)
        elif (status.st_dev, status.st_ino) in self.links:
            known = self.links[status.st_dev, status.st_ino]
            calls.os_call("linkat", os.link, known, name, src_dir_fd=self.top, dst_dir_fd=to_fd)
        elif stat.S_ISDIR(status.st_mode) or stat.S_ISREG(status.st_mode):
            try:
                flags = DIRECTORY if stat.S_ISDIR(status.st_mode) else os.O_RDONLY | os.O_NOFOLLOW
                reading = calls.openat(from_fd, name, flags | os.O_NONBLOCK)
            except KernelError as error:
                if error.errno != 13:
                    raise
                self._leave_out(to_fd, name, status)
                return
            try:
                if stat.S_ISDIR(status.st_mode):
                    self._below(reading, to_fd, name, where)
                else:
                    self._file(reading, to_fd, name)
                    if status.st_nlink > 1:
                        self.links[status.st_dev, status.st_ino] = where
            finally:
                os.close(reading)

    def _leave_out(self, to_fd: int, name: str, status: os.stat_result) -> None:
        self.copied -= 1
        self.left_out += 1
        if stat.S_ISDIR(status.st_mode):
            calls.mkdirat(to_fd, name, stat.S_IMODE(status.st_mode))

    def _below(self, reading: int, to_fd: int, name: str, where: str) -> None:
        calls.mkdirat(to_fd, name, 0o700)
        writing = calls.openat(to_fd, name, DIRECTORY)
        try:
            self.directory(reading, writing, where + "/")
        finally:
            os.close(writing)

    def _link(self, from_fd: int, to_fd: int, name: str, status: os.stat_result) -> None:
        calls.symlinkat(os.readlink(name, dir_fd=from_fd), to_fd, name)
        owner = _owner(status, self.uid_maps, self.gid_maps)
        if owner:
            calls.os_call("fchownat", os.chown, name, *owner, dir_fd=to_fd, follow_symlinks=False)

    def _file(self, reading: int, to_fd: int, name: str) -> None:
        writing = calls.openat(to_fd, name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            while calls.os_call("sendfile", os.sendfile, writing, reading, None, 1 << 30):
                pass
            self._status(reading, writing)
        finally:
            os.close(writing)

    def _status(self, from_fd: int, to_fd: int) -> None:
        status = os.fstat(from_fd)
        owner = _owner(status, self.uid_maps, self.gid_maps)
        if owner:
            calls.os_call("fchown", os.fchown, to_fd, *owner)
        for name in os.listxattr(from_fd):
            if name.startswith("user."):
                calls.os_call("fsetxattr", os.setxattr, to_fd, name, os.getxattr(from_fd, name))
        os.fchmod(to_fd, stat.S_IMODE(status.st_mode))
        os.utime(to_fd, ns=(status.st_atime_ns, status.st_mtime_ns))


def _owner(status: os.stat_result, uid_maps: Maps, gid_maps: Maps) -> tuple[int, int] | None:
    if not uid_maps:
        return None
    return _shift(status.st_uid, uid_maps), _shift(status.st_gid, gid_maps)


NOBODY = 65534
DEEPEST = 200  # directories in one another that a copy follows: two descriptors each are open


def _shift(number: int, maps: Maps) -> int:
    for wanted in (number, NOBODY):
        found = idmap.to_host(maps, wanted)
        if found is not None:
            return found
    return maps[0][1]


def remove_cgroup(directory: str, deadline: float = 5.0) -> None:
    """Remove a group with the groups below it, whose processes have ended or are ending.

    A process that is gone from /proc may hold its group for a moment yet, hence EBUSY is waited out
    for `deadline` seconds.  Raises KernelError.
    """
    end = time.monotonic() + deadline
    pause = 0.0005
    while True:
        try:
            os.rmdir(directory)
            return
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno != 16 or time.monotonic() > end:
                raise KernelError(error.errno or 0, "rmdir", (directory,)) from None
        _remove_groups_below(directory)
        time.sleep(pause)
        pause = min(pause * 2, 0.05)


def _remove_groups_below(directory: str) -> None:
    try:
        with os.scandir(directory) as entries:
            below = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return
    for path in below:
        _remove_groups_below(path)
        try:
            os.rmdir(path)
        except OSError:
            pass  # busy still, or gone: the caller tries again
