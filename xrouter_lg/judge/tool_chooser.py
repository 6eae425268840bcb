"""A chat model that calls cards as tools, asked about recorded prompts.

It says what to do, not what it expects: every prompt is one question at every cost weight. So it is
run at few of them, and nothing is kept between runs. Its first decision is judged. Of several calls
the first one's answer is served, as the router does when nothing is selected; what can't be read
falls to the best fixed card, as it does to the pool's default; an answer of its own is on no table,
and counts as wrong, but for prompts that are marked ``must_not_call``, which it should answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import polars as pl
from langchain_core.messages import BaseMessage

from xrouter_lg.errors import InvalidProposalError, PolicyError
from xrouter_lg.judge.chooser import Chooser, Taken, frame_of, paid
from xrouter_lg.judge.estimates import request_of
from xrouter_lg.judge.score import MIN_WEIGHTS
from xrouter_lg.outcomes.conversation import conversations
from xrouter_lg.outcomes.grid import OutcomeGrid
from xrouter_lg.policies.trained import TrainedPolicy
from xrouter_lg.pool.card import ModelCard
from xrouter_lg.portal import run_sync
from xrouter_lg.types import Proposal, RouteRequest

_AT_ONCE = 8
"""Questions under way; a server answers them together."""


class ToolsChooser(Chooser[TrainedPolicy]):
    """Asks the serving policy for a decision about every prompt."""

    def cost_weights(self) -> tuple[float, ...]:
        return self._few(super().cost_weights())

    def choices(self, rows: OutcomeGrid, weights: Sequence[float]) -> pl.DataFrame:
        said = conversations(rows)
        few = self._few(weights)
        parts = []
        for number, weight in enumerate(few):
            if self.asking.progress is not None:
                self.asking.progress(number, len(few), f"cost weight {weight:g}")
            parts.append(frame_of(rows, weight, run_sync(self._taken(rows, said, weight))))
        return pl.concat(parts)

    def _few(self, weights: Sequence[float]) -> tuple[float, ...]:
        """As many as figures need, spread over the dial, the judged one among them."""
        if len(weights) <= MIN_WEIGHTS:
            return tuple(weights)
        spread = np.linspace(0, len(weights) - 1, MIN_WEIGHTS - 1).round().astype(int)
        chosen = {weights[at] for at in spread} | {self.asking.cost_weight}
        more = iter([weight for weight in weights if weight not in chosen])
        while len(chosen) < MIN_WEIGHTS:
            chosen.add(next(more))
        return tuple(sorted(chosen))

    async def _taken(
        self, rows: OutcomeGrid, said: Sequence[Sequence[BaseMessage]], weight: float
    ) -> list[Taken]:
        gate = asyncio.Semaphore(_AT_ONCE)

        async def one(n: int) -> Taken:
            async with gate:
                return await self._decide(rows, n, said[n], weight)

        return list(await asyncio.gather(*map(one, range(len(rows)))))

    async def _decide(
        self, rows: OutcomeGrid, n: int, said: Sequence[BaseMessage], weight: float
    ) -> Taken:
        stats = self.manifest.tools
        assert stats is not None  # as the kind says
        there = [at for at, known in enumerate(rows.candidates[n]) if known]
        cards = [self._card(rows.cards[at]) for at in there]
        request = replace(request_of(said), cost_weight=weight, max_turns=stats.turns)
        try:
            proposal: Proposal | None = await self.policy.propose(request, cards)
        except InvalidProposalError:
            proposal = None
        except PolicyError:
            # It never came to a call within its length; a server that fails is no decision.
            if all(charge.error != "truncated" for charge in request.attempt.charges):
                raise
            proposal = None
        router = _tokens(request) * self.asking.router_usd_per_million / 1e6
        actions = () if proposal is None else proposal.actions
        called = [rows.cards.index(a.card) for a in actions if a.card is not None]
        if called:
            return paid(rows, n, called, called[0], router)
        if actions:
            marks = rows.about.get("must_not_call")
            return Taken(None, float(marks is not None and bool(marks[n])), 0.0, router)
        best = self.manifest.best_fixed
        known = [at for at in there if rows.cards[at] == best]
        fallback = (known or there)[0]
        return paid(rows, n, [fallback], fallback, router)

    def _card(self, name: str) -> ModelCard:
        """A card as its prompt showed it in training; nobody calls it."""
        stats = self.manifest.card(name)
        return ModelCard(
            name=name,
            model="recorded",
            base_url="http://127.0.0.1:9/v1",
            price=None if stats is None else stats.price,
            description="" if stats is None else stats.line,
        )


def _tokens(request: RouteRequest) -> int:
    """What the router model read and wrote for a decision."""
    used = [charge.usage for charge in request.attempt.charges if charge.usage is not None]
    return sum(usage.input_tokens + usage.output_tokens for usage in used)
