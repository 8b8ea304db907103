"""`minibox help` and `minibox version`: texts made from the tables that the verbs read argv by."""

from __future__ import annotations

import sys

from minibox.cli import flags, main
from minibox.spec.options import LIST, MAYBE, RUN

TYPE_CHECKING = False
if TYPE_CHECKING:
    from minibox.spec.options import Table

WORDS = {
    "run": "ROOTFS [COMMAND [ARG...]]",
    "plan": "ROOTFS [COMMAND [ARG...]]",
    "exec": "ID COMMAND [ARG...]",
    "ps": "",
    "inspect": "ID...",
    "verify": "ID...",
    "stats": "[ID...]",
    "top": "ID [PS-ARG...]",
    "update": "ID...",
    "pause": "ID...",
    "unpause": "ID...",
    "events": "[ID...]",
    "logs": "ID",
    "kill": "ID...",
    "stop": "ID...",
    "wait": "ID...",
    "rm": "ID...",
    "doctor": "[ROOTFS]",
    "seccomp": "explain|show|diff PROFILE|ID ...",
    "version": "",
    "help": "[VERB]",
}


def version(_argv: list[str]) -> int:
    """Print the version."""
    import minibox

    print(f"minibox {minibox.__version__} (Python {sys.version.split()[0]})")
    return 0


def help(argv: list[str]) -> int:
    """Print the verbs, or the flags of one."""
    if not argv or argv[0] not in main.VERBS:
        print("minibox [--root DIR] [--data-root DIR] VERB [FLAG...] ...\n")
        for name, (_module, text) in main.VERBS.items():
            print(f"  {name:9} {text}")
        print("\nminibox help VERB lists its flags.  First steps: scripts/minibox run rootfs/ sh")
        return 0
    verb = argv[0]
    print(f"minibox {verb} [FLAG...] {WORDS[verb]}".rstrip())
    print(f"\n{main.VERBS[verb][1]}\n")
    for name, (kind, short, value, text) in table(verb).items():
        shown = f"-{short}, --{name}" if short else f"    --{name}"
        if value:
            shown += f"[={value}]" if kind == MAYBE else f" {value}"
        many = " (repeatable)" if kind == LIST else ""
        print(f"  {shown:38} {text}{many}" if len(shown) < 38 else f"  {shown}\n{'':41}{text}{many}")
    if verb in ("run", "plan"):
        print(
            "\nA namespace is new (the default), host, container:ID or ns:/PATH.\n"
            "Exit codes: the command's own, 128 + N for signal N, 125 when minibox failed,\n"
            "126 when the command cannot be run, 127 when it is not found."
        )
    return 0


def table(verb: str) -> Table:
    """The flags of a verb."""
    from minibox.cli import doctor, execute, manage, resources, run, seccomp

    tables: dict[str, Table] = {
        "run": RUN,
        "plan": run.PLAN,
        "exec": execute.EXEC,
        "ps": manage.PS,
        "verify": manage.VERIFY,
        "stats": resources.STATS,
        "update": resources.UPDATE,
        "events": resources.EVENTS,
        "logs": manage.LOGS,
        "kill": manage.KILL,
        "stop": manage.STOP,
        "rm": manage.RM,
        "doctor": doctor.DOCTOR,
        "seccomp": seccomp.SECCOMP,
    }
    return {**tables.get(verb, {}), **flags.HELP}
