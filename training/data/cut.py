"""How the cards of a grid with several pools are cut into blocks of a prompt.

Each source may have models of its own, and one policy serves all. Where a model is no candidate for
a prompt, nothing is learned, measured or decided there.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from xrouter_lg.arrays import Bools
from xrouter_lg.outcomes.grid import OutcomeGrid
from xrouter_lg.prompts import slots


@dataclass(frozen=True)
class Cut:
    """How the cards of a grid are cut into blocks of a prompt, and who reads which."""

    sizes: tuple[int, ...]
    """Cards of each block, in the order of the grid's models."""
    home: tuple[int, ...]
    """The pool that brought each block in."""
    read_N_K: Bools
    """[N, K] whether a prompt is read behind a block: one of its candidates is in it."""

    def cards(self, block: int) -> slice:
        """Columns of a block's cards."""
        start = sum(self.sizes[:block])
        return slice(start, start + self.sizes[block])


def cut_of(grid: OutcomeGrid) -> Cut:
    """What a pool adds to those before it is blocks of its own, of up to 16 cards: a single block
    for a single pool."""
    sizes: list[int] = []
    home: list[int] = []
    known: set[str] = set()
    for number, pool in enumerate(grid.pools()):
        fresh = sum(name not in known for name in pool.models)
        known.update(pool.models)
        while fresh > 0:
            sizes.append(min(fresh, len(slots.CARD_SLOTS)))
            home.append(number)
            fresh -= sizes[-1]
    edges = np.cumsum([0, *sizes])
    read = [grid.candidates[:, a:b].any(1) for a, b in itertools.pairwise(edges)]
    return Cut(tuple(sizes), tuple(home), np.stack(read, axis=1))
