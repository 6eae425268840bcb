"""Usage × price → USD, or None where that is not known. Pricing never fails a request."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import Any

from langchain_core.messages import BaseMessage

from xrouter_lg.errors import PoolError
from xrouter_lg.types import Usage

logger = logging.getLogger(__name__)

_MILLION = Decimal(1_000_000)
_KINDS = ("input", "cached_input", "cache_write", "output", "reasoning")


@dataclass(frozen=True, slots=True)
class Price:
    """USD per million tokens, by kind of token. A kind left out costs what its parent does:
    cached and cache-written tokens as input, reasoning tokens as output."""

    input: Decimal
    output: Decimal
    cached_input: Decimal | None = None
    cache_write: Decimal | None = None
    reasoning: Decimal | None = None
    source: str = "card"

    @classmethod
    def parse(cls, data: Mapping[str, Any], *, where: str) -> Price:
        """From a mapping such as ``{input: 0.02, output: 0.06}``.

        Raises:
            PoolError: an unknown kind, a missing ``input`` or ``output``, a value that is
                negative or no number. ``where`` names the place.
        """
        unknown = sorted(set(data) - set(_KINDS))
        if unknown:
            raise PoolError(f"{where}: unknown price {unknown[0]!r}; known: {', '.join(_KINDS)}")
        values: dict[str, Any] = {}
        for kind, raw in data.items():
            if raw is None:
                continue
            try:
                value = Decimal(str(raw))
            except InvalidOperation:
                value = Decimal("NaN")
            if isinstance(raw, bool) or not value.is_finite() or value < 0:
                raise PoolError(
                    f"{where}: price.{kind} is {raw!r}; it must be USD per million tokens, "
                    "a finite number, zero or more"
                )
            values[kind] = value
        for kind in ("input", "output"):
            if kind not in values:
                raise PoolError(
                    f"{where}: price.{kind} is missing; give USD per million tokens for input "
                    "and output, or leave `price` out to use genai-prices"
                )
        return cls(**values)

    def cost(self, usage: Usage) -> Decimal:
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


def reported_cost(message: BaseMessage) -> Decimal | None:
    """The cost in USD that a provider itself put into the response, as OpenRouter and LiteLLM do.

    It wins over any price list.
    """
    usage = message.response_metadata.get("token_usage")
    value = usage.get("cost") if isinstance(usage, Mapping) else None
    if value is None or isinstance(value, bool):
        return None
    try:
        cost = Decimal(str(value))
    except InvalidOperation:
        return None
    return cost if cost.is_finite() and cost >= 0 else None


@dataclass(frozen=True, slots=True)
class PublishedPrice(Price):
    """A price out of genai-prices' list. Attempts are priced by that package itself, which knows
    tiers by prompt length; the fields hold each kind's dearest tier, so that a budget that
    reserves by them is never too low."""

    model: str = ""
    provider: str | None = None

    def cost(self, usage: Usage) -> Decimal:
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
            return Price.cost(self, usage)


@lru_cache(maxsize=512)
def published_price(provider: str | None, model: str) -> PublishedPrice | None:
    """The price of a model in genai-prices' list, which is shipped with that package (nothing is
    fetched); None where the list does not have it."""
    from importlib.metadata import version

    from genai_prices import Usage as PricedUsage
    from genai_prices import calc_price

    try:
        listed = calc_price(PricedUsage(input_tokens=1), model, provider_id=provider).model_price
    except (LookupError, ValueError):
        return None
    rate = {kind: _dearest(getattr(listed, f"{kind}_mtok", None)) for kind in _LISTED_KINDS}
    if rate["input"] is None or rate["output"] is None:
        return None
    return PublishedPrice(
        input=rate["input"],
        output=rate["output"],
        cached_input=rate["cache_read"],
        cache_write=rate["cache_write"],
        source=f"genai-prices {version('genai-prices')}",
        model=model,
        provider=provider,
    )


_LISTED_KINDS = ("input", "output", "cache_read", "cache_write")


def _dearest(value: Any) -> Decimal | None:
    if value is None:
        return None
    tiers = getattr(value, "tiers", None)
    if tiers is None:
        return Decimal(str(value))
    return max(Decimal(str(value.base)), *(Decimal(str(tier.price)) for tier in tiers))
