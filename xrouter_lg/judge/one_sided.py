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
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

import numpy as np

from xrouter_lg.arrays import Bools, Floats, Ints
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
    """What of the table is not counted, in words: outcomes of cards that can't be chosen, thumbs of
    a card to which users are not as they are to the others."""

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
        "left_out": (
            *(
                f"{count} scored outcomes of {name}, which can't be chosen, are left out"
                for name, count in table.omitted.strangers.items()
            ),
            *map(str, learned.unlike),
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
    gains = _Gains.of(learned, log, cost_weight, c_ref_usd, taken_N)
    proved = float(gains.proved.mean())
    over, over_fixed = gains.of_choice(gains.taken), gains.of_choice(gains.taken, gains.best)
    fixed_over = gains.of_choice(gains.best)
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


@dataclass(frozen=True)
class _Gains:
    """What is expected of the log's L requests by fits that have not seen them, and what the scores
    say beyond it."""

    log: LoggedCalls
    taken: Ints
    """[L] the cards that routing takes."""
    best: Ints
    """[L] the card that is counted on most for every request."""
    proved: Floats
    """[L] what the choice is counted on above the log's card."""
    utility_M: Floats
    """[L, M] expected."""
    beyond_M: Floats
    """[L, M] what a score is above the expected one, over the probability of seeing it; 0 where
    there is none."""
    own: Floats
    """[L] the same of the card that was called, whatever that probability was: when the log itself
    is what is compared with, its score is no draw but all of its value."""
    told: Bools
    """[L] requests that tell something: any of their scores was seen with a known probability."""
    folds: tuple[tuple[Ints, ValueModel, tuple[Floats, ...]], ...]
    """The requests of each part [L_part], the model that has not seen them, their shares."""

    @classmethod
    def of(
        cls,
        learned: FromLog,
        log: LoggedCalls,
        cost_weight: float,
        c_ref_usd: float,
        taken_N: Ints | None,
    ) -> Self:
        shares = learned.model.shares(learned.features.plane_N_P)
        taken = log.card.copy() if taken_N is None else taken_N[log.row]
        best = log.card.copy()
        proved = np.zeros(len(log.row))
        utility, mean = np.zeros((2, *log.score_M.shape))
        folds = []
        for chosen, fitted in learned.folds():
            part = np.flatnonzero(chosen[log.row])
            if not len(part):
                continue
            here = tuple(share[log.row[part]] for share in shares)
            expected = fitted.expect(here)
            sure = expected.utility(cost_weight, c_ref_usd)
            if taken_N is None:
                taken[part] = sure.argmax(1)
            best[part] = fitted.fixed(cost_weight, c_ref_usd)
            rows = np.arange(len(part))
            proved[part] = sure[rows, taken[part]] - sure[rows, log.card[part]]
            utility[part] = expected.utility(cost_weight, c_ref_usd, counted=False)
            mean[part] = expected.mean_N_M
            folds.append((part, fitted, here))
        beyond = (log.score_M - mean) / log.chance_M
        told = np.isfinite(beyond)
        own = np.where(told[log.own], (log.score_M - mean)[log.own], 0.0)
        return cls(
            log,
            taken,
            best,
            proved,
            utility,
            np.where(told, beyond, 0.0),
            own,
            told.any(1),
            tuple(folds),
        )

    def of_choice(self, one: Ints, other: Ints | None = None) -> EstimatedGain:
        """[L] cards over others; over those that the log called when None."""
        instead = self.log.card if other is None else other
        error = np.zeros(len(one))
        for part, fitted, shares in self.folds:
            error[part] = fitted.error(shares, one[part], instead[part])
        model = _figure(float(self._expected(one, other).mean()), float(error.mean()))
        return EstimatedGain(model, self._robust(one, other))

    def _expected(self, one: Ints, other: Ints | None) -> Floats:
        rows = np.arange(len(one))
        instead = self.log.card if other is None else other
        found: Floats = self.utility_M[rows, one] - self.utility_M[rows, instead]
        return found

    def _robust(self, one: Ints, other: Ints | None) -> Figure | None:
        if self.log.drawn < MIN_DRAWN or self.told.sum() < 2:
            return None
        rows = np.arange(len(one))
        minus = self.own if other is None else self.beyond_M[rows, other]
        beyond = (self.beyond_M[rows, one] - minus) / self.log.scored_L
        expected = self._expected(one, other)
        robust = (expected + beyond)[self.told]
        # What the scores say beyond the model is the mean over the requests that have some; the
        # model's part is of all: answers are bought of some kinds of request more than of others.
        value = float(expected.mean() + beyond[self.told].mean())
        return _figure(value, float(robust.std(ddof=1)) / math.sqrt(len(robust)))


def _figure(value: float, error: float) -> Figure:
    return Figure(value, value - SURE * error, value + SURE * error)
