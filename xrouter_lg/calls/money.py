"""USD of one call: what it has cost, the most it can cost, and limits that a user sets."""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

from xrouter_lg.errors import ConfigurationError
from xrouter_lg.pool.pool import DEFAULT_MAX_OUTPUT_TOKENS, ModelCard
from xrouter_lg.pool.pricing import Price
from xrouter_lg.said import reported_cost
from xrouter_lg.types import TokenUsage

_HINT_FRAME_TOKENS = 64

_LIMITS = ("max_tokens", "max_completion_tokens", "max_output_tokens", "num_predict")
_NESTED = ("model_kwargs", "extra_body")
_SEARCHES_A_TOOL = 10


def cost_of(
    message: Any, usage: TokenUsage | None, price: Price | None
) -> tuple[Decimal | None, str | None]:
    """What an answer has cost (USD) and who says so: the provider's own figure, else tokens ×
    ``price``; None and None where neither is known. ``message`` is live or recorded."""
    reported = reported_cost(message)
    if reported is not None:
        return reported, "provider"
    if price is None or usage is None:
        return None, None
    return price.cost(usage), price.source


def worst_case(
    card: ModelCard,
    prompt_tokens_max: int,
    max_tokens: int | None,
    sent: Mapping[str, Any] | None = None,
) -> Decimal | None:
    """The most one attempt can cost (USD), None where the card's price is unknown.

    What the card's own ``params`` and the app (``sent``: its tools and options by name) send along
    counts: several answers (``n``), a limit in ``extra_body`` that takes the place of ours,
    schemas, and tools that the provider runs itself.
    """
    price = card.effective_price
    if price is None:
        return None
    outputs = max_tokens or card.max_output_tokens or DEFAULT_MAX_OUTPUT_TOKENS
    sent = _sent_along(card, sent)
    outputs = max([outputs, *(n for name in _LIMITS if (n := _count(sent.get(name))))])
    outputs *= _answers(sent)
    inputs = prompt_tokens_max + _size(card, sent)
    return price.worst_case(inputs, outputs, _searches(sent))


def output_tokens_for(
    card: ModelCard, usd: Decimal, prompt_tokens_max: int, sent: Mapping[str, Any] | None = None
) -> int | None:
    """How many output tokens a card can be allowed for ``usd``, so that its worst case fits; None
    when its output is free.

    Raises:
        ValueError: the card's price is unknown.
    """
    price = card.effective_price
    if price is None:
        raise ValueError(f"the price of card {card.name!r} is unknown")
    least = worst_case(card, prompt_tokens_max, 1, sent)
    if least is None or least > usd:
        return 0
    sent = _sent_along(card, sent)
    inputs = prompt_tokens_max + _size(card, sent)
    room = price.output_tokens_for(usd, inputs, _searches(sent))
    return None if room is None else room // _answers(sent)


def _sent_along(card: ModelCard, sent: Mapping[str, Any] | None) -> dict[str, Any]:
    """What a card's params and the app put into a request's body, beside our own limit. Of what
    stands in ``extra_body`` the body has that; no limit of the app's is above ours."""
    params = {name: value for name, value in card.params.items() if name not in _LIMITS}
    app = {name: value for name, value in _flat(sent or {}).items() if name not in _LIMITS}
    found = {**_flat(params), **app}
    listed = (params.get("tools"), app.get("tools"))
    tools = [tool for part in listed if isinstance(part, list | tuple) for tool in part]
    return {**found, "tools": tools}


def _flat(body: Mapping[str, Any]) -> dict[str, Any]:
    found = {name: value for name, value in body.items() if name not in _NESTED}
    for name in _NESTED:
        inner = body.get(name)
        found |= inner if isinstance(inner, Mapping) else {}
    return found


def _size(card: ModelCard, sent: Mapping[str, Any]) -> int:
    """An upper bound of the tokens that schemas and texts in a body's own fields add. The app's
    tools are part of the prompt's size."""
    fields = {**sent, "tools": card.params.get("tools")}
    kept = {n: v for n, v in fields.items() if v and isinstance(v, Mapping | list | tuple | type)}
    return len(json.dumps(kept, default=_words)) if kept else 0


def _words(value: Any) -> Any:
    schema = getattr(value, "model_json_schema", None)  # a class in the place of a schema
    return schema() if isinstance(value, type) and schema is not None else str(value)


def _answers(sent: Mapping[str, Any]) -> int:
    return max(1, _count(sent.get("n")), _count(sent.get("best_of")))


def _count(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def _searches(sent: Mapping[str, Any]) -> int:
    """Searches that tools which run at the provider may make: their own limit, else ten each."""
    tools = sent.get("tools")
    listed = tools if isinstance(tools, list | tuple) else ()
    server = [tool for tool in listed if isinstance(tool, Mapping) and _runs_a_search(tool)]
    return sum(_count(tool.get("max_uses")) or _SEARCHES_A_TOOL for tool in server)


def _runs_a_search(tool: Mapping[str, Any]) -> bool:
    return "search" in f"{tool.get('type', '')} {' '.join(tool)}"  # Google's names it by its key


def hint_tokens(hint: str | None) -> int:
    """An upper bound of the tokens that a hint adds to a prompt: one a byte, and its frame."""
    if not hint:
        return 0
    return len(hint.encode("utf-8", "surrogatepass")) + _HINT_FRAME_TOKENS


def parse_usd(value: Any, where: str, error: type[ValueError] = ConfigurationError) -> Decimal:
    """A limit in USD as Decimal.

    Raises:
        ConfigurationError: (or ``error``) it is no finite number above zero.
    """
    try:
        amount = Decimal(str(value))
    except InvalidOperation:
        amount = Decimal("NaN")
    if isinstance(value, bool) or not amount.is_finite() or amount <= 0:
        raise error(f"{where} is {value!r}; it must be USD, a finite number above zero")
    return amount
