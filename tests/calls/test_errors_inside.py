"""Errors inside a response of status 200, streamed or whole, by every provider's class."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from langchain_core.callbacks import AsyncCallbackHandler
from langchain_core.messages import HumanMessage

from tests.support.providers import PROVIDERS, Answer, keys, loopback, plain_answer
from xrouter_lg.calls.attempt import CallResult, Workers
from xrouter_lg.types import PlannedCall

OVERLOADED = {"message": "Provider is overloaded", "code": 503}
LIMITED = {"message": "Slow down", "type": "rate_limit_error", "code": "rate_limit_exceeded"}
GEMINIS = {"message": "The model is overloaded", "status": "UNAVAILABLE"}
EXHAUSTED = {"code": 429, "message": "Quota exceeded: retry", "status": "RESOURCE_EXHAUSTED"}
UNKEYED = {"code": 401, "message": "API key not valid", "status": "UNAUTHENTICATED"}
MISTRALS = {"object": "error", "message": "Slow down", "type": "rate_limited", "code": "1300"}


def sse(*events: Mapping[str, Any]) -> str:
    """Server-sent events, named by their type where they have one."""
    parts = []
    for event in events:
        name = f"event: {event['type']}\n" if "type" in event else ""
        parts.append(f"{name}data: {json.dumps(event)}\n\n")
    return "".join(parts)


def chunk(model: Any, text: str = "", **other: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": {"role": "assistant", "content": text}, "finish_reason": None}
    known = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": model}
    return {**known, "system_fingerprint": "f", "choices": [choice], **other}


def anthropic(model: Any, words: list[str]) -> str:
    message = {"id": "m1", "type": "message", "role": "assistant", "model": model, "content": []}
    usage = {"input_tokens": 5, "output_tokens": 1}
    block = {"type": "text", "text": ""}
    return sse(
        {"type": "message_start", "message": {**message, "stop_reason": None, "usage": usage}},
        {"type": "content_block_start", "index": 0, "content_block": block},
        *(
            {
                "type": "content_block_delta",
                "index": 0,
                "delta": {"type": "text_delta", "text": word},
            }
            for word in words
        ),
        {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}},
    )


def gemini(model: Any, words: list[str]) -> str:
    said = [
        {"candidates": [{"content": {"role": "model", "parts": [{"text": word}]}, "index": 0}]}
        for word in words
    ]
    error = {"code": 503, "message": "The model is overloaded", "status": "UNAVAILABLE"}
    return sse(*said, {"error": error})


def openrouter(model: Any, words: list[str]) -> str:
    return sse(*(chunk(model, word) for word in words), chunk(model, choices=[], error=OVERLOADED))


def openai(model: Any, words: list[str]) -> str:
    return sse(*(chunk(model, word) for word in words), {"error": LIMITED})


def mistral(model: Any, words: list[str]) -> str:
    said = [f"data: {json.dumps(chunk(model, word))}\n\n" for word in words]
    return "".join([*said, f"data: {json.dumps(MISTRALS)}\n\n"])


def xai(model: Any, words: list[str]) -> str:
    return sse(*(chunk(model, word) for word in words), {"error": "Too many requests: rate limit"})


def ollama(model: Any, words: list[str]) -> str:
    lines: list[dict[str, Any]] = [
        {"model": model, "message": {"role": "assistant", "content": word}, "done": False}
        for word in words
    ]
    return "".join(json.dumps(line) + "\n" for line in [*lines, {"error": "the runner stopped"}])


STREAMED = pytest.mark.parametrize(
    ("provider", "wire", "error"),
    [
        ("anthropic:claude-x", anthropic, "server"),
        ("google_genai:gemini-2.5-flash", gemini, "server"),
        ("openrouter:vendor/x", openrouter, "server"),
        ("openai:gpt-x", openai, "rate_limit"),
        ("deepseek:deepseek-chat", openai, "rate_limit"),
        ("xai:grok-x", openai, "rate_limit"),
        ("xai:grok-x", xai, "rate_limit"),
        ("mistralai:mistral-x", mistral, "rate_limit"),
        ("perplexity:sonar", openai, "rate_limit"),
        ("ollama:llama-x", ollama, "server"),
    ],
)


class Websocket(AsyncCallbackHandler):
    """Sends every token on to a user."""

    def __init__(self) -> None:
        self.sent = ""

    async def on_llm_new_token(self, token: Any, **kwargs: Any) -> None:
        self.sent += str(token or "")


async def ask(server: Any, provider: str, *handlers: Any, **params: Any) -> CallResult:
    card = server.card(provider, max_retries=0, params=params)
    config: Any = {"callbacks": list(handlers)}
    return await Workers().call(card, PlannedCall("c1", "one"), [HumanMessage("Hi")], config)


async def streamed(
    monkeypatch: pytest.MonkeyPatch, provider: str, wire: Any, words: list[str]
) -> tuple[CallResult, str]:
    def answer(path: str, body: dict[str, Any], number: int) -> Answer:
        return 200, wire(body.get("model"), words)

    # Ollama's class streams in any case, and has no setting for it.
    params = {} if provider.startswith("ollama") else {"streaming": True}
    with loopback(answer) as server:
        keys(monkeypatch, server.url)
        socket = Websocket()
        return await ask(server, provider, socket, **params), socket.sent


@STREAMED
async def test_an_error_that_opens_a_stream_is_classed_by_what_it_says(
    monkeypatch: pytest.MonkeyPatch, provider: str, wire: Any, error: str
) -> None:
    result, sent = await streamed(monkeypatch, provider, wire, [])
    assert (result.message, result.error, result.streamed) == (None, error, False)
    assert sent == ""
    assert result.charges[0].cost_usd is None  # what was generated by then is not known


@STREAMED
async def test_an_error_after_tokens_that_a_handler_took_is_one_mid_stream(
    monkeypatch: pytest.MonkeyPatch, provider: str, wire: Any, error: str
) -> None:
    result, sent = await streamed(monkeypatch, provider, wire, ["Par", "is"])
    assert (result.message, result.error, result.streamed) == (None, error, True)
    assert sent == "Paris"


async def test_the_responses_apis_error_event_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    error = {"type": "error", "code": "rate_limit_exceeded", "message": "Slow down", "param": None}
    with loopback(lambda path, body, number: (200, sse({**error, "sequence_number": 0}))) as server:
        keys(monkeypatch, server.url)
        result = await ask(server, "openai:gpt-x", use_responses_api=True, streaming=True)
        assert result.error == "rate_limit"


@pytest.mark.parametrize(
    ("provider", "said", "error"),
    [
        ("openai:gpt-x", {"error": {"message": "Slow down", "code": 429}}, "rate_limit"),
        ("openai:gpt-x", {"error": {"message": "Internal server error"}}, "server"),
        ("openai:gpt-x", {"error": {"message": "Insufficient credits"}}, "quota"),
        ("openai:gpt-x", {"error": {"message": "Invalid API key", "code": 401}}, "auth"),
        ("openai:gpt-x", {"error": {"message": "Flagged by moderation"}}, "content_filter"),
        ("openrouter:vendor/x", {"error": OVERLOADED}, "server"),
        ("ollama:llama-x", {"error": "the runner stopped"}, "server"),
        ("anthropic:claude-x", {"type": "error", "error": OVERLOADED}, "server"),
        ("anthropic:claude-x", {"type": "error", "error": LIMITED}, "rate_limit"),
        ("mistralai:mistral-x", MISTRALS, "rate_limit"),
        ("mistralai:mistral-x", {"error": LIMITED}, "rate_limit"),
        ("mistralai:mistral-x", {"object": "error", "message": "Upps"}, "server"),
        ("perplexity:sonar", {"error": LIMITED}, "rate_limit"),
        ("google_genai:gemini-2.5-flash", {"error": GEMINIS | {"code": 503}}, "server"),
        ("google_genai:gemini-2.5-flash", {"error": GEMINIS | EXHAUSTED}, "rate_limit"),
        ("google_genai:gemini-2.5-flash", {"error": GEMINIS | UNKEYED}, "auth"),
        ("google_genai:gemini-2.5-flash", {"error": "Upps"}, "server"),
    ],
)
async def test_an_error_in_the_place_of_an_answer_is_classed_by_what_it_says(
    monkeypatch: pytest.MonkeyPatch, provider: str, said: Any, error: str
) -> None:
    with loopback(lambda path, body, number: (200, said)) as server:
        keys(monkeypatch, server.url)
        assert (await ask(server, provider)).error == error


GATEWAYS = [
    ({"error": "model overloaded"}, "server"),
    ({"code": 429, "msg": "Too many requests"}, "rate_limit"),
    ({"detail": "Not Found"}, "not_found"),
    ({"message": "Internal server error", "type": "error"}, "server"),
    ({"success": False, "error": {"message": "insufficient credit"}}, "quota"),
    ({"id": "x", "choices": None, "error": {"message": "overloaded", "code": 503}}, "server"),
]
"""Bodies of status 200 as gateways and proxies in front of a provider have them."""


@pytest.mark.parametrize("provider", [it for it in PROVIDERS if not it.startswith("ollama")])
@pytest.mark.parametrize(("said", "error"), GATEWAYS, ids=lambda it: str(it)[:40])
async def test_a_gateways_error_is_classed_by_what_it_says(
    monkeypatch: pytest.MonkeyPatch, provider: str, said: Any, error: str
) -> None:
    with loopback(lambda path, body, number: (200, said)) as server:
        keys(monkeypatch, server.url)
        assert (await ask(server, provider)).error == error


RESPONSE = {"id": "r1", "object": "response", "created_at": 1, "model": "gpt-x", "output": []}


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("server_error", "server"),
        ("rate_limit_exceeded", "rate_limit"),
        ("context_length_exceeded", "context_length"),
        ("insufficient_quota", "quota"),
        ("invalid_prompt", "content_filter"),
        ("invalid_image_format", "bad_request"),
        (None, "server"),
    ],
)
async def test_a_response_that_fails_amid_its_stream_is_classed_by_what_it_says(
    monkeypatch: pytest.MonkeyPatch, code: str | None, error: str
) -> None:
    told = None if code is None else {"code": code, "message": "See the documentation."}
    begun = {"type": "response.created", "sequence_number": 0}
    failed = {"type": "response.failed", "sequence_number": 1}
    said = sse(
        {**begun, "response": {**RESPONSE, "status": "in_progress", "error": None}},
        {**failed, "response": {**RESPONSE, "status": "failed", "error": told}},
    )
    with loopback(lambda path, body, number: (200, said)) as server:
        keys(monkeypatch, server.url)
        result = await ask(server, "openai:gpt-x", use_responses_api=True, streaming=True)
        assert result.error == error


async def test_a_failed_response_of_the_responses_api_is_no_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def answer(path: str, body: dict[str, Any], number: int) -> Answer:
        status, said, *_ = plain_answer(path, body)
        said |= {"status": "failed", "error": {"code": "server_error", "message": "boom"}}
        return status, said

    with loopback(answer) as server:
        keys(monkeypatch, server.url)
        assert (await ask(server, "openai:gpt-x", use_responses_api=True)).error == "server"


@pytest.mark.parametrize("streaming", [False, True])
async def test_a_failed_response_of_perplexitys_is_classed_by_what_it_says(
    monkeypatch: pytest.MonkeyPatch, streaming: bool
) -> None:
    def answer(path: str, body: dict[str, Any], number: int) -> Answer:
        failed = {"type": "response.failed", "sequence_number": 0, "error": LIMITED}
        known = {"id": "r1", "object": "response", "created_at": 1, "model": "m", "output": []}
        return 200, sse(failed) if streaming else {**known, "status": "failed", "error": LIMITED}

    with loopback(answer) as server:
        keys(monkeypatch, server.url)
        asked = {"use_responses_api": True, "streaming": streaming}
        assert (await ask(server, "perplexity:sonar", **asked)).error == "rate_limit"
