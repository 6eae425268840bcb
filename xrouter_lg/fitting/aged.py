"""What a log tells that is no longer true: cards that became others, prices that moved, and
outcomes that have aged.

A card whose provider says that another model answers now is another card: little is left of what
was known of it. One whose scores have shifted without a word is taken for one, too
(:mod:`xrouter_lg.value.change`). Costs of before a price change are counted at the new one. What is
left fades by the half-life by which outcomes foretell later ones best; by none, where none is
clearly better than to forget nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np
from scipy.optimize import nnls

from xrouter_lg.arrays import Bools, Floats, Ints
from xrouter_lg.outcomes.grid import OutcomeGrid
from xrouter_lg.value.change import (
    best_half_life,
    faded,
    find_change,
    residuals,
    since_change,
)
from xrouter_lg.value.evidence import Evidence, told
from xrouter_lg.value.model import ValueModel

_HAZARD = 1 / 1000
"""Chance of a silent change per observation: a log is tested once, not after every few thumbs."""
_MIXED = 0.1
"""Share of earlier answers by the newest model from which a card's name stands for several models
at once, and none of them is new."""
_MOVED = 0.1
"""Change of the cost of a token, as a share, that is a new price."""
_NEW_PRICE = 3
"""Answers at another price than ever before that make it a new one."""
_FEW = 20
"""Answers below which those at one price have to be unlike nearly all at the other."""
_ROUNDED = 0.02
"""What rounding may change in the logarithm of a token's cost."""
_STEADY = 1e-4
"""Variance of the logarithm of a token's cost that rounding makes, at the least."""


@dataclass(frozen=True)
class CardChange:
    """A card is no longer what it was."""

    card: str
    since: float
    """Unix seconds."""
    kind: Literal["served model", "scores", "price"]
    size: float | None
    """By how much its score moved, or its cost was multiplied; None for a served model."""
    said: str

    def __str__(self) -> str:
        return f"{self.card} since {datetime.fromtimestamp(self.since, UTC):%Y-%m-%d %H:%M}: " + (
            self.said
        )


@dataclass(frozen=True)
class Aged:
    """What is left of a log."""

    evidence: Evidence
    cost_N_M: Floats
    """USD, at the newest prices."""
    changes: tuple[CardChange, ...]
    half_life_s: float | None


def aged(table: OutcomeGrid, evidence: Evidence, model: ValueModel) -> Aged:
    """What still holds. ``model`` was fitted to all of it. Of a log without times nothing is said
    to have changed."""
    at_R = told(table, "observed_at", evidence.prompt_R, evidence.card_R)
    cost, moved = _at_new_prices(table)
    if not np.isfinite(at_R).any():
        return Aged(evidence, cost, moved, None)
    served = tuple(_new_models(table))
    since_M = _since(table, served)
    shifted = tuple(_shifted(table, evidence, at_R, model, since_M))
    since_M = np.maximum(since_M, _since(table, shifted))
    left = since_change(evidence, at_R, since_M)
    first = model.partitions[0]
    dated = np.isfinite(at_R)
    half_life = best_half_life(left.of_rows(dated), at_R[dated], first.family_N, len(first.names))
    return Aged(faded(left, at_R, half_life), cost, (*served, *shifted, *moved), half_life)


def _since(table: OutcomeGrid, changes: tuple[CardChange, ...]) -> Floats:
    """[M] when each card last changed; minus infinity for never."""
    found = np.full(len(table.cards), -np.inf)
    for change in changes:
        at = table.cards.index(change.card)
        found[at] = max(found[at], change.since)
    return found


def _in_time(table: OutcomeGrid, card: int, there: Bools) -> tuple[Ints, Floats]:
    """Prompts of a card for which something is ``there`` [N], the oldest first, and when."""
    rows = np.flatnonzero(there)
    at_R = told(table, "observed_at", rows, np.full(len(rows), card, dtype=np.int64))
    order = np.argsort(at_R, kind="stable")
    order = order[np.isfinite(at_R[order])]
    return rows[order], at_R[order]


def _new_models(table: OutcomeGrid) -> Iterator[CardChange]:
    """Cards behind which another model answers than before."""
    names: Any = table.more.get("served_model")
    if names is None:
        return
    for card, name in enumerate(table.cards):
        by_N = names[:, card]
        rows, at = _in_time(table, card, np.array([isinstance(by, str) for by in by_N]))
        if not len(rows):
            continue
        newest = np.array([by_N[row] == by_N[rows[-1]] for row in rows])
        others = np.flatnonzero(~newest)
        if not len(others) or newest[: others[-1] + 1].mean() > _MIXED:
            continue
        before = Counter(str(by_N[rows[i]]) for i in others).most_common(1)[0][0]
        yield CardChange(
            name,
            float(at[others[-1] + 1]),
            "served model",
            None,
            f"answers as {by_N[rows[-1]]}, before as {before}; what was known of it counts little",
        )


