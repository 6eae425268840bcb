"""Logs as files of an outcome table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from xrouter_lg.outcomes.grid import OutcomeGrid

_KEY = ("source", "task", "prompt_id")


def write_log(table: OutcomeGrid, folder: Path) -> Path:
    """The called cells of a grid, with what a log knows of them."""
    folder.mkdir()
    rows = [
        {
            **dict(zip(_KEY, table.keys[n], strict=True)),
            "model": table.models[m],
            "score": None if np.isnan(table.score[n, m]) else table.score[n, m],
            "cost_usd": table.cost[n, m],
            **{name: table.more[name][n, m] for name in ("propensity", "observed_at", "scored_by")},
        }
        for n, m in zip(*np.nonzero(np.isfinite(table.cost)), strict=True)
    ]
    pl.DataFrame(rows).write_parquet(folder / "outcomes.parquet")
    keys = [dict(zip(_KEY, key, strict=True)) for key in table.keys]
    prompts = [{**key, "prompt": text} for key, text in zip(keys, table.prompts, strict=True)]
    pl.DataFrame(prompts).write_parquet(folder / "prompts.parquet")
    return folder
