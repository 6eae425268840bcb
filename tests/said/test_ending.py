"""Only an ending that is known as good is a whole answer."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.messages import AIMessage

from tests.support.provider_matrix import PROVIDERS
from xrouter_lg.errors import ErrorClass
from xrouter_lg.said import flaw_of, says_something, was_cut


def answer(content: Any = "half an answer", **meta: Any) -> AIMessage:
    return AIMessage(content, response_metadata=meta)


@pytest.mark.parametrize(
    ("key", "word"),
    [
        ("finish_reason", "stop"),
        ("finish_reason", "STOP"),
        ("finish_reason", "stopstop"),
        ("finish_reason", "COMPLETE"),
        ("stop_reason", "end_turn"),
        ("stop_reason", "stop_sequence"),
        ("done_reason", "stop"),
        ("status", "completed"),
    ],
)
def test_good_endings(key: str, word: str) -> None:
    assert flaw_of(answer(**{key: word})) is None


CALL = {"name": "f", "args": {}, "id": "1"}
CALLED: list[dict[str, Any]] = [
    {"tool_calls": [CALL]},
    {"tool_calls": [{"function": {"name": "f", "arguments": "{}"}, "id": "1"}]},
    {"additional_kwargs": {"tool_calls": [CALL]}},
    {"additional_kwargs": {"function_call": {"name": "f", "arguments": "{}"}}},
    {"content": [{"type": "text", "text": "Hm."}, {"type": "tool_use", "id": "1", "name": "f"}]},
    {"content": [{"type": "text", "text": "Hm."}, {"type": "function_call", "name": "f"}]},
]
"""A message with a call, in the ways in which clients and tracers keep one."""


@pytest.mark.parametrize("word", ["tool_calls", "stoptool_calls", "tool_use", "function_call"])
def test_an_answer_that_ends_with_a_call_has_one(word: str) -> None:
    meta = {"response_metadata": {"finish_reason": word}}
    for called in CALLED:
        assert flaw_of({"role": "assistant", "content": "Let me look.", **called, **meta}) is None
    lost = {"role": "assistant", "content": "Let me look.", "tool_calls": [], **meta}
    assert flaw_of(lost) is ErrorClass.MALFORMED
    assert flaw_of({**lost, "content": ""}) is ErrorClass.EMPTY


@pytest.mark.parametrize("name", ["", None])
def test_a_call_of_a_tool_without_a_name_is_none(name: str | None) -> None:
    meta = {"response_metadata": {"finish_reason": "tool_calls"}}
    for call in (
        {**CALL, "name": name},
        {"function": {"name": name, "arguments": "{}"}, "id": "1"},
    ):
        said = {"role": "assistant", "content": "", "tool_calls": [CALL, call], **meta}
        assert flaw_of(said) is ErrorClass.MALFORMED


@pytest.mark.parametrize(
    ("native", "flaw"),
    [
        ("MALFORMED_FUNCTION_CALL", ErrorClass.MALFORMED),
        ("SAFETY", ErrorClass.CONTENT_FILTER),
        ("max_tokens", ErrorClass.TRUNCATED),
        ("error", ErrorClass.SERVER),
        ("STOP", None),
        ("end_turn", None),
        ("some_word_of_its_own", None),
        (None, None),
    ],
)
def test_the_word_of_the_provider_behind_a_gateway_counts(
    native: str | None, flaw: ErrorClass | None
) -> None:
    message = answer("{type: image}})", finish_reason="stop", native_finish_reason=native)
    assert flaw_of(message) is flaw


@pytest.mark.parametrize(
    ("word", "flaw"),
    [
        ("length", ErrorClass.TRUNCATED),
        ("MAX_TOKENS", ErrorClass.TRUNCATED),
        ("model_length", ErrorClass.TRUNCATED),
        ("model_context_window_exceeded", ErrorClass.TRUNCATED),
        ("pause_turn", ErrorClass.TRUNCATED),
        ("who_knows", ErrorClass.TRUNCATED),
        ("content_filter", ErrorClass.CONTENT_FILTER),
        ("SAFETY", ErrorClass.CONTENT_FILTER),
        ("RECITATION", ErrorClass.CONTENT_FILTER),
        ("refusal", ErrorClass.CONTENT_FILTER),
        ("stoplength", ErrorClass.TRUNCATED),
        ("sensitive", ErrorClass.CONTENT_FILTER),
        ("network_error", ErrorClass.SERVER),
        ("error", ErrorClass.SERVER),
        ("insufficient_system_resource", ErrorClass.SERVER),
        ("MALFORMED_FUNCTION_CALL", ErrorClass.MALFORMED),
    ],
)
def test_every_other_ending_is_a_flaw(word: str, flaw: ErrorClass) -> None:
    assert flaw_of(answer(finish_reason=word)) is flaw
    assert was_cut(answer(finish_reason=word)) == (
        flaw in (ErrorClass.TRUNCATED, ErrorClass.CONTENT_FILTER)
    )


@pytest.mark.parametrize(
    ("reason", "flaw"),
    [
        ("max_output_tokens", ErrorClass.TRUNCATED),
        ("content_filter", ErrorClass.CONTENT_FILTER),
        (None, ErrorClass.TRUNCATED),
    ],
)
def test_an_incomplete_response_says_why(reason: str | None, flaw: ErrorClass) -> None:
    details = None if reason is None else {"reason": reason}
    assert flaw_of(answer(status="incomplete", incomplete_details=details)) is flaw


@pytest.mark.parametrize(
    "content",
    ["", " \n ", [{"type": "thinking", "thinking": "hm"}], [{"type": "reasoning", "summary": []}]],
)
def test_blanks_and_thoughts_alone_are_empty(content: Any) -> None:
    assert flaw_of(answer(content, finish_reason="stop")) is ErrorClass.EMPTY
    assert not says_something(answer(content))


def test_tool_calls_that_can_not_be_read_are_malformed() -> None:
    call = {"type": "invalid_tool_call", "name": "f", "args": "{", "id": "1", "error": None}
    message = AIMessage("", invalid_tool_calls=[call], response_metadata={"finish_reason": "stop"})
    assert flaw_of(message) is ErrorClass.MALFORMED


def test_a_refusal_in_words_of_its_own_is_an_answer() -> None:
    assert flaw_of(AIMessage("", additional_kwargs={"refusal": "I can't help with that"})) is None


@pytest.mark.parametrize("provider", sorted({it.langchain for it in PROVIDERS.values()}))
def test_an_answer_without_an_ending_was_cut_off_where_the_provider_always_says_one(
    provider: str,
) -> None:
    assert flaw_of(answer(model_provider=provider)) is ErrorClass.STREAM_CUT
    assert flaw_of(answer()) is None


def test_a_prompt_that_was_blocked_has_no_answer() -> None:
    blocked = answer("", prompt_feedback={"block_reason": "SAFETY"})
    assert flaw_of(blocked) is ErrorClass.CONTENT_FILTER


@pytest.mark.parametrize(
    "content",
    [
        "<think>\nThe user asks for the capital.\n</think>\n\n",
        "<think>\nThe user asks for",
        "The user asks for the capital.\n</think>\n",
        "\n\u200b \ufeff",
        [{"type": "redacted_thinking", "data": "x"}],
        [
            {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}},
            {"type": "web_search_tool_result", "tool_use_id": "s", "content": []},
        ],
        [{"type": "web_search_call", "id": "w", "status": "completed"}],
    ],
)
def test_what_stands_on_the_way_to_an_answer_is_none(content: Any) -> None:
    assert flaw_of(answer(content, finish_reason="stop")) is ErrorClass.EMPTY


@pytest.mark.parametrize(
    "content",
    [
        "<think>Hm.</think>\nParis.",
        "Hm.</think>Paris.",
        "Write <think> before and </think>",
        [{"type": "image_generation_call", "id": "i", "result": "AAAA"}],
    ],
)
def test_an_answer_behind_thoughts_is_whole(content: Any) -> None:
    assert flaw_of(answer(content, finish_reason="stop")) is None


def test_sound_alone_is_an_answer() -> None:
    sound = {"id": "audio_1", "data": "AAAA", "transcript": "Paris."}
    spoken = AIMessage("", additional_kwargs={"audio": sound})
    spoken.response_metadata["finish_reason"] = "stop"
    assert flaw_of(spoken) is None


def test_a_call_that_can_not_be_read_is_not_lost_behind_text() -> None:
    call = {"type": "invalid_tool_call", "name": "f", "args": "{", "id": "c", "error": None}
    said = AIMessage("Let me look.", invalid_tool_calls=[call])
    said.response_metadata["finish_reason"] = "tool_calls"
    assert flaw_of(said) is ErrorClass.MALFORMED
