"""What a provider itself says of the bill."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from langchain_core.messages import AIMessage

from xrouter_lg.said import RAW_USAGE_KEY, reported_cost, served_model


@pytest.mark.parametrize(
    ("meta", "usd"),
    [
        ({"token_usage": {"cost": 0.0123}}, "0.0123"),
        ({"usage": {"cost": "0.0123"}}, "0.0123"),
        ({RAW_USAGE_KEY: [{"prompt_tokens": 1}, {"cost": 0.0123}]}, "0.0123"),
        ({"cost": 0.0123}, "0.0123"),
        ({"token_usage": {"estimated_cost": 0.0123}}, "0.0123"),
        ({"token_usage": {"cost": {"request_cost": 0.01, "total_cost": 0.0123}}}, "0.0123"),
        ({"token_usage": {"cost_in_usd_ticks": 123_000_000}}, "0.0123"),
        ({"headers": {"x-litellm-response-cost": "0.0123"}}, "0.0123"),
        ({"_hidden_params": {"response_cost": 0.0123}}, "0.0123"),
        ({"token_usage": {"cost": 0}}, "0"),
    ],
)
def test_the_providers_own_cost_is_found_in_every_shape(meta: dict[str, Any], usd: str) -> None:
    assert reported_cost(AIMessage("x", response_metadata=meta)) == Decimal(usd)


def test_with_a_key_of_the_users_own_the_upstream_bill_counts_too() -> None:
    usage = {"cost": 0.001, "is_byok": True, "cost_details": {"upstream_inference_cost": 0.02}}
    assert reported_cost(AIMessage("x", response_metadata={"token_usage": usage})) == Decimal(
        "0.021"
    )
    usage["is_byok"] = False
    assert reported_cost(AIMessage("x", response_metadata={"token_usage": usage})) == Decimal(
        "0.001"
    )


@pytest.mark.parametrize(("cost", "usd"), [(0, "0.02"), (0.001, "0.021"), (0.02, "0.02")])
def test_a_bill_below_the_upstream_one_is_of_a_key_of_the_users_own(cost: float, usd: str) -> None:
    meta = {"cost": cost, "cost_details": {"upstream_inference_cost": 0.02}}
    assert reported_cost(AIMessage("x", response_metadata=meta)) == Decimal(usd)


def test_an_answer_out_of_langchains_cache_costs_nothing() -> None:
    count = {"input_tokens": 5, "output_tokens": 5, "total_tokens": 10, "total_cost": 0}
    assert reported_cost({"type": "ai", "content": "x", "usage_metadata": count}) == 0


@pytest.mark.parametrize("cost", [-1, "free", float("nan"), True, None, {}, [0.1]])
def test_a_cost_that_is_none_is_not_one(cost: Any) -> None:
    assert reported_cost(AIMessage("x", response_metadata={"token_usage": {"cost": cost}})) is None


def test_the_served_model_has_several_names_for_its_place() -> None:
    for key in ("model_name", "model", "model_id"):
        assert served_model(AIMessage("x", response_metadata={key: "m"})) == "m"
    assert served_model(AIMessage("x")) is None
