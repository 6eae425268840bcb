"""What every card scores in every family, and how surely that is known.

    q_f = a + c_f,   c_f ~ N(0, s_f · Σ),   score = q_fm + d_prompt + noise

One mean ``a`` per card, and per family a deviation whose covariance Σ over the cards is learned:
where one card fails, its kin likely fail too, so that a card is told something by the others'
outcomes. The scale s_f of each family (inverse gamma: a multivariate t) lets a few families differ
much while the many stay near the mean. A prompt's own difficulty d is common to all cards asked
about it: prompts answered by several cards tell differences better than as many single outcomes.
Noise is binomial. A score e of whose kind are wrong counts as (score − e) / (1 − 2e), with the
variance that this has.

All of it is found by expectation maximisation (Dempster, Laird and Rubin 1977) in closed form: some
dozens of matrices as wide as the pool. The result is a normal distribution per family, so bounds,
draws (Thompson sampling) and the worth of asking follow from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.sparse import csr_matrix

from xrouter_lg.arrays import Floats, Ints, sums
from xrouter_lg.value.evidence import Evidence

PROMPT_SHARE = 0.35
"""Of a score's variance within a family, what all cards have in common on a prompt: 0.36 to 0.38
over 2,267 prompts that ten models answered."""
_TAILS = 2.0
"""Degrees of freedom of a family's scale: few families differ much."""
_PRIOR_SPREAD = 0.005
"""Variance of a card's score between families before anything is known; half of it common."""
_CARDS_SPREAD = 0.02
"""Variance of the cards' own means before anything is known: fourteen points of score to either
side."""
_CARDS_WORTH = 6.0
"""Cards' worth of that."""
_UNKNOWN = 0.5
"""Score of a card where no outcome of any is known."""
_ROUNDS = 30


@dataclass(frozen=True)
class Posterior:
    """F families × M cards."""

    mean_F_M: Floats
    """Expected score."""
    covariance_F_M_M: Floats
    """Of the expected scores of a family's cards."""
    tries_F_M: Ints
    """Observations."""
    worth_F_M: Floats
    """Observations, each by what it is worth: an effective sample size."""

    @cached_property
    def doubt_F_M(self) -> Floats:
        """[F, M] how much less is known of a card than of the best known card of the family: the
        standard error of its distance from the family's cards, those weighted by their worth, over
        the least of them. The same for all cards where all were asked alike, so 0."""
        weight = self.worth_F_M + 1e-9
        weight = weight / weight.sum(1, keepdims=True)
        own = np.einsum("fmm->fm", self.covariance_F_M_M)
        cross = np.einsum("fmn,fn->fm", self.covariance_F_M_M, weight)
        common = np.einsum("fm,fm->f", cross, weight)[:, None]
        error = np.sqrt(np.maximum(own - 2 * cross + common, 0.0))
        doubt: Floats = error - error.min(1, keepdims=True)
        return doubt

    def cautious(self, caution: float) -> Floats:
        """[F, M] what a card can be counted on to score: the mean less so many standard errors."""
        counted: Floats = np.clip(self.mean_F_M - caution * self.doubt_F_M, 0.0, 1.0)
        return counted


def noise(mean: Floats, level: float = 0.5) -> Floats:
    """Variance of one score around its expectation; a tenth of it is what a score of the common
    ``level`` has, so that a card that was always right so far is not certain to be."""
    own = np.clip(mean, 0.02, 0.98)
    found: Floats = 0.9 * own * (1.0 - own) + 0.1 * level * (1.0 - level)
    return found


def fit_posterior(
    evidence: Evidence, family_N: Ints, families: int, *, rounds: int = _ROUNDS
) -> Posterior:
    """The posterior of all families from any mixture of full rows, single outcomes and thumbs.

    Raises:
        ValueError: no observation at all.
    """
    if not len(evidence):
        raise ValueError("no outcome has a score: there is nothing to learn from")
    weighed = evidence.weighed(family_N, families)
    own_R = family_N[weighed.prompt_R]
    cells_R = own_R * weighed.cards + weighed.card_R
    shape = (families, weighed.cards)
    worth = sums(cells_R, weighed.worth_R, families * weighed.cards).reshape(shape)
    state = _Fit(weighed, own_R, shape)
    for _ in range(rounds):
        state.step()
    tries = np.bincount(cells_R, minlength=families * weighed.cards).reshape(shape)
    mean_F_M = np.clip(state.mean_F_M, 0.0, 1.0)
    return Posterior(mean_F_M, state.covariance(), tries.astype(np.int64), worth)


def unlearned(families: int, cards: int) -> Posterior:
    """What is known before any outcome is: every card alike, and how far cards may differ."""
    every = np.eye(cards)
    prior = _CARDS_SPREAD * every + _PRIOR_SPREAD * (0.5 * every + 0.5)
    nothing = np.zeros((families, cards))
    return Posterior(
        nothing + _UNKNOWN, np.tile(prior, (families, 1, 1)), nothing.astype(np.int64), nothing
    )


