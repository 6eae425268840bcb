"""Is routing by what was learned better than what the log did? Where most outcomes are unknown.

A log shows one card's answer per request, and now and then others' that were bought. Routing by
what was learned leaves the card that is known in a family only where the other's lower bound (two
standard errors of what is known less of it) is above it. So the sum of these bounds is what is
proved, decision by decision. Two estimates of the whole gain stand beside it, both on requests that
the value model has not seen (five folds):

- **the value model's own**: expected utility of the card it takes less that of the card that was
  called, with the standard error of the cards' difference, all families' errors added up. Right
  where families hold all that decides; narrow where cards were asked. Its means are shrunk, so it
  rather understates a gain.
- **doubly robust** (Dudík et al. 2011, arXiv 1103.4601): the same plus what the scores say beyond
  it, over the probability with which they were seen: the logged propensity, or 1 where an answer
  was bought. Right where the propensities are; wide where the log hardly ever drew.

Routing is promoted where something is proved, a gain is expected, and the doubly robust estimate
does not rule it out. On logs made of real outcomes (docs/quality.md) that lost less, against the
log and against the best fixed card, than asking for an interval above zero, which holds what is
even where another card is far better. One card for every request is simpler: where routing is not
expected to beat it by a part of the standard error, that card is the conclusion, if it is shown to
beat the log, on thirty scored answers of its own at the least.

Without draws (a propensity below 1) and without bought answers nothing can correct the model: what
a log of rules shows of each card, it shows on the requests that the rules sent there. Then what is,
is held.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from xrouter_lg.arrays import Floats, Ints
from xrouter_lg.figures.bootstrap import Figure
from xrouter_lg.fitting.aged import CardChange
from xrouter_lg.fitting.from_log import FromLog
from xrouter_lg.judge.logged_calls import LoggedCalls, requests_per_day
from xrouter_lg.value.model import ValueModel
from xrouter_lg.value.overlap import SURE, Overlap, Unsettled, overlap_table, unsettled

MIN_SCORED = 100
"""Scored requests below which nothing is concluded."""
MIN_DRAWN = 10
"""Scored requests on which the card was drawn, or of which another card's answer is known, below
which the log counts as never having explored."""
_WORTH_ROUTING = 0.3
"""Standard errors by which routing has to be expected above one card for every request, where that
card is shown to beat the log."""
_TOLD = 30
"""Scored answers of a card, below which it is not the conclusion for every request."""

Use = Literal["checkpoint", "fixed", "as it is"]


@dataclass(frozen=True)
class EstimatedGain:
    """Utility of one way of choosing over another, per request, in score points."""

    model: Figure
    doubly_robust: Figure | None
    """None without draws."""

    @property
    def likely(self) -> bool:
        """Whether a gain is expected, and the draws do not rule it out."""
        robust = self.doubly_robust
        return robust is not None and (self.model.value or 0.0) > 0 and (robust.high or 0.0) > 0

    @property
    def expected(self) -> bool:
        """Whether the model expects a gain that is not nothing beside its error."""
        value = self.model.value or 0.0
        error = (value - (self.model.low or 0.0)) / SURE
        return value > _WORTH_ROUTING * error

    @property
    def above(self) -> bool:
        """Whether it is a gain beyond noise: both estimates are gains, one of them surely."""
        if self.doubly_robust is None:
            return False
        both = [self.model, self.doubly_robust]
        return all((one.value or 0.0) > 0 for one in both) and any(one.above() for one in both)

    def __str__(self) -> str:
        if self.doubly_robust is None:
            return f"{self.model} by the model"
        return f"{self.model} by the model, {self.doubly_robust} doubly robust"


@dataclass(frozen=True)
class Conclusion:
    """What to use at one cost weight, and why."""

    use: Use
    card: str | None
    """The card to use for every request, where that is the conclusion."""
    reason: str
    cost_weight: float
    c_ref_usd: float
    requests: int
    """In the log."""
    scored: int
    drawn: int
    """Scored requests whose card was drawn with a probability below 1, or of which another card's
    answer has a score as well."""
    fixed: str
    """The card that is counted on most."""
    proved: float
    """Sum of the decisions' own lower bounds over the log's, per request, score points."""
    over_log: EstimatedGain | None
    """Of the checkpoint. None where nothing could be estimated."""
    over_fixed: EstimatedGain | None
    fixed_over_log: EstimatedGain | None
    overlap: tuple[Overlap, ...]
    to_settle: tuple[Unsettled, ...]
    changes: tuple[CardChange, ...]
    """What of the log no longer holds."""
    left_out: tuple[str, ...] = ()
    """What of the table is of no card that can be chosen, in words."""

    @property
    def promote(self) -> bool:
        return self.use == "checkpoint"

    @property
    def worth_trying(self) -> bool:
        """Whether a small share of requests should find out: what the log can't rule out."""
        return self.over_log is not None and self.over_log.likely

    def to_json(self) -> dict[str, Any]:
        """As a manifest's ``verdict`` has it."""
        return {
            "promote": self.promote,
            "policy": "checkpoint",
            "use": self.card if self.use == "fixed" else self.use,
            "reasons": [
                self.reason,
                *map(str, self.changes),
                *self.left_out,
                *map(str, self.to_settle),
            ],
            **{k: v for k, v in asdict(self).items() if k not in ("use", "card", "reason")},
        }


