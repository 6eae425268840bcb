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
