"""A decision with what its request was like: the one form that a graph's state keeps of a turn."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from langchain_core.messages import BaseMessage

from xrouter_lg.pool.pool import ModelPool
from xrouter_lg.types import Decision, RouteRequest, known_fields, shallow, usd, usd_str


@dataclass(frozen=True, slots=True)
class TurnContext:
    """What held when a turn was decided, and still has to when its calls have come back."""

    pool_fingerprint: str
    cost_weight: float
    started_at: float
    """Unix time in seconds."""
    thread_id: str | None
    tenant: str | None
    limit_usd: Decimal | None
    """The request's limit; a human may raise it on a later turn."""
    anchor: tuple[int, str | None, str]
    """Of :func:`anchor_of`: the request that the turn belongs to."""
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of a request."""

    decision: Decision
    context: TurnContext

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe form but for the decision's ``message``: the fields of both side by side."""
        context = shallow(self.context)
        context["limit_usd"] = usd_str(self.context.limit_usd)
        context["anchor"] = list(self.context.anchor)
        return {**self.decision.to_dict(), **context}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Turn:
        """The inverse of :meth:`to_dict`; fields of another version are ignored."""
        decision, context = known_fields(Decision, data), known_fields(TurnContext, data)
        context["limit_usd"] = usd(data["limit_usd"])
        context["anchor"] = tuple(data["anchor"])
        return cls(Decision.from_dict(decision), TurnContext(**context))


def anchor_of(messages: Sequence[BaseMessage]) -> tuple[int, str | None, str]:
    """Tells one request of a thread from the next: how many messages, and the last one's id and
    content (an app may replace a question under its old id)."""
    last = messages[-1]
    return len(messages), last.id, hashlib.sha256(repr(last.content).encode()).hexdigest()[:16]


def turn_of(decision: Decision, request: RouteRequest, pool: ModelPool, started_at: float) -> Turn:
    """A turn of the request, as it was when it was decided."""
    context = TurnContext(
        pool_fingerprint=pool.fingerprint,
        cost_weight=request.cost_weight,
        started_at=started_at,
        thread_id=request.thread_id,
        tenant=request.tenant,
        limit_usd=request.max_cost_usd,
        anchor=anchor_of(request.messages),
        request_id=request.request_id,
    )
    return Turn(decision, context)
