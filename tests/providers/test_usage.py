"""Every kind of token that a provider bills apart is billed apart."""

from __future__ import annotations

from decimal import Decimal

from tests.support.provider_matrix import Provider, answered, cells, record_of, routed
from xrouter_lg.testing import FakeModel, FakeProviders, Reply, Usage

RATES = {
    "input": Decimal("1"),
    "cached_input": Decimal("0.1"),
    "cache_write": Decimal("1.25"),
    "cache_write_1h": Decimal("2"),
    "input_audio": Decimal("5"),
    "output": Decimal("10"),
    "reasoning": Decimal("20"),
    "output_audio": Decimal("40"),
}
"""USD per million tokens."""
SEARCH = Decimal("0.03")
"""USD each."""

_CACHED = {"cached_tokens": 300}
_THOUGHT = {"reasoning_tokens": 70}
_WRITTEN = {"cache_write_tokens": 200}
KINDS: dict[str, dict[str, int]] = {
    "openai": _CACHED | _THOUGHT | {"audio_input_tokens": 110, "audio_output_tokens": 50},
    "compatible": _CACHED | _THOUGHT,
    "responses": _CACHED | _THOUGHT | {"searches": 2},
    "anthropic": _CACHED | _WRITTEN | _THOUGHT | {"cache_write_1h_tokens": 130, "searches": 2},
    "google_genai": _CACHED | _THOUGHT | {"tool_prompt_tokens": 90, "searches": 2},
    "mistralai": {},
    "ollama": {},
    "openrouter": _CACHED | _WRITTEN | _THOUGHT,
    "deepseek": _CACHED | _THOUGHT,
    "xai": _CACHED | _THOUGHT,
    "perplexity": _THOUGHT | {"searches": 2},
}
"""What each provider tells apart in a way that its LangChain class lets through."""


@cells("usage kinds", "every kind of token is billed at its own rate")
def test_every_kind_is_billed(provider: Provider, server: FakeProviders) -> None:
    assert _charged(provider, server, streamed=False) == _right(provider)


@cells("usage kinds", "the same of a stream")
def test_every_kind_is_billed_of_a_stream(provider: Provider, server: FakeProviders) -> None:
    assert _charged(provider, server, streamed=True) == _right(provider)


def _usage(provider: Provider) -> Usage:
    return Usage(prompt_tokens=1000, completion_tokens=200, **KINDS[provider.name])


def _right(provider: Provider) -> Decimal:
    usage = _usage(provider)
    inputs = {
        "cached_input": usage.cached_tokens,
        "cache_write": usage.cache_write_tokens,
        "cache_write_1h": usage.cache_write_1h_tokens,
        "input_audio": usage.audio_input_tokens,
    }
    outputs = {"reasoning": usage.reasoning_tokens, "output_audio": usage.audio_output_tokens}
    plain = {
        "input": usage.prompt_tokens - sum(inputs.values()),
        "output": usage.completion_tokens - sum(outputs.values()),
    }
    tokens = sum((n * RATES[kind] for kind, n in (inputs | outputs | plain).items()), Decimal(0))
    return tokens / 1_000_000 + usage.searches * SEARCH


def _charged(provider: Provider, server: FakeProviders, *, streamed: bool) -> Decimal:
    server.add_model(FakeModel(name="m", reply=Reply("It is Paris.", usage=_usage(provider))))
    price = RATES | {"web_search": SEARCH}
    message = answered(routed(provider.card(server, price=price)), streamed=streamed)
    return Decimal(record_of(message)["cost_usd"])
