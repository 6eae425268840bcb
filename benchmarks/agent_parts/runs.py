"""Runs of the agent under each way of routing, and what they came to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from langchain_core.messages import AIMessage

from benchmarks.agent_parts import agent
from benchmarks.agent_parts.models import AgentModels
from benchmarks.agent_parts.tasks import AgentTask
from xrouter_lg import ChatXRouter, ModelPool, XRouterMiddleware
from xrouter_lg.policies.base import PolicyLike
from xrouter_lg.policies.rules import RulesPolicy

LARGE = "large alone"
_RULES = [(r"together|sum|left|remain|manager", "large", "several steps")]
"""As a person writes them who knows what is asked, and has seen no outcome."""


@dataclass(frozen=True, slots=True)
class AgentRun:
    """One task, done or not."""

    task: str
    kind: str
    solved: bool
    cost_usd: float
    routes: tuple[str, ...]
    """The card of each model call."""
    raised: bool
    """Whether a stall has raised the route."""

    @property
    def switches(self) -> int:
        """How often another card went on, which begins with a cold prompt cache."""
        return sum(one != other for one, other in zip(self.routes, self.routes[1:], strict=False))


@dataclass(frozen=True, slots=True)
class AgentArm:
    """A way of routing: what decides, and how often."""

    name: str
    per: Literal["run", "step"]
    policy: PolicyLike


ARMS = (
    AgentArm("small alone", "run", "fixed:small"),
    AgentArm(LARGE, "run", "fixed:large"),
    AgentArm("small until it stalls, per step", "step", "cheapest"),
    AgentArm("by rules, per run", "run", RulesPolicy(_RULES, otherwise="small")),
    AgentArm("by rules, per step", "step", RulesPolicy(_RULES, otherwise="small")),
)


def all_runs(models: AgentModels, tasks: Sequence[AgentTask]) -> dict[str, list[AgentRun]]:
    """Every arm on every task, by the arm's name."""
    with models.served() as pool:
        return {arm.name: run(arm, tasks, models, pool) for arm in ARMS}


def run(
    arm: AgentArm, tasks: Iterable[AgentTask], models: AgentModels, pool: ModelPool
) -> list[AgentRun]:
    """Each task by an agent of its own, its prompt caches empty: a run after a quiet time."""
    found = []
    for task in tasks:
        models.forget()
        model = ChatXRouter(pool, policy=arm.policy)
        layer = XRouterMiddleware(model, per=arm.per)
        found.append(_read(task, agent.ask(agent.build(model, [layer]), task.question)))
    return found


def _read(task: AgentTask, said: Sequence[Any]) -> AgentRun:
    answers = [m for m in said if isinstance(m, AIMessage)]
    records = [m.response_metadata.get("xrouter") for m in answers]
    told = [record for record in records if record]  # the limit's own message has none
    return AgentRun(
        task=task.id,
        kind=task.kind,
        solved=task.is_solved_by(answers[-1].text),
        cost_usd=float(sum(float(record["known_cost_usd"]) for record in told)),
        routes=tuple(str(record["route"]) for record in told),
        raised=any("stalled" in record["reason"] for record in told),
    )
