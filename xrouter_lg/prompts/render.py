"""Cards and conversations as text for a router model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal

from langchain_core.messages import AIMessage, BaseMessage, SystemMessage, ToolMessage

from xrouter_lg.json_text import encodable
from xrouter_lg.pool.card import ModelCard
from xrouter_lg.said import question_of, text_of

QUESTION_CHARS = 4_000
CONTEXT_CHARS = 400
CONTEXT_MESSAGES = 4
ANSWER_CHARS = 2_000


def render_limits() -> list[int]:
    """What is cut where: part of the prompt's identity."""
    return [QUESTION_CHARS, CONTEXT_CHARS, CONTEXT_MESSAGES, ANSWER_CHARS]


_TAG = re.compile(r"<\s*+((?:/\s*+)?(?:request|context)\b)", re.IGNORECASE)


def card_lines(candidates: Sequence[ModelCard]) -> list[str]:
    """One short line per candidate: tool, relative price in and out, what it is for.

    Prices are multiples of the cheapest candidate's. Neither vendor nor model is named: a policy
    that reads names learns names.
    """
    prices = [card.effective_price for card in candidates]
    least_in = _least([price.input for price in prices if price is not None])
    least_out = _least([price.output for price in prices if price is not None])
    lines = []
    for card, price in zip(candidates, prices, strict=True):
        cost = (
            "price unknown"
            if price is None
            else f"price {_times(price.input, least_in)} in, {_times(price.output, least_out)} out"
        )
        text = f": {card.description.strip()}" if card.description.strip() else ""
        lines.append(f"- {card.tool_name} ({cost}){text}")
    return lines


def clip(text: str, limit: int) -> str:
    """At most ``limit`` characters; of a longer text the head and the tail, since questions
    stand at either end."""
    if len(text) <= limit:
        return text
    head = limit * 2 // 3
    tail = limit - head
    return f"{text[:head]}\n[... {len(text) - limit} characters left out ...]\n{text[-tail:]}"


def conversation(messages: Sequence[BaseMessage]) -> str:
    """The user's conversation as delimited data: the system prompt and the latest exchanges in
    short, the last message whole (clipped)."""
    before, last = latest(messages, CONTEXT_MESSAGES)
    parts = []
    if before:
        lines = [f"{role_of(m)}: {clip(_text(m), CONTEXT_CHARS)}" for m in before]
        parts.append(_delimit("context", "\n".join(lines)))
    parts.append(_delimit("request", clip(_text(last), QUESTION_CHARS)))
    return "\n".join(parts)


def latest(messages: Sequence[BaseMessage], count: int) -> tuple[list[BaseMessage], BaseMessage]:
    """The system prompt with the ``count`` messages before the last one, and the last one. Behind
    the results of tools what the user asked is one of them, however long ago that was."""
    *before, last = messages
    system = [m for m in before if isinstance(m, SystemMessage)]
    recent = [m for m in before if not isinstance(m, SystemMessage)][-count:]
    asked = question_of(messages)
    if recent and asked is not last and all(message is not asked for message in recent):
        recent[0] = asked
    return [*system[-1:], *recent], last


def role_of(message: BaseMessage) -> str:
    """``user``, ``assistant``, ``system`` or ``tool``."""
    if isinstance(message, ToolMessage):
        return "tool"
    return {"human": "user", "ai": "assistant"}.get(message.type, message.type)


def spoken(message: BaseMessage) -> str:
    """A message's text, and the names of the tools that it calls."""
    text = encodable(text_of(message))  # a tokenizer or a server could not take it else
    if isinstance(message, AIMessage) and message.tool_calls:
        text = f"{text} [called {', '.join(call['name'] for call in message.tool_calls)}]".strip()
    return text


def _text(message: BaseMessage) -> str:
    text = spoken(message)
    if not isinstance(message.content, str):
        others = sum(
            1 for block in message.content if isinstance(block, dict) and "text" not in block
        )
        if others:
            text = f"{text} [{others} attachment(s)]".strip()
    return text


def _delimit(tag: str, text: str) -> str:
    # A tag inside the text would let it pretend to be outside.
    return f"<{tag}>\n{_TAG.sub(lambda found: f'< {found[1]}', text)}\n</{tag}>"


def _least(values: Sequence[Decimal]) -> Decimal:
    positive = [value for value in values if value > 0]
    return min(positive) if positive else Decimal(1)


def _times(value: Decimal, least: Decimal) -> str:
    return "free" if value == 0 else f"{float(value / least):.3g}x"
