"""Runs and feedback from elsewhere as plain dicts of the store's own layout.

They come from LangSmith's client (dicts or objects, either API), from its exports, or from another
store. What one of them leaves out or spells another way is settled here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from xrouter_lg.errors import StoreError
from xrouter_lg.json_text import from_json, shown, storable
from xrouter_lg.tracing.runs.extract import field_of, parent_id_of

MORE_FIELDS = (
    "session_id",
    "reference_example_id",
    "first_token_time",
    "prompt_cost",
    "completion_cost",
    "total_cost",
)
"""Fields of LangSmith's that the recorder has not, kept as they come. Costs are USD as LangSmith
computed them, as decimal strings."""


_UNREADABLE = (TypeError, ValueError, AttributeError, OverflowError, RecursionError)
"""What reading a field of another type raises."""


def plain_run(run: Any, project: str | None) -> dict[str, Any]:
    """A run in the store's layout: JSON values, times as ISO 8601 text in UTC.

    ``project`` replaces the run's own.

    Raises:
        StoreError: no id, no start time, or a field that can't be read.
    """
    try:
        return _storable(_plain_run(run, project))
    except _UNREADABLE as error:
        raise StoreError(
            f"run {shown(field_of(run, 'id'))} can't be imported: {error!r}"
        ) from error


def _plain_run(run: Any, project: str | None) -> dict[str, Any]:
    run_id = field_of(run, "id")
    more = {name: field_of(run, name) for name in MORE_FIELDS}
    if not run_id:
        raise StoreError(f"a run without an id can't be imported: {_shortly(run)}")
    where = f"run {run_id}"
    start = _time(field_of(run, "start_time"), where, "start_time")
    if start is None:
        raise StoreError(f"{where} can't be imported: it has no start_time. Select that field.")
    parent = parent_id_of(run)
    dotted_order = field_of(run, "dotted_order") or _order(start, str(run_id))
    error = field_of(run, "error")
    end = _time(field_of(run, "end_time"), where, "end_time")
    extra = _json(field_of(run, "extra"), where, "extra")
    extra = extra if isinstance(extra, Mapping) else {}
    if "metadata" not in extra and isinstance(metadata := field_of(run, "metadata"), Mapping):
        extra = {**extra, "metadata": dict(metadata)}
    return {
        "id": str(run_id),
        "trace_id": str(field_of(run, "trace_id") or _root_of(str(dotted_order)) or run_id),
        "parent_run_id": None if parent is None else str(parent),
        "dotted_order": str(dotted_order),
        "name": str(field_of(run, "name") or "Unnamed"),
        "run_type": str(field_of(run, "run_type") or "chain").lower(),
        "start_time": start,
        "end_time": end,
        "status": str(field_of(run, "status") or status_of(error, end)).lower(),
        "error": None if error is None else str(error),
        "tags": [str(tag) for tag in _json(field_of(run, "tags"), where, "tags") or ()],
        "inputs": _side(_json(field_of(run, "inputs"), where, "inputs"), "input") or {},
        "outputs": _side(_json(field_of(run, "outputs"), where, "outputs"), "output"),
        "extra": extra,
        "events": list(_json(field_of(run, "events"), where, "events") or ()),
        "session_name": str(project or field_of(run, "session_name") or "default"),
        "prompt_tokens": _count(field_of(run, "prompt_tokens")),
        "completion_tokens": _count(field_of(run, "completion_tokens")),
        "total_tokens": _count(field_of(run, "total_tokens")),
        "more": {name: _more(value) for name, value in more.items() if value is not None},
    }


def plain_feedback(entry: Any) -> dict[str, Any]:
    """A feedback entry in the store's layout; ``trace_id`` is None where it is not told.

    Raises:
        StoreError: no id or no key, or a score that is no finite number.
    """
    said, feedback_id = feedback_said(entry), field_of(entry, "id")
    if not feedback_id or not said["key"] or not said["run_id"]:
        raise StoreError(
            f"feedback needs an id, a key and a run id to be imported: {_shortly(entry)}"
        )
    return _storable(
        {
            **said,
            "id": str(feedback_id),
            "key": str(said["key"]),
            "created_at": said["created_at"] or utc_text(datetime.now(UTC)),
        }
    )


def feedback_said(entry: Any) -> dict[str, Any]:
    """What a feedback says and of which run, whether it can be stored or not; ``created_at`` is
    ISO text in UTC, ``source`` who said it. What is on a trace alone is on its root, whose id a
    trace bears.

    Raises:
        StoreError: a score that is no finite number, or a time that can't be read.
    """
    try:
        return _feedback_said(entry)
    except _UNREADABLE as error:
        raise StoreError(f"feedback {shown(field_of(entry, 'id'))}: {error!r}") from error


def _feedback_said(entry: Any) -> dict[str, Any]:
    key, score = field_of(entry, "key"), field_of(entry, "score")
    where = f"feedback {field_of(entry, 'id')}"
    if score is not None and not math.isfinite(float(score)):
        raise StoreError(f"{where} ({key!r}): score {score!r} is not a finite number")
    run_id, trace_id = field_of(entry, "run_id"), field_of(entry, "trace_id")
    return {
        "run_id": str(run_id or trace_id) if run_id or trace_id else None,
        "trace_id": None if trace_id is None else str(trace_id),
        "key": key,
        "score": None if score is None else float(score),
        **{name: field_of(entry, name) for name in ("value", "comment", "correction")},
        "source": _source(entry),
        "created_at": _time(field_of(entry, "created_at"), where, "created_at"),
    }


def _storable(fields: dict[str, Any]) -> dict[str, Any]:
    """The same with plain texts that every database takes."""
    return {name: storable(v) if isinstance(v, str) else v for name, v in fields.items()}


def _side(value: Any, key: str) -> Any:
    """Inputs or outputs as a mapping, as LangSmith has them; what is none stands under ``key``."""
    return value if value is None or isinstance(value, Mapping) else {key: value}


def _source(entry: Any) -> str:
    """Who said it, as far as that is told: LangSmith's kind of source, with the user's id."""
    source = field_of(entry, "source")
    if source is None and (given := field_of(entry, "feedback_source")) is not None:
        source, user = field_of(given, "type"), field_of(given, "user_id")
        source = f"{source or 'api'}:{user}" if user else source
    return str(source or "api")


def _root_of(dotted_order: str) -> str | None:
    """The id in the first step of a dotted order: the trace's root."""
    _, _, root = dotted_order.partition(".")[0].partition("Z")
    return root or None


