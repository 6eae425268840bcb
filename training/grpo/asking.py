"""Outcomes of real calls: workers answer, verifiers score, a budget holds.

:class:`LiveOutcomes` is a source like the recorded one, so episodes, rewards and trainers are the
same. Each pair of prompt and card is asked at most once and kept in a journal, so that a run that
is repeated or resumed pays nothing twice.

A worker or verifier that fails gives no outcome (NaN): the sample leaves the batch, it is no zero.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
from langchain_core.messages import BaseMessage
from langsmith import tracing_context

from training.grpo.outcome_source import AnswerText, Bools, Floats, Ints
from xrouter_lg.calls.attempt import Workers
from xrouter_lg.calls.ledger import RequestAccount, totals
from xrouter_lg.calls.money import worst_case
from xrouter_lg.calls.tokens import estimate_tokens
from xrouter_lg.errors import BudgetExceededError
from xrouter_lg.pool.pool import ModelCard
from xrouter_lg.portal import run_sync
from xrouter_lg.said import text_of
from xrouter_lg.types import Call
from xrouter_lg.verifiers.base import SupportsVerify

NAN = float("nan")


@dataclass(frozen=True)
class LivePrompt:
    """A prompt as it is sent, and how its answers are judged."""

    messages: Sequence[BaseMessage]
    verifier: SupportsVerify
    reference: Any = None
    meta: Mapping[str, Any] = field(default_factory=dict)

    def digest(self, card: ModelCard) -> str:
        """Identifies this prompt's call of a card: messages, model, server and parameters."""
        said = [(message.type, message.content) for message in self.messages]
        data = [said, card.name, card.model_name, card.base_url, dict(card.params)]
        return hashlib.sha256(json.dumps(data, default=str).encode()).hexdigest()[:32]


@dataclass(frozen=True)
class LiveOutcome:
    """What one call gave; a score or cost that is unknown is NaN."""

    score: float
    cost_usd: float
    text: str | None
    truncated: bool = False
    reason: str = ""

    @property
    def known(self) -> bool:
        return math.isfinite(self.score) and math.isfinite(self.cost_usd)


