"""What Prometheus scrapes: requests, tokens, USD, times, fallbacks. No key, no prompt, no user."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from xrouter_lg.types import Charge

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class ServerMetrics:
    """The figures of one server."""

    media_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        self._requests = Counter(
            "xrouter_requests", "Requests by endpoint and status", ["endpoint", "status"],
            registry=registry,
        )  # fmt: skip
        self._routes = Counter(
            "xrouter_answers", "Answers by the card that gave them", ["route"], registry=registry
        )
        self._fallbacks = Counter(
            "xrouter_fallbacks", "Failed calls by card", ["card", "error"], registry=registry
        )
        self._cost = Counter(
            "xrouter_cost_usd", "Known cost in USD, by card and kind of charge", ["card", "kind"],
            registry=registry,
        )  # fmt: skip
        self._unknown = Counter(
            "xrouter_unknown_cost_charges", "Charges whose cost nobody knows", ["card"],
            registry=registry,
        )  # fmt: skip
        self._tokens = Counter(
            "xrouter_tokens", "Tokens by card and direction", ["card", "direction"],
            registry=registry,
        )  # fmt: skip
        self._seconds = Histogram(
            "xrouter_request_seconds", "Seconds until the answer's end", ["endpoint"],
            buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self._first = Histogram(
            "xrouter_first_token_seconds", "Seconds until a stream's first chunk",
            buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self.open = Gauge("xrouter_open_requests", "Requests under way", registry=registry)

    def ended(self, endpoint: str, status: int, seconds: float) -> None:
        self._requests.labels(endpoint, str(status)).inc()
        self._seconds.labels(endpoint).observe(seconds)

    def first_chunk(self, seconds: float) -> None:
        self._first.observe(seconds)

    def answered(self, record: Mapping[str, Any]) -> None:
        self._routes.labels(str(record.get("route"))).inc()

    def charged(self, charges: Iterable[Charge]) -> None:
        for charge in charges:
            if charge.error is not None:
                self._fallbacks.labels(charge.card, charge.error).inc()
            if charge.cost_usd is None:
                self._unknown.labels(charge.card).inc()
            else:
                self._cost.labels(charge.card, charge.kind).inc(float(charge.cost_usd))
            if charge.usage is not None:
                self._tokens.labels(charge.card, "input").inc(charge.usage.input_tokens)
                self._tokens.labels(charge.card, "output").inc(charge.usage.output_tokens)

    def text(self) -> bytes:
        """Prometheus' own format."""
        return generate_latest(self._registry)
