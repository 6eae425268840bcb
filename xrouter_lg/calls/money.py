"""USD of one call: what it has cost, the most it can cost, and limits that a user sets."""

from __future__ import annotations

import contextlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from types import MappingProxyType
from typing import Any

from xrouter_lg.calls.media import UNSIZED_TOKENS
from xrouter_lg.errors import ConfigurationError
from xrouter_lg.json_text import shown
from xrouter_lg.pool.card import DEFAULT_MAX_OUTPUT_TOKENS, SEARCH_OPTION, ModelCard
from xrouter_lg.pool.names import same_model
from xrouter_lg.pool.pricing import Price, PublishedPrice, price_of, published_price
from xrouter_lg.said import (
    as_asked,
    is_unbilled,
    picture_tokens,
    reported_cost,
    served_region,
    served_tier,
    told_usage_of,
    usage_of,
)
from xrouter_lg.types import TokenUsage

_HINT_FRAME_TOKENS = 64

_LIMITS = ("max_tokens", "max_completion_tokens", "max_output_tokens", "num_predict")
_NESTED = ("model_kwargs", "generation_config", "extra_body")
_NOTHING: Mapping[str, Any] = MappingProxyType({})
_CALLS_A_TOOL = 10
_MOST_TOKENS = 2**31
_US_SURCHARGE = Decimal("0.1")
"""Anthropic's, on all tokens, for inference that stays in the USA."""
_RUNS_CODE = re.compile(r"code_(?:interpreter|execution)|^shell$")
_ONLINE = ":online"  # OpenRouter's name of a model with its web plugin
_RESULTS, _SOURCES = 5, 20
"""Of OpenRouter's web plugin and of xAI's live search, where the request does not say."""
_UNSEEN = (
    *("previous_response_id", "conversation", "prompt", "cached_content", "mcp_servers"),
    *("plugins", "search_parameters"),
)
"""Parts of a body that stand for a prompt which only the provider knows, or that have it add to
the prompt what it finds."""
_FINDS = re.compile(r"search|fetch|url_context|mcp|code_(interpreter|execution)|^shell$|^advisor_")
_ADVICE_TOKENS = 64_000
"""The most that Anthropic's advisor writes each time, where the request sets no limit."""
_COMPACTS_AT = 150_000
"""Tokens of a prompt that Anthropic compacts, where the request names no other number."""


def cost_of(
    message: Any, usage: TokenUsage | None, price: Price | None
) -> tuple[Decimal | None, str | None]:
    """What an answer has cost (USD) and who says so: the provider's own figure, else tokens ×
    ``price`` in the tier that it was served in; None and None where neither is known. ``message``
    is live or recorded."""
    reported = reported_cost(message)
    if reported is not None:
        return reported, "provider"
    if is_unbilled(message):
        return Decimal(0), "rejected"
    if price is None:
        return None, None
    if usage is None:  # a local server may not count, and asks nothing
        return (Decimal(0), price.source) if price.free else (None, None)
    if not isinstance(price, PublishedPrice):  # a card's own price is that of every tier
        return price.cost(usage), price.source
    provider, price = price.provider, price.in_tier(served_tier(message))
    cost = price.cost(usage)
    if provider == "anthropic" and served_region(message) == "us":
        cost += (cost - price.fees(usage.kinds)) * _US_SURCHARGE
    return cost, price.source


@dataclass(frozen=True, slots=True)
class AsAsked:
    """What only the request says of its answer's usage."""

    searched: bool = False
    """Whether each answer has had a search that it does not tell of."""
    tools: Sequence[Mapping[str, Any]] = ()
    """Tools that the provider runs."""

    def usage(self, message: Any) -> TokenUsage | None:
        """The usage of an answer, live or recorded."""
        return self._asked(usage_of(message))

    def told(self, message: Any) -> TokenUsage | None:
        """The same, of one side too where no more was told: the least that was used."""
        return self._asked(told_usage_of(message))

    def _asked(self, usage: TokenUsage | None) -> TokenUsage | None:
        if usage is None:
            return None
        if self.searched:
            usage = usage.with_a_search()
        return as_asked(usage, self.tools) if self.tools and usage.kinds else usage


AS_TOLD = AsAsked()
"""Of an answer of whose request nothing is known."""


