"""Model calls of graphs that never routed, as episodes: the history from before the router.

An agent's loop with one model is one episode: its first question, its last answer, all its calls.
A call belongs to the loop of an earlier one if it takes that conversation further (the same
messages, then what the model said, then more), or asks again after a failure. Where several models
had a part in a loop, no model's outcome is the loop's, and each call is an episode of its own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from xrouter_lg import said
from xrouter_lg.calls.money import cost_of
from xrouter_lg.episodes import runs as read
from xrouter_lg.outcomes.grid import card_name
from xrouter_lg.outcomes.schema import normalise_prompt
from xrouter_lg.pool.card import ModelCard
from xrouter_lg.pool.names import same_model
from xrouter_lg.pool.pool import ModelPool
from xrouter_lg.pool.pricing import Price, published_price
from xrouter_lg.pool.served import is_of, price_as_served
from xrouter_lg.said import Message, Run
from xrouter_lg.types import TokenUsage


@dataclass(frozen=True, kw_only=True)
class PlainCall:
    """One chat-model run."""

    run: Run
    messages: tuple[Message, ...]
    reply: Mapping[str, Any] | None
    keys: tuple[str, ...]
    """Identity of each message but the system's, which an agent may change at every step."""

    @classmethod
    def of(cls, run: Run) -> PlainCall:
        messages = said.asked_messages(run)
        keys = tuple(message_key(m) for m in messages if m["role"] != "system")
        reply = None if run.get("error") else said.reply_of(run)
        return cls(run=run, messages=messages, reply=reply, keys=keys)


def loops(runs: Sequence[Run]) -> list[list[PlainCall]]:
    """Chat-model runs of one trace, grouped into episodes, each in the order of its calls."""
    found: list[list[PlainCall]] = []
    for run in sorted(runs, key=lambda run: (str(run["start_time"]), str(run["dotted_order"]))):
        call = PlainCall.of(run)
        loop = next((loop for loop in reversed(found) if _goes_on(loop[-1], call)), None)
        if loop is None:
            found.append(loop := [])
        loop.append(call)
    episodes: list[list[PlainCall]] = []
    for loop in found:
        alone = len({read.model_of(call.run) for call in loop}) == 1
        episodes += [loop] if alone else [[call] for call in loop]
    return episodes


def _goes_on(last: PlainCall, call: PlainCall) -> bool:
    """Whether a call belongs to the loop that ``last`` is the latest of."""
    if not last.keys or not call.keys:
        return False
    if call.keys == last.keys:
        return last.reply is None
    known = len(last.keys)
    return call.keys[:known] == last.keys and call.keys[known].startswith("assistant")


def innermost_models(runs: Sequence[Run]) -> list[Run]:
    """Model runs that no other model run stands below: a model that wraps others is none, nor is
    one that answers typed questions (LangChain's decision models)."""
    models = [run for run in runs if run["run_type"] == "llm" and not _decides(run)]
    above = {step for run in models for step in read.ancestors_of(run)}
    return [run for run in models if run["id"] not in above]


def _decides(run: Run) -> bool:
    inputs, outputs = run.get("inputs") or {}, run.get("outputs") or {}
    asked = inputs.get("input", inputs)
    said_so = outputs.get("output", outputs)
    return (isinstance(asked, Mapping) and {"state", "questions"} <= set(asked)) or (
        isinstance(said_so, Mapping) and "answers" in said_so
    )


def message_key(message: Mapping[str, Any]) -> str:
    """What a message says, whatever ids it carries and however it is spaced: role, text, other
    content, tool calls."""
    key: list[Any] = [normalise_prompt(said.text_of(message["content"]))]
    if blocks := said.other_blocks(message["content"]):
        key.append(
            [{k: v for k, v in block.items() if k not in ("id", "index")} for block in blocks]
        )
    if calls := message.get("tool_calls"):
        key.append([[call["name"], call["args"]] for call in calls])
    if message.get("name"):
        key.append(message["name"])
    whole = json.dumps(key, sort_keys=True, ensure_ascii=False, default=str)
    return f"{message['role']}:{whole}"


def names_of(call: PlainCall, pool: ModelPool | None) -> tuple[str, Price | None]:
    """What a model is called in the outcomes, and its price; None where nobody knows it.

    The pool's card for this model names it, and prices it as it was served. A model that the pool
    does not have has its list price. Two cards for one model: no telling which was called, so
    neither.
    """
    run = call.run
    model = read.model_of(run)
    if pool is not None:
        cards = _cards(pool, model)
        if len(cards) == 1:
            served = said.served_model(call.reply)
            if served is None or same_model(served, model):
                return cards[0].name, cards[0].effective_price
            return cards[0].name, price_as_served(cards[0], served, pool)
        if not cards:
            provider = said.metadata_of(run).get("ls_provider")
            listed = published_price(str(provider), model) if provider else None
            return card_name(model), listed
    return card_name(model), None


def usd_of(call: PlainCall, price: Price | None, usage: TokenUsage | None) -> str | None:
    """USD of a call as its provider told them, else tokens × price, else None."""
    cost, _ = cost_of(call.reply, usage, price)
    return None if cost is None else format(cost, "f")


def seconds_of(run: Run) -> float:
    start, end = run.get("start_time"), run.get("end_time")
    return 0.0 if not start or not end else round(unix(end) - unix(start), 6)


def unix(when: str) -> float:
    """Seconds of a time as the store has it."""
    return datetime.fromisoformat(when).timestamp()


def _cards(pool: ModelPool, model: str) -> list[ModelCard]:
    by_model = [card for card in pool if model in (card.model_name, card.published_name)]
    if by_model:
        return by_model
    wanted = {model, card_name(model), card_name(model.rpartition("/")[2])}
    by_name = [card for card in pool if card.name in wanted]
    return by_name or [card for card in pool if is_of(card, model)]
