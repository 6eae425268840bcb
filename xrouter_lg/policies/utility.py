"""From readings of a request to a decision: success probabilities, expected costs, utilities.

Whoever serves a language model trained on slots (transformers, vLLM, llama.cpp) gives the same
numbers here: the contrast ``logprob(slot) - logprob(anchor)`` of each trained card. Then

    z_m = prior_m + contrast_m - centre_m          success log-odds
    p_m = 1 / (1 + exp(-z_m))                      expected score
    u_m = p_m - λ · E[cost_m] / c_ref              utility

A family head (``checkpoints/family_head.py``), alone or beside it, mixes its expected score into
p_m and gives E[cost_m], and where the request's words were never seen in training, or it is shaped
like no family of it, both fall back to the card's overall mean. The card with the highest utility
is taken.
Neither p nor E[cost] depends on λ, so a larger λ never picks a card of higher expected cost; prices
are today's, so a new price acts at once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from xrouter_lg.checkpoints.family_head import FamilyHead, FamilyReading
from xrouter_lg.checkpoints.manifest import Manifest
from xrouter_lg.checkpoints.parts import CardStats, CostModel, HeadStats
from xrouter_lg.policies.base import expected_usd
from xrouter_lg.policies.familiar import Familiarity, rests
from xrouter_lg.pool.card import ModelCard
from xrouter_lg.said import question_of, text_of
from xrouter_lg.types import RouteRequest

TEMPERATURE = 0.02
"""Utility (score points) by which a card must trail for its probability to drop e-fold."""


@dataclass(frozen=True, slots=True)
class Doubt:
    """Where a decision's expected scores come from, so that what is not known of them can be drawn
    (:mod:`xrouter_lg.policies.thompson`)."""

    head: FamilyHead
    reading: FamilyReading
    weight: Mapping[str, float]
    """By how much the expected score of each card moves with the head's reading of it."""
    text: str
    """What was read."""


@dataclass(frozen=True, slots=True)
class Utilities:
    """What a policy expects of each candidate of one request."""

    quality: dict[str, float]
    cost_usd: dict[str, float]
    utility: dict[str, float]
    probabilities: dict[str, float]
    """Softmax of the utilities: an order for failover and a distribution to explore with."""
    doubt: Doubt | None = None
    """None without a head."""
    left_out: bool = False
    """Whether a part of the request, which training does not know, was not read."""

    @property
    def best(self) -> str:
        """The card of the highest utility."""
        return max(self.utility, key=lambda name: self.utility[name])


