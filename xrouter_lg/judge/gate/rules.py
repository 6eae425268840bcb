"""Promote or not, and in words why, and what to use instead.

The null hypothesis is "something simpler is at least as good at the user's cost weight λ":

    there is a comparator k with  E[u_policy] ≤ E[u_k],   u = score − λ · cost / c_ref.

Comparators: every fixed model, the policy's own choices shuffled, kNN, what is in production.
The policy must beat each of them with the lower end of a 95 % interval. That is an
intersection–union test (Berger 1982): its error is at most that of one of its parts, 2.5 %, with
no correction for the number of comparators; adding one costs power, never honesty. What does
inflate the error is judging many candidates, or one candidate many times, on the same test half:
say how many (`Rules.looks`), and the level is divided by it (Bonferroni).

Static mixes need no row of their own. A mixture's utility at λ is the mean of its parts', so who
beats every fixed model beats every mixture, and by geometry lies above the hull at its own cost.
The row "static mix" is therefore the hardest fixed model, chosen with the test half in view.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import NormalDist

import numpy as np

from xrouter_lg.arrays import Bools, Floats
from xrouter_lg.figures.bootstrap import Figure, bootstrap_means, figure
from xrouter_lg.figures.curve import Curve
from xrouter_lg.figures.dial import check_dial
from xrouter_lg.figures.metrics import Reference
from xrouter_lg.judge.gate.verdict import Gain, GateMeasures, GateVerdict, SliceResult, conclude
from xrouter_lg.outcomes.grid import OutcomeGrid

MIN_SLICE = 20
"""Prompts below which a slice's interval is not to be trusted."""


@dataclass(frozen=True)
class Contender:
    """What something does at the user's cost weight, on the test prompts."""

    name: str
    score: Floats
    """[N]"""
    cost: Floats
    """[N] USD, everything it spends."""

    @classmethod
    def of(cls, curve: Curve, cost_weight: float) -> Contender:
        at = curve.nearest(cost_weight)
        return cls(curve.name, curve.score[at], curve.cost[at])


@dataclass(frozen=True)
class Guard:
    """A slice of traffic that must not pay for the average: a family, a language, a tenant."""

    name: str
    members: Bools
    """[N]"""
    tolerance: float = 0.02
    """Utility it may lose."""
    strict: bool = False
    """Block unless shown safe, instead of when shown harmed. Needs a large slice."""


@dataclass(frozen=True)
class Rules:
    cost_weight: float
    """The user's λ."""
    looks: int = 1
    """Candidates judged on this test half so far, this one included."""
    alpha: float = 0.05
    """Two-sided level of the intervals, before it is divided by `looks`."""
    draws: int = 2000
    seed: int = 0
    guards: Sequence[Guard] = field(default_factory=tuple)

    def __post_init__(self) -> None:
        if self.looks < 1:
            raise ValueError(f"looks counts this candidate too, so at least 1: {self.looks!r}")
        if self.cost_weight < 0:
            raise ValueError(f"a cost weight is not negative, got {self.cost_weight!r}")


