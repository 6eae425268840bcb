"""What an answer has cost: who says so, live or recorded."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from langchain_core.load import dumpd
from langchain_core.messages import AIMessage

from xrouter_lg.calls.money import cost_of
from xrouter_lg.pool.pricing import Price
from xrouter_lg.types import TokenUsage

ONE = Price(input=Decimal(1), output=Decimal(1))
MANY = TokenUsage(1_000_000, 1_000_000)


@pytest.fixture(params=["live", "recorded"])
def told(request: pytest.FixtureRequest) -> Any:
    """An answer whose provider told its cost."""
    message = AIMessage("hi", response_metadata={"token_usage": {"cost": 0.5}})
    return message if request.param == "live" else dumpd(message)


def test_the_providers_own_figure_wins_over_tokens_times_price(told: Any) -> None:
    assert cost_of(told, MANY, ONE) == (Decimal("0.5"), "provider")


def test_the_providers_own_figure_needs_neither_usage_nor_price(told: Any) -> None:
    assert cost_of(told, None, None) == (Decimal("0.5"), "provider")


def test_what_no_provider_told_is_tokens_times_price() -> None:
    assert cost_of(AIMessage("hi"), MANY, ONE) == (Decimal(2), "card")
    assert cost_of(None, MANY, ONE) == (Decimal(2), "card")


@pytest.mark.parametrize(("usage", "price"), [(None, ONE), (MANY, None)])
def test_a_cost_without_usage_or_price_is_unknown(
    usage: TokenUsage | None, price: Price | None
) -> None:
    assert cost_of(AIMessage("hi"), usage, price) == (None, None)