def _order(start: str, run_id: str) -> str:
    """The dotted order of a run that stands alone."""
    return f"{datetime.fromisoformat(start):%Y%m%dT%H%M%S%fZ}{run_id}"


def _time(value: Any, where: str, name: str) -> str | None:
    """ISO text in UTC with microseconds, so that times sort as text."""
    if value is None or value == "":
        return None
    try:
        when = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
    except ValueError as error:
        raise StoreError(f"{where}: {name} {value!r} is no ISO 8601 time") from error
    return utc_text(when)


def utc_text(when: datetime) -> str:
    """The form in which times are stored: they sort as text. Without a time zone: UTC."""
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    if when.tzinfo is not UTC:
        when = when.astimezone(UTC)
    return when.isoformat(timespec="microseconds")


def storable_count(value: Any) -> int | None:
    """A count that every database takes, None for one that is none or that nobody can have."""
    good = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63
    return value if good else None


def status_of(error: Any, end: Any) -> str:
    if error is not None:
        return "error"
    return "pending" if end is None else "success"


def _json(value: Any, where: str, name: str) -> Any:
    """Exports hold JSON as text."""
    if not isinstance(value, (str, bytes)):
        return value
    if not value:
        return None
    try:
        return from_json(value)
    except ValueError as error:
        raise StoreError(f"{where}: {name} holds text that is no JSON ({error})") from error


def _more(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _count(value: Any) -> int | None:
    return None if value is None else storable_count(int(value))


def _shortly(value: Any) -> str:
    names = value if isinstance(value, Mapping) else getattr(value, "__dict__", {})
    return f"{type(value).__name__} with {', '.join(sorted(map(str, names))) or 'no fields'}"
