"""Immutable values with named fields."""

from __future__ import annotations

from typing import ClassVar

import pytest

from minibox.record import Record


class Point(Record):
    LIMIT: ClassVar[int] = 9
    x: int
    y: int = 2


class Named(Point):
    name: str = ""


class Line(Record):
    NESTED = {"start": Point, "others": (Point,)}  # noqa: RUF012

    start: Point
    others: tuple[Point, ...] = ()
    tags: tuple[tuple[str, int], ...] = ()


def test_fields_and_defaults():
    assert (Point(x=1).x, Point(x=1).y, Point(x=1, y=5).y, Point.LIMIT) == (1, 2, 5, 9)
    assert Named(x=1, name="n") == Named(name="n", y=2, x=1)
    assert list(Named(x=1).__dict__) == ["x", "y", "name"]


@pytest.mark.parametrize("values", [{}, {"y": 1}, {"x": 1, "z": 2}, {"z": 2}])
def test_missing_and_unknown_fields_are_errors(values):
    with pytest.raises(TypeError, match=r"^Point: "):
        Point(**values)


def test_positions_are_not_fields():
    with pytest.raises(TypeError):
        Point(1, 2)  # type: ignore[misc]


def test_a_value_does_not_change():
    point = Point(x=1)
    with pytest.raises(AttributeError, match="immutable"):
        point.x = 2  # type: ignore[misc]
    assert point.replace(x=2) == Point(x=2)
    assert point == Point(x=1)


def test_equality_is_of_kind_and_values():
    assert Point(x=1) == Point(x=1)
    assert Point(x=1) != Point(x=2)
    assert Point(x=1) != Named(x=1)
    assert Point(x=1) != (1, 2)
    assert len({Point(x=1), Point(x=1), Point(x=2), Named(x=1)}) == 3


def test_it_reads_as_it_is_made():
    assert repr(Point(x=1)) == "Point(x=1, y=2)"
    assert eval(repr(Line(start=Point(x=1)))) == Line(start=Point(x=1))


def test_json_and_back():
    line = Line(start=Point(x=1), others=(Point(x=2), Point(x=3)), tags=(("a", 1),))
    data = line.to_json()
    assert data == {
        "start": {"x": 1, "y": 2},
        "others": [{"x": 2, "y": 2}, {"x": 3, "y": 2}],
        "tags": [["a", 1]],
    }
    assert Line.from_json(data) == line
    assert Line.from_json({"start": {"x": 1}}) == Line(start=Point(x=1))


@pytest.mark.parametrize(
    "data", [{}, {"start": {}}, {"start": {"x": 1, "q": 1}}, {"start": {"x": 1}, "q": 1}]
)
def test_json_that_does_not_fit(data):
    with pytest.raises(TypeError):
        Line.from_json(data)
