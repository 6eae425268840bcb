"""What every card costs on a family's requests, from whatever was paid.

    cost_fm = α_m · ρ_f · γ_fm

The card's level, the family's size, and what is left of each pair, found in turn until they settle
(iterative proportional fitting, Deming and Stephan 1940) and shrunk to 1 where little was paid. A
card that was only ever sent long requests is not taken for a dear one.
"""

from __future__ import annotations

import numpy as np

from xrouter_lg.arrays import Floats, Ints

STRENGTH = 3.0
"""Calls at what the card's level and the family's size say that a mean is mixed with."""
_ROUNDS = 20


def family_costs(cost_N_M: Floats, family_N: Ints, families: int) -> Floats:
    """[F, M] expected USD of a request of the family; NaN for a card of which no cost is known.

    ``cost_N_M`` is NaN where the card was not called, or at an unknown cost.
    """
    known = np.isfinite(cost_N_M)
    row, card = np.nonzero(known)
    usd = cost_N_M[row, card]
    family = family_N[row]
    cards = cost_N_M.shape[1]
    count_M = np.bincount(card, minlength=cards)
    level = np.bincount(card, usd, cards) / np.maximum(count_M, 1)
    paid = level[card] > 0
    size = np.ones(families)
    for _ in range(_ROUNDS):
        # Each call's share of what its card costs, so that a dear card has no louder voice.
        share = usd[paid] / level[card[paid]]
        size = (np.bincount(family[paid], share, families) + STRENGTH) / (
            np.bincount(family[paid], minlength=families) + STRENGTH
        )
        level = np.bincount(card, usd / size[family], cards) / np.maximum(count_M, 1)
    usual = size[:, None] * level[None, :]
    cell, whole = family * cards + card, families * cards
    total = np.bincount(cell, usd, whole).reshape(families, cards)
    count = np.bincount(cell, minlength=whole).reshape(families, cards)
    found: Floats = (total + STRENGTH * usual) / (count + STRENGTH)
    found[:, count_M == 0] = np.nan
    return found


def priced(usd: Floats) -> Floats:
    """Expected costs of any shape with the dearest in place of an unknown one: money that nobody
    knows must not look cheap. 0 where none is known."""
    known = np.isfinite(usd)
    found: Floats = np.where(known, usd, np.max(usd, where=known, initial=0.0))
    return found
