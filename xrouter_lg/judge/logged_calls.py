"""Which cards a log called, how that was scored, and with what probability it was to be seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from xrouter_lg.arrays import Bools, Floats, Ints
from xrouter_lg.outcomes.grid import OutcomeGrid
from xrouter_lg.value.change import LEFT
from xrouter_lg.value.evidence import Evidence

_MISCOUNT = 0.1
"""Share by which a card's calls may stand for too many requests: propensities are rounded, and the
part of a log that was kept need not be quite what was drawn."""
_TOO_OFTEN = 4.0
"""Standard errors by which that has to be beyond 1, besides."""
_FEW_CALLS = 10.0
"""Calls' worth of the usual share of scores that a card's own is mixed with."""
_CLOCKS = 0.05
"""Share of the answers' times at either end that the pace of requests is not told by."""


@dataclass(frozen=True)
class LoggedCalls:
    """The requests of which it is known which card the log called."""

    row: Ints
    card: Ints
    score_M: Floats
    """[L, M] thumbs set right for their usual error; NaN where there is none."""
    chance_M: Floats
    """[L, M] probability with which a score was to be seen; NaN where there is none, or it is
    unknown."""
    called_chance: Floats
    """[L] probability with which the card was called, scored or not; NaN where unknown."""
    scored_L: Floats
    """[L] how often answers of the card that was called are scored, over how often any are: where
    users speak of one card more than of others, its scores would be heard too loud."""
    requests: int
    """All that were made: also those of cards that nobody scored, and of several."""

    @property
    def own(self) -> tuple[Ints, Ints]:
        """Places of the cards that were called."""
        return np.arange(len(self.row)), self.card

    @property
    def scored(self) -> int:
        return int(np.isfinite(self.score_M[self.own]).sum())

    @property
    def drawn(self) -> int:
        several = np.isfinite(self.score_M).sum(1) > 1
        draw = np.isfinite(self.score_M[self.own]) & (self.chance_M[self.own] < 1.0)
        return int((several | draw).sum())

    @property
    def unexplored(self) -> str:
        """Why nothing follows where hardly anything was drawn, and what to do."""
        told = int((np.isfinite(self.score_M[self.own]) & np.isnan(self.called_chance)).sum())
        found = f"{self.drawn} of {self.scored} scored answers came from a draw"
        if told > self.scored / 2:
            found += f", and of {told} nobody knows it: their propensity is empty"
        return (
            f"the log never explored ({found}): what it shows of a card, it shows on the requests "
            "that were sent there. Keep what is, and set exploration=0.05, or buy answers"
        )

    def contradiction(self, cards: Sequence[str]) -> str | None:
        """Why the propensities can't be those of this log; None where they may be. Each call counts
        one over its propensity: a card's calls then stand for as many requests as there are, or for
        fewer where it could not be called on all."""
        known = np.isfinite(self.called_chance)
        weight, called = 1.0 / self.called_chance[known], self.card[known]
        every = len(cards)
        stands_M = np.bincount(called, weight, every) / self.requests
        square_M = np.bincount(called, weight**2, every) / self.requests
        error_M = np.sqrt(np.maximum(square_M - stands_M**2, 0.0) / self.requests)
        for card, stands, error in zip(cards, stands_M, error_M, strict=True):
            if stands - 1.0 > max(_TOO_OFTEN * error, _MISCOUNT):
                return (
                    f"the logged propensities contradict the log: by them the calls of {card} "
                    f"stand for {stands:.2f} times as many requests as there are, and it can't be "
                    "more than 1. Log the probability with which the card that answered was "
                    "called, keep the requests that nobody scored in the table, or leave "
                    "propensity empty"
                )
        return None

    @classmethod
    def of(cls, table: OutcomeGrid, evidence: Evidence) -> LoggedCalls:
        called = np.isfinite(table.cost) | np.isfinite(table.score)
        chance = table.more.get("propensity")
        propensity = np.full(called.shape, np.nan)
        if chance is not None:
            propensity = np.asarray(chance, dtype=np.float64)
        # Of several answers the log's own is the one that has a propensity, or a time: others were
        # bought.
        logged = np.isfinite(propensity)
        seen_at = table.more.get("observed_at")
        if seen_at is not None:
            # What was bought was asked later.
            at = np.asarray(seen_at, dtype=np.float64)
            first = at == np.min(at, 1, where=np.isfinite(at), initial=np.inf, keepdims=True)
            logged = np.where(logged.any(1, keepdims=True), logged, first)
        logged = np.where((called.sum(1) == 1)[:, None], called, logged)
        row = np.flatnonzero(logged.sum(1) == 1)
        card = logged[row].argmax(1).astype(np.int64)
        score = np.full(table.score.shape, np.nan)
        right = evidence.right_R
        # What a card scored before it became another says nothing of it.
        holds = evidence.worth_R > LEFT
        score[evidence.prompt_R[holds], evidence.card_R[holds]] = right[holds]
        seen = np.where(np.isfinite(score), 1.0, np.nan)
        own = np.arange(len(row)), card
        seen_L_M = seen[row]
        seen_L_M[own] = propensity[row, card]
        often = _scored_shares(np.isfinite(score[row, card]), card, len(table.models))[card]
        alone = np.isfinite(score[row]).sum(1) <= 1
        return cls(
            row,
            card,
            score[row],
            seen_L_M,
            propensity[row, card],
            np.where(alone, often, 1.0),
            len(table),
        )


def _scored_shares(scored_L: Bools, card_L: Ints, cards: int) -> Floats:
    """[M] share of each card's calls that are scored, over that of all; 1 where none are known."""
    calls_M = np.bincount(card_L, minlength=cards)
    usual = float(scored_L.mean()) if len(scored_L) else 0.0
    if usual == 0.0:
        return np.ones(cards)
    told_M = np.bincount(card_L, scored_L, cards)
    found: Floats = (told_M / usual + _FEW_CALLS) / (calls_M + _FEW_CALLS)
    return found


def requests_per_day(table: OutcomeGrid) -> float | None:
    """Requests a day, by when they were observed."""
    seen = table.more.get("observed_at")
    if seen is None:
        return None
    times = np.asarray(seen, dtype=np.float64)
    times = times[np.isfinite(times)]
    if len(times) < 2:
        return None
    # A clock that is wrong now and then must not stretch the log.
    first, last = np.quantile(times, [_CLOCKS, 1.0 - _CLOCKS])
    if last - first < 3600:
        return None
    return float((1.0 - 2.0 * _CLOCKS) * len(table) / ((last - first) / 86_400))
