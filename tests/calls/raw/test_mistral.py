"""Mistral's own counts of a stream, of which its class keeps three sums."""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import pytest
from langchain_core.messages import HumanMessage

from tests.support.providers import Answer, keys, loopback
from xrouter_lg import ModelPool, XRouterNode

PRICE = {"input": 1, "cached_input": "0.1", "output": 10}


def spoken(*usages: Mapping[str, Any] | None) -> Any:
    """A stream of a word a chunk, each with the count that comes with it."""

    def answer(path: str, body: Mapping[str, Any], number: int) -> Answer:
        lines = []
        for place, usage in enumerate(usages, 1):
            finish = "stop" if place == len(usages) else None
            choice = {"index": 0, "delta": {"role": "assistant", "content": "é "}}
            said = {"id": "c1", "model": body["model"], "choices": [choice]}
            choice["finish_reason"] = finish
            lines.append(json.dumps(said | ({} if usage is None else {"usage": usage})))
        return 200, "".join(f"data: {line}\r\n\r\n" for line in [*lines, "[DONE]"])

    return answer


def charged(monkeypatch: pytest.MonkeyPatch, *usages: Mapping[str, Any] | None) -> dict[str, Any]:
    with loopback(spoken(*usages)) as server:
        keys(monkeypatch, server.url)
        card = server.card("mistralai:mistral-x", price=PRICE, params={"streaming": True})
        said = XRouterNode(ModelPool([card])).invoke({"messages": [HumanMessage("Hi")]})
    found: dict[str, Any] = said["messages"][-1].response_metadata["xrouter"]
    return found


def test_cached_tokens_of_a_stream_are_billed_as_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    details = {"prompt_tokens_details": {"cached_tokens": 900}}
    usage = {"prompt_tokens": 1000, "completion_tokens": 10, "total_tokens": 1010, **details}
    record = charged(monkeypatch, None, None, usage)
    assert Decimal(record["cost_usd"]) == Decimal(100 + 900 // 10 + 10 * 10) / 1_000_000


def test_a_count_that_every_chunk_repeats_is_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    usages = [{"prompt_tokens": 1000, "completion_tokens": n} for n in (1, 2, 3)]
    record = charged(monkeypatch, *usages)
    assert Decimal(record["cost_usd"]) == Decimal(1000 + 3 * 10) / 1_000_000


def test_a_gateways_own_bill_counts_of_a_stream_too(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = {"prompt_tokens": 1000, "completion_tokens": 10, "cost": 0.5}
    assert charged(monkeypatch, None, usage)["cost_usd"] == "0.5"
