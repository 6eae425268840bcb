"""Before and after, in a table and in a picture."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
from rich.console import Console
from rich.table import Table

from integrations.demo.arms import Arm, interval
from xrouter_lg.figures.bootstrap import Figure

PER = 1000
"""Requests that a shown cost is for."""


def show(
    console: Console, arms: Sequence[Arm], cards: Sequence[str], *, cost_weight: float, c_ref: float
) -> None:
    """One line per arm: quality, USD per thousand requests, utility, share per card."""
    table = Table(box=None, pad_edge=False)
    table.add_column(f"λ = {cost_weight:g}", no_wrap=True)
    for title in ("right", "95 %", f"USD/{PER}", "utility", *cards):
        table.add_column(title, justify="right", no_wrap=True)
    for arm in arms:
        score, cost = interval(arm.score), interval(arm.cost * PER)
        utility = interval(arm.utility(cost_weight, c_ref))
        table.add_row(
            arm.name,
            f"{score.value:.3f}",
            f"{score.low:.2f} … {score.high:.2f}",
            f"{cost.value:.4f}",
            f"{utility.value:.3f}",
            *(f"{arm.shares.get(card, 0.0):.0%}" for card in cards),
        )
    console.print(table)


def gains(
    arm: Arm, others: Sequence[Arm], *, cost_weight: float, c_ref: float
) -> dict[str, dict[str, Figure]]:
    """What ``arm`` gains over each other one, request by request, with paired intervals."""
    mine = arm.utility(cost_weight, c_ref)
    return {
        other.name: {
            "utility": interval(mine - other.utility(cost_weight, c_ref)),
            "score": interval(arm.score - other.score),
            "usd_saved_per_1000": interval((other.cost - arm.cost) * PER),
        }
        for other in others
    }


def show_gains(console: Console, name: str, found: Mapping[str, Mapping[str, Figure]]) -> None:
    """The gains as lines; an interval above zero is marked."""
    table = Table(box=None, pad_edge=False)
    table.add_column(f"{name} against", no_wrap=True)
    for title in ("utility", "right", f"USD/{PER} saved"):
        table.add_column(title, justify="right", no_wrap=True)
    for other, figures in found.items():
        mine = figures["utility"]
        table.add_row(
            other,
            f"{_signed(mine)} [{mine.low:+.3f}, {mine.high:+.3f}]",
            *(_signed(figure) for name, figure in figures.items() if name != "utility"),
        )
    console.print(table)


def write_json(
    path: Path,
    arms: Sequence[Arm],
    found: Mapping[str, Mapping[str, Figure]],
    *,
    facts: Mapping[str, Any],
) -> None:
    """Everything shown, for whoever reads it by program."""
    said = {
        **facts,
        "arms": [
            {
                "name": arm.name,
                "score": vars(interval(arm.score)),
                "usd_per_1000": vars(interval(arm.cost * PER)),
                "router_usd_per_1000": float(arm.router.mean() * PER),
                "shares": arm.shares,
            }
            for arm in arms
        ],
        "gains": {
            other: {name: vars(figure) for name, figure in figures.items()}
            for other, figures in found.items()
        },
    }
    path.write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")


def draw(path: Path, arms: Sequence[Arm], choices: Path) -> bool:
    """The dial of the checkpoint and every arm over mean cost, as a PNG; False where matplotlib
    is not installed."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure as Picture
    except ImportError:
        return False
    settings = (
        pl.scan_parquet(choices)
        .group_by("cost_weight")
        .agg(
            (pl.col("cost_usd") + pl.col("router_cost_usd")).mean().alias("usd"),
            pl.col("score").mean(),
        )
        .sort("usd")
        .collect()
    )
    picture = Picture(figsize=(7, 4.5), dpi=120, layout="constrained")
    FigureCanvasAgg(picture)
    axes = picture.add_subplot()
    axes.plot(settings["usd"] * PER, settings["score"], "o-", ms=3, label="checkpoint, its dial")
    for arm in arms:
        score = interval(arm.score)
        assert score.value is not None and score.low is not None and score.high is not None
        at = arm.cost.mean() * PER
        axes.errorbar(
            [at], [score.value], yerr=[[score.value - score.low], [score.high - score.value]],
            fmt="s", ms=5, capsize=2, label=arm.name,
        )  # fmt: skip
    axes.set_xlabel(f"USD per {PER} requests, the router's tokens included")
    axes.set_ylabel("share of right answers, held-out requests")
    axes.legend(fontsize="small")
    axes.grid(alpha=0.3)
    picture.savefig(path)
    return True


def _signed(figure: Figure) -> str:
    return f"{figure.value:+.4f}{' *' if figure.above() else '  '}"
