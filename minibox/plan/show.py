"""A Plan for a person to read: the list, and what differs between two."""

from __future__ import annotations

from minibox.plan.model import Plan, Step

SIDE_NAMES = {"supervisor": "host", "joiner": "join", "child": "    container"}


def lines(plan: Plan) -> list[str]:
    """The Plan as text: a numbered line a step, its reason and its guards below."""
    shown = [f"note: {note}" for note in plan.notes]
    width = max((len(step.id) for step in plan), default=0)
    for number, step in enumerate(plan, 1):
        shown.append(f"{number:3}  {step.id:{width}}  {SIDE_NAMES[step.side]:13}  {step.op.describe()}")
        guards = f"  [stops {', '.join(step.guards)}]" if step.guards else ""
        shown.append(f"{'':5}{'':{width}}  {'':13}  {step.why} {step.man}{guards}")
    return shown


def diff(first: Plan, second: Plan) -> list[str]:
    """What changes from one Plan to another: "- " for a step that goes, "+ " for one that comes."""
    shown = [f"- note: {note}" for note in first.notes if note not in second.notes]
    shown += [f"+ note: {note}" for note in second.notes if note not in first.notes]
    before = {step.id: step for step in first}
    after = {step.id: step for step in second}
    for name in _merged([step.id for step in first], [step.id for step in second]):
        old, new = before.get(name), after.get(name)
        if old is not None and new is not None and old.op == new.op and old.side == new.side:
            continue
        if old is not None:
            shown.append(_line("-", old))
        if new is not None:
            shown.append(_line("+", new))
    return shown


def _line(sign: str, step: Step) -> str:
    return f"{sign} {step.id}  {SIDE_NAMES[step.side].strip()}  {step.op.describe()}"


def _merged(first: list[str], second: list[str]) -> list[str]:
    """Both orders in one: a name that only the second has comes behind the one it follows there."""
    merged = list(first)
    place = 0
    for name in second:
        if name in merged:
            place = merged.index(name) + 1
        else:
            merged.insert(place, name)
            place += 1
    return merged
