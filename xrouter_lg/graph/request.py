"""From graph state and config to a :class:`RouteRequest`, with every option checked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from langchain_core.messages import BaseMessage, HumanMessage, convert_to_messages

from xrouter_lg.calls.money import parse_usd
from xrouter_lg.calls.tokens import prompt_size
from xrouter_lg.errors import (
    EmptyMessagesError,
    NoHumanMessageError,
    RequestError,
    RequestOptionError,
)
from xrouter_lg.pool.pool import normalise_name
from xrouter_lg.routing.router import Router, check_cost_weight
from xrouter_lg.types import RouteRequest


def to_messages(value: Any, where: str) -> list[BaseMessage]:
    """Messages out of a state's value: a list of messages in any of LangChain's shapes, one
    message, or a plain text (the user's question).

    Raises:
        EmptyMessagesError: nothing there.
        NoHumanMessageError: nothing by the user.
        RequestError: no messages at all.
    """
    if isinstance(value, str):
        value = [HumanMessage(value)] if value.strip() else []
    elif isinstance(value, BaseMessage):
        value = [value]
    if value is None or (isinstance(value, Sequence) and not value):
        raise EmptyMessagesError(
            f"state[{where!r}] is empty; put the user's message there before this node, or name "
            "another key with messages_key="
        )
    if not isinstance(value, Sequence):
        raise RequestError(
            f"state[{where!r}] is a {type(value).__name__}; it must be a list of messages or a text"
        )
    if all(isinstance(item, BaseMessage) for item in value):
        messages = list(value)
    else:
        try:
            messages = convert_to_messages(value)
        except Exception as error:  # what LangChain raises for nonsense is of many kinds
            raise RequestError(f"state[{where!r}] holds no messages: {error}") from error
    if not any(message.type == "human" for message in messages):
        kinds = ", ".join(message.type for message in messages)
        raise NoHumanMessageError(
            f"state[{where!r}] has no human message (only: {kinds}); there is nothing to answer. "
            "Add a HumanMessage"
        )
    return messages


def build_request(
    messages: Sequence[BaseMessage],
    configurable: Mapping[str, Any],
    router: Router,
    *,
    tools: Sequence[Mapping[str, Any]] = (),
    sent: Mapping[str, Any] | None = None,
    needs: Iterable[str] = (),
) -> RouteRequest:
    """The request of a first turn. Options come from ``config["configurable"]``:
    ``cost_weight``, ``quality_target``, ``allow``, ``deny``, ``max_cost_usd``, ``thread_id``,
    ``tenant``.

    Raises:
        RequestOptionError: an option with a bad value; the message names it.
    """
    size = prompt_size(messages, tools)
    wanted = {*needs, *size.needs}
    if tools:
        wanted.add("tools")
    weight = configurable.get("cost_weight")
    allow, deny = configurable.get("allow"), configurable.get("deny")
    return RouteRequest(
        messages=messages,
        cost_weight=router.cost_weight
        if weight is None
        else check_cost_weight(weight, _where("cost_weight"), RequestOptionError),
        quality_target=_share(configurable.get("quality_target"), "quality_target"),
        allow=None if allow is None else _names(allow, "allow"),
        deny=frozenset() if deny is None else _names(deny, "deny"),
        max_cost_usd=_limit(configurable.get("max_cost_usd"), router),
        thread_id=_text(configurable.get("thread_id")),
        tenant=_text(configurable.get("tenant")),
        tools=tuple(tools),
        sent=sent or {},
        needs=frozenset(wanted),
        prompt_tokens=size.likely,
        prompt_tokens_max=size.at_most,
        images=size.images,
        max_turns=router.max_turns,
    )


def _limit(value: Any, router: Router) -> Decimal | None:
    """The smaller of the request's limit and the budget's."""
    own = None if value is None else parse_usd(value, _where("max_cost_usd"), RequestOptionError)
    budget = None if router.budget is None else router.budget.per_request_usd
    limits = [limit for limit in (own, budget) if isinstance(limit, Decimal)]
    return min(limits) if limits else None


def _share(value: Any, name: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
        raise RequestOptionError(
            f"{_where(name)} is {value!r}; it must be a share above 0, at most 1"
        )
    return float(value)


def _names(value: Any, name: str) -> frozenset[str]:
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, Iterable):
        raise RequestOptionError(f"{_where(name)} is {value!r}; it must be a list of card names")
    try:
        return frozenset(normalise_name(item) for item in items)
    except ValueError as error:
        raise RequestOptionError(f"{_where(name)}: {error}") from error


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _where(name: str) -> str:
    return f'config["configurable"]["{name}"]'
