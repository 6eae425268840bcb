"""Limits that requests share: whoever asks by whatever way, nothing is called beyond them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage
from langchain_core.messages.ai import UsageMetadata
from langgraph.graph import START, MessagesState, StateGraph
from sqlalchemy import text

from tests.support.apps import (
    PRICES,
    app,
    ask,
    calls,
    card,
    options,
    pool,
    prefers,
    record,
    scripted,
    true_cost,
)
from xrouter_lg import (
    Budget,
    ChatXRouter,
    ModelCard,
    ModelPool,
    PromptedPolicy,
    Router,
    XRouterMiddleware,
    XRouterNode,
    add_router,
)
from xrouter_lg.calls.spend.limits import SpendLimit
from xrouter_lg.calls.spend.store import SpendStore
from xrouter_lg.errors import (
    BudgetExceededError,
    BudgetStoreError,
    ConfigurationError,
    PoolError,
)
from xrouter_lg.testing import FakeOpenAIServer, FaultPlan, always, hang, server_error

ONE = Decimal("0.009")
"""USD: covers one answer of small at its worst (0.0083), and no second one beside it."""


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "spend.db")


def budget(path: str, usd: Any = ONE, **more: Any) -> Budget:
    limit = SpendLimit(usd, per=more.pop("per", "thread"))
    return Budget(**{"limits": [limit], "store": path, "on_exceeded": "error", **more})


def spent(router: Router, per: Any = "thread", who: str = "t") -> Decimal:
    assert router.spending is not None
    store = router.spending.store
    assert store.flush()
    return store.spent(SpendLimit(1, per=per).place(who, 0.0))


def of_node(router: Router) -> Callable[[Any], Any]:
    node = app(XRouterNode(router))
    return lambda config: node.invoke(ask(), config)


def of_graph(router: Router) -> Callable[[Any], Any]:
    builder = StateGraph(MessagesState)
    builder.add_edge(START, add_router(builder, router))
    graph = builder.compile()
    return lambda config: graph.invoke(ask(), config)


def of_model(router: Router) -> Callable[[Any], Any]:
    return lambda config: ChatXRouter(router).invoke("Hi", config)


def of_stream(router: Router) -> Callable[[Any], Any]:
    return lambda config: list(ChatXRouter(router).stream("Hi", config))


def of_agent(router: Router) -> Callable[[Any], Any]:
    agent = create_agent("openai:gpt-5-nano", [], middleware=[XRouterMiddleware(router)])
    return lambda config: agent.invoke(ask(), config)


@pytest.mark.parametrize(
    "surface", [of_node, of_graph, of_model, of_stream, of_agent], ids=lambda it: it.__name__
)
def test_a_limit_holds_on_every_surface(
    surface: Any, fake: FakeOpenAIServer, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "test")
    router = Router(pool(fake, "small"), budget=budget(path))
    go = surface(router)
    refused = until_refused(lambda: go(options(thread_id="t")))
    assert "per thread" in str(refused) and refused.per == "thread"
    assert 0 < true_cost(fake) <= ONE
    assert spent(router) == true_cost(fake)
    go(options(thread_id="another"))


async def test_a_thousand_at_once_on_a_nearly_empty_budget(path: str) -> None:
    """Each answer costs 0.0082 of 0.0083 that it is reserved with, and three are paid for."""
    billed: list[Decimal] = []

    def say(messages: Any) -> AIMessage:
        billed.append(Decimal("0.0082"))
        used = UsageMetadata(input_tokens=8, output_tokens=4096, total_tokens=4104)
        return AIMessage("a", usage_metadata=used)

    limited = budget(path, "0.03", per="tenant")
    model = ChatXRouter(ModelPool([scripted("small", say, delay_s=0.01)]), budget=limited)
    done = await asyncio.gather(
        *(model.ainvoke("Hi", options(tenant="acme")) for _ in range(1_000)),
        return_exceptions=True,
    )
    refused = [error for error in done if isinstance(error, BaseException)]
    assert {type(error) for error in refused} == {BudgetExceededError}
    assert len(billed) == len(done) - len(refused) == 3
    assert spent(model.router, "tenant", "acme") == Decimal("0.0246")


def test_a_dearer_card_that_no_longer_fits_gives_way_to_a_cheaper_one(
    fake: FakeOpenAIServer, path: str
) -> None:
    limited = budget(path, "0.02", per="all", on_exceeded="cheapest")
    model = ChatXRouter(pool(fake), policy=prefers("large"), budget=limited)
    told = model.invoke("Hi").response_metadata["xrouter"]
    assert told["route"] == "small"
    assert "may cost" in told["removed"]["large"]


def test_whom_a_request_counts_for_may_come_from_the_context(
    fake: FakeOpenAIServer, path: str
) -> None:
    router = Router(pool(fake, "small"), budget=budget(path, per="tenant"))
    builder = StateGraph(MessagesState, context_schema=dict)
    builder.add_node("model", XRouterNode(router))
    builder.add_edge(START, "model")
    graph = builder.compile()
    graph.invoke(ask(), context={"tenant": "acme"})
    assert spent(router, "tenant", "acme") == true_cost(fake) > 0


def test_requests_without_a_tenant_share_one_limit_and_one_without_a_thread_has_its_own(
    fake: FakeOpenAIServer, path: str
) -> None:
    per_tenant = ChatXRouter(pool(fake, "small"), budget=budget(path, per="tenant"))
    per_tenant.invoke("Hi")
    assert spent(per_tenant.router, "tenant", "") == true_cost(fake)
    per_thread = ChatXRouter(pool(fake, "small"), budget=budget(path))
    for _ in range(3):
        per_thread.invoke("Hi")
    lone = ChatXRouter(pool(fake, "small"), budget=budget(path, "0.001"))
    with pytest.raises(BudgetExceededError, match="the request's limit"):
        lone.invoke("Hi")


def test_what_a_policy_pays_counts_and_is_set_aside_first(
    fake: FakeOpenAIServer, path: str
) -> None:
    policy = PromptedPolicy(card(fake, "guide"))
    model = ChatXRouter(pool(fake), policy=policy, budget=budget(path, 1))
    model.invoke("Hi", options(thread_id="t"))
    assert fake.calls["guide"] == 1
    assert spent(model.router) == true_cost(fake)
    alike = card(fake, "other", model="small", price=PRICES["small"])
    two = ModelPool([card(fake, "small"), alike])  # one alone would not be asked about
    poor = ChatXRouter(two, policy=policy, budget=budget(path + "2", "0.0084"))
    told = poor.invoke("Hi", options(thread_id="t")).response_metadata["xrouter"]
    assert "asking the policy may cost" in told["decisions"][0]["policy_error"]
    assert fake.calls["guide"] == 1


def test_two_calls_at_once_are_set_aside_together(fake: FakeOpenAIServer, path: str) -> None:
    policy = calls("small", "small")
    model = ChatXRouter(pool(fake), policy=policy, budget=budget(path, "0.016", per="all"))
    model.invoke("Hi")
    assert fake.calls == {"small": 1}
    assert spent(model.router, "all", "") == true_cost(fake)


def test_a_card_of_unknown_price_is_refused_unless_it_is_said_what_it_counts(
    fake: FakeOpenAIServer, path: str
) -> None:
    unpriced = ModelPool([card(fake, "small", price=None)])
    refused = ChatXRouter(unpriced, budget=budget(path, 1))
    with pytest.raises(BudgetExceededError, match=r"Budget\(unpriced_usd=\)"):
        refused.invoke("Hi", options(thread_id="t"))
    assert fake.calls == {}
    allowed = ChatXRouter(unpriced, budget=budget(path, "0.05", unpriced_usd="0.02"))
    for _ in range(2):
        allowed.invoke("Hi", options(thread_id="t"))
    assert spent(allowed.router) == Decimal("0.04")
    with pytest.raises(BudgetExceededError):
        allowed.invoke("Hi", options(thread_id="t"))
    assert fake.calls == {"small": 2}


def test_a_failed_call_counts_its_worst_case_only_where_it_may_have_been_billed(
    fake: FakeOpenAIServer, path: str
) -> None:
    model = ChatXRouter(pool(fake, "small"), budget=budget(path, 1))
    fake.faults = FaultPlan(default=always(server_error()))
    with pytest.raises(Exception, match="every candidate failed"):
        model.invoke("Hi", options(thread_id="t"))
    assert spent(model.router) == Decimal("0.008274")


async def test_a_cancelled_request_lets_go_of_what_it_has_not_spent(
    fake: FakeOpenAIServer, path: str
) -> None:
    fake.faults = FaultPlan(default=always(hang(30)))
    model = ChatXRouter(pool(fake, "small"), budget=budget(path, 1))
    waiting = asyncio.ensure_future(model.ainvoke("Hi", options(thread_id="t")))
    while not fake.calls:
        await asyncio.sleep(0.01)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert await asyncio.to_thread(spent, model.router) == Decimal("0.008274")
    assert model.router.spending is not None
    caps = model.router.spending.caps({"thread_id": "t"})
    left = await model.router.spending.store.left(caps)
    assert left.nano == 10**9 - 8_274_000


def test_what_the_app_asks_for_at_most_is_what_is_set_aside(
    fake: FakeOpenAIServer, path: str
) -> None:
    """Sixteen tokens of small cost 0.000032; its whole answer would not fit."""
    model = ChatXRouter(pool(fake, "small"), budget=budget(path, "0.0004"))
    for asked in (model.bind(max_tokens=16), model.model_copy(update={"max_tokens": 16})):
        told: Any = asked.invoke("Hi", options(thread_id="t"))
        assert told.response_metadata["xrouter"]["decisions"][0]["calls"][0]["max_tokens"] == 16
    node = XRouterNode(model.router)
    state = node.invoke(ask(), options(thread_id="t"), max_tokens=16)
    assert record(state)["route"] == "small"
    with pytest.raises(BudgetExceededError):
        model.invoke("Hi", options(thread_id="t"))


def test_a_store_that_is_down_refuses_calls_or_lets_them_be_counted_later(
    fake: FakeOpenAIServer, path: str
) -> None:
    hard = ChatXRouter(pool(fake, "small"), budget=budget(path, 1))
    soft = ChatXRouter(pool(fake, "small"), budget=budget(path, 1, when_down="allow"))
    beside = SpendStore(path)
    rename(beside, "xrouter_spend", "away")
    with pytest.raises(BudgetStoreError) as caught:
        hard.invoke("Hi", options(thread_id="t"))
    assert caught.value.record is not None and fake.calls == {}
    soft.invoke("Hi", options(thread_id="t"))
    assert soft.router.spending is not None and soft.router.spending.unguarded == 0
    rename(beside, "away", "xrouter_spend")
    assert spent(soft.router) == true_cost(fake) > 0


def test_a_human_is_not_asked_to_raise_what_many_share(fake: FakeOpenAIServer, path: str) -> None:
    limited = budget(path, "0.0001", per="all", on_exceeded="interrupt")
    node = XRouterNode(pool(fake, "small"), budget=limited)
    with pytest.raises(BudgetExceededError, match="in all"):
        app(node).invoke(ask())


def test_a_pool_file_may_hold_the_budget(
    fake: FakeOpenAIServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", "test")
    told = f"""
