"""Every refusal has OpenAI's form, the right status, and no trace of the server's inside."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.serve.conftest import Serve
from xrouter_lg.errors import ConfigurationError
from xrouter_lg.serve.settings import ServerSettings, check_exposure
from xrouter_lg.testing import (
    FakeOpenAIServer,
    FaultPlan,
    always,
    auth_error,
    bad_request,
    hang,
    rate_limit,
)

HI: Any = [{"role": "user", "content": "Hi"}]
PATHS = ["/v1/chat/completions", "/v1/responses", "/v1/xrouter/feedback"]


def connected(url: str) -> socket.socket:
    host, port = url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=20)


def said_by(client: socket.socket, until: bytes) -> bytes:
    """What comes, as far as a response has ``until`` in it."""
    answer = b""
    while until not in answer and (part := client.recv(65536)):
        answer += part
    return answer


def all_of(client: socket.socket) -> bytes:
    """What comes before the connection is closed."""
    answer = b""
    try:
        while part := client.recv(65536):
            answer += part
    except ConnectionResetError:  # closed with something of ours unread
        pass
    return answer


def refusal(client: socket.socket) -> tuple[int, str]:
    """Status and code of an error in OpenAI's form, behind which the connection is closed."""
    head, _, body = all_of(client).partition(b"\r\n\r\n")
    error = json.loads(body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return int(head.split()[1]), error["code"]


def problem(response: httpx.Response) -> dict[str, Any]:
    """The error of a response, whose form is checked on the way."""
    assert response.headers["content-type"] == "application/json"
    (name, error), *others = response.json().items()
    assert (name, others) == ("error", [])
    assert set(error) == {"message", "type", "param", "code"}
    assert "Traceback" not in response.text and 'File "' not in response.text
    return dict(error)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'"a"', b"\xff\xfe", b"NaN", b"1"])
