"""Each fault reaches the real ChatOpenAI as the failure it stands for."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime

import httpx
import openai
import pytest
from langchain_openai import ChatOpenAI

from xrouter_lg.testing import (
    FakeModel,
    FakeOpenAIServer,
    Fault,
    FaultPlan,
    auth_error,
    bad_request,
    content_filter,
    cut_stream,
    empty,
    error_in_answer,
    hang,
    html_page,
    malformed_json,
    missing_usage,
    rate_limit,
    reset,
    server_error,
    slow_stream,
    stream_error,
    truncated,
    wrong_model,
)

ChatFactory = Callable[..., ChatOpenAI]

RAISES = {
    "rate_limit": (rate_limit(0.1), openai.RateLimitError),
    "quota": (rate_limit(insufficient_quota=True), openai.RateLimitError),
    "500": (server_error(), openai.InternalServerError),
    "502": (server_error(502), openai.InternalServerError),
    "503": (server_error(503), openai.InternalServerError),
    "529": (server_error(529), openai.InternalServerError),
    "400": (bad_request(), openai.BadRequestError),
    "401": (auth_error(), openai.AuthenticationError),
    "reset": (reset(), openai.APIConnectionError),
    "hang": (hang(0.05), openai.APIConnectionError),
    "html 502": (html_page(502), openai.InternalServerError),
    "html 200": (html_page(), ValueError),
    "malformed_json": (malformed_json(), json.JSONDecodeError),
    "cut": (cut_stream(2), openai.APIConnectionError),
    "stream_error": (stream_error(2), openai.APIError),
}
BY_FAULT = pytest.mark.parametrize(("fault", "error"), RAISES.values(), ids=RAISES)


@BY_FAULT
def test_invoke_raises(
    server: FakeOpenAIServer, chat: ChatFactory, fault: Fault, error: type[Exception]
) -> None:
    server.faults = FaultPlan(default=fault)
    with pytest.raises(error):
        chat().invoke("hi")


@BY_FAULT
def test_stream_raises(
    server: FakeOpenAIServer, chat: ChatFactory, fault: Fault, error: type[Exception]
) -> None:
    server.faults = FaultPlan(default=fault)
    with pytest.raises(error):
        list(chat().stream("hi"))


@BY_FAULT
@pytest.mark.asyncio
async def test_ainvoke_raises(
    server: FakeOpenAIServer, chat: ChatFactory, fault: Fault, error: type[Exception]
) -> None:
    server.faults = FaultPlan(default=fault)
    with pytest.raises(error):
        await chat().ainvoke("hi")


@BY_FAULT
@pytest.mark.asyncio
async def test_astream_raises(
    server: FakeOpenAIServer, chat: ChatFactory, fault: Fault, error: type[Exception]
) -> None:
    server.faults = FaultPlan(default=fault)
    with pytest.raises(error):
        async for _ in chat().astream("hi"):
            pass


def test_a_rate_limit_tells_how_long_to_wait(server: FakeOpenAIServer, chat: ChatFactory) -> None:
    server.faults = FaultPlan(default=rate_limit(0.25))
    with pytest.raises(openai.RateLimitError) as caught:
        chat().invoke("hi")
    assert caught.value.response.headers["retry-after"] == "0.25"


def test_a_rate_limit_can_name_a_moment(server: FakeOpenAIServer, chat: ChatFactory) -> None:
    server.faults = FaultPlan(default=rate_limit(datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)))
    with pytest.raises(openai.RateLimitError) as caught:
        chat().invoke("hi")
    assert caught.value.response.headers["retry-after"] == "Wed, 02 Jan 2030 03:04:05 GMT"


def test_the_openai_client_obeys_retry_after(server: FakeOpenAIServer, chat: ChatFactory) -> None:
    server.faults = FaultPlan({"small": [rate_limit(0.05), None]})
    assert chat(max_retries=1).invoke("hi").content == "one two three four"


def test_a_spent_quota_has_its_own_code(server: FakeOpenAIServer, chat: ChatFactory) -> None:
    server.faults = FaultPlan(default=rate_limit(insufficient_quota=True))
    with pytest.raises(openai.RateLimitError) as caught:
        chat().invoke("hi")
    assert caught.value.code == "insufficient_quota"


def test_a_bad_request_has_the_code_asked_for(server: FakeOpenAIServer, chat: ChatFactory) -> None:
    server.faults = FaultPlan(default=bad_request("context_length_exceeded"))
    with pytest.raises(openai.BadRequestError) as caught:
        chat().invoke("hi")
    assert caught.value.code == "context_length_exceeded"


def test_a_status_that_is_no_server_error_is_refused() -> None:
    with pytest.raises(ValueError, match="status=404"):
        server_error(404)


def test_a_reset_is_a_reset_not_a_close(server: FakeOpenAIServer) -> None:
    server.faults = FaultPlan(default=reset())
    with pytest.raises(httpx.ReadError):
        httpx.post(f"{server.base_url}/chat/completions", json={"model": "small"})


def test_a_hang_runs_into_the_clients_timeout(server: FakeOpenAIServer, chat: ChatFactory) -> None:
    server.faults = FaultPlan(default=hang())
    with pytest.raises(openai.APITimeoutError):
        chat(timeout=httpx.Timeout(0.1)).invoke("hi")


def test_words_before_a_cut_arrive(server: FakeOpenAIServer, chat: ChatFactory) -> None:
    server.faults = FaultPlan(default=cut_stream(2))
    words: list[object] = []
    with pytest.raises(openai.APIConnectionError):
        words.extend(chunk.content for chunk in chat().stream("hi"))
    assert [word for word in words if word] == ["one", " two"]


def test_a_clean_cut_looks_like_an_end(server: FakeOpenAIServer, chat: ChatFactory) -> None:
    server.faults = FaultPlan(default=cut_stream(2, clean=True))
    chunks = list(chat().stream("hi"))
    assert "".join(str(chunk.content) for chunk in chunks) == "one two"
    assert not any("finish_reason" in chunk.response_metadata for chunk in chunks)


def test_an_error_in_an_answer_has_the_status_200(server: FakeOpenAIServer) -> None:
    server.faults = FaultPlan(default=error_in_answer())
    request = {"model": "small", "messages": [{"role": "user", "content": "hi"}]}
    answer = httpx.post(f"{server.base_url}/chat/completions", json=request)
    assert (answer.status_code, answer.json()["error"]["code"]) == (200, "502")
    assert server.bill == ()


def test_words_before_an_error_event_arrive(server: FakeOpenAIServer, chat: ChatFactory) -> None:
    server.faults = FaultPlan(default=stream_error(3))
    words: list[object] = []
    with pytest.raises(openai.APIError):
        words.extend(chunk.content for chunk in chat().stream("hi"))
    assert [word for word in words if word] == ["one", " two", " three"]


def test_a_slow_stream_pauses_before_every_chunk(
    server: FakeOpenAIServer, chat: ChatFactory
) -> None:
    server.faults = FaultPlan(default=slow_stream(0.05))
    start = time.perf_counter()
    list(chat().stream("hi"))
    assert time.perf_counter() - start >= 4 * 0.05


def test_a_slow_stream_is_complete(server: FakeOpenAIServer, chat: ChatFactory) -> None:
    server.faults = FaultPlan(default=slow_stream(0.01))
    text = "".join(str(chunk.content) for chunk in chat().stream("hi"))
    assert text == "one two three four"


@pytest.mark.parametrize(
    ("fault", "content", "finish_reason"),
    [
        (empty(), "", "stop"),
        (truncated(), "one two", "length"),
        (truncated(3), "one two three", "length"),
        (content_filter(), "one two", "content_filter"),
    ],
    ids=["empty", "half", "three tokens", "filtered"],
)
def test_a_changed_answer_arrives(
    server: FakeOpenAIServer, chat: ChatFactory, fault: Fault, content: str, finish_reason: str
) -> None:
    server.faults = FaultPlan(default=fault)
    message = chat().invoke("hi")
    got = message.content, message.response_metadata["finish_reason"]
    assert got == (content, finish_reason)


def test_another_model_is_named(server: FakeOpenAIServer, chat: ChatFactory) -> None:
    server.faults = FaultPlan(default=wrong_model("cheaper"))
    assert chat().invoke("hi").response_metadata["model_name"] == "cheaper"


def test_a_missing_usage_block_is_none(server: FakeOpenAIServer, chat: ChatFactory) -> None:
    server.faults = FaultPlan(default=missing_usage())
    assert chat().invoke("hi").usage_metadata is None


def test_the_next_request_after_a_broken_one_works(
    server: FakeOpenAIServer, chat: ChatFactory
) -> None:
    server.faults = FaultPlan({"small": [reset(), None]})
    model = chat()
    with pytest.raises(openai.APIConnectionError):
        model.invoke("hi")
    assert model.invoke("hi").content == "one two three four"


def test_a_fault_is_recorded_with_its_request(server: FakeOpenAIServer, chat: ChatFactory) -> None:
    server.faults = FaultPlan({"small": [empty(), None]})
    for _ in range(2):
        chat().invoke("hi")
    assert [request.fault for request in server.requests] == ["empty", None]


def test_a_fault_hits_only_its_model(server: FakeOpenAIServer, chat: ChatFactory) -> None:
    server.faults = FaultPlan({"small": server_error()})
    server.add_model(FakeModel(name="large", reply="fine"))
    assert chat("large").invoke("hi").content == "fine"


def test_a_new_plan_counts_calls_from_its_own_start(
    server: FakeOpenAIServer, chat: ChatFactory
) -> None:
    chat().invoke("hi")
    server.faults = FaultPlan({"small": [server_error()]})
    with pytest.raises(openai.InternalServerError):
        chat().invoke("hi")


def test_no_plan_means_no_faults(server: FakeOpenAIServer, chat: ChatFactory) -> None:
    server.faults = FaultPlan(default=server_error())
    server.faults = FaultPlan()
    assert chat().invoke("hi").content == "one two three four"
