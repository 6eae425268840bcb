"""One call of one card, and the limits in what it sent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from langchain_core.messages import HumanMessage

from xrouter_lg import ModelCard
from xrouter_lg.calls.attempt import CallResult, CallTerms, Workers
from xrouter_lg.calls.worker.parameters import Bound
from xrouter_lg.types import PlannedCall

HI = [HumanMessage("Hi")]
NOTHING: Mapping[str, Any] = {}
ASK = {"messages": HI}


async def call(
    card: ModelCard,
    workers: Workers | None = None,
    *,
    call: Mapping[str, Any],
    tool_options: Mapping[str, Any] = NOTHING,
    call_options: Mapping[str, Any] = NOTHING,
) -> CallResult:
    made = PlannedCall("c1", card.name, **call)
    terms = CallTerms(bound=Bound((), tool_options, call_options))
    return await (workers or Workers()).call(card, made, HI, {}, terms)


def limits(body: Mapping[str, Any]) -> dict[str, Any]:
    """Every limit of the answer's length in a body, wherever its provider has it."""
    inner = body.get("generationConfig") or body.get("options") or {}
    return {
        key: value
        for key, value in {**body, **inner}.items()
        if "max" in key.lower() or key == "num_predict"
    }
