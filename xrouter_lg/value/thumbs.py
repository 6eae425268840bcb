"""How often users are wrong: what a thumb is worth where no verifier has a say."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from xrouter_lg.arrays import Bools
from xrouter_lg.outcomes.grid import OutcomeGrid
from xrouter_lg.value.evidence import THUMB_ERROR, THUMBS

_PRIOR_ANSWERS = 20.0
"""What the assumed share is worth: a handful of disagreements must not silence all users."""
_LEAST, _MOST = 0.01, 0.4
"""At 0.5 a thumb would say nothing; at 0 one user's slip would be the truth."""


@dataclass(frozen=True)
class ThumbError:
    """The probability that what a user said is the opposite of the truth."""

    value: float
    """In [0.01, 0.4]."""
    overlap: int
    """Answers that both a verifier and users judged."""
    assumed: bool
    """Whether nothing here tells it."""

    def __str__(self) -> str:
        if self.assumed:
            told = f"the {self.overlap} answers with both a thumb and a verdict are all undecided"
            return f"thumbs are assumed to be wrong {self.value:.0%} of the time: " + (
                told if self.overlap else "no answer has both a thumb and a verifier's verdict"
            )
        return (
            f"thumbs are wrong {self.value:.0%} of the time, by {self.overlap} answers that a "
            f"verifier judged too (an assumed {THUMB_ERROR:.0%} counts as {_PRIOR_ANSWERS:.0f} "
            "answers)"
        )


def thumb_error(table: OutcomeGrid) -> ThumbError:
    """Estimated from answers with a verifier's score s and users' feedback f, read off the columns
    ``scored_by`` and ``feedback`` of ``table.more``; without any, assumed.

    A thumb that is wrong with probability e is E[f | s] = s + e (1 - 2s), so least squares give

        e = Σ (f - s)(1 - 2s) / Σ (1 - 2s)²

    which is the share of disagreements where scores are 0 or 1; an answer that is half right tells
    nothing. A Beta prior (mean 0.1, worth 20 answers) holds few of them back.
    """
    feedback = table.more.get("feedback")
    if feedback is None:
        return ThumbError(THUMB_ERROR, 0, True)
    said = np.asarray(feedback, dtype=np.float64)
    both = np.isfinite(said) & np.isfinite(table.score) & ~_from_users(table)
    told = 1.0 - 2.0 * table.score[both]
    weight = float((told**2).sum())
    overlap = int(both.sum())
    if weight == 0.0:
        return ThumbError(THUMB_ERROR, overlap, True)
    wrong = float(((said[both] - table.score[both]) * told).sum())
    value = (wrong + THUMB_ERROR * _PRIOR_ANSWERS) / (weight + _PRIOR_ANSWERS)
    return ThumbError(float(np.clip(value, _LEAST, _MOST)), overlap, False)


def _from_users(table: OutcomeGrid) -> Bools:
    """[N, M] cells in whose score users have a part: agreeing with themselves proves nothing."""
    by = table.more.get("scored_by")
    if by is None:
        return np.zeros(table.score.shape, dtype=np.bool_)
    found = [isinstance(name, str) and THUMBS in name.split(", ") for name in by.ravel()]
    return np.array(found, dtype=np.bool_).reshape(table.score.shape)
