"""Usage × price → USD, or None where that is not known. Pricing never fails a request."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from xrouter_lg.errors import PoolError
from xrouter_lg.json_text import shown
from xrouter_lg.pool.fees import FEES, SECOND_MODEL, is_fee, unit_and_model
from xrouter_lg.pool.price_list import (
    listed_as,
    price_context,
    price_list,
    prices_ahead,
    rates_by_length,
    tier_name,
)
from xrouter_lg.types import TokenUsage

if TYPE_CHECKING:
    from genai_prices.types import ModelPrice

logger = logging.getLogger(__name__)

_MILLION = Decimal(1_000_000)
_KINDS = (
    "input",
    "cached_input",
    "cache_write",
    "cache_write_1h",
    "input_audio",
    "input_image",
    "output",
    "reasoning",
    "output_audio",
    "output_image",
    "request",
    "web_search",
    "file_search",
    "code_execution",
    "image_tool_input",
    "image_tool_output",
    "input_audio_hour",
)
_INPUT_KINDS = ("cached_input", "cache_write", "cache_write_1h", "input_audio", "input_image")
_OUTPUT_KINDS = ("reasoning", "output_audio", "output_image")

_SEARCHES = ("web_searches", "social_searches", "storage_searches")
_NONE: Mapping[str, int] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Price:
    """USD per million tokens, by kind of token, and fees in USD each.

    A kind left out costs what its parent does: ``cache_write_1h`` (kept for an hour) as
    ``cache_write``, every other part of the input as ``input``, every part of the output as
    ``output``. ``request`` is a fee per request (0 where left out). What a provider's own tools do
    has fees too, the dearest published ones (:data:`~xrouter_lg.pool.fees.FEES`) where left out:
    ``web_search`` for a search, ``file_search`` for one in files that it keeps, ``code_execution``
    for a container of 1 GB in which it runs code; ``image_tool_input`` and ``image_tool_output``
    are per million tokens of the model that makes a picture, ``input_audio_hour`` is for sound that
    is billed by its length.

    Raises:
        PoolError: a value that is negative or no number. Floats become the decimals they print as.
    """

    input: Decimal
    output: Decimal
    cached_input: Decimal | None = None
    cache_write: Decimal | None = None
    reasoning: Decimal | None = None
    cache_write_1h: Decimal | None = None
    input_audio: Decimal | None = None
    input_image: Decimal | None = None
    output_audio: Decimal | None = None
    output_image: Decimal | None = None
    request: Decimal | None = None
    web_search: Decimal | None = None
    source: str = "card"
    file_search: Decimal | None = None
    code_execution: Decimal | None = None
    image_tool_input: Decimal | None = None
    image_tool_output: Decimal | None = None
    input_audio_hour: Decimal | None = None
    _rates: Mapping[str, Decimal] = field(init=False, repr=False, compare=False)
    """Every kind's rate, its parent's where it has none of its own."""
    _dearest: Mapping[str, Decimal] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for kind in _KINDS:
            raw = getattr(self, kind)
            if raw is not None or kind in ("input", "output"):
                object.__setattr__(self, kind, _rate(raw, kind))
        rates = {kind: self._own_rate(kind) for kind in (*_INPUT_KINDS, *_OUTPUT_KINDS)}
        rates |= {"input": self.input, "output": self.output}
        dearest = {
            "input": max(rates[kind] for kind in ("input", *_INPUT_KINDS)),
            "output": max(rates[kind] for kind in ("output", *_OUTPUT_KINDS)),
        }
        object.__setattr__(self, "_rates", rates)
        object.__setattr__(self, "_dearest", dearest)

    @classmethod
    def parse(cls, data: Mapping[str, Any], *, where: str) -> Price:
        """From a mapping such as ``{input: 0.02, output: 0.06}``.

        Raises:
            PoolError: an unknown kind, a missing ``input`` or ``output``, a value that is
                negative or no number. ``where`` names the place.
        """
        unknown = sorted(set(data) - set(_KINDS), key=str)
        if unknown:
            raise PoolError(
                f"{where}: unknown price {shown(unknown[0])}; known: {', '.join(_KINDS)}"
            )
        values = {kind: raw for kind, raw in data.items() if raw is not None}
        for kind in ("input", "output"):
            if kind not in values:
                raise PoolError(
                    f"{where}: price.{kind} is missing; give USD per million tokens for input "
                    "and output, or leave `price` out to use genai-prices"
                )
        try:
            return cls(**values)
        except PoolError as error:
            raise PoolError(f"{where}: {error}") from None

    def at(self, input_tokens: int) -> Price:
        """The rates for a prompt of this length: the same for every length, but for a published
        price with tiers."""
        return self

    def at_most(self, input_tokens: int) -> Price:
        """The dearest rates that a prompt of this length can meet."""
        return self

    def in_tier(self, tier: str | None) -> Price:
        """The rates of a service tier (``flex``, ``priority``); of a published price only: a card's
        own is what its user pays. None: whatever the card asks for."""
        return self

    def cost(self, usage: TokenUsage) -> Decimal:
        """USD of one attempt. Tokens of a kind that nobody knows cost the dearest rate of their
        side."""
        kinds = usage.kinds
        hour = min(kinds.get("cache_write_1h_tokens", 0), usage.cache_write_tokens)
        parts_in = {
            "cached_input": usage.cached_input_tokens,
            "cache_write": usage.cache_write_tokens - hour,
            "cache_write_1h": hour,
            "input_audio": kinds.get("input_audio_tokens", 0),
            "input_image": kinds.get("input_image_tokens", 0),
        }
        parts_out = {
            "reasoning": usage.reasoning_tokens,
            "output_audio": kinds.get("output_audio_tokens", 0),
            "output_image": kinds.get("output_image_tokens", 0),
        }
        tokens = _side(usage.input_tokens, parts_in, usage.unknown, "input", self)
        tokens += _side(usage.output_tokens, parts_out, usage.unknown, "output", self)
        return tokens / _MILLION + (self.request or 0) + self.fees(kinds)

    def rate(self, kind: str) -> Decimal:
        """USD per million tokens of a kind, its parent's where it has none of its own."""
        return self._rates[kind]

    @property
    def free(self) -> bool:
        """Whether nothing is charged, however much is asked and said."""
        return not (self._dearest["input"] or self._dearest["output"] or self.request)

    def dearest(self, side: str) -> Decimal:
        """The dearest rate of ``input`` or ``output``."""
        return self._dearest[side]

    def _own_rate(self, kind: str) -> Decimal:
        own: Decimal | None = getattr(self, kind)
        if own is not None:
            return own
        if kind == "cache_write_1h":
            return self._own_rate("cache_write")
        return self.input if kind in _INPUT_KINDS else self.output

    def fees(self, kinds: Mapping[str, int]) -> Decimal:
        """What the units of a usage cost that are billed beside the model's tokens (USD)."""
        usd = Decimal(0)
        for kind, count in kinds.items():
            if count and is_fee(kind):
                usd += self._fee(kind, count)
        return usd

    def _fee(self, kind: str, count: int = 1) -> Decimal:
        unit, model = unit_and_model(kind)
        maker = price_of(model) if model else None
        if unit in SECOND_MODEL:
            side, rate = SECOND_MODEL[unit]
            return count * (self.dearest(side) if maker is None else maker.rate(rate)) / _MILLION
        fee = FEES[unit]
        own: Decimal | None = getattr(self, fee.key)
        if own is not None:
            return count * own * fee.times / fee.per
        if maker is not None and fee.rate is not None:
            return count * maker.rate(fee.rate) / fee.per
        return count * fee.usual / fee.per

    def worst_case(
        self,
        input_tokens: int,
        output_tokens: int,
        searches: int = 0,
        units: Mapping[str, int] = _NONE,
    ) -> Decimal:
        """The most that an attempt of this size can cost (USD): every token at its dearest kind,
        every search, of whichever kind, at the dearest fee, and ``units`` of other kinds that are
        billed beside the tokens."""
        most = self.at_most(input_tokens)
        tokens = input_tokens * most.dearest("input") + output_tokens * most.dearest("output")
        fees = searches * max(most._fee(kind) for kind in _SEARCHES) if searches else 0
        return tokens / _MILLION + (most.request or 0) + fees + most.fees(units)

    def output_tokens_for(
        self,
        usd: Decimal,
        input_tokens: int,
        searches: int = 0,
        units: Mapping[str, int] = _NONE,
    ) -> int | None:
        """How many output tokens ``usd`` pays for after ``input_tokens``, both at their dearest;
        None when output is free."""
        dearest = self.at_most(input_tokens).dearest("output")
        left = usd - self.worst_case(input_tokens, 0, searches, units)
        if dearest == 0:
            return None if left >= 0 else 0
        return max(0, int(left * _MILLION / dearest))

    def to_dict(self) -> dict[str, str]:
        pairs = ((kind, getattr(self, kind)) for kind in _KINDS)
        return {kind: str(value) for kind, value in pairs if value is not None}


