"""The next round of answers to buy, from whatever is known so far, and what it is worth in USD.

A score point is worth c_ref / λ dollars to whoever routes at cost weight λ: that is what the weight
says. A round is worth what it adds per request, times the requests that are still to be served.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from xrouter_lg.arrays import Floats
from xrouter_lg.figures.routed_utility import DENSE_WEIGHTS
from xrouter_lg.outcomes.grid import unit_usd
from xrouter_lg.value.buying import Market, Purchase, Stakes, buy
from xrouter_lg.value.evidence import Evidence
from xrouter_lg.value.features import Features
from xrouter_lg.value.grouping import partitions_from_words
from xrouter_lg.value.model import ValueModel

LEAST_REQUESTS = 10_000
"""To be served, where a log tells of fewer: nobody learns to route for less."""
_MONTH_S = 30 * 86_400.0
_DAY_S = 86_400.0
_WEIGHTS = DENSE_WEIGHTS[::2]
_BY_CHANCE = 0.2
"""Of a round's money, for prompts drawn by chance and put to every card: beliefs that are wrong,
and sure of it, are found out by nothing else."""
_FEWEST_SCORES = 2
"""Scores per card, on average, below which prompts are drawn and put to every card."""


@dataclass(frozen=True)
class Horizon:
    """What the answers are bought for."""

    requests: float
    """To be served with what is learned."""
    cost_weight: float | None = None
    """λ of those requests; None where they come with many."""

    def __post_init__(self) -> None:
        if not self.requests > 0:
            raise ValueError(f"requests is {self.requests!r}; it must be above 0")
        if self.cost_weight is not None and not 0.0 <= self.cost_weight < math.inf:
            raise ValueError(f"cost_weight is {self.cost_weight!r}; it must be 0 or above")

    @property
    def weights(self) -> tuple[float, ...]:
        return _WEIGHTS if self.cost_weight is None else (self.cost_weight,)

    def point_usd(self, c_ref_usd: float) -> float:
        """Dollars that a score point of one request is worth; of many weights the geometric
        middle's. Infinite where money is no matter."""
        weight = self.cost_weight
        if weight is None:
            weight = math.exp(float(np.mean(np.log(_WEIGHTS))))
        return math.inf if weight == 0 else c_ref_usd / weight


@dataclass(frozen=True)
class Basket:
    """A round's purchases, the best first."""

    purchases: tuple[Purchase, ...]
    gain: float | None
    """Utility that they are expected to add, score points per request, those drawn by chance not
    counted; None where too little is known to tell: then all are drawn by chance."""
    worth_usd: float | None
    """The same in dollars, over the traffic."""

    @property
    def usd(self) -> float:
        """Expected price."""
        return sum(one.usd for one in self.purchases)


def next_round(
    features: Features,
    evidence: Evidence,
    cost_N_M: Floats,
    market: Market,
    traffic: Horizon,
    *,
    budget_usd: float,
    seed: int = 0,
) -> Basket:
    """What to buy next for at most ``budget_usd``. Nothing where nothing is worth its price.

    Args:
        features: of the N requests, scored or not.
        cost_N_M: USD paid, NaN where none was or it is unknown.
    """
    if len(evidence) < _FEWEST_SCORES * evidence.cards:
        return Basket(tuple(_whole_rows(market, budget_usd, seed)), None, None)
    partitions = partitions_from_words(features, len(np.unique(evidence.prompt_R)))
    model = ValueModel(partitions, (), (), ()).learned(evidence, cost_N_M)
    c_ref = _c_ref_usd(evidence, cost_N_M, market)
    market = replace(market, price_N_M=_as_paid(model, market.price_N_M))
    # A round's worth is counted over the log's requests; the traffic has more of the same.
    point_usd = traffic.point_usd(c_ref) * traffic.requests / evidence.prompts
    # What is bought for its worth pays for what is drawn beside it.
    stakes = Stakes(traffic.weights, c_ref, 1.0 / (point_usd * (1.0 - _BY_CHANCE)))
    for part in (1.0 - _BY_CHANCE, 1.0):  # where a part buys nothing, the whole may
        bought = buy(model, market, stakes, budget_usd=part * budget_usd, seed=seed)
        if bought:
            break
    worth = sum(one.worth for one in bought)
    spent = sum(one.usd for one in bought)
    price = market.price_N_M.copy()
    price[[one.row for one in bought], [one.card for one in bought]] = np.inf
    drawn = _whole_rows(
        Market(price, market.verified_N_M), spent * _BY_CHANCE / (1.0 - _BY_CHANCE), seed
    )
    return Basket((*bought, *drawn), worth / evidence.prompts, worth * point_usd if bought else 0.0)


def requests_of_a_month(observed_at: Floats, prompts: int) -> float:
    """How many requests a log says are to come: a month of its rate, or where it spans less than a
    day, or says no times, as many as it holds; :data:`LEAST_REQUESTS` at the least."""
    seen = observed_at[np.isfinite(observed_at)]
    span = float(seen.max() - seen.min()) if len(seen) else 0.0
    found = float(prompts) if span < _DAY_S else prompts * _MONTH_S / span
    return max(found, float(LEAST_REQUESTS))


def _whole_rows(market: Market, budget_usd: float, seed: int) -> list[Purchase]:
    """Prompts by chance, each with all that can be bought of it."""
    open_N_M = np.isfinite(market.price_N_M) & ~market.verified_N_M
    chosen: list[Purchase] = []
    left = budget_usd
    for row in np.random.default_rng(seed).permutation(len(open_N_M)).tolist():
        cards = np.flatnonzero(open_N_M[row])
        usd = float(market.price_N_M[row, cards].sum())
        if not len(cards):
            continue
        if usd > left:
            break
        left -= usd
        chosen += [Purchase(row, m, 0.0, float(market.price_N_M[row, m])) for m in cards.tolist()]
    return chosen


def _as_paid(model: ValueModel, price_N_M: Floats) -> Floats:
    """The prices of each card, dearer for families whose answers cost it more than usual: the
    length of an answer goes by the kind of request."""
    total = np.zeros_like(price_N_M)
    for own, usd in zip(model.partitions, model.usd_F_M, strict=True):
        total += usd[own.family_N]
    usual = total.mean(0, keepdims=True)
    ratio = total / np.where(usual > 0, usual, 1.0)
    told = np.isfinite(price_N_M) & np.isfinite(ratio) & (ratio > 0)
    found: Floats = np.where(told, price_N_M * np.where(told, ratio, 1.0), price_N_M)
    return found


def _c_ref_usd(evidence: Evidence, cost_N_M: Floats, market: Market) -> float:
    """The unit of a cost weight: what the card with the best scores so far costs."""
    total = np.bincount(evidence.card_R, evidence.right_R, evidence.cards)
    count = np.bincount(evidence.card_R, minlength=evidence.cards)
    price = np.where(np.isfinite(market.price_N_M), market.price_N_M, np.nan)
    usd = [_mean(paid) or _mean(asked) for paid, asked in zip(cost_N_M.T, price.T, strict=True)]
    return unit_usd(np.array(usd), int((total / np.maximum(count, 1)).argmax()))


def _mean(values: Floats) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else 0.0