def _shifted(
    table: OutcomeGrid, evidence: Evidence, at_R: Floats, model: ValueModel, since_M: Floats
) -> Iterator[CardChange]:
    """Cards whose scores are others than they were, though nobody said that they changed."""
    expected_R = np.mean(
        [
            posterior.mean_F_M[own.family_N[evidence.prompt_R], evidence.card_R]
            for own, posterior in zip(model.partitions, model.posteriors, strict=True)
        ],
        axis=0,
    )
    residual_R, variance_R = residuals(evidence, expected_R)
    judged_R = _by_one_judge(table, evidence)
    for card, name in enumerate(table.cards):
        own = judged_R & (evidence.card_R == card) & (at_R >= since_M[card])
        rows = np.flatnonzero(own)
        rows = rows[np.argsort(at_R[rows], kind="stable")]
        found = find_change(residual_R[rows], variance_R[rows], hazard=_HAZARD)
        if found.alarm:
            yield CardChange(
                name,
                float(at_R[rows[found.at]]),
                "scores",
                found.size,
                f"scores {found.size:+.2f} against before (probability {found.probability:.2f}); "
                "what was known of it counts little",
            )


def _by_one_judge(table: OutcomeGrid, evidence: Evidence) -> Bools:
    """[R] the log's own answers, by whoever scored most of the card's: a verifier that is stricter
    than users, and came later, is no change of the card. What was bought was chosen, kind after
    kind: its order in time is no history of a card."""
    logged_R = np.isfinite(evidence.propensity_R)
    found = logged_R if logged_R.any() else np.ones(len(evidence), dtype=np.bool_)
    by = table.more.get("scored_by")
    if by is None:
        return found
    name_R = np.array(
        [str(by[p, c]) for p, c in zip(evidence.prompt_R, evidence.card_R, strict=True)]
    )
    for card in np.unique(evidence.card_R[found]):
        own = found & (evidence.card_R == card)
        usual = Counter(name_R[own].tolist()).most_common(1)[0][0]
        found = found & ~(own & (name_R != usual))
    return found


def _at_new_prices(table: OutcomeGrid) -> tuple[Floats, tuple[CardChange, ...]]:
    """[N, M] costs with those of before a price change counted at the new one."""
    tokens = [table.more.get(name) for name in ("input_tokens", "output_tokens")]
    if tokens[0] is None or tokens[1] is None:
        return table.cost, ()
    used_N_M_2 = np.stack([np.asarray(one, dtype=np.float64) for one in tokens], axis=-1)
    known = (table.cost > 0) & np.isfinite(used_N_M_2).all(-1) & (used_N_M_2.sum(-1) > 0)
    cost, changes = table.cost.copy(), []
    for card, name in enumerate(table.cards):
        rows, at = _in_time(table, card, known[:, card])
        if len(rows) < 2:
            continue
        rate = _rate(used_N_M_2[rows, card], table.cost[rows, card])
        noise = max(float(np.median(np.abs(np.diff(rate)))) ** 2, _STEADY)
        found = find_change(
            rate - float(np.median(rate)),
            np.full(len(rate), noise),
            hazard=_HAZARD,
            least=_NEW_PRICE,
        )
        size = _moved(rate, found.at)
        if not found.alarm or abs(size) < np.log1p(_MOVED):
            continue
        since, factor = float(at[found.at]), float(np.exp(size))
        cost[rows[: found.at], card] *= factor
        changes.append(
            CardChange(
                name, since, "price", factor, f"a token costs × {factor:.2f} of what it did before"
            )
        )
    return cost, tuple(changes)


def _moved(rate_R: Floats, at: int) -> float:
    """By how much the usual rate moved there; 0 where either side has few answers, and they are
    like some of the other's. The usual one: a prompt cache makes answers cheap, now and then."""
    before, after = rate_R[:at], rate_R[at:]
    few, many = sorted((before, after), key=len)
    if not len(few):
        return 0.0
    if len(few) < _FEW:
        alike = (many >= few.min() - _ROUNDED) & (many <= few.max() + _ROUNDED)
        if alike.mean() > _MIXED / 2:
            return 0.0
    return float(np.median(after) - np.median(before))


def _rate(used_R_2: Floats, usd_R: Floats) -> Floats:
    """[R] logarithm of what was paid over what the same tokens usually cost: the prices of an input
    and an output token are those that fit best, in shares of what was paid."""
    price, _ = nnls(used_R_2 / usd_R[:, None], np.ones(len(usd_R)))
    usual = np.maximum(used_R_2 @ price, 1e-300)
    found: Floats = np.log(usd_R / usual)
    return found
