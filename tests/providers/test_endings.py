"""How an answer ended, in each provider's own words."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.provider_matrix import Provider, answered, cells, except_, record_of, routed
from xrouter_lg.errors import StreamInterruptedError
from xrouter_lg.testing import (
    FakeModel,
    FakeProviders,
    FaultPlan,
    Reply,
    ToolCall,
    error_in_answer,
    server_error,
)

PART = "The first half of"
NO_FILTER = except_("has no word for it", "mistralai", "ollama", "perplexity")
NO_BREAK = except_(
    "says so by an error, never by a finish reason", "anthropic", "ollama", "xai", "perplexity"
)

WHOLE_CALLS = except_("its calls come whole", "google_genai", "ollama") | except_(
    "Sonar takes no tools", "perplexity"
)


@cells("endings", "a whole answer is taken as whole, streamed or not")
def test_a_whole_answer_is_whole(provider: Provider, server: FakeProviders) -> None:
    for streamed in (False, True):
        message = _ended("stop", provider, server, streamed=streamed)
        assert message == ("m", False, None), f"{streamed=}"


@cells("endings", "an answer cut at its limit is marked")
def test_a_cut_answer_is_marked(provider: Provider, server: FakeProviders) -> None:
    assert _ended("length", provider, server, streamed=False) == ("m", True, "truncated")


@cells("endings", "the same of a stream")
def test_a_cut_answer_is_marked_in_a_stream(provider: Provider, server: FakeProviders) -> None:
    assert _ended("length", provider, server, streamed=True) == ("m", True, "truncated")


@cells("endings", "an answer that a filter stopped is marked, streamed or not", without=NO_FILTER)
def test_a_filtered_answer_is_marked(provider: Provider, server: FakeProviders) -> None:
    for streamed in (False, True):
        ended = _ended("content_filter", provider, server, streamed=streamed)
        assert ended == ("m", True, "content_filter"), f"{streamed=}"


@cells("endings", "another card answers where a provider broke off", without=NO_BREAK)
def test_a_broken_answer_is_never_handed_out(provider: Provider, server: FakeProviders) -> None:
    route, truncated, error = _ended("error", provider, server, streamed=False)
    assert (route, truncated) == ("other", False)
    assert error is not None


@cells("endings", "after tokens have been seen, breaking off is an error", without=NO_BREAK)
def test_a_broken_stream_is_an_error(provider: Provider, server: FakeProviders) -> None:
    with pytest.raises(StreamInterruptedError):
        _ended("error", provider, server, streamed=True)


@cells("endings", "another card answers where a model only thought")
def test_thoughts_alone_are_no_answer(provider: Provider, server: FakeProviders) -> None:
    server.add_model(FakeModel(name="m", reply=Reply(thoughts="Let me think.")))
    assert _route(provider, server)[0] == "other"


@cells("endings", "a call whose arguments were cut reaches no tool", without=WHOLE_CALLS)
def test_a_cut_call_reaches_no_tool(provider: Provider, server: FakeProviders) -> None:
    half = ToolCall("write", '{"path": "/etc/hosts", "content": "line 1')
    for finish in ("length", "tool_calls"):
        server.add_model(FakeModel(name="m", reply=Reply(tool_calls=[half], finish_reason=finish)))
        streaming = {"params": {**provider.params, "streaming": True}}
        assert _route(provider, server, **streaming)[0] == "other", finish
        with pytest.raises(StreamInterruptedError):
            _route(provider, server, streamed=True)


@cells("endings", "another card answers where a 200 holds an error")
def test_an_error_in_a_200_is_an_error(provider: Provider, server: FakeProviders) -> None:
    server.add_model(FakeModel(name="m", reply=PART))
    server.faults = FaultPlan({"m": error_in_answer()})
    assert _route(provider, server)[0] == "other"


@cells("endings", "a 503 costs one request, and another card answers")
def test_an_error_costs_one_request(provider: Provider, server: FakeProviders) -> None:
    server.faults = FaultPlan({"m": server_error(503)})
    assert _route(provider, server, timeout_s=3.0)[0] == "other"
    assert server.calls == {"m": 1, "other": 1}


def _ended(
    finish: str, provider: Provider, server: FakeProviders, *, streamed: bool
) -> tuple[str, bool, str | None]:
    server.add_model(FakeModel(name="m", reply=Reply(PART, finish_reason=finish)))
    return _route(provider, server, streamed=streamed)


def _route(
    provider: Provider, server: FakeProviders, *, streamed: bool = False, **options: Any
) -> tuple[str, bool, str | None]:
    """Who answered, whether the answer is marked, and what went wrong with the first card."""
    server.add_model(FakeModel(name="other", reply="The whole answer."))
    graph = routed(provider.card(server, **options), provider.card(server, "other"))
    found = record_of(answered(graph, streamed=streamed))
    return found["route"], found["truncated"], found["charges"][0]["error"]
