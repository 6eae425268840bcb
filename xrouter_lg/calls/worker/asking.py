"""Asking a card's chat model once: what is sent, in time, as one message or in parts."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    SystemMessage,
    message_chunk_to_message,
)
from langchain_core.runnables import RunnableConfig

from xrouter_lg.calls.raw.cut_calls import without_cut_calls
from xrouter_lg.calls.sent.encodable import encodable
from xrouter_lg.calls.sent.foreign import without_foreign_thoughts
from xrouter_lg.calls.told.token_sink import TokenSink, as_chunk
from xrouter_lg.calls.worker.parameters import Prepared
from xrouter_lg.pool.card import ModelCard
from xrouter_lg.turnstile import take_turns


async def ask_once(
    card: ModelCard,
    prepared: Prepared,
    messages: Sequence[BaseMessage],
    config: RunnableConfig,
    limit_s: float,
    sink: TokenSink | None,
) -> AIMessage:
    """The card's message within ``limit_s`` seconds; ``sink`` gets it in parts.

    Raises:
        TimeoutError: it took longer.
        TypeError: the model gave something else.
    """
    await take_turns()
    async with asyncio.timeout(limit_s):
        sent = list(encodable(without_foreign_thoughts(messages, card)))
        if sink is None:
            message = await prepared.runnable.ainvoke(sent, config, **prepared.kwargs)
        else:
            message = await _ask_in_parts(card, prepared, sent, config, sink)
    if not isinstance(message, AIMessage):
        raise TypeError(f"the chat model gave a {type(message).__name__}, not an AIMessage")
    if (provider := card.maker) is not None:
        # Ollama's class says it with the end of a stream, and so not of one that has none.
        message.response_metadata.setdefault("model_provider", provider)
    return without_cut_calls(message)


async def _ask_in_parts(
    card: ModelCard,
    prepared: Prepared,
    sent: list[BaseMessage],
    config: RunnableConfig,
    sink: TokenSink,
) -> Any:
    sink.begin()
    whole: AIMessageChunk | None = None
    async for part in prepared.runnable.astream(sent, config, **prepared.kwargs):
        chunk = as_chunk(part) if isinstance(part, AIMessage) else part
        whole = chunk if whole is None else whole + chunk
        sink.put(card.name, chunk)
    return whole if whole is None else message_chunk_to_message(whole)


def keywords_of(card: ModelCard, tools: Sequence[Any]) -> dict[str, Any]:
    """Keywords that are bound to a chat model that was handed in; the app's tools take the place
    of those among them."""
    if isinstance(card.model, str):
        return {}
    left = {"callbacks", *(("tools", "tool_choice") if tools else ())}
    return {name: value for name, value in card.params.items() if name not in left}


def with_hint(messages: Sequence[BaseMessage], hint: str | None) -> Sequence[BaseMessage]:
    """The user's messages with a policy's hint as a delimited note behind the system prompt.

    The user's system prompt stays whole and where it is. It is one message, because several chat
    templates refuse a second system message.
    """
    if not hint:
        return messages
    note = f"<routing_note>\n{hint.replace('</', '< /')}\n</routing_note>"
    place = next((i for i, m in enumerate(messages) if isinstance(m, SystemMessage)), None)
    if place is None:
        return [SystemMessage(note), *messages]
    system = messages[place]
    if isinstance(system.content, str):
        content: Any = f"{system.content}\n\n{note}"
    else:
        content = [*system.content, {"type": "text", "text": note}]
    noted = system.model_copy(update={"content": content})
    return [*messages[:place], noted, *messages[place + 1 :]]


def own_callbacks(card: ModelCard) -> Any:
    return card.params.get("callbacks") or getattr(card.model, "callbacks", None)
