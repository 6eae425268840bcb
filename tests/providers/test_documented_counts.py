"""Counts and bills as providers' documents show them, whole and streamed, by their real classes."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from langchain_core.messages import HumanMessage

from tests.support.providers import Answer, events, keys, loopback
from xrouter_lg import ModelPool, XRouterNode

PRICE = {
    "input": 1,
    "cached_input": "0.1",
    "cache_write": "1.25",
    "cache_write_1h": 2,
    "input_audio": 5,
    "input_image": 3,
    "output": 10,
    "reasoning": 20,
    "output_audio": 40,
    "web_search": "0.03",
}
"""USD per million tokens; a search in USD."""

KINDS = {
    "prompt_tokens": 1000,
    "completion_tokens": 200,
    "total_tokens": 1200,
    "prompt_tokens_details": {"cached_tokens": 300, "audio_tokens": 100},
    "completion_tokens_details": {
        "reasoning_tokens": 50,
        "audio_tokens": 20,
        "accepted_prediction_tokens": 30,
        "rejected_prediction_tokens": 40,
    },
}
XAI = {
    "prompt_tokens": 1000,
    "completion_tokens": 100,
    "total_tokens": 1600,
    "prompt_tokens_details": {"text_tokens": 600, "image_tokens": 0, "cached_tokens": 400},
    "completion_tokens_details": {"reasoning_tokens": 500, "audio_tokens": 0},
    "num_sources_used": 3,
}
OPENROUTER = {
    "prompt_tokens": 1000,
    "completion_tokens": 100,
    "total_tokens": 1100,
    "prompt_tokens_details": {"cached_tokens": 400, "cache_write_tokens": 100, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 50},
}
UPSTREAM = {
    "upstream_inference_cost": 0.02,
    "upstream_inference_prompt_cost": 0.01,
    "upstream_inference_completions_cost": 0.01,
}
DEEPSEEK = {
    "prompt_tokens": 1000,
    "completion_tokens": 100,
    "total_tokens": 1100,
    "prompt_cache_hit_tokens": 400,
    "prompt_cache_miss_tokens": 600,
    "completion_tokens_details": {"reasoning_tokens": 50},
}
PERPLEXITY = {
    "prompt_tokens": 100,
    "completion_tokens": 50,
    "total_tokens": 150,
    "search_context_size": "low",
    "citation_tokens": 1000,
    "num_search_queries": 2,
    "reasoning_tokens": 200,
}
LITELLM = {
    "prompt_tokens": 10_020,
    "completion_tokens": 10,
    "total_tokens": 10_030,
    "prompt_tokens_details": {
        "cached_tokens": 500,
        "cache_creation_tokens": 9000,
        "cache_creation_token_details": {
            "ephemeral_5m_input_tokens": 3000,
            "ephemeral_1h_input_tokens": 6000,
        },
    },
    "cache_creation_input_tokens": 9000,
    "cache_read_input_tokens": 500,
}
COSTS = {"input_tokens_cost": 0.002, "output_tokens_cost": 0.01, "total_cost": 0.0123}

COUNTED = pytest.mark.parametrize(
    ("provider", "usage", "micros"),
    [
        ("openai:m", KINDS, 600 + 30 + 100 * 5 + 130 * 10 + 50 * 20 + 20 * 40),
        ("openai:m", KINDS | {"cost": 0.0123}, 12_300),
        ("openai:m", LITELLM, 520 + 50 + 3750 + 12_000 + 100),
        ("xai:m", XAI, 600 + 40 + 1000 + 500 * 20 + 90_000),
        ("xai:m", XAI | {"cost_in_usd_ticks": 5_000_000_000}, 500_000),
        ("openrouter:v/m", OPENROUTER, 500 + 40 + 125 + 500 + 1000),
        ("openrouter:v/m", OPENROUTER | {"cost": 0.02, "is_byok": False}, 20_000),
        ("openrouter:v/m", OPENROUTER | {"cost": 0.001, "cost_details": UPSTREAM}, 21_000),
        ("openrouter:v/m", OPENROUTER | {"cost": 0}, 0),
        ("deepseek:m", DEEPSEEK, 600 + 40 + 500 + 1000),
        ("perplexity:sonar", PERPLEXITY, 100 + 500 + 10_000 + 4000 + 60_000),
        ("perplexity:sonar", PERPLEXITY | {"cost": COSTS}, 12_300),
    ],
    ids=lambda it: it if isinstance(it, str) else None,
)
"""A chat completion's usage, and what it costs in millionths of a dollar."""


