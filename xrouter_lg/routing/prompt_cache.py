"""Which card has how much of a conversation in its provider's prompt cache.

Providers keep what they have read for some minutes and read it again at a fraction of the price.
Staying with a card uses that, a switch loses it: what a card is expected to cost counts the part
that is warm at the cached rate, and so a switch at its real price.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage

from xrouter_lg.pool.card import ModelCard
from xrouter_lg.pool.pool import ModelPool
from xrouter_lg.routing.tool_loop import record_of
from xrouter_lg.said import usage_of
from xrouter_lg.types import TokenUsage

KEPT_S = 300.0
"""Seconds for which providers keep a prompt at least (OpenAI, Anthropic: five minutes)."""
SHORTEST = 1024
"""Tokens from which hosted models cache a prompt; a server of one's own does so from the first."""


def warm_tokens(
    messages: Sequence[BaseMessage], pool: ModelPool, now: float, prompt_tokens: int
) -> dict[str, int]:
    """Tokens of this prompt that a card has read or said within the last minutes, by card.

    ``now`` is Unix time in seconds, ``prompt_tokens`` the prompt's estimated size, which no cached
    part exceeds.
    """
    warm: dict[str, int] = {}
    for message in reversed(messages):
        if not isinstance(message, AIMessage):
            continue
        record = record_of(message)
        if not record:
            continue
        ended = _ended(record)
        if ended is None:
            continue
        if now - ended > KEPT_S:
            break  # whatever is further back is older still
        name, usage = str(record.get("route")), usage_of(message)
        if name in pool and name not in warm and usage is not None:
            warm[name] = min(_kept(pool[name], usage), prompt_tokens)
    return {name: tokens for name, tokens in warm.items() if tokens}


def _ended(record: Mapping[str, Any]) -> float | None:
    """Unix time of an answer; None where its record doesn't tell."""
    begun, took = record.get("started_at"), record.get("latency_s")
    if isinstance(begun, int | float) and isinstance(took, int | float):
        return begun + took
    ended = record.get("ended_at")
    return ended if isinstance(ended, int | float) else None


def _kept(card: ModelCard, usage: TokenUsage) -> int:
    """Tokens that the provider has kept of a call: what it said it wrote where it bills writing,
    else the prompt and its answer where they are long enough."""
    price = card.effective_price
    if price is None:
        return 0
    if price.cache_write is not None:
        return usage.cached_input_tokens + usage.cache_write_tokens
    whole = usage.input_tokens + usage.output_tokens
    hosted = card.published is not None
    return whole if not hosted or whole >= SHORTEST else 0
