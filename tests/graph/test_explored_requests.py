"""Exploring in a real graph: what the record says, what is spent, and what can be made of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.apps import app, ask, pool, record
from tests.support.flat_heads import SUMS, flat_head, write_head
from xrouter_lg import Exploration, Recorder, RouteRecord, TraceStore, XRouterNode
from xrouter_lg.judge.traffic.offpolicy import Logged, estimate
from xrouter_lg.testing import FakeModel, FakeOpenAIServer

NAMES = ("small", "large")
MEAN, USD = (0.6, 0.65), (1e-4, 1e-3)


@pytest.fixture
def server() -> Iterator[FakeOpenAIServer]:
    with FakeOpenAIServer([FakeModel(name=n, reply=f"{n} says") for n in NAMES]) as running:
        yield running


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """Large is likelier the better one, and nobody is sure."""
    head = flat_head(NAMES, MEAN, np.diag([0.01, 0.01]))
    write_head(tmp_path / "checkpoint", head, MEAN, USD)
    return tmp_path / "checkpoint"


def node(server: FakeOpenAIServer, checkpoint: Path, **options: Any) -> XRouterNode:
    made = XRouterNode(pool(server, *NAMES), policy=checkpoint, **options)
    made.router._random.seed(3)
    return made


def test_a_checkpoint_that_knows_its_doubt_is_explored_by_it(
    server: FakeOpenAIServer, checkpoint: Path, tmp_path: Path
) -> None:
    made = node(server, checkpoint, exploration=0.5, traces=tmp_path / "t.db")
    graph, found = app(made), []
    with made.recorder or Recorder(tmp_path / "t.db"):
        found += [record(graph.invoke(ask(text))) for text in SUMS]
    for entry in found:
        (turn,) = entry["decisions"]
        assert set(turn["explore"]) == set(NAMES)
        assert sum(turn["explore"].values()) == pytest.approx(1.0)
        assert turn["explore"][entry["route"]] == entry["propensity"] == turn["propensity"]
        # P(small is the better one) is 0.36, to within the draws' error.
        small = 0.5 * (0.9 * 0.36 + 0.1 / 2)
        assert turn["explore"]["small"] == pytest.approx(small, abs=0.5 * 0.9 * 0.08)
        assert turn["explored"] is (entry["route"] == "small")
    assert Counter(entry["route"] for entry in found)["small"] > 2
    with TraceStore(tmp_path / "t.db") as store:
        kept = [RouteRecord.to_dict(route.record) for route in store.routes()]
    assert sorted(map(repr, (r["decisions"] for r in kept))) == sorted(
        map(repr, (r["decisions"] for r in found))
    )


def test_what_exploring_costs_is_bounded_by_what_requests_have_cost(
    server: FakeOpenAIServer, tmp_path: Path
) -> None:
    """Small is the favourite, and asking large once is expected to cost $0.0009 more."""
    mean = (0.65, 0.6)
    write_head(tmp_path / "c", flat_head(NAMES, mean, np.diag([0.01, 0.01])), mean, USD)
    made = node(server, tmp_path / "c", exploration=Exploration(0.9, share_of_spend=0.1))
    graph, explorer, spent = app(made), made.router.explorer, 0.0
    for text in SUMS[:10]:
        entry = record(graph.invoke(ask(text)))
        assert (entry["route"], entry["propensity"]) == ("small", 1.0)
        spent += float(entry["known_cost_usd"])
        assert explorer.spent_usd == pytest.approx(spent) and spent > 0
    explorer.settle("0.0185")  # others of this process have spent enough for two
    entries = [record(graph.invoke(ask(text))) for text in SUMS[:40]]
    assert Counter(entry["route"] for entry in entries)["large"] == 2
    assert explorer.extra_usd == pytest.approx(0.0018)
    assert explorer.extra_usd <= 0.1 * explorer.spent_usd


def test_a_log_says_what_it_can_not_tell(server: FakeOpenAIServer, checkpoint: Path) -> None:
    """Half of the requests may not go to large: a policy that asks nobody else is not estimated
    from them, while one that keeps to what could be called is."""
    graph = app(node(server, checkpoint, exploration=1.0))
    entries = []
    for number, text in enumerate(SUMS):
        config: Any = {"configurable": {"deny": ["large"] if number % 2 else []}}
        entries.append(record(graph.invoke(ask(text), config)))
    decisions = [entry["decisions"][0] for entry in entries]
    support = [
        [(d["explore"] or {e["route"]: 1.0}).get(name, 0.0) for name in NAMES]
        for d, e in zip(decisions, entries, strict=True)
    ]
    log = Logged(
        np.array([NAMES.index(entry["route"]) for entry in entries]),
        np.array([entry["propensity"] for entry in entries]),
        np.ones(len(entries)),
        np.array(support),
    )
    large = np.tile([0.0, 1.0], (len(entries), 1))
    refused = estimate(log, large, min_effective=5).refused
    assert refused is not None and "never takes 50.0%" in refused
    able = np.where(np.array(support)[:, 1:] > 0, large, [1.0, 0.0])
    found = estimate(log, able, min_effective=5)
    assert found.refused is None and found.ips is not None
    assert found.ips.low is not None and found.ips.high is not None
    assert found.ips.low < 1.0 < found.ips.high
