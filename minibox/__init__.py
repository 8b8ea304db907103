"""minibox: a container runtime that people can read, take apart and test.

    result = minibox.run("rootfs/", ["id"], memory="64m")
    with minibox.Sandbox("rootfs/") as box:
        box.exec(["ls", "/"])

The names below are imported when they are first used: importing minibox costs next to nothing.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from minibox.api import Result, Sandbox, run
    from minibox.errors import KernelError, MiniboxError, SpecError, StateError, StepError, UsageError
    from minibox.plan.model import Plan, Step
    from minibox.spec.model import Spec

__version__ = "0.1.0"

_HOMES = {
    "minibox.api": ("run", "Sandbox", "Result"),
    "minibox.errors": (
        "MiniboxError",
        "KernelError",
        "SpecError",
        "StateError",
        "StepError",
        "UsageError",
    ),
    "minibox.plan.model": ("Plan", "Step"),
    "minibox.spec.model": ("Spec",),
}

__all__ = [
    "KernelError",
    "MiniboxError",
    "Plan",
    "Result",
    "Sandbox",
    "Spec",
    "SpecError",
    "StateError",
    "Step",
    "StepError",
    "UsageError",
    "run",
]


def __getattr__(name: str) -> object:
    import sys

    for home, names in _HOMES.items():
        if name in names:
            __import__(home)
            value = getattr(sys.modules[home], name)
            globals()[name] = value
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
