"""Replicas hear of each other's cards: failing, well again, and what is learned of their limits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from decimal import Decimal

import pytest

from tests.support.apps import pool
from xrouter_lg import Budget, ChatXRouter
from xrouter_lg.calls.replicas import Replicas
from xrouter_lg.calls.spend.store import SpendStore
from xrouter_lg.calls.worker.card_states import CardStates
from xrouter_lg.errors import AllCandidatesFailedError
from xrouter_lg.testing import FakeOpenAIServer, FaultPlan, always, server_error

PLACE = "worker:small"
Pair = tuple[CardStates, Replicas]


@pytest.fixture
def replica(database: str) -> Iterator[Callable[[], Pair]]:
    """A process of its own on the same database, which is in step when it is told to be."""
    stores: list[SpendStore] = []

    def replica() -> Pair:
        stores.append(SpendStore(database))
        cards = CardStates()
        return cards, Replicas(stores[-1].engine, cards)

    yield replica
    for store in stores:
        store.close()


def test_a_card_that_fails_here_is_left_alone_there(replica: Callable[[], Pair]) -> None:
    (here, told), (there, heard) = replica(), replica()
    heard.step()
    for _ in range(here.breaker(PLACE).threshold):
        here.breaker(PLACE).failure()
    told.step()
    assert not there.breaker(PLACE).open
    heard.step()
    assert there.breaker(PLACE).open
    assert not there.breaker("worker:large").open


def test_a_card_that_is_well_again_is_asked_everywhere(replica: Callable[[], Pair]) -> None:
    (here, told), (there, heard) = replica(), replica()
    for _ in range(5):
        here.breaker(PLACE).failure()
    for one in (told, heard):
        one.step()
    there.breaker(PLACE).success()
    heard.step()
    assert here.breaker(PLACE).open
    told.step()
    assert not here.breaker(PLACE).open


def test_a_card_that_answered_since_is_asked_everywhere(replica: Callable[[], Pair]) -> None:
    """An answer that came here between a failure there and the news of it is the newer word."""
    (here, told), (there, heard) = replica(), replica()
    for _ in range(5):
        here.breaker(PLACE).failure()
    told.step()
    there.breaker(PLACE).success()
    heard.step()
    assert not there.breaker(PLACE).open
    told.step()
    assert not here.breaker(PLACE).open


def test_what_is_learned_of_limits_is_known_to_both(replica: Callable[[], Pair]) -> None:
    (here, told), (there, heard) = replica(), replica()
    here.overruns["small"] = Decimal("1.5")
    there.overruns["small"] = Decimal("1.2")
    there.refusals.add_refused("small", ["temperature"])
    here.refusals.add_longest("small", 4096)
    for one in (told, heard, told):
        one.step()
    for cards in (here, there):
        assert cards.overruns == {"small": Decimal("1.5")}
        assert cards.refusals.refused("small") == {"temperature"}
        assert cards.refusals.longest("small") == 4096


def test_nothing_is_written_while_nothing_changes(replica: Callable[[], Pair]) -> None:
    (here, told), (_, heard) = replica(), replica()
    for _ in range(5):
        here.breaker(PLACE).failure()
    told.step()
    heard.step()
    written: list[object] = []
    told._write = heard._write = written.append  # type: ignore[method-assign,assignment]
    for one in (told, heard, told, heard):
        one.step()
    assert written == []


def test_requests_keep_it_going_by_themselves(fake: FakeOpenAIServer, database: str) -> None:
    """A second model of another process, as it were, leaves the card alone within seconds."""
    limits = [{"usd": 1}]
    one, other = (
        ChatXRouter(pool(fake), policy="fixed:small", budget=Budget(limits=limits, store=database))
        for _ in range(2)
    )
    fake.faults = FaultPlan(default=always(server_error()))
    for _ in range(5):
        with pytest.raises(AllCandidatesFailedError):
            one.invoke("Hi")
    assert one.router.circuit_open("small")
    fake.faults = FaultPlan()
    while not other.router.circuit_open("small"):
        other.invoke("Hi", model="large")
    assert other.invoke("Hi").response_metadata["xrouter"]["route"] == "large"
