"""Outcomes of real calls: workers answer, verifiers score, a budget holds.

:class:`LiveOutcomes` is a source like the recorded one, so episodes, rewards and trainers are the
same. Asking, keeping, grading and paying are backfill's
(:class:`~xrouter_lg.backfill.asking.Asker`): a run that is repeated or resumed pays nothing twice.

A worker or verifier that fails gives no outcome (NaN): the sample leaves the batch, it is no zero.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from langchain_core.messages import BaseMessage
from langsmith import tracing_context

from training.data.outcome_source import AnswerText
from xrouter_lg.arrays import Bools, Floats, Ints
from xrouter_lg.backfill.answer import Stored
from xrouter_lg.backfill.asking import Asker, Order
from xrouter_lg.backfill.cache import AnswerCache
from xrouter_lg.backfill.selection import removed_cards
from xrouter_lg.calls.attempt import Workers
from xrouter_lg.calls.ledger import RequestAccount
from xrouter_lg.calls.money import parse_usd, worst_case
from xrouter_lg.calls.tokens import prompt_size
from xrouter_lg.errors import BudgetExceededError
from xrouter_lg.outcomes.conversation import Conversation
from xrouter_lg.pool.card import ModelCard
from xrouter_lg.pool.pool import ModelPool
from xrouter_lg.portal import run_sync
from xrouter_lg.verifiers import SupportsVerify
from xrouter_lg.verifiers.grading import Grade, Submission

NAN = float("nan")


@dataclass(frozen=True)
class LivePrompt:
    """A prompt as it is sent, and how its answers are judged."""

    messages: Sequence[BaseMessage]
    verifier: SupportsVerify
    reference: Any = None
    meta: Mapping[str, Any] = field(default_factory=dict)
    """As in a prompts table: what verifiers read, and the ``tools`` that are bound."""
    settings: str = ""
    """Digest of the verifier's settings."""

    @cached_property
    def conversation(self) -> Conversation:
        tools = tuple(self.meta.get("tools") or ())
        return Conversation(tuple(self.messages), tools, self.meta.get("tool_options") or {})

    @cached_property
    def submission(self) -> Submission:
        asked = str(self.messages[-1].text)
        return Submission(("", "", ""), None, asked, self.reference, self.meta)


class LiveOutcomes:
    """Outcomes of N prompts × M cards by calling them.

    ``budget_usd`` is a hard limit on what all calls and verdicts together may cost, those of
    earlier runs on the same ``answers`` included: a call whose worst case does not fit is not made,
    and its outcome stays unknown. ``answers`` is the file of what was paid for, which outlives the
    run and belongs to one process at a time; close this object to give it back. Calls run
    ``concurrency`` at a time, off the caller's thread.

    Raises:
        ValueError: no prompts or cards, or a budget that is no amount above 0.
        BackfillError: the file is in use by another run, or can't be read.
    """

    def __init__(
        self,
        cards: Sequence[ModelCard],
        prompts: Sequence[LivePrompt],
        *,
        budget_usd: float,
        concurrency: int = 8,
        answers: Path | None = None,
        workers: Workers | None = None,
    ) -> None:
        if not cards or not prompts:
            raise ValueError(f"live outcomes need cards and prompts; got {len(cards)} cards")
        limit = parse_usd(budget_usd, "budget_usd")
        self.cards, self.prompts = tuple(cards), tuple(prompts)
        self.refused = 0
        """Calls that were not made because the budget did not allow them."""
        self.cache = AnswerCache(answers)
        self.cache.close_lost()
        self.account = RequestAccount(limit, self.cache.account_charges())
        self._asker = Asker(self.cache, self.account, workers=workers, cards=self.cards)
        self._concurrency = concurrency
        self._orders = self._possible()
        self._known: dict[tuple[int, int], tuple[float, float, AnswerText]] = {}
        for pair, order in self._orders.items():
            prompt = self.prompts[pair[0]]
            found = self._asker.known(order, prompt.submission, prompt.verifier, prompt.settings)
            self._learn(pair, *(found or (None, None)))

    def _possible(self) -> dict[tuple[int, int], Order]:
        """The calls that routing's own rules allow."""
        orders, pool = {}, ModelPool(self.cards)
        for n, prompt in enumerate(self.prompts):
            said = prompt.conversation
            size = prompt_size(said.messages, said.tools)
            removed = removed_cards(pool, said, size)
            for m, card in enumerate(self.cards):
                if card.name not in removed:
                    orders[n, m] = Order.of(card, said, size)
        return orders

    @property
    def calls(self) -> int:
        """Calls made so far by this object."""
        return self._asker.calls

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.prompts), len(self.cards)

    def close(self) -> None:
        self.cache.close()

    def askable(self) -> Bools:
        """Everything while money is left for the cheapest call, then what is known already."""
        remaining = self.account.remaining
        affordable_M = [
            worst is not None and remaining is not None and worst <= remaining
            for worst in (worst_case(card, 1, 1) for card in self.cards)
        ]
        found: Bools = np.zeros(self.shape, dtype=np.bool_)
        for n, m in self._orders:
            found[n, m] = affordable_M[m] or (n, m) in self._known
        return found

    def ask(self, prompt_B: Ints, card_B: Ints) -> tuple[Floats, Floats]:
        pairs = list(zip(prompt_B.tolist(), card_B.tolist(), strict=True))
        new = [
            pair
            for pair in dict.fromkeys(pairs)
            if pair not in self._known and pair in self._orders
        ]
        if new:
            # These are no requests of an app: its traces must not grow by them.
            with tracing_context(enabled=False):
                run_sync(self._ask_all(new))
        found = [self._known.get(pair, (NAN, NAN)) for pair in pairs]
        return np.array([one[0] for one in found]), np.array([one[1] for one in found])

    def answer(self, prompt: int, card: int) -> AnswerText | None:
        known = self._known.get((prompt, card))
        return None if known is None else known[2]

    async def _ask_all(self, pairs: Sequence[tuple[int, int]]) -> None:
        gate = asyncio.Semaphore(self._concurrency)

        async def one(pair: tuple[int, int]) -> None:
            prompt = self.prompts[pair[0]]
            async with gate:
                try:
                    found = await self._asker.outcome(
                        self._orders[pair], prompt.submission, prompt.verifier, prompt.settings
                    )
                except BudgetExceededError:
                    self.refused += 1
                else:
                    self._learn(pair, *found)

        await asyncio.gather(*(one(pair) for pair in pairs))

    def _learn(self, pair: tuple[int, int], stored: Stored | None, grade: Grade | None) -> None:
        """Keep what is known. What is not (a failure may pass) is asked again when next met."""
        if stored is None or grade is None or grade.score is None or stored.cost_usd is None:
            return
        text = AnswerText(self.cache.response_of(stored.id) or "", stored.truncated)
        self._known[pair] = (grade.score, float(stored.cost_usd), text)
