"""The scripted model says what its script says, in every way LangChain can ask."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage
from langchain_core.tools import tool
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.graph.state import CompiledStateGraph
from pydantic import BaseModel

from xrouter_lg.testing import ModelCall, ScriptedChatModel, ScriptExhaustedError


@tool
def weather(city: str) -> str:
    """Tell the weather."""
    return f"rain in {city}"


CALLS_WEATHER = AIMessage(
    content="", tool_calls=[{"name": "weather", "args": {"city": "Bern"}, "id": "c1"}]
)


def gathered(model: Any, prompt: str = "hi") -> AIMessageChunk:
    chunks = list(model.stream(prompt))
    total: AIMessageChunk = chunks[0]
    for chunk in chunks[1:]:
        total = total + chunk
    return total


def test_answers_come_in_the_order_of_the_script() -> None:
    model = ScriptedChatModel(["first", AIMessage("second")])
    assert [model.invoke("hi").content for _ in range(2)] == ["first", "second"]


def test_an_iterator_is_a_script() -> None:
    model = ScriptedChatModel(word for word in ("first", "second"))
    assert [model.invoke("hi").content for _ in range(2)] == ["first", "second"]


def test_a_function_of_the_messages_is_a_script() -> None:
    model = ScriptedChatModel(lambda messages: str(messages[-1].content).upper())
    assert model.invoke("hi").content == "HI"


def test_a_function_may_ask_for_the_call() -> None:
    def answer(messages: list[BaseMessage], call: ModelCall) -> str:
        return f"{call.number} {call.temperature}"

    assert ScriptedChatModel(answer).invoke("hi", temperature=0.5).content == "0 0.5"


def test_an_exception_in_the_script_is_raised() -> None:
    with pytest.raises(TimeoutError, match="too slow"):
        ScriptedChatModel([TimeoutError("too slow")]).invoke("hi")


def test_an_exception_class_in_the_script_is_raised() -> None:
    with pytest.raises(TimeoutError):
        ScriptedChatModel([TimeoutError]).invoke("hi")


def test_the_answer_after_an_exception_is_given() -> None:
    model = ScriptedChatModel([TimeoutError(), "fine"])
    with pytest.raises(TimeoutError):
        model.invoke("hi")
    assert model.invoke("hi").content == "fine"


def test_an_exhausted_script_says_how_many_answers_it_had() -> None:
    model = ScriptedChatModel(["only"], model_name="small")
    model.invoke("hi")
    with pytest.raises(ScriptExhaustedError, match=r"'small' was called 2 times .* 1 answers"):
        model.invoke("hi")


@pytest.mark.asyncio
async def test_an_exhausted_script_is_the_same_error_when_async() -> None:
    with pytest.raises(ScriptExhaustedError):
        await ScriptedChatModel([]).ainvoke("hi")


@pytest.mark.parametrize("script", ["text", 3], ids=["text", "number"])
def test_what_is_no_script_is_refused(script: Any) -> None:
    with pytest.raises(TypeError, match="is not a list, an iterator or a function"):
        ScriptedChatModel(script)


def test_an_answer_of_another_type_is_refused() -> None:
    with pytest.raises(TypeError, match="gave 3 for call 0"):
        ScriptedChatModel([3]).invoke("hi")  # type: ignore[list-item]


def test_usage_is_counted_in_words() -> None:
    usage = ScriptedChatModel(["one two three"]).invoke("hi there").usage_metadata
    assert usage == {"input_tokens": 2, "output_tokens": 3, "total_tokens": 5}


def test_usage_in_the_script_is_kept() -> None:
    usage = {"input_tokens": 100, "output_tokens": 50, "total_tokens": 150}
    answer = AIMessage("short", usage_metadata=usage)
    assert ScriptedChatModel([answer]).invoke("hi").usage_metadata == usage


def test_the_model_names_itself() -> None:
    message = ScriptedChatModel(["hi"], model_name="small").invoke("hi")
    assert message.response_metadata["model_name"] == "small"


def test_a_finish_reason_in_the_script_is_kept() -> None:
    answer = AIMessage("cut", response_metadata={"finish_reason": "length"})
    message = ScriptedChatModel([answer]).invoke("hi")
    assert message.response_metadata["finish_reason"] == "length"


def test_the_scripts_own_message_stays_untouched() -> None:
    answer = AIMessage("hi")
    ScriptedChatModel([answer]).invoke("hi")
    assert (answer.id, answer.response_metadata, answer.usage_metadata) == (None, {}, None)


def test_tool_calls_finish_with_tool_calls() -> None:
    message = ScriptedChatModel([CALLS_WEATHER]).invoke("hi")
    assert message.response_metadata["finish_reason"] == "tool_calls"


def test_bound_tools_are_recorded_in_openai_format() -> None:
    model = ScriptedChatModel(["fine"])
    model.bind_tools([weather]).invoke("hi")
    assert model.calls[0].tools[0]["function"]["name"] == "weather"


def test_bound_tools_are_seen_by_the_script() -> None:
    model = ScriptedChatModel(lambda messages, call: call.tools[0]["function"]["name"])
    assert model.bind_tools([weather]).invoke("hi").content == "weather"


def test_a_tool_choice_is_recorded() -> None:
    model = ScriptedChatModel(["fine"])
    model.bind_tools([weather], tool_choice="any").invoke("hi")
    assert model.calls[0].kwargs["tool_choice"] == "any"


def test_settings_of_a_call_are_recorded() -> None:
    model = ScriptedChatModel(["fine"])
    model.invoke("hi", temperature=0.5, max_tokens=7, stop=["."])
    call = model.calls[0]
    assert (call.temperature, call.max_tokens, call.stop) == (0.5, 7, ["."])


def test_messages_of_a_call_are_recorded() -> None:
    model = ScriptedChatModel(["fine"])
    model.invoke([HumanMessage("hello")])
    assert [message.content for message in model.calls[0].messages] == ["hello"]


def test_structured_output_reads_the_tool_call() -> None:
    class Weather(BaseModel):
        city: str

    answer = AIMessage("", tool_calls=[{"name": "Weather", "args": {"city": "Bern"}, "id": "c1"}])
    model = ScriptedChatModel([answer]).with_structured_output(Weather)
    assert model.invoke("hi") == Weather(city="Bern")


def test_a_stream_comes_word_by_word() -> None:
    chunks = ScriptedChatModel(["one two  three"]).stream("hi")
    assert [chunk.content for chunk in chunks if chunk.content] == ["one", " two", "  three"]


@pytest.mark.asyncio
async def test_an_async_stream_comes_word_by_word() -> None:
    model = ScriptedChatModel(["one two"])
    words = [chunk.content async for chunk in model.astream("hi") if chunk.content]
    assert words == ["one", " two"]


def test_a_stream_has_its_usage_once() -> None:
    usage = gathered(ScriptedChatModel(["one two three"]), "hi there").usage_metadata
    assert usage == {"input_tokens": 2, "output_tokens": 3, "total_tokens": 5}


def test_a_stream_ends_with_the_metadata() -> None:
    metadata = gathered(ScriptedChatModel(["one"], model_name="small")).response_metadata
    assert (metadata["model_name"], metadata["finish_reason"]) == ("small", "stop")


def test_streamed_tool_calls_add_up() -> None:
    message = gathered(ScriptedChatModel([CALLS_WEATHER]))
    assert [(call["name"], call["args"]) for call in message.tool_calls] == [
        ("weather", {"city": "Bern"})
    ]


def test_content_blocks_are_streamed_whole() -> None:
    answer = AIMessage(content=[{"type": "text", "text": "one two"}])
    assert gathered(ScriptedChatModel([answer])).text == "one two"


def test_a_delay_is_waited_for() -> None:
    start = time.perf_counter()
    ScriptedChatModel(["late"], delay_s=0.05).invoke("hi")
    assert time.perf_counter() - start >= 0.05


@pytest.mark.asyncio
async def test_async_delays_run_side_by_side() -> None:
    model = ScriptedChatModel(lambda messages: "late", delay_s=1.0)
    start = time.perf_counter()
    await asyncio.gather(*(model.ainvoke("hi") for _ in range(60)))
    assert time.perf_counter() - start < 30  # one after the other it takes a minute


@pytest.mark.asyncio
async def test_an_async_call_stays_in_the_event_loops_thread() -> None:
    model = ScriptedChatModel(lambda messages: str(threading.get_ident()))
    assert (await model.ainvoke("hi")).content == str(threading.get_ident())


def test_many_threads_get_every_answer_once() -> None:
    model = ScriptedChatModel([str(number) for number in range(400)])
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: model.invoke("hi").content, range(400)))
    assert sorted(map(int, answers)) == list(range(400))


def graph(model: ScriptedChatModel) -> CompiledStateGraph[Any, Any, Any, Any]:
    def answer(state: MessagesState) -> dict[str, Any]:
        return {"messages": [model.invoke(state["messages"])]}

    builder = StateGraph(MessagesState)
    builder.add_node("model", answer)
    builder.add_edge(START, "model")
    builder.add_edge("model", END)
    return builder.compile()


def test_a_langgraph_app_streams_the_words() -> None:
    stream = graph(ScriptedChatModel(["one two three"])).stream(
        {"messages": [HumanMessage("hi")]}, stream_mode="messages"
    )
    assert [m.content for m, _ in stream if m.content] == ["one", " two", " three"]


def test_a_langgraph_app_stores_one_message() -> None:
    state = graph(ScriptedChatModel(["one two"])).invoke({"messages": [HumanMessage("hi")]})
    assert [message.content for message in state["messages"]] == ["hi", "one two"]
