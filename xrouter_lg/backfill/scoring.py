"""Scores of cached answers: by a suite of verifiers, kept beside the answers.

Scoring never asks a card again, so it can be done over with other verifiers. A verifier that calls
a model of its own (a judge) costs money: its calls are charges of kind ``judge`` on the same
budget, reserved and journalled like any other.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import yaml

from xrouter_lg.backfill.cache import AnswerCache, Scored, Stored
from xrouter_lg.backfill.errors import BackfillError
from xrouter_lg.backfill.known import Known, meta_of
from xrouter_lg.calls.ledger import RequestAccount
from xrouter_lg.calls.money import worst_case
from xrouter_lg.errors import BudgetExceededError
from xrouter_lg.outcomes.conversation import digest_of
from xrouter_lg.pool.pool import ModelCard
from xrouter_lg.types import Charge
from xrouter_lg.verifiers import (
    Suite,
    UnprovenVerifierError,
    Verdict,
    Verifier,
    VerifierConfigError,
)

AT_ONCE = 4
"""Verdicts at a time: most verifiers compute, and starve the calls' event loop of its core."""
_JUDGE_FRAME_TOKENS = 4_000
"""Instructions, criteria, frames and output schema around what a judge reads."""
_NOT_OF_THE_ANSWER = ("feedback", "messages", "tools", "tool_options")
"""What users said of a trace's own answer says nothing about another card's."""


