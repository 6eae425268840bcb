"""What a fake server remembers: every request, and its own bill.

The bill is the second opinion for the ledger: it is counted where tokens are generated, not
where they are reported, so a lost charge or a wrong one shows as a difference.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from xrouter_lg.testing.completion import Usage

_SECRET_HEADERS = frozenset({"authorization", "api-key", "x-api-key", "x-goog-api-key", "cookie"})


@dataclass(frozen=True)
class RecordedRequest:
    """A request for an answer as it arrived."""

    number: int
    """Position among the server's requests, from 0; the bill refers to it."""
    model: str
    path: str
    """Which of a provider's APIs it asks."""
    body: dict[str, Any]
    headers: dict[str, str]
    """Lower-case names; keys and cookies are never kept."""
    authenticated: bool
    """A key came with it, and was the right one if the server requires one."""
    stream: bool
    fault: str | None
    """Kind of the fault it met."""


@dataclass(frozen=True)
class BillLine:
    """What one request was billed. A request that was not billed has no line."""

    number: int
    model: str
    """The model asked for."""
    served_model: str
    stream: bool
    fault: str | None
    usage: Usage
    delivered: bool
    """False if the client had gone before the answer was written."""


@dataclass(frozen=True)
class Totals:
    """The sum of a bill."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    cost_usd: Decimal = Decimal(0)

    def as_json(self) -> dict[str, Any]:
        """For `GET /_stats`; USD as a string, so that nothing is rounded."""
        return {**self.__dict__, "cost_usd": str(self.cost_usd)}


class Bill(tuple[BillLine, ...]):
    """All billed requests, in the order they were billed."""

    __slots__ = ()

    def of(self, model: str) -> Bill:
        """The lines of one model."""
        return Bill(line for line in self if line.model == model)

    @property
    def totals(self) -> Totals:
        """The sum of all lines; USD counts only lines that have a cost."""
        return Totals(
            requests=len(self),
            prompt_tokens=sum(line.usage.prompt_tokens for line in self),
            completion_tokens=sum(line.usage.completion_tokens for line in self),
            cached_tokens=sum(line.usage.cached_tokens for line in self),
            reasoning_tokens=sum(line.usage.reasoning_tokens for line in self),
            cost_usd=sum((line.usage.cost_usd or Decimal(0) for line in self), Decimal(0)),
        )


class Journal:
    """Thread-safe memory of one server; the server's thread writes, tests read."""

    def __init__(self, keep_requests: int | None = None) -> None:
        self._lock = threading.Lock()
        self._requests: deque[RecordedRequest] = deque(maxlen=keep_requests)
        self._bill: list[BillLine] = []
        self._models: Counter[str] = Counter()
        self._faults: Counter[str] = Counter()
        self._statuses: Counter[int] = Counter()

    def request(self, request: RecordedRequest) -> None:
        """Remember a request."""
        with self._lock:
            self._requests.append(request)
            self._models[request.model] += 1
            if request.fault is not None:
                self._faults[request.fault] += 1

    def status(self, status: int) -> None:
        """Count a response's status."""
        with self._lock:
            self._statuses[status] += 1

    def charge(self, line: BillLine) -> None:
        """Add to the bill."""
        with self._lock:
            self._bill.append(line)

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._requests.clear()
            self._bill.clear()
            self._models.clear()
            self._faults.clear()
            self._statuses.clear()

    @property
    def requests(self) -> list[RecordedRequest]:
        """The requests kept."""
        with self._lock:
            return list(self._requests)

    @property
    def bill(self) -> Bill:
        """The bill so far."""
        with self._lock:
            return Bill(self._bill)

    @property
    def counts(self) -> dict[str, int]:
        """Requests per model."""
        with self._lock:
            return dict(self._models)

    def stats(self) -> dict[str, Any]:
        """Counts and bill as JSON."""
        bill = self.bill
        with self._lock:
            counts: dict[str, Mapping[Any, int]] = {
                "requests_by_model": dict(self._models),
                "responses_by_status": {str(key): n for key, n in self._statuses.items()},
                "faults": dict(self._faults),
            }
            total = sum(self._models.values())
        models = {line.model for line in bill}
        return {
            "requests": total,
            **counts,
            "bill": bill.totals.as_json(),
            "bill_by_model": {model: bill.of(model).totals.as_json() for model in models},
        }


def public_headers(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Headers without keys and cookies."""
    named = ((name.decode("latin-1").lower(), value) for name, value in headers)
    return {name: value.decode("latin-1") for name, value in named if name not in _SECRET_HEADERS}
