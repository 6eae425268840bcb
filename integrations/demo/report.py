"""The closing table, and the same as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from integrations.demo.arms import Arm, interval
from integrations.demo.workers import CARDS
from xrouter_lg.figures.bootstrap import Figure

PER = 1000
"""Requests that a shown cost is for."""


@dataclass(frozen=True)
class Unit:
    """How scores and money are weighed against each other."""

    cost_weight: float
    """λ"""
    c_ref: float
    """USD per request that the weight is for."""


Gains = Mapping[str, Mapping[str, Figure]]
"""Of one arm, by the arm that it is compared with."""


def show(console: Console, title: str, arms: Sequence[Arm], unit: Unit) -> None:
    """One line per arm: quality, USD per thousand requests, utility, share per card."""
    table = Table(box=None, pad_edge=False)
    table.add_column(title, no_wrap=True)
    for column in ("right", "95 %", f"USD/{PER}", "utility", *CARDS):
        table.add_column(column, justify="right", no_wrap=True)
    for arm in arms:
        score, cost = interval(arm.score), interval(arm.cost * PER)
        utility = interval(arm.utility(unit.cost_weight, unit.c_ref))
        table.add_row(
            arm.name,
            f"{score.value:.3f}",
            f"{score.low:.2f} … {score.high:.2f}",
            f"{cost.value:.4f}",
            f"{utility.value:.3f}",
            *(f"{arm.shares.get(card, 0.0):.0%}" for card in CARDS),
        )
    console.print(table)


def gains(arm: Arm, others: Sequence[Arm], unit: Unit) -> Gains:
    """What ``arm`` gains over each other one, request by request, with paired intervals."""
    mine = arm.utility(unit.cost_weight, unit.c_ref)
    return {
        other.name: {
            "utility": interval(mine - other.utility(unit.cost_weight, unit.c_ref)),
            "score": interval(arm.score - other.score),
            "usd_saved_per_1000": interval((other.cost - arm.cost) * PER),
        }
        for other in others
    }


def show_gains(console: Console, name: str, found: Gains) -> None:
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
            *(_signed(figure) for kind, figure in figures.items() if kind != "utility"),
        )
    console.print(table)


def as_json(arms: Sequence[Arm], found: Mapping[str, Gains], unit: Unit) -> dict[str, Any]:
    """Everything shown, for whoever reads it by program; ``found`` by the arm that gains."""
    return {
        "arms": [
            {
                "name": arm.name,
                "score": vars(interval(arm.score)),
                "usd_per_1000": vars(interval(arm.cost * PER)),
                "utility": vars(interval(arm.utility(unit.cost_weight, unit.c_ref))),
                "shares": arm.shares,
            }
            for arm in arms
        ],
        "gains": {
            name: {
                other: {kind: vars(figure) for kind, figure in figures.items()}
                for other, figures in gained.items()
            }
            for name, gained in found.items()
        },
    }


def _signed(figure: Figure) -> str:
    return f"{figure.value:+.4f}{' *' if figure.above() else '  '}"