class Grader:
    """A suite that knows which verifier an answer was scored by, and what a verdict may cost."""

    def __init__(self, suite: Suite, specs: Sequence[Any], *, again: bool = False) -> None:
        self.suite = suite
        self.again = again
        """Whether answers that have a verdict are judged once more."""
        self._digests = {
            id(rule.verifier): digest_of(_without_cases(spec))
            for rule, spec in zip(suite.rules, specs, strict=True)
        }

    @classmethod
    def from_yaml(cls, path: str | Path, *, again: bool = False) -> Grader:
        """Raises: VerifierConfigError naming the file for whatever is wrong with it."""
        suite = Suite.from_yaml(path)
        data = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        if isinstance(data, Mapping) and "verifiers" in data:
            data = data["verifiers"]
        return cls(suite, [data] if isinstance(data, str | Mapping) else data, again=again)

    def close(self) -> None:
        self.suite.close()

    def judges(self) -> list[ModelCard]:
        """The models that verdicts are paid for."""
        cards = [getattr(rule.verifier, "card", None) for rule in self.suite.rules]
        return [card for card in cards if isinstance(card, ModelCard)]

    async def prove(self, cache: AnswerCache, account: RequestAccount) -> None:
        """Every verifier on its known cases; one that calls a model once in a cache's life.

        Raises:
            UnprovenVerifierError: a verifier misjudged a case: it may not score anything.
            BackfillError: the budget does not cover a judge's proof.
        """
        for rule in self.suite.rules:
            verifier, digest = rule.verifier, self._digests[id(rule.verifier)]
            card = getattr(verifier, "card", None)
            if not isinstance(card, ModelCard):
                (await asyncio.to_thread(verifier.check)).raise_if_bad()
                continue
            if cache.proved(digest):
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
            charges = [
                dataclasses.replace(charge, held_usd=one if charge.cost_usd is None else None)
                for result in report.results
                for charge in result.verdict.charges
            ]
            cache.end(intent, "answered", charges)
            account.settle(reservation, charges)
            report.raise_if_bad()
            cache.put_proof(digest)

    def worst_case(self, known: Known, row: int, max_tokens: int) -> Decimal | None:
        """The most that a verdict on one answer can cost (USD); None where a price is unknown."""
        verifier = self.suite.verifier_for(*known.keys[row][:2])
        card = getattr(verifier, "card", None)
        if not isinstance(card, ModelCard):
            return Decimal(0)
        # A token is four bytes at most in what a judge reads of an answer.
        answer = "x" * min(4 * max_tokens, 4 * int(getattr(verifier, "max_chars", 20_000)))
        return _worst_case(card, known.prompts[row], answer, known.references[row])

    def find(self, cache: AnswerCache, known: Known, row: int, stored: Stored) -> Scored | None:
        """A verdict that is there already."""
        verifier = self.suite.verifier_for(*known.keys[row][:2])
        if verifier is None:
            return Scored(None, "", f"no verifier for {'/'.join(known.keys[row][:2])}")
        grader, target = self._digests[id(verifier)], _target(known, row)
        return cache.score_of(stored.id, grader, target)

    async def grade(
        self,
        cache: AnswerCache,
        account: RequestAccount,
        known: Known,
        row: int,
        stored: Stored,
    ) -> Scored:
        """The verdict on an answer, found or made. Never raises for what an answer holds; a
        verdict that the budget does not cover is missing, and made by a later run."""
        found = self.find(cache, known, row, stored)
        if found is not None and not (self.again and found.scored_by):
            return found
        verifier = self.suite.verifier_for(*known.keys[row][:2])
        assert verifier is not None
        card = getattr(verifier, "card", None)
        if isinstance(card, ModelCard):
            verdict = await self._paid(cache, account, known, row, stored, verifier)
        else:
            verdict = await self._verdict(cache, known, row, stored, verifier)
        if verdict is None:
            return Scored(None, verifier.name, "not judged: the budget does not cover the judge")
        scored = Scored(verdict.score, verifier.name, verdict.reason)
        cache.put_score(stored.id, self._digests[id(verifier)], _target(known, row), scored)
        return scored

    async def _verdict(
        self, cache: AnswerCache, known: Known, row: int, stored: Stored, verifier: Verifier
    ) -> Verdict:
        answer = cache.response_of(stored.id) or ""
        meta = {**_meta(known, row), "prompt": known.prompts[row]}
        return await verifier.averify(answer, known.references[row], meta=meta)

    async def _paid(
        self,
        cache: AnswerCache,
        account: RequestAccount,
        known: Known,
        row: int,
        stored: Stored,
        verifier: Verifier,
    ) -> Verdict | None:
        card: ModelCard = verifier.card  # type: ignore[attr-defined]
        answer = cache.response_of(stored.id) or ""
        held = _worst_case(card, known.prompts[row], answer, known.references[row])
        try:
            reservation = account.reserve(held or Decimal(0))
        except BudgetExceededError:
            return None
        intent = cache.begin(card, held, kind="judge", key=stored.key)
        try:
            verdict = await self._verdict(cache, known, row, stored, verifier)
        except asyncio.CancelledError:
            # Its thread can't be stopped: the judge will have been paid.
            charge = _cancelled(card, held)
            cache.end(intent, "cancelled", [charge])
            account.settle(reservation, [charge])
            raise
        charges = [
            dataclasses.replace(charge, held_usd=held if charge.cost_usd is None else None)
            for charge in verdict.charges
        ]
        cache.end(intent, "answered" if verdict.score is not None else "failed", charges)
        account.settle(reservation, charges)
        return verdict


def _worst_case(card: ModelCard, prompt: str, answer: str, reference: str | None) -> Decimal | None:
    read = sum(len(text.encode("utf-8", "surrogatepass")) for text in (prompt, answer))
    read += len((reference or "").encode("utf-8", "surrogatepass")) + _JUDGE_FRAME_TOKENS
    return worst_case(card, read, card.params.get("max_tokens"))


def _cancelled(card: ModelCard, held: Decimal | None) -> Charge:
    return Charge(
        kind="judge",
        card=card.name,
        model=card.model_name,
        attempt=1,
        usage=None,
        cost_usd=None,
        price_source=None,
        latency_s=0.0,
        error="cancelled",
        held_usd=held,
    )


def _meta(known: Known, row: int) -> dict[str, Any]:
    meta = meta_of(known.metas[row])
    return {name: value for name, value in meta.items() if name not in _NOT_OF_THE_ANSWER}


def _target(known: Known, row: int) -> str:
    return digest_of([known.prompts[row], known.references[row], _meta(known, row)])


def _without_cases(spec: Any) -> Any:
    if not isinstance(spec, Mapping):
        return {"verifier": spec}
    return {name: value for name, value in spec.items() if name not in ("good", "bad", "where")}


__all__ = ["Grader", "UnprovenVerifierError", "VerifierConfigError"]
