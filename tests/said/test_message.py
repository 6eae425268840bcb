"""What a message says is the same whether it is live or was recorded, and in whatever form."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.load import dumpd
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ChatMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
    message_to_dict,
)
from langchain_openai import ChatOpenAI
from pydantic import SecretStr

from xrouter_lg import said
from xrouter_lg.errors import ErrorClass
from xrouter_lg.outcomes.conversation import conversation_of
from xrouter_lg.testing import FakeModel, FakeOpenAIServer
from xrouter_lg.types import TokenUsage

CALL = {"name": "look", "args": {"at": 1}, "id": "call-1"}


def as_json(value: Any) -> Any:
    return json.loads(json.dumps(value))


def old_dump(message: BaseMessage) -> Any:
    """LangChain's constructor form before it named the type among the arguments."""
    dumped = dumpd(message)
    del dumped["kwargs"]["type"]
    return dumped


FORMS: dict[str, Callable[[BaseMessage], Any]] = {
    "dumpd": dumpd,
    "older dumpd": old_dump,
    "message_to_dict": message_to_dict,
    "model_dump": lambda message: message.model_dump(),
}

texts = st.text(max_size=20)
blocks = st.one_of(
    texts,
    st.builds(lambda text: {"type": "text", "text": text}, texts),
    st.builds(lambda text: {"type": "reasoning", "reasoning": text}, texts),
    st.just({"type": "image_url", "image_url": {"url": "https://x/y.png"}}),
)
counts = st.integers(0, 10_000)
usages = st.builds(
    lambda i, o, c, w, r: {
        "input_tokens": i,
        "output_tokens": o,
        "total_tokens": i + o,
        "input_token_details": {"cache_read": c, "cache_creation": w},
        "output_token_details": {"reasoning": r},
    },
    *[counts] * 5,
)
names = st.sampled_from(["gpt-5", "", None])
metadata = st.fixed_dictionaries(
    {},
    optional={
        "finish_reason": st.sampled_from(["stop", "length", "MAX_TOKENS", "SAFETY", None]),
        "stop_reason": st.sampled_from(["end_turn", "max_tokens", "refusal"]),
        "done_reason": st.sampled_from(["stop", "length"]),
        "model_name": names,
        "model": names,
        "model_id": names,
        "model_provider": st.sampled_from(["openai", "anthropic"]),
        "status": st.just("completed"),
        "token_usage": st.one_of(
            st.none(), st.builds(lambda cost: {"cost": cost}, st.sampled_from([0, 0.5, "much", -1]))
        ),
    },
)
answers = st.builds(
    AIMessage,
    content=st.one_of(texts, st.lists(blocks, max_size=3)),
    tool_calls=st.lists(st.just(CALL), max_size=2),
    usage_metadata=st.one_of(st.none(), usages),
    response_metadata=metadata,
    additional_kwargs=st.sampled_from([{}, {"refusal": "I won't"}]),
    name=st.sampled_from([None, "worker"]),
)
READINGS: list[Callable[[Any], Any]] = [
    said.text_of,
    said.answer_of,
    said.tool_calls_of,
    said.plain_message,
    said.usage_of,
    said.reported_cost,
    said.served_model,
    said.flaw_of,
    said.was_cut,
]


@given(answers)
def test_every_reading_of_an_answer_is_the_same_in_every_form(message: AIMessage) -> None:
    for read in READINGS:
        live = read(message)
        for name, dump in FORMS.items():
            assert read(as_json(dump(message))) == live, (read.__name__, name)


@given(answers)
def test_a_recorded_run_says_what_its_message_said(message: AIMessage) -> None:
    run = {"outputs": {"generations": [[{"message": as_json(dumpd(message)), "text": ""}]]}}
    reply = said.reply_of(run)
    for read in READINGS:
        assert read(reply) == read(message), read.__name__
    assert said.run_usage(run) == said.usage_of(message)


