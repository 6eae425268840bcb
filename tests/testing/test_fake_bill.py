"""The server's own bill agrees with what clients are told, and knows more when they are not."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from decimal import Decimal

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
PROMPT = 3 + 1  # one message of one word
PRICED = FakeModel(
    name="small",
    reply="one two three four",
    prompt_tokens=100,
    cached_tokens=60,
    completion_tokens=50,
    reasoning_tokens=10,
    cost_usd=0.003,
)


def ask(model: ChatOpenAI, *, stream: bool) -> None:
    """Ask once; what the client makes of it is not the matter here."""
    with contextlib.suppress(openai.OpenAIError, ValueError):
        list(model.stream("hi")) if stream else model.invoke("hi")


def billed(server: FakeOpenAIServer) -> tuple[int, int] | None:
    """Prompt and completion tokens of the only line, None without a line."""
    if not server.bill:
        return None
    (line,) = server.bill
    return line.usage.prompt_tokens, line.usage.completion_tokens


async def until_billed(server: FakeOpenAIServer) -> None:
    """Wait for a line that comes after the client has gone."""
    async with asyncio.timeout(10):
        while not server.bill:
            await asyncio.sleep(0.01)


def test_the_bill_equals_the_usage_of_an_answer(
    server: FakeOpenAIServer, chat: ChatFactory
) -> None:
    usage = chat().invoke("hi").usage_metadata
    assert (usage["input_tokens"], usage["output_tokens"]) == billed(server)


def test_the_bill_equals_the_usage_of_a_stream(server: FakeOpenAIServer, chat: ChatFactory) -> None:
    (usage,) = [c.usage_metadata for c in chat().stream("hi") if c.usage_metadata]
    assert (usage["input_tokens"], usage["output_tokens"]) == billed(server)


def test_a_stream_without_include_usage_is_billed_all_the_same(
    server: FakeOpenAIServer, chat: ChatFactory
) -> None:
    list(chat(stream_usage=False).stream("hi"))
    assert billed(server) == (PROMPT, 4)


def test_a_stream_without_include_usage_reports_none(chat: ChatFactory) -> None:
    assert not [c for c in chat(stream_usage=False).stream("hi") if c.usage_metadata]


def test_cached_and_reasoning_tokens_reach_the_client(
    server: FakeOpenAIServer, chat: ChatFactory
) -> None:
    server.add_model(PRICED)
    usage = chat().invoke("hi").usage_metadata
    details = usage["input_token_details"]["cache_read"], usage["output_token_details"]["reasoning"]
    assert details == (60, 10)


def test_cached_and_reasoning_tokens_are_on_the_bill(
    server: FakeOpenAIServer, chat: ChatFactory
) -> None:
    server.add_model(PRICED)
    chat().invoke("hi")
    assert (server.bill.totals.cached_tokens, server.bill.totals.reasoning_tokens) == (60, 10)


def test_the_providers_own_cost_is_reported(server: FakeOpenAIServer, chat: ChatFactory) -> None:
    server.add_model(PRICED)
    assert chat().invoke("hi").response_metadata["token_usage"]["cost"] == 0.003


def test_costs_add_up_exactly(server: FakeOpenAIServer, chat: ChatFactory) -> None:
    server.add_model(PRICED)
    for _ in range(3):
        chat().invoke("hi")
    assert server.bill.totals.cost_usd == Decimal("0.009")


def test_a_cut_stream_costs_its_share(server: FakeOpenAIServer, chat: ChatFactory) -> None:
    server.add_model(PRICED)
    server.faults = FaultPlan(default=cut_stream(2))
    ask(chat(), stream=True)
    # 100 prompt + 10 reasoning + 2 of 4 words of 40 tokens = 130 of 150 tokens.
    assert server.bill[0].usage.cost_usd == Decimal("0.003") * 130 / 150


def test_a_limit_below_given_completion_tokens_bills_the_limit(server: FakeOpenAIServer) -> None:
    server.add_model(PRICED)
    body = {"model": "small", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 30}
    httpx.post(f"{server.base_url}/chat/completions", json=body)
    assert billed(server) == (100, 30)


def test_the_bill_can_be_split_by_model(server: FakeOpenAIServer, chat: ChatFactory) -> None:
    for model in ("small", "large", "small"):
        chat(model).invoke("hi")
    assert server.bill.of("small").totals.requests == 2


def test_a_bill_line_points_at_its_request(server: FakeOpenAIServer, chat: ChatFactory) -> None:
    server.faults = FaultPlan({"small": [server_error()]})
    for _ in range(2):
        ask(chat(), stream=False)
    assert server.bill[0].number == server.requests[1].number


def test_a_cleared_server_has_an_empty_bill(server: FakeOpenAIServer, chat: ChatFactory) -> None:
    chat().invoke("hi")
    server.clear()
    assert not server.bill


FREE = {
    "rate_limit": rate_limit(1),
    "server_error": server_error(503),
    "bad_request": bad_request(),
    "auth_error": auth_error(),
    "html_page": html_page(),
    "reset": reset(),
    "hang": hang(0.05),
}


@pytest.mark.parametrize("stream", [False, True], ids=["invoke", "stream"])
@pytest.mark.parametrize("fault", FREE.values(), ids=FREE)
def test_a_request_without_an_answer_is_not_billed(
    server: FakeOpenAIServer, chat: ChatFactory, fault: Fault, stream: bool
) -> None:
    server.faults = FaultPlan(default=fault)
    ask(chat(), stream=stream)
    assert billed(server) is None


PAID = {
    "empty": (empty(), 0),
    "truncated": (truncated(3), 3),
    "content_filter": (content_filter(1), 1),
    "wrong_model": (wrong_model(), 4),
    "missing_usage": (missing_usage(), 4),
    "malformed_json": (malformed_json(), 4),
    "slow_stream": (slow_stream(0.01), 4),
}


@pytest.mark.parametrize("stream", [False, True], ids=["invoke", "stream"])
@pytest.mark.parametrize(("fault", "completion"), PAID.values(), ids=PAID)
def test_a_bad_answer_is_billed_for_what_was_generated(
    server: FakeOpenAIServer, chat: ChatFactory, fault: Fault, completion: int, stream: bool
) -> None:
    server.faults = FaultPlan(default=fault)
    ask(chat(), stream=stream)
    assert billed(server) == (PROMPT, completion)


def test_a_cut_stream_is_billed_for_the_tokens_that_were_sent(
    server: FakeOpenAIServer, chat: ChatFactory
) -> None:
    server.faults = FaultPlan(default=cut_stream(2))
    ask(chat(), stream=True)
    assert billed(server) == (PROMPT, 2)


def test_a_body_cut_in_the_middle_is_billed_whole(
    server: FakeOpenAIServer, chat: ChatFactory
) -> None:
    server.faults = FaultPlan(default=cut_stream(2))
    ask(chat(), stream=False)
    assert billed(server) == (PROMPT, 4)


def test_a_stream_that_ends_in_an_error_is_billed_for_the_tokens_before_it(
    server: FakeOpenAIServer, chat: ChatFactory
) -> None:
    server.faults = FaultPlan(default=stream_error(3))
    ask(chat(), stream=True)
    assert billed(server) == (PROMPT, 3)


def test_a_served_model_is_on_the_bill(server: FakeOpenAIServer, chat: ChatFactory) -> None:
    server.faults = FaultPlan(default=wrong_model("cheaper"))
    ask(chat(), stream=False)
    assert (server.bill[0].model, server.bill[0].served_model) == ("small", "cheaper")


@pytest.mark.asyncio
async def test_a_client_that_gave_up_waiting_is_billed_whole(
    server: FakeOpenAIServer, chat: ChatFactory
) -> None:
    server.add_model(FakeModel(name="small", reply="one two", latency_s=0.3))
    with pytest.raises(openai.APITimeoutError):
        await chat(timeout=httpx.Timeout(0.1)).ainvoke("hi")
    await until_billed(server)
    assert [(line.usage.completion_tokens, line.delivered) for line in server.bill] == [(2, False)]


@pytest.mark.asyncio
async def test_a_client_that_leaves_a_stream_is_billed_for_what_it_got(
    server: FakeOpenAIServer,
) -> None:
    server.faults = FaultPlan(default=slow_stream(0.05))
    server.add_model(FakeModel(name="small", reply="word " * 100))
    body = {"model": "small", "messages": [{"role": "user", "content": "hi"}], "stream": True}
    async with (
        httpx.AsyncClient() as client,
        client.stream("POST", f"{server.base_url}/chat/completions", json=body) as response,
    ):
        async for _ in response.aiter_bytes():
            break
    await until_billed(server)
    assert server.bill[0].usage.completion_tokens < 10


@pytest.mark.asyncio
async def test_three_hundred_concurrent_requests_are_billed_once_each(
    server: FakeOpenAIServer, chat: ChatFactory
) -> None:
    model = chat()
    await asyncio.gather(*(model.ainvoke("hi") for _ in range(300)))
    totals = server.bill.totals
    assert (totals.requests, totals.completion_tokens) == (300, 1200)


def test_figures_that_no_provider_reports_are_refused() -> None:
    with pytest.raises(ValueError, match="cached_tokens=5 is more than prompt_tokens=4"):
        FakeModel(name="small", prompt_tokens=4, cached_tokens=5)
