"""Runs of the agent under each way of routing, and what they came to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from langchain.agents.middleware import AgentMiddleware, ModelRequest, ModelResponse
from langchain_core.messages import AIMessage

from benchmarks.agent_parts import agent
from benchmarks.agent_parts.models import AgentModels
from benchmarks.agent_parts.tasks import AgentTask
from xrouter_lg import ChatXRouter, ModelPool, XRouterMiddleware
from xrouter_lg.policies.base import PolicyLike
from xrouter_lg.policies.rules import RulesPolicy
from xrouter_lg.routing.trajectory import steps_of

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
    """Whether the router has raised the route because of a stall."""
    stalls: int
    """Steps that came no further."""

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
    stalls: int | None = None
    """At which stalled step the larger card takes over; None leaves that to the router."""

    def layer(self, pool: ModelPool) -> AgentMiddleware[Any, Any, Any]:
        """What chooses the model of each call."""
        if self.stalls is not None:
            return RaisedLater(pool, self.stalls)
        return XRouterMiddleware(ChatXRouter(pool, policy=self.policy), per=self.per)


class RaisedLater(AgentMiddleware[Any, Any, Any]):
    """The small card until so many steps of the run have stalled, then the large one to its end."""

    def __init__(self, pool: ModelPool, stalls: int) -> None:
        super().__init__()
        self.stalls = stalls
        self.small, self.large = (
            ChatXRouter(pool, policy=f"fixed:{card}", allow=[card]) for card in ("small", "large")
        )

    def wrap_model_call(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], ModelResponse[Any]],
    ) -> ModelResponse[Any]:
        stalled = sum(step.stalled for step in steps_of(request.messages))
        model = self.small if stalled < self.stalls else self.large
        return handler(request.override(model=model))


ARMS = (
    AgentArm("small alone", "run", "fixed:small"),
    AgentArm(LARGE, "run", "fixed:large"),
    AgentArm("small until it stalls, per step", "step", "cheapest"),
    AgentArm("small until it stalls twice, per step", "step", "cheapest", stalls=2),
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
        built = agent.build(ChatXRouter(pool, policy=arm.policy), [arm.layer(pool)])
        found.append(_read(task, agent.ask(built, task.question)))
    return found


def _read(task: AgentTask, said: Sequence[Any]) -> AgentRun:
    answers = [m for m in said if isinstance(m, AIMessage)]
    records = [m.response_metadata.get("xrouter") for m in answers]
    told = [record for record in records if record]  # the limit's own message has none
    return AgentRun(
        task=task.id,
        kind=task.kind,
        # The limit's message ends in "6/6", which may be the number that was asked for.
        solved=bool(records[-1]) and task.is_solved_by(answers[-1].text),
        cost_usd=float(sum(float(record["known_cost_usd"]) for record in told)),
        routes=tuple(str(record["route"]) for record in told),
        raised=any("stalled" in record["reason"] for record in told),
        stalls=sum(step.stalled for step in steps_of(said)),
    )
