"""What Anthropic's API refuses while ``thinking`` of a fixed budget is on.

The turn that called the tools has to begin with a thought of its own, which it does not where
another model began the loop: it goes on without thinking, as newer versions of the API do by
themselves; the next turn thinks again. And thoughts have to fit into the answer's limit, which may
be lower than their budget: they get half of it, or there are none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage

from xrouter_lg.calls.told.notices import notice

_THOUGHTS = ("thinking", "redacted_thinking")


_LEAST = 1_024
"""Tokens of the smallest budget of thoughts."""


def with_fitting_thoughts(
    model: BaseChatModel, messages: Sequence[BaseMessage], card: str, limit: int | None
) -> BaseChatModel:
    """The model, or one like it whose ``thinking`` its provider does not refuse. ``limit``: the
    answer's, in tokens."""
    thinking = getattr(model, "thinking", None)
    if not isinstance(thinking, Mapping) or thinking.get("type") != "enabled":
        return model
    last = next((m for m in reversed(messages) if isinstance(m, AIMessage)), None)
    if last is not None and last.tool_calls and not _begins_with_a_thought(last.content):
        notice(
            ("thinking", card),
            f"card {card!r} goes on without thinking in a tool loop that began without a thought "
            "of its own, which Anthropic would refuse. Fix: none where another card began it; else "
            "keep the messages of a loop as they came.",
        )
        return model.model_copy(update={"thinking": None})
    budget = thinking.get("budget_tokens")
    if limit is None or not isinstance(budget, int) or budget < limit:
        return model
    notice(
        ("thoughts", card),
        f"card {card!r} thinks less than its budget of {budget} tokens: its answers are held to "
        f"{limit}. Fix: raise that (max_output_tokens, or the budget), or lower its budget_tokens.",
    )
    less = {**thinking, "budget_tokens": limit // 2} if limit >= 2 * _LEAST else None
    return model.model_copy(update={"thinking": less})


def _begins_with_a_thought(content: Any) -> bool:
    first = content[0] if isinstance(content, list) and content else None
    return isinstance(first, Mapping) and first.get("type") in _THOUGHTS
