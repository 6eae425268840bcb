"""Learn from recorded answers what an :class:`xrouter_lg.checkpoints.cascade_model.AnswerModel`
knows.

Difficulty is a latent normal variable x of each prompt; on kind f card m is right with probability

    sigmoid(level_f + skill_m + own_fm + slope_f · x),

skill and own shrunk towards 0: what a card does on one kind is borrowed from the other kinds and
cards. It is fitted by maximum posterior (EM's gradient, L-BFGS) with x on Gauss-Hermite points.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, logsumexp

from xrouter_lg.arrays import Floats, Ints
from xrouter_lg.checkpoints.cascade_model import AnswerModel, log_length
from xrouter_lg.final_answer import final_answer
from xrouter_lg.fitting.family_head import fit_family_head
from xrouter_lg.outcomes.grid import OutcomeGrid
from xrouter_lg.policies.cascade.policy import group_numbers
from xrouter_lg.pool.card import normalise_name
from xrouter_lg.value.evidence import Evidence
from xrouter_lg.value.features import Features
from xrouter_lg.value.grouping import one_partition
from xrouter_lg.value.means import group_means, over_mean

_OWN = 0.4
"""Prior standard deviation, in log-odds, of a card's own part on a kind."""
_POINTS = 11
"""Difficulty classes."""
_FIRST = 2
"""Most cards called at once."""
_BINS = 3
"""Length bins of the first answers."""


@dataclass(frozen=True)
class Recorded:
    """What recorded answers [N][M] come down to."""

    group_N_M: Ints
    """Equal numbers within a prompt are equal final answers; negative numbers agree with none."""
    length_N_M: Ints
    """Characters."""

    @classmethod
    def of(cls, responses: Sequence[Sequence[str | None]]) -> Recorded:
        groups = [group_numbers([final_answer(text) for text in row]) for row in responses]
        lengths = [[len((text or "").strip()) for text in row] for row in responses]
        return cls(np.array(groups, dtype=np.int64), np.array(lengths, dtype=np.int64))

    def rows(self, index: Ints) -> Recorded:
        return Recorded(self.group_N_M[index], self.length_N_M[index])


def fit_answers(
    table: OutcomeGrid,
    recorded: Recorded,
    *,
    prices: Mapping[str, Mapping[str, str]] | None = None,
) -> AnswerModel:
    """The model learned from all prompts of a table and their recorded answers.

    Raises:
        ValueError: prompts that can't be told apart, or answers of another shape.
    """
    if recorded.group_N_M.shape != table.score.shape:
        raise ValueError(
            f"answers of shape {recorded.group_N_M.shape} must be {len(table)} rows of "
            f"{len(table.models)}"
        )
    cards = [normalise_name(name) for name in table.models]
    features = Features.of(table.prompts)
    grouping = one_partition(features, table.families)
    head = fit_family_head(features, grouping, Evidence.of(table), table.cost, cards)
    if head is None:
        raise ValueError("the prompts can't be told apart; plans are made by family")
    kind_N = grouping.partitions[0].family_N
    kinds = [f"{kind:04d}" for kind in kind_N]
    right, posterior = fit_difficulty(table.score, kind_N, len(head.families))
    same_right, same_wrong = _same_rates(table.score, recorded.group_N_M, kind_N)
    lengths = _fit_lengths(table, recorded.length_N_M, kind_N, posterior)
    return AnswerModel(
        head=head,
        right_F_Q_M=right,
        share_F_Q=np.tile(_points()[1], (len(right), 1)),
        same_right_F=same_right,
        same_wrong_F=same_wrong,
        length_mean_F_M=lengths.mean_F_M,
        length_sd_F_M=lengths.sd_F_M,
        length_cut_K_B=lengths.cut_K_B,
        length_share_F_Q_B=lengths.share_F_Q_B,
        usd_F_M=group_means(table.cost, kinds),
        usd_ratio_F_B=lengths.usd_ratio_F_B,
        c_ref_usd=table.reference_cost(),
        prices=prices or {},
    )


def _points() -> tuple[Floats, Floats]:
    x, weight = np.polynomial.hermite_e.hermegauss(_POINTS)
    return x, weight / weight.sum()


