"""Episodes by hand, for what is made of them."""

from __future__ import annotations

from typing import Any

from xrouter_lg.episodes.episode import Episode, EpisodeCall


def call(card: str, answer: str | None, usd: str | None = "0.001", **changes: Any) -> EpisodeCall:
    values: dict[str, Any] = {
        "card": card,
        "model": card,
        "answer": answer,
        "usage": {"input_tokens": 10, "output_tokens": 4},
        "cost_usd": usd,
        "latency_s": 0.5,
    }
    return EpisodeCall(**{**values, **changes})


def episode(*calls: EpisodeCall, text: str = "capital of France?", **changes: Any) -> Episode:
    """A request whose last call's answer was returned."""
    last = next(c for c in reversed(calls) if c.answer is not None)
    costs = [float(c.cost_usd) for c in calls if c.cost_usd is not None]
    values: dict[str, Any] = {
        "trace_id": "t",
        "run_id": "r",
        "messages": ({"role": "user", "content": text},),
        "answer": last.answer,
        "route": last.card,
        "calls": calls,
        "routed": True,
        "project": "app",
        "task": "geo",
        "cost_usd": str(sum(costs)) if len(costs) == len(calls) else None,
    }
    return Episode(**{**values, **changes})


def said(key: str, score: float | None, **changes: Any) -> tuple[dict[str, Any], ...]:
    """One feedback, on the answer unless told otherwise."""
    entry = {"key": key, "score": score, "value": None, "comment": None, "correction": None}
    return ({**entry, "about": "answer", **changes},)
