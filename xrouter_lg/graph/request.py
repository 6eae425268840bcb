"""From graph state and config to a :class:`RouteRequest`, with every option checked."""

from __future__ import annotations

import difflib
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from functools import lru_cache
from typing import Any

from langchain_core.messages import BaseMessage, HumanMessage, convert_to_messages
from langchain_core.runnables.utils import ConfigurableFieldSpec
from langgraph.runtime import get_runtime

from xrouter_lg.calls.money import parse_usd
from xrouter_lg.calls.tokens import ToolsSize, prompt_size
from xrouter_lg.calls.told.notices import notice
from xrouter_lg.errors import (
    EmptyMessagesError,
    RequestError,
    RequestOptionError,
)
from xrouter_lg.json_text import shown
from xrouter_lg.pool.card import normalise_name
from xrouter_lg.pool.checks import hedge_after
from xrouter_lg.pool.pool import ModelPool
from xrouter_lg.routing.prompt_cache import warm_tokens
from xrouter_lg.routing.router import Router, check_cost_weight
from xrouter_lg.routing.spending import lone_usd
from xrouter_lg.types import RouteRequest

OPTIONS = (
    "cost_weight",
    "quality_target",
    "allow",
    "deny",
    "max_cost_usd",
    "timeout_s",
    "hedge_after_s",
    "per_step",
    "thread_id",
    "tenant",
    "user_id",
    "key_id",
)
"""Keys of ``config["configurable"]`` that a request may carry."""

OPTION_SPECS = [
    ConfigurableFieldSpec(id=name, annotation=kind, name=name, description=told, default=None)
    for name, kind, told in (
        ("cost_weight", float | None, "score units that one reference cost is worth; 0 or more"),
        ("quality_target", float | None, "share of the best card's quality to reach, up to 1"),
        ("allow", list[str] | None, "the only cards that may be asked"),
        ("deny", list[str] | None, "cards that may not be asked"),
        ("max_cost_usd", float | None, "hard limit of the request in USD"),
        ("hedge_after_s", float | str | None, "slower to its first token, another card is asked"),
        ("per_step", bool | None, "ask the policy inside a tool loop too"),
        ("tenant", str | None, "whose request it is, for the record and for limits"),
        ("user_id", str | None, "the person behind it, for limits per user"),
        ("key_id", str | None, "the key that it was asked with, for limits per key"),
    )
]
"""The options as LangChain advertises a runnable's configurable fields."""

OUTER_KEY = "xrouter_outer"
"""Key in ``configurable`` by which :class:`XRouterNode` tells which node of the user's graph it
is, so that a worker's tokens stream as that node's own."""

_BY_CONTEXT = tuple(name for name in OPTIONS if name != "thread_id")
_INTERNAL = frozenset({OUTER_KEY})
_NO_LETTERS = re.compile(r"[^a-z]+")
_ALIKE = 0.8
"""Likeness (difflib's ratio) from which a key counts as a misspelt option."""


def to_messages(value: Any, where: str) -> list[BaseMessage]:
    """Messages out of a state's value: a list of messages in any of LangChain's shapes, one
    message, or a plain text (the user's question).

    Raises:
        EmptyMessagesError: nothing there.
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
    return messages


def context_options() -> dict[str, Any]:
    """Options out of the context that the running app was invoked with (``context=``): those that
    its mapping, or its object's fields, are named like. Nothing outside a graph."""
    try:
        runtime: Any = get_runtime()  # None in a runnable that no graph runs
    except (RuntimeError, KeyError):
        return {}
    context = getattr(runtime, "context", None)
    if context is None:
        return {}
    if isinstance(context, Mapping):
        found = {name: context.get(name) for name in _BY_CONTEXT}
    else:
        found = {name: getattr(context, name, None) for name in _BY_CONTEXT}
    return {name: value for name, value in found.items() if value is not None}