@dataclass(frozen=True, kw_only=True)
class Predictor:
    """What a checkpoint expects of its cards: all of it but the language model's reading."""

    cards: tuple[CardStats, ...]
    c_ref_usd: float
    added: tuple[CardStats, ...] = ()
    """Cards that joined after training, which the head alone reads."""
    cost_model: CostModel | None = None
    head: FamilyHead | None = None
    stats: HeadStats | None = None
    """What the manifest says of the head."""

    @classmethod
    def of(cls, manifest: Manifest, head: FamilyHead | None) -> Self:
        """A checkpoint's own; ``head`` is what :func:`load_head` gave for it."""
        return cls(
            cards=manifest.cards,
            c_ref_usd=manifest.c_ref_usd,
            added=manifest.added,
            cost_model=manifest.cost_model,
            head=head,
            stats=manifest.family_head,
        )

    def with_share(self, share: float) -> Self:
        """The same with this weight of the head beside the language model."""
        assert self.stats is not None
        return replace(self, stats=replace(self.stats, share=share))

    def utilities(
        self,
        contrasts: Mapping[str, float],
        request: RouteRequest,
        candidates: Sequence[ModelCard],
        cost_weight: float,
    ) -> Utilities:
        """Weigh the candidates. ``contrasts`` are those of the cards that a language model read,
        by name.

        A card that joined after training by a probe set is read by the head alone. One never heard
        of gets the mean prior of those that were trained, the one thing known about it; its cost
        comes from its own price.
        """
        text = text_of(question_of(request.messages))
        whole = self._weighed(contrasts, text, request, candidates, cost_weight)
        return self._without_a_part(whole, [whole.best], request, candidates, cost_weight) or whole

    def cheaper(
        self,
        calls: Sequence[str],
        request: RouteRequest,
        candidates: Sequence[ModelCard],
        cost_weight: float,
    ) -> Utilities | None:
        """What the head expects of a request without a part, where it knows that and would call a
        card that costs less than these calls, which somebody else has decided on; None otherwise.

        Raises:
            KeyError: a call of a card that is no candidate.
        """
        if self.head is None:
            return None
        text = text_of(question_of(request.messages))
        whole = self._weighed({}, text, request, candidates, cost_weight)
        return self._without_a_part(whole, calls, request, candidates, cost_weight)

    def _without_a_part(
        self,
        whole: Utilities,
        calls: Sequence[str],
        request: RouteRequest,
        candidates: Sequence[ModelCard],
        cost_weight: float,
    ) -> Utilities | None:
        """What the head alone expects of what is left of a request without a span of it, where that
        is known and its card costs less than the ``calls``; the cheapest. None where there is no
        such rest: see :mod:`xrouter_lg.policies.familiar`."""
        doubt, stats, cost = whole.doubt, self.stats, whole.cost_usd
        above = sum(cost[name] for name in calls)
        if doubt is None or stats is None or above <= min(cost.values()):
            return None
        alone = self if stats.share == 1.0 else self.with_share(1.0)
        known = Familiarity.of(doubt.head, certainty(stats, doubt.reading), doubt.text)
        cheapest = None
        for rest in rests(known, stats, doubt.text):
            found = alone._weighed({}, rest.text, request, candidates, cost_weight)
            assert found.doubt is not None
            if cost[found.best] < above and known.admits(
                rest, certainty(stats, found.doubt.reading)
            ):
                cheapest, above = replace(found, left_out=True), cost[found.best]
                if above <= min(cost.values()):
                    break
        return cheapest

    def _weighed(
        self,
        contrasts: Mapping[str, float],
        text: str,
        request: RouteRequest,
        candidates: Sequence[ModelCard],
        cost_weight: float,
    ) -> Utilities:
        expected, ratios, doubt = self._expected(contrasts, text, request.prompt_tokens)
        mean = sum(card.prior for card in self.cards) / len(self.cards)
        known = {card.name: card for card in (*self.cards, *self.added)}
        quality, cost, utility = {}, {}, {}
        for card in candidates:
            stats = known.get(card.name)
            quality[card.name] = expected.get(card.name, sigmoid(mean))
            usd = expected_cost(card, stats, ratios.get(card.name, 1.0), request)
            # An unknown price must not look cheap: it counts as the reference.
            cost[card.name] = self.c_ref_usd if usd is None else usd
            weight = cost_weight * cost[card.name] / self.c_ref_usd
            utility[card.name] = quality[card.name] - weight
        return Utilities(quality, cost, utility, softmax(utility, TEMPERATURE), doubt)

    def expectations(
        self, contrasts: Mapping[str, float], text: str, prompt_tokens: int
    ) -> tuple[dict[str, float], dict[str, float]]:
        """Expected score of each card on a request with this last message, and its expected cost
        over the card's mean. A card without a contrast (no language model, or its block was not
        read) stands at its prior."""
        quality, ratios, _ = self._expected(contrasts, text, prompt_tokens)
        return quality, ratios

    def _expected(
        self, contrasts: Mapping[str, float], text: str, prompt_tokens: int
    ) -> tuple[dict[str, float], dict[str, float], Doubt | None]:
        """As :meth:`expectations`, with what is needed to draw the scores."""
        z = {
            card.name: card.prior + contrasts[card.name] - card.centre
            if card.name in contrasts
            else card.prior
            for card in self.cards
        }
        ratios = cost_ratios(self.cards, self.cost_model, z, prompt_tokens)
        quality = {name: sigmoid(value) for name, value in z.items()}
        if self.head is None or self.stats is None:
            return quality, ratios, None
        reading = self.head.read(text)
        weight = self._mix(self.stats, reading, quality, ratios)
        return quality, ratios, Doubt(self.head, reading, weight, text)

    def _mix(
        self,
        stats: HeadStats,
        reading: FamilyReading,
        quality: dict[str, float],
        ratios: dict[str, float],
    ) -> dict[str, float]:
        """The head's reading beside the language model's, in place; both shrunk by distance. The
        weight of the head's reading in each card's expected score."""
        certain = certainty(stats, reading)
        weight: dict[str, float] = {}
        for card in (*self.cards, *self.added):
            name, average = card.name, sigmoid(card.prior)
            if name in reading.quality:
                share = stats.share if name in quality else 1.0
                weight[name] = certain * share
                before = quality.get(name, average)
                quality[name] = before + share * (reading.quality[name] - before)
                # The head knows costs by kind of task; guessing them from log-odds was never
                # better.
                ratios[name] = reading.cost_ratio[name]
            if name in quality:
                quality[name] = average + certain * (quality[name] - average)
                ratios[name] = 1.0 + certain * (ratios[name] - 1.0)
        return weight