@given(answers)
def test_the_text_is_the_one_that_langchain_reads(message: AIMessage) -> None:
    assert said.text_of(message) == str(message.text)


@pytest.mark.parametrize(
    ("message", "plain"),
    [
        (HumanMessage("Hi", name="Ann"), {"role": "user", "content": "Hi", "name": "Ann"}),
        (SystemMessage("Be brief"), {"role": "system", "content": "Be brief"}),
        (AIMessageChunk(content="Hel"), {"role": "assistant", "content": "Hel"}),
        (ChatMessage(content="Hi", role="critic"), {"role": "critic", "content": "Hi"}),
        (
            ToolMessage("no such file", tool_call_id="1", status="error"),
            {"role": "tool", "content": "no such file", "tool_call_id": "1", "status": "error"},
        ),
    ],
)
@pytest.mark.parametrize("form", FORMS)
def test_a_message_is_plain_role_and_content(
    message: BaseMessage, plain: Mapping[str, Any], form: str
) -> None:
    assert said.plain_message(message) == plain
    assert said.plain_message(as_json(FORMS[form](message))) == plain
    assert said.plain_message(plain) == plain


def test_an_item_of_openais_responses_has_the_role_it_names() -> None:
    item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hi"}]}
    assert said.plain_message(item) == {"role": "user", "content": item["content"]}


def test_an_assistant_that_only_calls_tools_may_leave_its_content_out() -> None:
    function = {"name": "look", "arguments": '{"at": 1}'}
    turn = {"role": "assistant", "tool_calls": [{"id": "call-1", "function": function}]}
    assert said.plain_message(turn) == {"role": "assistant", "content": "", "tool_calls": [CALL]}


@pytest.mark.parametrize("value", [None, 3, "Hi", {}, {"type": "state"}, {"role": 1, "content": 2}])
def test_what_is_no_message_says_nothing(value: Any) -> None:
    assert said.plain_message(value) is None


def test_the_tool_error_of_a_recorded_conversation_is_asked_again_as_an_error() -> None:
    dumped = as_json(dumpd(ToolMessage("no such file", tool_call_id="1", status="error")))
    conversation = conversation_of("Hi", {"messages": [dumped], "tools": [{"name": "look"}]})
    (message,) = conversation.messages
    assert isinstance(message, ToolMessage) and message.status == "error"


# --- where two readings disagreed ----------------------------------------------------------


def test_a_count_of_zeros_is_no_count() -> None:
    """Servers that don't count send zeros; a cost of zero would be made of them."""
    zeros = {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0}
    assert said.usage_of(AIMessage("Paris.", usage_metadata=zeros)) is None


def test_half_a_count_of_a_run_is_no_count() -> None:
    assert said.run_usage({"prompt_tokens": 10, "completion_tokens": None}) is None
    assert said.run_usage({"prompt_tokens": 10, "completion_tokens": 0}) == TokenUsage(10, 0)


def test_tokens_of_several_choices_count_once() -> None:
    """ChatOpenAI puts the response's whole usage on each choice; tracers add them up."""
    usage = {"input_tokens": 10, "output_tokens": 30, "total_tokens": 40}
    message = dumpd(AIMessage("Paris.", usage_metadata=usage))
    doubled = {"input_tokens": 20, "output_tokens": 60, "total_tokens": 80}
    run = {
        "outputs": {"generations": [[{"message": message}, {"message": message}]]},
        "extra": {"metadata": {"usage_metadata": doubled}},
    }
    assert said.run_usage(run) == TokenUsage(10, 30)


@pytest.mark.parametrize("place", ["outputs", "metadata"])
def test_a_run_counts_where_its_reply_does_not(place: str) -> None:
    usage = {"usage_metadata": {"input_tokens": 10, "output_tokens": 3}}
    run = {"outputs": usage} if place == "outputs" else {"extra": {"metadata": usage}}
    assert said.run_usage(run) == TokenUsage(10, 3)