@dataclass(frozen=True, slots=True)
class PublishedPrice(Price):
    """A price out of genai-prices' list. Attempts are priced by that package itself, which knows
    tiers by prompt length and rates by time of day. The fields hold the rates of a short prompt
    at the time of the look-up."""

    model: str = ""
    provider: str | None = None
    tier: str | None = None
    """The service tier that these rates are of, where it is not the usual one."""
    tiers: tuple[tuple[int, Price], ...] = ()
    """Rates for prompts longer than so many tokens, ascending, the first from 0."""
    ceilings: tuple[tuple[int, Price], ...] = ()
    """As ``tiers``, each kind at the dearest rate that a prompt of this length can meet at any
    hour and after any announced change: what a budget reserves by is never too low."""

    def at(self, input_tokens: int) -> Price:
        return _step(self.tiers, input_tokens, self)

    def in_tier(self, tier: str | None) -> Price:
        if tier is None or tier_name(tier) == self.tier:
            return self
        return published_price(self.provider, self.model, tier) or self

    def at_most(self, input_tokens: int) -> Price:
        return _step(self.ceilings, input_tokens, self)

    def cost(self, usage: TokenUsage) -> Decimal:
        # Not super(): slots=True makes a new class, and zero-argument super() keeps the old.
        ours = Price.cost(self.at(usage.input_tokens), usage)
        return ours if usage.unknown else self._priced(usage, ours)

    def _priced(self, usage: TokenUsage, otherwise: Decimal) -> Decimal:
        from genai_prices import Usage as PricedUsage
        from genai_prices import calc_price

        counts = {
            "input_tokens": usage.input_tokens,
            "cache_read_tokens": usage.cached_input_tokens,
            "cache_write_tokens": usage.cache_write_tokens,
            "output_tokens": usage.output_tokens,
            "output_reasoning_tokens": usage.reasoning_tokens,
            **{kind: n for kind, n in usage.kinds.items() if not is_fee(kind)},
        }
        given = {kind: n for kind, n in counts.items() if n}
        if usage.cached_input_tokens and "input_audio_tokens" in given:
            given.setdefault("cache_audio_read_tokens", 0)  # the list asks where they overlap
        counted = PricedUsage(**given)
        try:
            found = calc_price(
                counted,
                self.model,
                provider_id=self.provider,
                price_context=price_context(self.tier),
            ).total_price
        except (LookupError, ValueError) as error:
            logger.warning("genai-prices can't price %r: %s; list price used", self.model, error)
            return otherwise
        return found + self.fees(usage.kinds)


