"""What Perplexity's Responses API says of its bill, its searches and its ending."""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import pytest
from langchain_core.messages import HumanMessage

from tests.support.providers import Answer, keys, loopback
from xrouter_lg import ModelPool, XRouterNode
from xrouter_lg.errors import AllCandidatesFailedError

USAGE = {
    "input_tokens": 1000,
    "output_tokens": 10,
    "total_tokens": 1010,
    "input_tokens_details": {"cache_read_input_tokens": 400, "cache_creation_input_tokens": 100},
    "tool_calls_details": {"web_search": {"invocation": 2}, "fetch_url": {"invocation": 1}},
}
BILL = {"currency": "USD", "input_cost": 0.1, "output_cost": 0.15, "total_cost": 0.25}
PRICE = {"input": 1, "cached_input": "0.1", "cache_write": 2, "output": 10, "web_search": "0.005"}

EITHER_WAY = pytest.mark.parametrize("streaming", [False, True])


def response(usage: Mapping[str, Any], status: str = "completed") -> dict[str, Any]:
    block = {"type": "output_text", "text": "Paris.", "annotations": []}
    item = {"type": "message", "id": "i1", "role": "assistant", "status": "completed"}
    return {
        "id": "r1",
        "object": "response",
        "created_at": 1,
        "model": "sonar-pro",
        "status": status,
        "output": [{**item, "content": [block]}],
        "usage": usage,
    }


def asked(
    monkeypatch: pytest.MonkeyPatch, streaming: bool, usage: Mapping[str, Any], end: str
) -> dict[str, Any]:
    def answer(path: str, body: dict[str, Any], number: int) -> Answer:
        assert path.endswith("/responses")
        if not streaming:
            return 200, response(usage, end)
        delta = {"type": "response.output_text.delta", "delta": "Paris.", "sequence_number": 1}
        last = {"type": f"response.{end}", "sequence_number": 2, "response": response(usage, end)}
        events = [{**delta, "item_id": "i1", "output_index": 0, "content_index": 0}, last]
        return 200, "".join(f"data: {json.dumps(event)}\n\n" for event in events)

    with loopback(answer) as server:
        keys(monkeypatch, server.url)
        params = {"use_responses_api": True, "streaming": streaming}
        card = server.card("perplexity:sonar-pro", price=PRICE, params=params, max_retries=0)
        said = XRouterNode(ModelPool([card])).invoke({"messages": [HumanMessage("Hi")]})
    found: dict[str, Any] = said["messages"][-1].response_metadata["xrouter"]
    return found


@EITHER_WAY
def test_its_own_bill_is_the_cost(monkeypatch: pytest.MonkeyPatch, streaming: bool) -> None:
    record = asked(monkeypatch, streaming, {**USAGE, "cost": BILL}, "completed")
    assert (record["cost_usd"], record["truncated"]) == ("0.25", False)


@EITHER_WAY
def test_without_a_bill_every_kind_counts(monkeypatch: pytest.MonkeyPatch, streaming: bool) -> None:
    record = asked(monkeypatch, streaming, USAGE, "completed")
    right = Decimal(500 + 400 // 10 + 100 * 2 + 10 * 10) / 1_000_000 + 2 * Decimal("0.005")
    assert Decimal(record["cost_usd"]) == right


@EITHER_WAY
def test_a_response_that_was_broken_off_is_no_answer(
    monkeypatch: pytest.MonkeyPatch, streaming: bool
) -> None:
    with pytest.raises(AllCandidatesFailedError):
        asked(monkeypatch, streaming, USAGE, "cancelled")


def test_a_stream_without_its_end_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AllCandidatesFailedError, match="stream_cut"):
        asked(monkeypatch, True, USAGE, "in_progress")
