"""The figures of :mod:`benchmarks.experiments.fresh_feedback.study`, out of its results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

ARMS = ("constant", "logs", "grpo", "continued", "refit", "random", "full", "recent")
_DRAWS = 2000


def difference(
    results: Sequence[Mapping[str, Any]], rule: str, arm: str, other: str
) -> tuple[float, float, float]:
    """Mean utility of ``arm`` less that of ``other`` with its 95 % interval: paired, prompts drawn
    with all of the splits that hold them out."""
    both = {
        name: {e["split"]: e for e in results if e["rule"] == rule and e["arm"] == name}
        for name in (arm, other)
    }
    shared = sorted(both[arm].keys() & both[other].keys())
    if not shared:
        raise ValueError(f"{rule}: no split has both {arm!r} and {other!r}")
    row_B = np.concatenate([both[arm][s]["test"] for s in shared])
    gap_B = np.concatenate(
        [np.subtract(both[arm][s]["utility_T"], both[other][s]["utility_T"]) for s in shared]
    )
    _, place_B = np.unique(row_B, return_inverse=True)
    total_P, count_P = np.bincount(place_B, weights=gap_B), np.bincount(place_B)
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, len(count_P), (_DRAWS, len(count_P)))
    means = total_P[drawn].sum(1) / count_P[drawn].sum(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(gap_B.mean()), float(low), float(high)


def summary(results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row per rule and arm: means over the splits, and what it adds to the logs and to GRPO."""
    rows = []
    for rule in dict.fromkeys(e["rule"] for e in results):
        done = {e["arm"] for e in results if e["rule"] == rule}
        for arm in (arm for arm in ARMS if arm in done):
            own = [e for e in results if (e["rule"], e["arm"]) == (rule, arm)]
            row = {
                "rule": rule,
                "arm": arm,
                "splits": len(own),
                "utility": float(np.mean([np.mean(e["utility_T"]) for e in own])),
                "gain": float(np.mean([e["gain"] for e in own])),
                "seconds": float(np.mean([e["seconds"] for e in own])),
            }
            for other in ("logs", "grpo"):
                if other != arm and other in done:
                    row[f"over_{other}"] = difference(results, rule, arm, other)
            if all("bought" in e for e in own):
                row["outcomes"] = float(np.mean([len(e["bought"]) for e in own]))
                row["usd"] = float(np.mean([e["bought_usd"] for e in own]))
            rows.append(row)
    return rows


def show(rows: Sequence[Mapping[str, Any]], console: Console) -> None:
    """The summary as a table."""
    table = Table(title="held-out prompts, mean utility over the dial", title_justify="left")
    table.add_column("logs")
    table.add_column("arm")
    table.add_column("splits", justify="right")
    for column in ("utility", "over the logs", "over GRPO", "AIQ gain", "outcomes", "USD", "s"):
        table.add_column(column, justify="right")

    def signed(found: Sequence[float] | None) -> str:
        if found is None:
            return ""
        return f"{found[0]:+.4f} [{found[1]:+.4f}, {found[2]:+.4f}]"

    for row in rows:
        table.add_row(
            row["rule"],
            row["arm"],
            str(row["splits"]),
            f"{row['utility']:.4f}",
            signed(row.get("over_logs")),
            signed(row.get("over_grpo")),
            f"{row['gain']:+.4f}",
            f"{row['outcomes']:.0f}" if "outcomes" in row else "",
            f"{row['usd']:.4f}" if "usd" in row else "",
            f"{row['seconds']:.0f}",
        )
    console.print(table)
