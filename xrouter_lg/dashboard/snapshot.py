"""The figures of the page that take a while: everything that is estimated, from one reading of the
traces."""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from xrouter_lg.checkpoints.folder import read_manifest
from xrouter_lg.dashboard.source import DashboardSource
from xrouter_lg.episodes.scoring import feedback_verifiers, open_scoring
from xrouter_lg.episodes.to_table import outcomes_from_store
from xrouter_lg.errors import ConfigurationError, ErrorClass
from xrouter_lg.figures.bootstrap import Figure
from xrouter_lg.fitting.from_log import learned_from
from xrouter_lg.fitting.read_lesson import LessonSettings, read_log
from xrouter_lg.judge.one_sided import conclude_from_log
from xrouter_lg.judge.traffic.drift import find_drift
from xrouter_lg.judge.traffic.logged import (
    LiveRequest,
    kinds_of,
    read_traffic,
    thread_mean,
    usual_feedback,
)
from xrouter_lg.judge.traffic.savings import Savings, compared_with, find_savings
from xrouter_lg.policies.utility import load_head
from xrouter_lg.pool.pool import ModelPool
from xrouter_lg.tracing.store.trace_store import TraceStore
from xrouter_lg.value.overlap import by_family

_BUCKETS = 30
_KINDS = 12
_EARLIER = 1000
"""Requests before the period, from which the models behind the cards are known."""
_DRAWS = 200


def take_snapshot(source: DashboardSource) -> dict[str, Any]:
    """Everything but what :mod:`xrouter_lg.dashboard.now` tells, as plain values.

    Raises:
        StoreError, CheckpointError, PoolError: what is looked at can't be read.
    """
    began, since, folder = time.time(), source.since(), source.read_by()
    pool = None if source.pool is None else ModelPool.from_yaml(source.pool, reload=False)
    with TraceStore(source.store, create=False) as store:
        key = source.feedback or usual_feedback(store, since)
        traffic = read_traffic(store, since=since, project=source.project, feedback=key)
        rows = store.routes(until=since, project=source.project, limit=_EARLIER)
        requests = traffic.requests
        kinds = None if folder is None else kinds_of(folder, requests)
        manifest = None if folder is None else read_manifest(folder)
        savings = find_savings(
            requests,
            kinds=kinds,
            pool=pool,
            c_ref_usd=None if manifest is None else manifest.c_ref_usd,
            feedback=key,
            draws=_DRAWS,
        )
        overlap = _overlap(store, source, key, savings)
    drift = None
    if manifest is not None and folder is not None:
        head = load_head(manifest, folder)
        earlier = [row.record for row in rows]
        drift = find_drift(manifest, head, requests, pool=pool, earlier=earlier).to_json()
    return {
        "at": time.time(),
        "took_s": time.time() - began,
        "days": source.period.total_seconds() / 86_400,
        "feedback": key,
        "checkpoint": None
        if folder is None or manifest is None
        else {"name": folder.name, "version": manifest.version},
        "savings": savings.to_json(),
        "over_time": _over_time(requests, kinds, pool, savings),
        "quality": _quality(requests),
        "kinds": _shares(requests, kinds),
        "overlap": overlap,
        "health": list(_health(requests)),
        "latency_s": _quantiles([request.record.latency_s for request in requests]),
        "failed_over": sum(bool(request.record.fallbacks) for request in requests),
        "drift": drift,
    }


def _over_time(
    requests: Sequence[LiveRequest],
    kinds: Sequence[str] | None,
    pool: ModelPool | None,
    savings: Savings,
) -> list[dict[str, Any]]:
    """Spend, the compared card's cost, and scores in equal stretches of time."""
    if not requests:
        return []
    at = np.array([request.record.started_at for request in requests])
    edges = np.linspace(at[0], at[-1], _BUCKETS + 1)
    bucket = np.clip(np.searchsorted(edges, at, side="right") - 1, 0, _BUCKETS - 1)
    served, against = compared_with(requests, savings.against, kinds=kinds, pool=pool)
    found = []
    for number in range(_BUCKETS):
        own = [int(n) for n in np.flatnonzero(bucket == number)]
        scores = [score for n in own if (score := requests[n].score) is not None]
        found.append(
            {
                "from": float(edges[number]),
                "to": float(edges[number + 1]),
                "requests": len(own),
                "usd": float(np.nansum(served[own])),
                "against_usd": None if against is None else float(np.nansum(against[own])),
                "score": float(np.mean(scores)) if scores else None,
                "scored": len(scores),
            }
        )
    return found


