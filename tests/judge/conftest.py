"""Small tables whose figures can be worked out by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from xrouter_lg.judge.table import Paired

MakeTable = Callable[..., Paired]


@pytest.fixture
def make_table() -> MakeTable:
    """A table from scores and costs as nested lists, prompts and families numbered if left out."""

    def make(
        score: Sequence[Sequence[float]],
        cost: Sequence[Sequence[float]],
        *,
        prompts: Sequence[str] | None = None,
        families: Sequence[str] | None = None,
    ) -> Paired:
        n, m = len(score), len(score[0])
        return Paired(
            tuple(f"p{i}" for i in range(n)),
            tuple(prompts) if prompts else tuple(f"prompt {i}" for i in range(n)),
            tuple(families) if families else ("all",) * n,
            tuple(f"m{j}" for j in range(m)),
            np.array(score, dtype=float),
            np.array(cost, dtype=float),
        )

    return make


@pytest.fixture
def two_tasks() -> Paired:
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
    return Paired(
        tuple(f"p{i}" for i in range(400)),
        prompts,
        tuple(np.where(sums, "sums", "capitals").tolist()),
        ("adder", "lookup", "large"),
        score,
        cost,
    )
