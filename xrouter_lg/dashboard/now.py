"""What of the page changes from second to second: the latest decisions, and how many there are."""

from __future__ import annotations

from typing import Any

from xrouter_lg.dashboard.source import DashboardSource
from xrouter_lg.episodes.extract import episodes
from xrouter_lg.said import question_of, text_of
from xrouter_lg.tracing.store.query import RouteRow
from xrouter_lg.tracing.store.trace_store import TraceStore

LATEST = 15
_LONGEST = 400
"""Characters of a prompt that are shown."""
_KEPT_TEXTS = 500


class LatestDecisions:
    """Reads them, and keeps the texts of those it has seen."""

    def __init__(self, source: DashboardSource) -> None:
        self._source = source
        self._texts: dict[str, str | None] = {}

    def read(self) -> dict[str, Any]:
        """The newest decisions first, and how many traces and feedback entries the store has.

        Raises:
            StoreError: the store can't be read.
        """
        with TraceStore(self._source.store, create=False) as store:
            counts = store.counts()
            rows = store.routes(project=self._source.project, limit=LATEST)
            decisions = [self._decision(store, row) for row in rows]
        return {
            "requests": counts["routes"],
            "feedback": counts["feedback"],
            "decisions": decisions,
            "cards": dict(self._source.states()) if self._source.states is not None else None,
        }

    def _decision(self, store: TraceStore, row: RouteRow) -> dict[str, Any]:
        record = row.record
        first = record.decisions[0] if record.decisions else {}
        return {
            "id": row.id,
            "trace_id": row.trace_id,
            "at": record.started_at,
            "text": self._text(store, row),
            "route": record.route,
            "reason": record.reason,
            "policy": f"{record.policy} {record.policy_version}".strip(),
            "explored": bool(first.get("explored")),
            "propensity": record.propensity,
            "scores": record.scores,
            "quality": first.get("quality"),
            "removed": record.removed,
            "cost_weight": record.cost_weight,
            "usd": None if record.cost_usd is None else float(record.cost_usd),
            "latency_s": record.latency_s,
            "tokens": [row.input_tokens, row.output_tokens],
            "fallbacks": [
                {"card": str(one.get("card")), "error": str(one.get("error"))}
                for one in record.fallbacks
            ],
            "error": record.error,
            "served_model": record.served_model,
        }

    def _text(self, store: TraceStore, row: RouteRow) -> str | None:
        """The last message; None where it was not stored."""
        if row.id not in self._texts:
            while len(self._texts) >= _KEPT_TEXTS:
                self._texts.pop(next(iter(self._texts)))
            self._texts[row.id] = _last_message(store, row)
        return self._texts[row.id]


def _last_message(store: TraceStore, row: RouteRow) -> str | None:
    for episode in episodes(store.runs(row.trace_id)):
        if episode.run_id == row.record.run_id and episode.messages:
            text = text_of(question_of(episode.messages))
            return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} …"
    return None
