"""Which answers to buy: those that are expected to add most to what routing is worth, per dollar.

    worth(f, h, n) = requests_f · mean over λ of E[max_m (u_m + b_m · ξ)] − max_m u_m
    u_m = q_fm − λ · cost_fm / c_ref,   b = Σ_f h / √(h' Σ_f h + r / n),   ξ ~ N(0, 1)

The knowledge gradient for correlated beliefs (Frazier, Powell and Dayanik 2009): what n answers
would change in a family's expected scores is normal along one direction b, and routing takes the
best card after the change. n is looked ahead over, since one answer alone seldom changes a choice
where several would (Frazier and Powell 2010).

An answer of card m to a prompt that the cards A have answered tells h = e_m − Σ_A w_a e_a with
variance r, the prompt's own difficulty being common to them: differences are told best on one
prompt. Every answer taken narrows Σ_f at once, as if it had come, so that money spreads.
Families of several partitions are each asked, and the mean goes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from xrouter_lg.arrays import Bools, Floats, Ints
from xrouter_lg.value.model import ValueModel
from xrouter_lg.value.posterior import PROMPT_SHARE, Posterior, noise

_AHEAD = (1, 4, 16)
"""Answers of one kind that are looked ahead over."""
_NODES, _MASS = np.polynomial.hermite_e.hermegauss(9)
_MASS = _MASS / _MASS.sum()
_ROUNDING = 1e-12
"""Utility below which a gain is none."""
_NEARLY = 0.7
"""Of the best worth per dollar: what is taken along in one step."""
_AT_ONCE = 4_000
"""Actions valued at once: bounds the memory."""


@dataclass(frozen=True)
class Purchase:
    """An answer to buy, in the order of buying."""

    row: int
    card: int
    worth: float
    """Utility that it is expected to add, in score points, over the requests of the model."""
    usd: float
    """Expected price."""


@dataclass(frozen=True)
class Market:
    """N prompts × M cards: what there is to buy."""

    price_N_M: Floats
    """Expected USD; inf where the answer can't be bought."""
    verified_N_M: Bools
    """A score without doubt is known."""


@dataclass(frozen=True)
class Stakes:
    """What a better choice is worth."""

    cost_weights: tuple[float, ...]
    """λ that routing will be asked with, each as often."""
    c_ref_usd: float
    least: float = 0.0
    """Utility over the model's requests that a dollar has to add to be spent."""


def buy(
    model: ValueModel, market: Market, stakes: Stakes, *, budget_usd: float, seed: int = 0
) -> list[Purchase]:
    """What to ask next for at most ``budget_usd`` (expected), the best first. ``model`` needs no
    readers. Ends early where nothing is worth its price any more."""
    return _Round(model, market, stakes, seed).fill(budget_usd, stakes.least)


class _Round:
    """Purchases that know of each other."""

    def __init__(self, model: ValueModel, market: Market, stakes: Stakes, seed: int) -> None:
        self._price = market.price_N_M
        self._there = market.verified_N_M.copy()
        self._open = np.isfinite(self._price) & ~self._there
        self._beliefs = [
            _Belief(
                posterior,
                own.family_N,
                expected_usd(usd, own.family_N, self._price),
                np.array(stakes.cost_weights) / stakes.c_ref_usd,
            )
            for own, posterior, usd in zip(
                model.partitions, model.posteriors, model.usd_F_M, strict=True
            )
        ]
        self._finest = model.partitions[-1].family_N
        self._rng = np.random.default_rng(seed)
        self._chance_N = self._rng.random(len(self._there))
        self._pattern: dict[bytes, int] = {}
        self._pattern_N = np.array([self._number(row) for row in self._there], dtype=np.int64)

    def _number(self, there_M: Bools) -> int:
        return self._pattern.setdefault(there_M.tobytes(), len(self._pattern))

    def fill(self, budget_usd: float, least: float) -> list[Purchase]:
        chosen: list[Purchase] = []
        left = budget_usd
        # [N, M, A] worth of each, looked ahead over A.
        worth = np.zeros((*self._price.shape, len(_AHEAD)))
        rows = np.flatnonzero(self._open.any(1))
        while True:
            if len(rows):
                worth[rows] = self._worth(rows)
            best = worth.max(2)
            mine = self._open & (self._price <= left)
            rate = np.where(mine, best / np.maximum(self._price, 1e-12), 0.0)
            before, rows = len(chosen), np.zeros(0, dtype=np.int64)
            for row, card in self._leading(rate, least):
                alike = self._alike(row, card, int(worth[row, card].argmax()), left)
                for at in alike.tolist():
                    usd = float(self._price[at, card])
                    chosen.append(Purchase(at, card, float(best[at, card]), usd))
                    left -= usd
                rows = np.union1d(rows, self._take(alike, card))
            if len(chosen) == before:
                return chosen

    def _leading(self, rate_N_M: Floats, least: float) -> list[tuple[int, int]]:
        """The best cell of each of the finest families, of those that are nearly the best of all.
        What one family is told matters little to the others."""
        top_N = rate_N_M.max(1)
        bar = max(float(top_N.max(initial=0.0)) * _NEARLY, least)
        order = np.flatnonzero((top_N >= bar) & (top_N > 0.0))
        order = order[np.argsort(-top_N[order], kind="stable")]
        _, first = np.unique(self._finest[order], return_index=True)
        return [(int(row), int(rate_N_M[row].argmax())) for row in order[np.sort(first)]]

    def _alike(self, row: int, card: int, ahead: int, left: float) -> Ints:
        """As many prompts as were looked ahead over. Those of one family that the same cards have
        answered are as good as each other: chance decides, so that what is bought speaks for the
        family."""
        alike = np.flatnonzero(
            self._open[:, card]
            & (self._finest == self._finest[row])
            & (self._pattern_N == self._pattern_N[row])
        )
        alike = alike[np.argsort(self._chance_N[alike], kind="stable")][: _AHEAD[ahead]]
        affordable: Ints = alike[np.cumsum(self._price[alike, card]) <= left]
        return affordable

    def _take(self, rows: Ints, card: int) -> Ints:
        """As if these answers had come; the prompts whose worth has changed."""
        changed = np.zeros(len(self._there), dtype=np.bool_)
        if not len(rows):
            return rows
        there = self._there[rows[0]].copy()
        for belief in self._beliefs:
            changed |= belief.observe(rows, card, there)
        self._there[rows, card] = True
        self._open[rows, card] = False
        self._pattern_N[rows] = self._number(self._there[rows[0]])
        changed &= self._open.any(1)
        return np.flatnonzero(changed)

    def _worth(self, rows: Ints) -> Floats:
        total = sum(
            belief.worth(rows, self._pattern_N[rows], self._there) for belief in self._beliefs
        )
        found: Floats = np.asarray(total) / len(self._beliefs)
        return found


