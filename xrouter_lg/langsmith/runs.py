"""Pages of runs through either of LangSmith's two APIs, as the same plain dicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

import orjson
from langsmith import Client

from xrouter_lg.json_text import shown
from xrouter_lg.langsmith.polite import keep_key_here
from xrouter_lg.portal import run_sync

FIELDS = (
    "id",
    "trace_id",
    "dotted_order",
    "name",
    "run_type",
    "start_time",
    "end_time",
    "status",
    "error",
    "tags",
    "inputs",
    "outputs",
    "extra",
    "events",
    "reference_example_id",
    "first_token_time",
    "prompt_tokens",
    "completion_tokens",
    "total_tokens",
    "prompt_cost",
    "completion_cost",
    "total_cost",
    "feedback_stats",
)
"""Fields of a run under the names that both APIs have in common."""

_LIGHT = ("id", "trace_id", "start_time")


@dataclass(frozen=True, kw_only=True)
class RunQuery:
    """Runs of a project that started in [``start``, ``end``)."""

    project_id: str
    start: datetime
    """Never left out: the second API would silently look back one day only."""
    end: datetime | None = None
    trace_id: str | None = None
    tree_filter: str | None = None
    """Runs of traces in which any run matches, in LangSmith's filter language."""
    filter: str | None = None
    feedback_since: datetime | None = None
    """Only with a feedback condition in ``filter``, and only through the second API."""
    light: bool = False
    """Ids only."""


class RunPage(NamedTuple):
    runs: list[Any]
    cursor: str | None
    """Of the next page; None after the last."""


class SecondApi:
    """``client.runs.query``: up to 1000 runs a page, 300 requests in 10 s."""

    def __init__(self, runs: Any) -> None:
        self._runs = runs

    @classmethod
    def of(cls, client: Client) -> SecondApi | None:
        """None where the installed client is too old to have it."""
        runs = getattr(client, "runs", None)
        if not hasattr(runs, "query"):
            return None
        api = getattr(runs, "_client", None)
        # Its own repeats would hide how long we wait; there is no public switch for this client.
        if api is not None:
            api = api.with_options(max_retries=0)
            keep_key_here(api)
        return cls(runs if api is None else api.runs)

    def page(self, query: RunQuery, cursor: str | None, size: int) -> RunPage:
        names = _LIGHT if query.light else FIELDS
        more: dict[str, Any] = {
            "max_start_time": query.end,
            "trace_id": query.trace_id,
            "tree_filter": query.tree_filter,
            "filter": query.filter,
            "min_feedback_modified_at": query.feedback_since,
            "cursor": cursor,
        }
        asking = self._runs.query(
            project_ids=[query.project_id],
            min_start_time=query.start,
            page_size=size,
            selects=[name.upper() for name in (*names, "parent_run_ids", "project_id")],
            **{name: value for name, value in more.items() if value is not None},
        )
        page = run_sync(asking)
        return RunPage([_as_first(run) for run in page.items or ()], page.next_cursor or None)

    def close(self) -> None:
        """Close its connections; there is no public way to."""
        if (api := getattr(self._runs, "_client", None)) is not None:
            run_sync(api.close())


class FirstApi:
    """``POST /runs/query``: up to 100 runs a page, 15 requests in 10 s."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def page(self, query: RunQuery, cursor: str | None, size: int) -> RunPage:
        names = _LIGHT if query.light else FIELDS
        conditions = [f'gte(start_time, "{query.start.isoformat()}")']
        if query.end is not None:
            conditions.append(f'lt(start_time, "{query.end.isoformat()}")')
        if query.filter is not None:
            conditions.append(query.filter)
        body: dict[str, Any] = {
            "session": [query.project_id],
            "start_time": query.start.isoformat(),
            "filter": f"and({', '.join(conditions)})",
            "limit": min(size, 100),
            "select": [*names, "parent_run_id", "session_id"],
            "trace": query.trace_id,
            "tree_filter": query.tree_filter,
            "cursor": cursor,
        }
        given = {name: value for name, value in body.items() if value is not None}
        # `list_runs` gives no page's cursor, and is deprecated; this is what it calls.
        answer = self._client.request_with_retries(
            "POST",
            "/runs/query",
            request_kwargs={"data": orjson.dumps(given)},
        ).json()
        runs = answer.get("runs") or []
        if not isinstance(runs, list):
            raise TypeError(f"runs is {shown(runs)}")
        return RunPage(runs, (answer.get("cursors") or {}).get("next"))


def _as_first(run: Any) -> Any:
    """A run of the second API under the first one's names; what is none as it comes."""
    if not hasattr(run, "model_dump"):
        return run
    data: dict[str, Any] = run.model_dump(exclude_unset=True)
    ancestors = data.pop("parent_run_ids", None)
    above = ancestors if isinstance(ancestors, list) else []
    data["parent_run_id"] = above[-1] if above else None
    data["session_id"] = data.pop("project_id", None)
    for name in ("run_type", "status"):
        if data.get(name):
            data[name] = str(data[name]).lower()
    return data


def any_of(tags: Sequence[str], name: str | None = None) -> str | None:
    """The filter for traces that hold a run with one of the tags, or one of that name."""
    parts = [f"has(tags, {_quoted(tag)})" for tag in tags]
    if name is not None:
        parts.append(f"eq(name, {_quoted(name)})")
    if len(parts) < 2:
        return parts[0] if parts else None
    return f"or({', '.join(parts)})"


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
