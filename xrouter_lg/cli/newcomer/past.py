"""A recorded request, and what a checkpoint expects of the cards that it did not go to."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xrouter_lg.cli.newcomer.reading import ReadRequest, RequestReader
from xrouter_lg.episodes.extract import episodes
from xrouter_lg.said import answer_tokens, question_of, text_of
from xrouter_lg.tracing.runs.extract import route_records

if TYPE_CHECKING:
    from xrouter_lg.pool.pool import ModelPool
    from xrouter_lg.route_record import RouteRecord
    from xrouter_lg.tracing.store.query import RouteRow
    from xrouter_lg.tracing.store.trace_store import TraceStore


@dataclass(frozen=True, kw_only=True)
class PastRequest:
    """One routed request of a trace."""

    row: RouteRow
    expected: dict[str, float]
    """What the deciding policy counted on each card to score, as recorded; empty where unsaid."""
    reading: ReadRequest | None
    """What a checkpoint expects today."""
    same: bool
    """Whether that is the checkpoint that decided."""
    at_price: dict[str, float]
    """USD of this request's own tokens at each other card's price, where a pool tells it."""
    unread: str | None
    """Why there is no reading."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe form."""
        return {
            "record": self.row.record.to_dict(),
            "expected_then": self.expected,
            "reading": None if self.reading is None else asdict(self.reading),
            "same_checkpoint": self.same,
            "at_price_usd": self.at_price,
            "unread": self.unread,
        }


def past_requests(
    store: TraceStore, trace_id: str, checkpoint: Path | None, pool: ModelPool | None
) -> list[PastRequest]:
    """The routed requests of a trace, newest first. Without a ``checkpoint`` they are told from
    their records alone.

    Raises:
        CheckpointError, MissingExtraError: as :class:`RequestReader`.
    """
    reader = None if checkpoint is None else RequestReader(checkpoint, pool)
    asked = _texts(store, trace_id)
    return [
        _past(row, asked.get(row.record.run_id), reader, pool)
        for row in store.routes(trace_id=trace_id)
    ]


def _texts(store: TraceStore, trace_id: str) -> dict[str | None, str]:
    """The question of each routed request whose texts were stored, by the router's run."""
    runs = store.runs(trace_id)
    told = {found.run_id: found for found in episodes(runs)}
    found: dict[str | None, str] = {}
    for route in route_records(runs):
        episode = told.get(route.run_id or route.collect_run_id)
        if episode is not None and episode.messages:
            found[route.record.run_id] = text_of(question_of(episode.messages))
    return found


def _at_price(record: RouteRecord, pool: ModelPool | None) -> dict[str, float]:
    into, out = answer_tokens(record.charges)
    others = {*record.candidates, *record.removed} - {record.route}
    if pool is None or into is None or out is None:
        return {}
    usd = {name: pool[name].estimate_usd(into, out) for name in sorted(others) if name in pool}
    return {name: float(cost) for name, cost in usd.items() if cost is not None}


def _past(
    row: RouteRow, text: str | None, reader: RequestReader | None, pool: ModelPool | None
) -> PastRequest:
    record = row.record
    first = record.decisions[0] if record.decisions else {}
    known = () if reader is None else reader.pool.names
    among = [name for name in (*record.candidates, *record.removed) if name in known]
    reading, unread = None, None
    if reader is None:
        unread = "no checkpoint to read it by; name one with --checkpoint"
        if pool is None:
            unread += ", or their prices with --pool"
    elif text is None:
        unread = "its text was not stored (hashed or redacted), so it can't be read again"
    elif not among:
        unread = f"{str(reader.folder)!r} knows none of its cards"
    else:
        reading = reader.read(text, record.cost_weight, among)
    return PastRequest(
        row=row,
        expected=dict(first.get("quality") or {}),
        reading=reading,
        same=reader is not None and record.policy_version == reader.manifest.version,
        at_price=_at_price(record, pool),
        unread=unread,
    )
