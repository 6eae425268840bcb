"""Requests and responses of providers' own clients, as tracers keep them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xrouter_lg import said
from xrouter_lg.errors import ErrorClass
from xrouter_lg.said.wire import asked_in, replies_in, tool_choice_in, tools_in
from xrouter_lg.types import TokenUsage

CALL = {"name": "weather", "args": {"city": "Rome"}, "id": "c1"}
FUNCTION = {"name": "weather", "arguments": '{"city": "Rome"}'}
COUNT = {"input_tokens": 100, "output_tokens": 10, "total_tokens": 110}


def reply(outputs: Any) -> Any:
    (found,) = replies_in(outputs)
    return found


def test_responses_items_are_one_message() -> None:
    text = [{"type": "output_text", "text": "Let "}, {"type": "output_text", "text": "me."}]
    found = reply(
        {
            "model": "gpt-x",
            "status": "incomplete",
            "incomplete_details": {"reason": "max_output_tokens"},
            "output": [
                {"type": "reasoning", "summary": []},
                {"type": "message", "role": "assistant", "content": text},
                {"type": "function_call", "call_id": "c1", **FUNCTION},
            ],
            "usage": {**COUNT, "input_tokens_details": {"cached_tokens": 40}},
        }
    )
    assert said.text_of(found) == "Let me."
    assert said.tool_calls_of(found) == [CALL]
    assert said.flaw_of(found) is ErrorClass.TRUNCATED
    assert said.served_model(found) == "gpt-x"
    assert said.usage_of(found) == TokenUsage(100, 10, cached_input_tokens=40)


def test_a_refusal_is_said_as_one() -> None:
    content = [{"type": "refusal", "refusal": "No."}]
    found = reply({"output": [{"type": "message", "role": "assistant", "content": content}]})
    assert (found["content"], found["refusal"]) == ("", "No.")
    assert said.flaw_of(found) is None


@pytest.mark.parametrize("wrapped", [False, True])
def test_anthropics_message_says_its_calls_and_its_own_count(wrapped: bool) -> None:
    use = {"type": "tool_use", "id": "c1", "name": "weather", "input": {"city": "Rome"}}
    message = {
        "role": "assistant",
        "model": "claude-x",
        "content": [{"type": "text", "text": "Let me."}, use],
        "stop_reason": "tool_use",
        "usage": {"input_tokens": 60, "cache_read_input_tokens": 40, "output_tokens": 10},
    }
    found = reply({"output": message} if wrapped else message)
    assert (said.text_of(found), said.tool_calls_of(found)) == ("Let me.", [CALL])
    assert said.flaw_of(found) is None
    assert said.usage_of(found) == TokenUsage(100, 10, cached_input_tokens=40)


def test_several_choices_share_one_count() -> None:
    message = {"role": "assistant", "content": "x"}
    choices = [{"message": message, "finish_reason": "stop"}] * 2
    first, second = replies_in({"choices": choices, "usage": COUNT, "model": "m"})
    assert said.usage_of(first) == TokenUsage(100, 10)
    assert said.usage_of(second) is None


def test_what_is_no_response_has_no_reply() -> None:
    for outputs in (None, {}, {"output": "text"}, {"answer": 1}, {"choices": None}, []):
        assert list(replies_in(outputs)) == []


def test_anthropics_tool_results_are_messages_of_the_tool() -> None:
    use = {"type": "tool_use", "id": "c1", "name": "weather", "input": {"city": "Rome"}}
    result = {"type": "tool_result", "tool_use_id": "c1", "content": "sunny", "is_error": True}
    rest = {"type": "text", "text": "And?"}
    asked = asked_in(
        {
            "system": "Be brief.",
            "messages": [
                {"role": "user", "content": "Weather?"},
                {"role": "assistant", "content": [use]},
                {"role": "user", "content": [result, rest]},
            ],
        }
    )
    system, user, assistant, tool, more = said.plain_messages(asked)
    assert (system["role"], user["content"]) == ("system", "Weather?")
    assert assistant["tool_calls"] == [CALL]
    assert tool == {
        "role": "tool",
        "content": "sunny",
        "tool_call_id": "c1",
        "status": "error",
    }
    assert (more["role"], more["content"]) == ("user", [rest])


def test_responses_input_is_a_talk() -> None:
    image = {"type": "input_image", "image_url": "data:image/png;base64,AA"}
    asked = asked_in(
        {
            "instructions": "Be brief.",
            "input": [
                {"role": "user", "content": [{"type": "input_text", "text": "This?"}, image]},
                {"type": "reasoning", "id": "rs_1", "summary": []},
                {"type": "function_call", "call_id": "c1", **FUNCTION},
                {"type": "function_call_output", "call_id": "c1", "output": "sunny"},
            ],
        }
    )
    system, user, assistant, tool = said.plain_messages(asked)
    assert system == {"role": "system", "content": "Be brief."}
    shown = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}
    assert user["content"] == [{"type": "text", "text": "This?"}, shown]
    assert assistant["tool_calls"] == [CALL]
    assert (tool["role"], tool["content"], tool["tool_call_id"]) == ("tool", "sunny", "c1")


@pytest.mark.parametrize("name", ["previous_response_id", "conversation"])
def test_a_talk_that_the_provider_keeps_is_not_known(name: str) -> None:
    assert asked_in({"input": "And of Italy?", name: "resp_1"}) == []


def test_tools_are_in_the_form_of_chat_completions() -> None:
    schema = {"type": "object", "properties": {}}
    right = {"type": "function", "function": {"name": "f", "parameters": schema}}
    flat = {"type": "function", "name": "f", "parameters": schema}
    own = {"type": "web_search_20250305", "name": "web_search"}
    tools = [right, flat, {"name": "f", "input_schema": schema}, own]
    assert tools_in({"tools": tools}) == (right, right, right, own)


@pytest.mark.parametrize(
    ("choice", "right"),
    [
        ("required", "required"),
        ({"type": "auto"}, "auto"),
        ({"type": "none"}, "none"),
        ({"type": "tool", "name": "f"}, "f"),
        ({"type": "function", "name": "f"}, "f"),
        ({"type": "function", "function": {"name": "f"}},) * 2,
        (None, None),
    ],
)
def test_a_choice_of_tools_is_what_bind_tools_takes(choice: Any, right: Any) -> None:
    assert tool_choice_in({"tool_choice": choice}) == right


LEAVES = st.none() | st.booleans() | st.integers() | st.text(max_size=5)
WORDS = (
    "role content type output choices message messages input text tool_calls function name usage "
    "model assistant tool_use"
)
KEYS = st.sampled_from(WORDS.split())
ODD = st.recursive(
    LEAVES | KEYS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=15,
)


@given(ODD)
def test_nothing_that_was_recorded_breaks_the_reader(recorded: Any) -> None:
    for found in replies_in(recorded):
        said.answer_of(found)
        said.usage_of(found)
        said.flaw_of(found)
    said.plain_messages(asked_in(recorded))
    tools_in(recorded)
    tool_choice_in(recorded)
