"""The table of the data card: every family × model, score and cost."""

from __future__ import annotations

import polars as pl

from data.demo.record import MODELS
from training.outcomes import OutcomeTable


def family_table(table: OutcomeTable) -> str:
    """Markdown: mean score and mean USD per million answers of each model, and which models are
    worth their price at two cost weights.

    A model is worth its price where mean score − λ · mean cost / c_ref is the highest; c_ref is
    the mean cost of the best fixed model.
    """
    found = (
        table.outcomes.group_by("task", "model")
        .agg(pl.len().alias("n"), pl.col("score").mean(), pl.col("cost_usd").mean())
        .collect()
    )
    whole = table.outcomes.group_by("model").agg(pl.col("score").mean(), pl.col("cost_usd").mean())
    means = {m: (s, c) for m, s, c in whole.collect().iter_rows()}
    c_ref = max(means.values())[1]
    of = {(task, model): (n, score, cost) for task, model, n, score, cost in found.iter_rows()}
    lines = [
        f"| family | tasks | {' | '.join(MODELS)} | worth it, λ = 0.1 | λ = 0.5 |",
        f"|---|---:|{'---:|' * len(MODELS)}---|---|",
    ]
    for task in sorted({task for task, _ in of}):
        cells = [of[task, model] for model in MODELS]
        shown = " | ".join(f"{score:.2f} · {cost * 1e6:.0f}" for _, score, cost in cells)
        worth = [
            MODELS[max(range(len(cells)), key=lambda m: cells[m][1] - w * cells[m][2] / c_ref)]
            for w in (0.1, 0.5)
        ]
        lines.append(f"| {task} | {cells[0][0]} | {shown} | {' | '.join(worth)} |")
    shown = " | ".join(f"{means[m][0]:.2f} · {means[m][1] * 1e6:.0f}" for m in MODELS)
    lines.append(
        f"| **all** | {sum(of[t, MODELS[0]][0] for t, m in of if m == MODELS[0])} | {shown} | | |"
    )
    return "\n".join(lines)