def judge(
    policy: Curve,
    test: OutcomeGrid,
    reference: Reference,
    rules: Rules,
    *,
    knn: Contender,
    production: Contender | None = None,
) -> GateVerdict:
    """The verdict on a policy's curve over the test half.

    The setting at `rules.cost_weight` is judged; a curve without one raises ValueError, so that no
    policy is judged at a λ it was not run at. The comparators' curves come from the same λ.
    """
    at = _setting(policy, rules)
    unit = rules.cost_weight / reference.c_ref
    level = 1 - rules.alpha / rules.looks
    others = [("kNN", knn), *([("production", production)] if production else [])]

    mine = policy.score[at] - unit * policy.cost[at]
    fixed = (test.score - unit * test.cost).T
    rest = [arm.score - unit * arm.cost for _, arm in others]
    taken = _indicators(policy, at, len(test.models))
    stacked = np.vstack([mine, fixed, *rest, *taken])
    means = bootstrap_means(stacked, draws=rules.draws, seed=rules.seed)
    widths = np.cumsum([1, len(fixed), len(rest)])
    ours, models, extra, shares = np.split(means, widths, axis=1)

    def over(kind: str, name: str | None, utility: Floats) -> Gain:
        return Gain(kind, name, figure(ours[:, 0] - utility, level=level), float(utility[0]))

    every = [over("static mix", test.models[m], models[:, m]) for m in range(len(fixed))]
    hardest = min(every, key=lambda row: -np.inf if row.gain.low is None else row.gain.low)
    best = reference.best_fixed
    gains = [over("best fixed", test.models[best], models[:, best]), hardest]
    if taken:
        # Shares are recomputed in every draw: the drawn choices are what is dealt again.
        own = 0.0 if policy.router_cost is None else unit * float(policy.router_cost[at].mean())
        gains.append(over("cost-matched shuffle", None, (shares * models).sum(1) - own))
    gains += [over(kind, arm.name, extra[:, k]) for k, (kind, arm) in enumerate(others)]

    named = _simplest(models, extra, level, [kind for kind, _ in others])
    if named is None:
        favourite = int(models[0].argmax())
        instead, utility = f"the fixed model {test.models[favourite]}", fixed[favourite]
    else:
        instead, utility = others[named][1].name, rest[named]
    return conclude(
        GateMeasures(
            policy=policy.name,
            cost_weight=rules.cost_weight,
            prompts=len(test),
            utility=float(mine.mean()),
            gains=tuple(gains),
            slices=_slices(mine - utility, rules.guards),
            dial=check_dial(policy),
            instead=instead,
            level=level,
        )
    )


def _setting(policy: Curve, rules: Rules) -> int:
    at = policy.nearest(rules.cost_weight)
    nearest = float(policy.cost_weight[at])
    if not np.isclose(nearest, rules.cost_weight, rtol=0.01):
        raise ValueError(
            f"{policy.name!r} has no setting at cost weight {rules.cost_weight!r}; the nearest is "
            f"{nearest!r}: include the user's cost weight in its curve"
        )
    return at


def _indicators(policy: Curve, at: int, models: int) -> list[Floats]:
    """Per model, 1 where it was taken; nothing when a setting takes several."""
    if policy.choice is None:
        return []
    return [(policy.choice[at] == m).astype(np.float64) for m in range(models)]


def _simplest(models: Floats, extra: Floats, level: float, kinds: Sequence[str]) -> int | None:
    """Which alternative to name: a column of `extra`, or None for the best fixed model.

    The simplest that no other beats beyond noise; what runs already counts as simplest.
    """
    named, held = None, models[:, int(models[0].argmax())]
    for column, kind in enumerate(kinds):
        ahead = extra[:, column] - held
        # A fixed model or kNN must show that it is better than production to replace it.
        takes = (
            not figure(-ahead, level=level).above()
            if kind == "production"
            else figure(ahead, level=level).above()
        )
        if takes:
            named, held = column, extra[:, column]
    return named


def _slices(difference: Floats, guards: Sequence[Guard]) -> tuple[SliceResult, ...]:
    """Paired utility of the policy over the alternative, per guarded slice.

    One-sided at 5 % over all slices together (Bonferroni), or a policy that harms nobody would
    be blocked by one of many small slices. What a slice's size could have shown is reported.
    """
    z = NormalDist().inv_cdf(1 - 0.05 / max(len(guards), 1))
    z_power = NormalDist().inv_cdf(0.8)
    results = []
    for guard in guards:
        values = difference[guard.members]
        n = len(values)
        if n < MIN_SLICE:
            results.append(SliceResult(guard.name, n, None, guard.tolerance, "too small", None))
            continue
        error = float(values.std(ddof=1) / np.sqrt(n))
        mean = float(values.mean())
        interval = Figure(mean, mean - z * error, mean + z * error)
        if mean + z * error < -guard.tolerance:
            status = "harmed"
        elif mean - z * error >= -guard.tolerance:
            status = "safe"
        else:
            status = "not shown safe" if guard.strict else "unclear"
        detectable = guard.tolerance + (z + z_power) * error
        results.append(SliceResult(guard.name, n, interval, guard.tolerance, status, detectable))
    return tuple(results)
