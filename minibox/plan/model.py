"""Step and Plan: the values that everything else in minibox is a function over."""

from __future__ import annotations

from minibox.plan import ops
from minibox.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any, Self

#: who performs a step: the supervisor, the short-lived joiner of existing namespaces, the new process
SIDES = ("supervisor", "joiner", "child")


class Step(Record):
    """One kernel operation in its place.

    `id` is stable and dotted, `side` one of SIDES, `why` one sentence, `man` a manual page, `guards` the
    ids of the threats (docs/threats.md) that the step stops.  `undo` is what takes away that which the
    step leaves on the host.
    """

    id: str
    side: str
    op: ops.Op
    why: str
    man: str
    guards: tuple[str, ...] = ()
    undo: ops.Op | None = None

    def to_json(self) -> dict[str, Any]:
        """The step as plain data."""
        data = dict(self.__dict__)
        data["op"] = ops.to_json(self.op)
        data["undo"] = None if self.undo is None else ops.to_json(self.undo)
        data["guards"] = list(self.guards)
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`."""
        undo = data["undo"]
        return cls(
            **{
                **data,
                "op": ops.from_json(data["op"]),
                "undo": None if undo is None else ops.from_json(undo),
                "guards": tuple(data["guards"]),
            }
        )


class Plan(Record):
    """The steps of one container, both sides, in order; `notes` say what a reader should not miss."""

    NESTED = {"steps": (Step,)}  # noqa: RUF012

    steps: tuple[Step, ...]
    notes: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[Step]:
        return iter(self.steps)

    def __len__(self) -> int:
        return len(self.steps)

    def __contains__(self, step_id: object) -> bool:
        return any(step.id == step_id for step in self.steps)

    def __getitem__(self, step_id: str) -> Step:
        for step in self.steps:
            if step.id == step_id:
                return step
        raise KeyError(step_id)

    def index(self, step_id: str) -> int:
        """The place of a step, counted from 1, as it is printed."""
        return next(place for place, step in enumerate(self.steps, 1) if step.id == step_id)
