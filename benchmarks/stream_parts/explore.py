"""Which card to ask in order to learn, and how often.

With u the utilities of the cards on a request, drawn jointly from what is known of them, and g the
card that is taken otherwise (the greedy one):

    gain_m  = E[max(u_m - u_g, 0)]             what may be missed by not knowing m
    value   = E[max_m u_m] - max_m E[u_m]      what perfect knowledge of this request is worth
    P(ask m) = min(RATE · value, allowed) · gain_m² / Σ gain²,   and g with all that is left

So a newcomer, or a card after a change, draws many requests, and little is spent where all is
known. The draws are the same for every request: probabilities are exact given what is known, and
what is logged as a propensity is what was drawn by.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from xrouter_lg.arrays import Floats
from xrouter_lg.value.posterior import Posterior

DRAWS = 256
RATE = 10.0
"""Probability of exploring per utility that perfect knowledge is worth."""
_POWER = 2
"""Of the gains: what is spread thin over many cards settles none."""


def roots(posterior: Posterior) -> Floats:
    """[F, M, M] Cholesky factors of the covariances."""
    jitter = 1e-9 * np.eye(posterior.mean_F_M.shape[1])
    return np.asarray(np.linalg.cholesky(posterior.covariance_F_M_M + jitter), dtype=np.float64)


def ask_chances(
    utility_M: Floats, root_M_Z: Floats, normal_D_Z: Floats, greedy: int, most: float
) -> Floats:
    """[M] probabilities of asking each card, exploring with at most ``most``; see the module.
    ``root_M_Z`` is a root of the covariance, ``normal_D_Z`` standard normal draws.
    ``utility_M`` is minus infinity for a card that can't be asked."""
    drawn_D_M = utility_M + normal_D_Z @ root_M_Z.T
    value = max(float(drawn_D_M.max(1).mean() - drawn_D_M.mean(0).max()), 0.0)
    gain_M = np.maximum(drawn_D_M - drawn_D_M[:, [greedy]], 0.0).mean(0) ** _POWER
    found = np.zeros(len(utility_M))
    if gain_M.sum() > 0:
        found = min(most, RATE * value) * gain_M / gain_M.sum()
    found[greedy] = 0.0
    found[greedy] = 1.0 - found.sum()
    return found


@dataclass
class Allowance:
    """How much may be explored: of any ``horizon`` requests in a row ``cap`` at most, on average.

    ``at_start`` of them are there from the beginning, :meth:`grant` gives more where there is
    something new to find out, and the rest comes evenly. What has been saved is spent over about
    ``over`` requests.

    Raises:
        ValueError: more at the start and evenly than the cap allows.
    """

    cap: float = 0.05
    horizon: int = 10_000
    at_start: float = 120.0
    share: float = 0.02
    """What comes with every request."""
    over: float = 300.0
    saved: float = field(init=False, default=0.0)
    requests: int = field(init=False, default=0)
    grants: list[tuple[int, float]] = field(init=False, default_factory=list)
    """After how many requests, and how much, within the last ``horizon``."""

    def __post_init__(self) -> None:
        if self.grant(self.at_start) < self.at_start:
            raise ValueError(
                f"{self.at_start:g} at the start and {self.share:g} of {self.horizon} requests are "
                f"more than the cap of {self.cap:g} allows"
            )

    @property
    def most(self) -> float:
        """Probability of exploring that the next request may have."""
        return float(np.clip(self.saved / self.over, 0.0, 1.0))

    def grant(self, requests: float) -> float:
        """A card has joined or changed: what may be explored on top, as far as the cap lets it."""
        self.grants = [one for one in self.grants if self.requests - one[0] < self.horizon]
        left = (self.cap - self.share) * self.horizon - sum(given for _, given in self.grants)
        given = float(np.clip(requests, 0.0, max(left, 0.0)))
        self.grants.append((self.requests, given))
        self.saved += given
        return given

    def spend(self, chance: float) -> None:
        """A request was explored with this probability."""
        self.requests += 1
        self.saved += self.share - chance