def worst_case(
    card: ModelCard,
    prompt_tokens_max: int,
    max_tokens: int | None,
    bound: Mapping[str, Any] = _NOTHING,
) -> Decimal | None:
    """The most one attempt can cost (USD), None where the card's price is unknown.

    What the card's own ``params`` send along counts, and what the app ``bound``: several answers
    (``n``), a limit in the card's ``extra_body`` that takes the place of ours, schemas, a predicted
    answer, a service tier, and tools that the provider runs itself.
    """
    if card.effective_price is None:
        return None
    outputs = max_tokens or card.max_output_tokens or DEFAULT_MAX_OUTPUT_TOKENS
    sent = _sent_along(card, bound)
    outputs = max([outputs, *(n for name in _LIMITS if (n := _count(sent.get(name))))])
    outputs = outputs * _answers(sent) + _predicted(sent)
    inputs = _inputs(card, prompt_tokens_max, sent)
    units = _units(card, sent, inputs)
    price, searches = _price(card, sent), _searches(card, sent)
    worst = price.worst_case(inputs, outputs, searches, units)
    if _compacts(sent, inputs):
        worst += price.worst_case(inputs, outputs)
    if sent.keys() & _OTHER_MODELS:
        for other, limit, beside in _other_models(card, sent):
            if other is None:
                return None
            most = other.worst_case(inputs, max(outputs, limit), searches, units)
            worst = worst + most if beside else max(worst, most)
    return worst * (1 + _US_SURCHARGE) if sent.get("inference_geo") == "us" else worst


def reserved_usd(
    card: ModelCard,
    prompt_tokens_max: int,
    max_tokens: int | None,
    bound: Mapping[str, Any],
    overruns: Mapping[str, Decimal],
) -> Decimal | None:
    """What a call has to set aside (USD): its worst case, as many times as the card has gone over
    it before (``overruns``, by the card's name). None where its price is unknown."""
    worst = worst_case(card, prompt_tokens_max, max_tokens, bound)
    return None if worst is None else worst * overruns.get(card.name, 1)


def output_tokens_for(
    card: ModelCard, usd: Decimal, prompt_tokens_max: int, bound: Mapping[str, Any] = _NOTHING
) -> int | None:
    """How many output tokens a card can be allowed for ``usd``, so that its worst case fits; None
    when its output is free.

    Raises:
        ValueError: the card's price is unknown.
    """
    if card.effective_price is None:
        raise ValueError(f"the price of card {card.name!r} is unknown")
    sent = _sent_along(card, bound)
    least = worst_case(card, prompt_tokens_max, 1, bound)
    if least is None or least > usd:
        return 0
    inputs = _inputs(card, prompt_tokens_max, sent)
    if sent.keys() & _OTHER_MODELS or _compacts(sent, inputs):
        return _searched(lambda limit: worst_case(card, prompt_tokens_max, limit, bound), usd)
    units = _units(card, sent, inputs)
    if sent.get("inference_geo") == "us":
        usd /= 1 + _US_SURCHARGE
    room = _price(card, sent).output_tokens_for(usd, inputs, _searches(card, sent), units)
    return None if room is None else max(0, room - _predicted(sent)) // _answers(sent)


def _searched(worst: Callable[[int], Decimal | None], usd: Decimal) -> int:
    """The largest limit whose worst case ``usd`` still pays for, of which one does."""
    least, most = 1, _MOST_TOKENS
    while least < most:
        middle = (least + most + 1) // 2
        cost = worst(middle)
        least, most = (middle, most) if cost is not None and cost <= usd else (least, middle - 1)
    return least


_OTHER_MODELS = frozenset({"fallbacks", "models"})
"""Parts of a body that name models which may answer too: Anthropic's, after the one that was asked
and billed beside it; OpenRouter's, in its place."""


def _other_models(
    card: ModelCard, sent: Mapping[str, Any]
) -> Iterator[tuple[Price | None, int, bool]]:
    """Of each other model that may answer: its price, None where it is unknown; a limit of its
    own (tokens), else 0; and whether it is billed beside the first."""
    for name, beside in (("fallbacks", True), ("models", False)):
        listed = sent.get(name)
        if beside and isinstance(listed, str):  # one that the provider chooses
            yield card.effective_price, 0, beside
        for entry in listed if isinstance(listed, list | tuple) else ():
            own = entry if isinstance(entry, Mapping) else {"model": entry}
            model = str(own.get("model") or "")
            if beside or not same_model(model, card.model_name):
                gateways = published_price("openrouter", model) if "/" in model else None
                yield gateways or price_of(model), _count(own.get("max_tokens")), beside


