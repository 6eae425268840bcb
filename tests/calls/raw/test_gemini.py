"""Gemini's tokens by modality are billed apart, at rates of their own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

import pytest
from langchain_core.messages import HumanMessage

from tests.support.providers import Answer, Loopback, keys, loopback
from xrouter_lg import ModelPool, XRouterNode

COUNT = {
    "promptTokenCount": 1_000,
    "promptTokensDetails": [
        {"modality": "AUDIO", "tokenCount": 900},
        {"modality": "TEXT", "tokenCount": 100},
    ],
    "candidatesTokenCount": 1_300,
    "candidatesTokensDetails": [{"modality": "IMAGE", "tokenCount": 1_290}],
    "thoughtsTokenCount": 5,
    "totalTokenCount": 2_305,
}
PRICE = {"input": 1, "input_audio": 3, "output": 10, "output_image": 30}


def spoken(path: str, body: Mapping[str, Any], number: int) -> Answer:
    content = {"role": "model", "parts": [{"text": "Here."}]}
    answer = {"candidates": [{"content": content, "finishReason": "STOP"}], "usageMetadata": COUNT}
    return 200, {**answer, "modelVersion": "gemini-2.5-flash"}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Loopback]:
    with loopback(spoken) as running:
        keys(monkeypatch, running.url)
        yield running


def test_sound_and_pictures_have_rates_of_their_own(server: Loopback) -> None:
    pool = ModelPool([server.card("google_genai:gemini-2.5-flash", price=PRICE)])
    said = XRouterNode(pool).invoke({"messages": [HumanMessage("Draw it.")]})["messages"][-1]
    record = said.response_metadata["xrouter"]
    right = Decimal(100 + 900 * 3 + 15 * 10 + 1_290 * 30) / 1_000_000
    assert Decimal(record["cost_usd"]) == right
    assert record["charges"][0]["usage"]["reasoning_tokens"] == 5
