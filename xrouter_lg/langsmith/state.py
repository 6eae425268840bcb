"""How far a project has been pulled: kept in the store, in one transaction with the rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pydantic import TypeAdapter, ValidationError

from xrouter_lg.errors import StoreError

Interval = tuple[datetime, datetime]
"""From, inclusive, to, exclusive."""


@dataclass
class PullState:
    """What is here already. Times are UTC."""

    done: list[Interval] = field(default_factory=list)
    """Traces that started within are here, whole."""
    said: list[Interval] = field(default_factory=list)
    """Feedback that was created within is here."""
    changed_until: datetime | None = None
    """Changes of older feedback up to here are here."""
    open: dict[str, datetime] = field(default_factory=dict)
    """Traces that were not finished, and their start."""
    keys: set[str] = field(default_factory=set)
    """Keys of feedback seen so far: changes can only be asked for by key."""
    width_s: float | None = None
    """Seconds that a slice of time spanned last, in a pull under way: a pull that is killed in a
    busy stretch need not find out again how narrow its slices must be."""

    @classmethod
    def from_dict(cls, data: Mapping[str, Any] | None) -> PullState:
        """What was kept.

        Raises:
            StoreError: it was changed by other hands.
        """
        try:
            return _PLAIN.validate_python(data or {})
        except ValidationError as error:
            raise StoreError(
                f"how far the project was pulled can't be read from the trace store: {error}. "
                "Delete its row in the table `cursors`; the next pull reads everything again"
            ) from error

    def to_dict(self) -> dict[str, Any]:
        plain: dict[str, Any] = _PLAIN.dump_python(self, mode="json")
        return plain


_PLAIN = TypeAdapter(PullState)


def cursor_name(project_id: str, tags: Sequence[str], routed: bool) -> str:
    """Under which name the state is kept: another filter is another pull."""
    parts = [f"tag={tag}" for tag in sorted(set(tags))] + (["routed"] if routed else [])
    return ":".join(["langsmith", project_id, *parts])


# --- stretches of time that are done, and what is left of a wish ---------------------------


def with_interval(done: Iterable[Interval], new: Interval) -> list[Interval]:
    """The union, sorted, without touching or overlapping neighbours."""
    merged: list[Interval] = []
    for start, end in sorted([*done, new]):
        if end <= start:
            continue
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    return merged


def missing(wanted: Interval, done: Sequence[Interval]) -> list[Interval]:
    """What of ``wanted`` is not done, oldest first."""
    gaps: list[Interval] = []
    at, until = wanted
    for start, end in sorted(done):
        if end <= at:
            continue
        if start >= until:
            break
        if start > at:
            gaps.append((at, start))
        at = max(at, end)
    if at < until:
        gaps.append((at, until))
    return gaps


def without(done: Sequence[Interval], gone: Interval) -> list[Interval]:
    """``done`` less ``gone``."""
    kept: list[Interval] = []
    for interval in done:
        kept += missing(interval, [gone])
    return kept