def build_request(
    messages: Sequence[BaseMessage],
    configurable: Mapping[str, Any],
    router: Router,
    *,
    tools: Sequence[Mapping[str, Any]] = (),
    needs: Iterable[str] = (),
    measured: ToolsSize = ToolsSize(),  # noqa: B008  a constant
    **beside: Any,
) -> RouteRequest:
    """The request of a first turn. Options come from ``config["configurable"]``:
    ``cost_weight``, ``quality_target``, ``allow``, ``deny``, ``max_cost_usd``, ``timeout_s``,
    ``hedge_after_s``, ``per_step``, ``thread_id``, ``tenant``. ``measured`` is the size of the
    first tools, where it is known; ``beside`` are further fields of the request.

    Raises:
        RequestOptionError: an option with a bad value; the message names it.
    """
    size = prompt_size(messages, tools, measured)
    wanted = {*needs, *size.needs}
    if tools:
        wanted.add("tools")
    weight = configurable.get("cost_weight")
    allow, deny = configurable.get("allow"), configurable.get("deny")
    limit = _limit(configurable, router)
    budget = router.budget
    return RouteRequest(
        messages=tuple(messages),  # a policy only reads them
        cost_weight=router.cost_weight
        if weight is None
        else check_cost_weight(weight, _where("cost_weight"), RequestOptionError),
        quality_target=_share(configurable.get("quality_target"), "quality_target"),
        allow=None if allow is None else _names(allow, "allow"),
        deny=frozenset() if deny is None else _names(deny, "deny"),
        max_cost_usd=limit,
        remaining_usd=limit,
        remaining_s=_seconds(configurable.get("timeout_s")),
        hedge_after_s=_hedge(configurable.get("hedge_after_s"), router.pool),
        thread_id=_text(configurable.get("thread_id")),
        tenant=_text(configurable.get("tenant")),
        tools=tuple(tools),
        needs=frozenset(wanted),
        prompt_tokens=size.likely,
        prompt_tokens_max=size.at_most,
        images=size.images,
        max_turns=router.max_turns,
        per_step=_flag(configurable.get("per_step"), "per_step"),
        unpriced_usd=None if budget is None else budget.unpriced_usd,  # type: ignore[arg-type]
        caps=() if router.spending is None else router.spending.caps(configurable),
        warm_tokens=warm_tokens(messages, router.pool, time.time(), size.likely),
        **beside,
    )


def check_options(request: RouteRequest, configurable: Mapping[str, Any], router: Router) -> None:
    """Names that a request's options get wrong: cards that nobody knows are an error, a key that
    looks like one of ours is told once in a while.

    A card that an earlier version of a reloaded pool had is still known.

    Raises:
        RequestOptionError: ``allow`` or ``deny`` names no card.
    """
    known: tuple[str, ...] = ()
    for where, names in (("allow", request.allow), ("deny", request.deny)):
        for name in sorted(names or ()):
            known = known or router.card_names
            if name not in known:
                near = difflib.get_close_matches(name, known, 1)
                meant = f"; did you mean {near[0]!r}?" if near else "."
                raise RequestOptionError(
                    f"{_where(where)} names {name!r}, which is no card of the pool{meant} "
                    f"Its cards: {', '.join(known)}"
                )
    for key in configurable:
        if key not in OPTIONS and (option := _meant(str(key))) is not None:
            fix = f"write {_where(option)}, or drop it" if option else "drop it"
            notice(
                ("option", key),
                f"{_where(str(key))} is no option of xrouter and has no effect. Fix: {fix}. "
                f"Options: {', '.join(OPTIONS)}.",
            )


@lru_cache(maxsize=1024)
def _meant(key: str) -> str | None:
    """The option that a key seems to mean, empty where it is merely named as if it were ours; None
    for a key of other libraries."""
    plain = _NO_LETTERS.sub("_", key.lower())
    if key in _INTERNAL or key.startswith("__") or plain.startswith(("thread", "checkpoint")):
        return None
    bare = plain.removeprefix("xrouter_")
    for suffix in ("_list", "_models", "_cards"):
        bare = bare.removesuffix(suffix)
    near = difflib.get_close_matches(bare, OPTIONS, 1, cutoff=_ALIKE)
    if near:
        return near[0]
    return "" if bare != plain and plain.startswith("xrouter_") else None


def _limit(configurable: Mapping[str, Any], router: Router) -> Decimal | None:
    """The smallest of the request's limit, the budget's, and that of a thread that it is alone."""
    value, budget = configurable.get("max_cost_usd"), router.budget
    own = None if value is None else parse_usd(value, _where("max_cost_usd"), RequestOptionError)
    told = None if budget is None else budget.per_request_usd
    alone = lone_usd(router.spending, configurable)
    limits = [limit for limit in (own, told, alone) if isinstance(limit, Decimal)]
    return min(limits) if limits else None


def _seconds(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 10**6:
        raise RequestOptionError(
            f"{_where('timeout_s')} is {shown(value)}; it must be a number of seconds above 0"
        )
    return float(value)


def _hedge(value: Any, pool: ModelPool) -> float | str | None:
    if value is False:  # for a request of a pool that hedges
        return None
    try:
        return pool.hedge_after_s if value is None else hedge_after(value)
    except ValueError as error:
        raise RequestOptionError(
            f"{_where('hedge_after_s')} is {shown(value)}; it must be {error}, or False"
        ) from error


def _share(value: Any, name: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
        raise RequestOptionError(
            f"{_where(name)} is {value!r}; it must be a share above 0, at most 1"
        )
    return float(value)


def _flag(value: Any, name: str) -> bool:
    if value is None or isinstance(value, bool):
        return bool(value)
    raise RequestOptionError(f"{_where(name)} is {value!r}; it must be true or false")


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
