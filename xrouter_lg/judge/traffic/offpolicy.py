"""What would another policy have earned? Estimates from logged propensities, or a refusal.

Off-policy estimates need no outcomes of the models that were not called, but they stand on the
propensities: a logged action weighs target probability / logging probability. With few effective
samples, or actions the logging policy never takes, they are confidently wrong, so they refuse.

- IPS:   mean(w r). Unbiased, wild.
- SNIPS: Σ w r / Σ w (Swaminathan & Joachims 2015). Slightly biased, calmer.
- DR:    mean(Σ_a π(a) q̂(a) + w (r − q̂(a_logged))) (Dudík et al. 2011, arXiv 1103.4601). Right when
         the propensities or the reward model are right; never better than its model's fit helps.
- Effective sample size: (Σ w)² / Σ w² (Kish).
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from xrouter_lg.arrays import Floats, Ints
from xrouter_lg.figures.bootstrap import Figure


@dataclass(frozen=True)
class Logged:
    """N logged requests under a policy that was not always the same choice."""

    action: Ints
    """[N]"""
    propensity: Floats
    """[N] probability the logging policy gave to the action it took, in (0, 1]."""
    reward: Floats
    """[N] any bounded utility, e.g. score − λ·cost/c_ref."""
    support: Floats | None = None
    """[N, A] the logging policy's probabilities of all actions, if recorded."""

    def __post_init__(self) -> None:
        n = len(self.action)
        if self.propensity.shape != (n,) or self.reward.shape != (n,):
            raise ValueError("action, propensity and reward must have the same length")
        if n == 0 or not ((self.propensity > 0) & (self.propensity <= 1)).all():
            raise ValueError("propensities must lie in (0, 1], and there must be some")
        if not np.isfinite(self.reward).all():
            raise ValueError("unknown rewards: leave those requests out before estimating")


@dataclass(frozen=True)
class OffPolicy:
    """Estimates with 95 % intervals; all None when refused."""

    ips: Figure | None
    snips: Figure | None
    doubly_robust: Figure | None
    """None also without a reward model."""
    logged: Figure
    """The logging policy's own mean reward, for comparison."""
    requests: int
    effective: float
    """Effective sample size."""
    refused: str | None
    """Why nothing is concluded, and what would help."""


def estimate(
    log: Logged,
    target: Floats,
    *,
    model: Floats | None = None,
    min_effective: float = 100.0,
    max_unsupported: float = 0.01,
) -> OffPolicy:
    """The mean reward of a policy with [N, A] probabilities `target`, from another one's log.

    `model` is a [N, A] reward prediction fitted on other requests than these; on the same ones it
    would explain its own noise away.
    """
    n = len(log.action)
    if target.ndim != 2 or len(target) != n or not np.allclose(target.sum(1), 1.0, atol=1e-6):
        raise ValueError(f"target must be [{n}, actions] probabilities that sum to 1")
    if model is not None and model.shape != target.shape:
        raise ValueError(f"model has shape {model.shape}, expected {target.shape}")
    rows = np.arange(n)
    w = target[rows, log.action] / log.propensity
    effective = float(w.sum() ** 2 / (w**2).sum()) if w.any() else 0.0
    refused = _refusal(log, target, w, effective, min_effective, max_unsupported)
    if refused:
        return OffPolicy(None, None, None, _mean(log.reward), n, effective, refused)
    ratio = float((w * log.reward).sum() / w.sum())
    # The linearised ratio (delta method): its mean is the estimate, its spread the error.
    snips = _mean(ratio + w * (log.reward - ratio) / w.mean())
    robust = None if model is None else _mean(doubly_robust_values(log, target, model))
    return OffPolicy(_mean(w * log.reward), snips, robust, _mean(log.reward), n, effective, None)


def doubly_robust_values(log: Logged, target: Floats, model: Floats) -> Floats:
    """[N] what each request adds to the doubly robust mean, for comparisons within the same log.
    Arguments as in :func:`estimate`, which says whether they may be concluded from."""
    rows = np.arange(len(log.action))
    w = target[rows, log.action] / log.propensity
    found: Floats = (target * model).sum(1) + w * (log.reward - model[rows, log.action])
    return found


def _mean(values: Floats) -> Figure:
    z = NormalDist().inv_cdf(0.975)
    error = float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else np.inf
    mean = float(values.mean())
    if not np.isfinite(error):
        return Figure(mean, None, None)
    return Figure(mean, mean - z * error, mean + z * error)


def _refusal(
    log: Logged,
    target: Floats,
    w: Floats,
    effective: float,
    min_effective: float,
    max_unsupported: float,
) -> str | None:
    if log.support is not None:
        blind = float(np.where(log.support > 0, 0.0, target).sum(1).mean())
        if blind > max_unsupported:
            return (
                f"the target takes actions the logging policy never takes {blind:.1%} of the "
                "time: nothing is known of them. Backfill those prompts or explore first."
            )
    if effective < min_effective:
        return (
            f"{len(w)} logged requests are worth {effective:.0f}, fewer than the "
            f"{min_effective:.0f} needed. Log more, explore more, or backfill outcomes."
        )
    # Weights have mean 1 whatever the policies: if not, a propensity is wrong or an action missing.
    gap = float(abs(w.mean() - 1.0))
    error = float(w.std(ddof=1) / np.sqrt(len(w)))
    if gap > 4 * error + 1e-6:
        return (
            f"weights average {w.mean():.3f} where they must average 1: the logged propensities "
            "don't fit the logged actions, or some actions are never explored."
        )
    return None
