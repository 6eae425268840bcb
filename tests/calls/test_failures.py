"""Failures of the real OpenAI client against a real server, read into our classes."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from email.utils import format_datetime
from typing import Any

import httpx
import pytest
from langchain_google_genai import ChatGoogleGenerativeAI
from langchain_openai import ChatOpenAI

from tests.support.providers import loopback
from xrouter_lg import testing
from xrouter_lg.calls.failures import (
    RETRYABLE,
    UNHEALTHY,
    Failure,
    classify,
    describe,
)
from xrouter_lg.calls.pauses import retry_after_s
from xrouter_lg.errors import ErrorClass, MissingKeyError, PoolError, RequestError
from xrouter_lg.testing import FakeModel, FakeOpenAIServer, Fault, FaultPlan
from xrouter_lg.tracing.runs.redact import MASK

PLANTED = "sk-planted-9f8e7d6c5b4a"


@pytest.fixture(scope="module")
def running() -> Iterator[FakeOpenAIServer]:
    with FakeOpenAIServer([FakeModel(name="m", reply="one two three four")]) as server:
        yield server


@pytest.fixture
def server(running: FakeOpenAIServer) -> FakeOpenAIServer:
    running.faults = FaultPlan()
    return running


def chat(base_url: str, **options: Any) -> ChatOpenAI:
    fields: dict[str, Any] = {
        "model": "m",
        "api_key": PLANTED,
        "max_retries": 0,
        "timeout": httpx.Timeout(10),
    }
    return ChatOpenAI(base_url=base_url, **{**fields, **options})


def failure_of(server: FakeOpenAIServer, fault: Fault, *, stream: bool = False) -> Failure:
    server.faults = FaultPlan(default=fault)
    client = chat(server.base_url)
    with pytest.raises(Exception) as caught:
        list(client.stream("hi")) if stream else client.invoke("hi")
    failure = classify(caught.value)
    assert PLANTED not in failure.detail
    assert failure.detail
    return failure


EITHER_WAY = pytest.mark.parametrize("stream", [False, True], ids=["invoke", "stream"])


# --- class by fault ------------------------------------------------------------------------


@EITHER_WAY
@pytest.mark.parametrize(
    ("fault", "error_class", "free"),
    [
        (testing.rate_limit(), "rate_limit", True),
        (testing.rate_limit(insufficient_quota=True), "quota", True),
        (testing.server_error(500), "server", False),
        (testing.server_error(502), "server", False),
        (testing.server_error(503), "server", False),
        (testing.server_error(529), "server", False),
        (testing.bad_request(), "bad_request", True),
        (testing.bad_request("context_length_exceeded"), "context_length", True),
        (testing.auth_error(), "auth", True),
        (testing.reset(), "connection", False),
        (testing.hang(0.05), "connection", False),
        (testing.html_page(200), "malformed", False),
        (testing.html_page(502), "server", False),
        (testing.malformed_json(), "malformed", False),
        (testing.cut_stream(2), "connection", False),
        (testing.stream_error(2), "server", False),
    ],
    ids=lambda it: it.kind if isinstance(it, Fault) else str(it),
)
def test_each_fault_is_read_as_what_it_is(
    server: FakeOpenAIServer, fault: Fault, error_class: str, free: bool, stream: bool
) -> None:
    failure = failure_of(server, fault, stream=stream)
    assert (failure.error_class, failure.free) == (error_class, free)


@EITHER_WAY
def test_a_server_that_hangs_is_a_timeout_that_may_have_cost_something(
    server: FakeOpenAIServer, stream: bool
) -> None:
    server.faults = FaultPlan(default=testing.hang())
    client = chat(server.base_url, timeout=httpx.Timeout(0.2))
    with pytest.raises(Exception) as caught:
        list(client.stream("hi")) if stream else client.invoke("hi")
    failure = classify(caught.value)
    assert (failure.error_class, failure.free) == (ErrorClass.TIMEOUT, False)


async def test_our_own_deadline_is_a_timeout_too(server: FakeOpenAIServer) -> None:
    import asyncio

    server.faults = FaultPlan(default=testing.hang())
    with pytest.raises(TimeoutError) as caught:
        async with asyncio.timeout(0.1):
            await chat(server.base_url).ainvoke("hi")
    assert classify(caught.value).error_class == "timeout"


@pytest.mark.parametrize(
    ("status", "body", "error_class"),
    [
        (410, {"error": {"message": "gone"}}, ErrorClass.NOT_FOUND),
        (405, {"error": {"message": "method not allowed"}}, ErrorClass.NOT_FOUND),
        (400, {"error": {"message": "Model Not Exist"}}, ErrorClass.NOT_FOUND),
        (400, {"error": {"message": "Your credit balance is too low"}}, ErrorClass.QUOTA),
        (400, {"error": {"message": "Billing hard limit has been reached"}}, ErrorClass.QUOTA),
        (400, {"error": {"message": "API key not valid."}}, ErrorClass.AUTH),
        (400, {"code": "invalid", "error": "Incorrect API key provided: x"}, ErrorClass.AUTH),
        (400, {"error": {"message": "User location is not supported"}}, ErrorClass.AUTH),
        (400, {"error": {"message": "messages: billing is no role"}}, ErrorClass.BAD_REQUEST),
        (
            403,
            {"error": {"message": "You are not allowed to request logprobs from this model."}},
            ErrorClass.BAD_REQUEST,
        ),
    ],
)
def test_a_plain_refusal_is_read_by_its_words(
    status: int, body: dict[str, Any], error_class: ErrorClass
) -> None:
    with (
        loopback(lambda path, asked, number: (status, body)) as server,
        pytest.raises(Exception) as caught,
    ):
        chat(f"{server.url}/v1").invoke("hi")
    failure = classify(caught.value)
    assert failure.error_class is error_class
    words = body["error"] if isinstance(body["error"], str) else body["error"]["message"]
    assert words[:20] in failure.detail


def test_what_google_refuses_is_free_and_read_by_its_words() -> None:
    said = {"code": 400, "message": "API key not valid.", "status": "INVALID_ARGUMENT"}
    with (
        loopback(lambda path, asked, number: (400, {"error": said})) as server,
        pytest.raises(Exception) as caught,
    ):
        ChatGoogleGenerativeAI(
            model="gemini-x", base_url=server.url, api_key="k", max_retries=1
        ).invoke("hi")
    failure = classify(caught.value)
    assert (failure.error_class, failure.free) == (ErrorClass.AUTH, True)


def test_a_refused_connection_is_free() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    with pytest.raises(Exception) as caught:
        chat(f"http://127.0.0.1:{port}/v1").invoke("hi")
    failure = classify(caught.value)
    assert (failure.error_class, failure.free) == (ErrorClass.CONNECTION, True)


def test_an_unknown_model_is_not_found(server: FakeOpenAIServer) -> None:
    with pytest.raises(Exception) as caught:
        chat(server.base_url, model="other").invoke("hi")
    failure = classify(caught.value)
    assert (failure.error_class, failure.free) == (ErrorClass.NOT_FOUND, True)


def test_a_prompt_longer_than_the_models_window_is_a_context_failure() -> None:
    with FakeOpenAIServer([FakeModel(name="m", context_window=3)]) as small:
        with pytest.raises(Exception) as caught:
            chat(small.base_url).invoke("one two three four five six")
        assert classify(caught.value).error_class == "context_length"


# --- Retry-After ---------------------------------------------------------------------------


def test_retry_after_in_seconds_is_read(server: FakeOpenAIServer) -> None:
    assert failure_of(server, testing.rate_limit(2.5)).retry_after_s == 2.5


def test_retry_after_as_a_date_is_read_as_seconds_from_now(server: FakeOpenAIServer) -> None:
    when = datetime.now(UTC) + timedelta(seconds=60)
    seconds = failure_of(server, testing.rate_limit(when)).retry_after_s
    assert seconds is not None
    assert 50 < seconds <= 60


def test_a_date_of_another_time_zone_is_read_in_it(server: FakeOpenAIServer) -> None:
    when = (datetime.now(UTC) + timedelta(seconds=60)).astimezone(timezone(timedelta(hours=1)))
    seconds = failure_of(server, testing.rate_limit(format_datetime(when))).retry_after_s
    assert seconds is not None
    assert 50 < seconds <= 60


def test_a_date_that_has_passed_asks_for_no_pause(server: FakeOpenAIServer) -> None:
    when = datetime.now(UTC) - timedelta(hours=1)
    assert failure_of(server, testing.rate_limit(when)).retry_after_s == 0.0


@pytest.mark.parametrize("value", ["soon", "", "Tue, 99 Foo 2026 25:61:00 GMT"])
def test_a_retry_after_that_says_nothing_is_none(server: FakeOpenAIServer, value: str) -> None:
    assert failure_of(server, testing.rate_limit(value)).retry_after_s is None


def test_a_negative_retry_after_asks_for_no_pause(server: FakeOpenAIServer) -> None:
    assert failure_of(server, testing.rate_limit(-5)).retry_after_s == 0.0


def test_without_the_header_there_is_no_retry_after(server: FakeOpenAIServer) -> None:
    assert failure_of(server, testing.rate_limit()).retry_after_s is None


# --- other clients and our own errors ------------------------------------------------------


class StatusError(Exception):
    def __init__(self, status: int) -> None:
        self.status_code = status


class SomeClientReadTimeoutError(Exception):
    pass


class OddError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize(
    ("status", "error_class", "free"),
    [
        (401, "auth", True),
        (403, "auth", True),
        (402, "quota", True),
        (404, "not_found", True),
        (408, "timeout", False),
        (409, "server", True),
        (413, "bad_request", True),
        (422, "bad_request", True),
        (429, "rate_limit", True),
        (500, "server", False),
        (529, "server", False),
    ],
)
def test_an_unknown_client_is_read_by_its_http_status(
    status: int, error_class: str, free: bool
) -> None:
    failure = classify(StatusError(status))
    assert (failure.error_class, failure.free) == (error_class, free)


@pytest.mark.parametrize(
    ("error", "error_class"),
    [
        (TimeoutError(), "timeout"),
        (SomeClientReadTimeoutError(), "timeout"),
        (ConnectionResetError(), "connection"),
        (httpx.RemoteProtocolError("cut"), "connection"),
        (KeyError("choices"), "malformed"),
        (TypeError("'NoneType' object is not iterable"), "malformed"),
        (RuntimeError("?"), "unknown"),
        (OddError(), "unknown"),
    ],
    ids=lambda it: type(it).__name__ if isinstance(it, Exception) else it,
)
def test_an_exception_of_any_client_gets_a_class(error: Exception, error_class: str) -> None:
    assert classify(error).error_class == error_class


def test_the_cause_of_an_error_is_looked_at() -> None:
    error = RuntimeError("wrapped")
    error.__cause__ = ConnectionRefusedError()
    failure = classify(error)
    assert (failure.error_class, failure.free) == (ErrorClass.CONNECTION, True)


def test_a_circle_of_causes_ends() -> None:
    one, two = RuntimeError("1"), RuntimeError("2")
    one.__cause__, two.__cause__ = two, one
    assert classify(one).error_class == "unknown"


@pytest.mark.parametrize(
    ("error", "error_class"),
    [(MissingKeyError("no key"), "auth"), (PoolError("bad"), "bad_request")],
)
def test_a_card_that_cant_be_built_costs_nothing_and_is_not_tried_again(
    error: Exception, error_class: str
) -> None:
    failure = classify(error)
    assert (failure.error_class, failure.free) == (error_class, True)
    assert failure.error_class not in RETRYABLE


@pytest.mark.parametrize("error_class", ["timeout", "auth", "quota", "bad_request", "truncated"])
def test_what_a_second_attempt_cannot_mend_is_not_retried(error_class: str) -> None:
    assert error_class not in RETRYABLE


@pytest.mark.parametrize("error_class", ["bad_request", "context_length", "content_filter"])
def test_what_is_the_requests_fault_does_not_count_against_the_card(error_class: str) -> None:
    assert error_class not in UNHEALTHY


# --- wording -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "Incorrect API key provided: {}",
        "Authorization: Bearer {}",
        "'api_key': '{}'",
        "api_key={}",
        "token = {}, retry",
        "bad key {} given",
    ],
)
@pytest.mark.parametrize(
    "key",
    [
        PLANTED,
        "sk-proj-Ab12_cd34-ef56",
        "gsk_Ab12cd34ef56gh78",
        "AIzaSyAb12cd34ef56gh78ij90",
        "hf_Ab12cd34ef56gh78",
        "xai-Ab12cd34ef56gh78",
    ],
)
def test_what_looks_like_a_key_is_hidden(text: str, key: str) -> None:
    shown = describe(ValueError(text.format(key)))
    assert key not in shown
    assert key[-8:] not in shown
    assert MASK in shown


def test_a_key_without_a_known_form_is_hidden_where_it_is_called_a_key() -> None:
    assert "q1w2e3r4t5" not in describe(ValueError("Incorrect API key provided: q1w2e3r4t5"))


def test_the_value_of_a_key_variable_is_hidden_wherever_it_stands(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MY_TEAMS_KEY", "correcthorsebattery")
    shown = describe(ValueError("upstream said correcthorsebattery is unknown"))
    assert shown == "ValueError: upstream said [redacted] is unknown"


@pytest.mark.parametrize(
    "text",
    [
        "maximum context length is 4096 tokens",
        "The token limitation applies to this key required by you",
        "set the OPENAI_API_KEY environment variable",
        "api_key client option must be set",
    ],
)
def test_ordinary_words_about_keys_and_tokens_stay_readable(text: str) -> None:
    assert describe(ValueError(text)) == f"ValueError: {text}"


def test_a_description_is_one_line_of_limited_length() -> None:
    shown = describe(ValueError("a\n\n  b " + "x" * 5000))
    assert shown.startswith("ValueError: a b x")
    assert len(shown) == 300


def test_a_key_is_not_cut_into_the_open_by_the_length_limit() -> None:
    assert "sk-pl" not in describe(ValueError("x" * 270 + " " + PLANTED))


def test_an_error_without_text_is_named_by_its_class() -> None:
    assert describe(TimeoutError()) == "TimeoutError"


def test_a_provider_that_echoes_the_key_leaks_nothing() -> None:
    body = f'{{"error": {{"message": "Incorrect API key provided: {PLANTED}."}}}}'.encode()
    fault = testing.faults.ErrorAnswer(kind="echo", status=401, body=body)
    with FakeOpenAIServer([FakeModel(name="m")], faults=FaultPlan(default=fault)) as server:
        failure = failure_of(server, fault)
    assert "Incorrect API key provided" in failure.detail
    assert "planted" not in failure.detail


@pytest.mark.parametrize(
    ("text", "error_class"),
    [
        ("vendor/x is not a valid model ID", "not_found"),
        ("The model `x` has been decommissioned and is no longer supported", "not_found"),
        ("Invalid model: x", "not_found"),
        ("messages: at least one message is required", "bad_request"),
        ("Unsupported parameter: 'x' is not supported with this model", "bad_request"),
    ],
)
def test_a_bad_request_that_names_no_known_model_is_not_found(text: str, error_class: str) -> None:
    class RefusedError(Exception):
        status_code = 400

    assert classify(RefusedError(text)).error_class == error_class


def test_a_retry_after_in_milliseconds_is_read() -> None:
    assert retry_after_s({"Retry-After-Ms": "1500", "Retry-After": "2"}) == 1.5


def test_googles_retry_delay_is_read_from_the_body() -> None:
    error = RuntimeError("429 RESOURCE_EXHAUSTED. {'details': [{'retryDelay': '7s'}]}")
    assert classify(error).retry_after_s == 7.0


def test_tools_that_a_model_does_not_take_cost_nothing() -> None:
    failure = classify(RequestError("ChatX does not take what was bound"))
    assert (failure.error_class, failure.free) == (ErrorClass.BAD_REQUEST, True)
