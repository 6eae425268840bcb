"""Requests under way in this process: what each has decided and paid, so that one that ends in an
error, or whose caller leaves, is on the bill too.

The graph's state holds the same, and is gone with an error. What is kept here is forgotten when a
request ends; of one that never does (a human is asked, another process goes on) the oldest goes
first.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from langchain_core.runnables import RunnableConfig

from xrouter_lg.calls.attempt import CallResult
from xrouter_lg.errors import XRouterError
from xrouter_lg.graph.next_step import Unanswered
from xrouter_lg.graph.record import build_record
from xrouter_lg.graph.turn import Turn
from xrouter_lg.tracing.runs.extract import annotate_failed, run_ids

_MOST = 8_192


@dataclass(slots=True)
class _Open:
    deadline: float | None
    turns: list[Turn] = field(default_factory=list)
    results: dict[str, CallResult] = field(default_factory=dict)


class OpenRequests:
    """What is known of each request, by its id. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: OrderedDict[str, _Open] = OrderedDict()

    def __len__(self) -> int:
        return len(self._open)

    def deadline(self, request_id: str | None, timeout_s: float | None) -> float | None:
        """When (``time.monotonic``) a request has to be over: ``timeout_s`` after it was first
        asked for here."""
        if timeout_s is None or request_id is None:
            return None if timeout_s is None else time.monotonic() + timeout_s
        return self._of(request_id, timeout_s).deadline

    def decided(self, request_id: str | None, turns: Sequence[Turn]) -> None:
        """The turns so far."""
        if request_id is not None:
            self._of(request_id, None).turns = list(turns)

    def called(self, request_id: str | None, result: CallResult) -> None:
        """What a call gave, or what it had cost when it was cancelled."""
        if request_id is not None and (kept := self._open.get(request_id)) is not None:
            kept.results[result.call_id] = result

    def cause(self, request_id: str | None) -> BaseException | None:
        """The exception that the latest failed call ended in, as its provider's package raised it;
        None where that was in another process, or no exception."""
        kept = self._open.get(str(request_id))
        causes = [] if kept is None else [result.cause for result in kept.results.values()]
        return next((cause for cause in reversed(causes) if cause is not None), None)

    def ended(self, request_id: str | None) -> None:
        """The request has its answer, and a record of its own."""
        with self._lock:
            self._open.pop(str(request_id), None)

    def failed(
        self,
        request_id: str | None,
        config: RunnableConfig,
        error: BaseException,
        turns: Sequence[Turn] = (),
        results: Sequence[CallResult] = (),
    ) -> None:
        """The request ends in ``error``: its record goes to the trace, and onto the error where
        that is one of ours. Of the calls that a cancelled request has out each may say so; the
        last one tells of all."""
        kept = self._open.get(str(request_id)) or _Open(None)
        seen = list(turns) or kept.turns
        if not seen:
            return
        known: Mapping[str, CallResult] = {**kept.results, **{r.call_id: r for r in results}}
        ours = isinstance(error, XRouterError)
        name = type(error).__name__ if ours or isinstance(error, Exception) else "cancelled"
        _, run_id, trace_id = run_ids(config)
        # Not the error's text: that may say again what was asked.
        ending = Unanswered(name, f"the request ended without an answer ({name})")
        record = build_record(ending, seen, list(known.values()), run_id=run_id, trace_id=trace_id)
        annotate_failed(config, record)
        if isinstance(error, XRouterError):
            error.record = record.to_dict()
            self.ended(request_id)

    def _of(self, request_id: str, timeout_s: float | None) -> _Open:
        with self._lock:
            kept = self._open.get(request_id)
            if kept is None:
                deadline = None if timeout_s is None else time.monotonic() + timeout_s
                kept = self._open[request_id] = _Open(deadline)
                while len(self._open) > _MOST:
                    self._open.popitem(last=False)
            return kept
