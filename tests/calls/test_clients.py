"""Connections of one's own: every provider's class in any number of event loops and threads."""

from __future__ import annotations

import asyncio
import gc
import operator
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from langchain_core.messages import HumanMessage
from langchain_openai import ChatOpenAI

from tests.support.apps import record, scripted
from tests.support.provider_matrix import EACH_PROVIDER, PRICE, PROVIDERS, Provider, fake_providers
from xrouter_lg import ModelCard, ModelPool, XRouterNode
from xrouter_lg.calls.attempt import Workers
from xrouter_lg.calls.worker.clients import with_own_clients
from xrouter_lg.testing import FakeProviders, FaultPlan, server_error
from xrouter_lg.types import PlannedCall

HANDED_IN = pytest.mark.parametrize("handed_in", [False, True], ids=["named", "handed in"])
ASK = {"messages": [HumanMessage("What is the capital of France?")]}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeProviders]:
    with fake_providers(monkeypatch) as running:
        yield running


def node_of(
    server: FakeProviders, provider: Provider, handed_in: bool, **fields: Any
) -> XRouterNode:
    card = provider.card(server, **fields)
    if handed_in:
        model = provider.by_hand(server)
        card = ModelCard(name="one", model=model, price=PRICE, **fields)
    return XRouterNode(ModelPool([card]))


def attempts(state: Any) -> list[Any]:
    found = record(state)
    return [(charge["error"], charge["cost_usd"]) for charge in found["charges"]]


@EACH_PROVIDER
@HANDED_IN
def test_one_request_a_call_in_loops_one_after_another(
    server: FakeProviders, provider: Provider, handed_in: bool
) -> None:
    node = node_of(server, provider, handed_in)
    for _ in range(3):
        assert attempts(asyncio.run(node.ainvoke(ASK))) == [(None, "0.0002")]
        assert attempts(node.invoke(ASK)) == [(None, "0.0002")]
    assert len(server.requests) == 6


@EACH_PROVIDER
@HANDED_IN
def test_one_request_a_call_in_loops_and_threads_side_by_side(
    server: FakeProviders, provider: Provider, handed_in: bool
) -> None:
    node, seen = node_of(server, provider, handed_in), []

    async def several() -> None:
        for _ in range(2):
            states = await asyncio.gather(*(node.ainvoke(ASK) for _ in range(2)))
            seen.extend(map(attempts, states))

    def waiting() -> None:
        seen.append(attempts(node.invoke(ASK)))

    threads = [threading.Thread(target=lambda: asyncio.run(several())) for _ in range(2)]
    threads += [threading.Thread(target=waiting) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [[(None, "0.0002")]] * 10
    assert len(server.requests) == 10


@EACH_PROVIDER
def test_a_model_goes_on_in_the_hands_of_its_owner(
    server: FakeProviders, provider: Provider
) -> None:
    model = provider.by_hand(server)
    node = XRouterNode(ModelPool([ModelCard(name="one", model=model)]))

    async def both() -> None:
        await node.ainvoke(ASK)
        await model.ainvoke("Hi")
        await node.ainvoke(ASK)

    asyncio.run(both())
    assert len(server.requests) == 3


@EACH_PROVIDER
@HANDED_IN
def test_no_client_asks_again_behind_our_back(
    server: FakeProviders, monkeypatch: pytest.MonkeyPatch, provider: Provider, handed_in: bool
) -> None:
    monkeypatch.setattr("xrouter_lg.calls.attempt._BACKOFF_S", 0.001)
    server.faults = FaultPlan(default=server_error(500))
    node = node_of(server, provider, handed_in, max_retries=0)
    with pytest.raises(Exception, match="every candidate failed") as caught:
        node.invoke(ASK)
    (attempt,) = caught.value.attempts  # type: ignore[attr-defined]
    assert attempt["attempts"] == len(server.requests)
    assert handed_in or len(server.requests) == 1


def test_a_clients_own_retries_are_made_by_us(
    server: FakeProviders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xrouter_lg.calls.attempt._BACKOFF_S", 0.001)
    server.faults = FaultPlan(default=server_error(500))
    model = PROVIDERS["openai"].by_hand(server, max_retries=4)
    pool = ModelPool([ModelCard(name="one", model=model, max_retries=1)])
    with pytest.raises(Exception, match="every candidate failed"):
        XRouterNode(pool).invoke(ASK)
    assert len(server.requests) == 5


def test_what_the_user_made_stays_as_it_was(server: FakeProviders) -> None:
    model = PROVIDERS["openai"].by_hand(server)
    before = dict(vars(model))
    own = with_own_clients(model).model
    assert vars(model) == before
    assert own is not model
    assert own.root_async_client is not model.root_async_client  # type: ignore[attr-defined]
    assert own.async_client._client is own.root_async_client  # type: ignore[attr-defined]


def test_a_client_with_settings_of_the_users_keeps_them(server: FakeProviders) -> None:
    seen: list[str] = []

    async def note(request: httpx.Request) -> None:
        seen.append(str(request.url))

    mine = openai.DefaultAsyncHttpxClient(event_hooks={"request": [note]})
    model = ChatOpenAI(
        model="m", api_key="test", base_url=server.base_url_of("openai"), http_async_client=mine
    )
    node = XRouterNode(ModelPool([ModelCard(name="one", model=model)]))
    for _ in range(2):
        asyncio.run(node.ainvoke(ASK))
    assert len(seen) == len(server.requests) == 2


def test_a_model_without_a_client_is_used_as_it_is() -> None:
    model = scripted("small").model
    assert with_own_clients(model).model is model  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("provider", "client"),
    [
        ("openai", "root_async_client._client"),
        ("anthropic", "_async_client._client"),
        ("mistralai", "async_client"),
        ("ollama", "_async_client._client"),
        ("openrouter", "client.sdk_configuration.async_client"),
        ("perplexity", "async_client._client"),
    ],
)
def test_connections_are_closed_with_their_loop(
    server: FakeProviders, provider: str, client: str
) -> None:
    workers, card = Workers(), PROVIDERS[provider].card(server)

    async def ask() -> Any:
        call = PlannedCall("c1", card.name)
        assert (await workers.call(card, call, ASK["messages"], {})).message is not None
        return operator.attrgetter(client)(workers.model(card))

    assert asyncio.run(ask()).is_closed


@EACH_PROVIDER
@HANDED_IN
def test_a_loop_that_is_closed_without_notice_leaves_no_error(
    server: FakeProviders, caplog: pytest.LogCaptureFixture, provider: Provider, handed_in: bool
) -> None:
    node = node_of(server, provider, handed_in)
    for _ in range(3):
        loop = asyncio.new_event_loop()
        assert attempts(loop.run_until_complete(node.ainvoke(ASK))) == [(None, "0.0002")]
        loop.close()
    gc.collect()
    asyncio.run(asyncio.sleep(0))
    assert [it.getMessage() for it in caplog.records if it.name == "asyncio"] == []
