"""What a learner was worth: utility, regret, and how fast it got over a swap, with intervals.

All learners meet the same requests, so every difference is taken request by request. A resample
draws seeds with replacement, and within each of them blocks of :data:`BLOCK` requests, the same
ones for all learners: neighbours in a stream are alike. Of a single seed only blocks are drawn.

With T the requests, u a request's utility, and told the policy that is told everything:

- regret: Σ_T u(told) − u(learner);
- over best fixed: Σ_T u(learner) − u(best fixed), that card of those there from first to last which
  had the highest Σ_T u on this very stream, in hindsight;
- regret removed, of best fixed: 1 − regret / regret(best fixed). 1 is told everything, 0 the best
  fixed card, below 0 is worse than that card;
- regret removed, of random: 1 − regret / regret(random): above 0 for whatever beats chance, so that
  a ratio of two learners means something where one or both are below the best fixed card.

Of a swap at request s, with g how far the pick of told everything is ahead of the learner's, both
counted as what a card is worth on average in the kind of the request (single answers would drown
it):

- before: mean g over the :data:`BEFORE` requests up to s;
- cost of the swap: mean g of those same picks in the world after it, less before. So much is lost
  per request if nobody reacts, as far as a reaction could help;
- won back: 1 − (mean g over :data:`AFTER` requests from s + :data:`WITHIN` − before) / cost.
  Nothing where the cost, over all seeds, is below :data:`LEAST`: it hardly used the card.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.stream_parts.world import Played, StreamWorld
from xrouter_lg.arrays import Floats, Ints
from xrouter_lg.figures.bootstrap import Figure, figure

BLOCK = 100
BEFORE, WITHIN, AFTER = 500, 300, 300
LEAST = 0.01
"""Utility per request."""
LONG_ENOUGH = 2000
"""Requests of a stream, so that the swap leaves room for all of that."""
DRAWS = 2000


@dataclass(frozen=True)
class Run:
    """One learner on the streams of all seeds."""

    name: str
    played: Sequence[Played]

    @property
    def utility_ST(self) -> Floats:
        return np.stack([one.utility_T for one in self.played])


class Resamples:
    """Sums over a stream, [1 + draws], averaged over seeds; row 0 is what happened."""

    def __init__(self, seeds: int, requests: int, *, draws: int = DRAWS, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self._starts = np.arange(0, requests, BLOCK)
        blocks = len(self._starts)
        weight = np.zeros((draws, seeds, blocks))
        for draw in weight:
            for own in rng.integers(seeds, size=seeds):
                draw[own] += np.bincount(rng.integers(blocks, size=blocks), minlength=blocks)
        self._weight = np.concatenate([np.ones((1, seeds, blocks)), weight]) / seeds

    def total(self, values_ST: Floats) -> Floats:
        sums = np.add.reduceat(values_ST, self._starts, axis=1)
        found: Floats = np.einsum("dsb,sb->d", self._weight, sums)
        return found


def row(
    run: Run, bases: Mapping[str, Floats], resamples: Resamples, *, rivals: Sequence[Run]
) -> dict[str, Any]:
    """A learner's figures. ``bases`` has the utilities [S, T] of ``told``, ``best fixed`` and
    ``random``; ``rivals`` are those whose regret removed its own is divided by, for each base:
    nothing where a rival removes none."""
    own = run.utility_ST

    def regret(utility_ST: Floats) -> Floats:
        return resamples.total(bases["told"] - utility_ST)

    def removed(utility_ST: Floats, base: str) -> Floats:
        return 1.0 - regret(utility_ST) / regret(bases[base])

    def times(rival: Run, base: str) -> Figure | None:
        theirs = removed(rival.utility_ST, base)
        if theirs[0] <= 0:
            return None
        ratio = removed(own, base) / np.where(theirs > 0, theirs, np.nan)
        return figure(np.where(theirs > 0, ratio, np.inf))

    count = own.shape[1]
    return {
        "learner": run.name,
        "utility": figure(resamples.total(own) / count),
        "cumulative_utility": figure(resamples.total(own)),
        "regret": figure(regret(own)),
        "over_best_fixed": figure(resamples.total(own - bases["best fixed"])),
        "removed_of_best_fixed": figure(removed(own, "best fixed")),
        "removed_of_random": figure(removed(own, "random")),
        "times": {
            rival.name: {base: times(rival, base) for base in ("best fixed", "random")}
            for rival in rivals
        },
        "score": float(np.mean([one.score_T.mean() for one in run.played])),
        "cost_usd": float(np.mean([one.usd_T.mean() for one in run.played])),
        "explored": float(np.mean([one.explored_T.mean() for one in run.played])),
    }


@dataclass(frozen=True)
class Recovery:
    """How a learner got over the swap; utility per request."""

    before: Floats
    """What told everything was ahead: a stream's requests before the swap, all seeds."""
    unmoved: Floats
    """The same picks in the world after it, as far ahead."""
    after: Floats
    windows: tuple[float, float, float]
    """Mean utility in the requests before the swap, right after it, and from :data:`WITHIN` on."""


def recovery(worlds: Sequence[StreamWorld], run: Run) -> Recovery:
    """[S, requests] gaps around the swap."""
    before, unmoved, after, windows = [], [], [], []
    for world, played in zip(worlds, run.played, strict=True):
        at = world.swap.at
        new = len(world.phases) - 1
        earlier = np.arange(max(0, at - BEFORE), at)
        later = np.arange(at + WITHIN, min(world.requests, at + WITHIN + AFTER))
        before.append(_ahead(world, played, earlier, new - 1))
        unmoved.append(_ahead(world, played, earlier, new))
        after.append(_ahead(world, played, later, new))
        utility = played.utility_T
        windows.append([utility[w].mean() for w in (earlier, slice(at, at + WITHIN), later)])
    first, second, third = np.mean(windows, axis=0).tolist()
    return Recovery(np.stack(before), np.stack(unmoved), np.stack(after), (first, second, third))


def _ahead(world: StreamWorld, played: Played, requests: Ints, phase: int) -> Floats:
    """What told everything is ahead on these requests if the world were that of ``phase``."""
    mean_FM = world.mean_PFM[phase]
    family = world.family_T[requests]
    gap: Floats = mean_FM[family].max(1) - mean_FM[family, played.card_T[requests]]
    return gap


def won_back(found: Recovery, *, draws: int = DRAWS, seed: int = 0) -> dict[str, Any]:
    """Cost of the swap per request, and the share of it that was won back, with its interval."""
    rng = np.random.default_rng(seed)
    seeds, count = found.before.shape
    lost, rest = (
        [found.unmoved.mean() - found.before.mean()],
        [found.after.mean() - found.before.mean()],
    )
    for _ in range(draws):
        own = rng.integers(seeds, size=(seeds, 1))
        pick = rng.integers(count, size=(seeds, count))
        late = rng.integers(found.after.shape[1], size=(seeds, found.after.shape[1]))
        before = found.before[own, pick].mean()
        lost.append(found.unmoved[own, pick].mean() - before)
        rest.append(found.after[own, late].mean() - before)
    cost, left = np.array(lost), np.array(rest)
    told_of = cost[0] >= LEAST
    share = 1.0 - left / np.where(cost > 0, cost, np.nan)
    return {
        "swap_cost": figure(cost),
        "won_back": figure(share[np.isfinite(share)]) if told_of else None,
        "utility_before_right_after_later": found.windows,
    }
