"""The wire formats of model providers: which one a request's path belongs to."""

from __future__ import annotations

from collections.abc import Mapping

from xrouter_lg.testing.dialects.anthropic import AnthropicMessages
from xrouter_lg.testing.dialects.base import Dialect
from xrouter_lg.testing.dialects.gemini import Gemini
from xrouter_lg.testing.dialects.ollama import OllamaChat
from xrouter_lg.testing.dialects.openai_chat import (
    CompatibleChat,
    DeepSeekChat,
    MistralChat,
    OpenAIChat,
    OpenRouterChat,
    PerplexityChat,
    XAIChat,
)
from xrouter_lg.testing.dialects.openai_responses import OpenAIResponses

_RESPONSES = OpenAIResponses()

BASE_PATHS: Mapping[str, str] = {
    "openai": "/v1",
    "compatible": "/compatible/v1",
    "anthropic": "/anthropic",
    "google_genai": "/google_genai",
    "mistralai": "/mistralai/v1",
    "ollama": "/ollama",
    "openrouter": "/openrouter/api/v1",
    "deepseek": "/deepseek",
    "xai": "/xai/v1",
    "perplexity": "/perplexity",
}
"""Where the client of each provider (by LangChain's name) finds its API below the server's URL.
`compatible` is somebody else's server that speaks OpenAI's chat completions in part."""

_ROUTES: Mapping[str, Mapping[str, Dialect]] = {
    "openai": {"/chat/completions": OpenAIChat(), "/responses": _RESPONSES},
    "compatible": {"/chat/completions": CompatibleChat()},
    "anthropic": {"/v1/messages": AnthropicMessages()},
    "google_genai": dict.fromkeys((":generateContent", ":streamGenerateContent"), Gemini()),
    "mistralai": {"/chat/completions": MistralChat()},
    "ollama": {"/api/chat": OllamaChat()},
    "openrouter": {"/chat/completions": OpenRouterChat()},
    "deepseek": {"/chat/completions": DeepSeekChat()},
    "xai": {"/chat/completions": XAIChat(), "/responses": _RESPONSES},
    "perplexity": {"/chat/completions": PerplexityChat()},
}

OPENAI = _ROUTES["openai"]["/chat/completions"]
"""What a request speaks that belongs to no provider."""


def dialect_of(path: str) -> Dialect | None:
    """Who answers a POST to a path."""
    for provider, base in BASE_PATHS.items():
        if path.startswith(base + "/"):
            for ending, dialect in _ROUTES[provider].items():
                if path.endswith(ending):
                    return dialect
    return None


__all__ = ["BASE_PATHS", "OPENAI", "Dialect", "dialect_of"]
