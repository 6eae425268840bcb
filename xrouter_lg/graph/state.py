"""What the steps keep in the graph's state and find in its config."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.messages import BaseMessage
from langchain_core.runnables import RunnableConfig

from xrouter_lg.calls.attempt import CallResult
from xrouter_lg.errors import ErrorClass, RequestTimeoutError
from xrouter_lg.graph.request import OUTER_KEY
from xrouter_lg.graph.turn import Turn, anchor_of
from xrouter_lg.types import Charge, PlannedCall, RouteRecord, shallow

OPTIONS_KEY = "__xrouter_options"
"""Key in ``configurable``: keywords that :class:`XRouterNode` was invoked with, for the worker."""

POOL_KEY = "__xrouter_pool"
"""Key in ``configurable``: fingerprint of the pool whose cards the graph has nodes for. A pool
that is reloaded between the node and its first step would have none of them."""


def call_options(config: RunnableConfig) -> Mapping[str, Any]:
    options = (config.get("configurable") or {}).get(OPTIONS_KEY)
    return options if isinstance(options, Mapping) else {}


def timeout_s(config: RunnableConfig) -> float | None:
    value = (config.get("configurable") or {}).get("timeout_s")
    return None if value is None else float(value)  # checked when the request began


def too_late(results: Sequence[CallResult]) -> RequestTimeoutError:
    asked = ", ".join(dict.fromkeys(result.card for result in results)) or "nobody"
    return RequestTimeoutError(
        f"the request's timeout_s is over and nobody has answered (asked: {asked}). Raise "
        'config["configurable"]["timeout_s"], or lower the cards\' timeout_s'
    )


def pool_pin(config: RunnableConfig) -> str | None:
    pin = (config.get("configurable") or {}).get(POOL_KEY)
    return pin if isinstance(pin, str) else None


def read(state: Mapping[str, Any]) -> tuple[list[Turn], list[CallResult]]:
    turns = [Turn.from_dict(data) for data in state.get("xrouter_turns") or []]
    return turns, [result(data) for data in state.get("xrouter_results") or []]


def under_way(
    state: Mapping[str, Any], messages: Sequence[BaseMessage]
) -> tuple[list[Turn], list[CallResult]]:
    """The turns and results of this request; none when what is there belongs to another."""
    turns, results = read(state)
    if not turns or turns[0].context.anchor != anchor_of(messages):
        return [], []
    return turns, results


def charges(turns: Sequence[Turn], results: Sequence[CallResult]) -> list[Charge]:
    charges = [charge for turn in turns for charge in turn.decision.charges]
    return charges + [charge for result in results for charge in result.charges]


def live_metadata(record: RouteRecord) -> dict[str, Any]:
    """What runs are looked up by in LangSmith when a canary or a shadow is under way."""
    found: dict[str, Any] = {}
    if record.arm is not None:
        found["xrouter_arm"] = record.arm["arm"]
        found["xrouter_arm_propensity"] = record.arm["propensity"]
    shadow = record.decisions[0].get("shadow")
    if shadow is not None:
        found["xrouter_shadow"] = f"{shadow['policy']} {shadow['policy_version']}"
        found["xrouter_shadow_status"] = shadow["status"]
        found["xrouter_shadow_route"] = shadow.get("route")
        found["xrouter_shadow_cost_usd"] = record.shadow_cost_usd
    return found


def result_to_dict(result: CallResult) -> dict[str, Any]:
    return {
        **shallow(result),
        "charges": [charge.to_dict() for charge in result.charges],
        "error": None if result.error is None else result.error.value,
    }


def result(data: Mapping[str, Any]) -> CallResult:
    charges = tuple(Charge.from_dict(charge) for charge in data["charges"])
    error = None if data["error"] is None else ErrorClass(data["error"])
    return CallResult(**{**data, "charges": charges, "error": error})


def worker_config(
    config: RunnableConfig, call: PlannedCall, context: Mapping[str, Any]
) -> RunnableConfig:
    """The step's config for the worker's run: what was decided as metadata, and, for the one
    call whose tokens are the answer, the place in the user's graph where they stream."""
    metadata = {
        **(config.get("metadata") or {}),
        "xrouter_card": call.card,
        "xrouter_call_id": call.id,
        "xrouter_policy": context["policy"],
        "xrouter_policy_version": context["policy_version"],
        "xrouter_propensity": context["propensity"],
    }
    tags = list(config.get("tags") or [])
    configurable = {**(config.get("configurable") or {})}
    configurable.pop(OPTIONS_KEY, None)  # a routed graph below has options of its own
    outer = configurable.get(OUTER_KEY)
    if not context["alone"]:
        tags.append("nostream")
    elif outer is not None:
        metadata.update(outer)
    return {**config, "metadata": metadata, "tags": tags, "configurable": configurable}
