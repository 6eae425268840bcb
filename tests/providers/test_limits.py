"""A limit on the money is a limit on the answer, by a name that the provider reads."""

from __future__ import annotations

from decimal import Decimal

from tests.support.provider_matrix import Provider, answered, cells, record_of, routed
from xrouter_lg import Budget
from xrouter_lg.testing import FakeModel, FakeProviders, Reply, Usage

LIMIT = Decimal("0.01")


@cells("limits", "a model that would write USD 0.04 is held to a limit of USD 0.01")
def test_a_budget_holds(provider: Provider, server: FakeProviders) -> None:
    wanted = Usage(prompt_tokens=10, completion_tokens=4000)
    server.add_model(FakeModel(name="m", reply=Reply("word " * 40, usage=wanted)))
    card = provider.card(server, max_output_tokens=8000)
    found = record_of(answered(routed(card, budget=Budget(per_request_usd=LIMIT))))
    (line,) = server.bill
    billed = (line.usage.prompt_tokens + 10 * line.usage.completion_tokens) / Decimal(1_000_000)
    assert Decimal(found["cost_usd"]) == billed <= LIMIT
