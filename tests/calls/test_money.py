"""What an answer has cost: who says so, live or recorded."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.load import dumpd
from langchain_core.messages import AIMessage, HumanMessage
from pydantic import SecretStr

from xrouter_lg import ModelCard
from xrouter_lg.calls.attempt import Workers
from xrouter_lg.calls.money import cost_of, output_tokens_for, worst_case
from xrouter_lg.pool.fees import FEES
from xrouter_lg.pool.pricing import Price, published_price
from xrouter_lg.testing import ScriptedChatModel
from xrouter_lg.types import PlannedCall, TokenUsage

ONE = Price(input=Decimal(1), output=Decimal(1))
PLAIN = Price(input=Decimal(0), output=Decimal(10))
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


def test_what_is_free_costs_nothing_although_nobody_counts() -> None:
    free = Price(input=Decimal(0), output=Decimal(0))
    assert cost_of(AIMessage("hi"), None, free) == (0, "card")
    assert not Price(input=Decimal(0), output=Decimal(0), request=Decimal(1)).free


async def test_a_free_models_failure_costs_nothing() -> None:
    def fails(messages: Any) -> str:
        raise TimeoutError("slow")

    for usd, cost in ((0, 0), (1, None)):
        model = ScriptedChatModel(fails)
        asked = ModelCard(name="a", model=model, price={"input": usd, "output": usd}, max_retries=0)
        result = await Workers().call(asked, PlannedCall("c1", "a"), [HumanMessage("Hi")], {})
        assert [charge.cost_usd for charge in result.charges] == [cost]


@pytest.mark.parametrize(("usage", "price"), [(None, ONE), (MANY, None)])
def test_a_cost_without_usage_or_price_is_unknown(
    usage: TokenUsage | None, price: Price | None
) -> None:
    assert cost_of(AIMessage("hi"), usage, price) == (None, None)


RATES = st.decimals(0, 100, places=3)
MAYBE = st.none() | RATES
PRICES = st.builds(
    Price,
    input=RATES,
    output=RATES,
    cached_input=MAYBE,
    cache_write=MAYBE,
    cache_write_1h=MAYBE,
    input_audio=MAYBE,
    input_image=MAYBE,
    reasoning=MAYBE,
    output_audio=MAYBE,
    output_image=MAYBE,
    request=MAYBE,
    web_search=MAYBE,
    file_search=MAYBE,
    code_execution=MAYBE,
    image_tool_input=MAYBE,
    image_tool_output=MAYBE,
    input_audio_hour=MAYBE,
) | st.sampled_from(
    [
        published_price("anthropic", "claude-sonnet-4-5"),
        published_price("openai", "gpt-5"),
        published_price("google_genai", "gemini-2.5-flash"),
        published_price("google_genai", "gemini-2.5-pro"),
        published_price("perplexity", "sonar-pro"),
        published_price("xai", "grok-4-0709"),
    ]
)  # fmt: skip
COUNT = st.integers(0, 300_000)
SEARCHES = ("web_searches", "social_searches", "storage_searches")
UNITS = sorted(set(FEES).difference(SEARCHES))
"""What is billed beside tokens and searches."""


@st.composite
def usages(draw: st.DrawFn) -> TokenUsage:
    """Any usage whose parts are parts of their totals."""
    inputs, outputs = draw(COUNT), draw(COUNT)
    cached = draw(st.integers(0, inputs))
    written = draw(st.integers(0, inputs - cached))
    rest = inputs - cached - written
    kinds = {
        "cache_write_1h_tokens": draw(st.integers(0, written)),
        "input_audio_tokens": draw(st.integers(0, rest)),
        "output_audio_tokens": draw(st.integers(0, outputs)),
        "input_image_tokens": draw(st.integers(0, rest)),
        "output_image_tokens": draw(st.integers(0, outputs)),
        **{unit: draw(st.integers(0, 20)) for unit in SEARCHES},
        **{unit: draw(COUNT) for unit in draw(st.sets(st.sampled_from(UNITS)))},
    }
    unknown = {"input_new": draw(st.integers(0, rest)), "output_new": draw(st.integers(0, outputs))}
    return TokenUsage(
        inputs,
        outputs,
        cached,
        written,
        draw(st.integers(0, outputs)),
        {kind: n for kind, n in kinds.items() if n},
        {kind: n for kind, n in unknown.items() if n and draw(st.booleans())},
    )


@given(PRICES, usages(), COUNT, COUNT)
def test_no_usage_within_the_bound_costs_more_than_was_set_aside(
    price: Price, usage: TokenUsage, more_in: int, more_out: int
) -> None:
    searches = sum(usage.kinds.get(unit, 0) for unit in SEARCHES)
    units = {unit: n for unit, n in usage.kinds.items() if unit in UNITS}
    inputs, outputs = usage.input_tokens + more_in, usage.output_tokens + more_out
    assert price.cost(usage) <= price.worst_case(inputs, outputs, searches, units)


SENT_ALONG: list[dict[str, Any]] = [
    {"n": 5},
    {"extra_body": {"n": 3}},
    {"extra_body": {"max_completion_tokens": 9_000}},
    {"model_kwargs": {"response_format": {"schema": {"description": "d" * 5_000}}}},
    {"tools": [{"type": "web_search_20250305", "name": "web_search", "max_uses": 4}]},
    {"prediction": {"type": "content", "content": "word " * 1_000}},
    {"web_search_options": {}},
    {"model_kwargs": {"web_search_options": {"search_context_size": "high"}}},
    {"plugins": [{"id": "web", "max_results": 3}]},
    {"extra_body": {"search_parameters": {"mode": "on"}}},
    {"fallbacks": [{"model": "claude-opus-4-1", "max_tokens": 4_000}]},
    {"extra_body": {"models": ["m", "anthropic/claude-opus-4.1"]}},
    {"context_management": {"edits": [{"type": "compact_20260112", "trigger": {"value": 90}}]}},
    {"tools": [{"type": "advisor_20260301", "model": "claude-opus-4-5", "max_uses": 1}]},
]


def card(**params: Any) -> ModelCard:
    price = {"input": 1, "output": 10, "web_search": "0.02"}
    return ModelCard(
        name="a",
        model="m",
        base_url="http://127.0.0.1:1/v1",
        price=price,
        params=params,
        context_window=128_000,
    )


@pytest.mark.parametrize("params", SENT_ALONG, ids=lambda params: next(iter(params)))
def test_what_a_cards_params_send_along_is_set_aside(params: dict[str, Any]) -> None:
    plain, more = worst_case(card(), 100, 100), worst_case(card(**params), 100, 100)
    assert plain is not None
    assert more is not None
    assert more > plain


def test_other_models_that_may_answer_are_set_aside_for() -> None:
    opus = published_price("anthropic", "claude-opus-4-1")
    assert opus is not None

    def worst(**params: Any) -> Decimal | None:
        return worst_case(card(**params), 100, 100)

    plain = worst()
    assert plain is not None
    named = {"model": "claude-opus-4-1"}
    beside = worst(fallbacks=[named])
    assert beside is not None
    assert beside >= plain + opus.worst_case(100, 100)  # who declines amid its answer is billed
    routed = published_price("openrouter", "anthropic/claude-opus-4.1")
    instead = worst(models=["anthropic/claude-opus-4.1"])
    assert routed is not None
    assert instead is not None
    assert plain < routed.worst_case(100, 100) <= instead < beside
    own = worst(models=["m"])
    assert own is not None
    assert own - plain < Decimal("0.0001")  # the card's own model is none other
    assert worst(models=["a-model-of-unknown-price"]) is None


def test_an_advisor_is_set_aside_for_by_its_own_limits() -> None:
    opus = published_price("anthropic", "claude-opus-4-5")
    assert opus is not None
    tool = {"type": "advisor_20260301", "model": "claude-opus-4-5"}

    def more(**limits: Any) -> Decimal:
        found = worst_case(card(), 100, 100, {"tools": [tool | limits]})
        assert found is not None
        return found - Decimal("0.129")  # its advice may fill the window

    once = 128_000 * opus.rate("input") + 2_000 * opus.rate("output")
    assert more(max_uses=3, max_tokens=2_000) == 3 * once / 1_000_000
    assert more(max_uses=1) > more(max_uses=1, max_tokens=2_000)
    kept = more(max_uses=1, max_tokens=2_000, caching={"type": "ephemeral", "ttl": "1h"})
    assert kept == (once + 128_000 * opus.rate("input")) / 1_000_000


@pytest.mark.parametrize(
    ("edit", "times"),
    [
        ({"type": "compact_20260112"}, 1),
        ({"type": "compact_20260112", "trigger": {"type": "input_tokens", "value": 50_000}}, 2),
        ({"type": "clear_tool_uses_20250919"}, 1),
    ],
)
def test_a_prompt_that_may_be_compacted_is_asked_twice(edit: dict[str, Any], times: int) -> None:
    managed = {"context_management": {"edits": [edit]}}
    prompt = 60_000 - len(json.dumps(managed))
    plain = worst_case(card(), 60_000, 100)
    assert plain is not None
    assert worst_case(card(**managed), prompt, 100) == times * plain


def test_fees_of_searches_are_set_aside() -> None:
    window, fee = Decimal("0.128"), Decimal("0.02")
    plain = worst_case(card(), 100, 0) or Decimal(0)

    def more(bound: dict[str, Any]) -> Decimal:
        return (worst_case(card(), 100, 0, bound) or Decimal(0)) - plain

    assert more({"web_search_options": {}}) == fee
    assert more({"plugins": [{"id": "web"}]}) == window - Decimal("0.0001") + 5 * fee
    assert more({"plugins": [{"id": "web", "max_results": 2}]}) == window - Decimal("0.0001") + (
        2 * fee
    )
    live = {"mode": "on", "max_search_results": 4}
    assert more({"search_parameters": live}) == window - Decimal("0.0001") + 12 * fee


def test_what_a_handed_in_model_sends_along_is_set_aside_too() -> None:
    from langchain_openai import ChatOpenAI

    def handed(**settings: Any) -> Decimal:
        model = ChatOpenAI(model="m", api_key=SecretStr("k"), **settings)
        found = worst_case(ModelCard(name="a", model=model, price=PLAIN), 0, 100)
        assert found is not None
        return found

    assert handed() == Decimal("0.001")
    assert handed(n=5) == Decimal("0.005")
    assert handed(extra_body={"max_tokens": 1_000}) == Decimal("0.01")
    assert handed(model_kwargs={"web_search_options": {}}) > Decimal("0.01")


def test_a_service_tier_is_set_aside_for() -> None:
    plain = ModelCard(name="a", model="openai:gpt-5")
    dear = ModelCard(name="a", model="openai:gpt-5", params={"service_tier": "priority"})
    usual = worst_case(plain, 100, 100)
    assert usual is not None
    assert worst_case(dear, 100, 100) == 2 * usual
    assert worst_case(plain, 100, 100, {"service_tier": "priority"}) == 2 * usual
    assert dear.estimate_usd(100, 100) == 2 * (plain.estimate_usd(100, 100) or 0)


@pytest.mark.parametrize(
    ("said", "usd"),
    [
        ({"service_tier": "priority"}, "0.0045"),
        ({"usage": {"speed": "fast"}}, "0.0045"),
        ({"service_tier": "flex"}, "0.001125"),
        ({"service_tier": "default"}, "0.00225"),
        ({}, "0.00225"),
    ],
)
def test_an_answer_costs_what_its_service_tier_does(said: dict[str, Any], usd: str) -> None:
    answer = AIMessage("x", response_metadata=said)
    published = published_price("openai", "gpt-5")
    assert cost_of(answer, TokenUsage(1_000, 100), published)[0] == Decimal(usd)


def test_several_answers_and_searches_are_counted_one_by_one() -> None:
    assert worst_case(card(n=5), 0, 100) == Decimal("0.005")
    plain, four = worst_case(card(), 0, 100), worst_case(card(**SENT_ALONG[4]), 0, 100)
    assert plain is not None
    assert four is not None
    window = Decimal("0.128")  # which what they find may fill
    assert four - plain == window + Decimal("0.08")


@pytest.mark.parametrize(
    "params",
    [
        {"model_kwargs": {"previous_response_id": "resp_1"}},
        {"model_kwargs": {"prompt": {"id": "pmpt_1"}}},
        {"cached_content": "cachedContents/1"},
        {"tools": [{"type": "web_fetch_20250910", "name": "web_fetch"}]},
        {"tools": [{"type": "mcp", "server_label": "a", "server_url": "https://a.example"}]},
        {"tools": [{"code_execution": {}}]},
    ],
    ids=str,
)
def test_what_only_the_provider_knows_may_fill_the_window(params: dict[str, Any]) -> None:
    assert worst_case(card(**params), 100, 100) == Decimal("0.129")
    bound: dict[str, Any] = {"previous_response_id": "resp_1"}
    assert worst_case(card(), 100, 100, bound) == Decimal("0.129")


def test_a_tool_of_the_apps_own_fills_no_window() -> None:
    own = {"type": "function", "function": {"name": "search", "parameters": {}}}
    more, plain = worst_case(card(tools=[own]), 100, 100), worst_case(card(), 100, 100)
    assert more is not None
    assert plain is not None
    assert more - plain < Decimal("0.001")


@pytest.mark.parametrize("params", [{}, *SENT_ALONG])
@given(usd=st.decimals("0.0001", 1, places=5))
def test_the_tokens_that_a_sum_pays_for_fit_into_it(params: dict[str, Any], usd: Decimal) -> None:
    asked = card(**params)
    tokens = output_tokens_for(asked, usd, 100)
    assert tokens is not None
    if tokens:
        worst = worst_case(asked, 100, tokens)
        assert worst is not None
        assert worst <= usd
