"""What an agent's run has come to: its steps, who made each of them, and which of them stalled."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, ToolMessage

from xrouter_lg.policies.base import by_price
from xrouter_lg.pool.card import ModelCard
from xrouter_lg.pool.pool import ModelPool
from xrouter_lg.routing.tool_loop import record_of
from xrouter_lg.said import text_of


@dataclass(frozen=True, slots=True)
class AgentStep:
    """One model call of a run that called tools, with what the tools gave."""

    card: str | None
    """The card that made it; None where another model has."""
    calls: tuple[tuple[str, str], ...]
    """Name and arguments (JSON, keys sorted) of each call."""
    results: tuple[str, ...]
    """What each call gave, in order."""
    failed: bool
    """Every call ended in an error."""
    repeated: bool
    """Every call was made before in this run, with the same result."""

    @property
    def stalled(self) -> bool:
        """Whether the run has come no further by this step."""
        return self.failed or self.repeated

    @property
    def trouble(self) -> str:
        """In words, how it stalled; empty where it has not."""
        if self.failed:
            return "its tool calls failed"
        return "it made the same call again" if self.repeated else ""


def steps_of(messages: Sequence[BaseMessage]) -> tuple[AgentStep, ...]:
    """The finished steps of the run that the next answer belongs to, oldest first.

    A run begins at what the user asked last. A user's message right behind tool results (a
    reminder, a picture of what a tool saw) does not begin one. A call that has no result yet, or
    never got one, makes no step.
    """
    before: set[tuple[str, str, str]] = set()
    steps = []
    for caller, results in _answered(messages[_begin(messages) :]):
        told = [results.get(str(call["id"])) for call in caller.tool_calls]
        there = [result for result in told if result is not None]
        if len(there) < len(told):
            continue
        calls = tuple((call["name"], _canonical(call["args"])) for call in caller.tool_calls)
        texts = tuple(text_of(result) for result in there)
        made = {(*call, text) for call, text in zip(calls, texts, strict=True)}
        failed = all(result.status == "error" for result in there)
        steps.append(
            AgentStep(record_of(caller).get("route"), calls, texts, failed, made <= before)
        )
        before |= made
    return tuple(steps)


def above_stalled(
    steps: Iterable[AgentStep], cards: tuple[ModelCard, ...], pool: ModelPool
) -> tuple[tuple[ModelCard, ...], str]:
    """The cards that a run goes on with after it stalled: those that stand above every card that
    did, by price, and why; all of ``cards`` and an empty text where none stalled, or nothing above
    is left.

    What stalled once is not gone back to within the run, however well its next steps look.
    """
    rank = {card.name: place for place, card in enumerate(by_price(pool.cards))}
    stalled = [step for step in steps if step.stalled and step.card in rank]
    if not stalled:
        return cards, ""
    worst = max(stalled, key=lambda step: rank[str(step.card)])
    higher = tuple(card for card in cards if rank[card.name] > rank[str(worst.card)])
    if not higher:
        return cards, ""
    return higher, f"{worst.card} stalled ({worst.trouble})"


def _answered(
    messages: Sequence[BaseMessage],
) -> list[tuple[AIMessage, dict[str, ToolMessage]]]:
    """Each message that calls tools, with the results behind it by the call's id: some servers
    number the calls of every message anew."""
    found: list[tuple[AIMessage, dict[str, ToolMessage]]] = []
    for message in messages:
        if isinstance(message, AIMessage):
            found.append((message, {}))
        elif isinstance(message, ToolMessage) and found:
            found[-1][1][message.tool_call_id] = message
    return [(message, results) for message, results in found if message.tool_calls and results]


def _begin(messages: Sequence[BaseMessage]) -> int:
    """The place of the user's message that the run is about; 0 without one."""
    begin, in_loop = 0, False
    for place, message in enumerate(messages):
        if message.type == "human" and not in_loop:
            begin = place
        elif message.type == "tool":
            in_loop = True
        elif isinstance(message, AIMessage):
            in_loop = False
    return begin


def _canonical(arguments: Any) -> str:
    try:
        return json.dumps(arguments, sort_keys=True, ensure_ascii=False, default=str)
    except (TypeError, ValueError, RecursionError):  # no JSON, or too deep
        return f"object {id(arguments)}"
