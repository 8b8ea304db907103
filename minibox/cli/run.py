"""`minibox run` and `minibox plan`: the same flags, the same Plan; one performs it, the other prints it."""

from __future__ import annotations

import _signal
import os
import sys

from minibox import fastjson
from minibox.cli import flags
from minibox.errors import SpecError, UsageError
from minibox.runtime import attend
from minibox.runtime.container import Container
from minibox.spec import from_flags, values
from minibox.spec.options import FLAG, PAIR, RUN
from minibox.store.state import Store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import Any

    from minibox.plan.model import Plan, Step
    from minibox.runtime.supervisor import Tracer
    from minibox.runtime.verify import Finding
    from minibox.spec.options import Table

USAGE = "minibox run [FLAG...] ROOTFS [COMMAND [ARG...]]"
PLAN: Table = {
    **RUN,
    "json": (FLAG, "", "", "the Plan as JSON"),
    "diff": (PAIR, "", "'FLAGS' 'FLAGS'", "what changes from one set of flags of run to another"),
}


class Interrupted(BaseException):
    """A signal that asks minibox to end while a container is being made."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Watch:
    """The handler of signals until somebody attends to the payload.

    While it is `armed` the first that asks minibox to end raises Interrupted.  Those that come later are
    kept in `missed`: nothing may interrupt the clearing away, and once the payload runs they are its own.
    """

    def __init__(self) -> None:
        self.armed = True
        self.missed: list[int] = []

    def __call__(self, number: int, _frame: FrameType | None) -> None:
        if self.armed and number in attend.ENDING:
            self.armed = False
            raise Interrupted(number)
        self.missed.append(number)

    def disarm(self) -> None:
        """From now on they are the payload's."""
        self.armed = False


def run(argv: list[str]) -> int:
    """Run a command in a new container and end as it ends."""
    options, words = flags.parse(argv, RUN, "run")
    if not words:
        raise UsageError(f"ROOTFS is missing: {USAGE}")
    check_flags(options)
    name = options["name"] if "name" in options else new_id()
    rootfs, command = words[0], command_words(words)
    options["terminal"] = terminal_streams(options)
    timeout, grace = seconds(options, "timeout"), seconds(options, "stop_timeout")
    store = Store()
    if options.get("detach"):
        return _detached(store, name, rootfs, command, options, timeout)
    try:
        watch = interruptible()
        container = Container.make(store, name, rootfs, command, options, keep=bool(options.get("keep")))
        try:
            container.adopt_orphans()
            say_notes(container.state["notes"], options)
            container.start(tracer(options, container.prepared.plan), watch.disarm)
            say_findings(container.findings)
            attendant = container.attendant(timeout=timeout, grace=grace)
        except BaseException:
            container.discard()
            raise
        return _attended(container, attendant, options, watch)
    except Interrupted as interrupted:
        return 128 + interrupted.number


def _attended(
    container: Container, attendant: attend.Attendant, options: dict[str, Any], watch: Watch
) -> int:
    try:
        attendant.catch_signals()
        for number in watch.missed:
            attendant.pass_on(number)
        if "terminal" in container.ctx.fds:
            attendant.use_terminal(container.ctx.fds["terminal"], options["terminal"])
        write_pidfile(options, container.ctx.pid)
        ended = attendant.run()
    except BaseException:
        container.finish(attendant.abandon())
        raise
    state = container.finish(ended)
    report_end(state, options)
    return ended.code


def report_end(state: dict[str, Any], options: dict[str, Any]) -> None:
    """On stderr: what ended the container, where its exit code alone would leave people guessing."""
    if state["oom_killed"]:
        print(f"minibox: {state['id']}: out of memory: a process was killed (oom_killed)", file=sys.stderr)
    if state["timed_out"]:
        print(f"minibox: {state['id']}: killed after --timeout {options['timeout']}", file=sys.stderr)
    for failure in state.get("left_behind", ()):
        print(f"minibox: {state['id']}: left behind: {failure}", file=sys.stderr)


def _detached(
    store: Store,
    name: str,
    rootfs: str,
    command: tuple[str, ...],
    options: dict[str, Any],
    timeout: float | None,
) -> int:
    from minibox.runtime import monitor

    keep = not options.get("rm")
    try:
        interruptible()
        monitor.detach(
            lambda: Container.make(store, name, rootfs, command, options, keep=keep),
            timeout=timeout,
            preserved=from_flags.preserved(options),
            pidfile=lambda pid: write_pidfile(options, pid),
        )
    except Interrupted as interrupted:
        return 128 + interrupted.number
    print(name)
    return 0


def check_flags(options: dict[str, Any]) -> None:
    """Flags that contradict one another.  Raises UsageError."""
    for first, second in (
        ("tty", "no_tty"),
        ("rm", "keep"),
        ("writable", "read_only"),
        ("no_new_privs", "allow_new_privs"),
        ("detach", "trace"),
    ):
        if options.get(first) and options.get(second):
            raise UsageError(
                f"--{first.replace('_', '-')} and --{second.replace('_', '-')} contradict one another"
            )


