"""Calls of a stream that was cut: none of them is handed out as whole."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.messages import HumanMessage
from langchain_core.tools import tool

from tests.support.providers import events, keys, loopback
from xrouter_lg import ModelPool, XRouterNode
from xrouter_lg.errors import AllCandidatesFailedError

WHOLE, HALF = '{"path": "a", "content": "b"}', '{"path": "/etc/hosts", "content": "line 1'


@tool
def write(path: str, content: str) -> str:
    """Write a file."""
    return path


def streamed(*blocks: tuple[dict[str, Any], dict[str, Any]], stop: str) -> str:
    """An answer of Anthropic's, each block in one delta."""
    message = {"id": "m1", "type": "message", "role": "assistant", "model": "claude-x"}
    usage = {"input_tokens": 100, "output_tokens": 1}
    begun = {**message, "content": [], "stop_reason": None, "usage": usage}
    told: list[dict[str, Any]] = [{"type": "message_start", "message": begun}]
    for place, (block, delta) in enumerate(blocks):
        told += [
            {"type": "content_block_start", "index": place, "content_block": block},
            {"type": "content_block_delta", "index": place, "delta": delta},
            {"type": "content_block_stop", "index": place},
        ]
    ended = {"stop_reason": stop, "stop_sequence": None}
    told.append({"type": "message_delta", "delta": ended, "usage": {"output_tokens": 10}})
    return events(*told, {"type": "message_stop"})


def text(said: str) -> tuple[dict[str, Any], dict[str, Any]]:
    return {"type": "text", "text": ""}, {"type": "text_delta", "text": said}


def call(name: str, arguments: str) -> tuple[dict[str, Any], dict[str, Any]]:
    block = {"type": "tool_use", "id": name, "name": "write", "input": {}}
    return block, {"type": "input_json_delta", "partial_json": arguments}


def asked(monkeypatch: pytest.MonkeyPatch, said: str) -> Any:
    with loopback(lambda *_: (200, said)) as server:
        keys(monkeypatch, server.url)
        card = server.card("anthropic:claude-x", params={"streaming": True}, max_retries=0)
        node = XRouterNode(ModelPool([card])).bind_tools([write])
        return node.invoke({"messages": [HumanMessage("Hi")]})["messages"][-1]


def test_whole_calls_and_the_text_beside_a_cut_one_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    said = streamed(text("Ok."), call("one", WHOLE), call("two", HALF), stop="max_tokens")
    message = asked(monkeypatch, said)
    assert message.text == "Ok."
    assert [it["id"] for it in message.tool_calls] == ["one"]
    assert [(it["id"], it["args"]) for it in message.invalid_tool_calls] == [("two", HALF)]
    assert [block["type"] for block in message.content] == ["text", "tool_use"]
    assert message.response_metadata["xrouter"]["truncated"]
    assert not {name for name in message.response_metadata if name.startswith("cut")}


@pytest.mark.parametrize("arguments", [WHOLE, "", '{"content": "two\nlines"}'])
def test_a_whole_call_is_one(monkeypatch: pytest.MonkeyPatch, arguments: str) -> None:
    message = asked(monkeypatch, streamed(call("one", arguments), stop="tool_use"))
    assert [it["id"] for it in message.tool_calls] == ["one"]
    assert message.invalid_tool_calls == []


def test_a_count_that_was_told_before_the_cut_is_no_known_cost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = streamed(text("A long story about a cat."), stop="end_turn")
    half = whole[: whole.index("event: content_block_stop")]
    with pytest.raises(AllCandidatesFailedError) as raised:
        asked(monkeypatch, half)
    [charge] = raised.value.record["charges"]
    told = 100 * 1 + 1 * 10  # what `message_start` counts, in millionths
    assert (charge["error"], charge["cost_usd"]) == ("stream_cut", None)
    assert float(charge["estimate_usd"]) >= told / 1e6
    [charge] = asked(monkeypatch, whole).response_metadata["xrouter"]["charges"]
    assert float(charge["cost_usd"]) == pytest.approx((100 * 1 + 10 * 10) / 1e6)
