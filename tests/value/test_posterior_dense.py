"""The posterior against one normal distribution over all that is unknown, inverted as a whole."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest

from tests.support.worlds import draw, evidence
from xrouter_lg.arrays import Floats, Ints
from xrouter_lg.value import posterior
from xrouter_lg.value.evidence import Evidence
from xrouter_lg.value.posterior import fit_posterior, noise

TRUTH = np.array([[0.9, 0.6, 0.3], [0.3, 0.7, 0.8]])
SHARE, PRIOR, CARDS = 0.35, 0.005, 0.02
"""What the module assumes: of a prompt's own difficulty, of families, and of the cards' means."""


@dataclass
class Dense:
    """The same model in one piece: the cards' means ``a`` and every family's deviation ``c_f``, in
    a vector of M + F·M unknowns."""

    seen: Evidence
    family_R: Ints
    families: int
    level: float = field(init=False)
    mean_F_M: Floats = field(init=False)
    covariance_F_M_M: Floats = field(init=False)

    def __post_init__(self) -> None:
        cards = self.seen.cards
        self.level = float(self.seen.worth_R @ self.seen.right_R / self.seen.worth_R.sum())
        self.mean_F_M = np.full((self.families, cards), self.level)
        self.between = 4 * PRIOR * np.eye(cards) + 2 * PRIOR
        self.prior = PRIOR * (0.5 * np.eye(cards) + 0.5)
        self.scale = np.ones(self.families)
        self.cards_spread = CARDS

    def _rows(self) -> tuple[Floats, Floats]:
        """[R, unknowns] what each observation is of, and [R, R] the precision of all."""
        m = self.seen.cards
        count = len(self.seen)
        design = np.zeros((count, m * (1 + self.families)))
        every = np.arange(count)
        design[every, self.seen.card_R] = 1.0
        design[every, m * (1 + self.family_R) + self.seen.card_R] = 1.0
        flip = 1.0 - 2.0 * self.seen.error_R
        q = np.clip(self.mean_F_M, 0.02, 0.98)[self.family_R, self.seen.card_R]
        own = noise(q, self.level)
        thumb = self.seen.error_R + flip * q
        lie = np.maximum(thumb * (1 - thumb) / flip**2 - q * (1 - q), 0.0)
        precision = np.zeros((count, count))
        for prompt in np.unique(self.seen.prompt_R):
            at = np.flatnonzero(self.seen.prompt_R == prompt)
            spread = np.sqrt(own[at])
            block = np.diag((1 - SHARE) * own[at] + lie[at]) + SHARE * np.outer(spread, spread)
            worth = np.sqrt(self.seen.worth_R[at])
            precision[np.ix_(at, at)] = np.linalg.inv(block) * np.outer(worth, worth)
        return design, precision

    def step(self) -> None:
        m, f = self.seen.cards, self.families
        design, precision = self._rows()
        before = np.zeros((m * (1 + f), m * (1 + f)))
        before[:m, :m] = np.eye(m) / self.cards_spread
        for one in range(f):
            at = slice(m * (1 + one), m * (2 + one))
            before[at, at] = np.linalg.inv(self.between * self.scale[one])
        start = np.zeros(m * (1 + f))
        start[:m] = self.level
        whole = before + design.T @ precision @ design
        covariance = np.linalg.inv(whole)
        mean = covariance @ (before @ start + design.T @ precision @ self.seen.right_R)
        known = ((mean[:m] - self.level) ** 2).sum() + np.trace(covariance[:m, :m])
        self.cards_spread = (known + 6.0 * CARDS) / (m + 6.0)
        # Families are told apart by what each is worth given the cards' means.
        given = np.linalg.inv(whole[m:, m:])
        second = []
        for one in range(f):
            at = slice(m * one, m * (1 + one))
            deviation = mean[m:][at]
            second.append(np.outer(deviation, deviation) + given[at, at])
        scaled = sum(moment / self.scale[one] for one, moment in enumerate(second))
        self.between = (scaled + (m + 2.0) * self.prior) / (f + m + 2.0)
        inverse = np.linalg.inv(self.between)
        self.scale = np.array([(np.trace(inverse @ one) + 2.0) / (m + 2.0) for one in second])
        of = [
            np.hstack([np.eye(m), *(np.eye(m) * (g == one) for g in range(f))]) for one in range(f)
        ]
        self.mean_F_M = np.array([one @ mean for one in of])
        self.covariance_F_M_M = np.array([one @ covariance @ one.T for one in of])


def observed(seed: int, *, error: float, worth: bool) -> tuple[Evidence, Ints]:
    """Sixty prompts of two families, of which every third is answered by one card alone."""
    rng = np.random.default_rng(seed)
    family_N = np.arange(60) % 2
    score = draw(TRUTH, family_N, seed)
    asked = rng.random(score.shape) < 0.7
    asked[::3] = np.eye(3, dtype=bool)[rng.integers(0, 3, 20)]
    asked[~asked.any(1), 0] = True
    row, card = np.nonzero(asked)
    said = np.where(rng.random(len(row)) < error, 1 - score[row, card], score[row, card])
    worths = np.linspace(0.3, 1.7, 60)[row] if worth else np.ones(len(row))
    found = evidence(row, card, said, prompts=60, cards=3, error=error, worth=worths)
    return found, family_N


@pytest.mark.parametrize("rounds", [1, 2, 5])
@pytest.mark.parametrize(("error", "worth"), [(0.0, False), (0.1, False), (0.0, True)])
@pytest.mark.parametrize("seed", [0, 1])
def test_it_is_the_one_normal_distribution(
    seed: int, error: float, worth: bool, rounds: int
) -> None:
    seen, family_N = observed(seed, error=error, worth=worth)
    weighed = seen.weighed(family_N, 2)
    dense = Dense(weighed, family_N[weighed.prompt_R], 2)
    for _ in range(rounds):
        dense.step()
    found = fit_posterior(seen, family_N, 2, rounds=rounds)
    assert found.mean_F_M == pytest.approx(np.clip(dense.mean_F_M, 0, 1), abs=1e-7)
    assert found.covariance_F_M_M == pytest.approx(dense.covariance_F_M_M, abs=1e-8)


def test_what_it_assumes_is_what_is_compared() -> None:
    assert (posterior.PROMPT_SHARE, posterior._PRIOR_SPREAD, posterior._CARDS_SPREAD) == (
        SHARE,
        PRIOR,
        CARDS,
    )
