"""What a provider asks for before the next attempt, by every client's own exception."""

from __future__ import annotations

import time
from typing import Any

import pytest
from langchain_core.messages import HumanMessage

from tests.support.providers import PROVIDERS, keys, loopback
from xrouter_lg.calls.failures import UNHEALTHY, Failure, classify

SECONDS = pytest.approx(12, abs=2)


def refused(
    monkeypatch: pytest.MonkeyPatch,
    provider: str,
    headers: dict[str, str],
    body: Any = None,
) -> Failure:
    """What becomes of a 429, asked for by the provider's own class."""
    said = body or {"error": {"message": "Rate limit reached", "code": "rate_limit_exceeded"}}
    with loopback(lambda *_: (429, said, headers)) as server:
        keys(monkeypatch, server.url)
        once = {} if provider.startswith("ollama") else {"max_retries": 0}
        try:
            server.by_hand(provider, **once).invoke([HumanMessage("Hi")])
        except Exception as error:
            return classify(error)
    raise AssertionError("a 429 raised nothing")


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_retry_after_header_is_read(monkeypatch: pytest.MonkeyPatch, provider: str) -> None:
    failure = refused(monkeypatch, provider, {"retry-after": "7"})
    assert (failure.error_class, failure.retry_after_s) == ("rate_limit", 7)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after-ms": "9000"}, 9),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "8s"}, 8),
        (
            {
                "x-ratelimit-remaining-requests": "0",
                "x-ratelimit-reset-requests": "120ms",
                "x-ratelimit-remaining-tokens": "0",
                "x-ratelimit-reset-tokens": "6m0s",
            },
            360,
        ),
        ({"x-ratelimit-remaining-tokens": "31", "x-ratelimit-reset-tokens": "6m0s"}, None),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "soon"}, None),
        ({"retry-after": "2", "x-ratelimit-remaining-requests": "0"}, 2),
    ],
)
def test_openais_headers_say_when_a_limit_is_new(
    monkeypatch: pytest.MonkeyPatch, headers: dict[str, str], seconds: float | None
) -> None:
    assert refused(monkeypatch, "openai:gpt-x", headers).retry_after_s == seconds


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("Limit 10000, Used 9000. Please try again in 6.5s. Visit https://example.org", 6.5),
        ("Please try again in 1m2.5s.", 62.5),
        ("Please try again in 120ms.", 0.12),
        ("Please try again in 1h0m3s", 3603),
        ("Please retry after 20 seconds.", 20),
        ("Please try again in a while.", None),
        ("Please try again in hm.", None),
    ],
)
def test_a_pause_in_words_is_read(
    monkeypatch: pytest.MonkeyPatch, text: str, seconds: float | None
) -> None:
    body = {"error": {"message": text, "type": "tokens", "code": "rate_limit_exceeded"}}
    assert refused(monkeypatch, "openai:gpt-x", {}, body).retry_after_s == seconds


