"""Into which families requests are told apart: labels, families from words, or both.

Requests are told apart coarsely, in the middle and finely, in numbers that grow with the square
root of the requests that have an outcome, and what the three expect is averaged: on the same
outcomes that was worth more than any one number of families, and than picking the one that seems
best (docs/quality.md). How fine, and whether given labels are of use, is decided by what routing is
worth on outcomes that the means have not seen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from xrouter_lg.arrays import Floats, Ints
from xrouter_lg.figures.curve import choose
from xrouter_lg.figures.routed_utility import DENSE_WEIGHTS
from xrouter_lg.outcomes.grid import unit_usd
from xrouter_lg.value.costs import family_costs
from xrouter_lg.value.evidence import Evidence
from xrouter_lg.value.families import centres_of, find_families, numbered
from xrouter_lg.value.features import Features
from xrouter_lg.value.names import telling_words
from xrouter_lg.value.posterior import fit_posterior

_FINEST = (1.5, 3.0)
"""Families of the finest partition per square root of the requests with an outcome: the usual, and
what is tried beside it."""
_COARSER = (0.4, 0.66, 1.0)
"""Sizes of the partitions, in shares of the finest."""
_MOST = 96
"""Families of a partition."""
_FOLDS = 5
_ROUNDS = 12
"""Of expectation maximisation, where only the order of candidates matters."""


@dataclass(frozen=True)
class Partition:
    """N requests in families, each in one."""

    names: tuple[str, ...]
    family_N: Ints


@dataclass(frozen=True)
class Grouping:
    """Partitions of the same requests, the one that reports go by first."""

    partitions: tuple[Partition, ...]
    chosen: str
    tried: dict[str, float]
    """Held-out utility of each candidate, by what it is."""


def group(
    features: Features,
    labels: Sequence[str],
    evidence: Evidence,
    cost_N_M: Floats,
    *,
    start: Partition | None = None,
) -> Grouping:
    """The families that routing does best by. ``labels`` name the kind of task of each request
    where somebody has told; all alike where nobody has.

    ``start`` is how a checkpoint that is trained again reads the requests: the first partition
    begins there, and families that are found again keep their names.
    """
    scored = len(np.unique(evidence.prompt_R))
    centres, kept = np.zeros((0, 0)), ()
    if start is not None:
        centres, at = centres_of(features.plane_N_P, start.family_N, len(start.names))
        kept = tuple(start.names[family] for family in at)
    known, label_N = numbered(labels)
    found: dict[str, list[tuple[tuple[str, ...] | None, Ints]]] = {}
    for scale in _FINEST:
        own = partitions_of(features, scored, scale)
        if len(centres) > 1:
            own[0] = find_families(features, max(len(centres), int(own[0].max()) + 1), centres)
        found[f"{'+'.join(str(int(of.max()) + 1) for of in own)} families from words"] = [
            (None, of) for of in own
        ]
    if len(known) > 1:
        found["labels and words"] = [(known, label_N), *next(iter(found.values()))]
        found["labels"] = [(known, label_N)]
    usual = next(iter(found))
    worth = {
        name: held_out_utility(evidence, cost_N_M, [of for _, of in own])
        for name, own in found.items()
    }
    best = max(worth, key=lambda name: float(worth[name].mean()))
    if not _better(worth[best], worth[usual]):
        best = usual
    partitions = tuple(
        Partition(names or _named(features.prompts, of, kept if at == 0 else ()), of)
        for at, (names, of) in enumerate(found[best])
    )
    return Grouping(partitions, best, {name: float(w.mean()) for name, w in worth.items()})


def partitions_from_words(features: Features, scored: int) -> tuple[Partition, ...]:
    """The usual partitions where ``scored`` requests have an outcome, found without a look at any:
    for what is fitted again and again. Their families carry numbers, no names."""
    return tuple(
        Partition(tuple(map(str, range(int(of.max()) + 1))), of)
        for of in partitions_of(features, scored)
    )


def partitions_of(features: Features, scored: int, scale: float = _FINEST[0]) -> list[Ints]:
    """[N] families from words, the coarsest partition first, in numbers that so many requests with
    an outcome allow."""
    finest = min(max(round(scale * math.sqrt(scored)), 3), _MOST)
    sizes = sorted({max(2, round(share * finest)) for share in _COARSER})
    return [find_families(features, size) for size in sizes]


def one_partition(features: Features, labels: Sequence[str]) -> Grouping:
    """A single partition: the labels, or where there are none families from words."""
    known, label_N = numbered(labels)
    if len(known) > 1:
        return Grouping((Partition(known, label_N),), "labels", {})
    found = find_families(
        features, max(2, round(_COARSER[0] * _FINEST[0] * math.sqrt(len(features))))
    )
    names = telling_words(features.prompts, found)
    return Grouping((Partition(names, found),), f"{len(names)} families from words", {})


def held_out_utility(evidence: Evidence, cost_N_M: Floats, families: Sequence[Ints]) -> Floats:
    """[N'] utility of routing by the mean over partitions [N], of each prompt with a score, by
    means that have not seen it; the mean over cost weights. Where only some cards were asked, a
    prompt counts by the one that routing would take, if it is among them, over the probability that
    it is (self-normalised)."""
    rows = np.unique(evidence.prompt_R)
    score = np.full((evidence.prompts, evidence.cards), np.nan)
    score[evidence.prompt_R, evidence.card_R] = evidence.right_R
    chance = np.full(score.shape, np.nan)
    chance[evidence.prompt_R, evidence.card_R] = evidence.propensity_R
    share = _usual(score)
    chance = np.where(np.isfinite(chance), chance, share[None, :])
    fold_N = np.random.default_rng(0).integers(0, _FOLDS, evidence.prompts)
    usd_M = np.array([np.nanmean(c) if np.isfinite(c).any() else np.nan for c in cost_N_M.T])
    there = np.isfinite(score[rows])
    mean_M = np.where(there, score[rows], 0.0).sum(0) / np.maximum(there.sum(0), 1)
    best = int(np.where(there.any(0), mean_M, -np.inf).argmax())
    unit = unit_usd(np.nan_to_num(usd_M), best)
    gained = np.zeros(evidence.prompts)
    mass = np.zeros(evidence.prompts)
    for fold in range(_FOLDS):
        judged = rows[fold_N[rows] == fold]
        learned = evidence.of_prompts(fold_N != fold)
        if not len(judged) or not len(learned):
            continue
        paid = np.where((fold_N != fold)[:, None], cost_N_M, np.nan)
        quality, expected = np.zeros((2, len(judged), evidence.cards))
        for family_N in families:
            count, own = int(family_N.max()) + 1, family_N[judged]
            value = fit_posterior(learned, family_N, count, rounds=_ROUNDS)
            usd = np.nan_to_num(family_costs(paid, family_N, count), nan=unit)
            quality += value.mean_F_M[own] / len(families)
            expected += usd[own] / len(families)
        every = np.arange(len(judged))
        for weight in DENSE_WEIGHTS:
            taken = choose(quality, expected, weight, unit)
            usd = cost_N_M[judged, taken]
            usd = np.where(np.isfinite(usd), usd, expected[every, taken])
            earned = score[judged, taken] - weight * usd / unit
            there = np.isfinite(earned)
            weigh = np.where(there, 1.0 / chance[judged, taken], 0.0)
            gained[judged] += np.where(there, earned, 0.0) * weigh
            mass[judged] += weigh
    if not mass.any():
        return np.zeros(len(rows))
    worth: Floats = gained[rows] / (mass[rows].sum() / len(rows))
    return worth


def _usual(score_N_M: Floats) -> Floats:
    """[M] share of the scored prompts on which a card was asked."""
    there = np.isfinite(score_N_M)
    share: Floats = np.maximum(there.sum(0), 1) / max(int(there.any(1).sum()), 1)
    return share


def _better(one: Floats, other: Floats) -> bool:
    """Whether one is ahead by more than a standard error, on the same prompts."""
    gap = one - other
    return float(gap.mean()) > float(gap.std()) / math.sqrt(len(gap))


def _named(prompts: Sequence[str], family_N: Ints, start_names: Sequence[str]) -> tuple[str, ...]:
    """Names from words; families that were there before keep theirs."""
    names = list(telling_words(prompts, family_N))
    for at, name in enumerate(start_names[: len(names)]):
        names[at] = name
    taken: set[str] = set()
    for at, name in enumerate(names):
        names[at] = name if name not in taken else f"{name} ({at + 1})"
        taken.add(names[at])
    return tuple(names)