@COUNTED
def test_a_chat_completion_costs_what_its_count_says(
    monkeypatch: pytest.MonkeyPatch, provider: str, usage: dict[str, Any], micros: int
) -> None:
    message = {"role": "assistant", "content": "Paris."}
    choice = {"index": 0, "finish_reason": "stop", "message": message}
    said = {**known(provider), "object": "chat.completion", "choices": [choice], "usage": usage}
    assert charged(monkeypatch, provider, said) == Decimal(micros) / 1_000_000


@COUNTED
def test_a_streamed_one_costs_the_same(
    monkeypatch: pytest.MonkeyPatch, provider: str, usage: dict[str, Any], micros: int
) -> None:
    said = events(*chunks(provider, [None, None, usage]))
    assert charged(monkeypatch, provider, said, streaming=True) == Decimal(micros) / 1_000_000


@pytest.mark.parametrize(
    "provider", ["openai:m", "openrouter:v/m", "deepseek:m", "xai:m", "mistralai:m"]
)
def test_a_count_that_every_chunk_repeats_counts_once(
    monkeypatch: pytest.MonkeyPatch, provider: str
) -> None:
    usages = [
        {"prompt_tokens": 1000, "completion_tokens": n, "total_tokens": 1000 + n} for n in (1, 2, 2)
    ]
    said = events(*chunks(provider, usages))
    right = Decimal(1000 + 2 * 10) / 1_000_000
    assert charged(monkeypatch, provider, said, streaming=True) == right


CLAUDES = {
    "input_tokens": 20,
    "cache_creation_input_tokens": 9000,
    "cache_read_input_tokens": 500,
    "cache_creation": {"ephemeral_5m_input_tokens": 3000, "ephemeral_1h_input_tokens": 6000},
    "output_tokens": 1,
    "server_tool_use": {"web_search_requests": 2, "web_fetch_requests": 1},
    "service_tier": "standard",
}


@pytest.mark.parametrize(
    "last",
    [
        {"output_tokens": 10},
        {"output_tokens": 10, "input_tokens": 20, "cache_creation_input_tokens": 9000},
        {**CLAUDES, "output_tokens": 10},
    ],
    ids=["only what has changed", "without how long", "all of it"],
)
def test_a_stream_of_anthropics_counts_from_its_first_event_to_its_last(
    monkeypatch: pytest.MonkeyPatch, last: dict[str, Any]
) -> None:
    message = {"id": "m1", "type": "message", "role": "assistant", "model": "claude-x"}
    begun = {**message, "content": [], "stop_reason": None, "usage": CLAUDES}
    text = {"type": "text_delta", "text": "Paris."}
    ended = {"stop_reason": "end_turn", "stop_sequence": None}
    said = events(
        {"type": "message_start", "message": begun},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": text},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": ended, "usage": last},
        {"type": "message_stop"},
    )
    right = Decimal(20 + 50 + 3750 + 12_000 + 100) / 1_000_000 + Decimal("0.06")
    assert charged(monkeypatch, "anthropic:claude-x", said, streaming=True) == right


def known(provider: str) -> dict[str, Any]:
    model = provider.partition(":")[2]
    return {"id": "c1", "created": 1, "model": model, "system_fingerprint": "f"}


def chunks(provider: str, usages: list[Any]) -> list[dict[str, Any]]:
    """A word a chunk, with its count where it has one; the last of them ends the answer."""
    made = []
    for place, usage in enumerate(usages, 1):
        choice = {"index": 0, "delta": {"role": "assistant", "content": "a "}}
        choice["finish_reason"] = "stop" if place == len(usages) else None
        said = {**known(provider), "object": "chat.completion.chunk", "choices": [choice]}
        made.append(said if usage is None else {**said, "usage": usage})
    return made


def charged(
    monkeypatch: pytest.MonkeyPatch, provider: str, said: Any, *, streaming: bool = False
) -> Decimal:
    def answer(path: str, body: dict[str, Any], number: int) -> Answer:
        assert body.get("stream", False) is streaming
        return 200, said

    with loopback(answer) as server:
        keys(monkeypatch, server.url)
        params = {"streaming": True} if streaming else {}
        card = server.card(provider, price=PRICE, params=params, max_retries=0)
        state = XRouterNode(ModelPool([card])).invoke({"messages": [HumanMessage("Hi")]})
    return Decimal(state["messages"][-1].response_metadata["xrouter"]["cost_usd"])
