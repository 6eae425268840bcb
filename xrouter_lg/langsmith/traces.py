"""Whole traces out of a stream of runs.

LangSmith gives runs by their start, not by trace. Slices of time are read oldest first; a trace is
whole once its root is here and everything up to the root's end was read. What can't become whole
that way (not finished, longer than the rest, cut by the window's edge) is named, to be fetched by
its id.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from xrouter_lg.json_text import shown, storable

Run = dict[str, Any]

SKEW = timedelta(seconds=5)
"""How far clocks of the machines behind one trace may differ."""

LONG = timedelta(minutes=15)
"""Longer traces are fetched by id, so that they don't hold up the cursor."""


@dataclass
class Settled:
    """What a slice made whole, and what must be fetched."""

    traces: dict[str, list[Run]] = field(default_factory=dict)
    fetch: dict[str, datetime] = field(default_factory=dict)
    """Ids and starts of traces to read by id."""


class Assembler:
    """Collects the runs of a gap in time, slice by slice.

    Traces that begin at ``end`` or later are none of its business; it is given runs up to
    ``reach``, a little later, for clocks that differ. ``known`` says whether a trace is in the
    store already: then runs of it whose root began before the gap are no news.
    """

    def __init__(self, end: datetime, reach: datetime, known: Callable[[str], bool]) -> None:
        self._end, self._reach = end, reach
        self._known = known
        self._waiting: dict[str, dict[str, Run]] = {}
        self._passed: set[str] = set()
        """Fetched by id, or known: further runs of theirs are not waited for."""

    def add(self, runs: Iterable[Run]) -> None:
        for run in runs:
            trace_id = str(run.get("trace_id") or run["id"])
            if trace_id not in self._passed:
                self._waiting.setdefault(trace_id, {})[str(run["id"])] = run

    def settle(self, until: datetime) -> Settled:
        """What is decided once everything that started before ``until`` was added."""
        settled = Settled()
        for trace_id in list(self._waiting):
            runs = self._waiting[trace_id]
            verdict = self._verdict(trace_id, runs, until)
            if verdict == "wait":
                continue
            del self._waiting[trace_id]
            if verdict == "whole":
                settled.traces[trace_id] = list(runs.values())
                continue
            self._passed.add(trace_id)
            if verdict == "fetch":
                settled.fetch[trace_id] = min(map(trace_start, runs.values()))
        return settled

    def safe_until(self, until: datetime) -> datetime:
        """The moment before which nothing is waiting: where a pull may go on after a kill."""
        starts = [
            min(trace_start(run), start_of(run))
            for runs in self._waiting.values()
            for run in runs.values()
        ]
        return min([until, *starts])

    def _verdict(self, trace_id: str, runs: Mapping[str, Run], until: datetime) -> str:
        root = next((run for run in runs.values() if is_root(run)), None)
        begins = min(map(trace_start, runs.values())) if root is None else start_of(root)
        last = until >= self._reach
        if begins >= self._end:
            return "later" if last else "wait"
        if root is not None:
            end = end_of(root)
            if end is None or end > self._reach or end - begins > LONG:
                return "fetch"
            return "whole" if last or end + SKEW <= until else "wait"
        if begins + SKEW > until and not last:
            return "wait"
        return "known" if self._known(trace_id) else "fetch"


def is_root(run: Mapping[str, Any]) -> bool:
    return run.get("parent_run_id") is None and str(run["id"]) == str(run.get("trace_id"))


def is_open(runs: Iterable[Mapping[str, Any]]) -> bool:
    """Whether the trace's root has not ended; without a root, whether any run has not."""
    listed = list(runs)
    roots = [run for run in listed if is_root(run)]
    return any(not run.get("end_time") for run in roots or listed)


def start_of(run: Mapping[str, Any]) -> datetime:
    return moment(run["start_time"])


def end_of(run: Mapping[str, Any]) -> datetime | None:
    return moment(run["end_time"]) if run.get("end_time") else None


def trace_start(run: Mapping[str, Any]) -> datetime:
    """When the trace of a run began, by the first step of its dotted order."""
    first = str(run.get("dotted_order") or "").partition(".")[0].partition("Z")[0]
    try:
        return datetime.strptime(first, "%Y%m%dT%H%M%S%f").replace(tzinfo=UTC)
    except ValueError:
        return start_of(run)


def flaw_of(run: Any) -> str:
    """Why nothing can be made of a run; empty where something can."""
    if not isinstance(run, Mapping):
        return f"it is no object but {shown(run)}"
    for name in ("id", "trace_id"):
        text = run.get(name)
        if text is not None and (not text or storable(str(text)) != str(text)):
            return f"its {name} is {shown(text)}"
    if run.get("id") is None:
        return "it has no id"
    for name, read in (("start_time", start_of), ("end_time", end_of)):
        try:
            read(run)
        except (LookupError, ValueError, OverflowError):
            return f"its {name} is {shown(run.get(name))}"
    return ""


def moment(value: Any) -> datetime:
    """A time of LangSmith's; UTC unless it says otherwise."""
    when = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
    return when.replace(tzinfo=UTC) if when.tzinfo is None else when.astimezone(UTC)