@pytest.mark.parametrize("provider", ["openrouter:v/m", "openai:v/m"])
def test_openrouter_says_in_the_body_when_its_limit_is_new(
    monkeypatch: pytest.MonkeyPatch, provider: str
) -> None:
    reset = str(int((time.time() + 12) * 1000))
    limits = {"X-RateLimit-Limit": "16", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": reset}
    error = {"message": "Rate limit exceeded: free-models-per-min.", "code": 429}
    body = {"error": {**error, "metadata": {"headers": limits, "provider_name": None}}}
    assert refused(monkeypatch, provider, {}, body).retry_after_s == SECONDS


GOOGLES = "GenerateRequestsPerDayPerProjectPerModel-FreeTier"


@pytest.mark.parametrize(
    ("provider", "error"),
    [
        (
            "google_genai:gemini-2.5-flash",
            {
                "code": 429,
                "message": "You exceeded your current quota.",
                "status": "RESOURCE_EXHAUSTED",
                "details": [{"violations": [{"quotaId": GOOGLES}]}],
            },
        ),
        ("openrouter:v/m", {"code": 429, "message": "Rate limit exceeded: free-models-per-day. "}),
        (
            "openai:gpt-x",
            {"message": "Rate limit reached for gpt-x on requests per day (RPD): Limit 200"},
        ),
    ],
    ids=["google_genai", "openrouter", "openai"],
)
def test_what_is_used_up_for_the_day_is_not_tried_again(
    monkeypatch: pytest.MonkeyPatch, provider: str, error: dict[str, Any]
) -> None:
    assert refused(monkeypatch, provider, {}, {"error": error}).error_class == "quota"
    soon = refused(monkeypatch, provider, {"retry-after": "3"}, {"error": error})
    assert (soon.error_class, soon.retry_after_s) == ("rate_limit", 3)


REFUSED: list[tuple[str, int, Any, str]] = [
    (
        "openai:gpt-x",
        400,
        {
            "code": "content_filter",
            "message": "The response was filtered due to the prompt triggering Azure OpenAI's "
            "content management policy.",
            "innererror": {"code": "ResponsibleAIPolicyViolation"},
        },
        "content_filter",
    ),
    ("xai:grok-x", 403, "Content violates usage guidelines. Failed check: X", "content_filter"),
    (
        "openrouter:v/m",
        403,
        {
            "code": 403,
            "message": "Your chosen model requires moderation and your input was flagged",
        },
        "content_filter",
    ),
    (
        "anthropic:claude-x",
        400,
        {
            "type": "invalid_request_error",
            "message": "Output blocked by content filtering policy",
        },
        "content_filter",
    ),
    ("xai:grok-x", 403, "Your team has no access to this model", "auth"),
    ("openai:gpt-x", 403, {"message": "You have insufficient permissions"}, "auth"),
    ("openai:m", 429, {"message": "Too many tokens, please wait"}, "rate_limit"),
    (
        "openai:gpt-x",
        429,
        {
            "message": "Request too large for gpt-x on tokens per min (TPM): Limit 30000, "
            "Requested 45000.",
            "type": "tokens",
            "code": "rate_limit_exceeded",
        },
        "context_length",
    ),
    (
        "anthropic:claude-x",
        400,
        {
            "type": "invalid_request_error",
            "message": "prompt is too long: 210000 tokens > 200000 maximum",
        },
        "context_length",
    ),
    (
        "google_genai:gemini-2.5-flash",
        400,
        {
            "code": 400,
            "status": "INVALID_ARGUMENT",
            "message": "The input token count (1200000) exceeds the maximum number of tokens "
            "allowed (1048576).",
        },
        "context_length",
    ),
    (
        "xai:grok-x",
        400,
        "This model's maximum prompt length is 131072 but the request contains 140000 tokens.",
        "context_length",
    ),
    (
        "openai:m",
        400,
        {"code": 400, "message": "the request exceeds the available context size", "type": "x"},
        "context_length",
    ),
]
"""What providers say of a prompt that they don't answer, by status."""


@pytest.mark.parametrize(
    ("provider", "status", "error", "error_class"),
    REFUSED,
    ids=[f"{provider.partition(':')[0]}-{kind}" for provider, _, _, kind in REFUSED],
)
def test_what_is_wrong_with_a_prompt_is_no_fault_of_the_card(
    monkeypatch: pytest.MonkeyPatch, provider: str, status: int, error: Any, error_class: str
) -> None:
    body = {"type": "error", "error": error}
    with loopback(lambda *_: (status, body)) as server:
        keys(monkeypatch, server.url)
        with pytest.raises(Exception) as raised:
            server.by_hand(provider, max_retries=0).invoke([HumanMessage("Hi")])
    failure = classify(raised.value)
    assert failure.error_class == error_class
    assert (failure.error_class in UNHEALTHY) == (error_class in ("auth", "rate_limit"))


@pytest.mark.parametrize("provider", ["openrouter:v/m", "openai:v/m"])
@pytest.mark.parametrize(
    ("raw", "error_class"),
    [
        ("This model's maximum context length is 8192 tokens.", "context_length"),
        ("The model `m` does not exist", "not_found"),
        ("Unsupported parameter: 'seed' is not supported with this model.", "bad_request"),
    ],
)
def test_openrouter_hands_on_what_the_provider_said(
    monkeypatch: pytest.MonkeyPatch, provider: str, raw: str, error_class: str
) -> None:
    told = {"raw": raw, "provider_name": "Fake"}
    body = {"error": {"message": "Provider returned error", "code": 400, "metadata": told}}
    with loopback(lambda *_: (400, body)) as server:
        keys(monkeypatch, server.url)
        with pytest.raises(Exception) as raised:
            server.by_hand(provider, max_retries=0).invoke([HumanMessage("Hi")])
    failure = classify(raised.value)
    assert failure.error_class == error_class
    assert raw[:40] in failure.detail
