"""What every provider's model leaves in a history is readable for every other provider's class."""

from __future__ import annotations

import json
from typing import Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage

from tests.support.providers import PROVIDERS, keys, loopback
from xrouter_lg import ModelPool, XRouterNode

SEES = ["tools", "structured_output", "vision", "files", "audio"]
FOUND = {"type": "web_search_result", "url": "https://a.example", "title": "t"}
CITED = {"type": "web_search_result_location", "url": "https://a.example", "cited_text": "c"}


def said(maker: str, content: Any, calls: str = "", **extra: Any) -> list[BaseMessage]:
    """A talk in which a model of ``maker`` has spoken, and called a tool by the id ``calls``."""
    answer = AIMessage(
        content,
        tool_calls=[{"name": "weather", "args": {"city": "Rome"}, "id": calls}] if calls else [],
        additional_kwargs=extra,
        response_metadata={"model_provider": maker, "model_name": f"a-model-of-{maker}"},
    )
    last = ToolMessage("sunny", tool_call_id=calls) if calls else HumanMessage("More?")
    return [HumanMessage("Hi"), answer, last]


TALKS: dict[str, list[BaseMessage]] = {
    "anthropic, thoughts": said(
        "anthropic",
        [
            {"type": "thinking", "thinking": "hm", "signature": "PRIVATE"},
            {"type": "redacted_thinking", "data": "PRIVATE"},
            {"type": "text", "text": "Let me look."},
            {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Rome"}},
        ],
        calls="toolu_1",
    ),
    "anthropic, a search": said(
        "anthropic",
        [
            {"type": "server_tool_use", "id": "s_1", "name": "web_search", "input": {}},
            {
                "type": "web_search_tool_result",
                "tool_use_id": "s_1",
                "content": [{**FOUND, "encrypted_content": "PRIVATE"}],
            },
            {
                "type": "text",
                "text": "Let me look.",
                "citations": [{**CITED, "encrypted_index": "PRIVATE"}],
            },
        ],
    ),
    "openai, reasoning": said(
        "openai",
        [
            {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "PRIVATE"},
            {"type": "text", "text": "Let me look.", "annotations": [], "id": "msg_1"},
            {"type": "function_call", "name": "weather", "arguments": "{}", "call_id": "call_1"},
        ],
        calls="call_1",
    ),
    "openai, its own tools": said(
        "openai",
        [
            {"type": "web_search_call", "id": "ws_PRIVATE", "status": "completed"},
            {"type": "image_generation_call", "id": "ig_PRIVATE", "result": "AAAA"},
            {"type": "text", "text": "Let me look.", "annotations": []},
        ],
    ),
    "openai, sound": said("openai", "Let me look.", audio={"id": "audio_PRIVATE", "data": "AAAA"}),
    "google_genai, a signature": said(
        "google_genai",
        [{"type": "text", "text": "Let me look.", "extras": {"signature": "PRIVATE"}}],
        calls="g1",
        __gemini_function_call_thought_signatures__={"g1": "PRIVATE"},
    ),
    "google_genai, code": said(
        "google_genai",
        [
            {"type": "executable_code", "executable_code": "PRIVATE", "language": "PYTHON"},
            {"type": "code_execution_result", "code_execution_result": "PRIVATE", "outcome": 1},
            {"type": "text", "text": "Let me look."},
        ],
    ),
    "deepseek": said("deepseek", "Let me look.", calls="d1", reasoning_content="PRIVATE"),
    "openrouter": said(
        "openrouter",
        "Let me look.",
        calls="functions.weather:0",
        reasoning_details=[{"type": "reasoning.encrypted", "data": "PRIVATE"}],
    ),
    "mistralai": said(
        "mistralai",
        [
            {"type": "thinking", "thinking": [{"type": "text", "text": "PRIVATE"}]},
            {"type": "text", "text": "Let me look."},
        ],
    ),
    "perplexity": said("perplexity", "Let me look.", citations=["https://PRIVATE.example"]),
}


@pytest.mark.parametrize(
    ("provider", "params"),
    [*((provider, {}) for provider in PROVIDERS), ("openai:gpt-x", {"use_responses_api": True})],
    ids=[*PROVIDERS, "responses"],
)
def test_a_talk_goes_on_with_another_providers_model(
    monkeypatch: pytest.MonkeyPatch, provider: str, params: dict[str, Any]
) -> None:
    with loopback() as server:
        keys(monkeypatch, server.url)
        card = server.card(provider, max_retries=0, params=params, capabilities=SEES)
        node = XRouterNode(ModelPool([card]))
        for name, talk in TALKS.items():
            told = node.invoke({"messages": talk})["messages"][-1]
            body = json.dumps(server.requests[-1].body)
            assert told.text == "Paris.", name
            called = isinstance(talk[-1], ToolMessage)
            assert ("sunny" in body) == called, name
            if not (called and provider.startswith("mistralai")):  # whose class sends calls alone
                assert "Let me look." in body, name
            assert "PRIVATE" not in body, name
        assert len(server.requests) == len(TALKS)
