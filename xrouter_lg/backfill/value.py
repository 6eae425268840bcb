"""What another answer to a prompt is worth, and the order in which prompts are asked about.

    value = disagreement^w · spend^w · unknown^w · coverage^w / price^w

each term in (0, 1], each with its own weight w; a weight of 0 leaves a term out. A product, not a
sum: a prompt on which nothing can be learned is not saved by being dear.

- **disagreement**: expected mean difference of two cards' scores, p(1 − q) + q(1 − p) over all
  pairs, expected from how cards did on similar prompts. Where every card is right, or none is,
  there is nothing to route.
- **spend**: rank of what the prompt has cost so far, from 1/N to 1: a dear prompt is where a
  cheaper card saves most. Prompts without a known cost stand in the middle.
- **unknown**: share of the cards whose score is unknown.
- **coverage**: 1 / (1 + complete prompts in the family), counting those chosen before: another
  outcome narrows a mean of n of them by 1/n². This is what spreads the money over families.
- **price**: expected USD of asking, relative to the median: value per money.

With the weights of two for coverage and one for disagreement this is the greedy form of Neyman's
allocation: more samples where scores differ more, fewer where they are dear. A share ``explore`` of
the order is drawn at random, so that a wrong expectation can't starve a family for good.
Chosen prompts are no random sample: means over them need weights by family. And within a family
``value`` takes the cheap and the telling ones: the best for learning whom to route where, not for
knowing how good a card is. ``family`` gives every prompt its family's mean terms and draws within
families at random: then means weighted by family are true.
"""

from __future__ import annotations

import dataclasses
import heapq
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.stats import rankdata

from xrouter_lg.arrays import Floats, Ints
from xrouter_lg.backfill.errors import BackfillError
from xrouter_lg.backfill.known import Known
from xrouter_lg.backfill.predict import expected_scores, groups_of, vectors

Strategy = Literal["value", "family", "random"]
_LEAST = 0.01
"""No term is zero: a sure thing is asked about last, not never."""


@dataclass(frozen=True)
class Weights:
    """Exponents of the terms, and the share drawn at random."""

    disagreement: float = 1.0
    spend: float = 0.5
    unknown: float = 0.5
    coverage: float = 2.0
    price: float = 0.5
    explore: float = 0.1

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            most = 1.0 if name == "explore" else 10.0
            if not 0.0 <= value <= most:
                raise BackfillError(f"weight {name} is {value!r}; it must lie in [0, {most:g}]")

    @classmethod
    def of(cls, changed: Mapping[str, float]) -> Weights:
        """The usual weights but for the given ones.

        Raises:
            BackfillError: a name that is no term, or a value out of range.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        for name in changed:
            if name not in names:
                raise BackfillError(f"no weight is named {name!r}; there are {', '.join(names)}")
        return cls(**changed)


@dataclass(frozen=True)
class Terms:
    """N prompts' terms but for coverage, which depends on what was chosen before."""

    disagreement: Floats
    spend: Floats
    unknown: Floats
    price: Floats
    """[N] relative to the median, above 0."""
    group: Ints
    """[N] family."""
    complete: Ints
    """[G] complete prompts per family at the start."""

    def by_family(self) -> Terms:
        """The same with each term's geometric mean over the family."""
        size = np.bincount(self.group)

        def mean(values: Floats) -> Floats:
            total = np.bincount(self.group, weights=np.log(values))
            per_prompt: Floats = np.exp(total / np.maximum(size, 1))[self.group]
            return per_prompt

        return dataclasses.replace(
            self,
            disagreement=mean(self.disagreement),
            spend=mean(self.spend),
            unknown=mean(self.unknown),
            price=mean(self.price),
        )

    def fixed(self, weights: Weights) -> Floats:
        """[N] the product without coverage."""
        value: Floats = (
            self.disagreement**weights.disagreement
            * self.spend**weights.spend
            * self.unknown**weights.unknown
            / self.price**weights.price
        )
        return value


