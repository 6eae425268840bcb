"""An answer that was paid for: what it is an answer to, and what is kept of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, NamedTuple

from xrouter_lg.outcomes.conversation import Conversation, digest_of
from xrouter_lg.pool.card import ModelCard
from xrouter_lg.types import usd


class AnswerKey(NamedTuple):
    """What an answer is an answer to. ``base`` digests conversation, model, server and params."""

    base: str
    sample: int
    """From 0; others than 0 only where an answer is sampled several times."""
    max_tokens: int


@dataclass(frozen=True, slots=True)
class Stored:
    """An answer without its text, or the failure that a call ended in for good."""

    id: int
    key: AnswerKey
    input_tokens: int | None
    output_tokens: int | None
    cost_usd: Decimal | None
    latency_s: float | None
    truncated: bool
    error: str | None
    detail: str | None
    at: float
    """When it was kept, in Unix seconds."""


def key_base(conversation: Conversation, card: ModelCard) -> str:
    """What a card would be sent, but for the length limit."""
    return digest_of([1, conversation.digest, _identity(card)])


def _identity(card: ModelCard) -> dict[str, Any]:
    identity: dict[str, Any] = {
        "model": card.model_name,
        "provider": card.provider,
        "base_url": card.base_url or getattr(card.model, "openai_api_base", None),
        "params": dict(card.params),
    }
    if not isinstance(card.model, str):
        # A model that was handed in has its settings inside.
        identity["params"] = {"type": card.model._llm_type, **card.model._identifying_params}
    return identity


def stored_of(row: Mapping[str, Any]) -> Stored:
    """From a row of the cache."""
    return Stored(
        id=row["id"],
        key=AnswerKey(row["base"], row["sample"], row["max_tokens"]),
        input_tokens=row.get("input_tokens"),
        output_tokens=row.get("output_tokens"),
        cost_usd=usd(row.get("cost_usd")),
        latency_s=row.get("latency_s"),
        truncated=bool(row["truncated"]),
        error=row.get("error"),
        detail=row.get("detail"),
        at=row["at"],
    )
