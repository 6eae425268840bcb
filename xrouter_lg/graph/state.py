"""What the steps keep in a graph's state and find in a config."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from langchain_core.runnables import RunnableConfig

from xrouter_lg.calls.attempt import CallResult
from xrouter_lg.errors import BudgetExceededError, ErrorClass, RequestTimeoutError
from xrouter_lg.graph.request import OUTER_KEY, context_options
from xrouter_lg.route_record import RouteRecord
from xrouter_lg.types import Charge, PlannedCall, shallow

OPTIONS_KEY = "__xrouter_options"
"""Key in ``configurable``: keywords of an invocation, for the worker."""
POOL_KEY = "__xrouter_pool"
"""Key in ``configurable``: fingerprint of the pool whose cards the graph has nodes for. A pool
that is reloaded between the node and its first step would have none of them."""


@dataclass(frozen=True, slots=True)
class CallContext:
    """What a call is made with beside its plan."""

    pool_fingerprint: str
    policy: str
    policy_version: str
    propensity: float | None
    prompt_tokens_max: int
    alone: bool
    """Whether its answer is the request's: then its tokens may be shown as they come."""
    lone: bool
    """Whether no other card could be asked if it failed."""
    request_id: str | None = None
    hedge: Mapping[str, Any] | None = None
    """The call that is made beside it where it is slow: ``call``, its own ``prompt_tokens_max``,
    and ``after_s``."""


def call_options(config: RunnableConfig) -> Mapping[str, Any]:
    """Keywords of the invocation, for the worker."""
    options = (config.get("configurable") or {}).get(OPTIONS_KEY)
    return options if isinstance(options, Mapping) else {}


def timeout_s(config: RunnableConfig) -> float | None:
    """Seconds that the whole request may take."""
    options = {**context_options(), **(config.get("configurable") or {})}
    value = options.get("timeout_s")
    return None if value is None else float(value)  # checked when the request began


def too_late(results: Sequence[CallResult]) -> RequestTimeoutError:
    """The error of a request whose time is over."""
    asked = ", ".join(dict.fromkeys(result.card for result in results)) or "nobody"
    return RequestTimeoutError(
        f"the request's timeout_s is over and nobody has answered (asked: {asked}). Raise "
        'config["configurable"]["timeout_s"], or lower the cards\' timeout_s'
    )


def out_of_money(results: Sequence[CallResult]) -> BudgetExceededError | None:
    """The error of a request whose calls were all refused by a limit that it shares; None where
    one failed by itself."""
    if not results or any(result.error is not ErrorClass.BUDGET for result in results):
        return None
    error = BudgetExceededError(results[-1].detail)
    error.per = results[-1].short_of
    return error


def pool_pin(config: RunnableConfig) -> str | None:
    pin = (config.get("configurable") or {}).get(POOL_KEY)
    return pin if isinstance(pin, str) else None


def result_to_dict(result: CallResult) -> dict[str, Any]:
    """JSON-safe form but for the message: what a state keeps of a call."""
    data = shallow(result)
    del data["cause"]
    return {
        **data,
        "charges": [charge.to_dict() for charge in result.charges],
        "error": None if result.error is None else result.error.value,
    }


def result_of(data: Mapping[str, Any]) -> CallResult:
    charges = tuple(Charge.from_dict(charge) for charge in data["charges"])
    error = None if data["error"] is None else ErrorClass(data["error"])
    return CallResult(**{**data, "charges": charges, "error": error})


def worker_config(
    config: RunnableConfig, call: PlannedCall, context: CallContext
) -> RunnableConfig:
    """The step's config for the worker's run: what was decided as metadata, and, for the one
    call whose tokens are the answer, the place in the user's graph where they stream."""
    metadata = {
        **(config.get("metadata") or {}),
        "xrouter_card": call.card,
        "xrouter_call_id": call.id,
        "xrouter_policy": context.policy,
        "xrouter_policy_version": context.policy_version,
        "xrouter_propensity": context.propensity,
    }
    tags = list(config.get("tags") or [])
    configurable = {**(config.get("configurable") or {})}
    configurable.pop(OPTIONS_KEY, None)  # a routed graph below has options of its own
    outer = configurable.get(OUTER_KEY)
    if not context.alone:
        tags.append("nostream")
    elif outer is not None:
        metadata.update(outer)
    return {**config, "metadata": metadata, "tags": tags, "configurable": configurable}


def metadata_of(record: RouteRecord) -> dict[str, Any]:
    """What runs are looked up by in LangSmith."""
    found: dict[str, Any] = {
        "xrouter_route": record.route,
        "xrouter_policy": record.policy,
        "xrouter_policy_version": record.policy_version,
        "xrouter_propensity": record.propensity,
        "xrouter_cost_weight": record.cost_weight,
        "xrouter_cost_usd": record.cost_usd,
        "xrouter_known_cost_usd": record.known_cost_usd,
        "xrouter_router_cost_usd": record.router_cost_usd,
        "xrouter_fallbacks": len(record.fallbacks),
    }
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
