"""Immutable values with named fields: what a frozen dataclass is, for a hundredth of its start-up cost.

`dataclasses` costs 16 ms to import and half a millisecond a class, as it generates code; a command
that starts cold for each container cannot pay that.  Type checkers see a dataclass all the same.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, ClassVar, Self, dataclass_transform
else:

    def dataclass_transform(**_: object) -> object:
        return lambda cls: cls


@dataclass_transform(kw_only_default=True, frozen_default=True)
class Record:
    """A value: annotated names are its fields, assigned values their defaults.

    A field whose values are Records themselves is named in `NESTED`, so that `from_json` can make
    them again: `NESTED = {"root": Root}` for one, `{"mounts": (Mount,)}` for a tuple of them.
    """

    FIELDS: ClassVar[dict[str, Any]] = {}
    NESTED: ClassVar[dict[str, Any]] = {}
    _REQUIRED: ClassVar[object] = object()

    def __init_subclass__(cls) -> None:
        own = cls.__dict__
        fields = dict(cls.FIELDS)
        for name, kind in own.get("__annotations__", {}).items():
            if not kind.startswith("ClassVar"):
                fields[name] = own.get(name, Record._REQUIRED)
        cls.FIELDS = fields

    def __init__(self, **values: Any) -> None:
        fields = self.__dict__
        fields.update(self.FIELDS)
        fields.update(values)
        if len(fields) != len(self.FIELDS) or Record._REQUIRED in fields.values():
            unknown = values.keys() - self.FIELDS.keys()
            missing = [name for name, value in fields.items() if value is Record._REQUIRED]
            raise TypeError(f"{type(self).__name__}: unknown fields {sorted(unknown)}, missing {missing}")

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable: use replace({name}=...)")

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.__dict__ == other.__dict__

    def __hash__(self) -> int:
        return hash((type(self), *self.__dict__.values()))

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={value!r}" for name, value in self.__dict__.items())
        return f"{type(self).__name__}({fields})"

    def replace(self, **values: Any) -> Self:
        """A copy with other values in the named fields."""
        return type(self)(**{**self.__dict__, **values})

    def to_json(self) -> dict[str, Any]:
        """Dicts, lists, strings, numbers, booleans and None only."""
        return {name: _plain(value) for name, value in self.__dict__.items()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`.  Raises TypeError on a missing or unknown field."""
        values = {name: _frozen(value) for name, value in data.items()}
        for name, kind in cls.NESTED.items():
            value = data.get(name)
            if value is not None:
                many = isinstance(kind, tuple)
                values[name] = (
                    tuple(kind[0].from_json(one) for one in value) if many else kind.from_json(value)
                )
        return cls(**values)


def _plain(value: Any) -> Any:
    if isinstance(value, Record):
        return value.to_json()
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    return value


def _frozen(value: Any) -> Any:
    return tuple(_frozen(one) for one in value) if isinstance(value, list) else value
