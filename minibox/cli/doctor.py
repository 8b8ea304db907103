"""`minibox doctor`: what this host can do for containers, why not more, and what mends it."""

from __future__ import annotations

from minibox.cli import flags
from minibox.errors import UsageError
from minibox.spec.options import FLAG

TYPE_CHECKING = False
if TYPE_CHECKING:
    from minibox.spec.options import Table

DOCTOR: Table = {"json": (FLAG, "", "", "as JSON")}


def doctor(argv: list[str]) -> int:
    """Print an examination of the host; 0 when `minibox run` with defaults would work, else 1."""
    from minibox.doctor import cgroups, kernel, mounts, places, report, root, users, whole
    from minibox.doctor.case import Case
    from minibox.store.state import Store

    options, words = flags.parse(argv, DOCTOR, "doctor")
    if words and words[-1] == "--json":
        options["json"] = True
        words.pop()
    if len(words) > 1:
        raise UsageError("minibox doctor [--json] [ROOTFS]")
    checks = (
        *kernel.CHECKS, *users.CHECKS, *mounts.CHECKS, *cgroups.CHECKS, *places.CHECKS,
        *(root.CHECKS if words else ()), *whole.CHECKS,
    )  # fmt: skip
    found = report.examine(Case(Store(), words[0] if words else ""), checks)
    if options.get("json"):
        import json

        print(json.dumps(found.to_json(), indent=2))
    else:
        for line in found.lines():
            print(line)
    return 0 if found.works else 1
