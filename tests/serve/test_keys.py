"""Keys: who may ask, how often, for how much; and that nothing of a key is kept."""

from __future__ import annotations

import asyncio
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import (
    AsyncOpenAI,
    AuthenticationError,
    InternalServerError,
    OpenAI,
    RateLimitError,
)

from tests.serve.conftest import Serve
from tests.support.apps import pool, true_cost
from xrouter_lg import Budget, ChatXRouter, ModelPool, Recorder
from xrouter_lg.calls.spend.limits import SpendLimit
from xrouter_lg.errors import ConfigurationError
from xrouter_lg.serve.access.callers import Callers
from xrouter_lg.serve.access.keys import KeyStore, find_key
from xrouter_lg.serve.app import create_app
from xrouter_lg.serve.engine import routed
from xrouter_lg.serve.run import running
from xrouter_lg.testing import FakeModel, FakeOpenAIServer, FaultPlan, always, hang

HI: Any = [{"role": "user", "content": "Hi"}]


@pytest.fixture
def store(tmp_path: Path) -> KeyStore:
    return KeyStore(tmp_path / "keys.db")


def ask(client: OpenAI, **more: Any) -> Any:
    return client.chat.completions.create(**{"model": "xrouter", "messages": HI, **more})


def opened(url: str, key: str) -> OpenAI:
    return OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)


def spent(store: KeyStore, name: str) -> Decimal:
    (key,) = (key for key in store.load().values() if key.name == name)
    return store.spent(key)


def test_only_a_key_of_ours_opens(serve: Serve, store: KeyStore, fake: FakeOpenAIServer) -> None:
    text = store.add("alice")
    near = text[:-1] + ("a" if text[-1] != "a" else "b")
    with serve(keys=store) as url:
        assert ask(opened(url, text)).choices
        for wrong in (near, "xr-0-0", "sk-anything", text.upper()):
            with pytest.raises(AuthenticationError):
                ask(opened(url, wrong))
        for path in ("/v1/models", "/v1/models/small"):
            assert httpx.get(url + path).status_code == 401
        told = httpx.post(f"{url}/v1/xrouter/feedback", json={"trace_id": "a", "key": "b"})
        assert told.status_code == 401
        assert httpx.get(f"{url}/healthz").status_code == 200
    assert fake.calls == {"small": 1}


def test_a_key_is_kept_as_its_hash(store: KeyStore, tmp_path: Path) -> None:
    text = store.add("alice")
    store.close()
    kept = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"alice" in kept
    assert text.encode() not in kept and text.split("-", 2)[2].encode() not in kept
    assert text not in repr(store.load())


def test_a_key_that_was_revoked_opens_nothing(store: KeyStore) -> None:
    text = store.add("alice")
    callers = Callers(store)
    assert callers.admit(f"Bearer {text}").key.name == "alice"
    store.revoke("alice")
    callers.reload()
    assert find_key(store.load(), text) is None


def test_two_keys_of_one_name_are_refused(store: KeyStore) -> None:
    store.add("alice")
    with pytest.raises(ConfigurationError, match="'alice'"):
        store.add("alice")
    with pytest.raises(ConfigurationError, match="'bob'"):
        store.revoke("bob")


