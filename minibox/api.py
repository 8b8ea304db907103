"""The library: `run` for one command, `Sandbox` for many in one container.

Facts: a caller may have threads, signal handlers and descriptors of its own.  So nothing here touches
signals or the caller's streams; a payload's streams are pipes that one loop serves, in the calling
thread; and the clone runs Python's own fork hooks.
"""

from __future__ import annotations

import os

from minibox.errors import StateError
from minibox.record import Record
from minibox.runtime.command import Command
from minibox.runtime.container import Container
from minibox.spec.options import FLAG, LIST, MAYBE, RUN
from minibox.store.state import Store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from types import TracebackType
    from typing import Any, Self, TypedDict, Unpack

    from minibox.plan.context import Context
    from minibox.plan.model import Plan
    from minibox.runtime.attend import Attendant, Exit
    from minibox.seccomp.denials import Denial

    Text = str | os.PathLike[str]

    class Options(TypedDict, total=False):
        """The keywords of `run` and `Sandbox`; docs/library.md explains each.  They are the flags of
        `minibox run` (without the dashes), with lists where a flag can be repeated."""

        name: str
        network: str
        pid: str
        ipc: str
        uts: str
        cgroupns: str
        userns: str
        mntns: str
        timens: str
        time_offset: Sequence[str]
        uidmap: Sequence[str]
        gidmap: Sequence[str]
        memory: int | str
        memory_swap: int | str
        pids_limit: int
        cpus: float
        cpu_shares: int
        cpuset_cpus: str
        user: str | int
        group_add: Sequence[str]
        workdir: Text
        env: Mapping[str, str]
        mounts: Sequence[str]
        tmpfs: Sequence[str]
        read_only: bool
        writable: bool
        caps: Sequence[str]
        cap_drop: Sequence[str]
        cap_ambient: Sequence[str]
        seccomp: str | Mapping[str, object]
        seccomp_notify: object
        show_denials: bool | str
        privileged: bool
        allow_new_privs: bool
        init: bool
        hostname: str
        domainname: str
        ulimit: Mapping[str, str]
        sysctl: Mapping[str, str]
        annotation: Mapping[str, str]
        oom_score_adj: int
        umask: int

    class CommandOptions(TypedDict, total=False):
        """The keywords of `Sandbox.exec` besides its own."""

        user: str | int
        group_add: Sequence[str]
        workdir: Text
        env: Mapping[str, str]


#: flags that mean something on a command line only
COMMAND_LINE_ONLY = frozenset(
    ("interactive", "tty", "no_tty", "detach", "pidfile", "trace", "rm", "keep", "timeout", "stop_timeout")
)
#: keywords whose names differ from the flags'
RENAMED = {"mounts": "volume", "caps": "cap_add"}


class Usage(Record):
    """What a payload used: seconds of processor time, bytes of memory at its peak, seconds of time.

    `peak_memory` is the cgroup's count where there is one, else the largest single process.
    """

    cpu_user: float
    cpu_system: float
    peak_memory: int
    wall: float


class Result(Record):
    """How a command ended.

    `exit_code` is its own, or 128 + N for signal N.  `stdout` and `stderr` are bytes, empty when they were
    not captured.  `denials` are the calls that the filter refused, with `show_denials`.
    """

    exit_code: int
    stdout: bytes
    stderr: bytes
    oom_killed: bool
    timed_out: bool
    usage: Usage
    denials: tuple[Denial, ...] = ()

    def check(self) -> Result:
        """The result itself, when the exit code is 0.  Raises CalledProcessError."""
        if self.exit_code:
            from subprocess import CalledProcessError

            raise CalledProcessError(self.exit_code, "minibox", self.stdout, self.stderr)
        return self


def run(
    rootfs: Text,
    argv: Sequence[str] = (),
    *,
    stdin: bytes | None = None,
    timeout: float | None = None,
    capture: bool = True,
    **options: Unpack[Options],
) -> Result:
    """Run `argv` (default: sh) in a new container over the directory `rootfs`, and wait for its end.

    `stdin` is what the command reads; None is an empty one.  `timeout` is in seconds, after which the
    container is killed.  With `capture` False stdout and stderr are the caller's own.  The other keywords
    are those of `Options`.

    Raises StepError when a step of the Plan fails (its `exit_code` is 127 when the command was not found,
    126 when it cannot be run), SpecError for a value that makes no container, StateError for a name that
    is in use.  Nothing is left behind then.
    """
    flags = as_flags(options)
    name = flags.pop("name", None) or _new_id()
    container = Container.make(Store(), name, os.fspath(rootfs), tuple(argv), flags)
    _keep_denials(container.ctx)
    streams = _Streams(stdin, capture)
    attendant = None
    try:
        container.ctx.streams = streams.theirs
        container.start()
        attendant = container.attendant(timeout=timeout)
        streams.close_theirs()
        ended = streams.communicate(attendant)
    except BaseException:
        streams.close()
        if attendant is not None:  # the caller was interrupted while the payload ran
            container.finish(attendant.abandon())
        else:
            container.discard()
        raise
    return _result(ended, streams, container.finish(ended), container.ctx)


