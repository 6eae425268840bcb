"""The existing app under questions: what was asked, who answered, what it cost."""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from langchain_core.messages import HumanMessage

from graphs import support_app_routed
from integrations.demo.questions import Question
from xrouter_lg import ModelPool, Recorder
from xrouter_lg.policies.rules import RulesPolicy
from xrouter_lg.routing.exploration import Exploration

AT_ONCE = 8
"""Requests at a time, as a small server has them."""

# What a team can write on day one, before it has measured anything: numbers, code and structure
# look hard, everything else looks easy.
DAY_ONE = RulesPolicy(
    [
        (r"python|function|code|json", "large", "code or structure"),
        (r"\d.*\d", "large", "numbers"),
        (r"sort|backwards|how many", "large", "work on symbols"),
    ],
    otherwise="small",
)


@dataclass(frozen=True, slots=True)
class UserRequest:
    """One request of a user."""

    id: str
    """Of its trace."""
    question: Question


@dataclass(frozen=True, slots=True)
class Served:
    """One answered request."""

    asked: UserRequest
    card: str
    cost_usd: float
    """Of all calls; one whose cost nobody knows (it was cut off) counts at its worst case."""
    fell_back: bool


def requests(questions: Sequence[Question], *, seed: int, name: str) -> list[UserRequest]:
    """The questions as other people's requests, in an order of their own; the same for the same
    ``seed`` and ``name``."""
    order = random.Random(f"{seed}:{name}").sample(list(questions), len(questions))
    return [
        UserRequest(str(uuid.uuid5(uuid.NAMESPACE_OID, f"{seed}:{name}:{q.prompt_id}")), q)
        for q in order
    ]


def serve(
    pool: ModelPool,
    policy: Any,
    asked: Sequence[UserRequest],
    *,
    traces: Recorder | None = None,
    cost_weight: float = 0.0,
    exploration: float | Exploration = 0.0,
    advance: Callable[[int], None] = lambda done: None,
) -> list[Served]:
    """Put every request to the routed support app; the answers in order.

    Raises:
        RuntimeError: nobody knows what a request may have cost.
        XRouterError: a request failed.
    """
    app = support_app_routed.build(
        pool, policy=policy, cost_weight=cost_weight, exploration=exploration
    )
    callbacks = [] if traces is None else [traces]
    found: list[Served] = []
    for batch in _batches(asked, 4 * AT_ONCE):
        inputs = [{"messages": [HumanMessage(one.question.prompt)]} for one in batch]
        # The whole app is traced: its run's id, and so the trace's, is the request's.
        configs = [
            {"run_id": uuid.UUID(one.id), "callbacks": callbacks, "max_concurrency": AT_ONCE}
            for one in batch
        ]
        states = app.batch(inputs, configs)
        found += [_served(one, state) for one, state in zip(batch, states, strict=True)]
        advance(len(found))
    return found


def _served(asked: UserRequest, state: dict[str, Any]) -> Served:
    record = state["messages"][-1].response_metadata["xrouter"]
    return Served(
        asked=asked,
        card=record["route"],
        cost_usd=usd_of(asked.question, record),
        fell_back=record["decisions"][0]["policy_error"] is not None,
    )


def usd_of(question: Question, record: dict[str, Any]) -> float:
    """USD of a request by its record.

    Raises:
        RuntimeError: a call has neither a known cost nor a worst case.
    """
    if record["cost_usd"] is not None:
        return float(record["cost_usd"])
    held = [charge["held_usd"] for charge in record["charges"] if charge["cost_usd"] is None]
    if None in held:
        raise RuntimeError(f"the cost of {question.prompt_id} is unknown: {record!r}")
    return float(record["known_cost_usd"]) + sum(map(float, held))


def _batches(asked: Sequence[UserRequest], size: int) -> Iterator[Sequence[UserRequest]]:
    for start in range(0, len(asked), size):
        yield asked[start : start + size]
