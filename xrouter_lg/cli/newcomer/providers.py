"""Hosted providers: which variable holds whose key, and which of its models a first pool has.

Names and prices come from genai-prices' list, abilities from LangChain's profiles; here stand only
the patterns by which a provider calls its small, middle and large models.
"""

from __future__ import annotations

import importlib.util
import os
import re
from dataclasses import dataclass

from xrouter_lg.pool.pricing import Price, published_price
from xrouter_lg.pool.profiles import Profile, profile_of

SMALL = "short answers, simple facts, classification"
MIDDLE = "everyday questions, extraction, summaries"
LARGE = "reasoning, several steps, code"


@dataclass(frozen=True)
class Provider:
    """A hosted provider."""

    name: str
    """As LangChain's model strings have it: ``openai:gpt-5-nano``."""
    variable: str
    """The environment variable that holds its key."""
    package: str
    """What pip installs to call it."""
    listed: str
    """As genai-prices calls it."""
    tiers: tuple[tuple[str, str], ...]
    """How its models of one size are named, and what they are for; from small to large."""
    newest: int = 1
    """Models taken of each size."""

    @property
    def installed(self) -> bool:
        return importlib.util.find_spec(self.package.replace("-", "_")) is not None

    @property
    def key_set(self) -> bool:
        return bool(os.environ.get(self.variable, "").strip())


# fmt: off
PROVIDERS = (
    Provider("openai", "OPENAI_API_KEY", "langchain-openai", "openai", (
        (r"gpt-\d+(\.\d+)?-nano", SMALL),
        (r"gpt-\d+(\.\d+)?-mini", MIDDLE),
        (r"gpt-\d+(\.\d+)?", LARGE),
    )),
    Provider("anthropic", "ANTHROPIC_API_KEY", "langchain-anthropic", "anthropic", (
        (r"claude-haiku-\d+(-\d{1,2})?", SMALL),
        (r"claude-sonnet-\d+(-\d{1,2})?", MIDDLE),
        (r"claude-opus-\d+(-\d{1,2})?", LARGE),
    )),
    Provider("google_genai", "GOOGLE_API_KEY", "langchain-google-genai", "google", (
        (r"gemini-\d+(\.\d+)?-flash-lite", SMALL),
        (r"gemini-\d+(\.\d+)?-flash", MIDDLE),
        (r"gemini-\d+(\.\d+)?-pro(-preview)?", LARGE),
    )),
    Provider("mistralai", "MISTRAL_API_KEY", "langchain-mistralai", "mistral", (
        (r"mistral-small-latest", SMALL),
        (r"mistral-medium-latest", LARGE),
    )),
    Provider("deepseek", "DEEPSEEK_API_KEY", "langchain-deepseek", "deepseek", (
        (r"deepseek-v\d+(\.\d+)?-flash", SMALL),
        (r"deepseek-v\d+(\.\d+)?-pro", LARGE),
    )),
    Provider("xai", "XAI_API_KEY", "langchain-xai", "x-ai", ((r"grok-\d+\.\d+", LARGE),), newest=2),
    Provider("openrouter", "OPENROUTER_API_KEY", "langchain-openrouter", "openrouter", (
        (r"deepseek/deepseek-v\d+(\.\d+)?-flash", SMALL),
        (r"google/gemini-\d+(\.\d+)?-flash", MIDDLE),
        (r"anthropic/claude-sonnet-\d+(\.\d+)?", LARGE),
    )),
    Provider("perplexity", "PPLX_API_KEY", "langchain-perplexity", "perplexity", (
        (r"sonar", MIDDLE),
        (r"sonar-pro", LARGE),
    )),
)
# fmt: on


@dataclass(frozen=True)
class Suggestion:
    """A model of a provider with a published price."""

    provider: Provider
    model: str
    use: str
    price: Price
    profile: Profile | None
    """None where the provider's package is not installed."""


def suggested(provider: Provider) -> list[Suggestion]:
    """The newest models of each size that the price list has and, where the provider's package is
    installed, LangChain's profiles too; from small to large."""
    names = _listed_models(provider.listed)
    found: list[Suggestion] = []
    for pattern, use in provider.tiers:
        known = []
        for name in sorted(filter(re.compile(pattern).fullmatch, names), key=_version):
            price = published_price(provider.name, name)
            profile = profile_of(provider.name, name)
            if price is not None and (profile is not None or not provider.installed):
                known.append(Suggestion(provider, name, use, price, profile))
        found += known[-provider.newest :]
    return found


def _listed_models(listed: str) -> list[str]:
    from genai_prices.data import providers

    return [model.id for one in providers if one.id == listed for model in one.models]


def _version(name: str) -> tuple[int, ...]:
    """The numbers of a name, so that the newest comes last."""
    return tuple(map(int, re.findall(r"\d+", name)))
