"""What every card is expected to score in every family: means, shrunk as far as luck demands."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from xrouter_lg.arrays import Floats
from xrouter_lg.figures.routed_utility import DENSE_WEIGHTS, routed_utility
from xrouter_lg.outcomes.grid import unit_usd

STRENGTH = 3.0
"""Prompts' worth of the overall mean that a mean is mixed with."""
_POOL_STRENGTH = 50.0
"""Prompts' worth of its pool's mean that a family's mean score is mixed with."""
_ALIKE = 4.0
"""Families are pooled while their scores differ by less than this many squared standard errors, on
average over the cards. Chance alone gives 1; a small family that differs a little is better off
with its pool's mean than with its own."""
_FOLDS, _REPEATS = 5, 3
"""How often, and in how many parts, the training prompts are dealt to find whether pooling pays."""


def family_means(score_N_M: Floats, cost_usd_N_M: Floats, families: Sequence[str]) -> Floats:
    """[F, M] expected score of every card per family, in the order of the sorted names.

    Pooling families that score alike pays where a family has few prompts and luck tells its best
    card, and costs where families truly differ: it is left out where routing by means without it
    had more utility, by more than a standard error, on prompts that the means had not seen.
    """
    if len(families) < _FOLDS * len(set(families)):
        return pooled_means(score_N_M, families)
    cost_F_M = group_means(cost_usd_N_M, families, strength=STRENGTH)
    of_N, row_N = np.array(families), np.searchsorted(sorted(set(families)), families)
    best = int(np.nanargmax(np.nanmean(score_N_M, axis=0)))
    unit = unit_usd(np.array([np.nanmean(column) for column in cost_usd_N_M.T]), best)
    rules = (_plain_means, pooled_means)
    won_N = np.zeros(len(families))
    for repeat in range(_REPEATS):
        fold_N = np.random.default_rng(repeat).integers(0, _FOLDS, len(families))
        expected = [np.empty_like(score_N_M) for _ in rules]
        for fold in range(_FOLDS):
            learned, judged = fold_N != fold, fold_N == fold
            there = sorted(set(of_N[learned]))
            # One whose family is only in the judged fold gets a neighbour's means, by both rules.
            own = np.clip(np.searchsorted(there, of_N[judged]), 0, len(there) - 1)
            for found, means in zip(expected, rules, strict=True):
                found[judged] = means(score_N_M[learned], of_N[learned].tolist())[own]
        plain, pooled = (
            routed_utility(found, cost_F_M[row_N], score_N_M, cost_usd_N_M, unit, DENSE_WEIGHTS)
            for found in expected
        )
        won_N += (plain - pooled) / _REPEATS
    better = float(won_N.mean()) > float(won_N.std()) / math.sqrt(len(won_N))
    return (_plain_means if better else pooled_means)(score_N_M, families)


def _plain_means(score_N_M: Floats, families: Sequence[str]) -> Floats:
    """[F, M] mean score per family, shrunk towards the overall mean."""
    return group_means(score_N_M, families, strength=STRENGTH)


def pooled_means(score_N_M: Floats, families: Sequence[str]) -> Floats:
    """[F, M] mean score per family in the order of the sorted names, shrunk towards the mean of the
    families that score alike, and that towards the overall mean. NaN is no outcome: a card that is
    unknown in a family, and in all that score alike, gets its overall mean."""
    names = sorted(set(families))
    member_F_N = np.array(families)[None, :] == np.array(names)[:, None]
    known_N_M = np.isfinite(score_N_M)
    count_F_M = member_F_N @ known_N_M.astype(float)
    total_F_M = member_F_N @ np.where(known_N_M, score_N_M, 0.0)
    pools = _pools(count_F_M, total_F_M)
    overall = np.nanmean(score_N_M, axis=0)
    shrunk: Floats = np.empty_like(total_F_M)
    for pool in pools:
        count, total = count_F_M[pool].sum(0), total_F_M[pool].sum(0)
        mean = total / np.maximum(count, 1.0)
        base = overall + count / (count + STRENGTH) * (mean - overall)
        own = count_F_M[pool]
        means = total_F_M[pool] / np.maximum(own, 1.0)
        shrunk[pool] = base + own / (own + _POOL_STRENGTH) * (means - base)
    return shrunk


def _pools(count_F_M: Floats, total_F_M: Floats) -> list[list[int]]:
    """Families by whom they score alike, the likest two joined first. Only cards that both know
    tell; families without one in common stay apart."""
    members = [[family] for family in range(len(count_F_M))]
    count, total = count_F_M.copy(), total_F_M.copy()

    def apart(one: int) -> Floats:
        """[F] from one family's pool to all others."""
        both = (count[one] > 0) & (count > 0)
        n, own_n = np.maximum(count, 1.0), np.maximum(count[one], 1.0)
        p = (total[one] + total + 1) / (count[one] + count + 2)
        gap = total[one] / own_n - total / n
        square = np.where(both, gap**2 / (p * (1 - p) * (1 / own_n + 1 / n)), 0.0)
        mean = square.sum(1) / np.maximum(both.sum(1), 1)
        found: Floats = np.where(both.any(1), mean, np.inf)
        found[one] = np.inf
        return found

    apart_F_F = np.stack([apart(family) for family in range(len(members))])
    while True:
        a, b = sorted(divmod(int(apart_F_F.argmin()), len(apart_F_F)))
        if apart_F_F[a, b] > _ALIKE:
            return [own for own in members if own]
        members[a] += members[b]
        count[a] += count[b]
        total[a] += total[b]
        members[b], count[b], total[b] = [], 0.0, 0.0
        apart_F_F[a] = apart_F_F[:, a] = apart(a)
        apart_F_F[b] = apart_F_F[:, b] = np.inf


def cost_ratios(cost_G_M: Floats, mean_M: Floats) -> Floats:
    """[G, M] costs over each card's mean; 1 for a card that is free, whose costs do not vary."""
    free_M = mean_M <= 0
    ratio: Floats = np.where(free_M, 1.0, cost_G_M / np.where(free_M, 1.0, mean_M))
    return ratio


def group_means(values_N_M: Floats, groups: Sequence[str], *, strength: float) -> Floats:
    """[G, M] mean per group in the order of the sorted names, shrunk towards the overall mean: a
    group of n counts n / (n + strength). NaN is no outcome: it counts neither here nor there."""
    names = sorted(set(groups))
    member = np.array(groups)[None, :] == np.array(names)[:, None]
    known = np.isfinite(values_N_M)
    count = member @ known.astype(float)
    overall = np.nanmean(values_N_M, axis=0)
    own = (member @ np.where(known, values_N_M, 0.0)) / np.maximum(count, 1.0)
    shrunk: Floats = overall + count / (count + strength) * (own - overall)
    return shrunk