@pytest.mark.parametrize(
    "limits",
    [{"budget_usd": 0}, {"budget_usd": "much"}, {"period": "year"}, {"requests_per_minute": 0}],
)
def test_a_limit_without_sense_is_refused(store: KeyStore, limits: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        store.add("alice", **limits)


def test_a_rate_is_kept_and_told(serve: Serve, store: KeyStore, fake: FakeOpenAIServer) -> None:
    text = store.add("alice", requests_per_minute=2)
    other = store.add("bob")
    with serve(keys=store) as url:
        for _ in range(2):
            ask(opened(url, text))
        with pytest.raises(RateLimitError) as caught:
            ask(opened(url, text))
        assert caught.value.code == "rate_limit_exceeded"
        assert 1 <= int(caught.value.response.headers["retry-after"]) <= 31
        ask(opened(url, other))
    assert fake.calls == {"small": 3}


def test_tokens_of_rate_come_back_with_time(store: KeyStore) -> None:
    text, now = store.add("alice", requests_per_minute=60), [0.0]
    callers = Callers(store, clock=lambda: now[0])
    caller = callers.admit(f"Bearer {text}")
    for _ in range(60):
        callers.begin(caller)
    with pytest.raises(Exception, match="60 times a minute"):
        callers.begin(caller)
    now[0] += 1.01
    callers.begin(caller)


def test_what_a_key_has_spent_is_what_the_provider_billed(
    serve: Serve, store: KeyStore, fake: FakeOpenAIServer
) -> None:
    text = store.add("alice", budget_usd=1)
    with serve(keys=store) as url:
        client = opened(url, text)
        ask(client)
        ask(client, model="large")
        list(ask(client, stream=True))
        client.responses.create(model="large", input="Hi")
    assert spent(KeyStore(store.shown), "alice") == true_cost(fake)


async def test_a_budget_holds_for_many_requests_at_once(
    serve: Serve, store: KeyStore, fake: FakeOpenAIServer
) -> None:
    """Each call's worst case is set aside before it is made."""
    text = store.add("alice", budget_usd="0.03")  # an answer of small may cost up to 0.0083
    with serve(keys=store) as url:
        async with AsyncOpenAI(base_url=f"{url}/v1", api_key=text, max_retries=0) as client:
            done = await asyncio.gather(
                *(client.chat.completions.create(model="xrouter", messages=HI) for _ in range(40)),
                return_exceptions=True,
            )
    refused = [error for error in done if isinstance(error, RateLimitError)]
    assert {error.code for error in refused} == {"insufficient_quota"}
    assert 0 < len(done) - len(refused) < 40
    assert true_cost(fake) <= Decimal("0.03")
    assert spent(KeyStore(store.shown), "alice") == true_cost(fake)


def test_a_budget_outlives_the_server(
    serve: Serve, store: KeyStore, fake: FakeOpenAIServer
) -> None:
    # An answer of small may cost up to 0.008274.
    text = store.add("alice", budget_usd="0.00828", period="total")
    with serve(keys=store) as url:
        ask(opened(url, text))
    with serve(keys=KeyStore(store.shown)) as url, pytest.raises(RateLimitError) as caught:
        ask(opened(url, text))
    assert caught.value.code == "insufficient_quota"
    assert fake.calls == {"small": 1}


def test_each_period_counts_for_itself(store: KeyStore) -> None:
    store.add("alice", budget_usd=1, period="day")
    (key,) = store.load().values()
    today, tomorrow = 20_000 * 86_400.0, 20_001 * 86_400.0
    store.spend.add([key.place(today)], Decimal("0.25"))
    assert store.spend.flush()
    assert store.spent(key, today + 86_399) == Decimal("0.25")
    assert store.spent(key, tomorrow) == 0


def test_a_key_without_a_budget_is_counted_once(
    serve: Serve, store: KeyStore, fake: FakeOpenAIServer
) -> None:
    """Whether a limit of the server's counts it already or not."""
    text = store.add("alice", period="total")
    with serve(keys=store) as url:
        ask(opened(url, text))
    assert spent(KeyStore(store.shown), "alice") == true_cost(fake)
    shared = Budget(limits=[SpendLimit(1, per="key")], store=KeyStore(store.shown).spend)
    with serve(keys=KeyStore(store.shown), budget=shared) as url:
        ask(opened(url, text))
    assert spent(KeyStore(store.shown), "alice") == true_cost(fake)


@pytest.mark.parametrize("per", ["tenant", "user", "all"])
def test_a_limit_of_the_server_is_told_as_a_quota(
    serve: Serve, store: KeyStore, fake: FakeOpenAIServer, per: Any
) -> None:
    text = store.add("alice")
    shared = Budget(limits=[SpendLimit("0.001", per=per)], store=store.shown, on_exceeded="error")
    with serve(keys=store, budget=shared) as url, pytest.raises(RateLimitError) as caught:
        ask(opened(url, text), user="u")
    assert caught.value.code == "insufficient_quota"
    assert fake.calls == {}


def test_limits_and_keys_are_counted_in_one_place(
    serve: Serve, store: KeyStore, tmp_path: Path
) -> None:
    elsewhere = Budget(limits=[SpendLimit(1)], store=tmp_path / "other.db")
    with (
        pytest.raises(ConfigurationError, match="both have to be one"),
        serve(keys=store, budget=elsewhere),
    ):
        pass


def test_limits_of_a_pool_file_are_counted_beside_the_keys(
    store: KeyStore, fake: FakeOpenAIServer
) -> None:
    text = store.add("alice", budget_usd=1)
    shared = {"limits": [{"usd": 1, "per": "user", "period": "day"}]}
    router = routed(ModelPool(pool(fake).cards, budget=shared), keys=store, policy="cheapest")
    with running(create_app(ChatXRouter(router), keys=store)) as url:
        ask(opened(url, text), user="u")
    again = KeyStore(store.shown)
    place = SpendLimit(1, per="user", period="day").place("u", time.time())
    assert again.spend.spent(place) == spent(again, "alice") == true_cost(fake) > 0


def test_spending_that_can_not_be_looked_up_is_no_call(
    serve: Serve, store: KeyStore, fake: FakeOpenAIServer
) -> None:
    text = store.add("alice", budget_usd=1)
    with serve(keys=store) as url:
        with store.spend._engine.begin() as connection:
            connection.exec_driver_sql("ALTER TABLE xrouter_spend RENAME TO away")
        with pytest.raises(InternalServerError) as caught:
            ask(opened(url, text))
        assert (caught.value.status_code, caught.value.code) == (503, "budget_unavailable")
        assert fake.calls == {}


def test_what_a_client_asks_for_at_most_is_what_its_budget_has_to_cover(
    serve: Serve, store: KeyStore, fake: FakeOpenAIServer
) -> None:
    text = store.add("alice", budget_usd="0.0005")
    with serve(keys=store) as url:
        with pytest.raises(RateLimitError):
            ask(opened(url, text))
        assert ask(opened(url, text), max_tokens=16).choices


def test_a_client_that_leaves_pays_for_what_it_began(
    serve: Serve, store: KeyStore, fake: FakeOpenAIServer
) -> None:
    """What the worker bills for a broken call nobody knows: its worst case counts."""
    fake.faults = FaultPlan(default=always(hang(30)))
    text = store.add("alice", budget_usd=1)
    with serve(keys=store) as url:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(
                f"{url}/v1/chat/completions",
                json={"model": "large", "messages": HI, "max_tokens": 100},
                headers={"authorization": f"Bearer {text}"},
                timeout=0.5,
            )
        while "499" not in httpx.get(f"{url}/metrics").text:
            pass
    assert spent(KeyStore(store.shown), "alice") >= Decimal("0.003")  # 100 tokens of large


def test_each_key_is_a_tenant_of_the_traces(serve: Serve, store: KeyStore, tmp_path: Path) -> None:
    text = store.add("alice")
    with Recorder(tmp_path / "traces.db") as recorder:
        with serve(keys=store, traces=recorder) as url:
            ask(opened(url, text))
        recorder.flush()
        (route,) = recorder.store.routes(tenant="alice")
    assert text not in str(route)


def test_a_worker_gets_its_own_key_and_never_the_clients(
    serve: Serve, store: KeyStore, fake: FakeOpenAIServer
) -> None:
    text = store.add("alice")
    fake.add_model(FakeModel(name="small", reply="hello"))
    with serve(keys=store) as url:
        ask(opened(url, text))
    assert text not in str(fake.requests[-1])


async def test_two_servers_on_one_store_keep_one_budget(
    serve: Serve, fake: FakeOpenAIServer, database: str
) -> None:
    """Behind one client that asks now here, now there."""
    text = KeyStore(database).add("alice", budget_usd="0.03")
    with serve(keys=KeyStore(database)) as one, serve(keys=KeyStore(database)) as two:
        async with AsyncOpenAI(base_url=f"{one}/v1", api_key=text, max_retries=0) as here:
            there = here.with_options(base_url=f"{two}/v1")
            done = await asyncio.gather(
                *(
                    client.chat.completions.create(model="xrouter", messages=HI)
                    for _ in range(20)
                    for client in (here, there)
                ),
                return_exceptions=True,
            )
    refused = [error for error in done if isinstance(error, RateLimitError)]
    assert {error.code for error in refused} == {"insufficient_quota"}
    assert 0 < len(done) - len(refused) < 40
    assert true_cost(fake) <= Decimal("0.03")
    assert spent(KeyStore(database), "alice") == true_cost(fake)


def test_keys_are_the_same_in_either_database(database: str) -> None:
    store = KeyStore(database)
    text = store.add("alice", budget_usd=1, period="total")
    key = find_key(store.load(), text)
    assert key is not None
    for _ in range(2):
        store.spend.add([key.place(0.0)], Decimal("0.25"))
    assert store.spend.flush()
    assert store.spent(key) == Decimal("0.5")
    with pytest.raises(ConfigurationError, match="'alice'"):
        store.add("alice")
    store.revoke("alice")
    assert find_key(store.load(), text) is None
    store.close()