def _compacts(sent: Mapping[str, Any], inputs: int) -> bool:
    """Whether Anthropic may have the talk summed up on the way, which is another call."""
    managed = sent.get("context_management")
    edits = managed.get("edits") if isinstance(managed, Mapping) else None
    for edit in edits if isinstance(edits, list | tuple) else ():
        if isinstance(edit, Mapping) and str(edit.get("type")).startswith("compact_"):
            trigger = edit.get("trigger")
            told = trigger.get("value") if isinstance(trigger, Mapping) else None
            return inputs >= (_count(told) or _COMPACTS_AT)
    return False


def _price(card: ModelCard, sent: Mapping[str, Any]) -> Price:
    """The card's price in the service tier that is asked for."""
    assert card.effective_price is not None
    tier = sent.get("service_tier")
    if tier is None and sent.get("speed") == "fast":  # Anthropic's
        tier = "fast"
    return card.effective_price.in_tier(tier if isinstance(tier, str) else None)


def _sent_along(card: ModelCard, bound: Mapping[str, Any]) -> dict[str, Any]:
    """What a card's params and the app's options put into a request's body, beside what belongs
    to the client. What a body holds twice goes by the last: ``extra_body``. The app's own limits
    are none here: they never lift ours."""
    params = card.sent_params
    own = {name: value for name, value in params.items() if name not in (*_LIMITS, *_NESTED)}
    own |= _nested(params)
    given = {**bound, **_nested(bound)}
    own |= {k: v for k, v in given.items() if k not in (*_LIMITS, *_NESTED, "tools")}
    if bound.get("tools"):
        own["tools"] = [*(own.get("tools") or ()), *bound["tools"]]
    return own


def _nested(given: Mapping[str, Any]) -> dict[str, Any]:
    """What stands inside the parameters that hold others, to any depth."""
    found: dict[str, Any] = {}
    for name in _NESTED:
        if isinstance(inner := given.get(name), Mapping):
            found |= {key: value for key, value in inner.items() if key not in _NESTED}
            found |= _nested(inner)
    return found


def _inputs(card: ModelCard, prompt_tokens_max: int, sent: Mapping[str, Any]) -> int:
    """The most tokens of a prompt with what rides along. What the provider adds to it by itself
    (an earlier talk, what its own tools find) may fill the window."""
    inputs = prompt_tokens_max + _size(sent)
    adds = any(sent.get(name) for name in _UNSEEN) or card.model_name.endswith(_ONLINE)
    if adds or any(map(finds_by_itself, _tools(sent))):
        return max(inputs, card.context_window or UNSIZED_TOKENS)
    return inputs


def runs_by_itself(tool: Mapping[str, Any]) -> bool:
    """Whether the provider runs a tool, and bills what it does."""
    return finds_by_itself(tool) or _kind(tool) == "image_generation"


def finds_by_itself(tool: Mapping[str, Any]) -> bool:
    """Whether the provider runs a tool, the results of which it bills as prompt."""
    return _FINDS.search(_kind(tool)) is not None


def _kind(tool: Mapping[str, Any]) -> str:
    """A tool's type; Google's tools are named by their only key."""
    return str(tool.get("type") or next(iter(tool), ""))