def fit_difficulty(score: Floats, kind_N: Ints, kinds: int) -> tuple[Floats, Floats]:
    """P(right) [F, Q, M], and the posterior over difficulty classes [N, Q], given all scores."""
    x_Q, share_Q = _points()
    cards = score.shape[1]
    member_F_N = (kind_N[None, :] == np.arange(kinds)[:, None]).astype(np.float64)
    sizes = np.cumsum([kinds, cards, kinds * cards])

    def unpack(flat: Floats) -> tuple[Floats, Floats, Floats, Floats, Floats]:
        level, skill, own, log_slope = np.split(flat, sizes)
        own_F_M, slope_F = own.reshape(kinds, cards), np.exp(log_slope + 0.5)
        z = (level[:, None] + skill + own_F_M)[:, None, :] + slope_F[:, None, None] * x_Q[:, None]
        return z, level, skill, own_F_M, log_slope

    def reading(z: Floats) -> tuple[Floats, Floats]:
        # log σ(z) for right, log σ(−z) for wrong.
        yes, no = -np.logaddexp(0, -z), -np.logaddexp(0, z)
        both = np.einsum("nm,nqm->nq", score, yes[kind_N])
        both += np.einsum("nm,nqm->nq", 1 - score, no[kind_N])
        both += np.log(share_Q)
        whole = logsumexp(both, axis=1)
        return whole, np.exp(both - whole[:, None])

    def loss(flat: Floats) -> tuple[float, Floats]:
        z, level, skill, own, log_slope = unpack(flat)
        whole, posterior = reading(z)
        p = expit(z)
        weighted = np.einsum("fn,nq,nm->fqm", member_F_N, posterior, score, optimize=True)
        expected = np.einsum("fn,nq->fq", member_F_N, posterior)[:, :, None] * p
        slope = weighted - expected
        slope_F = np.exp(log_slope + 0.5)
        gradient = np.concatenate(
            [
                level / 9 - slope.sum((1, 2)),
                skill / 2.25 - slope.sum((0, 1)),
                (own / _OWN**2 - slope.sum(1)).ravel(),
                log_slope / 0.25 - slope_F * np.einsum("fqm,q->f", slope, x_Q),
            ]
        )
        prior = (level**2).sum() / 18 + (skill**2).sum() / 4.5
        prior += (own**2).sum() / (2 * _OWN**2) + (log_slope**2).sum() / 0.5
        return float(prior - whole.sum()), gradient

    found = minimize(
        loss, np.zeros(sizes[-1] + kinds), jac=True, method="L-BFGS-B", options={"maxiter": 200}
    )
    z = unpack(found.x)[0]
    return expit(z), reading(z)[1]


_PAIRS = 200.0
"""Pairs of answers' worth of the overall rate in a kind's own."""


def _same_rates(score: Floats, group_N_M: Ints, kind_N: Ints) -> tuple[Floats, Floats]:
    """Root of P(same final answer | both right), and of P(same | both wrong), per kind."""
    kinds = int(kind_N.max()) + 1
    counts = np.zeros((2, 2, kinds))  # right or wrong; same or all
    for a, b in combinations(range(score.shape[1]), 2):
        same = group_N_M[:, a] == group_N_M[:, b]
        for which, both in enumerate(
            (score[:, a] * score[:, b], (1 - score[:, a]) * (1 - score[:, b]))
        ):
            counts[which, 0] += np.bincount(kind_N, both * same, kinds)
            counts[which, 1] += np.bincount(kind_N, both, kinds)
    overall = (counts[:, 0].sum(1) + 1) / (counts[:, 1].sum(1) + 2)
    rate = (counts[:, 0] + _PAIRS * overall[:, None]) / (counts[:, 1] + _PAIRS)
    root = np.sqrt(rate)
    return root[0], root[1]


@dataclass(frozen=True)
class _Lengths:
    mean_F_M: Floats
    sd_F_M: Floats
    cut_K_B: Floats
    share_F_Q_B: Floats
    usd_ratio_F_B: Floats


_PROMPTS = 10.0
"""Prompts' worth of the overall share in a class's bin shares, and of 1 in cost ratios."""


def _fit_lengths(
    table: OutcomeGrid, length_N_M: Ints, kind_N: Ints, posterior_N_Q: Floats
) -> _Lengths:
    """Bins by the mean standardised length of the first answers, over all sets of first calls."""
    log_N_M = np.vectorize(log_length)(length_N_M)
    kinds = [f"{kind:04d}" for kind in kind_N]
    mean = group_means(log_N_M, kinds)
    spread = group_means((log_N_M - mean[kind_N]) ** 2, kinds)
    sd = np.sqrt(spread) + 1e-3
    usual = (log_N_M - mean[kind_N]) / sd[kind_N]
    over = over_mean(table.cost, group_means(table.cost, kinds, strength=0.0)[kind_N])
    count, cards = mean.shape
    counts = np.zeros((count, posterior_N_Q.shape[1], _BINS))
    ratio, seen = np.zeros((count, _BINS)), np.zeros((count, _BINS))
    cuts, sets = [], 0
    for size in range(1, min(_FIRST, cards) + 1):
        members = list(combinations(range(cards), size))
        length = np.stack([usual[:, list(s)].mean(1) for s in members])
        cut = np.quantile(length, np.arange(1, _BINS) / _BINS)
        cuts.append(cut)
        for chosen, values in zip(members, length, strict=True):
            bin_N = np.searchsorted(cut, values)
            others = [m for m in range(cards) if m not in chosen]
            further = over[:, others].mean(1) if others else np.ones(len(values))
            for kind, at, row in zip(kind_N, bin_N, posterior_N_Q, strict=True):
                counts[kind, :, at] += row
            np.add.at(ratio, (kind_N, bin_N), further)
            np.add.at(seen, (kind_N, bin_N), 1.0)
            sets += 1
    # Sets of one prompt tell the same thing over and over: they count as one prompt.
    counts, ratio, seen = counts / sets, ratio / sets, seen / sets
    base = counts.sum(1, keepdims=True) / np.maximum(counts.sum((1, 2)), 1e-9)[:, None, None]
    # A bin that nothing fell into must not become impossible.
    base = 0.9 * base + 0.1 / _BINS
    share = (counts + _PROMPTS * base) / (counts.sum(2, keepdims=True) + _PROMPTS)
    ratio = (ratio + _PROMPTS) / (seen + _PROMPTS)
    ratio /= ((seen * ratio).sum(1) / seen.sum(1))[:, None]
    return _Lengths(mean, sd, np.array(cuts).reshape(len(cuts), _BINS - 1), share, ratio)
