"""From the keywords of an invocation to what each part of a request takes of them."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from xrouter_lg.calls.worker.parameters import ForeignSettings
from xrouter_lg.chat.bound_tools import BoundTools
from xrouter_lg.errors import PoolError, RequestOptionError
from xrouter_lg.graph.bound import ToolBinding
from xrouter_lg.graph.direct import AnswerLimits
from xrouter_lg.graph.request import OPTIONS
from xrouter_lg.pool.card import normalise_name
from xrouter_lg.pool.pool import ModelPool

STRUCTURED = "xrouter_structured"
"""Keyword that carries what ``with_structured_output`` was given."""

ROUTER_MODEL = "xrouter"
"""The model's name that means: whichever the policy picks. ``xrouter:0.3`` sets the cost weight."""


@dataclass(frozen=True, slots=True)
class Invocation:
    """The keywords of one invocation, sorted."""

    routing: Mapping[str, Any]
    """Options of the request, as ``config["configurable"]`` takes them."""
    limits: AnswerLimits
    worker: Mapping[str, Any]
    """Keywords for the chat model that answers."""
    tools: BoundTools | None
    tool_options: Mapping[str, Any]
    structured: Any

    def binding(
        self, settings: Mapping[str, Any], foreign: ForeignSettings | None = None
    ) -> ToolBinding:
        """The tools as the steps of a request take them."""
        structured = self.structured
        needs = frozenset() if structured is None else structured.needs
        more: dict[str, Any] = {
            "structured": structured,
            "settings": settings,
            "needs": needs,
            "foreign": foreign,
        }
        if self.tools is None:
            return ToolBinding(**more)
        return self.tools.binding(self.tool_options, **more)


def sorted_keywords(given: Mapping[str, Any], pool: ModelPool) -> Invocation:
    """Each keyword to where it belongs.

    Raises:
        RequestOptionError: ``model`` names no card.
    """
    rest = dict(given)
    routing = {name: rest.pop(name) for name in OPTIONS if name in rest}
    model = rest.pop("model", None)
    if model is not None:
        routing |= model_options(model, pool)
    temperature = rest.pop("temperature", None)
    own_limit = rest.pop("max_tokens", None)
    other = rest.pop("max_completion_tokens", None)
    sizes = [size for size in (own_limit, other) if size is not None]
    for size in sizes:
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise RequestOptionError(
                f"max_tokens is {size!r}; it must be a whole number, 1 or more"
            )
    limits = AnswerLimits(temperature, min(sizes, default=None))
    tools, options = rest.get("tools"), {}
    if isinstance(tools, BoundTools):
        del rest["tools"]
        options = {name: rest.pop(name) for name in tools.options if name in rest}
    else:
        tools = None
    structured = rest.pop(STRUCTURED, None)
    return Invocation(routing, limits, rest, tools, options, structured)


def model_options(model: object, pool: ModelPool) -> dict[str, Any]:
    """What a model's name asks of the router: ``xrouter`` nothing, ``xrouter:0.3`` a cost weight,
    a card's name that card alone.

    Raises:
        RequestOptionError: no card of that name.
    """
    text = str(model)
    head, colon, weight = text.partition(":")
    if head == ROUTER_MODEL:
        if not colon:
            return {}
        try:
            return {"cost_weight": float(weight)}
        except ValueError:
            raise RequestOptionError(
                f"model is {text!r}; behind {ROUTER_MODEL}: stands a cost weight, such as "
                f"{ROUTER_MODEL}:0.3"
            ) from None
    try:
        name = normalise_name(text)
    except PoolError:
        name = text
    if name not in pool:
        near = difflib.get_close_matches(name, pool.names, 1)
        meant = f"; did you mean {near[0]!r}?" if near else "."
        raise RequestOptionError(
            f"model is {text!r}, which is no card of the pool{meant} Give {ROUTER_MODEL!r}, "
            f"'{ROUTER_MODEL}:<cost weight>' or one of {', '.join(pool.names)}"
        )
    return {"allow": [name]}