def conclude_from_log(
    learned: FromLog,
    *,
    cost_weight: float,
    c_ref_usd: float | None = None,
    taken_N: Ints | None = None,
) -> Conclusion:
    """The conclusion from a table of which most outcomes are unknown: its value model was fitted to
    all of it, and is fitted again here without each fold in turn. ``c_ref_usd`` is the unit of the
    cost weight; the log's own when None. ``taken_N`` are the cards that a given checkpoint takes on
    the log's requests; None: what is learned here is judged, by fits that leave a part out."""
    table, model = learned.table, learned.model
    cards = table.cards
    c_ref_usd = learned.c_ref_usd if c_ref_usd is None else c_ref_usd
    log = LoggedCalls.of(table, learned.evidence)
    fixed = model.fixed(cost_weight, c_ref_usd)
    shared: dict[str, Any] = {
        "cost_weight": cost_weight,
        "c_ref_usd": c_ref_usd,
        "requests": len(log.row),
        "scored": log.scored,
        "drawn": log.drawn,
        "fixed": cards[fixed],
        "overlap": overlap_table(model, cards),
        "to_settle": unsettled(
            model, cards, cost_weight, c_ref_usd, requests_per_day=requests_per_day(table)
        ),
        "changes": learned.aged.changes,
        "left_out": tuple(
            f"{count} scored outcomes of {name}, which can't be chosen, are left out"
            for name, count in table.omitted.strangers.items()
        ),
    }
    if log.scored < MIN_SCORED:
        reason = (
            f"{log.scored} answers have a score; at least {MIN_SCORED} are needed. Ask users for "
            "feedback, name a verifier, or buy answers (`xrouter backfill`)"
        )
        return Conclusion(
            "as it is",
            None,
            reason,
            over_log=None,
            over_fixed=None,
            fixed_over_log=None,
            proved=0.0,
            **shared,
        )
    over, over_fixed, fixed_over, proved = _gains(learned, log, cost_weight, c_ref_usd, taken_N)
    use: Use = "as it is"
    card_wins = fixed_over.above and int(np.isfinite(log.score_M[:, fixed]).sum()) >= _TOLD
    if log.drawn < MIN_DRAWN:
        reason = log.unexplored
    elif (wrong := log.contradiction(cards)) is not None:
        reason = wrong
    elif proved > 0 and over.likely and (over_fixed.expected or not card_wins):
        shown = "shown" if over.above else "expected, not yet shown as a whole"
        use = "checkpoint"
        reason = (
            f"what its decisions prove one by one adds up to {proved:+.4f} per request; gain over "
            f"the log {over} ({shown}); over {cards[fixed]} for every request {over_fixed}"
        )
    elif card_wins:
        use = "fixed"
        reason = (
            f"routing is not expected to beat {cards[fixed]} for every request ({over_fixed}), "
            f"which is shown to beat the log: {fixed_over}. Serve policy='fixed:{cards[fixed]}'"
        )
    else:
        reason = f"nothing is expected to beat the log: routing {over}, proved {proved:+.4f}"
    return Conclusion(
        use,
        cards[fixed] if use == "fixed" else None,
        reason,
        over_log=over,
        over_fixed=over_fixed,
        fixed_over_log=fixed_over,
        proved=proved,
        **shared,
    )