@lru_cache(maxsize=512)
def published_price(
    provider: str | None, model: str, tier: str | None = None
) -> PublishedPrice | None:
    """The price of a model in genai-prices' list, which is shipped with that package (nothing is
    fetched); None where the list does not have it. ``tier``: the service tier of the request, at
    the usual rates where the list knows no others."""
    from genai_prices import Usage as PricedUsage
    from genai_prices import calc_price

    tier = tier_name(tier)
    context = price_context(tier)
    try:
        found = calc_price(
            PricedUsage(input_tokens=1), model, provider_id=provider, price_context=context
        )
    except (LookupError, ValueError):
        return None
    source = price_list()
    tiers = _steps([found.model_price], source)
    if tiers is None:
        return None
    base = tiers[0][1]
    return PublishedPrice(
        **{kind: getattr(base, kind) for kind in _KINDS},
        source=source,
        model=model,
        provider=provider,
        tier=tier,
        tiers=tiers,
        ceilings=_steps(prices_ahead(found.model, context), source) or tiers,
    )


@lru_cache(maxsize=64)
def price_of(model: str) -> PublishedPrice | None:
    """The published price of a model, whoever makes it."""
    listed = listed_as(model)
    return None if listed is None else published_price(*listed)


def _steps(prices: Iterable[ModelPrice], source: str) -> tuple[tuple[int, Price], ...] | None:
    """Prices by length of prompt; None where a price has no rate for input or output."""
    rates = rates_by_length(prices)
    if rates is None:
        return None
    return tuple((start, Price(**of, source=source)) for start, of in rates)


def _step(steps: tuple[tuple[int, Price], ...], input_tokens: int, otherwise: Price) -> Price:
    """The last step that starts below a prompt's length."""
    found = otherwise
    for start, price in steps:
        if start < input_tokens or start == 0:
            found = price
    return found


def _side(
    total: int, parts: Mapping[str, int], unknown: Mapping[str, int], side: str, price: Price
) -> Decimal:
    """USD of a million times one side's tokens. Where parts overlap (cached sound), a token counts
    as the dearest part that it may be of."""
    base = price.input if side == "input" else price.output
    if not unknown and not any(parts.values()):
        return max(total, 0) * base
    strange = sum(n for name, n in unknown.items() if name.startswith(side))
    rated = [(price.rate(kind), n) for kind, n in parts.items()]
    left, cost = max(total, strange, *parts.values()), Decimal(0)
    for rate, tokens in sorted([*rated, (price.dearest(side), strange)], reverse=True):
        counted = min(tokens, left)
        cost += counted * rate
        left -= counted
    return cost + left * base


_LEAST, _MOST = Decimal("1e-9"), Decimal(10**9)


def _rate(raw: Any, kind: str) -> Decimal:
    value = Decimal("NaN")
    if not isinstance(raw, bool):
        with contextlib.suppress(InvalidOperation, ValueError):  # an integer too long for a text
            value = Decimal(str(raw))
    if not (value == 0 or (value.is_finite() and _LEAST <= value <= _MOST)):
        raise PoolError(
            f"price.{kind} is {shown(raw)}; it must be USD per million tokens (a fee: USD "
            f"each), a finite number, zero or more (from {_LEAST:f} to {_MOST:,})"
        )
    return value
