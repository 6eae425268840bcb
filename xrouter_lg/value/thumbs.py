"""How often users are wrong, and of which card they say something else than of the others.

A thumb counts where no verifier has a say. How often thumbs are wrong is told by answers that both
judged. Where users praise, or blame, one card whatever it said, its thumbs alone can't tell, for a
card may be better than others. The answers that a verifier calls wrong can: among those no card
deserves more praise than another.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.stats import hypergeom

from xrouter_lg.arrays import Bools, Floats
from xrouter_lg.outcomes.grid import OutcomeGrid
from xrouter_lg.value.evidence import THUMB_ERROR, THUMBS

_PRIOR_ANSWERS = 20.0
"""What the assumed share is worth: a handful of disagreements must not silence all users."""
_LEAST, _MOST = 0.01, 0.4
"""At 0.5 a thumb would say nothing; at 0 one user's slip would be the truth."""
_CHANCE = 0.05
"""Probability that of cards which users treat alike any is called unlike the others."""


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
    said, both = _judged_twice(table)
    told = 1.0 - 2.0 * table.score[both]
    weight = float((told**2).sum())
    overlap = int(both.sum())
    if weight == 0.0:
        return ThumbError(THUMB_ERROR, overlap, True)
    wrong = float(((said[both] - table.score[both]) * told).sum())
    value = (wrong + THUMB_ERROR * _PRIOR_ANSWERS) / (weight + _PRIOR_ANSWERS)
    return ThumbError(float(np.clip(value, _LEAST, _MOST)), overlap, False)


@dataclass(frozen=True)
class UnlikeThumbs:
    """A card of whose answers users say something else than of the others', equally right or wrong:
    its thumbs tell nothing of it."""

    card: str
    said: Literal["up", "down"]
    misjudged: int
    judged: int
    """Answers of the card that a verifier judged the other way, with a thumb."""
    usual: float
    """Share of them misjudged among the other cards'."""

    def __str__(self) -> str:
        verdict = "wrong" if self.said == "up" else "right"
        return (
            f"users say {self.said!r} to {self.misjudged} of {self.judged} answers of {self.card} "
            f"that a verifier calls {verdict}, and to {self.usual:.0%} of the other cards': its "
            "thumbs are not counted. What a verifier says of it is"
        )


def unlike_thumbs(table: OutcomeGrid) -> tuple[UnlikeThumbs, ...]:
    """Cards whose wrong answers get a thumb up, or right ones a thumb down, more often than the
    others' by more than chance (Fisher's exact test, corrected for the number of cards). Where no
    answer has both a thumb and a verifier's verdict, none is found."""
    said, both = _judged_twice(table)
    ways: tuple[tuple[Literal["up", "down"], Bools, Bools], ...] = (
        ("up", both & (table.score <= 0.0), said > 0.5),
        ("down", both & (table.score >= 1.0), said < 0.5),
    )
    found = []
    cards = len(table.models)
    for word, judged, misjudged in ways:
        own_M, wrong_M = judged.sum(0), (judged & misjudged).sum(0)
        chance_M = hypergeom.sf(wrong_M - 1, own_M.sum(), wrong_M.sum(), own_M)
        for m in np.flatnonzero(chance_M * 2 * cards < _CHANCE):
            others = int(own_M.sum() - own_M[m])
            usual = float(wrong_M.sum() - wrong_M[m]) / max(others, 1)
            found.append(UnlikeThumbs(table.cards[m], word, int(wrong_M[m]), int(own_M[m]), usual))
    return tuple(found)


def _judged_twice(table: OutcomeGrid) -> tuple[Floats, Bools]:
    """[N, M] what users said, NaN where nothing, and the answers that a verifier judged as well."""
    feedback = table.more.get("feedback")
    if feedback is None:
        return np.full(table.score.shape, np.nan), np.zeros(table.score.shape, dtype=np.bool_)
    said = np.asarray(feedback, dtype=np.float64)
    return said, np.isfinite(said) & np.isfinite(table.score) & ~_from_users(table)


def _from_users(table: OutcomeGrid) -> Bools:
    """[N, M] cells in whose score users have a part: agreeing with themselves proves nothing."""
    by = table.more.get("scored_by")
    if by is None:
        return np.zeros(table.score.shape, dtype=np.bool_)
    found = [isinstance(name, str) and THUMBS in name.split(", ") for name in by.ravel()]
    return np.array(found, dtype=np.bool_).reshape(table.score.shape)
