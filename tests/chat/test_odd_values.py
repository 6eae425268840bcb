"""Whatever a caller passes, a routed model answers or says what is wrong with it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.apps import scripted
from xrouter_lg import ChatXRouter, ModelPool
from xrouter_lg.errors import BudgetExceededError, RequestError
from xrouter_lg.graph.request import OPTIONS

MODEL = ChatXRouter(ModelPool([scripted("small"), scripted("large")]), policy="cheapest")

odd = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@given(st.sampled_from([*OPTIONS, "model", "max_tokens"]), odd)
def test_an_option_of_any_value_is_taken_or_refused_by_name(option: str, value: Any) -> None:
    said = outcome(option, value)
    assert said in ("small", "large") or option in said or "no card" in said


def outcome(option: str, value: Any) -> str:
    """The card that answered, or what was wrong."""
    try:
        message = MODEL.invoke("Hi", **{option: value})
    except (RequestError, BudgetExceededError) as error:
        return str(error)
    return str(message.response_metadata["xrouter"]["route"])


@given(st.lists(st.tuples(st.sampled_from(["user", "assistant", "system"]), st.text()), min_size=1))
def test_any_conversation_is_answered(messages: list[tuple[str, str]]) -> None:
    assert MODEL.invoke(messages).text in ("small answers", "large answers")


@pytest.mark.parametrize(
    "value", [42, {"a": 1}, [object()], [("nobody", "x")]], ids=["number", "dict", "object", "role"]
)
def test_what_is_no_conversation_is_an_error_of_value(value: Any) -> None:
    with pytest.raises((ValueError, NotImplementedError)):
        MODEL.invoke(value)


def test_a_bound_model_keeps_what_was_bound_apart() -> None:
    plain, dialled = MODEL.bind(model="large"), MODEL.bind(model="xrouter:0.5")
    assert plain.invoke("Hi").response_metadata["xrouter"]["route"] == "large"
    assert dialled.invoke("Hi").response_metadata["xrouter"]["cost_weight"] == 0.5
    assert MODEL.invoke("Hi").response_metadata["xrouter"]["cost_weight"] == 0.0
