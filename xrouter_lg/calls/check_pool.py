"""What `xrouter pool check` finds: facts about each card, and in sentences what is missing, out of
date or broken. Nothing here prints or reads files; only :func:`call_each` uses the network."""

from __future__ import annotations

import asyncio
import dataclasses
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import HumanMessage

from xrouter_lg.calls.attempt import CallResult, CallTerms, Workers
from xrouter_lg.calls.chat_model import build_chat_model, is_local
from xrouter_lg.errors import ConfigurationError, ErrorClass, MissingKeyError
from xrouter_lg.pool.card import DEFAULT_MAX_OUTPUT_TOKENS, ModelCard
from xrouter_lg.pool.pool import ModelPool
from xrouter_lg.pool.price_list import price_list
from xrouter_lg.pool.pricing import Price, published_price
from xrouter_lg.pool.served import is_of
from xrouter_lg.types import PlannedCall, usd_str

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo

LIVE_PROMPT = "Reply with the word ok."
LIVE_MAX_TOKENS = 16

FIXES: Mapping[ErrorClass, str] = {
    ErrorClass.RATE_LIMIT: "wait and check again, or raise the provider's rate limit",
    ErrorClass.SERVER: "the provider has a fault; check again later or look at its status page",
    ErrorClass.TIMEOUT: "raise timeout_s (or --timeout), or check that the server answers at all",
    ErrorClass.CONNECTION: "check base_url and that the server is running and reachable",
    ErrorClass.AUTH: "check the key in the card's api_key_env, and that it may use this model",
    ErrorClass.BAD_REQUEST: "check the model's name and the card's params",
    ErrorClass.CONTEXT_LENGTH: "check the model's name: its window is too small for one sentence",
    ErrorClass.NOT_FOUND: "the provider knows no model of this name; check it, and base_url's path",
    ErrorClass.QUOTA: "the account is spent: add credit or use another key",
    ErrorClass.EMPTY: "the model gave no text; check its chat template and the card's params",
    ErrorClass.MALFORMED: "base_url answers, but not as an OpenAI-compatible API; check its path",
    ErrorClass.CONTENT_FILTER: "its filter stopped a harmless prompt; check the filter's settings",
    ErrorClass.STREAM_CUT: "the server closed the stream early; check its log and any proxy",
}
_OTHER_FIX = "see the detail"


@dataclass(frozen=True, slots=True)
class Finding:
    """One sentence about a card or, where ``card`` is None, about the pool."""

    level: Literal["error", "warning"]
    code: str
    card: str | None
    text: str


@dataclass(frozen=True, slots=True)
class LiveResult:
    """What one real call of a card gave; ``cost_usd`` is a decimal string, None where unknown."""

    ok: bool
    latency_s: float
    served_model: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cost_usd: str | None = None
    price_source: str | None = None
    error: str | None = None
    detail: str | None = None
    fix: str | None = None


@dataclass(frozen=True, slots=True)
class CardFacts:
    """A card as the table shows it; prices in USD per million tokens. Never holds a key."""

    name: str
    model: str
    provider: str | None
    base_url: str | None
    default: bool
    price: dict[str, str] | None
    price_source: str | None
    context_window: int | None
    max_output_tokens: int | None
    capabilities: tuple[str, ...]
    from_profile: tuple[str, ...]
    """Fields that the pool file leaves to LangChain's profile of the model."""
    key_variable: str | None
    key_set: bool | None
    """Whether the key is there; None where no key is needed or the chat model holds its own."""
    live: LiveResult | None = None


