"""LangSmith's filter language, as far as this integration and its tests use it.

``and(has(tags, "a"), gte(start_time, "2026-11-01T00:00:00Z"))`` becomes a predicate on a run.
"""

from __future__ import annotations

import ast
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

_WORDS = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\Z)|\b(?:and|or|in|true|false|null)\b')
_PYTHON = {
    "and": "and_",
    "or": "or_",
    "in": "in_",
    "true": "True",
    "false": "False",
    "null": "None",
}
"""Words that Python keeps to itself, or spells otherwise; all else is a Python expression."""

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
    python = _WORDS.sub(lambda word: _PYTHON.get(word[0], word[0]), expression)
    try:
        return _predicate(ast.parse(python.strip(), mode="eval").body)
    except SyntaxError as error:
        raise FilterError(f"can't read {expression!r}: {error.msg}") from error


@lru_cache(maxsize=100_000)
def moment(value: str) -> datetime:
    """A time as LangSmith takes it; UTC unless it says otherwise."""
    when = datetime.fromisoformat(value)
    return when if when.tzinfo else when.replace(tzinfo=UTC)


def _predicate(tree: ast.expr) -> Predicate:
    if not isinstance(tree, ast.Call) or not isinstance(tree.func, ast.Name):
        raise FilterError(f"{ast.unparse(tree)} is no comparison")
    name = tree.func.id.rstrip("_")
    if name in ("and", "or"):
        parts = [_predicate(part) for part in tree.args]
        combine = all if name == "and" else any
        return lambda run, said: combine(part(run, said) for part in parts)
    if len(tree.args) != 2 or not isinstance(tree.args[0], ast.Name):
        raise FilterError(f"{name} takes a field and a value")
    field = tree.args[0].id
    try:
        wanted = ast.literal_eval(tree.args[1])
    except ValueError as error:
        raise FilterError(f"{ast.unparse(tree.args[1])} is no value") from error
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
