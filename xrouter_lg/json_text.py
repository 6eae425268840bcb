"""Text and JSON that can be kept and sent: integers of any size, valid Unicode, any key.

The rules, wherever something is stored or goes over the wire: half a surrogate pair becomes U+FFFD;
NUL stays inside JSON, which escapes it, and goes from plain text, which Postgres would refuse;
integers stay exact (one of more digits than Python reads becomes hexadecimal text); keys become
text; NaN and infinity, which JSON has not, become null.
"""

from __future__ import annotations

import base64
import decimal
import json
import math
import re
from collections.abc import Mapping
from datetime import timedelta
from enum import Enum
from typing import Any

import orjson

_BEYOND_64_BITS = re.compile(rb"\d{19}")
"""Such an integer is a float to orjson."""

_MOST_LEVELS = 300
"""Deeper nesting would exhaust Python's stack."""

_MOST_DIGITS = 4300
"""Python's own limit for turning text into an integer or back."""
_MOST_BITS = int(_MOST_DIGITS / math.log10(2)) - 1


def encodable(text: str) -> str:
    """The text with U+FFFD for each lone surrogate; two that are a pair become their character."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def encodable_value(value: Any) -> Any:
    """A JSON value with every text in it encodable; the very same one where nothing was wrong."""
    if isinstance(value, str):
        return encodable(value)
    if isinstance(value, dict):
        found = {encodable_value(key): encodable_value(item) for key, item in value.items()}
        same = all(map(_is, found, value)) and all(map(_is, found.values(), value.values()))
        return value if same else found
    if isinstance(value, list | tuple):
        items = [encodable_value(item) for item in value]
        return value if all(map(_is, items, value)) else items
    return value


def storable(text: str) -> str:
    """Plain text that every database takes: no lone surrogates, no NUL."""
    return encodable(text).replace("\x00", "")


def to_json(value: Any) -> str:
    """JSON text of anything; what JSON doesn't know becomes a string."""
    try:
        return orjson.dumps(value, default=_leaf, option=orjson.OPT_NON_STR_KEYS).decode()
    except TypeError:  # a lone surrogate, an integer beyond 64 bits, a key that is a tuple
        text = json.dumps(_plain(value), default=_leaf_text, ensure_ascii=False)
        return encodable(text)


def from_json(text: str | bytes) -> Any:
    """The value of JSON text, its integers exact. Takes NaN, which Python's ``json`` writes.

    Raises:
        ValueError: it is no JSON.
    """
    raw = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    if _BEYOND_64_BITS.search(raw) is None:
        try:
            return orjson.loads(raw)
        except orjson.JSONDecodeError:
            pass
    return json.loads(text, parse_int=_int)


def check_size(value: Any, *, most: int, levels: int = 100) -> None:
    """Refuse a value that its aliases or its depth make larger than anybody can want, before
    anything walks it: what stands in it twice counts twice.

    Raises:
        ValueError: more than ``most`` values in all, or deeper than ``levels``.
    """
    waiting: list[tuple[Any, int]] = [(value, 0)]
    seen = 0
    while waiting:
        item, level = waiting.pop()
        seen += 1
        if isinstance(item, str | bytes) or not isinstance(
            item, Mapping | list | tuple | set | frozenset
        ):
            continue
        if level >= levels:
            raise ValueError(f"it is nested more than {levels} deep")
        if seen + len(waiting) + len(item) > most:
            raise ValueError(f"it holds more than {most:,} values")
        inside = item.values() if isinstance(item, Mapping) else item
        waiting += [(part, level + 1) for part in inside]


_STEERING = dict.fromkeys(
    (
        *range(9),
        *range(11, 32),
        *range(127, 160),
        *range(0x202A, 0x202F),
        *range(0x2066, 0x206A),
    ),
    "\ufffd",
)
"""What moves a terminal's cursor, colours or titles it, or turns the direction of writing."""


def printable(text: str) -> str:
    """A text for a terminal: prompts and names come from others and must not steer it."""
    return text.replace("\r\n", "\n").translate(_STEERING)


def shown(value: Any, most: int = 80) -> str:
    """A value for an error's text: its repr, cut, whatever that does and however long it is."""
    if isinstance(value, int) and value.bit_length() > _MOST_BITS:
        return f"<an integer of {value.bit_length():,} bits>"
    if isinstance(value, str | bytes) and len(value) > most:
        return f"{value[:most]!r} and {len(value) - most:,} more"
    try:
        check_size(value, most=1_000)
        text = repr(value)
    except Exception:  # too large to be shown, or an object whose repr raises
        return f"<{type(value).__name__}>"
    return text if len(text) <= most else f"{text[:most]}..."


def _leaf(value: Any) -> Any:
    try:
        return _known_leaf(value)
    except Exception:  # an object of the user's whose text can't be had
        return f"<{type(value).__name__}>"


def _known_leaf(value: Any) -> Any:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, decimal.Decimal):
        return str(value)
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, Enum):
        return value.value
    return str(value)


def _leaf_text(value: Any) -> Any:
    return _plain(_leaf(value))


def _plain(value: Any, inside: tuple[int, ...] = ()) -> Any:
    """``inside``: the ids of what the value stands in."""
    if isinstance(value, Mapping | list | tuple):
        if id(value) in inside or len(inside) >= _MOST_LEVELS:
            return "<nested without end>"
        inside = (*inside, id(value))
    if isinstance(value, Mapping):
        return {str(key): _plain(item, inside) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, inside) for item in value]
    if isinstance(value, int) and value.bit_length() > _MOST_BITS:
        return hex(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _int(digits: str) -> int | str:
    return int(digits) if len(digits) <= _MOST_DIGITS else digits


def _is(one: Any, other: Any) -> bool:
    return one is other
