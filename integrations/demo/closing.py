"""Who was right: the only place where recorded truth is looked at by itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from rich.console import Console

from integrations.demo import report
from integrations.demo.arms import Arm, Truth
from integrations.demo.questions import History
from integrations.demo.replay import RecordedModels
from integrations.demo.report import Gains, Unit
from integrations.demo.workers import CARDS
from xrouter_lg.files import write_json

BEFORE, AFTER, RULES = "before the swap", "after the swap", "rules"
ARMS = {BEFORE: (RULES, "night 1", "night 2"), AFTER: (RULES, "night 2", "night 3")}
"""What is measured in which world; the last of each is compared with all others."""
_SHOWN = {RULES: "day-one rules"}


def routes(world: str, name: str) -> str:
    """Under what name the routes are kept that something took in a world."""
    return f"{world}: {name}"


class Closing:
    """Every arm in both worlds."""

    def __init__(
        self,
        history: History,
        swap: Mapping[str, str],
        cost_weight: float,
        kept: Callable[[str], Any],
    ) -> None:
        """``swap``: model → the one that answers under its name afterwards; ``kept`` gives the
        routes by :func:`routes`, each by prompt id."""
        self.history, self._kept = history, kept
        self._models = {
            BEFORE: RecordedModels(history),
            AFTER: RecordedModels(history, dict(swap)),
        }
        dearest = list(CARDS)[-1]
        c_ref = Truth.of(self._models[BEFORE], history.seen).cost[dearest].mean()
        self.unit = Unit(cost_weight, float(c_ref))

    @cached_property
    def arms(self) -> dict[str, list[Arm]]:
        """By world: each card for all, what was measured, and the last one's shuffle."""
        found = {}
        for world, names in ARMS.items():
            truth = Truth.of(self._models[world], self.history.held_out)
            measured = [self._arm(truth, world, name) for name in names]
            found[world] = [*truth.fixed(), *measured, truth.shuffled(measured[-1])]
        return found

    def _arm(self, truth: Truth, world: str, name: str) -> Arm:
        taken = self._kept(routes(world, name))
        shown = _SHOWN.get(name, f"after {name}")
        return truth.arm(shown, [taken[q.prompt_id] for q in self.history.held_out])

    @cached_property
    def gains(self) -> dict[str, Gains]:
        """By world, of its last measured arm over every other."""
        return {
            world: report.gains(arms[-2], [*arms[:-2][::-1], arms[-1]], self.unit)
            for world, arms in self.arms.items()
        }

    @property
    def won(self) -> bool:
        """Whether what serves at the end is worth more than the rules, beyond chance."""
        return self._shown(AFTER)

    def _shown(self, world: str) -> bool:
        return self.gains[world][_SHOWN[RULES]]["utility"].above()

    def show(self, console: Console) -> None:
        for world, arms in self.arms.items():
            console.print()
            report.show(console, world, arms, self.unit)
            console.print()
            report.show_gains(console, arms[-2].name, self.gains[world])
        console.print()
        for world, names in ARMS.items():
            said = "is" if self._shown(world) else "is [bold]not[/] shown to be"
            console.print(
                f"[bold]{world.capitalize()}[/] what was learned by {names[-1]} {said} worth more "
                "than the rules, beyond chance.",
                highlight=False,
            )
        console.print(
            f"\n  {len(self.history.held_out)} requests; utility is right answers less "
            f"{self.unit.cost_weight:g} · USD / {self.unit.c_ref:.2g}; * interval above zero",
            highlight=False,
        )

    def write(self, path: Path) -> None:
        """Everything shown, as JSON."""
        figures = {
            world: report.as_json(arms, {arms[-2].name: self.gains[world]}, self.unit)
            for world, arms in self.arms.items()
        }
        facts = {"held_out": len(self.history.held_out), **vars(self.unit), "won": self.won}
        write_json(path, {**facts, **figures}, indent=1)
