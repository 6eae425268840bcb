"""The choices of a checkpoint as a file: one row per prompt and cost weight (`score` reads it)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from xrouter_lg.checkpoints.manifest import Manifest
from xrouter_lg.figures.curve import DIAL, choose
from xrouter_lg.files import whole
from xrouter_lg.judge.estimates import Estimates
from xrouter_lg.judge.ragged import Ragged
from xrouter_lg.judge.score import COLUMNS, MIN_WEIGHTS
from xrouter_lg.judge.table import KEY

ROUTER_USD_PER_MILLION = 0.02
"""Price of the router's own tokens unless a dearer one was measured."""


def dial_of(manifest: Manifest, *extra: float) -> tuple[float, ...]:
    """The cost weights a checkpoint is run at: its own dial, or the judge's, and `extra` ones."""
    own = tuple(point.cost_weight for point in manifest.dial)
    weights = own if len(set(own)) >= MIN_WEIGHTS else DIAL
    return tuple(sorted({*weights, *extra}))


def make_choices(
    table: Ragged,
    estimates: Estimates,
    *,
    c_ref_usd: float,
    cost_weights: Sequence[float],
    router_usd_per_million: float = ROUTER_USD_PER_MILLION,
) -> pl.DataFrame:
    """What the checkpoint does with every prompt at every cost weight, paid as the table says.

    Rows by cost weight, then key; the columns of `score.COLUMNS` and `probability`, the expected
    score of the chosen model.
    """
    expected = estimates.of(table.cards)
    rows = np.arange(len(table))
    router = expected.tokens * router_usd_per_million / 1e6
    keys = {name: [key[part] for key in table.keys] for part, name in enumerate(KEY)}
    parts = []
    for weight in cost_weights:
        chosen = choose(expected.quality, expected.cost, weight, c_ref_usd, table.candidates)
        parts.append(
            pl.DataFrame(
                {
                    **keys,
                    "cost_weight": np.full(len(table), float(weight)),
                    "model": [table.models[m] for m in chosen],
                    "score": table.score[rows, chosen],
                    "cost_usd": table.cost[rows, chosen],
                    "router_cost_usd": router,
                    "probability": np.clip(expected.quality[rows, chosen], 0.0, 1.0),
                }
            )
        )
    return pl.concat(parts)


def write_choices(frame: pl.DataFrame, path: Path) -> None:
    """Write the columns of a choices file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as temporary:
        frame.select(COLUMNS).write_parquet(temporary, compression="zstd")
