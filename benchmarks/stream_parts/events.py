"""What happens to the cards of a stream: one joins, one changes its price, one is swapped.

Which cards, differs from seed to seed. An event is worth having where it matters: its stake is what
a policy loses per request that is told everything but goes on as if nothing had happened. Events
are drawn at random among those whose stake is at least a share (:data:`LEAST`) of the largest: a
swap must hurt, a newcomer may be of little use.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from xrouter_lg.arrays import Bools, Floats, Ints
from xrouter_lg.outcomes import OutcomeTable
from xrouter_lg.outcomes.grid import OutcomeGrid

WHEN = {"join": 0.23, "price": 0.45, "swap": 0.68}
"""Share of the stream that is over when it happens; not where a retraining is due."""
LEAST = {"join": 0.01, "price": 0.1, "swap": 0.3}
FACTORS = (1 / 3, 3.0)
"""Of a price that changes."""
DROP = 0.25
"""By how much the model that a card is swapped for is worse, about, in mean score per source."""


@dataclass(frozen=True)
class Event:
    kind: Literal["join", "price", "swap"]
    at: int
    """Request from which it holds."""
    card: str
    about: str


@dataclass(frozen=True)
class Phase:
    """The truth from one event to the next, for N prompts × M cards."""

    start: int
    score: Floats
    """[N, M]"""
    cost: Floats
    """[N, M] USD at the prices of the day."""
    present: Bools
    """[M]"""

    def means(self, family_N: Ints, weight: float) -> Floats:
        """[F, M] mean utility of each card in each family; ``weight`` is utility per USD. Cards
        that are not there have minus infinity."""
        utility = self.score - weight * self.cost
        size = np.bincount(family_N)
        means = np.stack([np.bincount(family_N, column) / size for column in utility.T], axis=1)
        found: Floats = np.where(self.present, means, -np.inf)
        return found


def families(grid: OutcomeGrid) -> Ints:
    """[N] the labelled kind of each prompt, by number."""
    found: Ints = np.unique(np.array(grid.families), return_inverse=True)[1].astype(np.int64)
    return found


def impostors(grid: OutcomeGrid, everything: OutcomeGrid) -> Floats:
    """[N, M] the score of what each card could be swapped for: in each source, of the models
    outside the pool that answered every prompt there (of the other cards, where there are none) and
    are worse than the card, the one whose mean is nearest to :data:`DROP` below its own. Where none
    is worse, the card stays what it is."""
    row_of = {key: row for row, key in enumerate(everything.keys)}
    score = everything.score[[row_of[key] for key in grid.keys]]
    outside = [m for m, name in enumerate(everything.models) if name not in grid.models]
    swapped = grid.score.copy()
    for source in dict.fromkeys(key[0] for key in grid.keys):
        rows = np.flatnonzero(grid.within_sources([source]))
        there = score[rows][:, outside]
        there = there[:, np.isfinite(there).all(0)]
        if not there.shape[1]:
            there = grid.score[rows]
        mean = there.mean(0)
        for card, own in enumerate(grid.score[rows].mean(0)):
            away = np.where(mean < own, np.abs(mean - (own - DROP)), np.inf)
            if np.isfinite(away).any():
                swapped[rows, card] = there[:, int(away.argmin())]
    return swapped


def read(
    table: OutcomeTable, *, sources: Sequence[str], rename: Mapping[str, str]
) -> tuple[OutcomeGrid, Floats]:
    """The pool's complete grid, and :func:`impostors` for it."""
    grid = table.complete_grid(sources=sources, rename=rename)
    return grid, impostors(grid, table.grid(sources=sources, rename=rename))


def draw(
    grid: OutcomeGrid, swapped: Floats, *, requests: int, weight: float, rng: np.random.Generator
) -> tuple[list[Event], list[Phase]]:
    """The events of one stream, and the phases between them: one more than there are events."""
    family_N = families(grid)
    size_F = np.bincount(family_N)
    cards = len(grid.models)
    at = {kind: round(share * requests) for kind, share in WHEN.items()}
    full = Phase(0, grid.score, grid.cost, np.ones(cards, dtype=np.bool_))

    def stake(before: Phase, after: Phase) -> float:
        now = after.means(family_N, weight)
        unmoved = now[np.arange(len(now)), before.means(family_N, weight).argmax(1)]
        return float(size_F @ (now.max(1) - unmoved) / size_F.sum())

    without = [replace(full, present=np.arange(cards) != card) for card in range(cards)]
    newcomer = _pick([stake(phase, full) for phase in without], LEAST["join"], rng)
    phases = [without[newcomer], replace(full, start=at["join"])]
    events = [Event("join", at["join"], grid.models[newcomer], "joins the pool")]

    options = [(card, factor) for card in range(cards) for factor in FACTORS]
    priced = [
        replace(phases[-1], start=at["price"], cost=_column(grid.cost, card, factor))
        for card, factor in options
    ]
    chosen = _pick([stake(phases[-1], phase) for phase in priced], LEAST["price"], rng)
    card, factor = options[chosen]
    phases.append(priced[chosen])
    events.append(Event("price", at["price"], grid.models[card], f"price × {factor:.3g}"))

    swaps = [
        replace(phases[-1], start=at["swap"], score=_replaced(grid.score, swapped, card))
        for card in range(cards)
    ]
    chosen = _pick([stake(phases[-1], phase) for phase in swaps], LEAST["swap"], rng)
    phases.append(swaps[chosen])
    fall = float((grid.score - swapped)[:, chosen].mean())
    events.append(
        Event("swap", at["swap"], grid.models[chosen], f"swapped, mean score −{fall:.3f}")
    )
    return events, phases


def _pick(stakes: Sequence[float], least: float, rng: np.random.Generator) -> int:
    stake = np.maximum(np.array(stakes), 0.0)
    return int(rng.choice(np.flatnonzero(stake >= least * stake.max())))


def _column(values: Floats, column: int, factor: float) -> Floats:
    changed = values.copy()
    changed[:, column] *= factor
    return changed


def _replaced(values: Floats, others: Floats, column: int) -> Floats:
    changed = values.copy()
    changed[:, column] = others[:, column]
    return changed
