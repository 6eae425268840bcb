"""OpenAI's chat completions search without a word of it: the fee is billed all the same."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import HumanMessage

from tests.support.providers import keys, loopback
from xrouter_lg import ModelPool, Recorder, TraceStore, XRouterNode

FEE = Decimal("0.03")
PRICE = {"input": 1, "output": 10, "web_search": FEE}
OPTION: dict[str, Any] = {"web_search_options": {}}


@pytest.mark.parametrize(
    ("model", "params", "bound"),
    [
        ("openai:gpt-x", {}, OPTION),
        ("openai:gpt-x", {"model_kwargs": OPTION}, {}),
        ("openai:gpt-4o-search-preview", {}, {}),
        ("openai:gpt-5-search-api", {}, {}),
        ("openai:gpt-x", {}, {}),
        ("mistralai:mistral-search-api", {}, {}),
    ],
)
def test_a_search_that_nobody_tells_of_is_billed(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    model: str,
    params: dict[str, Any],
    bound: dict[str, Any],
) -> None:
    with loopback() as server, Recorder(tmp_path / "t.db") as recorder:
        keys(monkeypatch, server.url)
        card = server.card(model, price=PRICE, params=params)
        node = XRouterNode(ModelPool([card]), traces=recorder)
        said = node.bind(**bound).invoke({"messages": [HumanMessage("Hi")]})["messages"][-1]
    searched = bool(params or bound) or model in (
        "openai:gpt-4o-search-preview",
        "openai:gpt-5-search-api",
    )
    right = Decimal("0.0002") + (FEE if searched else 0)
    record = said.response_metadata["xrouter"]
    assert Decimal(record["cost_usd"]) == right
    assert record["charges"][0]["usage"].get("kinds", {}) == (
        {"web_searches": 1} if searched else {}
    )
    with TraceStore(tmp_path / "t.db") as store:
        [trace] = store.iter_traces()
    [run] = [run for run in trace.runs if run["run_type"] == "llm"]
    assert run["extra"]["metadata"]["usage_metadata"]["total_cost"] == pytest.approx(float(right))