@dataclass(frozen=True, slots=True)
class PoolReport:
    """All that a check found."""

    fingerprint: str
    price_list: str
    cards: tuple[CardFacts, ...]
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether every card can be used; warnings are allowed."""
        return all(finding.level != "error" for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        return {"ok": self.ok, **dataclasses.asdict(self)}


def check_pool(pool: ModelPool, live: Mapping[str, CallResult] | None = None) -> PoolReport:
    """Facts and findings about a pool; ``live`` is what :func:`call_each` gave."""
    findings: list[Finding] = []
    cards: list[CardFacts] = []
    if len(pool) == 1:
        text = "the pool has one card: nothing to choose from and nothing to fall back to"
        findings.append(Finding("warning", "one_card", None, text))
    for card in pool:
        build_error = _build_error(card)
        findings += _findings(card, build_error)
        result = None
        if live is not None and build_error is None and card.name in live:
            result = _live_result(live[card.name])
            findings += _live_findings(card, result)
        cards.append(_facts(card, card.name == pool.default, build_error, result))
    return PoolReport(pool.fingerprint, price_list(), tuple(cards), tuple(findings))


async def call_each(pool: ModelPool, *, timeout_s: float | None = None) -> dict[str, CallResult]:
    """Call every card once, all at the same time, without retries; each call costs a few tokens.

    ``timeout_s`` takes the place of the cards' own.
    """
    workers = Workers()
    messages = [HumanMessage(LIVE_PROMPT)]

    async def one(card: ModelCard) -> CallResult:
        seconds = card.timeout_s if timeout_s is None else timeout_s
        probe = dataclasses.replace(card, timeout_s=seconds, max_retries=0)
        call = PlannedCall(f"check_{card.name}", card.name, max_tokens=LIVE_MAX_TOKENS)
        try:
            return await workers.call(probe, call, messages, {}, CallTerms(pool=pool))
        finally:
            client = getattr(workers.model(probe), "http_async_client", None)
            if client is not None and not isinstance(card.model, BaseChatModel):
                await client.aclose()

    cards = [card for card in pool if _build_error(card) is None]
    results = await asyncio.gather(*map(one, cards))
    return {result.card: result for result in results}


def _build_error(card: ModelCard) -> ConfigurationError | None:
    try:
        build_chat_model(card)
    except ConfigurationError as error:
        return error
    return None


def _facts(
    card: ModelCard,
    default: bool,
    build_error: ConfigurationError | None,
    live: LiveResult | None,
) -> CardFacts:
    price = card.effective_price
    key_set: bool | None = None
    if card.api_key_env is not None:
        key_set = bool(os.environ.get(card.api_key_env))
    elif isinstance(card.model, str) and not (card.base_url and is_local(card.base_url)):
        key_set = None if _unknown(build_error) else build_error is None
    return CardFacts(
        name=card.name,
        model=card.model_name,
        provider=card.provider,
        base_url=card.base_url,
        default=default,
        price=None if price is None else price.to_dict(),
        price_source=None if price is None else price.source,
        context_window=card.context_window,
        max_output_tokens=card.max_output_tokens,
        capabilities=tuple(sorted(card.capabilities)),
        from_profile=tuple(sorted(card.from_profile)),
        key_variable=card.api_key_env,
        key_set=key_set,
        live=live,
    )


def _unknown(build_error: ConfigurationError | None) -> bool:
    """Whether the card failed for a reason that says nothing about its key."""
    return build_error is not None and not isinstance(build_error, MissingKeyError)


def _warning(card: ModelCard, code: str, text: str) -> Finding:
    return Finding("warning", code, card.name, f"card {card.name!r}: {text}")


def _findings(card: ModelCard, build_error: ConfigurationError | None) -> Iterable[Finding]:
    warn = partial(_warning, card)
    if build_error is not None:
        code = "missing_key" if isinstance(build_error, MissingKeyError) else "broken"
        yield Finding("error", code, card.name, str(build_error))
    listed = _listed(card)
    if card.effective_price is None:
        yield warn(
            "no_price",
            "no price is known, so its cost shows as unknown, and under any budget it is never "
            "called; give `price` in USD per million tokens",
        )
    if isinstance(card.price, Price) and listed is not None:
        yield from _price_differences(card, card.price)
    named = card.serves is not None or (card.provider is not None and card.base_url is None)
    if named and listed is None:
        yield warn(
            "unknown_to_list",
            f"{price_list()} does not know {card.published_name!r} of provider {card.maker!r}; "
            "check the name, or update genai-prices if the model is new",
        )
    if listed is not None and listed.deprecated:
        yield warn(
            "deprecated",
            f"{price_list()} marks {listed.id!r} as deprecated by its provider; plan its successor",
        )
    yield from _limit_findings(card, listed)
    if not card.description:
        yield warn(
            "no_description",
            "no description; policies that read cards know it by name and price alone",
        )
    url = card.base_url
    if url is not None and urlsplit(url).scheme == "http" and not is_local(url):
        yield warn(
            "plain_http",
            f"base_url {url} is plain http to another machine: prompts and key travel readable; "
            "use https",
        )


def _limit_findings(card: ModelCard, listed: ModelInfo | None) -> Iterable[Finding]:
    warn = partial(_warning, card)
    if card.context_window is None:
        known = None if listed is None else listed.context_window
        hint = "" if known is None else f" ({price_list()} says {known})"
        yield warn(
            "no_context_window",
            f"no context_window{hint}; a prompt that is too long is found only when the provider "
            "refuses it",
        )
    if card.max_output_tokens is None:
        yield warn(
            "no_max_output_tokens",
            f"no max_output_tokens; a budget reserves {DEFAULT_MAX_OUTPUT_TOKENS} output tokens "
            "for every call of it",
        )


def _price_differences(card: ModelCard, own: Price) -> Iterable[Finding]:
    published = None if card.published is None else published_price(*card.published)
    if published is None:
        return
    theirs, mine = published.to_dict(), own.to_dict()
    for kind in (kind for kind in mine if kind in theirs):
        if getattr(published, kind) != getattr(own, kind):
            yield _warning(
                card,
                "price_differs",
                f"price.{kind} is {mine[kind]} on the card and "
                f"{theirs[kind]} in {published.source} (USD per million tokens); the card's is "
                "used: correct it, or leave `price` out to follow the list",
            )


def _listed(card: ModelCard) -> ModelInfo | None:
    """The card's entry in genai-prices, None where it has none or its server is the user's own."""
    from genai_prices import Usage, calc_price

    if card.published is None:
        return None
    provider, name = card.published
    try:
        return calc_price(Usage(), name, provider_id=provider).model
    except (LookupError, ValueError):
        return None


def _live_result(result: CallResult) -> LiveResult:
    charge = result.charges[-1]
    usage = charge.usage
    # Cut at the check's own limit, a model of long thoughts has shown that it answers.
    ok = result.error in (None, ErrorClass.TRUNCATED)
    return LiveResult(
        ok=ok,
        latency_s=round(charge.latency_s, 3),
        served_model=charge.served_model,
        input_tokens=None if usage is None else usage.input_tokens,
        output_tokens=None if usage is None else usage.output_tokens,
        cost_usd=usd_str(charge.cost_usd),
        price_source=charge.price_source,
        error=None if ok or result.error is None else result.error.value,
        detail=None if ok else result.detail,
        fix=None if ok or result.error is None else FIXES.get(result.error, _OTHER_FIX),
    )


def _live_findings(card: ModelCard, result: LiveResult) -> Iterable[Finding]:
    if not result.ok:
        text = f"the live call failed ({result.error}): {result.detail}; {result.fix}"
        yield Finding("error", "live_failed", card.name, f"card {card.name!r}: {text}")
        return
    served = result.served_model
    # A dated version of the same model (gpt-5-mini-2025-08-07) is what was asked for.
    if served is not None and not served.startswith(card.model_name) and not is_of(card, served):
        text = f"asked for {card.model_name!r}, and {served!r} answered"
        yield _warning(card, "other_model_served", text)
    if result.input_tokens is None:
        text = "the answer names no token usage, so its cost stays unknown"
        yield _warning(card, "no_usage", text)
