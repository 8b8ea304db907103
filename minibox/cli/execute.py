"""`minibox exec`: one more command in a running container."""

from __future__ import annotations

import os
import sys

from minibox.cli import flags, run
from minibox.errors import UsageError
from minibox.runtime.command import Command
from minibox.spec.options import FLAG, PROCESS, RUN
from minibox.store.state import Store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from minibox.spec.options import Table

USAGE = "minibox exec [FLAG...] ID COMMAND [ARG...]"
EXEC: Table = {
    **PROCESS,
    "timeout": RUN["timeout"],
    "show-denials": RUN["show-denials"],
    "ignore-paused": (FLAG, "", "", "in a paused container: wait until it goes on"),
}


def execute(argv: list[str]) -> int:
    """Run a command in a container and end as it ends; with --detach leave it running."""
    options, words = flags.parse(argv, EXEC, "exec")
    if len(words) < 2:
        raise UsageError(f"{'COMMAND' if words else 'ID'} is missing: {USAGE}")
    run.check_flags(options)
    options["terminal"] = run.terminal_streams(options)
    store = Store()
    name = store.find(words[0])
    detach = bool(options.get("detach"))
    timeout = run.seconds(options, "timeout")
    try:
        watch = run.interruptible()
        command = Command(store, name, run.command_words(words), options, outlive=detach)
        if detach:
            null = os.open("/dev/null", os.O_RDWR)
            command.ctx.streams = {0: null, 1: null, 2: null}
        command.start(run.tracer(options, command.prepared.plan), watch.disarm)
    except run.Interrupted as interrupted:
        return 128 + interrupted.number
    attendant = command.attendant(timeout=timeout)
    try:
        run.write_pidfile(options, command.ctx.pid)
    except BaseException:
        attendant.abandon()
        command.finish()
        raise
    if detach:
        return 0
    attendant.catch_signals()
    for number in watch.missed:
        attendant.pass_on(number)
    if "terminal" in command.ctx.fds:
        attendant.use_terminal(command.ctx.fds["terminal"], options["terminal"])
    ended = attendant.run()
    command.finish()
    if ended.timed_out:
        print(
            f"minibox: {name}: the command was killed after --timeout {options['timeout']}", file=sys.stderr
        )
    return ended.code
