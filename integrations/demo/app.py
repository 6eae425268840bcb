"""The existing app under questions: what was asked, who answered, what it cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from langchain_core.messages import HumanMessage

from graphs import support_app_routed
from integrations.demo.questions import Question
from xrouter_lg import ModelPool, Recorder
from xrouter_lg.policies.rules import RulesPolicy

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
class Served:
    """One answered request."""

    question: Question
    card: str
    answer: str
    cost_usd: float
    """Of all calls; one whose cost nobody knows (it was cut off) counts at its worst case."""
    router_tokens: int
    """Prompt and completion tokens of the router's own model; 0 for rules."""
    fell_back: bool


def serve(
    pool: ModelPool,
    policy: Any,
    questions: Sequence[Question],
    *,
    traces: Recorder | None = None,
    cost_weight: float = 0.0,
    at_once: int = AT_ONCE,
    advance: Callable[[int], None] = lambda done: None,
) -> tuple[list[Served], float]:
    """Ask the routed support app every question; the answers in order, and the seconds it took.

    Raises:
        RuntimeError: nobody knows what a request may have cost.
        XRouterError: a request failed.
    """
    app = support_app_routed.build(pool, policy=policy, cost_weight=cost_weight, traces=traces)
    started = time.perf_counter()
    found: list[Served] = []
    for batch in _batches(questions, 4 * at_once):
        inputs = [{"messages": [HumanMessage(question.prompt)]} for question in batch]
        configs = [
            {"metadata": {"task": question.task}, "max_concurrency": at_once} for question in batch
        ]
        states = app.batch(inputs, configs)
        found += [_served(q, state) for q, state in zip(batch, states, strict=True)]
        advance(len(found))
    return found, time.perf_counter() - started


def _served(question: Question, state: dict[str, Any]) -> Served:
    message = state["messages"][-1]
    record = message.response_metadata["xrouter"]
    decision = record["decisions"][0]
    ids = decision.get("token_ids") or {}
    tokens = [*ids.get("prompt_token_ids", ()), *ids.get("completion_token_ids", ())]
    return Served(
        question=question,
        card=record["route"],
        answer=str(message.text),
        cost_usd=usd_of(question, record),
        router_tokens=len(tokens),
        fell_back=decision["policy_error"] is not None,
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


def _batches(questions: Sequence[Question], size: int) -> Iterator[Sequence[Question]]:
    for start in range(0, len(questions), size):
        yield questions[start : start + size]