@pytest.mark.parametrize("reason", ["content_filter", "SAFETY", "refusal"])
def test_an_answer_that_a_filter_stopped_was_cut(reason: str) -> None:
    assert said.was_cut(AIMessage("Half a", response_metadata={"finish_reason": reason}))


def test_an_answer_that_thought_until_its_limit_was_cut() -> None:
    assert said.was_cut(AIMessage("", response_metadata={"finish_reason": "length"}))


def test_generations_may_be_flat() -> None:
    message = dumpd(AIMessage("Paris."))
    assert said.answer_of(said.reply_of({"outputs": {"generations": [{"message": message}]}})) == (
        "Paris."
    )


def test_a_model_that_only_has_an_id_was_served_by_it() -> None:
    assert said.served_model(AIMessage("Hi", response_metadata={"model_id": "nova"})) == "nova"


def test_a_response_of_openai_says_its_cost_its_model_and_its_end() -> None:
    run = {
        "outputs": {
            "model": "gpt-5-2026",
            "choices": [
                {"message": {"role": "assistant", "content": "Par"}, "finish_reason": "length"}
            ],
            "usage": {"prompt_tokens": 3, "completion_tokens": 1, "cost": 0.25},
        }
    }
    reply = said.reply_of(run)
    assert said.answer_of(reply) == "Par"
    assert said.served_model(reply) == "gpt-5-2026"
    assert said.reported_cost(reply) == Decimal("0.25")
    assert said.flaw_of(reply) is ErrorClass.TRUNCATED


@pytest.mark.parametrize("run", [{}, {"outputs": None}, {"outputs": {"generations": None}}])
def test_a_run_without_a_reply_says_nothing(run: Mapping[str, Any]) -> None:
    assert said.reply_of(run) is None
    assert said.answer_of(None) is None
    assert said.run_usage(run) is None
    assert not said.was_cut(None)


# --- reported by the provider --------------------------------------------------------------


def reply(cost: Any) -> AIMessage:
    return AIMessage("hi", response_metadata={"token_usage": {"cost": cost}})


@pytest.mark.parametrize(("cost", "usd"), [(0.0021, "0.0021"), ("0.5", "0.5"), (0, "0"), (1, "1")])
def test_a_cost_that_the_provider_reports_is_taken_exactly(cost: Any, usd: str) -> None:
    assert said.reported_cost(reply(cost)) == Decimal(usd)


@pytest.mark.parametrize("cost", [None, True, -1, float("nan"), float("inf"), "much", [], {}])
def test_a_reported_cost_that_is_no_amount_is_no_cost(cost: Any) -> None:
    assert said.reported_cost(reply(cost)) is None


@pytest.mark.parametrize("usage", [None, 3, {}, []])
def test_a_message_without_usage_reports_no_cost(usage: Any) -> None:
    assert said.reported_cost(AIMessage("hi", response_metadata={"token_usage": usage})) is None


def test_a_message_of_the_user_reports_no_cost() -> None:
    assert said.reported_cost(HumanMessage("hi")) is None


def test_a_real_response_with_a_cost_reports_it() -> None:
    with FakeOpenAIServer([FakeModel(name="m", cost_usd=0.0042)]) as server:
        chat = ChatOpenAI(
            model="m", base_url=server.base_url, api_key=SecretStr("x"), max_retries=0
        )
        assert said.reported_cost(chat.invoke("hi")) == Decimal("0.0042")


# --- usage of a message --------------------------------------------------------------------


def test_usage_counts_cached_written_and_reasoning_tokens_of_a_message() -> None:
    message = AIMessage(
        "hi",
        usage_metadata={
            "input_tokens": 100,
            "output_tokens": 50,
            "total_tokens": 150,
            "input_token_details": {"cache_read": 30, "cache_creation": 20},
            "output_token_details": {"reasoning": 40},
        },
    )
    assert said.usage_of(message) == TokenUsage(100, 50, 30, 20, 40)


def test_a_message_without_usage_has_none() -> None:
    assert said.usage_of(AIMessage("hi")) is None