def command_words(words: list[str]) -> tuple[str, ...]:
    """The command behind ROOTFS or ID, with or without a "--" between."""
    return tuple(words[2:] if words[1:2] == ["--"] else words[1:])


def new_id() -> str:
    """Twelve random hexadecimal digits."""
    return os.urandom(6).hex()


def terminal_streams(options: dict[str, Any]) -> tuple[int, ...]:
    """Which of 0, 1 and 2 are to be a new terminal: as asked, else those that are terminals now."""
    if options.get("no_tty"):
        return ()
    if options.get("tty"):
        return (0, 1, 2)
    if options.get("detach"):
        return ()
    return tuple(fd for fd in (0, 1, 2) if os.isatty(fd))


def seconds(options: dict[str, Any], key: str) -> float | None:
    """A duration option in seconds."""
    text = options.get(key)
    return None if text is None else values.seconds(text, f"--{key.replace('_', '-')}")


def write_pidfile(options: dict[str, Any], pid: int) -> None:
    """The payload's pid into --pidfile, whole or not at all."""
    path = options.get("pidfile")
    if path:
        temporary = f"{path}.{os.getpid()}"
        try:
            with open(temporary, "w", encoding="ascii") as file:
                file.write(f"{pid}\n")
            os.rename(temporary, path)
        except OSError as error:
            raise SpecError("--pidfile", f"{path}: {error.strerror}") from None


def say_findings(findings: list[Finding]) -> None:
    """What --verify has found, in a line; a missing step is an error before this."""
    if findings:
        from minibox.runtime import verify

        print(f"minibox: {verify.lines(findings, everything=False)[-1]}", file=sys.stderr)


def say_notes(notes: list[str], options: dict[str, Any]) -> None:
    """What a person should know of the Plan, where a person is likely to read it."""
    if os.isatty(2) or options.get("trace"):
        for note in notes:
            print(f"minibox: note: {note}", file=sys.stderr)


def interruptible() -> Watch:
    """Signals end the making of a container in good order; later they are the payload's."""
    watch = Watch()
    for number in (*attend.ENDING, *attend.USER):
        if _signal.getsignal(number) != _signal.SIG_IGN:  # nohup stays nohup
            _signal.signal(number, watch)
    return watch


# --- tracing ---------------------------------------------------------------------------------------


def tracer(options: dict[str, Any], plan: Plan) -> Tracer | None:
    """What --trace asks for: lines on stderr, or JSON lines in a file."""
    where = options.get("trace")
    if not where:
        return None
    if where is True:
        return _print_step(len(plan))
    try:
        file = open(where, "w", encoding="utf-8")  # noqa: SIM115  (it stays open as long as the run)
    except OSError as error:
        raise SpecError("--trace", f"{where}: {error.strerror}") from None

    def write(number: int, step: Step, micros: int, note: str) -> None:
        line = {
            "n": number,
            "id": step.id,
            "side": step.side,
            "call": step.op.describe(),
            "us": micros,
            "note": note,
        }
        file.write(fastjson.dumps(line) + "\n")
        file.flush()

    return write


def _print_step(total: int) -> Tracer:
    def write(number: int, step: Step, micros: int, note: str) -> None:
        side = {"supervisor": "host", "joiner": "join", "child": "container"}[step.side]
        result = f"  -> {note}" if note else ""
        line = f"{number:3}/{total} {micros:6} us  {side:9}  {step.id}  {step.op.describe()}{result}\n"
        os.write(2, line.encode("utf-8", "backslashreplace"))

    return write


# --- plan ------------------------------------------------------------------------------------------


def plan(argv: list[str]) -> int:
    """Print the Plan of a run, or what differs between two."""
    options, words = flags.parse(argv, PLAN, "plan")
    from minibox.plan import show

    if not words:
        raise UsageError("ROOTFS is missing: minibox plan [FLAG...] ROOTFS [COMMAND [ARG...]]")
    pair = options.pop("diff", None)
    if pair is not None:
        first, second = (_plan_of(text.split(), words, options) for text in pair)
        print("\n".join(show.diff(first, second)) or "no difference")
        return 0
    found = _plan_of([], words, options)
    if options.get("json"):
        import json

        print(json.dumps(found.to_json(), indent=2))
    else:
        print("\n".join(show.lines(found)))
    return 0


def _plan_of(extra: list[str], words: list[str], options: dict[str, Any]) -> Plan:
    from minibox.runtime import prepare

    more, rest = flags.parse(extra, RUN, "run")
    if rest:
        raise UsageError(f'"{rest[0]}" is no flag of run')
    merged = {**options, **more}
    check_flags(merged)
    merged["terminal"] = terminal_streams(merged)
    name = merged.get("name") or "container"
    prepared = prepare.container(Store(), name, words[0], command_words(words), merged, reserve=False)
    return prepared.plan
