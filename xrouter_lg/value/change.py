"""What is no longer true: a card that silently became another, and outcomes that have aged.

A provider that swaps the model behind a name tells nobody. It shows in a card's residuals, score
minus what the value model expects: from some moment on their mean is another. For every possible
moment t, with D the mean residual after it less that before and V its variance, the odds of a shift
there against none are those of two normal laws, its size being spread by σ:

    BF_t = N(D; 0, V + σ²) / N(D; 0, V)
    P(changed) = Σ_t h · BF_t / (1 + Σ_t h · BF_t),   h the chance of a change per observation

Both means are estimated, so that a value model that is wrong about a card by the same amount all
along, or that has learned from what came after, raises no alarm and hides none.

Before it is sure, a change counts as far as it is likely (:attr:`Change.shift`): a card that has
probably become worse is not taken until that is proven.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from xrouter_lg.arrays import Floats, Ints
from xrouter_lg.value.evidence import Evidence
from xrouter_lg.value.posterior import fit_posterior

HAZARD = 1 / 300
"""Chance of a change per observation of a card. Higher than anybody hopes: a change that is seen
late costs more than one that was none. Measured on thumbs of which a tenth are wrong, tested after
every five: of cards that score 0.8 and stay so, 12 % raise an alarm within 1,000 thumbs (5 % at
1/1000, 45 % at 1/100); after a fall by 0.25 the median alarm comes 53 thumbs late (60; 40), and a
shift of 0.1 is counted with after 35 (48; 30)."""
SHIFT = 0.2
"""Spread of its size, in score."""
ALARM = 0.9
"""Probability of a change from which it is taken as a fact."""
LEFT = 0.02
"""Worth of an outcome of before a change, as a share: of a card of which nothing else is known it
still tells something."""
HALF_LIVES = (0.25, 0.5, 1.0)
"""Tried as half-lives, in lengths of the whole log."""

_LEAST = 8
"""Observations of either side."""
_LATER = (0.5, 0.65, 0.8)
"""Share of the outcomes that is learned from, where the later ones judge a half-life."""
_ROUNDS = 8
_ENOUGH = 500
"""Outcomes below which nothing is forgotten with time: what a fit gains by seeing more and what it
loses by looking back can't be told apart yet."""
_SURE = 3.0
"""Standard errors by which forgetting has to be better than not to: several are tried, often."""


@dataclass(frozen=True)
class Change:
    """What R observations of one card, in order of time, tell of a change."""

    probability: float
    at: int
    """The first observation after the likeliest change; R where too few were seen."""
    size: float
    """Mean residual after it less that before, in score."""
    shift: float
    """Expected distance of today's mean residual from that of all observations: the sizes of
    changes, shrunk, times how likely each was."""
    spread: float
    """Standard deviation of that."""

    @property
    def alarm(self) -> bool:
        return self.probability >= ALARM


def find_change(
    residual_R: Floats, variance_R: Floats, *, hazard: float = HAZARD, least: int = _LEAST
) -> Change:
    """Whether the mean of a card's residuals has shifted, and when.

    ``variance_R`` is that of each residual: see :func:`residuals`. ``least`` are the observations
    that either side has to have.
    """
    count = len(residual_R)
    if count < 2 * least:
        return Change(0.0, count, 0.0, 0.0, 0.0)
    weight = np.cumsum(1.0 / variance_R)
    total = np.cumsum(residual_R / variance_R)
    cut = np.arange(least, count - least + 1)
    before, after = weight[cut - 1], weight[-1] - weight[cut - 1]
    gap = (total[-1] - total[cut - 1]) / after - total[cut - 1] / before
    spread = 1.0 / before + 1.0 / after
    wide = spread + SHIFT**2
    log_odds = 0.5 * (np.log(spread / wide) + gap**2 * (1.0 / spread - 1.0 / wide))
    log_odds += np.log(hazard)
    likeliest = int(log_odds.argmax())
    top = max(float(log_odds[likeliest]), 0.0)
    odds = np.exp(log_odds - top)
    share = odds / (np.exp(-top) + odds.sum())
    moved = gap * SHIFT**2 / wide * before / weight[-1]
    shift = float(share @ moved)
    square = float(share @ (moved**2 + SHIFT**2 * spread / wide))
    return Change(
        float(share.sum()),
        int(cut[likeliest]),
        float(gap[likeliest]),
        shift,
        float(np.sqrt(max(square - shift**2, 0.0))),
    )


