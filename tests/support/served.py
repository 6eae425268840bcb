"""What a served checkpoint is compared by: the bytes the server saw, token ids, probabilities."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from langchain_core.messages import BaseMessage

from xrouter_lg.calls.tokens import prompt_size
from xrouter_lg.policies.slots.prompts import Block, SlotPolicy
from xrouter_lg.policies.slots.remote import RemotePolicy
from xrouter_lg.policies.slots.remote_servers import LlamaCpp, ServerKind, Vllm
from xrouter_lg.pool.card import ModelCard
from xrouter_lg.prompts import slots
from xrouter_lg.types import Proposal, RouteRequest


@dataclass
class Seen:
    """What a server says it was asked, by the text of the prompt."""

    texts: list[str] = field(default_factory=list)
    ids: list[tuple[int, ...]] = field(default_factory=list)


class VllmSeen(Vllm):
    """vLLM, telling which prompt tokens it ran."""

    def __init__(self, seen: Seen) -> None:
        self.seen = seen

    def body(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return {**super().body(*args, **kwargs), "return_token_ids": True}

    def values(self, answer: Any, block: Block) -> list[float]:
        self.seen.ids.append(tuple(answer["choices"][0]["prompt_token_ids"]))
        return super().values(answer, block)


class LlamaSeen(LlamaCpp):
    """llama.cpp, telling the text that its prompt tokens stand for."""

    def __init__(self, seen: Seen) -> None:
        self.seen = seen

    def values(self, answer: Any, block: Block) -> list[float]:
        self.seen.texts.append(answer["prompt"])
        return super().values(answer, block)


def watched(policy: RemotePolicy, kind: type[ServerKind]) -> Seen:
    """What the policy's server says it saw, from now on."""
    seen = Seen()
    policy._server = kind(seen)  # type: ignore[call-arg]
    return seen


@dataclass(frozen=True)
class Difference:
    """Largest differences over many requests."""

    contrast: float
    """Of the log-odds of a card, nats."""
    quality: float
    """Of a success probability."""
    decisions: int
    """Requests that another card would get."""
    near_ties: float
    """Largest difference of utility between the two cards of such a request."""


def proposals(
    policy: SlotPolicy, requests: Sequence[RouteRequest], cards: Sequence[ModelCard]
) -> list[Proposal]:
    """One proposal per request; a few at once, as a service would have them."""

    async def ask() -> list[Proposal]:
        gate = asyncio.Semaphore(8)

        async def one(request: RouteRequest) -> Proposal:
            async with gate:
                return await policy.propose(request, cards)

        return list(await asyncio.gather(*map(one, requests)))

    return asyncio.run(ask())


def requests_of(
    conversations: Sequence[Sequence[BaseMessage]], cost_weight: float
) -> list[RouteRequest]:
    return [
        RouteRequest(
            messages=messages,
            cost_weight=cost_weight,
            prompt_tokens=prompt_size(messages).likely,
        )
        for messages in conversations
    ]


def difference(one: Sequence[Proposal], other: Sequence[Proposal]) -> Difference:
    contrast = quality = ties = 0.0
    decisions = 0
    for a, b in zip(one, other, strict=True):
        assert a.token_ids is not None and b.token_ids is not None
        assert a.quality is not None and b.quality is not None
        left, right = a.token_ids["logprobs"], b.token_ids["logprobs"]
        odds = [slots.log_odds(logs, list(logs)) for logs in (left, right)]
        contrast = max(contrast, *(abs(odds[0][k] - odds[1][k]) for k in odds[0]))
        quality = max(quality, *(abs(a.quality[k] - b.quality[k]) for k in a.quality))
        first, second = (max(p.probabilities, key=p.probabilities.__getitem__) for p in (a, b))
        if first != second:
            decisions += 1
            ties = max(ties, abs(a.probabilities[first] - a.probabilities[second]))
    return Difference(contrast, quality, decisions, ties)


def same_prompts(one: Sequence[Proposal], other: Sequence[Proposal]) -> bool:
    """Whether both sent the same token ids for every request."""
    return [p.token_ids["prompt_token_ids"] for p in one if p.token_ids] == [
        p.token_ids["prompt_token_ids"] for p in other if p.token_ids
    ]
