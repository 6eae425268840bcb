"""Reward of one routed request: a scalar from its score and what it cost.

    linear         r = s − λ · c / c_ref
    success_gated  r = s · (K − min(λ · c / c_ref, cap)),  K = 1, cap = 0.8

c is everything the request cost: the router's own tokens and every call. c_ref is the mean cost of
the best fixed model, so λ is the number of score points that one reference cost is worth.
``success_gated`` is xRouter's reward (Qian et al. 2025, arXiv 2510.08439) with the cost in units of
c_ref instead of raw USD. Under it a prompt that no model solves earns 0 whatever is spent on it,
so nothing teaches the router to spend little there; ``linear``, the default, does.

A score of None (the verifier or a worker failed) gives a reward of None: the sample leaves the
batch. In arrays None is NaN.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import numpy as np

from training.config.reward import RewardConfig, RewardKind
from xrouter_lg.arrays import Floats


@dataclass(frozen=True)
class Reward:
    """A reward function of score in [0, 1], cost in USD and cost weight λ ≥ 0.

    Raises:
        ValueError: an unknown kind, ``c_ref_usd`` not above 0, or ``cap`` above ``k``.
    """

    c_ref_usd: float
    kind: RewardKind = "linear"
    k: float = 1.0
    """What a success at no cost is worth (``success_gated``)."""
    cap: float = 0.8
    """The most that cost takes from a success, so that one is always worth ``k - cap``."""

    def __post_init__(self) -> None:
        if self.kind not in ("linear", "success_gated"):
            raise ValueError(f"reward is {self.kind!r}; it must be 'linear' or 'success_gated'")
        if not (math.isfinite(self.c_ref_usd) and self.c_ref_usd > 0):
            raise ValueError(f"c_ref_usd is {self.c_ref_usd!r}; it must be a finite cost above 0")
        if not 0.0 <= self.cap <= self.k:
            raise ValueError(f"cap is {self.cap!r}; it must lie in [0, k = {self.k!r}]")

    @classmethod
    def of(cls, config: RewardConfig, c_ref_usd: float) -> Self:
        """The reward of a run, in units of this reference cost."""
        return cls(c_ref_usd, config.kind, config.k, config.cap)

    def one(
        self,
        score: float | None,
        cost_usd: float | None,
        cost_weight: float,
        *,
        router_cost_usd: float = 0.0,
    ) -> float | None:
        """The reward of one request; None where score or cost is unknown.

        Raises:
            ValueError: a score outside [0, 1], a negative cost or cost weight.
        """
        if score is None or cost_usd is None:
            return None
        if not 0.0 <= score <= 1.0:
            raise ValueError(f"scores must lie in [0, 1], got {score!r}")
        values = self.many(
            np.array([score]), np.array([cost_usd + router_cost_usd]), np.array([cost_weight])
        )
        return float(values[0])

    def many(self, score: Floats, cost_usd: Floats, cost_weight: Floats | float) -> Floats:
        """Rewards of any (broadcast) shape; NaN where score or cost is NaN. An estimated score may
        lie outside [0, 1]: what it is on average counts.

        Raises:
            ValueError: a negative cost or cost weight.
        """
        weight = np.asarray(cost_weight, dtype=np.float64)
        if bool((cost_usd < 0).any()) or bool((weight < 0).any()):
            raise ValueError("costs and cost weights must not be negative")
        penalty = weight * cost_usd / self.c_ref_usd
        if self.kind == "linear":
            rewards: Floats = score - penalty
        else:
            rewards = score * (self.k - np.minimum(penalty, self.cap))
            # 0 × NaN is NaN as it should be: a failed call of unknown cost is unknown.
        return rewards
