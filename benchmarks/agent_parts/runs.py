"""Runs of the agent under each way of routing, and what they came to."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from langchain_core.messages import AIMessage

from benchmarks.agent_parts import agent
from benchmarks.agent_parts.models import Models
from benchmarks.agent_parts.tasks import Task
from xrouter_lg import ChatXRouter, ModelPool, XRouterMiddleware
from xrouter_lg.fitting.head_checkpoint import write_head
from xrouter_lg.fitting.read_lesson import LessonSettings, lesson_of
from xrouter_lg.outcomes import OutcomeTable

FOLDS = 4
CARDS = ("small", "large")


@dataclass(frozen=True, slots=True)
class Run:
    """One task, done or not."""

    task: str
    kind: str
    solved: bool
    cost_usd: float
    routes: tuple[str, ...]
    """The card of each model call."""
    output_tokens: int
    raised: bool
    """Whether a stall has raised the route."""

    @property
    def switches(self) -> int:
        """How often another card went on, which begins with a cold prompt cache."""
        return sum(one != other for one, other in zip(self.routes, self.routes[1:], strict=False))


@dataclass(frozen=True, slots=True)
class Arm:
    """A way of routing: its name in the table, and how an agent is built for a task."""

    name: str
    per: Literal["run", "step"]
    policy: Callable[[Task], str]
    cost_weight: float = 0.0


def fixed(card: str) -> Arm:
    return Arm(f"{card} alone", "run", lambda task: f"fixed:{card}")


def run(arm: Arm, tasks: Iterable[Task], models: Models, pool: ModelPool) -> list[Run]:
    """Each task by an agent of its own, its prompt caches empty: a run after a quiet time."""
    found = []
    for task in tasks:
        models.forget()
        model = ChatXRouter(pool, policy=arm.policy(task), cost_weight=arm.cost_weight)
        layer = XRouterMiddleware(model, per=arm.per)
        found.append(_read(task, agent.ask(agent.build(model, [layer]), task.question)))
    return found


def learned(known: Mapping[str, Sequence[Run]], tasks: Sequence[Task], folder: Path) -> list[str]:
    """A checkpoint a fold, each fitted on the runs of the fixed cards on the other folds' tasks."""
    return [
        str(_fit(known, [t for t in tasks if fold_of(t) != fold], folder / f"fold_{fold}"))
        for fold in range(FOLDS)
    ]


def fold_of(task: Task) -> int:
    """By the task's number in its kind: each fold has as many of each kind."""
    return int(task.id[-2:]) % FOLDS


def all_runs(
    models: Models, tasks: Sequence[Task], weights: Sequence[float]
) -> dict[str, list[Run]]:
    """Every arm on every task, by the arm's name. Learned arms never saw the task they decide."""
    with models.served() as pool, tempfile.TemporaryDirectory() as scratch:
        known = {card: run(fixed(card), tasks, models, pool) for card in CARDS}
        checkpoints = learned(known, tasks, Path(scratch))

        def by_fold(task: Task) -> str:
            return checkpoints[fold_of(task)]

        arms = [Arm("cheapest first, per step", "step", lambda task: "cheapest")]
        for weight in weights:
            arms.append(Arm(f"learned, per run, λ={weight:g}", "run", by_fold, weight))
            arms.append(Arm(f"learned, per step, λ={weight:g}", "step", by_fold, weight))
        others = {arm.name: run(arm, tasks, models, pool) for arm in arms}
    return {fixed(card).name: runs for card, runs in known.items()} | others


def _fit(known: Mapping[str, Sequence[Run]], tasks: Sequence[Task], folder: Path) -> Path:
    wanted = {task.id: task for task in tasks}
    outcomes, prompts = [], []
    for card, runs in known.items():
        for one in runs:
            if one.task not in wanted:
                continue
            key = {"source": "agent", "task": one.kind, "prompt_id": one.task}
            outcomes.append(
                {
                    **key,
                    "model": card,
                    "score": float(one.solved),
                    "output_tokens": one.output_tokens,
                    "cost_usd": one.cost_usd,
                }
            )
            if card == CARDS[0]:
                prompts.append({**key, "prompt": wanted[one.task].question})
    grid = OutcomeTable.from_rows(outcomes, prompts).complete_grid(models=CARDS)
    # All but a few are learned from: what it is worth is measured on the fold left out.
    lesson = lesson_of(grid, LessonSettings(train_share=0.9, min_prompts=1))
    write_head(folder, lesson)
    return folder


def _read(task: Task, said: Sequence[Any]) -> Run:
    answers = [m for m in said if isinstance(m, AIMessage)]
    records = [m.response_metadata.get("xrouter") for m in answers]
    told = [record for record in records if record]  # the limit's own message has none
    return Run(
        task=task.id,
        kind=task.kind,
        solved=task.is_solved_by(answers[-1].text),
        cost_usd=float(sum(float(record["known_cost_usd"]) for record in told)),
        routes=tuple(str(record["route"]) for record in told),
        output_tokens=sum((m.usage_metadata or {}).get("output_tokens", 0) for m in answers),
        raised=any("stalled" in record["reason"] for record in told),
    )