def _tools(sent: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    listed = sent.get("tools")
    given = listed if isinstance(listed, list | tuple) else ()
    return [tool for tool in given if isinstance(tool, Mapping)]


def _size(sent: Mapping[str, Any]) -> int:
    """An upper bound of the tokens that schemas and texts in a body's own fields add."""
    kept = {n: value for n, value in sent.items() if value and isinstance(value, Mapping | list)}
    return len(json.dumps(kept, default=str)) if kept else 0


def _answers(sent: Mapping[str, Any]) -> int:
    return max(1, *(_count(sent.get(name)) for name in ("n", "best_of", "candidate_count")))


def _count(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def _predicted(sent: Mapping[str, Any]) -> int:
    """The most tokens of a predicted answer: what is rejected of it is billed beside the limit."""
    return len(json.dumps(sent["prediction"], default=str)) if sent.get("prediction") else 0


def _searches(card: ModelCard, sent: Mapping[str, Any]) -> int:
    """The most searches that a provider may bill: of its tools their own limit, else ten each; one
    of a model that always searches; of OpenRouter's plugin each result; of xAI's live search each
    source, which costs up to three."""
    found = sum(
        _count(tool.get("max_uses")) or _CALLS_A_TOOL
        for tool in _tools(sent)
        if "search" in _kind(tool)
    )
    if SEARCH_OPTION in sent or card.searches_always:
        found += 1
    plugins = sent.get("plugins")
    for plugin in plugins if isinstance(plugins, list | tuple) else ():
        if isinstance(plugin, Mapping) and plugin.get("id") == "web":
            found += _count(plugin.get("max_results")) or _RESULTS
    if card.model_name.endswith(_ONLINE):
        found += _RESULTS
    live = sent.get("search_parameters")
    if isinstance(live, Mapping) and live.get("mode") != "off":
        found += 3 * (_count(live.get("max_search_results")) or _SOURCES)
    return found


def tools_of(card: ModelCard, bound: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The tools of a request that its provider may run: the card's own and the app's."""
    return _tools(_sent_along(card, bound))


def _units(card: ModelCard, sent: Mapping[str, Any], inputs: int) -> dict[str, int]:
    """The most that a request's tools may do beside searching: code is run in one container, or at
    xAI billed by the run; pictures are as many as tools may be called. Each is asked for with the
    whole prompt at most."""
    calls = _count(sent.get("max_tool_calls")) or _CALLS_A_TOOL
    units: Counter[str] = Counter()
    for tool in _tools(sent):
        kind = str(tool.get("type") or "")  # Google's have none: their code is a matter of tokens
        if _RUNS_CODE.search(kind):
            runs = _CALLS_A_TOOL if card.maker == "xai" else 1
            unit = "code_executions_5m" if card.maker == "anthropic" else "code_executions"
            units[unit] += runs
        elif kind.startswith("advisor_"):
            uses, model = _count(tool.get("max_uses")) or calls, str(tool.get("model") or "")
            written = _count(tool.get("max_tokens")) or _ADVICE_TOKENS
            asked = 2 * inputs if tool.get("caching") else inputs  # kept for an hour at most
            units[f"other_input_tokens {model}".strip()] += uses * asked
            units[f"other_output_tokens {model}".strip()] += uses * written
        elif kind == "image_generation":
            made = picture_tokens(tool.get("quality"), tool.get("size"), tool.get("partial_images"))
            units["image_tool_output_tokens"] += calls * made
            units["image_tool_input_tokens"] += calls * inputs
    if not units:
        return {}
    return dict(as_asked(TokenUsage(0, 0, kinds=units), _tools(sent)).kinds)


def hint_tokens(hint: str | None) -> int:
    """An upper bound of the tokens that a hint adds to a prompt: one a byte, and its frame."""
    if not hint:
        return 0
    return len(hint.encode("utf-8", "surrogatepass")) + _HINT_FRAME_TOKENS


_USD_CHARS = 100
_LEAST_USD, _MOST_USD = Decimal("1e-12"), Decimal(10**12)
"""Sums beyond these are written by mistake, and their digits would fill a record."""


def parse_usd(value: Any, where: str, error: type[ValueError] = ConfigurationError) -> Decimal:
    """A limit in USD as Decimal.

    Raises:
        ConfigurationError: (or ``error``) it is no finite number above zero.
    """
    amount = Decimal("NaN")
    if isinstance(value, str | int | float | Decimal) and not isinstance(value, bool):
        with contextlib.suppress(InvalidOperation, ValueError):  # an integer too long for a text
            amount = Decimal(value if isinstance(value, int) else str(value)[:_USD_CHARS])
    if not (amount.is_finite() and _LEAST_USD <= amount <= _MOST_USD):
        raise error(
            f"{where} is {shown(value)}; it must be USD, a finite number above zero (from "
            f"{_LEAST_USD:f} to {_MOST_USD:,})"
        )
    return amount
