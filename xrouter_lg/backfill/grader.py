"""Verdicts under a budget: found, or made once and paid for like any other call.

Scoring never asks a card again, so it can be done over with other verifiers. A verifier that calls
a model of its own (a judge) costs money: its calls are charges of kind ``judge`` on the same
budget, reserved and journalled like any other.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Iterable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

from xrouter_lg.backfill.answer import AnswerKey
from xrouter_lg.backfill.cache import AnswerCache, unfinished_charge
from xrouter_lg.backfill.errors import BackfillError
from xrouter_lg.calls.ledger import RequestAccount
from xrouter_lg.calls.money import worst_case
from xrouter_lg.errors import BudgetExceededError
from xrouter_lg.pool.card import ModelCard
from xrouter_lg.types import Charge
from xrouter_lg.verifiers import Suite, SupportsVerify
from xrouter_lg.verifiers.grading import Grade, Submission, no_verifier

_JUDGE_FRAME_TOKENS = 4_000
"""Instructions, criteria, frames and output schema around what a judge reads."""


class Grader:
    """A suite of verifiers; ``again`` judges once more what has a verdict."""

    def __init__(self, suite: Suite, *, again: bool = False) -> None:
        self.suite, self.again = suite, again

    @classmethod
    def from_yaml(cls, path: str | Path, *, again: bool = False) -> Grader:
        """Raises: VerifierConfigError naming the file for whatever is wrong with it."""
        return cls(Suite.from_yaml(path), again=again)

    def close(self) -> None:
        self.suite.close()

    def judges(self) -> list[ModelCard]:
        """The models that verdicts are paid for."""
        cards = [judge_of(rule.verifier) for rule in self.suite.rules]
        return [card for card in cards if card is not None]

    def prove_free(self) -> None:
        """Every verifier that costs nothing, on its known cases.

        Raises:
            UnprovenVerifierError: a verifier misjudged a case: it may not score anything.
        """
        for rule in self.suite.rules:
            if judge_of(rule.verifier) is None:
                rule.verifier.check().raise_if_bad()

    async def prove(self, cache: AnswerCache, account: RequestAccount) -> None:
        """Every verifier on its known cases; one that calls a model once in a cache's life.

        Raises:
            UnprovenVerifierError: a verifier misjudged a case: it may not score anything.
            BackfillError: the budget does not cover a judge's proof.
        """
        await asyncio.to_thread(self.prove_free)
        for rule in self.suite.rules:
            verifier, card = rule.verifier, judge_of(rule.verifier)
            if card is None or cache.proved(rule.digest):
                continue
            cases = verifier.own_cases or tuple(verifier.default_cases())
            one = _worst_case(card, "", "", None)
            held = None if one is None else one * len(cases)
            try:
                reservation = account.reserve(held or Decimal(0))
            except BudgetExceededError as error:
                raise BackfillError(
                    f"verifier {verifier.name!r} has to prove itself on {len(cases)} cases, "
                    f"which may cost ${held:f}: {error}"
                ) from error
            intent = cache.begin(card, held, kind="judge")
            report = await asyncio.to_thread(verifier.check)
            made = [charge for result in report.results for charge in result.verdict.charges]
            charges = _held(made, one)
            cache.end(intent, "answered", charges)
            account.settle(reservation, charges)
            report.raise_if_bad()
            cache.put_proof(rule.digest)

    def worst_case(
        self, key: Sequence[str], prompt: str, reference: Any, max_tokens: int
    ) -> Decimal | None:
        """The most that a verdict on one answer to the prompt ``key`` can cost (USD); None where
        a price is unknown."""
        verifier = self.suite.verifier_for(key[0], key[1])
        return verdict_usd(verifier, prompt, reference, max_tokens)

    def find(self, cache: AnswerCache, of: Submission) -> Grade | None:
        """A verdict that is there already."""
        rule = self.suite.rule_for(*of.key[:2])
        if rule is None:
            return no_verifier(of.key)
        return cache.verdicts.find(rule.verifier, rule.digest, of)

    async def grade(
        self, cache: AnswerCache, account: RequestAccount, of: Submission, key: AnswerKey
    ) -> Grade:
        """The verdict on the answer of ``key``, found or made. Never raises for what an answer
        holds; a verdict that the budget does not cover is missing, and made by a later run."""
        found = self.find(cache, of)
        if found is not None and not (self.again and found.by):
            return found
        rule = self.suite.rule_for(*of.key[:2])
        assert rule is not None
        return await verdict_on(of, rule.verifier, rule.digest, cache, account, key=key)


async def verdict_on(
    of: Submission,
    verifier: SupportsVerify,
    settings: str,
    cache: AnswerCache,
    account: RequestAccount,
    *,
    key: AnswerKey,
) -> Grade:
    """A verdict made now, kept, and paid for where the verifier is a judge."""
    card = judge_of(verifier)
    if card is None:
        return await asyncio.to_thread(cache.verdicts.make, verifier, settings, of)
    held = _worst_case(card, of.prompt, of.text or "", of.reference)
    try:
        reservation = account.reserve(held or Decimal(0))
    except BudgetExceededError:
        return Grade(None, verifier.name, "not judged: the budget does not cover the judge")
    intent = cache.begin(card, held, kind="judge", key=key)
    try:
        # The verdict is on disk before its call has ended: killed in between, it counts with its
        # worst case and is not paid for again.
        grade = await asyncio.to_thread(cache.verdicts.make, verifier, settings, of)
    except asyncio.CancelledError:
        # Its thread can't be stopped: the judge will have been paid.
        charge = unfinished_charge("judge", card.name, card.model_name, held, "cancelled")
        cache.end(intent, "cancelled", [charge])
        account.settle(reservation, [charge])
        raise
    charges = _held(grade.charges, held)
    cache.end(intent, "answered" if grade.score is not None else "failed", charges)
    account.settle(reservation, charges)
    return grade


def judge_of(verifier: SupportsVerify | None) -> ModelCard | None:
    """The model that a verifier pays for its verdicts; None where they cost nothing."""
    card = getattr(verifier, "card", None)
    return card if isinstance(card, ModelCard) else None


def verdict_usd(
    verifier: SupportsVerify | None, prompt: str, reference: Any, max_tokens: int
) -> Decimal | None:
    """The most that a verdict on an answer of so many tokens can cost (USD); None where the
    judge's price is unknown."""
    card = judge_of(verifier)
    if card is None:
        return Decimal(0)
    # A token is four bytes at most in what a judge reads of an answer.
    answer = "x" * min(4 * max_tokens, 4 * int(getattr(verifier, "max_chars", 20_000)))
    return _worst_case(card, prompt, answer, reference)


def _worst_case(card: ModelCard, prompt: str, answer: str, reference: Any) -> Decimal | None:
    texts = (prompt, answer, "" if reference is None else str(reference))
    read = sum(len(text.encode("utf-8", "surrogatepass")) for text in texts) + _JUDGE_FRAME_TOKENS
    return worst_case(card, read, card.params.get("max_tokens"))


def _held(charges: Iterable[Charge], held: Decimal | None) -> list[Charge]:
    """Charges whose cost is unknown count with what was set aside for them."""
    return [
        dataclasses.replace(charge, held_usd=held if charge.cost_usd is None else None)
        for charge in charges
    ]
