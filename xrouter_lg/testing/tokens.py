"""The fakes' own tokeniser: one word with the space before it is one token.

Nothing here resembles a real vocabulary, and that is the point: a test can count tokens by
reading the text, and the count is the same on every machine.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

_WORD = re.compile(r"\s*\S+|\s+\Z")
_MESSAGE_OVERHEAD = 3
_IMAGE_TOKENS = 85


def split_tokens(text: str) -> list[str]:
    """Cut text into tokens; joined again they give the same text."""
    return _WORD.findall(text)


def count_tokens(text: str) -> int:
    """Count the tokens of a text."""
    return len(_WORD.findall(text))


def count_prompt_tokens(body: Mapping[str, Any]) -> int:
    """Count the prompt of a chat completion request.

    Words of all messages, 3 per message, 85 per image or other non-text part, and the words
    of each tool's JSON.
    """
    total = 0
    for message in body.get("messages", ()):
        total += _MESSAGE_OVERHEAD
        content = message.get("content")
        if isinstance(content, str):
            total += count_tokens(content)
        elif isinstance(content, list):
            for part in content:
                text = part.get("text") if isinstance(part, Mapping) else None
                total += count_tokens(text) if isinstance(text, str) else _IMAGE_TOKENS
        for call in message.get("tool_calls") or ():
            total += 1 + count_tokens(call.get("function", {}).get("arguments", ""))
    for tool in body.get("tools") or ():
        total += count_tokens(json.dumps(tool))
    return total


def count_words(value: Any) -> int:
    """Count the tokens of every text in a piece of JSON; base64 is one."""
    if isinstance(value, str):
        return count_tokens(value)
    if isinstance(value, Mapping):
        value = value.values()
    elif not isinstance(value, list):
        return 0
    return sum(map(count_words, value))
