"""What outcomes tell about cards, observation by observation, each with what it is worth.

    worth = recency · (Σu)² / Σu² · u / Σu,   u = min(1 / propensity, 5)

summed over the family and card's observations of known propensity.

An observation is worth 1 where it is an outcome of a card that was asked no matter what. A log
whose rules send hard requests to one card and easy ones to another shows each card on its own kind
of request; weighing by the logged propensity (Horvitz and Thompson 1952) undoes that, and Kish's
effective sample size says what is left of the numbers. Where the propensity is unknown, or 1,
nothing is undone: such a log can be confidently wrong about the card that was not asked.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

import numpy as np

from xrouter_lg.arrays import Bools, Floats, Ints
from xrouter_lg.outcomes.grid import OutcomeGrid

THUMB_ERROR = 0.1
"""Share of thumbs taken to be wrong where no verified answer tells it."""
JUDGE_ERROR = 0.1
"""Share of a judge's verdicts taken to be wrong. Taken as the truth they would put every card that
they grade nearer to a half than the cards that users grade, and so the poor ones too high."""
MOST_WEIGHT = 5.0
"""Of one observation: a rare draw must not outvote all else that is known of its card (truncated
importance sampling, Ionides 2008)."""
JUDGE = "judge"
"""How ``scored_by`` names a verdict of a language model; see `xrouter_lg.verifiers.judge`."""
THUMBS = "feedback"
"""How ``scored_by`` names a score that users gave; see `xrouter_lg.verifiers.feedback`."""


@dataclass(frozen=True)
class Evidence:
    """R observations of M cards on N prompts."""

    prompt_R: Ints
    card_R: Ints
    score_R: Floats
    """0 to 1, as it was given: a thumb as 0 or 1."""
    error_R: Floats
    """Probability that the score is the opposite of the truth, below 0.5; 0 for a verified one."""
    worth_R: Floats
    """Above 0; 1 is one outcome, of now."""
    propensity_R: Floats
    """Probability with which the card was called, in (0, 1]; NaN where unknown, or where the prompt
    was put to every card."""
    prompts: int
    cards: int

    def __post_init__(self) -> None:
        rows = len(self.prompt_R)
        for name in ("card_R", "score_R", "error_R", "worth_R", "propensity_R"):
            if len(getattr(self, name)) != rows:
                raise ValueError(f"{name} has {len(getattr(self, name))} rows, expected {rows}")
        if ((self.error_R < 0) | (self.error_R >= 0.5)).any():
            raise ValueError("error must lie in [0, 0.5): at 0.5 a score says nothing")

    def __len__(self) -> int:
        return len(self.prompt_R)

    @classmethod
    def of(
        cls,
        table: OutcomeGrid,
        *,
        thumb_error: float = THUMB_ERROR,
    ) -> Evidence:
        """All known scores of a table, one observation a cell, each worth 1.

        An answer that was bought fills every row of its request: such cells, of one text and card,
        that no log has called and that were observed at the same time, share the worth of one.
        """
        row, card = np.nonzero(np.isfinite(table.score))
        propensity = told(table, "propensity", row, card)
        return cls(
            row.astype(np.int64),
            card.astype(np.int64),
            table.score[row, card],
            np.where(
                thumbs(table)[row, card],
                thumb_error,
                np.where(_judged(table)[row, card], JUDGE_ERROR, 0.0),
            ),
            _shared(table, row, card, np.isnan(propensity)),
            propensity,
            len(table),
            len(table.models),
        )

    @property
    def right_R(self) -> Floats:
        """[R] scores with their usual error undone: right on average, and outside [0, 1] where a
        score may be wrong."""
        found: Floats = (self.score_R - self.error_R) / (1.0 - 2.0 * self.error_R)
        return found

    def of_prompts(self, chosen_N: Bools) -> Evidence:
        """What is known of these prompts; the others stay, without any."""
        return self.of_rows(chosen_N[self.prompt_R])

    def of_rows(self, keep: Bools) -> Evidence:
        """Some of the observations, of the same prompts and cards."""
        return replace(
            self,
            prompt_R=self.prompt_R[keep],
            card_R=self.card_R[keep],
            score_R=self.score_R[keep],
            error_R=self.error_R[keep],
            worth_R=self.worth_R[keep],
            propensity_R=self.propensity_R[keep],
        )

    def weighed(self, family_N: Ints, families: int) -> Evidence:
        """The same, unbiased by who was asked what: see the module's formula."""
        logged_R = np.isfinite(self.propensity_R)
        u_R = np.where(logged_R, 1.0 / self.propensity_R, 1.0)
        u_R = np.minimum(u_R, MOST_WEIGHT)
        if (u_R == 1.0).all():
            return self
        cell_R = family_N[self.prompt_R] * self.cards + self.card_R
        size = families * self.cards
        # What was asked no matter what needs no undoing, and must not be outvoted by rare draws.
        drawn_R = np.where(logged_R, self.worth_R, 0.0)
        total = np.bincount(cell_R, u_R * drawn_R, size)
        square = np.bincount(cell_R, u_R**2 * drawn_R, size)
        scale = total / np.maximum(square, 1e-300)
        return replace(
            self, worth_R=np.where(logged_R, self.worth_R * u_R * scale[cell_R], self.worth_R)
        )


def _shared(table: OutcomeGrid, row: Ints, card: Ints, unlogged_R: Bools) -> Floats:
    """[R] 1, or of one bought answer in several rows each its part of 1. An answer of unknown time
    is one of its own: a table of results asks about a text as often as the text stands in it."""
    at_R = told(table, "observed_at", row, card)
    bought_R = unlogged_R & np.isfinite(at_R)
    cells = [(table.prompts[n], m, at) for n, m, at in zip(row, card, at_R.tolist(), strict=True)]
    alike = Counter(cell for cell, bought in zip(cells, bought_R, strict=True) if bought)
    return np.array(
        [1.0 / alike[cell] if bought else 1.0 for cell, bought in zip(cells, bought_R, strict=True)]
    )


def thumbs(table: OutcomeGrid) -> Bools:
    """[N, M] cells whose score is what users said."""
    return _scored_by(table, THUMBS)


def _judged(table: OutcomeGrid) -> Bools:
    """[N, M] cells whose score is a language model's verdict."""
    return _scored_by(table, JUDGE)


def _scored_by(table: OutcomeGrid, start: str) -> Bools:
    by = table.more.get("scored_by")
    if by is None:
        return np.zeros(table.score.shape, dtype=np.bool_)
    found: Bools = np.array(
        [[isinstance(name, str) and name.startswith(start) for name in row] for row in by],
        dtype=np.bool_,
    ).reshape(table.score.shape)
    return found


def told(table: OutcomeGrid, name: str, row: Ints, card: Ints) -> Floats:
    """[R] what a column says of these cells; NaN where it says nothing."""
    values = table.more.get(name)
    if values is None:
        return np.full(len(row), np.nan)
    found: Floats = np.asarray(values, dtype=np.float64)[row, card]
    return found
