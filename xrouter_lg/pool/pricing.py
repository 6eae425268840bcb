"""Usage × price → USD, or None where that is not known. Pricing never fails a request."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from xrouter_lg.errors import PoolError
from xrouter_lg.types import TokenUsage

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, ModelPrice

logger = logging.getLogger(__name__)

_MILLION = Decimal(1_000_000)
_KINDS = ("input", "cached_input", "cache_write", "output", "reasoning")


@dataclass(frozen=True, slots=True)
class Price:
    """USD per million tokens, by kind of token. A kind left out costs what its parent does:
    cached and cache-written tokens as input, reasoning tokens as output.

    Raises:
        PoolError: a value that is negative or no number. Floats become the decimals they print as.
    """

    input: Decimal
    output: Decimal
    cached_input: Decimal | None = None
    cache_write: Decimal | None = None
    reasoning: Decimal | None = None
    source: str = "card"

    def __post_init__(self) -> None:
        for kind in _KINDS:
            raw = getattr(self, kind)
            if raw is not None or kind in ("input", "output"):
                object.__setattr__(self, kind, _rate(raw, kind))

    @classmethod
    def parse(cls, data: Mapping[str, Any], *, where: str) -> Price:
        """From a mapping such as ``{input: 0.02, output: 0.06}``.

        Raises:
            PoolError: an unknown kind, a missing ``input`` or ``output``, a value that is
                negative or no number. ``where`` names the place.
        """
        unknown = sorted(set(data) - set(_KINDS), key=str)
        if unknown:
            raise PoolError(f"{where}: unknown price {unknown[0]!r}; known: {', '.join(_KINDS)}")
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

    def cost(self, usage: TokenUsage) -> Decimal:
        """USD of one attempt."""
        plain_in = max(0, usage.input_tokens - usage.cached_input_tokens - usage.cache_write_tokens)
        plain_out = max(0, usage.output_tokens - usage.reasoning_tokens)
        cached = self.input if self.cached_input is None else self.cached_input
        write = self.input if self.cache_write is None else self.cache_write
        reasoning = self.output if self.reasoning is None else self.reasoning
        return (
            plain_in * self.input
            + usage.cached_input_tokens * cached
            + usage.cache_write_tokens * write
            + plain_out * self.output
            + usage.reasoning_tokens * reasoning
        ) / _MILLION

    def worst_case(self, input_tokens: int, output_tokens: int) -> Decimal:
        """The most that an attempt of this size can cost (USD): every token at its dearest kind."""
        dearest_in = max(self.input, self.cached_input or 0, self.cache_write or 0)
        dearest_out = max(self.output, self.reasoning or 0)
        return (input_tokens * dearest_in + output_tokens * dearest_out) / _MILLION

    def output_tokens_for(self, usd: Decimal, input_tokens: int) -> int | None:
        """How many output tokens ``usd`` pays for after ``input_tokens``, both at their dearest;
        None when output is free."""
        dearest_out = max(self.output, self.reasoning or 0)
        left = usd - self.worst_case(input_tokens, 0)
        if dearest_out == 0:
            return None if left >= 0 else 0
        return max(0, int(left * _MILLION / dearest_out))

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
    tiers: tuple[tuple[int, Price], ...] = ()
    """Rates for prompts longer than so many tokens, ascending, the first from 0."""
    ceilings: tuple[tuple[int, Price], ...] = ()
    """As ``tiers``, each kind at the dearest rate that a prompt of this length can meet at any
    hour and after any announced change: what a budget reserves by is never too low."""

    def at(self, input_tokens: int) -> Price:
        return _step(self.tiers, input_tokens, self)

    def worst_case(self, input_tokens: int, output_tokens: int) -> Decimal:
        ceiling = _step(self.ceilings, input_tokens, self)
        return Price.worst_case(ceiling, input_tokens, output_tokens)

    def output_tokens_for(self, usd: Decimal, input_tokens: int) -> int | None:
        return Price.output_tokens_for(_step(self.ceilings, input_tokens, self), usd, input_tokens)

    def cost(self, usage: TokenUsage) -> Decimal:
        from genai_prices import Usage as PricedUsage
        from genai_prices import calc_price

        counted = PricedUsage(
            input_tokens=usage.input_tokens,
            cache_read_tokens=usage.cached_input_tokens or None,
            cache_write_tokens=usage.cache_write_tokens or None,
            output_tokens=usage.output_tokens,
        )
        try:
            return calc_price(counted, self.model, provider_id=self.provider).total_price
        except (LookupError, ValueError) as error:
            logger.warning("genai-prices can't price %r: %s; list price used", self.model, error)
            # Not super(): slots=True makes a new class, and zero-argument super() keeps the old.
            return Price.cost(self.at(usage.input_tokens), usage)


@lru_cache(maxsize=512)
def published_price(provider: str | None, model: str) -> PublishedPrice | None:
    """The price of a model in genai-prices' list, which is shipped with that package (nothing is
    fetched); None where the list does not have it."""
    from genai_prices import Usage as PricedUsage
    from genai_prices import calc_price

    try:
        found = calc_price(PricedUsage(input_tokens=1), model, provider_id=provider)
    except (LookupError, ValueError):
        return None
    source = price_list()
    tiers = _steps([found.model_price], source)
    if tiers is None:
        return None
    base = tiers[0][1]
    return PublishedPrice(
        input=base.input,
        output=base.output,
        cached_input=base.cached_input,
        cache_write=base.cache_write,
        source=source,
        model=model,
        provider=provider,
        tiers=tiers,
        ceilings=_steps(_prices_ahead(found.model), source) or tiers,
    )


def price_list() -> str:
    """The published list by name. It carries no date of its own: its version is what tells its
    age."""
    from importlib.metadata import version

    return f"genai-prices {version('genai-prices')}"


def _prices_ahead(model: ModelInfo) -> list[ModelPrice]:
    """The rates that a request may meet from now on: of every hour of the day, since some
    providers are cheaper at night, and from every announced date on."""
    now = datetime.now(UTC)
    moments = [now + timedelta(hours=hour) for hour in range(24)]
    for entry in model.prices if isinstance(model.prices, list) else ():
        start = getattr(entry.constraint, "start_date", None)
        if start is not None and start > now.date():
            moments.append(datetime.combine(start, time(12), UTC))
    return [model.get_prices(moment) for moment in moments]


def _steps(prices: Iterable[ModelPrice], source: str) -> tuple[tuple[int, Price], ...] | None:
    """Each kind's dearest rate among ``prices`` by length of prompt; None where a price has no
    rate for input or output."""
    prices = list(prices)
    listed = [getattr(price, kind) for price in prices for kind in _LISTED]
    starts = {0} | {tier.start for value in listed for tier in getattr(value, "tiers", ())}
    steps = []
    for start in sorted(starts):
        rates: dict[str, Any] = {}
        for key, kind in _LISTED.items():
            known = [value for price in prices if (value := getattr(price, key)) is not None]
            rates[kind] = max((_tier(value, start) for value in known), default=None)
        if rates["input"] is None or rates["output"] is None:
            return None
        steps.append((start, Price(**rates, source=source)))
    return tuple(steps)


def _step(steps: tuple[tuple[int, Price], ...], input_tokens: int, otherwise: Price) -> Price:
    """The last step that starts below a prompt's length."""
    found = otherwise
    for start, price in steps:
        if start < input_tokens or start == 0:
            found = price
    return found


_LISTED = {
    "input_mtok": "input",
    "output_mtok": "output",
    "cache_read_mtok": "cached_input",
    "cache_write_mtok": "cache_write",
}
"""Rates in genai-prices' list by our names."""


def _tier(value: Any, start: int) -> Decimal:
    """The rate of a prompt one token longer than ``start``."""
    rate = Decimal(str(getattr(value, "base", value)))
    for tier in getattr(value, "tiers", ()):
        if tier.start <= start:
            rate = Decimal(str(tier.price))
    return rate


def _rate(raw: Any, kind: str) -> Decimal:
    try:
        value = Decimal(str(raw))
    except InvalidOperation:
        value = Decimal("NaN")
    if isinstance(raw, bool) or not value.is_finite() or value < 0:
        raise PoolError(
            f"price.{kind} is {raw!r}; it must be USD per million tokens, a finite number, "
            "zero or more"
        )
    return value
