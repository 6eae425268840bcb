"""What a provider says that a request cost is what it cost."""

from __future__ import annotations

from decimal import Decimal

from tests.support.provider_matrix import Provider, answered, cells, except_, record_of, routed
from xrouter_lg.testing import FakeModel, FakeProviders, Reply, Usage

COST = Decimal("0.0123")
NONE = except_(
    "states no cost",
    "openai",
    "responses",
    "anthropic",
    "google_genai",
    "mistralai",
    "ollama",
    "deepseek",
)


@cells("own bill", "the provider's own figure wins over tokens × price", without=NONE)
def test_the_providers_own_bill_wins(provider: Provider, server: FakeProviders) -> None:
    assert _charged(provider, server, streamed=False) == COST


@cells("own bill", "the same of a stream", without=NONE)
def test_the_providers_own_bill_wins_in_a_stream(provider: Provider, server: FakeProviders) -> None:
    assert _charged(provider, server, streamed=True) == COST


def _charged(provider: Provider, server: FakeProviders, *, streamed: bool) -> Decimal:
    usage = Usage(prompt_tokens=100, completion_tokens=10, cost_usd=COST)
    server.add_model(FakeModel(name="m", reply=Reply("It is Paris.", usage=usage)))
    message = answered(routed(provider.card(server)), streamed=streamed)
    return Decimal(record_of(message)["cost_usd"])
