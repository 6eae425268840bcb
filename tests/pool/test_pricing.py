"""What an attempt costs, and the most that it can cost."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import genai_prices
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xrouter_lg.pool.price_list import prices_ahead
from xrouter_lg.pool.pricing import Price, PublishedPrice, published_price
from xrouter_lg.types import TokenUsage

TIERED = ("anthropic", "claude-sonnet-4-5")
"""$3/$15 up to 200,000 tokens of prompt, $6/$22.5 above; cached 0.3/0.6, written 3.75/7.5."""

RATES = st.decimals(min_value=0, max_value=1000, places=4)


@st.composite
def prices(draw: st.DrawFn) -> Price:
    optional = st.none() | RATES
    return Price(draw(RATES), draw(RATES), draw(optional), draw(optional), draw(optional))


@st.composite
def usages(draw: st.DrawFn, most: int = 2_000_000) -> TokenUsage:
    inputs, outputs = draw(st.integers(0, most)), draw(st.integers(0, most))
    cached = draw(st.integers(0, inputs))
    written = draw(st.integers(0, inputs - cached))
    return TokenUsage(inputs, outputs, cached, written, draw(st.integers(0, outputs)))


def price(**rates: str) -> Price:
    return Price(**{"input": "1", "output": "10", **rates})  # type: ignore[arg-type]


# --- by hand -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rates", "usage", "usd"),
    [
        ({}, TokenUsage(1_000_000, 0), "1"),
        ({}, TokenUsage(0, 1_000_000), "10"),
        ({}, TokenUsage(1, 1), "0.000011"),
        # 600 plain at 1, 400 cached at 0.1
        ({"cached_input": "0.1"}, TokenUsage(1000, 0, cached_input_tokens=400), "0.00064"),
        # 700 plain at 1, 300 written at 1.25
        ({"cache_write": "1.25"}, TokenUsage(1000, 0, cache_write_tokens=300), "0.001075"),
        # 300 plain, 400 cached at 0.1, 300 written at 1.25
        ({"cached_input": "0.1", "cache_write": "1.25"}, TokenUsage(1000, 0, 400, 300), "0.000715"),
        # 20 plain at 10, 80 reasoning at 5
        ({"reasoning": "5"}, TokenUsage(0, 100, reasoning_tokens=80), "0.0006"),
        # kinds without a rate of their own cost what their parent does
        ({}, TokenUsage(1000, 100, 400, 300, 80), "0.002"),
        # a rate of zero is a rate
        ({"cached_input": "0"}, TokenUsage(1000, 0, cached_input_tokens=1000), "0"),
    ],
)
def test_the_cost_is_what_one_computes_by_hand(
    rates: dict[str, str], usage: TokenUsage, usd: str
) -> None:
    assert price(**rates).cost(usage) == Decimal(usd)


def test_the_cost_is_exact_where_floats_are_not() -> None:
    assert price(input="0.1", output="0.2").cost(TokenUsage(1, 1)) == Decimal("0.0000003")


def test_a_sum_of_many_small_costs_is_exact() -> None:
    one = price(input="0.07").cost(TokenUsage(1, 0))
    assert sum([one] * 1_000_000, Decimal(0)) == Decimal("0.07")


def test_more_cached_tokens_than_tokens_never_make_a_negative_cost() -> None:
    assert price(cached_input="0").cost(TokenUsage(10, 0, cached_input_tokens=20)) == 0


# --- worst case ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rates", "usd"),
    [
        ({}, "0.0011"),
        ({"cache_write": "1.25"}, "0.001125"),
        ({"reasoning": "30"}, "0.0031"),
        ({"cached_input": "0.1", "reasoning": "5"}, "0.0011"),
    ],
)
def test_the_worst_case_takes_every_token_at_its_dearest_kind(
    rates: dict[str, str], usd: str
) -> None:
    assert price(**rates).worst_case(100, 100) == Decimal(usd)


@given(prices(), usages(), st.integers(0, 1000), st.integers(0, 1000))
def test_no_usage_within_the_bounds_costs_more_than_the_worst_case(
    price: Price, usage: TokenUsage, more_in: int, more_out: int
) -> None:
    bound = price.worst_case(usage.input_tokens + more_in, usage.output_tokens + more_out)
    assert 0 <= price.cost(usage) <= bound


@given(prices(), st.decimals(0, 100, places=6), st.integers(0, 1_000_000))
def test_the_output_tokens_that_money_pays_for_are_paid_for(
    price: Price, usd: Decimal, inputs: int
) -> None:
    tokens = price.output_tokens_for(usd, inputs)
    if tokens:
        assert price.worst_case(inputs, tokens) <= usd


@given(prices(), st.decimals(0, 100, places=6), st.integers(0, 1_000_000))
def test_one_output_token_more_would_be_too_dear(price: Price, usd: Decimal, inputs: int) -> None:
    tokens = price.output_tokens_for(usd, inputs)
    if tokens is not None:
        assert price.worst_case(inputs, tokens + 1) > usd


def test_free_output_is_limited_by_nothing() -> None:
    assert price(output="0").output_tokens_for(Decimal(1), 10) is None


def test_free_output_is_no_help_where_the_prompt_is_too_dear() -> None:
    assert price(output="0").output_tokens_for(Decimal("0.000001"), 10) == 0


def test_a_price_shows_only_the_kinds_it_has() -> None:
    assert price(cached_input="0.10").to_dict() == {
        "input": "1",
        "output": "10",
        "cached_input": "0.10",
    }


# --- published -----------------------------------------------------------------------------


def published(provider: str | None, model: str) -> PublishedPrice:
    found = published_price(provider, model)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("provider", "model"),
    [("openai", "no-such-model"), ("no-such-provider", "gpt-4o"), (None, "x")],
)
def test_a_model_that_the_list_does_not_have_has_no_price(provider: str, model: str) -> None:
    assert published_price(provider, model) is None


def test_a_published_price_names_its_source_and_version() -> None:
    assert published("openai", "gpt-4o-mini").source == f"genai-prices {genai_prices.__version__}"


def test_a_published_price_knows_cached_tokens() -> None:
    # 600 at 0.15, 400 at 0.075, 100 at 0.6
    usd = published("openai", "gpt-4o-mini").cost(TokenUsage(1000, 100, cached_input_tokens=400))
    assert usd == Decimal("0.00018")


def test_langchains_name_of_a_provider_finds_its_price() -> None:
    assert published("google_genai", "gemini-2.5-pro").input == Decimal("1.25")


@pytest.mark.parametrize(
    ("inputs", "usd"), [(200_000, "0.6015"), (200_001, "1.202256")], ids=["below", "above"]
)
def test_a_tiered_price_is_that_of_the_prompts_length(inputs: int, usd: str) -> None:
    assert published(*TIERED).cost(TokenUsage(inputs, 100)) == Decimal(usd)


def test_a_tiered_price_shows_the_rates_of_a_short_prompt() -> None:
    shown = published(*TIERED)
    assert (shown.input, shown.output) == (Decimal(3), Decimal(15))


def test_a_short_prompt_of_a_tiered_price_reserves_no_more_than_its_own_tier() -> None:
    # Everything could be written to the cache for an hour: 6; output at 15.
    assert published(*TIERED).worst_case(1000, 100) == Decimal("0.0075")


def test_a_long_prompt_of_a_tiered_price_reserves_the_dear_tier() -> None:
    assert published(*TIERED).worst_case(200_001, 100) == Decimal("2.402262")


@pytest.mark.parametrize(("inputs", "rate"), [(200_000, 3), (200_001, 6)])
def test_an_estimate_takes_the_tier_of_the_prompts_length(inputs: int, rate: int) -> None:
    assert published(*TIERED).at(inputs).input == rate


@given(usages(most=600_000))
def test_no_usage_of_a_tiered_price_costs_more_than_the_worst_case(usage: TokenUsage) -> None:
    tiered = published(*TIERED)
    bound = tiered.worst_case(usage.input_tokens, usage.output_tokens)
    assert tiered.cost(usage) <= bound


@given(usages(most=600_000), st.integers(0, 400_000), st.integers(0, 1000))
def test_a_looser_bound_never_reserves_less(usage: TokenUsage, more_in: int, more_out: int) -> None:
    tiered = published(*TIERED)
    loose = tiered.worst_case(usage.input_tokens + more_in, usage.output_tokens + more_out)
    assert loose >= tiered.cost(usage)


@given(st.integers(0, 400_000), st.decimals(0, 10, places=6))
def test_what_a_tiered_price_can_pay_for_is_paid_for(inputs: int, usd: Decimal) -> None:
    tokens = published(*TIERED).output_tokens_for(usd, inputs)
    if tokens:
        assert published(*TIERED).worst_case(inputs, tokens) <= usd


@pytest.mark.parametrize("model", ["deepseek-chat", "deepseek-reasoner", "deepseek-flash"])
@pytest.mark.parametrize("hour", range(24))
def test_a_price_that_is_lower_at_night_reserves_for_the_day(model: str, hour: int) -> None:
    moment = datetime.now(UTC).replace(minute=31) + timedelta(hours=hour)
    usd = genai_prices.calc_price(
        genai_prices.Usage(input_tokens=1000, output_tokens=1000),
        model,
        provider_id="deepseek",
        genai_request_timestamp=moment,
    ).total_price
    assert published("deepseek", model).worst_case(1000, 1000) >= usd


def test_a_rate_of_another_hour_is_among_those_reserved_for() -> None:
    from genai_prices.types import ConditionalPrice, ModelInfo, ModelPrice, TimeOfDateConstraint

    start = datetime.now(UTC) + timedelta(hours=8)
    hours = TimeOfDateConstraint(start.timetz(), (start + timedelta(hours=4)).timetz())
    now, then = (ModelPrice(input_mtok=Decimal(n), output_mtok=Decimal(n)) for n in (1, 7))
    entries = [ConditionalPrice(prices=now), ConditionalPrice(constraint=hours, prices=then)]
    model = ModelInfo(id="m", match=None, prices=entries)  # type: ignore[arg-type]
    rates = {price.input_mtok for price in prices_ahead(model)}
    assert rates == {Decimal(1), Decimal(7)}


def test_usage_that_the_list_refuses_is_priced_by_its_plain_rates(
    caplog: pytest.LogCaptureFixture,
) -> None:
    # 20 cached of 10 tokens: genai-prices raises; 20 at 0.075 is left.
    usd = published("openai", "gpt-4o-mini").cost(TokenUsage(10, 0, cached_input_tokens=20))
    assert usd == Decimal("0.0000015")
    assert "can't price 'gpt-4o-mini'" in caplog.text


def test_a_price_that_starts_on_a_later_date_is_reserved_for_already() -> None:
    from genai_prices.types import ConditionalPrice, ModelInfo, ModelPrice, StartDateConstraint

    later = datetime.now(UTC).date() + timedelta(days=40)
    now, then = (ModelPrice(input_mtok=Decimal(n), output_mtok=Decimal(n)) for n in (1, 7))
    entries = [
        ConditionalPrice(prices=now),
        ConditionalPrice(constraint=StartDateConstraint(later), prices=then),
    ]
    model = ModelInfo(id="m", match=None, prices=entries)  # type: ignore[arg-type]
    rates = {price.input_mtok for price in prices_ahead(model)}
    assert rates == {Decimal(1), Decimal(7)}


def test_a_service_tier_has_the_rates_of_its_own() -> None:
    plain, usage = published("openai", "gpt-5"), TokenUsage(1000, 100, cached_input_tokens=400)
    assert plain.cost(usage) == Decimal("0.0018")  # 600 at 1.25, 400 at 0.125, 100 at 10
    assert plain.in_tier("priority").cost(usage) == Decimal("0.0036")
    assert plain.in_tier("flex").cost(usage) == Decimal("0.0009")
    assert plain.in_tier("flex").in_tier("default").cost(usage) == Decimal("0.0018")
    assert plain.in_tier("default") is plain.in_tier("auto") is plain.in_tier(None) is plain
    assert plain.in_tier("priority").worst_case(1000, 100) == 2 * plain.worst_case(1000, 100)


def test_a_cards_own_price_is_that_of_every_tier() -> None:
    own = price(input="1", output="2")
    assert own.in_tier("priority") is own


def test_searches_in_files_have_a_fee_of_their_own() -> None:
    usage = TokenUsage(0, 0, kinds={"storage_searches": 2, "web_searches": 1})
    assert price(input="1", output="2").cost(usage) == Decimal("0.015")
    assert price(input="1", output="2", file_search="1").cost(usage) == Decimal("2.01")
    assert published("openai", "gpt-5").cost(usage) == Decimal("0.015")
