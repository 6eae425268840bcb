"""Whether the fields of a dataclass hold what its annotations say, for values that came from a
file or over the wire."""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Mapping
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from xrouter_lg.json_text import shown


def misfit(value: Any) -> str | None:
    """What is wrong with the first field that does not fit, in words; None where all do.

    An integer passes for a float, a list for a tuple; floats are finite.
    """
    kind: Any = type(value)
    for name, hint in _hints(kind).items():
        held = getattr(value, name)
        if not fits(held, hint):
            said = getattr(hint, "__name__", None) if isinstance(hint, type) else str(hint)
            return f"{name} is {shown(held)}, which is no {said}"
    return None


def fits(value: Any, hint: Any) -> bool:
    """Whether a plain value is of a type, looked at all the way down."""
    if hint is Any:
        return True
    origin, inside = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(fits(value, option) for option in inside)
    if origin is Literal:
        return isinstance(value, str | int) and value in inside
    if hint is None or hint is type(None):
        return value is None
    if origin is tuple and isinstance(value, tuple | list):
        if inside[-1:] == (Ellipsis,):
            return all(fits(item, inside[0]) for item in value)
        return len(value) == len(inside) and all(map(fits, value, inside))
    if origin is list:
        return isinstance(value, list) and all(fits(item, inside[0]) for item in value)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return isinstance(value, Mapping) and all(
            fits(key, inside[0]) and fits(item, inside[1]) for key, item in value.items()
        )
    if hint is float:
        return is_finite(value)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if dataclasses.is_dataclass(hint):
        return isinstance(value, hint) and misfit(value) is None  # type: ignore[arg-type]
    return isinstance(value, origin or hint)


def is_finite(value: Any) -> bool:
    """Whether it is a number that a float holds; a bool is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer that no float holds
        return False


@cache
def _hints(kind: type[Any]) -> Mapping[str, Any]:
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}
