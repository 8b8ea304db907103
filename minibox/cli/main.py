"""The entry: find the verb, run it, end with its code."""

from __future__ import annotations

import os
import sys

from minibox.cli.flags import HelpWanted
from minibox.errors import FAILED, MiniboxError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

#: verb -> (module, what it does)
VERBS = {
    "run": ("run", "run a command in a new container"),
    "plan": ("run", "print what run would do, and do nothing"),
    "exec": ("execute", "run one more command in a container"),
    "ps": ("manage", "list containers"),
    "inspect": ("manage", "print all that is known of a container, as JSON"),
    "verify": ("manage", "compare a running container with its Plan, step by step"),
    "stats": ("resources", "show what containers use"),
    "top": ("resources", "list the processes of a container"),
    "update": ("resources", "change the limits of running containers"),
    "pause": ("resources", "stop every process of containers where it stands"),
    "unpause": ("resources", "let paused containers go on"),
    "events": ("resources", "print what happens to containers, as it happens"),
    "logs": ("manage", "print what a detached container wrote"),
    "kill": ("manage", "send a signal to a container"),
    "stop": ("manage", "ask containers to end, then end them"),
    "wait": ("manage", "wait for containers to end, and print their exit codes"),
    "rm": ("manage", "remove containers"),
    "doctor": ("doctor", "say what this host can do for containers, and how to mend what it cannot"),
    "seccomp": ("seccomp", "explain, list and compare system call filters"),
    "version": ("help", "print the version"),
    "help": ("help", "explain a verb"),
}
GLOBAL = {"--root": "MINIBOX_ROOT", "--data-root": "MINIBOX_DATA"}


def main() -> NoReturn:
    """The `minibox` command: argv to exit code.  Leaves by `os._exit`, which saves 3 ms of tidying up."""
    _open_standard_streams()
    try:
        code = dispatch(sys.argv[1:])
    except MiniboxError as error:
        _say(f"minibox: {error}")
        if isinstance(error, UsageError):
            _say("minibox help lists the verbs and flags")
        code = error.exit_code
    except BrokenPipeError:
        code = FAILED
    except KeyboardInterrupt:
        code = 130
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _say(f"minibox: {where}{error.strerror or error}")
        code = FAILED
    except Exception:
        import traceback

        _say("minibox: internal error, please report it\n" + traceback.format_exc().rstrip())
        code = FAILED
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:  # it was closed when Python started
                stream.flush()
        except OSError:
            code = code or FAILED
    os._exit(code)


def dispatch(argv: list[str]) -> int:
    """Run the verb that argv names; its exit code.  Raises MiniboxError."""
    while argv and argv[0].partition("=")[0] in GLOBAL:
        name, equals, value = argv[0].partition("=")
        if not equals and len(argv) < 2:
            raise UsageError(f"{name} needs a directory")
        os.environ[GLOBAL[name]] = value if equals else argv[1]
        argv = argv[1 if equals else 2 :]
    verb = argv[0] if argv else "help"
    verb = {"--version": "version", "-v": "version", "--help": "help", "-h": "help"}.get(verb, verb)
    if verb not in VERBS:
        import difflib

        near = difflib.get_close_matches(verb, VERBS, 1)
        guess = f"; did you mean {near[0]}?" if near else ""
        raise UsageError(f'unknown verb "{verb}"{guess}')
    module = f"minibox.cli.{VERBS[verb][0]}"
    __import__(module)
    act = getattr(sys.modules[module], verb if verb != "exec" else "execute")
    try:
        return int(act(argv[1:]))
    except HelpWanted as wanted:
        from minibox.cli import help

        return help.help([wanted.verb])


def _open_standard_streams() -> None:
    """A closed stdin, stdout or stderr would be the number of the next file opened, here and in the payload:
    fill the gap."""
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            os.set_inheritable(os.open("/dev/null", os.O_RDWR), True)


def _say(text: str) -> None:
    try:
        os.write(2, text.encode("utf-8", "backslashreplace") + b"\n")
    except OSError:
        pass  # nobody listens; the exit code still tells
