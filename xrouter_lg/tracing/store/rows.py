"""Runs as rows: JSON text, credentials gone, the user's redaction applied. Writer's thread only."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from langchain_core.messages.ai import UsageMetadata, add_usage

from xrouter_lg.json_text import from_json, storable, to_json
from xrouter_lg.route_record import RouteRecord
from xrouter_lg.said import replies_of
from xrouter_lg.tracing.runs.extract import (
    COLLECT,
    FAILED_KEY,
    RECORD_KEY,
    WHOLE_KEY,
    ExtractedRoute,
    failed_record,
    role_of,
    route_records,
)
from xrouter_lg.tracing.runs.facts import PROMPTS_KEY, SAMPLE_RATE_KEY
from xrouter_lg.tracing.runs.hashing import TextHasher
from xrouter_lg.tracing.runs.importing import status_of, storable_count, utc_text
from xrouter_lg.tracing.runs.open_runs import RunData
from xrouter_lg.tracing.runs.redact import (
    known_secrets,
    scrub_json,
    scrub_row,
    scrub_text,
    scrub_tokens,
)
from xrouter_lg.tracing.store import schema

Redact = Callable[[Any], Any]

_AS_RECORDED = [c.name for c in schema.routes.c if c.name in RouteRecord.__dataclass_fields__]
"""Columns of ``routes`` that the record's field of their name fills."""

_YIELD_EVERY = 16
"""Rows after which a waiting request gets the interpreter. Otherwise it waits for CPython's switch
interval, 5 ms: the slowest hundredth of requests takes half as long again (13 against 9 ms)."""


