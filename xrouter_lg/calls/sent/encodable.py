"""Messages as a provider's client can send them: no half of a surrogate pair in any text.

Text that was cut between the two halves of an emoji is no valid Unicode. Every HTTP client fails to
encode it, so one such character would cost the request on every card.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.messages import BaseMessage

from xrouter_lg.json_text import encodable_value

_FIELDS = (
    *("content", "name", "id", "additional_kwargs"),
    *("tool_calls", "invalid_tool_calls", "tool_call_id"),
)
"""Fields of a message that can reach a provider."""


def encodable(messages: Sequence[BaseMessage]) -> Sequence[BaseMessage]:
    """The messages with U+FFFD for each lone surrogate; the very same ones where there is none."""
    found = [_message(message) for message in messages]
    unchanged = all(new is old for new, old in zip(found, messages, strict=True))
    return messages if unchanged else found


def _message(message: BaseMessage) -> BaseMessage:
    fields = vars(message)
    changed: dict[str, Any] = {}
    for name in _FIELDS:
        value = fields.get(name)
        if value and (clean := encodable_value(value)) is not value:
            changed[name] = clean
    return message.model_copy(update=changed) if changed else message