class Sandbox:
    """A container that stays up for many commands; a context manager.

    Its PID 1 does nothing but reap.  Keywords are those of `run`.  Files written by one command are there
    for the next, and gone at the end.  Not for several threads at once.
    """

    def __init__(self, rootfs: Text, **options: Unpack[Options]) -> None:
        flags = as_flags(options)
        self.name: str = flags.pop("name", None) or _new_id()
        self._store = Store()
        flags["init"] = "pause"
        # The death signal follows the thread that cloned, which may end before this process does: PID 1
        # ends when its stdin does instead, whose other end is kept here.
        self._container: Container | None = Container.make(
            self._store,
            self.name,
            os.fspath(rootfs),
            ("pause",),
            flags,
            leave_out=("process.death-signal",),
        )
        _keep_denials(self._container.ctx)
        reading, self._lifeline = os.pipe()
        null = os.open("/dev/null", os.O_WRONLY | os.O_CLOEXEC)
        try:
            self._container.ctx.streams = {0: reading, 1: null, 2: null}
            self._container.start()
        except BaseException:
            os.close(self._lifeline)
            raise
        finally:
            os.close(null)
            os.close(reading)

    @property
    def pid(self) -> int:
        """The host's number of its PID 1.  Raises StateError once it is closed."""
        return self._up().ctx.pid

    @property
    def plan(self) -> Plan:
        """The Plan that made it."""
        return self._up().prepared.plan

    def _up(self) -> Container:
        if self._container is None:
            raise StateError(f"sandbox {self.name} is closed")
        return self._container

    def exec(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes | None = None,
        timeout: float | None = None,
        capture: bool = True,
        **options: Unpack[CommandOptions],
    ) -> Result:
        """Run one more command in it and wait for its end.  Raises StepError as `run` does."""
        from minibox.runtime import live

        groups = self._up().groups
        kills_before = live.oom_kills(groups)
        listener = self._up().ctx.listener
        handler = None if listener is None else listener.handler
        command = Command(self._store, self.name, tuple(argv), as_flags(options), handler=handler)
        _keep_denials(command.ctx)
        streams = _Streams(stdin, capture)
        attendant = None
        try:
            command.ctx.streams = streams.theirs
            command.start()
            attendant = command.attendant(timeout=timeout)
            streams.close_theirs()
            ended = streams.communicate(attendant)
        except BaseException:
            streams.close()
            if attendant is not None:
                attendant.abandon()
                command.finish()
            raise
        command.finish()
        state = {
            "oom_killed": live.oom_kills(groups) > kills_before,
            "memory_peak": ended.max_rss,
        }
        return _result(ended, streams, state, command.ctx)

    def close(self) -> None:
        """End it and remove everything."""
        if self._container is not None:
            container, self._container = self._container, None
            attendant = container.attendant()
            attendant.kill()
            container.finish(attendant.run())
            os.close(self._lifeline)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Streams:
    """A payload's stdin, stdout and stderr as pipes, and what came out of them."""

    def __init__(self, stdin: bytes | None, capture: bool) -> None:
        self.stdin = stdin
        self.output: dict[int, list[bytes]] = {1: [], 2: []}
        self.theirs: dict[int, int] = {}
        self.ours: dict[int, int] = {}
        if stdin is None:
            self.theirs[0] = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        else:
            self.theirs[0], self.ours[0] = os.pipe()
        if capture:
            for number in (1, 2):
                self.ours[number], self.theirs[number] = os.pipe()

    def close_theirs(self) -> None:
        """The payload has its own copies by now."""
        for fd in self.theirs.values():
            os.close(fd)
        self.theirs = {}

    def communicate(self, attendant: Attendant) -> Exit:
        """Serve the pipes until the payload's end."""
        for number in (1, 2):
            if number in self.ours:
                attendant.read(self.ours.pop(number), self.output[number].append)
        if 0 in self.ours:
            attendant.write(self.ours.pop(0), self.stdin or b"")
        return attendant.run()

    def close(self) -> None:
        """Everything that is still open."""
        self.close_theirs()
        for fd in self.ours.values():
            os.close(fd)
        self.ours = {}


def _keep_denials(ctx: Context) -> None:
    """They are for the Result, not for the caller's stderr."""
    if ctx.listener is not None and ctx.listener.denials is not None:
        ctx.listener.report = None


def _denials(ctx: Context) -> tuple[Denial, ...]:
    found = ctx.listener.denials if ctx.listener is not None else None
    return () if found is None else tuple(found.found)


def _result(ended: Exit, streams: _Streams, state: dict[str, Any], ctx: Context) -> Result:
    return Result(
        exit_code=ended.code,
        stdout=b"".join(streams.output[1]),
        stderr=b"".join(streams.output[2]),
        oom_killed=state["oom_killed"],
        timed_out=ended.timed_out,
        usage=Usage(
            cpu_user=ended.cpu_user,
            cpu_system=ended.cpu_system,
            peak_memory=state["memory_peak"],
            wall=ended.wall,
        ),
        denials=_denials(ctx),
    )


def as_flags(options: Mapping[str, Any]) -> dict[str, Any]:
    """Keywords as the values that flags have: text, lists of text, True.  Raises TypeError."""
    found: dict[str, Any] = {}
    for key, value in options.items():
        name = RENAMED.get(key, key)
        entry = RUN.get(name.replace("_", "-"))
        if entry is None or name in COMMAND_LINE_ONLY:
            raise TypeError(f'minibox has no option "{key}"')
        if value is None or value is False:
            continue
        if name == "umask" and isinstance(value, int):
            value = f"{value:o}"
        if entry[0] == LIST:
            found[name] = _texts(value)
        elif entry[0] in (FLAG, MAYBE) or name == "seccomp" or hasattr(value, "handle"):
            found[name] = value
        else:
            found[name] = os.fspath(value) if isinstance(value, os.PathLike) else str(value)
    return found


def _texts(value: Mapping[str, Any] | Iterable[Any] | str) -> list[str]:
    if isinstance(value, str):
        raise TypeError(f"a list is wanted, not the text {value!r}")
    if hasattr(value, "items"):
        return [f"{key}={one}" for key, one in value.items()]
    return [os.fspath(one) if isinstance(one, os.PathLike) else str(one) for one in value]


def _new_id() -> str:
    return os.urandom(6).hex()