class RowMaker:
    """Turns runs into rows of the ``runs`` table and, where they hold a record, of ``routes``."""

    def __init__(
        self,
        project: str,
        redact: Redact | None,
        *,
        hasher: TextHasher | None = None,
        sample_rate: float = 1.0,
    ) -> None:
        self._project = project
        self._redact = redact
        self._hasher = hasher
        self._said: dict[str, Any] = {}
        """What every run's metadata says of how it was recorded."""
        if hasher is not None:
            self._said[PROMPTS_KEY] = "hashed"
        if sample_rate < 1:
            self._said[SAMPLE_RATE_KEY] = sample_rate
        self._secrets: Sequence[str] = ()

    def rows(
        self, runs: Sequence[RunData], *, polite: bool = True
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Rows of the runs and of the routes among them; ``polite`` steps aside for requests."""
        self._secrets = known_secrets()
        run_rows: list[dict[str, Any]] = []
        route_rows: list[dict[str, Any]] = []
        for run in runs:
            row, routes = self._row(run)
            run_rows.append(row)
            route_rows += routes
            if polite and len(run_rows) % _YIELD_EVERY == 0:
                time.sleep(0)
        return run_rows, route_rows

    def _row(self, run: RunData) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        usage = _usage_of(_plain(run.outputs)) if run.run_type == "llm" else None
        extra = self._with_records(run.extra)
        if usage or self._said:
            added = {**self._said, "usage_metadata": usage} if usage else self._said
            extra = {**extra, "metadata": {**extra.get("metadata", {}), **added}}
        outputs = self._body(run.outputs)
        row = {
            "id": run.key,
            "trace_id": run.trace.key,
            "parent_run_id": None if run.parent is None else run.parent.key,
            "dotted_order": run.dotted_order,
            "run_type": run.run_type,
            "start_time": utc_text(run.start_time),
            "end_time": run.end_time and utc_text(run.end_time),
            "status": status_of(run.error, run.end_time),
            "error": None if run.error is None else self._error(run.error),
            **self._texts(
                run.name,
                tags=self._clean(sorted(run.tags)) if run.tags else None,
                inputs=self._body(run.inputs),
                outputs=outputs,
                extra=self._clean(extra),
                events=run.events or None,
            ),
            "session_name": self._project,
            "prompt_tokens": storable_count(usage and usage.get("input_tokens")),
            "completion_tokens": storable_count(usage and usage.get("output_tokens")),
            "total_tokens": storable_count(usage and usage.get("total_tokens")),
        }
        return row, self._routes(run, extra, outputs)

    def imported(
        self, runs: Iterable[Mapping[str, Any]]
    ) -> tuple[dict[str, dict[str, Any]], list[dict[str, Any]]]:
        """Rows of runs that were recorded elsewhere (see ``plain_run``), by id, and of routes.

        A route is found in every run that collects: whether its parent collects too, only the
        whole trace can tell.
        """
        self._secrets = known_secrets()
        run_rows: dict[str, dict[str, Any]] = {}
        route_rows: dict[str, dict[str, Any]] = {}
        for run in runs:
            row, routes = self._imported_row(run)
            run_rows[row["id"]] = row
            route_rows.update((route["id"], route) for route in routes)
        return run_rows, list(route_rows.values())

    def feedback_row(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        """A row of the ``feedback`` table (see ``plain_feedback``)."""
        self._secrets = self._secrets or known_secrets()
        row = dict(entry)
        for name in ("value", "correction"):
            row[name] = None if row[name] is None else self._json(self._clean(row[name]))
        row["comment"] = None if row["comment"] is None else self._text(row["comment"])
        return row

    def _imported_row(self, run: Mapping[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        usage: Mapping[str, Any] = {}
        if run["run_type"] == "llm" and run["total_tokens"] is None:
            usage = _usage_of(run["outputs"]) or {}
        outputs, extra = self._clean(run["outputs"]), self._clean(run["extra"])
        row = {
            **run,
            "error": None if run["error"] is None else self._text(run["error"]),
            **self._texts(
                run["name"],
                tags=self._clean(run["tags"]) if run["tags"] else None,
                inputs=self._clean(run["inputs"]),
                outputs=outputs,
                extra=extra,
                events=self._clean(run["events"]) if run["events"] else None,
                more=run["more"] or None,
            ),
            "prompt_tokens": run["prompt_tokens"] or storable_count(usage.get("input_tokens")),
            "completion_tokens": run["completion_tokens"]
            or storable_count(usage.get("output_tokens")),
            "total_tokens": run["total_tokens"] or storable_count(usage.get("total_tokens")),
        }
        cleaned = {**run, "outputs": _plain(outputs), "extra": extra}
        if (failed := failed_record(cleaned)) is not None:
            return row, [self._route_row(failed, run["session_name"])]
        if role_of(run["extra"]) != COLLECT:
            return row, []
        found = route_records([cleaned])
        return row, [self._route_row(route, run["session_name"]) for route in found]

    def _with_records(self, extra: dict[str, Any]) -> dict[str, Any]:
        """``extra`` with the records in it as they may be stored: like outputs, for the errors of
        providers may say again what was asked."""
        metadata = extra.get("metadata") or {}
        stored = {}
        for key in metadata.keys() & {FAILED_KEY, WHOLE_KEY}:
            cleaned = self._body({RECORD_KEY: metadata[key]})
            stored[key] = cleaned.get(RECORD_KEY) if isinstance(cleaned, Mapping) else None
        return {**extra, "metadata": {**metadata, **stored}} if stored else extra

    def _routes(self, run: RunData, extra: Mapping[str, Any], outputs: Any) -> list[dict[str, Any]]:
        if FAILED_KEY in (extra.get("metadata") or {}) and run.end_time is not None:
            held = {"id": run.id, "trace_id": run.trace_id, "extra": extra}
            found = failed_record(held)
            return [] if found is None else [self._route_row(found)]
        if role_of(run.extra) != COLLECT or (run.parent and role_of(run.parent.extra) == COLLECT):
            return []
        holder = {
            "id": run.id,
            "parent_run_id": run.parent_run_id,
            "trace_id": run.trace_id,
            "extra": extra,
            "outputs": _plain(outputs),
            "error": run.error,
        }
        return [self._route_row(found) for found in route_records([holder])]

    def _route_row(self, found: ExtractedRoute, project: str | None = None) -> dict[str, Any]:
        record = found.record
        usages = [charge.get("usage") or {} for charge in record.charges]
        return {
            **{name: getattr(record, name) for name in _AS_RECORDED},
            "id": found.collect_run_id,
            "run_id": found.run_id,
            "trace_id": found.trace_id,
            "created_at": utc_text(datetime.fromtimestamp(record.started_at, UTC)),
            "project": project or self._project,
            "cost_usd_float": None if record.cost_usd is None else float(record.cost_usd),
            "input_tokens": storable_count(
                sum(storable_count(u.get("input_tokens")) or 0 for u in usages)
            ),
            "output_tokens": storable_count(
                sum(storable_count(u.get("output_tokens")) or 0 for u in usages)
            ),
            "truncated": bool(record.truncated),
            "fallbacks": len(record.fallbacks),
            "record": self._json(record.to_dict()),
        }

    def _clean(self, value: Any) -> Any:
        """The user's redaction. If it fails, the value is left out, never stored as it was."""
        if self._redact is None or value is None:
            return value
        try:
            return self._redact(from_json(_json_text(value)))
        except Exception as error:
            return {"redaction_failed": type(error).__name__}

    def _body(self, value: Any) -> Any:
        """Inputs or outputs as they may be stored."""
        cleaned = self._clean(value)
        if self._hasher is None or cleaned is None:
            return cleaned
        return self._hasher.value(_plain(cleaned))

    def _texts(self, name: str, **values: Any) -> dict[str, str | None]:
        """The name and the JSON columns of a run, without credentials."""
        texts = {key: None if v is None else _json_text(v) for key, v in values.items()}
        cleaned = self._clean(name) if self._redact is not None else name
        plain = {"name": storable(cleaned if isinstance(cleaned, str) else to_json(cleaned))}
        return scrub_row(texts, plain, self._secrets)

    def _error(self, value: str) -> str:
        return self._text(value if self._hasher is None else self._hasher.error(value))

    def _text(self, value: str) -> str:
        cleaned = self._clean(value)
        text = cleaned if isinstance(cleaned, str) else to_json(cleaned)
        return storable(scrub_text(text, self._secrets))

    def _json(self, value: Any) -> str:
        return scrub_tokens(scrub_json(_json_text(value), self._secrets))


def _plain(value: Any) -> Any:
    """A run's frozen side, or any value, as dicts and lists."""
    return from_json(value) if isinstance(value, bytes) else value


def _json_text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else to_json(value)


def _usage_of(outputs: Mapping[str, Any] | None) -> UsageMetadata | None:
    """Usage of a model run, summed over its generations as LangSmith's tracer does."""
    total: UsageMetadata | None = None
    for reply in replies_of(outputs):
        if usage := reply.get("usage_metadata"):
            try:
                total = add_usage(total, usage)
            except (TypeError, ValueError):  # float cost keys, which add_usage can't add
                total = usage
    return total