def residuals(evidence: Evidence, expected_R: Floats) -> tuple[Floats, Floats]:
    """[R] score less what was expected, a thumb's error undone; and [R] its variance."""
    flip_R = 1.0 - 2.0 * evidence.error_R
    residual_R = evidence.right_R - expected_R
    seen_R = evidence.error_R + flip_R * np.clip(expected_R, 0.05, 0.95)
    return residual_R, seen_R * (1.0 - seen_R) / flip_R**2


def since_change(evidence: Evidence, at_R: Floats, since_M: Floats) -> Evidence:
    """The same, with little worth left to outcomes of a card from before it changed. ``since_M`` is
    when that was (minus infinity: never), on the clock of ``at_R``."""
    old_R = at_R < since_M[evidence.card_R]
    return replace(evidence, worth_R=np.where(old_R, LEFT, 1.0) * evidence.worth_R)


def faded(evidence: Evidence, at_R: Floats, half_life: float | None) -> Evidence:
    """Worth halved for every half-life before the newest outcome; None forgets nothing. Outcomes of
    unknown time (NaN) keep their worth."""
    if half_life is None or not np.isfinite(at_R).any():
        return evidence
    age_R = np.where(np.isfinite(at_R), np.nanmax(at_R) - at_R, 0.0)
    return replace(evidence, worth_R=evidence.worth_R * 0.5 ** (age_R / half_life))


def best_half_life(
    evidence: Evidence,
    at_R: Floats,
    family_N: Ints,
    families: int,
    *,
    tried: Sequence[float] | None = None,
) -> float | None:
    """How fast to forget, judged by how well outcomes foretell later ones: the half-life by which
    they do so best; None if none is clearly ahead of forgetting nothing, or outcomes are few.

    ``tried`` are half-lives on the clock of ``at_R``; :data:`HALF_LIVES` of its length when None.
    """
    if len(evidence) < _ENOUGH:
        return None
    length = float(at_R.max() - at_R.min())
    options = [share * length for share in HALF_LIVES] if tried is None else list(tried)
    options = [half_life for half_life in options if half_life > 0]
    cuts = [*(float(np.quantile(at_R, share)) for share in _LATER), np.inf]
    lost: dict[float | None, list[Floats]] = {None: [], **{one: [] for one in options}}
    for start, stop in itertools.pairwise(cuts):
        learned, later = at_R < start, (at_R >= start) & (at_R < stop)
        if not learned.any() or not later.any():
            continue
        known, judged = evidence.of_rows(learned), evidence.of_rows(later)
        for one, losses in lost.items():
            own = faded(known, at_R[learned], one)
            value = fit_posterior(own, family_N, families, rounds=_ROUNDS)
            expected = value.mean_F_M[family_N[judged.prompt_R], judged.card_R]
            residual, _ = residuals(judged, expected)
            # The score's own noise is in every candidate's loss alike: nothing must weigh it by
            # what a candidate expects, or the one that expects least would win.
            losses.append(residual**2)
    if not lost[None]:
        return None
    loss = {one: np.concatenate(losses) for one, losses in lost.items()}
    best = min(loss, key=lambda one: float(loss[one].mean()))
    gain = loss[None] - loss[best]
    error = float(gain.std()) / np.sqrt(len(gain))
    return best if float(gain.mean()) > _SURE * error else None
