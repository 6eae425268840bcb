"""Small outcome grids whose figures can be worked out by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from xrouter_lg.arrays import Floats
from xrouter_lg.outcomes import OutcomeTable
from xrouter_lg.outcomes.grid import OutcomeGrid
from xrouter_lg.outcomes.schema import KEY


def make_grid(
    score: Sequence[Sequence[float]] | Floats,
    cost: Sequence[Sequence[float]] | Floats,
    *,
    prompts: Sequence[str] | None = None,
    families: Sequence[str] | None = None,
    models: Sequence[str] | None = None,
) -> OutcomeGrid:
    """A grid from nested lists or arrays; prompts, families and models are numbered if left out."""
    n, m = len(score), len(score[0])
    return OutcomeGrid(
        tuple((f"p{i}",) for i in range(n)),
        tuple(prompts) if prompts else tuple(f"prompt {i}" for i in range(n)),
        tuple(families) if families else ("all",) * n,
        tuple(models) if models else tuple(f"m{j}" for j in range(m)),
        np.array(score, dtype=float),
        np.array(cost, dtype=float),
    )


def two_task_grid() -> OutcomeGrid:
    """400 prompts: `adder` solves sums, `lookup` capitals, `large` both at ten times the price.

    Words alone tell the two families apart, so anything that reads can win here.
    """
    rng = np.random.default_rng(7)
    sums = rng.random(400) < 0.5
    numbers = rng.integers(10, 99, (400, 2))
    cities = ["france", "spain", "peru", "japan", "kenya", "chile"]
    prompts = tuple(
        f"add the numbers {a} and {b}" if s else f"what is the capital of {cities[a % 6]} {b}"
        for s, (a, b) in zip(sums, numbers, strict=True)
    )
    p = np.where(sums[:, None], [[0.9, 0.3, 0.9]], [[0.3, 0.9, 0.9]])
    score = (rng.random((400, 3)) < p).astype(float)
    cost = np.array([1.0, 1.1, 10.0]) * rng.uniform(0.8, 1.2, (400, 1)) * 1e-4
    return make_grid(
        score.tolist(),
        cost.tolist(),
        prompts=prompts,
        families=np.where(sums, "sums", "capitals").tolist(),
        models=("adder", "lookup", "large"),
    )


def content_of(table: OutcomeTable) -> tuple[tuple[Any, ...], ...]:
    """What a table says, whatever the order of its rows: outcomes, then texts."""
    outcomes = table.outcomes.select(*KEY, "model", "score", "cost_usd").collect()
    prompts = table.prompts.select(*KEY, "prompt").collect()
    return tuple(tuple(sorted(frame.rows(), key=str)) for frame in (outcomes, prompts))
