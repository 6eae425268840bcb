"""The rules that take a card out of a request."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import HumanMessage

from xrouter_lg.calls.tokens import prompt_size
from xrouter_lg.errors import NoCandidateError
from xrouter_lg.pool.card import DEFAULT_MAX_OUTPUT_TOKENS, ModelCard
from xrouter_lg.pool.pool import ModelPool
from xrouter_lg.routing import constraints
from xrouter_lg.routing.constraints import LEAST_ANSWER_TOKENS, Candidates
from xrouter_lg.types import RouteRequest

ONE = {"input": 1, "output": 1}


def card(name: str, **fields: Any) -> ModelCard:
    return ModelCard(name=name, model="m", base_url="http://127.0.0.1:1/v1", **fields)


def request(**fields: Any) -> RouteRequest:
    return RouteRequest(messages=(HumanMessage("hi"),), **fields)


def apply(
    cards: list[ModelCard], ailing: frozenset[str] = frozenset(), **fields: Any
) -> Candidates:
    return constraints.apply(ModelPool(cards), request(**fields), lambda name: name in ailing)


def left(found: Candidates) -> list[str]:
    return [card.name for card in found.cards]


def test_without_a_reason_every_card_stays_in_the_pools_order() -> None:
    found = apply([card("b"), card("a")])
    assert left(found) == ["b", "a"]
    assert found.removed == {}


def test_only_allowed_cards_stay() -> None:
    found = apply([card("a"), card("b")], allow=frozenset({"b"}))
    assert left(found) == ["b"]
    assert constraints.texts(found.removed) == {"a": "not in the request's allow list"}


def test_an_empty_allow_list_allows_nothing() -> None:
    with pytest.raises(NoCandidateError):
        apply([card("a")], allow=frozenset())


def test_a_denied_card_goes() -> None:
    found = apply([card("a"), card("b")], deny=frozenset({"a"}))
    assert left(found) == ["b"]
    assert constraints.texts(found.removed) == {"a": "in the request's deny list"}


def test_deny_wins_over_allow() -> None:
    found = apply([card("a"), card("b")], allow=frozenset({"a", "b"}), deny=frozenset({"a"}))
    assert left(found) == ["b"]


def test_a_card_without_a_node_in_the_graph_goes() -> None:
    found = apply([card("a"), card("b")], unreachable=frozenset({"a"}))
    assert left(found) == ["b"]
    assert "build the graph again" in str(found.removed["a"])


@pytest.mark.parametrize("need", ["vision", "tools", "structured_output"])
def test_a_card_that_cant_do_what_the_request_needs_goes(need: str) -> None:
    cards = [card("without", capabilities=[]), card("with", capabilities=[need])]
    found = apply(cards, needs=frozenset({need}))
    assert left(found) == ["with"]
    assert constraints.texts(found.removed) == {"without": f"has no capability {need!r}"}


def test_an_image_for_a_pool_of_text_only_cards_names_the_capability_of_each() -> None:
    with pytest.raises(NoCandidateError) as caught:
        apply([card(name, capabilities={"tools"}) for name in "ab"], needs=frozenset({"vision"}))
    assert caught.value.removed == dict.fromkeys("ab", "has no capability 'vision'")


def test_a_card_of_which_nobody_knows_whether_it_sees_is_asked_where_none_is_known_to() -> None:
    assert left(apply([card("a"), card("b")], needs=frozenset({"vision"}))) == ["a", "b"]
    sees = card("c", capabilities={"vision"})
    assert left(apply([card("a"), sees], needs=frozenset({"vision"}))) == ["c"]


def test_a_prompt_that_just_leaves_room_for_an_answer_fits() -> None:
    window = 100
    found = apply([card("a", context_window=window)], prompt_tokens=window - LEAST_ANSWER_TOKENS)
    assert left(found) == ["a"]


def test_a_prompt_one_token_longer_does_not_fit() -> None:
    cards = [card("a", context_window=100), card("b", context_window=1000)]
    found = apply(cards, prompt_tokens=101 - LEAST_ANSWER_TOKENS)
    assert left(found) == ["b"]
    assert "context too long: about 85 tokens of prompt for a window of 100" in str(
        found.removed["a"]
    )


def test_a_context_longer_than_any_window_is_refused_with_each_window() -> None:
    with pytest.raises(NoCandidateError, match=r"(?s)'a'.*window of 100.*'b'.*window of 200"):
        apply([card("a", context_window=100), card("b", context_window=200)], prompt_tokens=900)


def test_an_unknown_window_is_never_a_reason() -> None:
    assert left(apply([card("a")], prompt_tokens=10**9)) == ["a"]


def test_chinese_text_fills_a_window_four_times_as_fast_as_english() -> None:
    small = [card("small", context_window=300), card("big")]
    english = prompt_size([HumanMessage("word" * 100)]).likely
    chinese = prompt_size([HumanMessage("漢字漢字" * 100)]).likely
    assert left(apply(small, prompt_tokens=english)) == ["small", "big"]
    assert left(apply(small, prompt_tokens=chinese)) == ["big"]


# --- health --------------------------------------------------------------------------------


def test_an_ailing_card_goes_while_a_healthy_one_is_left() -> None:
    found = apply([card("a"), card("b")], ailing=frozenset({"a"}))
    assert left(found) == ["b"]
    assert found.removed == {"a": constraints.CIRCUIT_OPEN}


def test_with_nothing_healthy_the_ailing_are_tried() -> None:
    found = apply([card("a"), card("b")], ailing=frozenset({"a", "b"}))
    assert left(found) == ["a", "b"]
    assert found.removed == {}


def test_an_ailing_card_is_tried_when_a_rule_removed_the_healthy_one() -> None:
    found = apply([card("a"), card("b")], ailing=frozenset({"a"}), deny=frozenset({"b"}))
    assert left(found) == ["a"]
    assert set(found.removed) == {"b"}


# --- budget --------------------------------------------------------------------------------


def test_a_card_whose_worst_case_just_fits_stays() -> None:
    # 1,000,000 tokens of prompt and 1,000,000 of answer at $1 each
    fits = card("a", price=ONE, max_output_tokens=1_000_000)
    found = apply([fits], prompt_tokens_max=1_000_000, remaining_usd=Decimal(2))
    assert left(found) == ["a"]


def test_a_card_whose_worst_case_is_too_dear_goes_with_both_amounts() -> None:
    dear = card("a", price=ONE, max_output_tokens=1_000_000)
    found = apply([dear], prompt_tokens_max=1_000_001, remaining_usd=Decimal(2))
    assert left(found) == []
    assert str(found.removed["a"]) == "budget: may cost $2.000001, $2 is left"


def test_a_card_of_unknown_price_goes_when_there_is_a_limit() -> None:
    found = apply([card("a"), card("b", price=ONE)], remaining_usd=Decimal(1))
    assert left(found) == ["b"]
    assert "price is unknown" in str(found.removed["a"])


def test_a_card_of_unknown_price_stays_without_a_limit() -> None:
    assert left(apply([card("a")])) == ["a"]


def test_when_only_money_is_short_nothing_is_left_and_nothing_is_raised() -> None:
    assert left(apply([card("a", price=ONE)], remaining_usd=Decimal("0.000001"))) == []


def test_a_card_without_an_output_limit_is_reckoned_at_the_usual_one() -> None:
    cap = constraints.output_cap(card("a"), request())
    assert cap == DEFAULT_MAX_OUTPUT_TOKENS


def test_an_answer_can_be_no_longer_than_what_the_prompt_leaves_of_the_window() -> None:
    one = card("a", context_window=1000, max_output_tokens=800)
    assert constraints.output_cap(one, request(prompt_tokens=100)) == 800
    assert constraints.output_cap(one, request(prompt_tokens=900)) == 100


def test_the_reservation_of_an_unknown_price_is_unknown() -> None:
    assert constraints.reserved_usd_for(card("a"), request(), 10) is None


def test_a_shorter_answer_reserves_less() -> None:
    one, it = card("a", price=ONE), request(prompt_tokens_max=10)
    assert constraints.reserved_usd_for(one, it, 20) == Decimal("0.00003")


# --- what is left of the money -------------------------------------------------------------


def cheapest(cards: list[ModelCard], usd: str, **fields: Any) -> tuple[str, int] | None:
    pool, it = ModelPool(cards), request(remaining_usd=Decimal(usd), **fields)
    removed = constraints.apply(pool, it, lambda name: False).removed
    found = constraints.cheapest_that_can(pool, removed, it)
    return None if found is None else (found[0].name, found[1])


def test_the_card_that_could_answer_at_most_length_gets_what_is_left() -> None:
    cards = [card("dear", price={"input": 1, "output": 10}), card("cheap", price=ONE)]
    # $0.001 pays for 900 tokens behind a prompt of 100 at $1, or 90 at $10
    assert cheapest(cards, "0.001", prompt_tokens_max=100) == ("cheap", 900)


def test_money_for_less_than_the_shortest_answer_finds_no_card() -> None:
    usd = Decimal(LEAST_ANSWER_TOKENS - 1) / 1_000_000
    assert cheapest([card("a", price=ONE)], str(usd)) is None


def test_money_for_just_the_shortest_answer_finds_a_card() -> None:
    usd = Decimal(LEAST_ANSWER_TOKENS) / 1_000_000
    assert cheapest([card("a", price=ONE)], str(usd)) == ("a", LEAST_ANSWER_TOKENS)


def test_a_card_that_another_rule_removed_is_not_taken_for_being_cheap() -> None:
    cards = [card("denied", price=ONE), card("dear", price={"input": 1, "output": 10})]
    found = cheapest(cards, "0.001", prompt_tokens_max=100, deny=frozenset({"denied"}))
    assert found == ("dear", 90)


def test_a_card_of_unknown_price_is_not_taken_for_being_cheap() -> None:
    cards = [card("unknown"), card("known", price=ONE)]
    found = cheapest(cards, "0.001")
    assert found is not None
    assert found[0] == "known"


@given(
    st.decimals(min_value="0.000001", max_value="0.01", places=6),
    st.integers(0, 5000),
    st.integers(0, 20),
)
def test_the_answer_that_is_paid_for_fits_the_money(usd: Decimal, prompt: int, rate: int) -> None:
    one = card("a", price={"input": 1, "output": rate}, max_output_tokens=100_000)
    pool, it = ModelPool([one]), request(remaining_usd=usd, prompt_tokens_max=prompt)
    removed = constraints.apply(pool, it, lambda name: False).removed
    found = constraints.cheapest_that_can(pool, removed, it)
    if found is not None:
        worst = constraints.reserved_usd_for(one, it, found[1])
        assert worst is not None
        assert worst <= usd
