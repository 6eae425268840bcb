"""What a provider itself says of the bill: its own count and cost, and the model that it served."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any

from xrouter_lg.errors import ErrorClass
from xrouter_lg.said.hosted import fallback_model
from xrouter_lg.said.message import fields_of, mapping, response_metadata_of

RAW_USAGE_KEY = "usage_chunks"
"""Key in ``response_metadata``: a stream's counts as the provider sent them, one a chunk. LangChain
keeps their sum alone, which has no cost in it and counts a repeated prompt again."""

_COSTS = ("cost", "total_cost", "cost_usd", "response_cost", "estimated_cost")
_TICKS_PER_USD = Decimal(10**10)  # xAI's unit of money


def raw_usages(meta: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The provider's own counts out of a message's response metadata."""
    chunks = meta.get(RAW_USAGE_KEY)
    if isinstance(chunks, list | tuple) and chunks:
        return [chunk for chunk in chunks if isinstance(chunk, Mapping)]
    for name in ("token_usage", "usage"):
        if usage := mapping(meta.get(name)):
            return [usage]
    return []


def reported_cost(message: Any) -> Decimal | None:
    """The cost in USD that a provider itself put into the response, as OpenRouter, LiteLLM,
    DeepInfra, Perplexity and xAI do; 0 for an answer out of LangChain's cache.

    It wins over any price list.
    """
    count = mapping(fields_of(message).get("usage_metadata"))
    meta = response_metadata_of(message)
    if (cached := _usd(count.get("total_cost"))) is not None:
        return cached  # LangChain writes 0 there for an answer that was paid for before
    headers = mapping(meta.get("headers"))
    for said in (*reversed(raw_usages(meta)), meta, mapping(meta.get("_hidden_params"))):
        if not said:
            continue
        cost = next((c for name in _COSTS if (c := _usd(said.get(name))) is not None), None)
        if cost is None and (ticks := _usd(said.get("cost_in_usd_ticks"))) is not None:
            cost = ticks / _TICKS_PER_USD
        if cost is not None:
            return cost + _upstream(said, cost)
    return _usd(headers.get("x-litellm-response-cost"))


def is_unbilled(message: Any) -> bool:
    """Whether the provider asks nothing for an answer that it has counted: Anthropic's refusal
    before the model has said anything."""
    meta = response_metadata_of(message)
    return (
        meta.get("stop_reason") == "refusal"
        and meta.get("model_provider") == "anthropic"
        and not fields_of(message).get("content")
    )


def usd_of(value: Any) -> Decimal | None:
    """A sum of money as somebody else wrote it down; None for what is no finite number."""
    if value is None or isinstance(value, bool):
        return None
    try:
        usd = Decimal(str(value))
    except InvalidOperation:
        return None
    return usd if usd.is_finite() else None


def served_model(message: Any) -> str | None:
    """The model that a provider says has answered."""
    meta = response_metadata_of(message)
    for count in reversed(raw_usages(meta)):
        if "iterations" in count and (other := fallback_model(count["iterations"])):
            return other
    name = meta.get("model_name") or meta.get("model") or meta.get("model_id")
    return name if isinstance(name, str) and name else None


def served_tier(message: Any) -> str | None:
    """The service tier in which an answer says that it was served (``default``, ``flex``,
    ``priority``, Anthropic's ``fast``); None where it says none."""
    meta = response_metadata_of(message)
    told = meta.get("service_tier")
    if told is None:
        for count in reversed(raw_usages(meta)):
            speed = count.get("speed")
            told = speed if speed == "fast" else count.get("service_tier")
            if told is not None:
                break
    return told if isinstance(told, str) and told else None


def has_answered(charge: Mapping[str, Any]) -> bool:
    """Whether a recorded charge is a worker's for an answer; one that was cut at its limit is."""
    failed = charge.get("error") not in (None, "", ErrorClass.TRUNCATED)
    return charge.get("kind") == "worker" and not failed


def answer_tokens(charges: Sequence[Mapping[str, Any]]) -> tuple[int | None, int | None]:
    """What the call that answered was asked, and what it said, in tokens; None where nobody
    counted. ``charges`` are those of a record."""
    for charge in reversed(charges):
        usage = charge.get("usage")
        if usage and has_answered(charge):
            return usage.get("input_tokens"), usage.get("output_tokens")
    return None, None


def served_region(message: Any) -> str | None:
    """Where Anthropic says that it has made an answer (``us``, ``global``)."""
    told = next((c.get("inference_geo") for c in raw_usages(response_metadata_of(message))), None)
    return told if isinstance(told, str) else None


def _usd(value: Any) -> Decimal | None:
    if isinstance(value, Mapping):  # Perplexity's, by part and in all
        value = value.get("total_cost")
    cost = usd_of(value)
    return None if cost is None or cost < 0 else cost


def _upstream(said: Mapping[str, Any], cost: Decimal) -> Decimal:
    """What a gateway has the user pay to the model's own provider, with the user's own key.

    OpenRouter's own class drops ``is_byok``: a bill below what the model's provider asks says it
    as well.
    """
    upstream = _usd(mapping(said.get("cost_details")).get("upstream_inference_cost"))
    own_key = said.get("is_byok")
    if upstream is None or not (own_key is True or (own_key is None and cost < upstream)):
        return Decimal(0)
    return upstream