budget:
  on_exceeded: error
  limits:
    - {{usd: 0.009, per: tenant, period: day, timezone: Europe/Berlin}}
models:
  - name: small
    model: "openai:small"
    base_url: "{fake.base_url}"
    price: {{input: 1, output: 2}}
"""
    Path("pool.yaml").write_text(told)
    model = ChatXRouter("pool.yaml")
    model.invoke("Hi", options(tenant="acme"))
    assert Path("xrouter_spend.db").exists()
    own = ChatXRouter("pool.yaml", budget=Budget())
    assert own.router.spending is None
    Path("pool.yaml").write_text(told.replace("per: tenant", "per: day"))
    with pytest.raises(ConfigurationError, match=r"Budget.limits\[0\]: SpendLimit.per is 'day'"):
        ChatXRouter("pool.yaml")
    Path("pool.yaml").write_text(told.replace("budget:", "budgets:"))
    with pytest.raises(PoolError, match="budgets"):
        ChatXRouter("pool.yaml")


def test_a_card_handed_in_is_limited_too(path: str) -> None:
    inside = ModelPool(
        [ModelCard(name="a", model=scripted("a").model, price={"input": 0, "output": 1})]
    )
    model = ChatXRouter(inside, budget=budget(path, "0.00001", per="all"))
    with pytest.raises(BudgetExceededError):
        model.invoke("Hi")


def until_refused(go: Callable[[], Any]) -> BudgetExceededError:
    for _ in range(200):
        try:
            go()
        except BudgetExceededError as error:
            return error
    raise AssertionError("nothing was refused")


def rename(store: SpendStore, old: str, new: str) -> None:
    with store._engine.begin() as connection:
        connection.execute(text(f"ALTER TABLE {old} RENAME TO {new}"))
