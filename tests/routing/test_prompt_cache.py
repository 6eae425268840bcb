"""What a provider's prompt cache is worth in a decision."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage

from xrouter_lg import ModelCard, ModelPool, RouteRequest
from xrouter_lg.policies.base import by_price, expected_usd
from xrouter_lg.routing.prompt_cache import KEPT_S, warm_tokens
from xrouter_lg.routing.router import Router

NOW = 1_700_000_000.0


def card(name: str, *, own: bool = False, **price: float) -> ModelCard:
    where = {"base_url": "http://127.0.0.1:9/v1"} if own else {}
    model = name if own else f"openai:{name}"
    return ModelCard(name=name, model=model, price=price, **where)  # type: ignore[arg-type]


POOL = ModelPool(
    [
        card("cheap", input=1.0, cached_input=0.5, output=1.0),
        card("dear", input=2.0, cached_input=0.2, output=1.0),
        card("writes", input=2.0, cached_input=0.2, cache_write=2.5, output=1.0),
        card("own", own=True, input=2.0, cached_input=0.2, output=1.0),
    ]
)


def said(
    route: str, prompt: int = 2000, output: int = 100, *, ago: float = 10.0, **details: int
) -> AIMessage:
    usage: Any = {
        "input_tokens": prompt,
        "output_tokens": output,
        "total_tokens": prompt + output,
        "input_token_details": details,
    }
    record = {"route": route, "started_at": NOW - ago, "latency_s": 0.0}
    return AIMessage("x", usage_metadata=usage, response_metadata={"xrouter": record})


def warm(*messages: BaseMessage, prompt_tokens: int = 5000) -> dict[str, int]:
    return warm_tokens([HumanMessage("?"), *messages], POOL, NOW, prompt_tokens)


def test_what_a_card_read_and_said_is_warm_for_it_alone() -> None:
    assert warm(said("dear")) == {"dear": 2100}
    assert warm(said("dear"), said("cheap", 2200)) == {"dear": 2100, "cheap": 2300}
    assert warm(said("dear", 2000), said("dear", 2500)) == {"dear": 2600}


def test_a_cache_forgets_and_holds_no_more_than_the_prompt() -> None:
    assert warm(said("dear", ago=KEPT_S + 1)) == {}
    assert warm(said("dear"), prompt_tokens=900) == {"dear": 900}


def test_a_record_from_a_checkpoint_says_when_its_answer_ended() -> None:
    for age, tokens in ((10, {"dear": 2100}), (KEPT_S + 1, {})):
        message = said("dear")
        message.response_metadata["xrouter"] = {"route": "dear", "ended_at": int(NOW - age)}
        assert warm(message) == tokens


def test_a_hosted_model_caches_long_prompts_and_a_server_of_one_s_own_any() -> None:
    assert warm(said("dear", 500)) == {}
    assert warm(said("own", 500)) == {"own": 600}


def test_where_writing_is_billed_only_what_was_written_is_there() -> None:
    assert warm(said("writes")) == {}
    assert warm(said("writes", cache_creation=1500, cache_read=400)) == {"writes": 1900}


@pytest.mark.parametrize(
    "record", [None, {}, {"route": "dear"}, {"route": "gone", "started_at": 1}]
)
def test_messages_of_others_say_nothing(record: Any) -> None:
    metadata = {} if record is None else {"xrouter": record}
    assert warm(AIMessage("x", response_metadata=metadata)) == {}


def test_staying_costs_the_cached_rate_and_a_switch_the_whole_prompt() -> None:
    request = RouteRequest([HumanMessage("?")], prompt_tokens=2100, warm_tokens={"dear": 2000})
    # 100 x 2 + 2000 x 0.2 + 10 x 1, and 2100 x 1 + 10 x 1, in USD per million tokens
    assert expected_usd(POOL["dear"], request, 10) == Decimal("0.00061")
    assert expected_usd(POOL["cheap"], request, 10) == Decimal("0.00211")
    assert by_price(POOL.cards, request)[0].name == "dear"
    cold = RouteRequest([HumanMessage("?")], prompt_tokens=2100)
    assert by_price(POOL.cards, cold)[0].name == "cheap"


async def test_a_policy_by_cost_stays_while_the_cache_is_warm(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    request = RouteRequest([HumanMessage("?")], prompt_tokens=2100, warm_tokens={"dear": 2000})
    decision = await Router(POOL, "cheapest").decide(request, POOL)
    assert decision.calls[0].card == "dear"
