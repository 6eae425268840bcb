"""LangSmith's filter language, as far as this integration and its tests use it.

``and(has(tags, "a"), gte(start_time, "2026-11-01T00:00:00Z"))`` becomes a predicate on a run.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from xrouter_lg.errors import XRouterError

Run = Mapping[str, Any]
Predicate = Callable[[Run, Sequence[Mapping[str, Any]]], bool]
"""Of a run and the feedback on it."""

_TOKEN = re.compile(r'\s*(?:"((?:[^"\\]|\\.)*)"|([A-Za-z_][\w.]*)|(-?\d+(?:\.\d+)?)|([(),\[\]]))')
_COMPARE = {
    "eq": operator.eq,
    "neq": operator.ne,
    "gt": operator.gt,
    "gte": operator.ge,
    "lt": operator.lt,
    "lte": operator.le,
}


class FilterError(XRouterError, ValueError):
    """The expression is not in the language; a server answers 400."""


def compiled(expression: str) -> Predicate:
    """The expression as a predicate.

    Raises:
        FilterError: it can't be parsed, or names what a run does not have.
    """
    tokens = _tokens(expression)
    tree, end = _parse(tokens, 0)
    if end != len(tokens):
        raise FilterError(f"unexpected {tokens[end][1]!r} in {expression!r}")
    return _predicate(tree)


@lru_cache(maxsize=100_000)
def moment(value: str) -> datetime:
    """A time as LangSmith takes it; UTC unless it says otherwise."""
    when = datetime.fromisoformat(value)
    return when if when.tzinfo else when.replace(tzinfo=UTC)


def _tokens(text: str) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    at = 0
    while at < len(text.rstrip()):
        match = _TOKEN.match(text, at)
        if match is None:
            raise FilterError(f"can't read {text[at : at + 20]!r}")
        string, name, number, mark = match.groups()
        if string is not None:
            found.append(("value", string.replace('\\"', '"')))
        elif name is not None:
            word = {"true": True, "false": False, "null": None}
            found.append(("value", word[name]) if name in word else ("name", name))
        elif number is not None:
            found.append(("value", float(number)))
        else:
            found.append(("mark", mark))
        at = match.end()
    return found


def _parse(tokens: list[tuple[str, Any]], at: int) -> tuple[Any, int]:
    if at >= len(tokens):
        raise FilterError("the expression ends too early")
    kind, value = tokens[at]
    if kind == "name" and tokens[at + 1 : at + 2] == [("mark", "(")]:
        arguments, at = _parse_list(tokens, at + 2, ")")
        return (value, arguments), at
    if (kind, value) == ("mark", "["):
        items, at = _parse_list(tokens, at + 1, "]")
        return items, at
    return (value if kind == "value" else ("field", value)), at + 1


def _parse_list(tokens: list[tuple[str, Any]], at: int, close: str) -> tuple[list[Any], int]:
    items: list[Any] = []
    while tokens[at : at + 1] != [("mark", close)]:
        item, at = _parse(tokens, at)
        items.append(item)
        if tokens[at : at + 1] == [("mark", ",")]:
            at += 1
        elif at >= len(tokens):
            raise FilterError(f"{close!r} is missing")
    return items, at + 1


def _predicate(tree: Any) -> Predicate:
    if not isinstance(tree, tuple) or tree[0] == "field":
        raise FilterError(f"{tree!r} is no comparison")
    name, arguments = tree
    if name in ("and", "or"):
        parts = [_predicate(part) for part in arguments]
        combine = all if name == "and" else any
        return lambda run, said: combine(part(run, said) for part in parts)
    if len(arguments) != 2 or not isinstance(arguments[0], tuple) or arguments[0][0] != "field":
        raise FilterError(f"{name} takes a field and a value")
    field, wanted = arguments[0][1], arguments[1]
    if name == "has":
        return lambda run, said: wanted in (run.get(field) or ())
    if name == "search":
        return lambda run, said: str(wanted).lower() in str(run.get(field)).lower()
    if name == "in":
        return lambda run, said: any(value in wanted for value in _values(field, run, said))
    if name not in _COMPARE:
        raise FilterError(f"unknown comparator {name!r}")
    compare = _COMPARE[name]
    if field in ("start_time", "end_time"):
        when = moment(str(wanted))
        return lambda run, said: bool(run.get(field)) and compare(moment(run[field]), when)
    return lambda run, said: any(
        value is not None and compare(value, wanted) for value in _values(field, run, said)
    )


def _values(field: str, run: Run, said: Sequence[Mapping[str, Any]]) -> list[Any]:
    """What a run has under a name; feedback and metadata may give several values."""
    metadata = (run.get("extra") or {}).get("metadata") or {}
    if field == "feedback_key":
        return [entry["key"] for entry in said]
    if field == "feedback_score":
        return [entry.get("score") for entry in said]
    if field == "metadata_key":
        return list(metadata)
    if field == "metadata_value":
        return [str(value) for value in metadata.values()]
    if field == "is_root":
        return [run.get("parent_run_id") is None]
    return [run.get(field)]
