"""A little world of two kinds of requests and three cards, and logs of it as users have them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from xrouter_lg.arrays import Floats, Ints
from xrouter_lg.outcomes.grid import OutcomeGrid

CARDS = ("small", "coder", "large")
TRUTH = np.array([[0.9, 0.3, 0.92], [0.2, 0.9, 0.88]])
"""[kind, card] probability of being right: chats and code."""
USD = np.array([0.001, 0.002, 0.01])
_WORDS = tuple(
    words.split()
    for words in (
        "hello friend please tell dinner weather holiday garden music story cousin birthday",
        "function compile python loop variable class integer return stack parser regex array",
    )
)


@dataclass(frozen=True)
class World:
    """N requests whose every outcome is known to the test alone."""

    prompts: tuple[str, ...]
    kind_N: Ints
    hard_N: Ints
    """1 where no word tells that the request is hard: there small and coder fail."""
    score_N_M: Floats

    @classmethod
    def of(cls, requests: int, seed: int = 0, *, hard: float = 0.0) -> World:
        rng = np.random.default_rng(seed)
        kind = rng.integers(0, 2, requests)
        prompts = tuple(" ".join(rng.choice(_WORDS[k], 7)) + f" {n}" for n, k in enumerate(kind))
        difficult = (rng.random(requests) < hard).astype(np.int64)
        chance = TRUTH[kind].copy()
        chance[difficult == 1, :2] = 0.05
        return cls(prompts, kind, difficult, (rng.random(chance.shape) < chance).astype(float))

    def utility(self, cost_weight: float, c_ref_usd: float) -> Floats:
        """[N, M]"""
        found: Floats = self.score_N_M - cost_weight * USD / c_ref_usd
        return found

    def grid(self, *, full: bool = True) -> OutcomeGrid:
        """All outcomes, as nobody labels them."""
        shape = self.score_N_M.shape
        hidden = np.full(shape, np.nan)
        return OutcomeGrid(
            keys=tuple(("app", "traces", str(n)) for n in range(len(self.prompts))),
            prompts=self.prompts,
            families=("app|traces|",) * len(self.prompts),
            models=CARDS,
            score=self.score_N_M.copy() if full else hidden,
            cost=np.tile(USD, (shape[0], 1)) if full else hidden.copy(),
        )

    def log(
        self,
        chances_N_M: Floats,
        seed: int = 0,
        *,
        scored: float = 1.0,
        wrong: float = 0.0,
        told: bool = True,
    ) -> OutcomeGrid:
        """One card's answer per request, drawn by these chances; a thumb on a share of them, some
        wrong; ``told`` whether the log knows its propensities."""
        rng = np.random.default_rng(seed + 1000)
        n = len(self.prompts)
        every = np.arange(n)
        called = (chances_N_M.cumsum(1) > rng.random(n)[:, None]).argmax(1)
        table = self.grid(full=False)
        said = rng.random(n) < scored
        score = self.score_N_M[every, called]
        score = np.where(rng.random(n) < wrong, 1.0 - score, score)
        table.score[every[said], called[said]] = score[said]
        table.cost[every, called] = USD[called]
        propensity = np.full(table.score.shape, np.nan)
        by = np.full(table.score.shape, None, dtype=object)
        by[every, called] = "feedback" if wrong else "exact"
        if told:
            propensity[every, called] = chances_N_M[every, called]
        times = np.full(table.score.shape, np.nan)
        times[every, called] = 1_700_000_000.0 + 60.0 * every
        table.more.update({"propensity": propensity, "scored_by": by, "observed_at": times})  # type: ignore[attr-defined]
        return table


def always(card: str, requests: int, exploration: float = 0.0) -> Floats:
    """[N, M] one card for all, and now and then any."""
    chances = np.full((requests, len(CARDS)), exploration / len(CARDS))
    chances[:, CARDS.index(card)] += 1.0 - exploration
    return chances
