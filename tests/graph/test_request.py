"""From a state and a config to a request."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import BaseMessage, HumanMessage, SystemMessage

from tests.support.apps import scripted
from xrouter_lg import Budget, ModelPool, Router, RouteRequest
from xrouter_lg.errors import RequestError, RequestOptionError
from xrouter_lg.graph.request import build_request, to_messages

POOL = ModelPool([scripted("small"), scripted("large")])
ROUTER = Router(POOL, cost_weight=0.25, max_turns=2)
HI = [HumanMessage("Hi")]


def build(**configurable: Any) -> RouteRequest:
    return build_request(HI, configurable, ROUTER)


def test_a_text_is_the_users_question() -> None:
    assert to_messages("Hi", "q") == [HumanMessage("Hi")]


def test_one_message_is_a_conversation_of_one() -> None:
    assert to_messages(HumanMessage("Hi"), "q") == HI


@pytest.mark.parametrize(
    "value", [[("user", "Hi")], [{"role": "user", "content": "Hi"}], ["Hi"]], ids=repr
)
def test_messages_of_any_shape_are_understood(value: Any) -> None:
    assert [(m.type, m.content) for m in to_messages(value, "q")] == [("human", "Hi")]


def test_the_given_messages_are_not_copied_or_changed() -> None:
    given_messages = [SystemMessage("s"), HumanMessage("Hi")]
    assert [a is b for a, b in zip(to_messages(given_messages, "q"), given_messages, strict=True)]


def test_defaults_come_from_the_router() -> None:
    request = build()
    assert (request.cost_weight, request.max_turns, request.allow) == (0.25, 2, None)
    assert (request.deny, request.max_cost_usd, request.thread_id) == (frozenset(), None, None)


def test_every_option_is_read() -> None:
    request = build(
        cost_weight=1,
        quality_target=0.9,
        allow=["Small"],
        deny=("large",),
        max_cost_usd="0.01",
        thread_id=7,
        tenant="acme",
    )
    assert (request.cost_weight, request.quality_target) == (1.0, 0.9)
    assert (request.allow, request.deny) == (frozenset({"small"}), frozenset({"large"}))
    assert (request.max_cost_usd, request.thread_id, request.tenant) == (
        Decimal("0.01"),
        "7",
        "acme",
    )


def test_none_means_not_given() -> None:
    assert build(cost_weight=None, allow=None, deny=None, max_cost_usd=None) == build()


def test_one_name_may_stand_for_a_list() -> None:
    assert build(allow="small").allow == frozenset({"small"})


def test_a_weight_of_zero_is_a_weight() -> None:
    assert build(cost_weight=0).cost_weight == 0.0


def test_the_smaller_limit_holds() -> None:
    router = Router(POOL, budget=Budget("0.5"))
    limits = [
        build_request(HI, {"max_cost_usd": own}, router).max_cost_usd for own in ("0.1", "9", None)
    ]
    assert limits == [Decimal("0.1"), Decimal("0.5"), Decimal("0.5")]


def test_tools_need_a_card_with_tools() -> None:
    request = build_request(HI, {}, ROUTER, tools=[{"name": "x"}], needs=["structured_output"])
    assert request.needs == {"tools", "structured_output"}


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("cost_weight", -0.1),
        ("cost_weight", float("nan")),
        ("cost_weight", float("inf")),
        ("cost_weight", "0.3"),
        ("cost_weight", True),
        ("cost_weight", [1]),
        ("quality_target", 0),
        ("quality_target", 1.1),
        ("quality_target", "high"),
        ("quality_target", True),
        ("quality_target", float("nan")),
        ("max_cost_usd", 0),
        ("max_cost_usd", -1),
        ("max_cost_usd", "a lot"),
        ("max_cost_usd", float("nan")),
        ("max_cost_usd", "Infinity"),
        ("max_cost_usd", True),
        ("max_cost_usd", [1]),
        ("allow", 3),
        ("allow", [3]),
        ("allow", ["router"]),
        ("deny", 3),
        ("deny", ["größe!"]),
        ("deny", [None]),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_a_bad_value_names_the_option_and_the_value(option: str, value: Any) -> None:
    with pytest.raises(RequestOptionError) as caught:
        build(**{option: value})
    text = str(caught.value)
    assert f'config["configurable"]["{option}"]' in text
    shown = value[0] if isinstance(value, list) and option in ("allow", "deny") else value
    assert repr(shown) in text


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)


@given(
    st.sampled_from(["cost_weight", "quality_target", "allow", "deny", "max_cost_usd"]), json_like
)
def test_any_value_is_taken_or_refused_as_an_option(option: str, value: Any) -> None:
    refused = _error_of(lambda: build(**{option: value}))
    assert refused is None or option in refused


@given(json_like)
def test_any_state_value_is_messages_or_a_request_error(value: Any) -> None:
    found: list[Any] = []
    refused = _error_of(lambda: found.extend(to_messages(value, "messages")))
    if refused is None:
        assert found and all(isinstance(message, BaseMessage) for message in found)
    else:
        assert "messages" in refused


def _error_of(action: Callable[[], Any]) -> str | None:
    """The text of a request error; anything else goes through and fails the test."""
    try:
        action()
    except RequestError as error:
        return str(error)
    return None