def load_head(manifest: Manifest, folder: Path) -> FamilyHead | None:
    """The family head of the checkpoint in ``folder``; None where it has none."""
    stats = manifest.family_head
    if stats is None:
        return None
    return FamilyHead.load(folder / stats.file, stats.families, stats.cards)


def trust(stats: HeadStats, known: float) -> float:
    """How far readings of a request are trusted, 0 to 1, by its share of known words."""
    width = max(stats.known_high - stats.known_low, 1e-9)
    return min(max((known - stats.known_low) / width, 0.0), 1.0)


def certainty(stats: HeadStats, reading: FamilyReading) -> float:
    """How far readings of a request are trusted, 0 to 1: by its words, and by its shape."""
    return min(trust(stats, reading.known), reading.near)


def expected_cost(
    card: ModelCard, stats: CardStats | None, ratio: float, request: RouteRequest
) -> float | None:
    """Expected USD of a call: today's price with the output tokens seen in training and what of the
    prompt is warm, else the cost seen in training; ``ratio`` is this prompt's share of the mean.
    None where unknown."""
    if stats is not None and stats.output_tokens > 0 and card.effective_price is not None:
        estimate = expected_usd(card, request, max(1, round(stats.output_tokens * ratio)))
        if estimate is not None:
            return float(estimate)
    if stats is not None and not _price_changed(card, stats):
        return stats.cost_usd * ratio
    estimate = expected_usd(card, request)
    return None if estimate is None else float(estimate)


def cost_ratios(
    cards: Sequence[CardStats], model: CostModel | None, z: Mapping[str, float], prompt_tokens: int
) -> dict[str, float]:
    """Expected cost of each trained card on this prompt over its mean cost; 1 without a model."""
    names = [card.name for card in cards]
    if model is None:
        return dict.fromkeys(names, 1.0)
    size = math.log(max(prompt_tokens, 1))
    return {
        name: math.exp(_log_ratio(model, m, [z[other] for other in names], size))
        for m, name in enumerate(names)
    }


def sigmoid(z: float) -> float:
    """1 / (1 + exp(-z)) without overflow."""
    if z >= 0:
        return 1.0 / (1.0 + math.exp(-z))
    e = math.exp(z)
    return e / (1.0 + e)


def softmax(values: Mapping[str, float], temperature: float) -> dict[str, float]:
    """Probabilities proportional to exp(value / temperature)."""
    top = max(values.values())
    mass = {name: math.exp((value - top) / temperature) for name, value in values.items()}
    whole = sum(mass.values())
    return {name: share / whole for name, share in mass.items()}


def _log_ratio(model: CostModel, m: int, z: Sequence[float], size: float) -> float:
    linear = sum(w * value for w, value in zip(model.weight[m], z, strict=True))
    raw = model.bias[m] + linear + model.tokens[m] * size
    return min(max(raw, model.low[m]), model.high[m])


def _price_changed(card: ModelCard, stats: CardStats) -> bool:
    price = card.effective_price
    return price is not None and stats.price is not None and price.to_dict() != dict(stats.price)
