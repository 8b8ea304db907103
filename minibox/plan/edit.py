"""Plans made out of Plans: steps left out, for experiments and for tests of the tests."""

from __future__ import annotations

from minibox.errors import UsageError
from minibox.plan.model import Plan


def leave_out(plan: Plan, names: tuple[str, ...]) -> Plan:
    """The Plan without the named steps; "mask" also names every "mask.*".  Raises UsageError."""
    gone = set()
    for name in names:
        found = {step.id for step in plan if step.id == name or step.id.startswith(name + ".")}
        if not found:
            raise UsageError(f'no step "{name}" in this plan: minibox plan lists them')
        gone |= found
    return plan.replace(steps=tuple(step for step in plan if step.id not in gone))
