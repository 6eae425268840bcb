"""What degrades is told once, with its fix, and not once per request."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.apps import Says, app, ask, options, pool, prefers, record
from xrouter_lg import ModelPool, XRouterNode
from xrouter_lg.calls.told.notices import Seldom, notices
from xrouter_lg.errors import RequestOptionError
from xrouter_lg.testing import FakeOpenAIServer, FaultPlan
from xrouter_lg.testing.faults import ErrorAnswer


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    notices.clear()
    yield
    notices.clear()


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Any:
    caplog.set_level(logging.WARNING, "xrouter_lg")
    return lambda: [r.getMessage() for r in caplog.records if r.name.startswith("xrouter_lg")]


def test_the_same_notice_passes_again_after_a_while() -> None:
    seldom = Seldom(every_s=3600)
    assert [seldom.passes(key) for key in ("a", "a", "b", "a")] == [0, None, 0, None]
    seldom = Seldom(every_s=0)
    assert [seldom.passes("a") for _ in range(3)] == [0, 0, 0]


async def test_a_policy_that_fails_is_told_once(fake: FakeOpenAIServer, lines: Any) -> None:
    def broken(request: Any, candidates: Any) -> Any:
        raise RuntimeError("no such table")

    node = app(XRouterNode(pool(fake), policy=Says(broken)))
    for _ in range(3):
        await node.ainvoke(ask())
    (line,) = lines()
    assert "policy 'says'" in line
    assert "RuntimeError: no such table" in line
    assert "Fix: " in line


async def test_a_policy_that_is_no_coroutine_is_told_so(fake: FakeOpenAIServer, lines: Any) -> None:
    from xrouter_lg import BasePolicy

    class Sync(BasePolicy):
        name, version = "sync", "1"

        def propose(self, request: Any, candidates: Any) -> Any:
            return None

    await app(XRouterNode(pool(fake), policy=Sync())).ainvoke(ask())
    (line,) = lines()
    assert "async def propose" in line


async def test_a_card_that_is_always_failed_over_is_told_once(
    fake: FakeOpenAIServer, lines: Any
) -> None:
    fake.faults = FaultPlan({"small": ErrorAnswer(kind="not_found", status=404, body=b"{}")})
    node = app(XRouterNode(pool(fake), policy=prefers("small")))
    for _ in range(3):
        assert record(await node.ainvoke(ask()))["route"] == "large"
    (line,) = lines()
    assert "card 'small' failed" in line
    assert "Fix: " in line


async def test_a_request_that_goes_well_is_not_told(fake: FakeOpenAIServer, lines: Any) -> None:
    config = {"configurable": {"thread_id": "1", "user_id": "u", "checkpoint_ns": "", "model": "x"}}
    await app(XRouterNode(pool(fake))).ainvoke(ask(), config)
    assert lines() == []


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("cost_wieght", "cost_weight"),
        ("costWeight", "cost_weight"),
        ("max_cost", "max_cost_usd"),
        ("deny_list", "deny"),
        ("tenant_id", "tenant"),
        ("xrouter_cost_weight", "cost_weight"),
    ],
)
async def test_a_misspelt_option_is_told_with_the_right_one(
    fake: FakeOpenAIServer, lines: Any, key: str, meant: str
) -> None:
    node = app(XRouterNode(pool(fake)))
    for _ in range(2):
        await node.ainvoke(ask(), options(**{key: 1}))
    (line,) = lines()
    assert f'"{key}"' in line
    assert f'write config["configurable"]["{meant}"]' in line


async def test_a_key_with_our_prefix_that_means_nothing_is_told(
    fake: FakeOpenAIServer, lines: Any
) -> None:
    await app(XRouterNode(pool(fake))).ainvoke(ask(), options(xrouter_speed=1))
    (line,) = lines()
    assert "Fix: drop it" in line


@pytest.mark.parametrize("option", ["allow", "deny"])
async def test_a_card_that_nobody_knows_is_an_error(fake: FakeOpenAIServer, option: str) -> None:
    node = app(XRouterNode(pool(fake)))
    with pytest.raises(
        RequestOptionError, match=r"'smal', .*did you mean 'small'\? .*small, large"
    ):
        await node.ainvoke(ask(), options(**{option: ["smal"]}))
    with pytest.raises(RequestOptionError, match=r"'zebra', which is no card of the pool\. Its"):
        await node.ainvoke(ask(), options(**{option: ["zebra"]}))
    assert fake.requests == []


async def test_a_card_that_a_reload_took_away_may_still_be_denied(
    fake: FakeOpenAIServer, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    both, one = pool(fake), pool(fake, "large")
    node = XRouterNode(both)
    graph = app(node)
    await graph.ainvoke(ask())
    monkeypatch.setattr(ModelPool, "current", lambda self: one)
    state = await graph.ainvoke(ask(), options(deny=["small"]))
    assert record(state)["route"] == "large"
