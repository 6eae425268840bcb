"""A provider that counts one side only has not said what the answer costs: every real class."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from langchain_core.messages import HumanMessage

from tests.support.provider_matrix import answered, record_of, routed
from tests.support.providers import Answer, events, keys, loopback, plain_answer

PRICE = {"input": 1, "output": 10}
DIALECT = ("openai:m", "openrouter:v/m", "deepseek:m", "xai:m", "mistralai:m", "perplexity:sonar")
ANTHROPIC, GEMINI, OLLAMA = "anthropic:claude-x", "google_genai:gemini-2.5-flash", "ollama:m"
PROVIDERS = (*DIALECT, ANTHROPIC, GEMINI, OLLAMA)
BOTH, ONLY_IN, ONLY_OUT = (1000, 200), (1000, None), (None, 200)
HALVES = {"only the prompt": ONLY_IN, "only the answer": ONLY_OUT}
TEXT = "Paris is what you ask for."
Told = tuple[int | None, int | None]


def named(told: Told, inputs: str, outputs: str) -> dict[str, int]:
    """A count with the sides that are told."""
    return {name: n for name, n in zip((inputs, outputs), told, strict=True) if n is not None}


def whole(provider: str, path: str, body: dict[str, Any], told: Told) -> Any:
    status, said = plain_answer(path.replace("streamG", "g"), body, TEXT)
    assert status == 200
    if provider == ANTHROPIC:
        return {**said, "usage": named(told, "input_tokens", "output_tokens")}
    if provider == GEMINI:
        return {**said, "usageMetadata": named(told, "promptTokenCount", "candidatesTokenCount")}
    if provider == OLLAMA:
        kept = {k: v for k, v in said.items() if k not in ("prompt_eval_count", "eval_count")}
        return {**kept, **named(told, "prompt_eval_count", "eval_count")}
    return {**said, "usage": chat_count(provider, told)}


def chat_count(provider: str, told: Told) -> dict[str, int]:
    count = named(told, "prompt_tokens", "completion_tokens")
    if provider.startswith(("openrouter", "perplexity")):  # whose classes take none without all
        sides = {"prompt_tokens": 0, "completion_tokens": 0, **count}
        return {**sides, "total_tokens": sum(sides.values())}
    return count


def streamed(provider: str, path: str, body: dict[str, Any], told: Told) -> str:
    if provider == ANTHROPIC:
        begun: dict[str, Any] = {
            "type": "message",
            "id": "m1",
            "role": "assistant",
            "model": "claude-x",
        }
        begun |= {"content": [], "stop_reason": None}
        ended: dict[str, Any] = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}}
        if told[0] is not None:  # what it has begun with is no count of the answer
            begun["usage"] = {"input_tokens": told[0], "output_tokens": 1}
        if told[1] is not None:
            ended["usage"] = {"output_tokens": told[1]}
        block = {"type": "content_block_start", "index": 0}
        delta = {"type": "content_block_delta", "index": 0}
        return events(
            {"type": "message_start", "message": begun},
            {**block, "content_block": {"type": "text", "text": ""}},
            {**delta, "delta": {"type": "text_delta", "text": TEXT}},
            {"type": "content_block_stop", "index": 0},
            ended,
            {"type": "message_stop"},
        )
    if provider == GEMINI:
        return events(whole(provider, path, body, told))
    known = {"id": "c1", "created": 1, "model": body["model"], "object": "chat.completion.chunk"}
    choice = {"index": 0, "delta": {"role": "assistant", "content": TEXT}, "finish_reason": "stop"}
    return events({**known, "choices": [choice], "usage": chat_count(provider, told)})


def charge_of(
    monkeypatch: pytest.MonkeyPatch, provider: str, told: Told, *, streaming: bool
) -> dict[str, Any]:
    """The only charge of a request whose answer is told of as far as that."""

    def answer(path: str, body: dict[str, Any], number: int) -> Answer:
        said = streamed if streaming and provider != OLLAMA else whole
        return 200, said(provider, path, body, told)

    with loopback(answer) as server:
        keys(monkeypatch, server.url)
        card = server.card(provider, price=PRICE, max_retries=0)
        found = answered(routed(card), streamed=streaming, messages=[HumanMessage("a " * 2000)])
    assert found.text == TEXT
    (charge,) = record_of(found)["charges"]
    return dict(charge)


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_cost_of_which_one_side_was_told_is_unknown_and_settles_to_an_estimate(
    monkeypatch: pytest.MonkeyPatch, provider: str, half: str, streaming: bool
) -> None:
    told = HALVES[half]
    charge = charge_of(monkeypatch, provider, told, streaming=streaming)
    assert (charge["cost_usd"], charge["usage"]) == (None, None)
    if provider == OLLAMA and told == ONLY_OUT:
        told = (None, 1)  # its class drops what it has without the prompt's count
    least = Decimal((told[0] or 0) * PRICE["input"] + (told[1] or 0) * PRICE["output"])
    assert Decimal(charge["estimate_usd"]) >= least / 1_000_000


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_cost_of_which_both_sides_were_told_is_known(
    monkeypatch: pytest.MonkeyPatch, provider: str, streaming: bool
) -> None:
    charge = charge_of(monkeypatch, provider, BOTH, streaming=streaming)
    assert Decimal(charge["cost_usd"]) == Decimal(1000 * 1 + 200 * 10) / 1_000_000
