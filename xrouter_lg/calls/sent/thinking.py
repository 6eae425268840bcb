"""A model of Anthropic's takes over a tool loop that another model began.

With ``thinking`` of a fixed budget its API wants the turn that called the tools to begin with a
thought of its own, and refuses the request where there is none. It goes on without thinking, as
newer versions of the API do by themselves; the next turn thinks again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage

from xrouter_lg.calls.told.notices import notice

_THOUGHTS = ("thinking", "redacted_thinking")


def able_to_go_on(
    model: BaseChatModel, messages: Sequence[BaseMessage], card: str
) -> BaseChatModel:
    """The model, or the same without ``thinking`` where its provider would refuse it."""
    thinking = getattr(model, "thinking", None)
    if not isinstance(thinking, Mapping) or thinking.get("type") != "enabled":
        return model
    last = next((m for m in reversed(messages) if isinstance(m, AIMessage)), None)
    if last is None or not last.tool_calls or _begins_with_a_thought(last.content):
        return model
    notice(
        ("thinking", card),
        f"card {card!r} goes on in a tool loop that began without a thought of its own, and so "
        "without thinking, which Anthropic would refuse. Fix: nothing, where another card failed; "
        "else keep the messages of a loop as they came.",
    )
    return model.model_copy(update={"thinking": None})


def _begins_with_a_thought(content: Any) -> bool:
    first = content[0] if isinstance(content, list) and content else None
    return isinstance(first, Mapping) and first.get("type") in _THOUGHTS