class _Belief:
    """One partition's families: what is believed, and what another answer would change."""

    def __init__(
        self, posterior: Posterior, family_N: Ints, usd_F_M: Floats, price_of_usd_L: Floats
    ) -> None:
        self._mean, self._family_N = posterior.mean_F_M, family_N
        self._spread = posterior.covariance_F_M_M.copy()
        self._noise_F_M = noise(posterior.mean_F_M)
        self._requests_F = np.bincount(family_N, minlength=len(self._mean)).astype(np.float64)
        self._utility_F_L_M = (
            self._mean[:, None, :] - price_of_usd_L[None, :, None] * usd_F_M[:, None, :]
        )

    def observe(self, rows: Ints, card: int, there_M: Bools) -> Bools:
        """[N] prompts of a family of which more is known now."""
        counts = np.bincount(self._family_N[rows], minlength=len(self._mean))
        for family in np.flatnonzero(counts):
            directions, variances = told(self._noise_F_M[[family]], there_M[None])
            h, r = directions[0, card], variances[0, card]
            along = self._spread[family] @ h
            self._spread[family] -= np.outer(along, along) / (r / counts[family] + h @ along)
        changed: Bools = counts[self._family_N] > 0
        return changed

    def worth(self, rows: Ints, pattern_R: Ints, there_N_M: Bools) -> Floats:
        """[R, M, A] of one more answer, looked ahead over A; 0 where the card has answered."""
        kinds, first, back = np.unique(
            np.stack([self._family_N[rows], pattern_R], 1), axis=0, return_index=True,
            return_inverse=True,
        )  # fmt: skip
        there_K_M = there_N_M[rows[first]]
        found = np.zeros((*there_K_M.shape, len(_AHEAD)))
        step = max(1, _AT_ONCE // there_K_M.shape[1])
        for start in range(0, len(kinds), step):
            part = slice(start, start + step)
            found[part] = self._gain(kinds[part, 0], there_K_M[part])
        return found[back.ravel()]

    def _gain(self, family_K: Ints, there_K_M: Bools) -> Floats:
        """[K, M, A] utility that an answer adds over the family's requests."""
        h_K_M_M, r_K_M = told(self._noise_F_M[family_K], there_K_M)
        along = h_K_M_M @ self._spread[family_K]
        k, m = np.nonzero(~there_K_M)
        own = np.einsum("kmj,kmj->km", h_K_M_M, along)[k, m]
        along, r, family = along[k, m], r_K_M[k, m], family_K[k]
        utility = self._utility_F_L_M[family]
        now = utility.max(2)
        found = np.zeros((*there_K_M.shape, len(_AHEAD)))
        for at, ahead in enumerate(_AHEAD):
            b = along / np.sqrt(np.maximum(own + r / ahead, 1e-12))[:, None]
            after = np.zeros(now.shape)
            for node, mass in zip(_NODES, _MASS, strict=True):
                after += mass * (utility + node * b[:, None, :]).max(2)
            gain = (after - now).mean(1) / ahead
            gain = np.where(gain > _ROUNDING, gain, 0.0)
            found[k, m, at] = gain * self._requests_F[family]
        return found


def expected_usd(usd_F_M: Floats, family_N: Ints, price_N_M: Floats) -> Floats:
    """[F, M] cost of a request; where none was paid yet, what asking is expected to cost."""
    if np.isfinite(usd_F_M).all():
        return usd_F_M
    price = np.where(np.isfinite(price_N_M), price_N_M, np.nan)
    dearest = np.nanmax(price) if np.isfinite(price).any() else 0.0
    filled = usd_F_M.copy()
    for card in np.flatnonzero(~np.isfinite(usd_F_M).all(0)):
        known = price[:, card][np.isfinite(price[:, card])]
        filled[:, card] = known.mean() if len(known) else dearest
    return filled


def told(noise_K_M: Floats, there_K_M: Bools) -> tuple[Floats, Floats]:
    """What a further answer tells where some cards have answered: [K, M, M] along which direction
    each card's would, and [K, M] with which variance."""
    root = np.sqrt(noise_K_M)
    count = there_K_M.sum(1)
    common = np.where(count > 0, PROMPT_SHARE / (1.0 + (count - 1) * PROMPT_SHARE), 0.0)
    h = -common[:, None, None] * root[:, :, None] * np.where(there_K_M, 1.0 / root, 0.0)[:, None, :]
    every = np.arange(root.shape[1])
    h[:, every, every] = 1.0
    variance: Floats = noise_K_M * (1.0 - count * common * PROMPT_SHARE)[:, None]
    return h, variance