def _gains(
    learned: FromLog, log: LoggedCalls, cost_weight: float, c_ref_usd: float, taken_N: Ints | None
) -> tuple[EstimatedGain, EstimatedGain, EstimatedGain, float]:
    """The model's choices over the log's and over its best fixed card, and that over the log; and
    what the choices prove one by one."""
    shares = learned.model.shares(learned.features.plane_N_P)
    gains = tuple(_Sums(log) for _ in range(3))
    proved = np.zeros(len(log.row))
    for chosen, fitted in learned.folds():
        own = np.flatnonzero(chosen[log.row])
        if not len(own):
            continue
        here = tuple(share[log.row[own]] for share in shares)
        expected = fitted.expect(here)
        sure = expected.utility(cost_weight, c_ref_usd)
        taken = sure.argmax(1) if taken_N is None else taken_N[log.row[own]]
        every = np.arange(len(own))
        proved[own] = sure[every, taken] - sure[every, log.card[own]]
        best = np.full(len(own), fitted.fixed(cost_weight, c_ref_usd))
        utility = expected.utility(cost_weight, c_ref_usd, counted=False)
        seen = _Fold(own, fitted, here, utility, expected.mean_N_M)
        called = log.card[own]
        for sums, one, other in zip(
            gains, (taken, taken, best), (called, best, called), strict=True
        ):
            sums.add(seen, one, other)
    policy, over_fixed, fixed = (sums.gain() for sums in gains)
    return policy, over_fixed, fixed, float(proved.mean())


@dataclass(frozen=True)
class _Fold:
    """What is expected of the log's requests of one fold."""

    own: Ints
    fitted: ValueModel
    shares: Sequence[Floats]
    utility_M: Floats
    mean_M: Floats


class _Sums:
    """The estimated gain of one choice over another, request by request."""

    def __init__(self, log: LoggedCalls) -> None:
        self._log = log
        self.model, self.error = np.zeros((2, len(log.row)))
        self.robust = np.full(len(log.row), np.nan)

    def add(self, seen: _Fold, one: Ints, other: Ints) -> None:
        rows = np.arange(len(seen.own))
        self.model[seen.own] = seen.utility_M[rows, one] - seen.utility_M[rows, other]
        self.error[seen.own] = seen.fitted.error(seen.shares, one, other)
        score, chance = self._log.score_M[seen.own], self._log.chance_M[seen.own]
        beyond = (score - seen.mean_M) / chance
        told = np.isfinite(beyond)
        beyond = np.where(told, beyond, 0.0)
        # A request tells where any of its scores was seen with a known probability. The log's own
        # choice is no draw when it is what is compared with: its score is all of its value.
        called = self._log.card[seen.own]
        own = np.where(told[rows, called], (score - seen.mean_M)[rows, called], 0.0)
        minus = np.where(other == called, own, beyond[rows, other])
        said = (beyond[rows, one] - minus) / self._log.scored_L[seen.own]
        robust = self.model[seen.own] + said
        self.robust[seen.own] = np.where(told.any(1), robust, np.nan)

    def gain(self) -> EstimatedGain:
        model = _figure(float(self.model.mean()), float(self.error.mean()))
        told = np.isfinite(self.robust)
        if self._log.drawn < MIN_DRAWN or told.sum() < 2:
            return EstimatedGain(model, None)
        # What the scores say beyond the model is the mean over the requests that have some; the
        # model's part is of all: answers are bought of some kinds of request more than of others.
        beyond = (self.robust - self.model)[told]
        error = float(self.robust[told].std(ddof=1)) / math.sqrt(int(told.sum()))
        value = float(self.model.mean() + beyond.mean())
        return EstimatedGain(model, _figure(value, error))


def _figure(value: float, error: float) -> Figure:
    return Figure(value, value - SURE * error, value + SURE * error)
