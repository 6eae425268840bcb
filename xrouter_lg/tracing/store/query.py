"""Filters on route records, and rows turned back into values."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypedDict

from sqlalchemy import Select, exists, or_, select

from xrouter_lg.errors import BriefRecordError, StoreError
from xrouter_lg.json_text import from_json, shown, storable
from xrouter_lg.route_record import RouteRecord
from xrouter_lg.tracing.runs.importing import utc_text
from xrouter_lg.tracing.runs.pack import unpack
from xrouter_lg.tracing.store.schema import feedback, labels, routes, traces


class RouteFilters(TypedDict, total=False):
    """Conditions on route records; all given ones must hold."""

    since: datetime | None
    """Earliest start of the request, inclusive. Without a time zone: UTC."""
    until: datetime | None
    """Latest start of the request, exclusive."""
    route: str | None
    policy: str | None
    policy_version: str | None
    thread_id: str | None
    tenant: str | None
    user: str | None
    """The person behind the request: ``user_id`` or ``langgraph_auth_user_id`` in its metadata."""
    project: str | None
    trace_id: str | None
    tag: str | None
    model: str | None
    """A model that took part, by the name its client gave it."""
    feedback_key: str | None
    """With feedback of this key; with a score bound, one and the same entry must fit both."""
    min_score: float | None
    max_score: float | None
    fallbacks: bool
    """Only requests with at least one failed attempt."""
    errors: bool
    """Only requests that nobody answered, or with a failed run in their trace."""
    min_cost_usd: float | None
    limit: int | None


@dataclass(frozen=True, slots=True)
class RouteRow:
    """A route record with its place in the store."""

    id: str
    run_id: str | None
    trace_id: str
    created_at: datetime
    project: str
    input_tokens: int
    output_tokens: int
    record: RouteRecord

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe form."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {
            **values,
            "created_at": self.created_at.isoformat(),
            "record": self.record.to_dict(),
        }


@dataclass(slots=True)
class RunNode:
    """A run and the runs below it, in the order they started."""

    run: dict[str, Any]
    children: list[RunNode] = field(default_factory=list)


def route_query(filters: RouteFilters) -> Select[Any]:
    """The query of route records, newest first."""
    unknown = set(filters) - set(RouteFilters.__annotations__)
    if unknown:
        raise StoreError(
            f"unknown filter {sorted(unknown)}; use {', '.join(RouteFilters.__annotations__)}"
        )
    query = select(routes).order_by(routes.c.created_at.desc(), routes.c.id.desc())
    if (since := filters.get("since")) is not None:
        query = query.where(routes.c.created_at >= utc_text(since))
    if (until := filters.get("until")) is not None:
        query = query.where(routes.c.created_at < utc_text(until))
    names = ("route", "policy", "policy_version", "thread_id", "tenant", "project", "trace_id")
    for name in names:
        if (wanted := filters.get(name)) is not None:
            query = query.where(routes.c[name] == storable(str(wanted)))
    for kind in ("user", "tag", "model"):
        if (wanted := filters.get(kind)) is not None:
            query = query.where(routes.c.trace_id.in_(labelled(kind, str(wanted))))
    query = _with_feedback(query, filters)
    if filters.get("fallbacks"):
        query = query.where(routes.c.fallbacks > 0)
    if filters.get("errors"):
        failed = exists().where(traces.c.id == routes.c.trace_id, traces.c.failed)
        query = query.where(or_(routes.c.route.is_(None), failed))
    if (cost := filters.get("min_cost_usd")) is not None:
        query = query.where(routes.c.cost_usd_float >= cost)
    if (limit := filters.get("limit")) is not None:
        if limit < 1:
            raise StoreError(f"limit must be at least 1, got {limit!r}")
        query = query.limit(limit)
    return query


def labelled(kind: str, value: str) -> Select[Any]:
    """Ids of the traces with that label."""
    return select(labels.c.trace_id).where(labels.c.kind == kind, labels.c.value == storable(value))


def _with_feedback(query: Select[Any], filters: RouteFilters) -> Select[Any]:
    key, low, high = (filters.get(name) for name in ("feedback_key", "min_score", "max_score"))
    if key is None and low is None and high is None:
        return query
    said = select(feedback.c.trace_id)
    if key is not None:
        said = said.where(feedback.c.key == storable(str(key)))
    if low is not None:
        said = said.where(feedback.c.score >= low)
    if high is not None:
        said = said.where(feedback.c.score <= high)
    return query.where(routes.c.trace_id.in_(said))


def to_route_row(row: Mapping[str, Any]) -> RouteRow:
    """A row of ``routes`` with its record.

    Raises:
        StoreError: the record lacks a field, i.e. another version wrote it.
    """
    try:
        record = RouteRecord.from_dict(from_json(unpack(row["record"])))
        created_at = datetime.fromisoformat(row["created_at"])
    except (BriefRecordError, *UNREADABLE) as error:
        raise StoreError(
            f"route {row['id']!r}: its record was written by another version of xrouter_lg "
            f"({error}). Read it with that version, or leave it out with a filter."
        ) from error
    values = {field.name: row[field.name] for field in dataclasses.fields(RouteRow)}
    return RouteRow(**{**values, "created_at": created_at, "record": record})


UNREADABLE = (TypeError, ValueError, LookupError, AttributeError, RecursionError, OverflowError)
"""What reading a row raises that was changed by other hands."""


@contextmanager
def as_written(what: str) -> Iterator[None]:
    """For reading rows: those that nobody of us has written are a StoreError.

    Raises:
        StoreError: a row can't be read.
    """
    try:
        yield
    except UNREADABLE as error:
        raise StoreError(
            f"{what} of the trace store can't be read ({type(error).__name__}: "
            f"{shown(str(error))}): it was changed by other hands, or the file is damaged. Delete "
            "it there, or take a copy of the file from before"
        ) from error


def feedback_dict(row: Mapping[str, Any]) -> dict[str, Any]:
    entry = dict(row)
    for name in ("value", "correction"):
        entry[name] = None if entry[name] is None else from_json(entry[name])
    return entry


def build_tree(rows: Sequence[dict[str, Any]]) -> list[RunNode]:
    """Trees from runs in ``dotted_order``; a run whose parent is not among them is a root."""
    nodes = {run["id"]: RunNode(run) for run in rows}
    roots: list[RunNode] = []
    for node in nodes.values():
        parent = nodes.get(node.run["parent_run_id"])
        (roots if parent is None else parent.children).append(node)
    return roots
