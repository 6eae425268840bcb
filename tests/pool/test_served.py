"""The price of the model that has answered, whichever was asked."""

from __future__ import annotations

from decimal import Decimal

import pytest

from xrouter_lg import ModelCard
from xrouter_lg.errors import PoolError
from xrouter_lg.pool.names import same_model
from xrouter_lg.pool.served import price_as_served

GATEWAY = "https://gateway.example/v1"


def card(name: str, model: str, usd: float, base_url: str | None = GATEWAY) -> ModelCard:
    price = {"input": usd, "output": usd}
    return ModelCard(name=name, model=model, base_url=base_url, price=price, api_key_env="KEY")


SMALL, LARGE = card("small", "gpt-4.1-nano", 1), card("large", "claude-opus-4-1", 9)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("gpt-4.1-nano", "gpt-4.1-nano-2025-04-14"),
        ("claude-opus-4-1", "anthropic/claude-opus-4-1-20250805"),
        ("claude-sonnet-4", "us.anthropic.claude-sonnet-4-20250514-v1:0"),
        ("claude-sonnet-4-5@20250929", "claude-sonnet-4-5"),
        ("mistral-large-latest", "mistral-large-2411"),
        ("gemini-2.0-flash", "models/gemini-2.0-flash-001"),
        ("deepseek/deepseek-r1:free", "deepseek-r1"),
        ("qwen2.5-0.5b", "/weights/Qwen2.5-0.5B.gguf"),
        ("grok-4", "grok-4-0709"),
        ("openai.gpt-oss-120b-1:0", "gpt-oss-120b"),
    ],
)
def test_names_of_one_model(one: str, other: str) -> None:
    assert same_model(one, other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("gpt-5", "gpt-5-mini"),
        ("gpt-4.1", "gpt-4"),
        ("claude-opus-4-1", "claude-opus-4"),
        ("o1", "o3"),
    ],
)
def test_names_of_two_models(one: str, other: str) -> None:
    assert not same_model(one, other)


@pytest.mark.parametrize(
    ("served", "usd"),
    [
        (None, 1),
        ("gpt-4.1-nano-2025-04-14", 1),
        ("anthropic/claude-opus-4-1", 9),
        ("gpt-5-pro", None),
    ],
)
def test_a_gateway_is_charged_as_it_served(served: str | None, usd: int | None) -> None:
    price = price_as_served(SMALL, served, [SMALL, LARGE])
    assert (price and price.input) == (None if usd is None else Decimal(usd))


def test_a_strangers_price_is_looked_up_at_its_provider() -> None:
    own = card("a", "openai:gpt-5-mini", 1, base_url=None)
    price = price_as_served(own, "gpt-5-nano-2025-08-07", [own])
    assert price is not None
    assert price.input == Decimal("0.05")


def test_a_server_of_the_users_own_names_its_models_as_it_likes() -> None:
    own = card("a", "my-alias", 1)
    price = price_as_served(own, "whatever-it-is-called", [own])
    assert price is not None
    assert price.input == 1


@pytest.mark.parametrize("alias", ["claude-opus-4-0", "anthropic/claude-opus-4-0"])
def test_an_alias_that_the_published_list_knows_is_the_cards(alias: str) -> None:
    asked = card("a", alias, 3)
    price = price_as_served(asked, "claude-opus-4-20250514", [asked])
    assert price is not None
    assert price.input == 3


def test_a_deployment_at_azure_has_its_cards_price() -> None:
    asked = card("a", "azure_openai:our-deployment", 3, base_url=None)
    price = price_as_served(asked, "gpt-4o-2024-11-20", [asked])
    assert price is not None
    assert price.input == 3
    unpriced = ModelCard(name="b", model="azure_openai:our-deployment")
    published = price_as_served(unpriced, "gpt-4o-2024-11-20", [unpriced])
    assert published is not None
    assert published.source.startswith("genai-prices")


@pytest.mark.parametrize("serves", ["openai:gpt-4o", "gpt-4o"])
@pytest.mark.parametrize("served", ["smart", "gpt-4o-2024-11-20", "azure/gpt-4o", None])
def test_a_card_says_which_model_a_gateway_serves_by_its_name(
    serves: str, served: str | None
) -> None:
    price = {"input": 1, "output": 1}
    asked = ModelCard(name="a", model="smart", base_url=GATEWAY, price=price, serves=serves)
    found = price_as_served(asked, served, [SMALL, asked])
    assert found is not None
    assert found.input == 1
    assert price_as_served(asked, "gpt-5-pro", [asked]) is None  # the gateway's price for it


def test_what_a_gateway_serves_has_its_published_price_and_profile() -> None:
    asked = ModelCard(name="a", model="smart", base_url=GATEWAY, serves="openai:gpt-5-mini")
    plain = ModelCard(name="a", model="openai:gpt-5-mini")
    assert asked.effective_price == plain.effective_price is not None
    assert (asked.capabilities, asked.context_window) == (plain.capabilities, plain.context_window)
    assert asked.from_profile == plain.from_profile
    assert ModelCard(name="a", model="smart", base_url=GATEWAY).effective_price is None


def test_serves_takes_a_name() -> None:
    with pytest.raises(PoolError, match="serves is 5"):
        ModelCard(name="a", model="smart", base_url=GATEWAY, serves=5)  # type: ignore[arg-type]
