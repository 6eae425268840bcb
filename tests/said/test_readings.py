"""What each reading takes from an answer where an answer says more than one thing."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage

from xrouter_lg import said
from xrouter_lg.errors import ErrorClass
from xrouter_lg.said.wire import asked_in, tools_in

CALL = {"name": "look", "args": {"at": 1}, "id": "call-1"}


def answer(content: Any = "Yes.", **meta: Any) -> AIMessage:
    return AIMessage(content, response_metadata=meta)


# --- messages ------------------------------------------------------------------------------


def test_a_verifier_judges_the_text_and_only_without_one_the_calls() -> None:
    assert said.answer_of(AIMessage("It is 3.", tool_calls=[CALL])) == "It is 3."
    calls = said.answer_of(AIMessage("", tool_calls=[CALL]))
    assert calls is not None and json.loads(calls) == [{"name": "look", "args": {"at": 1}}]
    assert said.answer_of(AIMessage("")) == ""
    assert said.answer_of(None) is None


@pytest.mark.parametrize(
    ("arguments", "args"),
    [
        ('{"at": 1}', {"at": 1}),
        ({"at": 1}, {"at": 1}),
        ("", {}),
        ('{"at": ', {"arguments": '{"at": '}),
    ],
)
def test_arguments_that_are_no_json_are_kept_as_they_came(arguments: Any, args: Any) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "look", "arguments": arguments}}
    message = {"role": "assistant", "tool_calls": [call, "no call"]}
    assert said.tool_calls_of(message) == [{"name": "look", "args": args, "id": "1"}]


def test_of_a_tools_status_the_failure_alone_is_kept() -> None:
    failed, well = (ToolMessage("x", tool_call_id="1", status=s) for s in ("error", "success"))
    plain = {"role": "tool", "content": "x", "tool_call_id": "1"}
    assert said.plain_message(failed) == {**plain, "status": "error"}
    assert said.plain_message(well) == plain


def test_what_is_asked_stands_before_the_results_of_tools() -> None:
    asked, called = HumanMessage("And now?"), AIMessage("", tool_calls=[CALL])
    result = ToolMessage("3", tool_call_id="call-1")
    assert said.question_of([HumanMessage("Hi"), asked, called, result]) is asked
    assert said.question_of([HumanMessage("Hi"), SystemMessage("Be brief")]).text == "Be brief"
    assert said.question_of([asked, called]) is called
    assert said.question_of([called, result]) is result


def test_text_has_two_names_for_its_block() -> None:
    blocks = [{"type": "text", "text": "a"}, {"type": "output_text", "text": "b"}, "c"]
    assert said.text_of(blocks) == "abc"
    assert said.other_blocks(blocks) == []


# --- endings -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["finish_reason", "stop_reason", "done_reason", "stopReason"])
def test_a_limit_is_one_by_whichever_name_a_provider_has_for_an_ending(name: str) -> None:
    assert said.flaw_of(answer(**{name: "max_tokens"})) is ErrorClass.TRUNCATED


def test_a_gateways_own_word_that_something_is_wrong_is_not_mended_by_the_native_one() -> None:
    told = answer(finish_reason="content_filter", native_finish_reason="max_tokens")
    assert said.flaw_of(told) is ErrorClass.CONTENT_FILTER
    told = answer(finish_reason="stop", native_finish_reason="max_tokens")
    assert said.flaw_of(told) is ErrorClass.TRUNCATED


def test_words_that_a_stream_has_joined_are_read_one_by_one() -> None:
    assert said.flaw_of(answer(finish_reason="stopstopstopstop")) is None
    joined = AIMessage("", tool_calls=[CALL], response_metadata={"finish_reason": "stoptool_calls"})
    assert said.flaw_of(joined) is None
    assert said.flaw_of(answer(finish_reason="stoptool_calls")) is ErrorClass.MALFORMED
    assert said.flaw_of(answer(finish_reason="stoplength")) is ErrorClass.TRUNCATED


# --- the bill ------------------------------------------------------------------------------


def test_anthropics_refusal_is_free_before_any_word() -> None:
    refused = {"stop_reason": "refusal", "model_provider": "anthropic"}
    assert said.is_unbilled(answer("", **refused)) and said.is_unbilled(answer([], **refused))
    assert not said.is_unbilled(answer("I", **refused))
    assert not said.is_unbilled(answer("", **{**refused, "model_provider": "openai"}))
    assert not said.is_unbilled(answer("", **{**refused, "stop_reason": "end_turn"}))


def test_a_stream_tells_its_cost_last() -> None:
    chunks = [{"cost": "0.1"}, {"cost": "0.3"}, {"prompt_tokens": 1}]
    assert said.reported_cost(answer(usage_chunks=chunks)) == Decimal("0.3")
    assert said.reported_cost(answer(token_usage={"cost": 0})) == Decimal(0)
    assert said.reported_cost(answer(token_usage={"cost": -1})) is None


def test_the_key_is_the_gateways_where_its_bill_is_the_upstream_one() -> None:
    usage = {"cost": "0.2", "cost_details": {"upstream_inference_cost": "0.2"}}
    assert said.reported_cost(answer(token_usage=usage)) == Decimal("0.2")


def test_the_served_model_is_the_answers_own_word() -> None:
    assert said.served_model(answer(model_name="a-1", model="a", model_id="b")) == "a-1"
    assert said.served_model(answer(model="a", model_id="b")) == "a"


def test_the_tier_is_the_answers_own_word_or_its_counts() -> None:
    assert (
        said.served_tier(answer(service_tier="flex", usage={"service_tier": "default"})) == "flex"
    )
    assert said.served_tier(answer(usage={"service_tier": "standard", "speed": "fast"})) == "fast"
    assert said.served_tier(answer(usage={"service_tier": "priority", "speed": "x"})) == "priority"
    assert said.served_tier(answer(usage={"input_tokens": 1})) is None


def charge(**changes: Any) -> dict[str, Any]:
    tokens = {"input_tokens": 5, "output_tokens": 7}
    return {"kind": "worker", "error": None, "usage": tokens, **changes}


def test_the_tokens_of_a_record_are_those_of_the_call_that_answered() -> None:
    other = {"input_tokens": 1, "output_tokens": 1}
    cut = charge(error="truncated")
    for last in (charge(), charge(error=""), cut):
        assert said.answer_tokens([charge(usage=other), last]) == (5, 7)
    for further in (charge(kind="router", usage=other), charge(error="timeout", usage=other)):
        assert said.answer_tokens([charge(), further]) == (5, 7)
    assert said.answer_tokens([charge(usage=None)]) == (None, None)
    assert said.has_answered(cut) and not said.has_answered(charge(error="empty"))


# --- tokens --------------------------------------------------------------------------------


def counted(*chunks: tuple[int, int]) -> tuple[int, int]:
    raw = [{"prompt_tokens": i, "completion_tokens": o} for i, o in chunks]
    usage = said.counted({}, raw)
    assert usage is not None
    return usage.input_tokens, usage.output_tokens


def test_a_token_a_chunk_is_no_total_that_is_repeated() -> None:
    assert counted((10, 1), (10, 1)) == (10, 1)
    assert counted((10, 1), (10, 1), (10, 1)) == (10, 3)
    assert counted((10, 1), (10, 2), (10, 5)) == (10, 5)


def test_reasoning_that_fills_the_output_is_a_part_of_it() -> None:
    for reasoning, output in ((7, 7), (6, 7), (8, 15)):
        details = {"reasoning_tokens": reasoning}
        usage = said.counted(
            {}, [{"prompt_tokens": 1, "completion_tokens": 7, "completion_tokens_details": details}]
        )
        assert usage is not None and usage.output_tokens == output


def test_what_only_the_total_knows_of_was_written() -> None:
    usage = said.counted({"input_tokens": 10, "output_tokens": 2, "total_tokens": 20})
    assert usage is not None and (usage.input_tokens, usage.output_tokens) == (10, 10)


def test_a_cache_that_fills_the_prompt_is_inside_of_it() -> None:
    for cached, inputs in ((10, 10), (11, 21)):
        details = {"cache_read": cached}
        usage = said.counted(
            {"input_tokens": 10, "output_tokens": 1, "input_token_details": details}
        )
        assert usage is not None and usage.input_tokens == inputs


def test_a_stream_repeats_the_parts_of_its_prompt_and_adds_those_of_its_answer() -> None:
    raw = [
        {
            "prompt_tokens": 10,
            "completion_tokens": output,
            "total_tokens": 10 + output,
            "prompt_tokens_details": {"cached_tokens": 4},
            "completion_tokens_details": {"reasoning_tokens": thought},
        }
        for output, thought in ((5, 2), (3, 1))
    ]
    usage = said.counted({}, raw)
    assert usage is not None
    assert (usage.input_tokens, usage.cached_input_tokens) == (10, 4)
    assert (usage.output_tokens, usage.reasoning_tokens) == (8, 3)


def test_a_compaction_is_billed_beside_the_answer_with_its_cache() -> None:
    compaction = {
        "type": "compaction",
        "input_tokens": 100,
        "output_tokens": 20,
        "cache_read_input_tokens": 50,
    }
    usage = said.counted({}, [{"input_tokens": 10, "output_tokens": 5, "iterations": [compaction]}])
    assert usage is not None
    assert (usage.input_tokens, usage.cached_input_tokens, usage.output_tokens) == (160, 50, 25)


# --- requests ------------------------------------------------------------------------------


def test_a_batch_of_one_call_is_its_messages() -> None:
    message = {"role": "user", "content": "Hi"}
    assert asked_in({"messages": [[message]]}) == asked_in({"messages": [message]}) == [message]


def test_a_system_prompt_alone_asks_nothing() -> None:
    assert asked_in({"system": "Be brief", "messages": []}) == []
    assert [m["role"] for m in asked_in({"instructions": "Be brief", "input": "Hi"})] == [
        "system",
        "user",
    ]


def test_a_tool_of_the_providers_own_is_kept_as_it_is() -> None:
    own = {"type": "web_search_20250305", "name": "web_search", "input_schema": {"type": "object"}}
    assert tools_in({"tools": [own]}) == (own,)
