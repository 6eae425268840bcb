"""The value model: which families a request is of, and what every card is worth in each.

Families are found once (`grouping`); what is known of the cards in them is fitted again in tens of
milliseconds whenever outcomes come in. Fitted, it is exported as the family head of a checkpoint
(:mod:`xrouter_lg.fitting.family_head`); here many requests are read at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression

from xrouter_lg.arrays import Floats, Ints
from xrouter_lg.value.costs import family_costs, priced
from xrouter_lg.value.evidence import Evidence
from xrouter_lg.value.grouping import Partition
from xrouter_lg.value.posterior import Posterior, fit_posterior

CAUTION = 2.0
"""Standard errors by which a card that is known less than others in a family is counted on less."""
_INVERSE_REGULARISATION = 30.0


@dataclass(frozen=True)
class Reader:
    """P(family | point) of one partition: a multinomial logistic regression."""

    weight_F_P: Floats
    bias_F: Floats

    @classmethod
    def fit(cls, plane_N_P: Floats, partition: Partition) -> Self:
        model = LogisticRegression(C=_INVERSE_REGULARISATION, max_iter=200, tol=1e-3)
        model.fit(plane_N_P, partition.family_N)
        weight, bias = model.coef_, model.intercept_
        if len(partition.names) == 2:  # sklearn keeps one row then: the log-odds of the second
            weight, bias = np.vstack([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
        return cls(weight, bias)

    def shares(self, plane_N_P: Floats) -> Floats:
        """[N, F]"""
        found: Floats = softmax(plane_N_P @ self.weight_F_P.T + self.bias_F, axis=1)
        return found


@dataclass(frozen=True)
class Expected:
    """N requests × M cards."""

    mean_N_M: Floats
    """Expected score."""
    counted_N_M: Floats
    """What a card is counted on to score: less where it is known less."""
    usd_N_M: Floats
    """Expected cost; where none is known, the dearest card's."""

    def utility(self, cost_weight: float, c_ref_usd: float, *, counted: bool = True) -> Floats:
        """[N, M] score − λ · cost / c_ref."""
        quality = self.counted_N_M if counted else self.mean_N_M
        found: Floats = quality - cost_weight * self.usd_N_M / c_ref_usd
        return found


@dataclass(frozen=True)
class ValueModel:
    """Partitions of the same requests; what they expect is averaged."""

    partitions: tuple[Partition, ...]
    readers: tuple[Reader, ...]
    posteriors: tuple[Posterior, ...]
    usd_F_M: tuple[Floats, ...]
    """Expected cost by partition; NaN for a card of which no cost is known."""
    caution: float = CAUTION

    @classmethod
    def fit(
        cls,
        plane_N_P: Floats,
        partitions: Sequence[Partition],
        evidence: Evidence,
        cost_N_M: Floats,
        *,
        caution: float = CAUTION,
    ) -> Self:
        """From where the requests lie, how they fall into families, and what is known of them.

        Raises:
            ValueError: no outcome has a score.
        """
        readers = tuple(Reader.fit(plane_N_P, own) for own in partitions)
        empty = cls(tuple(partitions), readers, (), (), caution)
        return empty.learned(evidence, cost_N_M)

    def learned(self, evidence: Evidence, cost_N_M: Floats) -> Self:
        """The same families, with what is known of the cards fitted anew.

        Raises:
            ValueError: no outcome has a score.
        """
        sizes = [len(own.names) for own in self.partitions]
        return replace(
            self,
            posteriors=tuple(
                fit_posterior(evidence, own.family_N, size)
                for own, size in zip(self.partitions, sizes, strict=True)
            ),
            usd_F_M=tuple(
                family_costs(cost_N_M, own.family_N, size)
                for own, size in zip(self.partitions, sizes, strict=True)
            ),
        )

    def shares(self, plane_N_P: Floats) -> tuple[Floats, ...]:
        """[N, F] of each partition."""
        return tuple(reader.shares(plane_N_P) for reader in self.readers)

    def expect(self, shares: Sequence[Floats]) -> Expected:
        """What every card does on requests of these :meth:`shares`."""
        parts = range(len(self.partitions))
        mean = sum(shares[b] @ self.posteriors[b].mean_F_M for b in parts)
        counted = sum(shares[b] @ self.posteriors[b].cautious(self.caution) for b in parts)
        usd = sum(shares[b] @ self.usd_F_M[b] for b in parts)
        every = np.stack([np.asarray(mean), np.asarray(counted), np.asarray(usd)]) / len(parts)
        return Expected(every[0], every[1], priced(every[2]))

    def error(self, shares: Sequence[Floats], card_N: Ints, other_N: Ints) -> Floats:
        """[N] standard error of the difference between two cards' expected scores. Families' errors
        are added as if they were one and the same: what is said of many requests stays true."""
        total = np.zeros(len(card_N))
        rows = np.arange(len(card_N))
        for share, posterior in zip(shares, self.posteriors, strict=True):
            own = np.einsum("fmm->fm", posterior.covariance_F_M_M)
            gap = own[:, :, None] + own[:, None, :] - 2.0 * posterior.covariance_F_M_M
            spread = np.sqrt(np.maximum(gap, 0.0))
            flat = share @ spread.reshape(len(spread), -1)
            total += flat[rows, card_N * own.shape[1] + other_N]
        return total / len(self.posteriors)

    def overall(self) -> tuple[Floats, Floats, Floats]:
        """[M] expected score of each card over all requests, what it is counted on, and its cost
        in USD (NaN where unknown)."""
        own, posterior, usd = self.partitions[0], self.posteriors[0], self.usd_F_M[0]
        share = np.bincount(own.family_N, minlength=len(own.names)) / len(own.family_N)
        return share @ posterior.mean_F_M, share @ posterior.cautious(self.caution), share @ usd

    def fixed(self, cost_weight: float, c_ref_usd: float) -> int:
        """The card to use for every request, by what it is counted on."""
        _, counted_M, usd_M = self.overall()
        return int((counted_M - cost_weight * priced(usd_M) / c_ref_usd).argmax())