def test_what_is_no_json_object_is_a_bad_request(serve: Serve, path: str, body: bytes) -> None:
    with serve() as url:
        told = httpx.post(url + path, content=body)
    assert told.status_code == 400
    problem(told)


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "Hi"}, "messages"),
        ({"messages": ["Hi"]}, "messages[0]"),
        ({"messages": HI * 10_001}, "messages"),
        ({"messages": [{"role": "god", "content": "Hi"}]}, "messages[0].role"),
        ({"messages": [{"role": "remove", "content": "", "id": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0]"),
        ({"model": None}, "model"),
        ({"model": 7}, "model"),
        ({"stream": "yes"}, "stream"),
        ({"stop": 5}, "stop"),
        ({"temperature": "hot"}, "temperature"),
        ({"tools": "all"}, "tools"),
        ({"tools": [{"type": "function"}]}, "tools[0]"),
        ({"xrouter": {"tenant": "other"}}, "xrouter.tenant"),
    ],
)
def test_a_wrong_field_is_named(url: str, change: dict[str, Any], param: str) -> None:
    body = {"model": "xrouter", "messages": HI, **change}
    told = httpx.post(f"{url}/v1/chat/completions", json=body)
    assert (told.status_code, problem(told)["param"]) == (400, param)


@pytest.mark.parametrize(
    "change",
    [
        {"max_tokens": 0},
        {"max_tokens": "many"},
        {"xrouter": {"max_cost_usd": -1}},
        {"xrouter": {"allow": ["nobody"]}},
        {"xrouter": {"cost_weight": "dear"}},
        {"model": "xrouter:-1"},
        {"model": "xrouter:nan"},
    ],
)
def test_an_option_without_sense_is_a_bad_request(url: str, change: dict[str, Any]) -> None:
    told = httpx.post(
        f"{url}/v1/chat/completions", json={"model": "xrouter", "messages": HI, **change}
    )
    assert told.status_code == 400
    problem(told)


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        (rate_limit(0.01), 429, "workers_busy"),
        (auth_error(), 502, "workers_failed"),
        (bad_request(), 400, None),
        (bad_request("context_length_exceeded"), 400, "context_length_exceeded"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_every_worker_says_becomes_one_status(
    url: str, fake: FakeOpenAIServer, fault: Any, status: int, code: str | None, stream: bool
) -> None:
    fake.faults = FaultPlan(default=always(fault))
    body = {"model": "xrouter", "messages": HI, "stream": stream}
    told = httpx.post(f"{url}/v1/chat/completions", json=body)
    assert (told.status_code, problem(told)["code"]) == (status, code)
    assert told.headers["x-xrouter-trace-id"]


def test_a_request_may_take_no_longer_than_it_is_allowed(
    serve: Serve, fake: FakeOpenAIServer
) -> None:
    fake.faults = FaultPlan(default=always(hang(30)))
    with serve(timeout=0.05) as url:
        told = httpx.post(f"{url}/v1/chat/completions", json={"model": "small", "messages": HI})
    assert (told.status_code, problem(told)["code"]) == (504, "timeout")


def test_what_nobody_foresaw_is_a_500_without_its_text(
    serve: Serve, fake: FakeOpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from xrouter_lg import ChatXRouter

    async def broken(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("a secret of ours")

    monkeypatch.setattr(ChatXRouter, "ainvoke", broken)
    with serve() as url:
        told = httpx.post(f"{url}/v1/chat/completions", json={"model": "small", "messages": HI})
    assert told.status_code == 500
    assert "secret" not in problem(told)["message"]


def test_no_endpoint_and_no_method_are_told_in_the_same_form(url: str) -> None:
    assert problem(httpx.get(f"{url}/v1/nothing"))["type"] == "not_found_error"
    told = httpx.get(f"{url}/v1/chat/completions")
    assert told.status_code == 405
    problem(told)


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_beyond_the_limit_is_refused(serve: Serve, chunked: bool) -> None:
    body = json.dumps({"model": "xrouter", "messages": [{"role": "user", "content": "x" * 5000}]})

    def parts() -> Any:
        yield body.encode()

    with serve(settings=ServerSettings(max_body_bytes=1000)) as url:
        content: Any = parts() if chunked else body
        told = httpx.post(f"{url}/v1/chat/completions", content=content)
    assert (told.status_code, problem(told)["code"]) == (413, "request_too_large")


def test_headers_beyond_the_limit_are_refused(url: str) -> None:
    told = httpx.get(f"{url}/v1/models", headers={"x-large": "x" * 40_000})
    assert told.status_code == 431
    problem(told)


def test_headers_that_never_end_are_cut_off(url: str) -> None:
    """What a parser without a limit would keep in memory for ever."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as client:
        client.sendall(b"GET /v1/models HTTP/1.1\r\nhost: x\r\nx-endless: ")
        answer = b""
        try:
            for _ in range(200):
                client.sendall(b"x" * 8192)
        except (BrokenPipeError, ConnectionResetError):
            pass
        try:
            answer = client.recv(65536)
        except ConnectionResetError:
            answer = b"HTTP/1.1 431 "
    assert answer.startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize("size", [40_000, 200_000])
def test_a_body_is_no_header_however_it_arrives(url: str, size: int) -> None:
    said = [{"role": "user", "content": "x" * size}]
    body = json.dumps({"model": "small", "messages": said}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
    with connected(url) as client:
        for _ in range(2):  # the second on a connection that is kept
            client.sendall(head.encode() + body)
            assert said_by(client, b'"finish_reason"').startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("before", [b"", b"GET /v1/models HTTP/1.1\r\nhost: x\r\n\r\n"])
def test_headers_that_never_come_are_not_waited_for(serve: Serve, before: bytes) -> None:
    with serve(settings=ServerSettings(body_timeout_s=0.2)) as url, connected(url) as client:
        if before:
            client.sendall(before)
            assert said_by(client, b'"object":"list"').startswith(b"HTTP/1.1 200 ")
        client.sendall(b"GET /v1/models HTTP/1.1\r\nhost:")
        assert refusal(client) == (408, "timeout")


def test_a_connection_that_says_nothing_is_closed(serve: Serve) -> None:
    with serve(settings=ServerSettings(body_timeout_s=0.2)) as url, connected(url) as client:
        assert client.recv(1) == b""


NO_REQUESTS = {
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]),
    "TLS": bytes.fromhex("16030100050100000100"),
    "bad chunk": b"POST /v1/responses HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    "two lengths": b"GET /v1/models HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
}


@pytest.mark.parametrize("kind", list(NO_REQUESTS))
def test_what_is_no_http_request_is_refused_in_the_same_form(url: str, kind: str) -> None:
    with connected(url) as client:
        client.sendall(NO_REQUESTS[kind])
        assert refusal(client) == (400, "invalid_http")


def test_a_websocket_is_not_opened(url: str) -> None:
    asked = {"connection": "Upgrade", "upgrade": "websocket", "sec-websocket-version": "13"}
    told = httpx.get(f"{url}/v1/realtime", headers={**asked, "sec-websocket-key": "eHg="})
    assert told.status_code == 404
    problem(told)


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.binary(min_size=1, max_size=200))
def test_any_bytes_are_answered_or_the_connection_is_closed(url: str, data: bytes) -> None:
    with connected(url) as client:
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        answer = all_of(client)
    assert not answer or b'{"error":{' in answer
    assert httpx.get(f"{url}/healthz").status_code == 200


def test_a_body_that_never_comes_is_not_waited_for(serve: Serve) -> None:
    with serve(settings=ServerSettings(body_timeout_s=0.05)) as url:
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=20) as client:
            client.sendall(
                b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 50\r\n\r\n{"
            )
            assert client.recv(65536).startswith(b"HTTP/1.1 408 ")


async def test_a_half_closed_client_costs_the_others_nothing(url: str) -> None:
    host, port = url.removeprefix("http://").split(":")
    for begun in (b"", b"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: 9\r\n\r\n{", b"\0"):
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(begun)
        writer.write_eof() if begun else writer.close()
    async with httpx.AsyncClient() as client:
        told = await client.post(
            f"{url}/v1/chat/completions", json={"model": "xrouter", "messages": HI}
        )
    assert told.status_code == 200


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org"])
def test_others_may_reach_a_server_only_with_keys(host: str) -> None:
    with pytest.raises(ConfigurationError, match="no keys"):
        check_exposure(host, has_keys=False)
    check_exposure(host, has_keys=True)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_this_machine_may_reach_it_without(host: str) -> None:
    check_exposure(host, has_keys=False)


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=12,
)
FIELDS = st.sampled_from(
    [
        *("model", "messages", "n", "stream", "stop", "tools", "tool_choice", "temperature"),
        *("max_tokens", "response_format", "stream_options", "logprobs", "user", "xrouter"),
        *("seed", "metadata", "parallel_tool_calls", "functions", "input", "instructions"),
        *("text", "reasoning", "max_output_tokens", "trace_id", "key", "score", "extra_body"),
    ]
)
ROLES = st.sampled_from(["user", "assistant", "tool", "system", "developer", "function"])
MESSAGES = st.lists(
    st.dictionaries(
        st.sampled_from(["role", "content", "name", "tool_calls", "tool_call_id"]), JSON | ROLES
    ),
    max_size=3,
)


@given(
    path=st.sampled_from(PATHS),
    body=st.dictionaries(FIELDS, JSON),
    messages=MESSAGES | JSON,
    model=st.sampled_from(["xrouter", "small", "xrouter:0.3", "xrouter:x"]) | JSON,
)
@settings(
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_no_body_brings_the_server_down(
    url: str, path: str, body: dict[str, Any], messages: Any, model: Any
) -> None:
    whole = {**body, "messages": messages, "model": model}
    told = httpx.post(url + path, content=json.dumps(whole), timeout=60)
    if told.status_code != 200:
        problem(told)
    assert told.status_code < 500 or told.status_code == 502, told.text
