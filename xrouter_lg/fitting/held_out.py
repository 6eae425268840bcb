"""Figures of a new checkpoint on prompts that it has not learned from: what its manifest says."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from xrouter_lg.arrays import Floats, Ints
from xrouter_lg.checkpoints.parts import DialPoint
from xrouter_lg.figures.bootstrap import figure
from xrouter_lg.figures.curve import Curve, Predictions, choose, predicted_curve
from xrouter_lg.figures.metrics import Reference, evaluate, weighted_gain
from xrouter_lg.outcomes.grid import OutcomeGrid
from xrouter_lg.policies.utility import Predictor


@dataclass(frozen=True)
class PoolPart:
    """A pool: prompts that share their candidates."""

    sources: tuple[str, ...]
    """Empty for the whole of a table without pools."""
    train: OutcomeGrid
    test: OutcomeGrid
    rows: Ints
    """Of the whole test table, those of ``test``."""
    columns: Ints
    """Of its models."""

    def of(self, expected: Predictions) -> Predictions:
        """The part's own of what is expected on the whole test table."""
        at = np.ix_(self.rows, self.columns)
        return Predictions(expected.quality[at], expected.cost[at])


def parts_of(train: OutcomeGrid, test: OutcomeGrid) -> tuple[PoolPart, ...]:
    """A part for each pool; the one part of a table whose prompts all have the same candidates."""
    if not test.declared:
        return (PoolPart((), train, test, np.arange(len(test)), np.arange(len(test.models))),)
    return tuple(
        PoolPart(pool.sources, learned, own, pool.rows, test.columns(pool.models))
        for learned, own, pool in zip(train.parts(), test.parts(), test.pools(), strict=True)
    )


def expected_of(
    predictor: Predictor,
    prompts: Sequence[str],
    prompt_tokens_N: Floats,
    contrast_N_M: Floats | None = None,
) -> tuple[Floats, Floats]:
    """What serving expects of every card on N prompts: score [N, M], and cost over the card's
    mean cost [N, M]. It is serving's own function, prompt by prompt. ``contrast_N_M`` is NaN for
    cards that the language model did not read on a prompt; None where there is no such model."""
    names = [card.name for card in predictor.cards]
    shape = (len(prompts), len(names))
    quality, ratio = np.empty(shape), np.empty(shape)
    for row, text in enumerate(prompts):
        contrasts: dict[str, float] = {}
        if contrast_N_M is not None:
            values = zip(names, contrast_N_M[row].tolist(), strict=True)
            contrasts = {name: value for name, value in values if math.isfinite(value)}
        found = predictor.expectations(contrasts, text, round(prompt_tokens_N[row]))
        quality[row], ratio[row] = ([of[name] for name in names] for of in found)
    return quality, ratio


def held_out(
    parts: Sequence[PoolPart],
    expected: Predictions,
    router_usd_P: Sequence[float],
    c_ref_usd: float,
) -> dict[str, Any]:
    """The figures of decisions on held-out prompts. With several pools there is a set of them for
    each, and the gain over all, weighted by their prompts. ``router_usd_P`` is what a decision
    costs in each pool."""
    judged = [
        (*_judged(part, part.of(expected), router_usd, c_ref_usd), part)
        for part, router_usd in zip(parts, router_usd_P, strict=True)
    ]
    if not parts[0].sources:  # the whole table, which names no pools
        ((curve, reference, part),) = judged
        return figures_of(curve, part.test, reference)
    found = [
        {"sources": list(part.sources), **figures_of(curve, part.test, reference)}
        for curve, reference, part in judged
    ]
    gain = weighted_gain([(curve, part.test, reference) for curve, reference, part in judged])
    return {"gain_over_zero_router": dataclasses.asdict(figure(gain)), "pools": found}


def _judged(
    part: PoolPart, expected: Predictions, router_usd: float, c_ref: float
) -> tuple[Curve, Reference]:
    reference = dataclasses.replace(Reference.of(part.train), c_ref=c_ref)
    curve = predicted_curve("checkpoint", expected, part.test, c_ref=c_ref, router_cost=router_usd)
    return curve, reference


def figures_of(curve: Curve, test: OutcomeGrid, reference: Reference) -> dict[str, Any]:
    """What a manifest keeps of a curve's figures."""
    figures = evaluate(curve, test, reference)
    return {
        "aiq": dataclasses.asdict(figures.aiq),
        "gain_over_zero_router": dataclasses.asdict(figures.gain),
        "parity_share": dataclasses.asdict(figures.parity_share),
    }


def dial_points(
    quality_N_M: Floats,
    expected_usd_N_M: Floats,
    score_N_M: Floats,
    cost_usd_N_M: Floats,
    c_ref_usd: float,
    cost_weights: Sequence[float],
) -> tuple[DialPoint, ...]:
    """What each cost weight gives on held-out outcomes; a card without one (NaN) is not chosen."""
    points = []
    known_N_M = np.isfinite(score_N_M)
    rows = np.arange(len(score_N_M))
    for weight in cost_weights:
        chosen = choose(quality_N_M, expected_usd_N_M, weight, c_ref_usd, known_N_M)
        counts = np.bincount(chosen, minlength=score_N_M.shape[1])
        points.append(
            DialPoint(
                cost_weight=float(weight),
                quality=float(score_N_M[rows, chosen].mean()),
                cost_usd=float(cost_usd_N_M[rows, chosen].mean()),
                largest_share=float(counts.max() / len(rows)),
            )
        )
    return tuple(points)