def _quality(requests: Sequence[LiveRequest]) -> dict[str, Any]:
    """Mean scores as users gave them, of all requests and of each card's."""
    by_card: dict[str, list[LiveRequest]] = {}
    for request in requests:
        if request.record.route is not None:
            by_card.setdefault(request.record.route, []).append(request)
    return {
        "all": asdict(_mean_score(requests)),
        "scored": sum(request.score is not None for request in requests),
        "cards": [
            {
                "card": card,
                "answered": len(own),
                "scored": sum(request.score is not None for request in own),
                "score": asdict(_mean_score(own)),
            }
            for card, own in sorted(by_card.items())
        ],
    }


def _mean_score(requests: Sequence[LiveRequest]) -> Figure:
    known = [(r.score, r.thread) for r in requests if r.score is not None]
    values = np.array([score for score, _ in known], dtype=np.float64)
    return thread_mean(values, [thread for _, thread in known], draws=_DRAWS, seed=0)


def _shares(requests: Sequence[LiveRequest], kinds: Sequence[str] | None) -> list[dict[str, Any]]:
    """Where each kind's requests went, the most frequent kinds first."""
    if not requests:
        return []
    named = ["" for _ in requests] if kinds is None else list(kinds)
    found = []
    for kind, count in Counter(named).most_common(_KINDS):
        own = [request for request, name in zip(requests, named, strict=True) if name == kind]
        scores = [request.score for request in own if request.score is not None]
        usd = [request.usd for request in own if request.usd is not None]
        found.append(
            {
                "kind": kind or ("all requests" if kinds is None else "text not stored"),
                "requests": count,
                "share": count / len(requests),
                "cards": dict(Counter(r.record.route or "no answer" for r in own).most_common()),
                "score": float(np.mean(scores)) if scores else None,
                "usd": float(np.mean(usd)) if usd else None,
            }
        )
    return found


def _overlap(
    store: TraceStore, source: DashboardSource, key: str | None, savings: Savings
) -> dict[str, Any]:
    """What the log can tell of each card on each kind, and what would tell the rest: as
    ``xrouter train`` concludes from the same traces."""
    if key is None:
        return {"unknown": "no answer has a score: ask users for feedback"}
    how = LessonSettings()
    with tempfile.TemporaryDirectory(prefix="xrouter-dashboard-") as scratch:
        folder = Path(scratch)
        try:
            with open_scoring(folder, None, feedback=feedback_verifiers([key])) as scoring:
                outcomes_from_store(
                    store, folder, since=source.since(), project=source.project, scoring=scoring
                )
            learned = learned_from(read_log(folder, how), how)
        except (ConfigurationError, ValueError) as error:
            return {"unknown": str(error)}
    concluded = conclude_from_log(learned, cost_weight=savings.cost_weight)
    cards, families = by_family(concluded.overlap)
    return {
        "cards": cards,
        "families": [
            {"kind": name, "share": rows[0].share, "cells": [asdict(row) for row in rows]}
            for name, rows in families[:_KINDS]
        ],
        "smaller": max(0, len(families) - _KINDS),
        "to_settle": [{**asdict(one), "said": str(one)} for one in concluded.to_settle],
        "use": concluded.use if concluded.card is None else f"fixed:{concluded.card}",
        "reason": concluded.reason,
        "changes": [str(change) for change in concluded.changes],
    }


def _health(requests: Sequence[LiveRequest]) -> Iterator[dict[str, Any]]:
    """Each card's attempts, and how they ended."""
    attempts: dict[str, list[dict[str, Any]]] = {}
    for request in requests:
        for charge in request.record.charges:
            if charge.get("kind") == "worker":
                attempts.setdefault(str(charge.get("card")), []).append(charge)
    for card, own in sorted(attempts.items()):
        errors = Counter(str(charge["error"]) for charge in own if charge.get("error"))
        cut = errors.pop(ErrorClass.TRUNCATED, 0)  # an answer all the same
        yield {
            "card": card,
            "attempts": len(own),
            "failed": errors.total(),
            "cut": cut,
            "errors": dict(errors.most_common()),
            "latency_s": _quantiles([float(charge.get("latency_s") or 0.0) for charge in own]),
        }


def _quantiles(values: Sequence[float]) -> dict[str, float | None]:
    if not len(values):
        return {"median": None, "p95": None}
    return {"median": float(np.quantile(values, 0.5)), "p95": float(np.quantile(values, 0.95))}