class LiveOutcomes:
    """Outcomes of N prompts × M cards by calling them.

    ``budget_usd`` is a hard limit on what all calls and verdicts together may cost: a call whose
    worst case does not fit is not made, and its outcome stays unknown. ``journal`` is a file of
    JSON lines that outlives the run. Calls run ``concurrency`` at a time, off the caller's thread.

    Raises:
        ValueError: no prompts or cards, or a budget that is no amount above 0.
    """

    def __init__(
        self,
        cards: Sequence[ModelCard],
        prompts: Sequence[LivePrompt],
        *,
        budget_usd: float,
        concurrency: int = 8,
        journal: Path | None = None,
        workers: Workers | None = None,
    ) -> None:
        if not cards or not prompts:
            raise ValueError(f"live outcomes need cards and prompts; got {len(cards)} cards")
        if not (math.isfinite(budget_usd) and budget_usd > 0):
            raise ValueError(f"budget_usd is {budget_usd!r}; it must be an amount above 0")
        self.cards, self.prompts = tuple(cards), tuple(prompts)
        self.account = RequestAccount(Decimal(str(budget_usd)))
        self.calls = 0
        """Calls made so far by this object."""
        self.refused = 0
        """Calls that were not made because the budget did not allow them."""
        self._workers = workers or Workers()
        self._concurrency, self._journal = concurrency, journal
        self._known: dict[tuple[int, int], LiveOutcome] = {}
        if journal is not None and journal.is_file():
            self._read_journal(journal)

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.prompts), len(self.cards)

    def askable(self) -> Bools:
        """Everything while money is left for the cheapest call, then what is known already."""
        remaining = self.account.remaining
        affordable_M = [
            worst is not None and remaining is not None and worst <= remaining
            for worst in (worst_case(card, 1, 1) for card in self.cards)
        ]
        found: Bools = np.tile(np.array(affordable_M, dtype=np.bool_), (len(self.prompts), 1))
        for pair, outcome in self._known.items():
            found[pair] |= outcome.known
        return found

    def ask(self, prompt_B: Ints, card_B: Ints) -> tuple[Floats, Floats]:
        pairs = list(zip(prompt_B.tolist(), card_B.tolist(), strict=True))
        new = [pair for pair in dict.fromkeys(pairs) if pair not in self._known]
        if new:
            # These are no requests of an app: its traces must not grow by them.
            with tracing_context(enabled=False):
                run_sync(self._ask_all(new))
        unknown = LiveOutcome(NAN, NAN, None)
        found = [self._known.get(pair, unknown) for pair in pairs]
        scores = np.array([outcome.score for outcome in found])
        return scores, np.array([outcome.cost_usd for outcome in found])

    def answer(self, prompt: int, card: int) -> AnswerText | None:
        outcome = self._known.get((prompt, card))
        if outcome is None or outcome.text is None:
            return None
        return AnswerText(outcome.text, outcome.truncated)

    async def _ask_all(self, pairs: Sequence[tuple[int, int]]) -> None:
        gate = asyncio.Semaphore(self._concurrency)

        async def one(pair: tuple[int, int]) -> None:
            async with gate:
                outcome = await self._ask_one(*pair)
            # A failure may pass: what is not known is asked again when it is next met.
            if outcome.known:
                self._known[pair] = outcome
                self._write_journal(pair, outcome)

        await asyncio.gather(*(one(pair) for pair in pairs))

    async def _ask_one(self, prompt_index: int, card_index: int) -> LiveOutcome:
        prompt, card = self.prompts[prompt_index], self.cards[card_index]
        _, most = estimate_tokens(prompt.messages)
        worst = worst_case(card, most, None)
        if worst is None:
            return LiveOutcome(NAN, NAN, None, reason=f"the price of {card.name!r} is unknown")
        try:
            reservation = self.account.reserve(worst)
        except BudgetExceededError as error:
            self.refused += 1
            return LiveOutcome(NAN, NAN, None, reason=str(error))
        self.calls += 1
        charges: list[Any] = []
        try:
            result = await self._workers.call(
                card,
                Call(id="live", card=card.name, allowance_usd=worst),
                prompt.messages,
                {},
                pool=self.cards,
                charges=charges,
                prompt_tokens_max=most,
            )
            if result.message is None:
                why = f"{result.error}: {result.detail}"
                return LiveOutcome(NAN, NAN, None, reason=why)
            text = text_of(result.message)
            verdict = await asyncio.to_thread(
                prompt.verifier, text, prompt.reference, meta=prompt.meta
            )
            cost = totals(result.charges).total
            charges += verdict.charges
            return LiveOutcome(
                score=NAN if verdict.score is None else verdict.score,
                cost_usd=NAN if cost is None else float(cost),
                text=text,
                truncated=result.truncated,
                reason=verdict.reason,
            )
        finally:
            self.account.settle(reservation, charges)

    def _read_journal(self, path: Path) -> None:
        places = {
            prompt.digest(card): (n, m)
            for n, prompt in enumerate(self.prompts)
            for m, card in enumerate(self.cards)
        }
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:
                continue  # the line that a killed process was writing
            pair = places.get(entry.pop("key"))
            if pair is not None:
                self._known[pair] = LiveOutcome(**entry)

    def _write_journal(self, pair: tuple[int, int], outcome: LiveOutcome) -> None:
        if self._journal is None:
            return
        self._journal.parent.mkdir(parents=True, exist_ok=True)
        key = self.prompts[pair[0]].digest(self.cards[pair[1]])
        line = {
            "key": key,
            "score": outcome.score,
            "cost_usd": outcome.cost_usd,
            "text": outcome.text,
            "truncated": outcome.truncated,
        }
        with self._journal.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
