"""USD of one call: what it has cost, the most it can cost, and limits that a user sets."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import Any

from xrouter_lg.errors import ConfigurationError
from xrouter_lg.pool.pool import DEFAULT_MAX_OUTPUT_TOKENS, ModelCard
from xrouter_lg.pool.pricing import Price
from xrouter_lg.said import reported_cost
from xrouter_lg.types import TokenUsage

_HINT_FRAME_TOKENS = 64


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


def worst_case(card: ModelCard, prompt_tokens_max: int, max_tokens: int | None) -> Decimal | None:
    """The most one attempt can cost (USD), None where the card's price is unknown."""
    price = card.effective_price
    if price is None:
        return None
    outputs = max_tokens or card.max_output_tokens or DEFAULT_MAX_OUTPUT_TOKENS
    return price.worst_case(prompt_tokens_max, outputs)


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
