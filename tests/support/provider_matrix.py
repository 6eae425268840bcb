"""The providers of the matrix: their cards and chat models on the fake server, and its cells."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest
from langchain.chat_models import init_chat_model
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage

from tests.support.apps import Graph, answer, app, ask
from xrouter_lg import ModelCard, ModelPool, XRouterNode
from xrouter_lg.testing import FakeModel, FakeProviders

KEY = "FAKE_PROVIDER_KEY"
PERPLEXITY_URL = "PERPLEXITY_BASE_URL"
PRICE = {"input": "1", "output": "10"}
"""USD per million tokens, where a test has no other."""


@dataclass(frozen=True)
class Provider:
    """One row of the matrix."""

    name: str
    title: str
    langchain: str
    """The provider in `init_chat_model`."""
    params: Mapping[str, Any] = field(default_factory=dict)
    served_by: str | None = None
    """The provider on the fake server, where that is another one."""

    def card(self, server: FakeProviders, name: str = "m", **options: Any) -> ModelCard:
        """A card as a user writes it; one attempt unless told otherwise."""
        return ModelCard(
            **{
                "name": name,
                "model": name if self.served_by else f"{self.langchain}:{name}",
                "base_url": server.base_url_of(self.served_by or self.langchain),
                "api_key_env": None if self.langchain == "ollama" else KEY,
                "params": self.params,
                "price": PRICE,
                "max_retries": 0,
                "timeout_s": 10.0,
                **options,
            }
        )

    def by_hand(self, server: FakeProviders, name: str = "m", **more: Any) -> BaseChatModel:
        """The same chat model without us."""
        options = {**self.params, **more}
        if self.langchain == "openai":
            options["stream_usage"] = True
        if self.langchain == "ollama":  # has no retries to switch off
            options.pop("max_retries", None)
        if self.langchain != "perplexity":  # asks the environment
            options["base_url"] = server.base_url_of(self.served_by or self.langchain)
        if self.langchain != "ollama":
            options["api_key"] = "test"
        model: BaseChatModel = init_chat_model(name, model_provider=self.langchain, **options)
        return model


PROVIDERS = {
    provider.name: provider
    for provider in (
        Provider("openai", "OpenAI chat", "openai"),
        Provider("responses", "OpenAI Responses", "openai", {"use_responses_api": True}),
        Provider("compatible", "a server that speaks OpenAI", "openai", served_by="compatible"),
        Provider("anthropic", "Anthropic", "anthropic"),
        Provider("google_genai", "Gemini", "google_genai"),
        Provider("mistralai", "Mistral", "mistralai"),
        Provider("ollama", "Ollama", "ollama"),
        Provider("openrouter", "OpenRouter", "openrouter"),
        Provider("deepseek", "DeepSeek", "deepseek"),
        Provider("xai", "xAI", "xai"),
        Provider("perplexity", "Perplexity", "perplexity"),
    )
}


EACH_PROVIDER = pytest.mark.parametrize("provider", PROVIDERS.values(), ids=lambda it: it.name)


@contextmanager
def fake_providers(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeProviders]:
    """A running server whose every answer is "Paris.", of 100 tokens in and 10 out."""
    says = FakeModel(name="any", reply="Paris.", prompt_tokens=100, completion_tokens=10)
    with FakeProviders(default=says) as server:
        point_at(server, monkeypatch)
        yield server


def point_at(server: FakeProviders, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys that open nothing, and an address for the class that asks the environment."""
    monkeypatch.setenv(KEY, "test")
    monkeypatch.setenv(PERPLEXITY_URL, server.base_url_of("perplexity"))


Test = TypeVar("Test", bound=Callable[..., Any])


@dataclass(frozen=True)
class Row:
    """A situation: one test, with a cell per provider."""

    situation: str
    shows: str
    """What its test proves."""
    test: str
    """File and function below `tests/providers`."""
    number: int
    """Its place in that file."""
    without: Mapping[str, str]
    """Why a provider has no such cell."""


ROWS: list[Row] = []


def cells(
    situation: str, shows: str, *, without: Mapping[str, str] | None = None
) -> Callable[[Test], Test]:
    """Make a test of `provider` a row of the matrix, and each provider's run a cell."""
    reasons = dict(without or {})
    assert reasons.keys() <= PROVIDERS.keys()

    def row(test: Test) -> Test:
        file = test.__module__.rpartition(".")[2]
        line = test.__code__.co_firstlineno
        ROWS.append(Row(situation, shows, f"{file}.py::{test.__name__}", line, reasons))
        there = [provider for name, provider in PROVIDERS.items() if name not in reasons]
        return pytest.mark.parametrize("provider", there, ids=lambda it: it.name)(test)

    return row


def except_(reason: str, *names: str) -> dict[str, str]:
    """The same reason for several providers."""
    return dict.fromkeys(names, reason)


def routed(*cards: ModelCard, **options: Any) -> Graph:
    """An app whose router asks the first card, and falls over to the others."""
    pool_options = {key: options.pop(key) for key in ("on_truncated",) if key in options}
    pool = ModelPool(cards, **pool_options)
    return app(XRouterNode(pool, **{"policy": f"fixed:{cards[0].name}", **options}))


def answered(graph: Graph, *, streamed: bool = False, messages: Sequence[Any] = ()) -> AIMessage:
    """The app's answer, by `invoke` or by a stream that a user watches."""
    said = {"messages": list(messages)} if messages else ask()
    if not streamed:
        return answer(graph.invoke(said))
    parts = list(graph.stream(said, stream_mode=["messages", "values"]))
    return answer([state for mode, state in parts if mode == "values"][-1])  # type: ignore[misc, arg-type]


def record_of(message: AIMessage) -> dict[str, Any]:
    """The route record of an answer."""
    found: dict[str, Any] = message.response_metadata["xrouter"]
    return found
