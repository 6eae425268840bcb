"""What a log can tell of each card on each family of requests, and what would tell the rest."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from xrouter_lg.value.costs import priced
from xrouter_lg.value.model import ValueModel

SURE = 1.96
"""Standard errors by which one card has to be ahead of another to be called better."""
_MOST_ANSWERS = 200
"""Answers per family and card beyond which settling is not worth proposing."""
_SPREAD = 0.2
"""Variance of a score within a family, where little is known: near what a coin's is."""


@dataclass(frozen=True)
class Overlap:
    """A family × a card."""

    family: str
    card: str
    share: float
    """Of the requests that are of the family."""
    tries: int
    """Answers with a score."""
    worth: float
    """How many they are worth: the effective sample size after weighing by propensity and age."""
    score: float
    """Expected."""
    error: float
    """Standard error of the expected score."""


@dataclass(frozen=True)
class Unsettled:
    """A family on which a card might be better than the one that is counted on, and is not known
    to be."""

    family: str
    card: str
    instead_of: str
    gain: float
    """Expected utility over the card that is counted on, score points per request of the family."""
    error: float
    answers: int
    """Further answers of the card that would tell, about."""
    usd: float | None
    """What they cost, about; None where the card's cost is unknown."""
    days: float | None
    """How long exploring five percent of requests would take; None where the log has no times."""

    def __str__(self) -> str:
        cost = "at an unknown cost" if self.usd is None else f"${self.usd:.2f}"
        if self.usd is not None and self.usd < 0.01:
            cost = "less than a cent"
        found = (
            f"kind {self.family!r}: {self.card} instead of {self.instead_of} may be worth "
            f"{self.gain:+.3f} ± {self.error:.3f}; {self.answers} answers, {cost}"
        )
        if self.days is None:
            return found
        return f"{found}, or explore 5 % for about {max(1, round(self.days))} days"


def overlap_table(model: ValueModel, cards: Sequence[str]) -> tuple[Overlap, ...]:
    """Every family of the first partition × every card, largest families first."""
    own, value = model.partitions[0], model.posteriors[0]
    share = np.bincount(own.family_N, minlength=len(own.names)) / len(own.family_N)
    error = np.sqrt(np.einsum("fmm->fm", value.covariance_F_M_M))
    return tuple(
        Overlap(
            own.names[f],
            card,
            float(share[f]),
            int(value.tries_F_M[f, m]),
            float(value.worth_F_M[f, m]),
            float(value.mean_F_M[f, m]),
            float(error[f, m]),
        )
        for f in np.argsort(-share, kind="stable")
        for m, card in enumerate(cards)
    )


def by_family(rows: Sequence[Overlap]) -> tuple[list[str], list[tuple[str, list[Overlap]]]]:
    """The cards, and for each family its cells in their order: a table to show."""
    cards = list(dict.fromkeys(row.card for row in rows))
    families = list(dict.fromkeys(row.family for row in rows))
    cell = {(row.family, row.card): row for row in rows}
    return cards, [(name, [cell[name, card] for card in cards]) for name in families]


def unsettled(
    model: ValueModel,
    cards: Sequence[str],
    cost_weight: float,
    c_ref_usd: float,
    *,
    requests_per_day: float | None = None,
    most: int = 5,
) -> tuple[Unsettled, ...]:
    """Where another answer would tell most, the most valuable first.

    A card is worth asking about in a family where it may be ahead of the one that is counted on
    (expected gain plus its error above 0) and is not sure to be. The value is what would be gained
    on average if it were known (for a normal gain g with error e: e · φ(g/e) + g · Φ(g/e)), over
    the family's requests.
    """
    own, value, usd = model.partitions[0], model.posteriors[0], model.usd_F_M[0]
    share = np.bincount(own.family_N, minlength=len(own.names)) / len(own.family_N)
    price = cost_weight * priced(usd) / c_ref_usd
    counted = (value.cautious(model.caution) - price).argmax(1)
    found: list[tuple[float, Unsettled]] = []
    for f, anchor in enumerate(counted):
        for m, card in enumerate(cards):
            spread = value.covariance_F_M_M[f]
            error = math.sqrt(max(spread[m, m] + spread[anchor, anchor] - 2 * spread[m, anchor], 0))
            mean = value.mean_F_M[f]
            gain = float(mean[m] - price[f, m] - mean[anchor] + price[f, anchor])
            if m == anchor or error < 1e-6 or gain + error <= 0 or gain > SURE * error:
                continue
            z = gain / error
            worth = error * math.exp(-z * z / 2) / math.sqrt(2 * math.pi)
            worth += gain * 0.5 * math.erfc(-z / math.sqrt(2))
            sharp = max(abs(gain), error / 2, 0.02) / SURE
            answers = min(max(round(_SPREAD / sharp**2 - value.worth_F_M[f, m]), 5), _MOST_ANSWERS)
            days = None
            if requests_per_day:
                days = answers / (0.05 * requests_per_day * share[f] / max(len(cards) - 1, 1))
            paid = None if not np.isfinite(usd[f, m]) else answers * float(usd[f, m])
            line = Unsettled(own.names[f], card, cards[anchor], gain, error, answers, paid, days)
            found.append((float(share[f]) * worth, line))
    found.sort(key=lambda one: -one[0])
    return tuple(line for _, line in found[:most])