class _Fit:
    """Rounds of expectation maximisation."""

    def __init__(self, evidence: Evidence, family_R: Ints, shape: tuple[int, int]) -> None:
        families, cards = shape
        self._evidence, self._family_R, self._shape = evidence, family_R, shape
        flip_R = 1.0 - 2.0 * evidence.error_R
        self._flip_R = flip_R
        self._score_R = evidence.right_R
        weight = evidence.worth_R / evidence.worth_R.sum()
        self._level = float(np.clip(weight @ self._score_R, 0.02, 0.98))
        self.mean_F_M = np.full(shape, self._level)
        self._scale_F = np.ones(families)
        self._between = np.eye(cards) * 4 * _PRIOR_SPREAD + 2 * _PRIOR_SPREAD
        self._prior = _PRIOR_SPREAD * (0.5 * np.eye(cards) + 0.5)
        self._cards_spread = _CARDS_SPREAD
        # Rows of one prompt are one family's: their sums of products are taken together.
        _, self._prompt_R = np.unique(evidence.prompt_R, return_inverse=True)
        self._family_P = np.zeros(int(self._prompt_R.max()) + 1, dtype=np.int64)
        self._family_P[self._prompt_R] = family_R

    def step(self) -> None:
        """What the deviations are, given all else; then all else, given the deviations."""
        information, pull = self._information()
        inverse = np.linalg.inv(self._between)
        within = np.linalg.inv(inverse[None] / self._scale_F[:, None, None] + information)
        through = information @ within
        floor = 1.0 / self._cards_spread
        left = (information - through @ information).sum(0) + floor * np.eye(self._shape[1])
        right = (pull - np.einsum("fmn,fn->fm", through, pull)).sum(0) + floor * self._level
        of_mean = np.linalg.inv(left)
        mean_M = of_mean @ right
        known = ((mean_M - self._level) ** 2 + np.diag(of_mean)).sum()
        cards = self._shape[1]
        self._cards_spread = (known + _CARDS_WORTH * _CARDS_SPREAD) / (cards + _CARDS_WORTH)
        deviation = np.einsum("fmn,fn->fm", within, pull - information @ mean_M)
        second = deviation[:, :, None] * deviation[:, None, :] + within
        worth = cards + 2.0
        self._between = ((second / self._scale_F[:, None, None]).sum(0) + worth * self._prior) / (
            self._shape[0] + worth
        )
        inverse = np.linalg.inv(self._between)
        self._scale_F = (np.einsum("mn,fnm->f", inverse, second) + _TAILS) / (cards + _TAILS)
        self.mean_F_M = mean_M + deviation
        keep = np.eye(cards)[None] - within @ information
        self._covariance = within + keep @ of_mean @ keep.transpose(0, 2, 1)

    def covariance(self) -> Floats:
        """[F, M, M] of the means as last found, the cards' own means being uncertain too."""
        found: Floats = self._covariance
        return found

    def _information(self) -> tuple[Floats, Floats]:
        """[F, M, M] precision of what was observed, and [F, M] its product with the scores."""
        families, cards = self._shape
        evidence = self._evidence
        q_R = np.clip(self.mean_F_M, 0.02, 0.98)[self._family_R, evidence.card_R]
        true_R = noise(q_R, self._level)
        seen_R = evidence.error_R + self._flip_R * q_R
        # A thumb's own noise comes on top of the answer's.
        lie_R = seen_R * (1.0 - seen_R) / self._flip_R**2 - q_R * (1.0 - q_R)
        noise_R = (1.0 - PROMPT_SHARE) * true_R + np.maximum(lie_R, 0.0)
        precision_R = evidence.worth_R / noise_R
        load_R = np.sqrt(true_R) * precision_R
        # A prompt's worth multiplies all that it tells, its difficulty included: otherwise heavy
        # observations would count for less than their weight, and weighing would leave a bias.
        worth_P = np.bincount(self._prompt_R, evidence.worth_R) / np.bincount(self._prompt_R)
        known_P = np.bincount(self._prompt_R, load_R * np.sqrt(true_R))
        gain_P = PROMPT_SHARE / (worth_P + PROMPT_SHARE * known_P)
        cell_R = self._family_R * cards + evidence.card_R
        size = families * cards
        information = np.zeros((families, cards, cards))
        every = np.arange(cards)
        information[:, every, every] = np.bincount(cell_R, precision_R, size).reshape(
            families, cards
        )
        loads = csr_matrix(
            (load_R * np.sqrt(gain_P)[self._prompt_R], (self._prompt_R, evidence.card_R)),
            shape=(len(self._family_P), cards),
        )
        order = np.argsort(self._family_P, kind="stable")
        bounds = np.searchsorted(self._family_P[order], np.arange(families + 1))
        dense = loads[order].toarray()
        for family in range(families):
            rows = dense[bounds[family] : bounds[family + 1]]
            information[family] -= rows.T @ rows
        said_P = np.bincount(self._prompt_R, load_R * self._score_R)
        pull_R = precision_R * self._score_R - (gain_P * said_P)[self._prompt_R] * load_R
        return information, sums(cell_R, pull_R, size).reshape(families, cards)
