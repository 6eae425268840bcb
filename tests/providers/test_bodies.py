"""What the app bound reaches the provider as if the app had called the chat model itself."""

from __future__ import annotations

import base64
from typing import Any

from langchain_core.messages import HumanMessage
from langchain_core.tools import tool

from tests.support.apps import app
from tests.support.provider_matrix import Provider, answered, cells, except_, routed
from xrouter_lg import ModelPool, XRouterNode
from xrouter_lg.pool.card import CAPABILITIES
from xrouter_lg.testing import FakeProviders

SEES = frozenset({"tools", "structured_output"}) | (CAPABILITIES & {"vision", "files"})
PIXEL = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(60)).decode()
PDF = base64.b64encode(b"%PDF-1.4\n" + bytes(400_000)).decode()
NO_TOOLS = except_("Sonar takes no tools", "perplexity")


@tool
def weather(city: str, days: int = 1) -> str:
    """Weather of a city."""
    return f"{city}: sun for {days} days"


STRICT = {"strict": True, "tool_choice": "weather"}
OPTIONS: dict[str, dict[str, Any]] = {
    "openai": {**STRICT, "parallel_tool_calls": False},
    "compatible": STRICT,
    "responses": {**STRICT, "parallel_tool_calls": False},
    "anthropic": {"tool_choice": "any", "parallel_tool_calls": False},
    "google_genai": {"tool_choice": "any"},
    "mistralai": {"tool_choice": "any"},
    "ollama": {},
    "openrouter": STRICT,
    "deepseek": {"tool_choice": "weather"},
    "xai": STRICT,
}
"""Options of `bind_tools` that each class passes on."""
OWN_TOOLS: dict[str, dict[str, Any]] = {
    "responses": {"type": "web_search"},
    "anthropic": {"type": "web_search_20250305", "name": "web_search", "max_uses": 3},
    "google_genai": {"google_search": {}},
    "xai": {"type": "web_search"},
}
"""A tool that the provider itself runs."""


@cells("tools untouched", "tools, `strict` and `tool_choice` as by hand", without=NO_TOOLS)
def test_tools_reach_the_provider_as_bound(provider: Provider, server: FakeProviders) -> None:
    _same_bodies(provider, server, [weather], OPTIONS[provider.name])


@cells(
    "tools untouched",
    "a tool that the provider runs itself",
    without=except_(
        "has none, or not in this API",
        "openai",
        "compatible",
        "mistralai",
        "ollama",
        "openrouter",
        "deepseek",
        "perplexity",
    ),
)
def test_a_providers_own_tool_reaches_it(provider: Provider, server: FakeProviders) -> None:
    _same_bodies(provider, server, [OWN_TOOLS[provider.name]], {})


@cells(
    "files and images",
    "an image goes through as it is",
    without=except_("sees no images", "deepseek"),
)
def test_an_image_goes_through(provider: Provider, server: FakeProviders) -> None:
    url = f"data:image/png;base64,{PIXEL}"
    _same_content(provider, server, {"type": "image_url", "image_url": {"url": url}})


@cells(
    "files and images",
    "400 KB of PDF go through, and are no 130,000 tokens",
    without=except_("takes no files in a message", "mistralai", "ollama", "deepseek", "xai")
    | except_("its class refuses the block", "perplexity"),
)
def test_a_file_goes_through(provider: Provider, server: FakeProviders) -> None:
    pdf = {"type": "file", "base64": PDF, "mime_type": "application/pdf", "filename": "a.pdf"}
    _same_content(provider, server, pdf)


def _same_bodies(
    provider: Provider, server: FakeProviders, tools: list[Any], options: dict[str, Any]
) -> None:
    provider.by_hand(server).bind_tools(tools, **options).invoke("Hello")
    node = XRouterNode(ModelPool([provider.card(server)])).bind_tools(tools, **options)
    answered(app(node), messages=[HumanMessage("Hello")])
    by_hand, ours = server.requests
    assert ours.body == by_hand.body


def _same_content(provider: Provider, server: FakeProviders, block: dict[str, Any]) -> None:
    messages = [HumanMessage([{"type": "text", "text": "What is it?"}, block])]
    provider.by_hand(server).invoke(messages)
    card = provider.card(server, capabilities=SEES, context_window=32_000)
    answered(routed(card), messages=messages)
    by_hand, ours = server.requests
    assert ours.body == by_hand.body