def terms_of(known: Known, price_usd: Floats, *, seed: int = 0) -> Terms:
    """The terms of every prompt. ``price_usd`` [N] is what asking would cost, NaN if unknown."""
    texts = vectors(known.grid.prompts)
    group = groups_of(known.grid.families, texts, seed=seed)
    expected = expected_scores(known.grid.score, group, texts, seed=seed)
    complete = np.isfinite(known.grid.score).all(1)
    return Terms(
        disagreement=np.clip(_disagreement(expected), _LEAST, 1.0),
        spend=_rank(known.spend),
        unknown=np.clip(np.isnan(known.grid.score).mean(1), _LEAST, 1.0),
        price=_relative(price_usd),
        group=group,
        complete=np.bincount(group, weights=complete).astype(np.int64),
    )


def order_of(
    known: Known,
    price_usd: Floats,
    rows: Ints,
    *,
    strategy: Strategy = "value",
    weights: Weights | None = None,
    seed: int = 0,
) -> Ints:
    """``rows`` in the order in which they are to be asked about."""
    if strategy == "random" or not len(rows):
        return np.random.default_rng(seed).permutation(rows)
    terms = terms_of(known, price_usd, seed=seed)
    if strategy == "family":
        terms = terms.by_family()
    return ordered(terms, rows, weights or Weights(), seed=seed)


def ordered(terms: Terms, rows: Ints, weights: Weights, *, seed: int) -> Ints:
    """Greedy: the most valuable prompt, then the most valuable given that one, and so on."""
    rng = np.random.default_rng(seed)
    value = terms.fixed(weights)
    count = terms.complete.astype(np.float64).copy()
    mixed = rng.permutation(rows)  # ties fall by chance, not by the table's order
    queues: dict[int, list[int]] = {}
    for row in mixed[np.argsort(-value[mixed], kind="stable")][::-1]:
        queues.setdefault(int(terms.group[row]), []).append(int(row))

    def worth(group: int) -> float:
        return float(-value[queues[group][-1]] * (1.0 + count[group]) ** -weights.coverage)

    heap = [(worth(group), group) for group in queues]
    heapq.heapify(heap)
    chance = iter(rng.permutation(rows).tolist())
    drawn = rng.random(len(rows)) < weights.explore
    taken: set[int] = set()
    chosen: list[int] = []
    for explore in drawn:
        if explore:
            row = next(row for row in chance if row not in taken)
        else:
            row = _best(heap, queues, taken, worth)
        taken.add(row)
        chosen.append(row)
        count[terms.group[row]] += 1
    return np.array(chosen, dtype=np.int64)


def _best(
    heap: list[tuple[float, int]],
    queues: dict[int, list[int]],
    taken: set[int],
    worth: Callable[[int], float],
) -> int:
    """The most valuable prompt left. A family's worth only falls, so a stale entry is put back
    with its present one until the top is up to date."""
    while True:
        stale, group = heapq.heappop(heap)
        queue = queues[group]
        while queue and queue[-1] in taken:
            queue.pop()
        if not queue:
            continue
        now = worth(group)
        if now > stale and heap and now > heap[0][0]:
            heapq.heappush(heap, (now, group))
            continue
        row = queue.pop()
        while queue and queue[-1] in taken:
            queue.pop()
        if queue:
            # Its count rises by the caller; the entry is then stale and comes back corrected.
            heapq.heappush(heap, (worth(group), group))
        return row


def _disagreement(p_N_M: Floats) -> Floats:
    """[N] mean of p(1 − q) + q(1 − p) over pairs of cards; of a lone card, p(1 − p) twice."""
    m = p_N_M.shape[1]
    if m == 1:
        lone: Floats = 2.0 * (p_N_M * (1.0 - p_N_M))[:, 0]
        return lone
    total, square = p_N_M.sum(1), (p_N_M**2).sum(1)
    # Over ordered pairs of different cards: the sum of p is (m − 1)·Σp, of p·q is (Σp)² − Σp².
    mean: Floats = 2.0 * ((m - 1) * total - (total**2 - square)) / (m * (m - 1))
    return mean


def _rank(values: Floats) -> Floats:
    """[N] percentile in (0, 1], equal values alike; 0.5 where unknown."""
    rank = np.full(len(values), 0.5)
    known = np.isfinite(values)
    rank[known] = rankdata(values[known], method="max") / max(known.sum(), 1)
    return rank


def _relative(price_usd: Floats) -> Floats:
    known = price_usd[np.isfinite(price_usd) & (price_usd > 0)]
    middle = float(np.median(known)) if len(known) else 1.0
    relative: Floats = np.where(np.isfinite(price_usd), price_usd, middle) / middle
    return np.maximum(relative, 1e-3)
