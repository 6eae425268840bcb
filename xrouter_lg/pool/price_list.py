"""What genai-prices' list says of a model: its names, its rates, by tier, length and hour."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, ModelPrice, PriceContext

_PLAIN_TIERS = frozenset({"auto", "default", "standard", "on_demand", "standard_only"})
"""Service tiers at the rates that a price list shows first."""


def tier_name(tier: str | None) -> str | None:
    """A service tier by its name in the list; None for one at the usual rates."""
    name = None if tier is None else tier.lower()
    return None if name in _PLAIN_TIERS else name


def price_context(tier: str | None) -> dict[str, str] | None:
    """How the list tells a tier: OpenAI's and Google's, or Anthropic's speed."""
    return None if tier is None else {"service_tier": tier, "speed": tier}


@lru_cache(maxsize=512)
def listed_as(model: str) -> tuple[str, str] | None:
    """The provider and the name under which the published list knows a model by any of its names;
    None where it does not."""
    from genai_prices import Usage as PricedUsage
    from genai_prices import calc_price

    try:
        found = calc_price(PricedUsage(input_tokens=1), model)
    except (LookupError, ValueError):
        return None
    return found.provider.id, found.model.id


def price_list() -> str:
    """The published list by name. It carries no date of its own: its version is what tells its
    age."""
    from importlib.metadata import version

    return f"genai-prices {version('genai-prices')}"


def prices_ahead(model: ModelInfo, context: PriceContext | None = None) -> list[ModelPrice]:
    """The rates that a request may meet from now on: of every hour of the day, since some
    providers are cheaper at night, and from every announced date on."""
    now = datetime.now(UTC)
    moments = [now + timedelta(hours=hour) for hour in range(24)]
    for entry in model.prices if isinstance(model.prices, list) else ():
        start = getattr(entry.constraint, "start_date", None)
        if start is not None and start > now.date():
            moments.append(datetime.combine(start, time(12), UTC))
    return [model.get_prices(moment, context) for moment in moments]


def rates_by_length(
    prices: Iterable[ModelPrice],
) -> list[tuple[int, dict[str, Decimal]]] | None:
    """Each kind's dearest rate among ``prices`` (USD per million tokens; each, of a fee) by length
    of prompt, from its start in tokens on; None where input or output has no rate."""
    prices = list(prices)
    listed = [getattr(price, kind, None) for price in prices for kind in _LISTED]
    starts = {0} | {tier.start for value in listed for tier in getattr(value, "tiers", ())}
    steps: list[tuple[int, dict[str, Decimal]]] = []
    for start in sorted(starts):
        rates: dict[str, Decimal] = {}
        for key, (kind, per) in _LISTED.items():
            known = [value for price in prices if (value := getattr(price, key, None)) is not None]
            rate = max((_tier(value, start) for value in known), default=None)
            if rate is not None:
                rates[kind] = max(rate / per, rates.get(kind, Decimal(0)))
        if "input" not in rates or "output" not in rates:
            return None
        steps.append((start, rates))
    return steps


_LISTED = {
    "input_mtok": ("input", 1),
    "output_mtok": ("output", 1),
    "cache_read_mtok": ("cached_input", 1),
    "cache_write_mtok": ("cache_write", 1),
    "cache_write_5m_mtok": ("cache_write", 1),
    "cache_write_1h_mtok": ("cache_write_1h", 1),
    "input_audio_mtok": ("input_audio", 1),
    "input_image_mtok": ("input_image", 1),
    "output_reasoning_mtok": ("reasoning", 1),
    "output_citation_mtok": ("reasoning", 1),
    "output_audio_mtok": ("output_audio", 1),
    "output_image_mtok": ("output_image", 1),
    "requests_kcount": ("request", 1_000),
    "web_searches_kcount": ("web_search", 1_000),
    "storage_searches_kcount": ("file_search", 1_000),
    "code_executions_kcount": ("code_execution", 1_000),
    "input_audio_hours": ("input_audio_hour", 1),
}
"""Rates in genai-prices' list by our names, and how many of ours are in one of theirs."""


def _tier(value: Any, start: int) -> Decimal:
    """The rate of a prompt one token longer than ``start``."""
    rate = Decimal(str(getattr(value, "base", value)))
    for tier in getattr(value, "tiers", ()):
        if tier.start <= start:
            rate = Decimal(str(tier.price))
    return rate
