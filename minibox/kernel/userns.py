"""User namespaces made for one purpose: a mount's id map, or work that needs somebody else's ids."""

from __future__ import annotations

import os

from minibox.errors import KernelError
from minibox.kernel import calls
from minibox.kernel import consts as c

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Maps = tuple[tuple[int, int, int], ...]


def write_map(pid: int, kind: str, maps: Maps) -> None:
    """/proc/PID/uid_map or gid_map, once and for all: user_namespaces(7)."""
    calls.write_file(f"/proc/{pid}/{kind}_map", "".join("{} {} {}\n".format(*line) for line in maps))


def run_tool(tool: str, pid: int, maps: Maps) -> None:
    """newuidmap(1) or newgidmap(1): the set-uid programs that let an ordinary user map subordinate ids.

    Raises KernelError (EPERM) with what the tool said.
    """
    argv = [tool, str(pid), *(str(number) for line in maps for number in line)]
    reading, writing = os.pipe()
    try:
        actions = [(os.POSIX_SPAWN_DUP2, writing, 1), (os.POSIX_SPAWN_DUP2, writing, 2)]
        child = calls.os_call("posix_spawn", os.posix_spawn, tool, argv, os.environ, file_actions=actions)
        os.close(writing)
        writing = -1
        said = calls.read_all(reading).strip()
    finally:
        os.close(reading)
        if writing >= 0:
            os.close(writing)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status:
        raise KernelError(1, tool.rpartition("/")[2], (*argv[1:], said or f"exit status {status}"))


def run_inside(uid_maps: Maps, gid_maps: Maps, tools: tuple[str, ...], work: Callable[[], None]) -> None:
    """Do `work` in a child that is root of a new user namespace with these maps.

    `tools` are newuidmap and newgidmap, or empty when the caller may write the maps.  Raises
    KernelError with the errno of what failed in the child.
    """
    first, second = calls.socketpair()
    pid, pidfd = calls.clone3(c.CLONE_NEWUSER)
    if pid == 0:
        os._exit(_inside(first, second, work))
    os.close(second)
    try:
        try:
            _map(pid, uid_maps, gid_maps, tools)
            os.write(first, b"go")
        except BaseException:
            calls.pidfd_send_signal(pidfd, c.SIGNALS["KILL"])
            raise
        finally:
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    finally:
        os.close(first)
        os.close(pidfd)
    if status:
        raise KernelError(status if status > 0 else 4, "work in a user namespace")


def _inside(first: int, second: int, work: Callable[[], None]) -> int:
    """The child's side: its exit status is the errno."""
    try:
        os.close(first)
        if not os.read(second, 16):
            return 4
        calls.setresgid(0)
        calls.setresuid(0)
        work()
        return 0
    except OSError as error:
        return error.errno or 5


def _map(pid: int, uid_maps: Maps, gid_maps: Maps, tools: tuple[str, ...]) -> None:
    for kind, maps, tool in zip(("uid", "gid"), (uid_maps, gid_maps), tools or ("", ""), strict=True):
        if tool:
            run_tool(tool, pid, maps)
        else:
            write_map(pid, kind, maps)


def descriptor(uid_maps: Maps, gid_maps: Maps) -> int:
    """A descriptor of a user namespace with these maps, that no process is in any more."""
    reading, writing = os.pipe()
    pid, pidfd = calls.clone3(c.CLONE_NEWUSER)
    if pid == 0:
        os.close(writing)
        os.read(reading, 1)
        os._exit(0)
    try:
        _map(pid, uid_maps, gid_maps, ())
        return calls.openat(c.AT_FDCWD, f"/proc/{pid}/ns/user", os.O_RDONLY)
    finally:
        os.close(writing)
        os.close(reading)
        os.waitpid(pid, 0)
        os.close(pidfd)
