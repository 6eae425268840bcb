"""What a policy does at each cost weight, prompt by prompt: the one thing every metric reads."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from xrouter_lg.figures.hull import hull_of
from xrouter_lg.judge.table import Bools, Floats, Ints, Paired

DIAL: tuple[float, ...] = (0.0, *(float(x) for x in np.geomspace(0.004, 100.0, 23).round(6)))
"""Cost weights a curve is drawn with: from quality alone to cost alone, evenly in log λ."""


@dataclass(frozen=True)
class Predictions:
    """What an estimator expects of each model on each prompt, before anything was called."""

    quality: Floats
    """[N, M] expected score."""
    cost: Floats
    """[N, M] expected USD."""


@dataclass(frozen=True)
class Curve:
    """L settings of one policy on N prompts."""

    name: str
    cost_weight: Floats
    """[L], rising. For a set of points without a dial: their place in the set."""
    score: Floats
    """[L, N]; for a randomised policy the expectation over its coin."""
    cost: Floats
    """[L, N] USD, every call and the router's own tokens included."""
    choice: Ints | None = None
    """[L, N] column of the model taken; None when a setting takes several or tosses a coin."""
    router_cost: Floats | None = None
    """[L, N] USD of the router's own tokens, contained in `cost`."""

    def __post_init__(self) -> None:
        settings = len(self.cost_weight)
        for name in ("score", "cost", "choice", "router_cost"):
            values = getattr(self, name)
            if values is not None and (values.ndim != 2 or values.shape[0] != settings):
                raise ValueError(f"{name} has shape {values.shape}, expected ({settings}, N)")
        if self.score.shape != self.cost.shape:
            raise ValueError(f"scores {self.score.shape} and costs {self.cost.shape} differ")
        if settings == 0 or (np.diff(self.cost_weight) < 0).any():
            raise ValueError("a curve needs at least one cost weight, in rising order")

    @property
    def points(self) -> Floats:
        """[L, 2] mean (USD, score) per setting."""
        return np.stack([self.cost.mean(1), self.score.mean(1)], axis=1)

    def nearest(self, cost_weight: float) -> int:
        """The setting whose cost weight is closest."""
        return int(np.abs(self.cost_weight - cost_weight).argmin())


def choose(
    quality: Floats,
    cost: Floats,
    cost_weight: float,
    c_ref: float,
    candidates: Bools | None = None,
) -> Ints:
    """[N] argmax over models of quality − λ·cost / c_ref; among equals the cheaper.

    `quality` and `cost` are predictions, [N, M]; `c_ref` in USD turns λ into score units per
    reference cost. An infinite λ takes the cheapest. `candidates` [N, M] leaves out
    models prompt by prompt.
    """
    if c_ref <= 0:
        raise ValueError(f"c_ref must be a positive cost in USD, got {c_ref!r}")
    utility = -cost if np.isinf(cost_weight) else quality - cost_weight * cost / c_ref
    if candidates is not None:
        if not candidates.any(1).all():
            raise ValueError("a prompt has no candidate")
        utility = np.where(candidates, utility, -np.inf)
    best = utility.max(1, keepdims=True)
    # Equal up to rounding: otherwise the last bit of a product would decide who is paid.
    tied = utility >= best - 1e-12 * np.maximum(1.0, np.abs(best))
    picked: Ints = np.where(tied, cost, np.inf).argmin(1).astype(np.int64)
    return picked


def predicted_curve(
    name: str,
    predictions: Predictions,
    test: Paired,
    *,
    c_ref: float,
    dial: tuple[float, ...] = DIAL,
    router_cost: float = 0.0,
) -> Curve:
    """The curve of taking the best predicted model at each λ, paid at the test's true costs.

    `router_cost` is USD per request for the decision itself.
    """
    if predictions.quality.shape != test.score.shape:
        raise ValueError(f"predictions {predictions.quality.shape} for outcomes {test.score.shape}")
    rows = np.arange(len(test))
    choice = np.stack([choose(predictions.quality, predictions.cost, w, c_ref) for w in dial])
    own = np.full(choice.shape, router_cost)
    return Curve(
        name,
        np.array(dial),
        test.score[rows, choice],
        test.cost[rows, choice] + own,
        choice,
        own,
    )


def fixed_curve(test: Paired) -> Curve:
    """Every fixed model as a point; the hull of it is the zero router of the test half."""
    choice = np.repeat(np.arange(len(test.models))[:, None], len(test), axis=1)
    order = np.arange(len(test.models), dtype=np.float64)
    return Curve("fixed models", order, test.score.T.copy(), test.cost.T.copy(), choice)


def oracle_curve(test: Paired, *, c_ref: float, dial: tuple[float, ...] = DIAL) -> Curve:
    """Choosing with the outcomes in sight: a bound that no policy can reach (it reads luck)."""
    return predicted_curve(
        "oracle", Predictions(test.score, test.cost), test, c_ref=c_ref, dial=dial
    )


def random_curve(test: Paired) -> Curve:
    """A fair die over the models: one point, in expectation."""
    return Curve(
        "random", np.zeros(1), test.score.mean(1)[None, :].copy(), test.cost.mean(1)[None, :].copy()
    )


def static_mix_curve(
    train: Paired, test: Paired, *, dial: tuple[float, ...] | None = None
) -> Curve:
    """The fixed models on the train half's hull; mixtures of neighbours lie between them.

    Unlike the zero router, which knows the test half's hull, this one can be deployed. With a
    `dial` it is the best fixed model of the train half at each cost weight: the same vertices, in
    settings that other train halves share.
    """
    if dial is not None:
        shape = test.score.shape
        means = Predictions(
            np.broadcast_to(train.score.mean(0), shape), np.broadcast_to(train.cost.mean(0), shape)
        )
        c_ref = train.reference_cost()
        return predicted_curve("static mix", means, test, c_ref=c_ref, dial=dial)
    vertices = hull_of(train.cost.mean(0), train.score.mean(0))
    means_M_2 = np.stack([train.cost.mean(0), train.score.mean(0)], axis=1)
    at = [int(np.abs(means_M_2 - vertex).sum(1).argmin()) for vertex in vertices]
    choice = np.repeat(np.array(at, dtype=np.int64)[:, None], len(test), axis=1)
    order = np.arange(len(at), dtype=np.float64)
    return Curve("static mix", order, test.score[:, at].T, test.cost[:, at].T, choice)


def shuffled_curve(curve: Curve, test: Paired) -> Curve:
    """The policy's own choices dealt to the wrong prompts, in expectation over all deals.

    Each setting keeps its shares per model and loses only the knowledge of which prompt is
    which: what remains of its score is what it owes to buying dear models more often.
    """
    if curve.choice is None:
        raise ValueError(f"{curve.name!r} takes several models at once: its choices can't be dealt")
    models = np.arange(len(test.models))
    share = (curve.choice[:, :, None] == models).mean(1)
    own = np.zeros_like(curve.cost) if curve.router_cost is None else curve.router_cost
    return Curve(
        f"shuffle of {curve.name}",
        curve.cost_weight,
        share @ test.score.T,
        share @ test.cost.T + own,
        router_cost=curve.router_cost,
    )
