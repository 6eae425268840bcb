"""The fake server answers the real ChatOpenAI as a provider would."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx
import openai
import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage
from langchain_openai import ChatOpenAI

from xrouter_lg.testing import FakeModel, FakeOpenAIServer, Reply, ToolCall

ChatFactory = Callable[..., ChatOpenAI]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tell the weather.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
TOOL_REPLY = Reply(tool_calls=[ToolCall("weather", {"city": "Bern"}), ToolCall("weather", {})])
TOOL_CALLS = [("weather", {"city": "Bern"}), ("weather", {})]


def gathered(chunks: list[AIMessageChunk]) -> AIMessageChunk:
    total = chunks[0]
    for chunk in chunks[1:]:
        total = total + chunk
    return total


def post(server: FakeOpenAIServer, body: Any, **options: Any) -> httpx.Response:
    return httpx.post(f"{server.base_url}/chat/completions", json=body, **options)


def question(**fields: Any) -> dict[str, Any]:
    return {"model": "small", "messages": [{"role": "user", "content": "hi"}], **fields}


def test_invoke_returns_the_models_reply(chat: ChatFactory) -> None:
    assert chat().invoke("hi").content == "one two three four"


@pytest.mark.asyncio
async def test_ainvoke_returns_the_models_reply(chat: ChatFactory) -> None:
    assert (await chat().ainvoke("hi")).content == "one two three four"


def test_a_stream_arrives_word_by_word(chat: ChatFactory) -> None:
    words = [chunk.content for chunk in chat().stream("hi") if chunk.content]
    assert words == ["one", " two", " three", " four"]


@pytest.mark.asyncio
async def test_an_async_stream_arrives_word_by_word(chat: ChatFactory) -> None:
    words = [chunk.content async for chunk in chat().astream("hi") if chunk.content]
    assert words == ["one", " two", " three", " four"]


def test_a_reply_function_sees_the_request(server: FakeOpenAIServer, chat: ChatFactory) -> None:
    server.add_model(FakeModel(name="small", reply=lambda body: body["messages"][-1]["content"]))
    assert chat().invoke("echo me").content == "echo me"


def test_a_reply_function_that_raises_says_so(server: FakeOpenAIServer, chat: ChatFactory) -> None:
    server.add_model(FakeModel(name="small", reply=lambda body: body["no such key"]))
    with pytest.raises(openai.InternalServerError, match=r"reply function of fake model 'small'"):
        chat().invoke("hi")


def test_tool_calls_come_back(server: FakeOpenAIServer, chat: ChatFactory) -> None:
    server.add_model(FakeModel(name="small", reply=TOOL_REPLY))
    message = chat().bind_tools([WEATHER]).invoke("hi")
    assert isinstance(message, AIMessage)
    assert [(call["name"], call["args"]) for call in message.tool_calls] == TOOL_CALLS


def test_streamed_tool_calls_add_up(server: FakeOpenAIServer, chat: ChatFactory) -> None:
    server.add_model(FakeModel(name="small", reply=TOOL_REPLY))
    message = gathered(list(chat().bind_tools([WEATHER]).stream("hi")))
    assert [(call["name"], call["args"]) for call in message.tool_calls] == TOOL_CALLS


def test_tool_call_ids_differ_between_requests(server: FakeOpenAIServer, chat: ChatFactory) -> None:
    server.add_model(FakeModel(name="small", reply=TOOL_REPLY))
    messages = [chat().invoke("hi") for _ in range(2)]
    assert len({call["id"] for message in messages for call in message.tool_calls}) == 4


def test_tools_reach_the_reply_function(server: FakeOpenAIServer, chat: ChatFactory) -> None:
    server.add_model(FakeModel(name="small", reply=lambda body: body["tools"][0]["type"]))
    assert chat().bind_tools([WEATHER]).invoke("hi").content == "function"


def test_a_broken_tool_call_is_sent_as_it_is(server: FakeOpenAIServer, chat: ChatFactory) -> None:
    reply = Reply(tool_calls=[ToolCall("weather", '{"city": ')])
    server.add_model(FakeModel(name="small", reply=reply))
    assert chat().invoke("hi").invalid_tool_calls[0]["args"] == '{"city": '


def test_a_refusal_comes_back(server: FakeOpenAIServer, chat: ChatFactory) -> None:
    server.add_model(FakeModel(name="small", reply=Reply(refusal="I will not.")))
    assert chat().invoke("hi").additional_kwargs["refusal"] == "I will not."


def test_images_are_accepted(chat: ChatFactory) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    message = HumanMessage([{"type": "text", "text": "what is it"}, image])
    assert chat().invoke([message]).usage_metadata["input_tokens"] == 3 + 3 + 85


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_a_token_limit_cuts_the_answer(server: FakeOpenAIServer, field: str) -> None:
    choice = post(server, question(**{field: 2})).json()["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("one two", "length")


def test_reasoning_can_use_up_the_whole_limit(server: FakeOpenAIServer) -> None:
    server.add_model(FakeModel(name="small", reply="never seen", reasoning_tokens=50))
    choice = post(server, question(max_tokens=10)).json()["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("", "length")


def test_a_stop_sequence_ends_the_answer(chat: ChatFactory) -> None:
    assert chat().invoke("hi", stop=[" three"]).content == "one two"


def test_logprobs_list_as_many_alternatives_as_asked(chat: ChatFactory) -> None:
    entries = chat(logprobs=True, top_logprobs=3).invoke("hi").response_metadata["logprobs"]
    assert [len(entry["top_logprobs"]) for entry in entries["content"]] == [3, 3, 3, 3]


def test_a_reply_can_set_the_logprobs_of_its_first_token(
    server: FakeOpenAIServer, chat: ChatFactory
) -> None:
    server.add_model(FakeModel(name="small", reply=Reply("B", top_logprobs={"A": -2.0, "B": -0.2})))
    message = chat(logprobs=True, top_logprobs=2).invoke("hi")
    first = message.response_metadata["logprobs"]["content"][0]
    assert [(top["token"], top["logprob"]) for top in first["top_logprobs"]] == [
        ("B", -0.2),
        ("A", -2.0),
    ]


def test_logprobs_are_streamed(chat: ChatFactory) -> None:
    message = gathered(list(chat(logprobs=True, top_logprobs=1).stream("hi")))
    assert len(message.response_metadata["logprobs"]["content"]) == 4


def test_the_response_names_the_served_model(server: FakeOpenAIServer, chat: ChatFactory) -> None:
    server.add_model(FakeModel(name="small", served_name="small-2026-01-01"))
    assert chat().invoke("hi").response_metadata["model_name"] == "small-2026-01-01"


def test_latency_is_waited_for(server: FakeOpenAIServer, chat: ChatFactory) -> None:
    server.add_model(FakeModel(name="small", latency_s=0.2))
    with httpx.Client() as client:
        response = client.post(f"{server.base_url}/chat/completions", json=question())
    assert response.elapsed.total_seconds() >= 0.2


def test_an_unknown_model_is_a_404(chat: ChatFactory) -> None:
    with pytest.raises(openai.NotFoundError, match="'nobody' does not exist"):
        chat("nobody").invoke("hi")


def test_a_server_without_models_answers_to_any_name() -> None:
    with FakeOpenAIServer() as server:
        assert post(server, question(model="whatever")).json()["model"] == "whatever"


def test_a_prompt_longer_than_the_window_is_a_400(
    server: FakeOpenAIServer, chat: ChatFactory
) -> None:
    server.add_model(FakeModel(name="small", context_window=10))
    with pytest.raises(openai.BadRequestError) as caught:
        chat().invoke("word " * 20)
    assert caught.value.code == "context_length_exceeded"


@pytest.mark.parametrize(
    "fields",
    [{"messages": []}, {"messages": "hi"}, {"n": 2}, {"max_tokens": 0}],
    ids=["no messages", "text as messages", "two choices", "no tokens"],
)
def test_a_request_that_openai_refuses_is_a_400(
    server: FakeOpenAIServer, fields: dict[str, Any]
) -> None:
    assert post(server, question(**fields)).status_code == 400


def test_a_body_that_is_no_json_object_is_a_400(server: FakeOpenAIServer) -> None:
    assert post(server, ["not", "an", "object"]).status_code == 400


def test_a_wrong_key_is_a_401() -> None:
    with FakeOpenAIServer(["small"], api_key="right") as server:
        headers = {"authorization": "Bearer wrong"}
        assert post(server, question(), headers=headers).status_code == 401


def test_the_right_key_is_let_in() -> None:
    with FakeOpenAIServer(["small"], api_key="right") as server:
        headers = {"authorization": "Bearer right"}
        assert post(server, question(), headers=headers).status_code == 200


def test_a_recorded_request_tells_that_a_key_came(
    server: FakeOpenAIServer, chat: ChatFactory
) -> None:
    chat().invoke("hi")
    assert server.requests[0].authenticated


def test_a_recorded_request_does_not_hold_the_key(
    server: FakeOpenAIServer, chat: ChatFactory
) -> None:
    chat(api_key="sk-very-secret").invoke("hi")
    assert "sk-very-secret" not in repr(server.requests[0])


def test_the_body_is_recorded_as_it_came(server: FakeOpenAIServer, chat: ChatFactory) -> None:
    chat(temperature=0.25).invoke("hi")
    assert server.requests[0].body["temperature"] == 0.25


def test_calls_are_counted_per_model(server: FakeOpenAIServer, chat: ChatFactory) -> None:
    for model in ("small", "large", "small"):
        chat(model).invoke("hi")
    assert server.calls == {"small": 2, "large": 1}


def test_the_models_are_listed(server: FakeOpenAIServer) -> None:
    listed = httpx.get(f"{server.base_url}/models").json()["data"]
    assert [model["id"] for model in listed] == ["large", "small"]


def test_the_server_reports_its_health(server: FakeOpenAIServer) -> None:
    assert httpx.get(f"{server.url}/health").json() == {"status": "ok"}


def test_an_unknown_route_is_a_404(server: FakeOpenAIServer) -> None:
    assert httpx.get(f"{server.url}/v2/nothing").status_code == 404


def test_a_connection_is_kept_alive(server: FakeOpenAIServer) -> None:
    with httpx.Client() as client:
        ports = {
            client.get(f"{server.url}/health")
            .extensions["network_stream"]
            .get_extra_info("client_addr")
            for _ in range(3)
        }
    assert len(ports) == 1


@pytest.mark.asyncio
async def test_three_hundred_requests_at_once_are_all_answered(
    server: FakeOpenAIServer, chat: ChatFactory
) -> None:
    server.add_model(FakeModel(name="small", latency_s=0.05, reply=lambda b: b["user"]))
    model = chat()
    answers = await asyncio.gather(*(model.ainvoke("hi", user=f"u{n}") for n in range(300)))
    assert [answer.content for answer in answers] == [f"u{n}" for n in range(300)]


@pytest.mark.asyncio
async def test_a_thousand_connections_are_held_open_at_once(server: FakeOpenAIServer) -> None:
    server.add_model(FakeModel(name="small", latency_s=1.0))
    body = json.dumps(question()).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
    port = int(server.url.rpartition(":")[2])

    # Bare sockets: httpx takes half a minute to open a thousand connections.
    async def ask() -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head.encode() + body)
        status = await reader.readline()
        writer.close()
        return status.split()[1]

    assert set(await asyncio.gather(*(ask() for _ in range(1000)))) == {b"200"}
