"""JSON for the verbs that start cold: the C half of the standard library's module without the other.

`import json` brings `re` along and costs 7 ms; the scanner and the encoder that it wraps are C
types that can be used alone.  The child of a clone may use this module too: it imports nothing.
"""

from __future__ import annotations

import _json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class _Options:
    """What `_json.make_scanner` reads its settings from: the defaults of `json.JSONDecoder`."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = float
    memo: dict[str, str] = {}  # noqa: RUF012  (the scanner's own, emptied by it)


def _unknown(value: object) -> object:
    raise TypeError(f"no JSON for {type(value).__name__}")


_scan = _json.make_scanner(_Options)  # type: ignore[arg-type]
_encode = _json.make_encoder(
    None, _unknown, _json.encode_basestring_ascii, None, ": ", ", ", False, False, True
)


def dumps(value: Any) -> str:
    """One line of ASCII.  Lone surrogates, as `os.fsdecode` makes them, survive the round trip."""
    return "".join(_encode(value, 0))


def loads(text: str) -> Any:
    """The value of a JSON text.  Raises ValueError when it is not one."""
    start = len(text) - len(text.lstrip(" \t\r\n"))
    try:
        value, end = _scan(text, start)
    except StopIteration as stop:
        raise ValueError(f"not JSON: nothing to read at character {stop.value}") from None
    except SystemError:  # the C scanner finds its exception class only where `json` is loaded
        import json

        return json.loads(text)
    if text[end:].strip(" \t\r\n"):
        raise ValueError(f"not JSON: more text at character {end}")
    return value
