"""Anthropic's models and tool loops that another model began."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage

from tests.support.providers import Loopback, keys, loopback
from xrouter_lg.calls.attempt import Workers
from xrouter_lg.calls.told.notices import notices
from xrouter_lg.types import PlannedCall

CALL = {"name": "f", "args": {}, "id": "t1"}
THOUGHT = {"type": "thinking", "thinking": "Hm.", "signature": "s"}
ENABLED = {"type": "enabled", "budget_tokens": 1024}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Loopback]:
    notices.clear()
    with loopback() as running:
        keys(monkeypatch, running.url)
        yield running


def loop(content: Any = "", *, provider: str = "anthropic") -> list[BaseMessage]:
    meta = {"model_provider": provider, "model_name": "claude-x"}
    caller = AIMessage(content, tool_calls=[CALL], response_metadata=meta)
    return [HumanMessage("Hi"), caller, ToolMessage("1", tool_call_id="t1")]


async def thinking_sent(
    server: Loopback, messages: list[BaseMessage], thinking: Any, limit: int | None = None
) -> Any:
    params = {"thinking": thinking, "max_tokens": 4096}
    card = server.card("anthropic:claude-x", params=params, max_output_tokens=4096)
    result = await Workers().call(card, PlannedCall("c1", "one", max_tokens=limit), messages, {})
    assert result.message is not None
    return server.requests[-1].body.get("thinking")


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
async def test_a_loop_without_a_thought_goes_on_without_thinking(
    server: Loopback, provider: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert await thinking_sent(server, loop(provider=provider), ENABLED) is None
    assert "goes on without thinking in a tool loop" in caplog.text


async def test_its_own_thought_goes_on(server: Loopback) -> None:
    own = loop([THOUGHT, {"type": "tool_use", "id": "t1", "name": "f", "input": {}}])
    assert await thinking_sent(server, own, ENABLED) == ENABLED


async def test_outside_a_loop_it_thinks(server: Loopback) -> None:
    answered = [*loop(provider="openai"), AIMessage("One."), HumanMessage("Sure?")]
    assert await thinking_sent(server, answered, ENABLED) == ENABLED
    assert await thinking_sent(server, [HumanMessage("Hi")], ENABLED) == ENABLED


async def test_thinking_that_adapts_may_begin_anywhere(server: Loopback) -> None:
    assert await thinking_sent(server, loop(), {"type": "adaptive"}) == {"type": "adaptive"}


@pytest.mark.parametrize(
    ("limit", "budget"), [(None, 4000), (4001, 4000), (4000, 2000), (2048, 1024), (2047, None)]
)
async def test_thoughts_fit_into_the_limit(
    server: Loopback, limit: int | None, budget: int | None
) -> None:
    asked = {"type": "enabled", "budget_tokens": 4000}
    sent = await thinking_sent(server, [HumanMessage("Hi")], asked, limit)
    assert sent == (None if budget is None else {**asked, "budget_tokens": budget})
