"""How many tokens a prompt has, before any provider has counted: an estimate and a bound."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage

CHARS_PER_TOKEN = 4
TOKENS_PER_MESSAGE = 4
IMAGE_TOKENS = 1_100
"""A usual image at usual detail."""

# A byte-level tokenizer never makes more tokens than there are bytes; chat templates add role
# markers per message and a preamble of their own (Qwen's default system prompt is about 20).
BOUND_PER_MESSAGE = 16
BOUND_PREAMBLE = 64
BOUND_PER_IMAGE = 6_000

_IMAGE_TYPES = frozenset({"image", "image_url", "input_image"})


def estimate_tokens(
    messages: Sequence[BaseMessage], tools: Iterable[Mapping[str, Any]] = ()
) -> tuple[int, int]:
    """``(likely, at_most)`` tokens of a prompt.

    The first compares prices and windows (four ASCII characters a token, any other character a
    token); the second is what a budget reserves (a token a byte), so that an estimate never
    overspends a limit.
    """
    likely, bound = 0, BOUND_PREAMBLE
    for message in messages:
        narrow, wide, size, images = _measure(message)
        likely += narrow // CHARS_PER_TOKEN + wide
        likely += TOKENS_PER_MESSAGE + images * IMAGE_TOKENS
        bound += size + BOUND_PER_MESSAGE + images * BOUND_PER_IMAGE
    for tool in tools:
        text = json.dumps(tool, default=str)
        likely += len(text) // CHARS_PER_TOKEN
        bound += len(text.encode()) + BOUND_PER_MESSAGE
    return likely, bound


def has_images(messages: Iterable[BaseMessage]) -> bool:
    """Whether a message carries an image block of any provider's shape."""
    return any(
        isinstance(block, Mapping) and block.get("type") in _IMAGE_TYPES
        for message in messages
        if not isinstance(message.content, str)
        for block in message.content
    )


def _measure(message: BaseMessage) -> tuple[int, int, int, int]:
    """ASCII characters, other characters, UTF-8 bytes and images of a message."""
    content = message.content
    narrow = wide = size = images = 0
    for block in [content] if isinstance(content, str) else content:
        if isinstance(block, str):
            text = block
        elif block.get("type") in _IMAGE_TYPES:
            images += 1
            continue
        else:
            text = str(block.get("text") or json.dumps(block, default=str))
        ascii_count = len(text) if text.isascii() else len(text.encode("ascii", "ignore"))
        narrow += ascii_count
        wide += len(text) - ascii_count
        size += len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
    extras: list[Any] = [message.name, getattr(message, "tool_call_id", None)]
    if isinstance(message, AIMessage):
        extras += [*message.tool_calls, *message.invalid_tool_calls]
    for extra in filter(None, extras):
        text = json.dumps(extra, default=str)  # ASCII: a byte a character
        narrow += len(text)
        size += len(text)
    return narrow, wide, size, images
