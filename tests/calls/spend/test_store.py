"""The spend store on SQLite and on Postgres: set aside, settled, lapsed, and never twice."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, text

from xrouter_lg.calls.spend.books import Cap
from xrouter_lg.calls.spend.limits import SpendLimit
from xrouter_lg.calls.spend.store import SpendStore
from xrouter_lg.calls.spend.tables import holds
from xrouter_lg.errors import (
    BudgetExceededError,
    BudgetStoreError,
    ConfigurationError,
    StoreError,
)
from xrouter_lg.serve.access.keys import KeyStore

DAY = 86_400.0
NOON = 20_000 * DAY + DAY / 2


class Clock:
    """Unix time that a test moves."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def opened(database: str, clock: Clock) -> Iterator[Callable[..., SpendStore]]:
    """Opens the same database, as a process of its own would."""
    stores: list[SpendStore] = []

    def opened(**options: Any) -> SpendStore:
        stores.append(SpendStore(database, clock=clock, **options))
        return stores[-1]

    yield opened
    for store in stores:
        store.close()


def caps(usd: Any = 1, who: str = "t", now: float = NOON, **options: Any) -> tuple[Cap, ...]:
    limit = SpendLimit(usd, **{"per": "thread", **options})
    return (Cap(limit, limit.place(who, now)),)


def spent(store: SpendStore, given: tuple[Cap, ...]) -> Decimal:
    assert store.flush()
    return store.spent(given[0].place)


async def left(store: SpendStore, given: tuple[Cap, ...]) -> Decimal:
    return Decimal((await store.left(given)).nano) / 10**9


async def test_what_is_set_aside_is_nobody_elses(opened: Callable[..., SpendStore]) -> None:
    one, other = opened(), opened()
    held = await one.hold(caps(), Decimal("0.7"))
    assert await left(other, caps()) == Decimal("0.3")
    with pytest.raises(BudgetExceededError, match=r"\$0\.3 of the limit of \$1 per thread is left"):
        await other.hold(caps(), Decimal("0.31"))
    one.settle(held, Decimal("0.1"))
    assert spent(one, caps()) == Decimal("0.1")
    assert await left(other, caps()) == Decimal("0.9")


async def test_settling_twice_counts_once(opened: Callable[..., SpendStore]) -> None:
    store = opened()
    held = await store.hold(caps(), Decimal("0.7"))
    for _ in range(3):
        store.settle(held, Decimal("0.1"))
    assert spent(store, caps()) == Decimal("0.1")
    assert await left(store, caps()) == Decimal("0.9")


async def test_a_sum_has_to_fit_into_every_limit(opened: Callable[..., SpendStore]) -> None:
    store = opened()
    both = caps(5) + caps(2, "acme", per="tenant")
    await store.hold(both, Decimal("1.5"))
    with pytest.raises(BudgetExceededError, match="per tenant") as caught:
        await store.hold(both, Decimal("1.5"))
    assert caught.value.per == "tenant"
    assert await left(store, caps(5)) == Decimal("3.5")  # the refused sum is in neither


async def test_limits_that_differ_in_usd_count_the_same_spending(
    opened: Callable[..., SpendStore],
) -> None:
    store = opened()
    await store.hold(caps(1), Decimal(1))
    assert await left(store, caps(3)) == Decimal(2)
    assert await left(store, caps(1, "other")) == Decimal(1)


async def test_many_at_once_take_what_there_is_and_no_more(
    opened: Callable[..., SpendStore],
) -> None:
    stores = [opened() for _ in range(3)]
    asked = [stores[n % 3].hold(caps(1), Decimal("0.01")) for n in range(1_000)]
    done = await asyncio.gather(*asked, return_exceptions=True)
    refused = [error for error in done if isinstance(error, BaseException)]
    assert {type(error) for error in refused} == {BudgetExceededError}
    assert len(done) - len(refused) == 100
    assert await left(stores[0], caps(1)) == 0


async def test_a_holder_who_is_heard_of_keeps_what_it_holds(
    opened: Callable[..., SpendStore], clock: Clock
) -> None:
    alive, other = opened(lease_s=0.3), opened(lease_s=0.3)
    await alive.hold(caps(), Decimal(1))
    said = select(holds.c.expires_at)
    for _ in range(4):
        clock.now += 0.1
        assert await left(other, caps()) == 0
        while True:  # it reports by the real clock, of how late it is on the one that we move
            with other.engine.connect() as connection:
                if connection.execute(said).scalar_one() > clock.now + 0.29:
                    break
            await asyncio.sleep(0.01)
    assert other.lapsed == alive.lapsed == 0


@pytest.mark.parametrize(("lapsed", "kept"), [("release", "1"), ("count", "0.3")])
async def test_what_a_dead_holder_held_lapses(
    opened: Callable[..., SpendStore], clock: Clock, lapsed: Any, kept: str
) -> None:
    dead, other = opened(lease_s=60, lapsed=lapsed), opened(lease_s=60, lapsed=lapsed)
    await dead.hold(caps(), Decimal("0.7"))
    clock.now += 59
    assert await left(other, caps()) == Decimal("0.3")
    clock.now += 2
    assert await left(other, caps()) == Decimal(kept)
    assert other.lapsed == 1


@pytest.mark.parametrize("lapsed", ["release", "count"])
async def test_a_call_that_is_settled_late_counts_what_it_has_cost(
    opened: Callable[..., SpendStore], clock: Clock, lapsed: Any
) -> None:
    slow, other = opened(lapsed=lapsed), opened(lapsed=lapsed)
    held = await slow.hold(caps(), Decimal("0.7"))
    clock.now += 61
    await left(other, caps())
    for _ in range(2):
        slow.settle(held, Decimal("0.2"))
    assert spent(slow, caps()) == Decimal("0.2")
    assert await left(other, caps()) == Decimal("0.8")
    assert slow.late == 1


async def test_a_new_day_has_the_whole_limit_and_a_call_counts_where_it_began(
    opened: Callable[..., SpendStore], clock: Clock
) -> None:
    store = opened()
    today = caps(1, period="day", now=clock.now)
    held = await store.hold(today, Decimal(1))
    clock.now += DAY
    tomorrow = caps(1, period="day", now=clock.now)
    assert await left(store, tomorrow) == 1
    clock.now -= DAY
    store.settle(held, Decimal("0.4"))
    assert spent(store, today) == Decimal("0.4")
    assert spent(store, tomorrow) == 0


async def test_who_stops_waiting_holds_nothing(opened: Callable[..., SpendStore]) -> None:
    store = opened()
    for _ in range(20):
        waiting = asyncio.ensure_future(store.hold(caps(), Decimal("0.05")))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
    assert store.flush()
    assert await left(store, caps()) == 1


async def test_what_was_paid_without_a_hold_counts_too(opened: Callable[..., SpendStore]) -> None:
    store = opened()
    store.add([caps()[0].place], Decimal("0.25"))
    assert spent(store, caps()) == Decimal("0.25")
    assert await left(store, caps()) == Decimal("0.75")


async def test_two_limits_on_one_counter_count_a_call_once(
    opened: Callable[..., SpendStore],
) -> None:
    store, both = opened(), caps(1) + caps(3)
    held = await store.hold(both, Decimal("0.4"))
    assert await left(store, both) == Decimal("0.6")
    store.settle(held, Decimal("0.3"))
    store.add([cap.place for cap in both], Decimal("0.2"))
    assert spent(store, both) == Decimal("0.5")
    assert await left(store, both) == Decimal("0.5")


async def test_what_one_has_spent_is_not_what_another_has(
    opened: Callable[..., SpendStore],
) -> None:
    store = opened()
    store.add([caps(1, "one")[0].place], Decimal("0.2"))
    store.add([caps(1, "two")[0].place], Decimal("0.3"))
    assert [spent(store, caps(1, who)) for who in ("one", "two", "three")] == [
        Decimal("0.2"),
        Decimal("0.3"),
        Decimal(0),
    ]


async def test_a_hold_that_comes_too_late_is_given_back(opened: Callable[..., SpendStore]) -> None:
    hasty, other = opened(timeout_s=1e-6), opened()
    refused = 0
    for _ in range(20):
        try:
            held = await hasty.hold(caps(), Decimal("0.05"))
        except BudgetStoreError:
            refused += 1
        else:
            hasty.settle(held, Decimal(0))
    assert refused
    assert hasty.flush()
    assert await left(other, caps()) == 1


async def test_closing_writes_what_waits(opened: Callable[..., SpendStore]) -> None:
    store = opened()
    for _ in range(50):
        store.add([caps()[0].place], Decimal("0.01"))
    store.close()
    assert store.waiting == 0
    assert opened().spent(caps()[0].place) == Decimal("0.5")


FORKED = """
import asyncio, os, sys
from decimal import Decimal
from xrouter_lg.calls.spend.books import Cap
from xrouter_lg.calls.spend.limits import SpendLimit
from xrouter_lg.calls.spend.store import SpendStore
from xrouter_lg.calls.spend.tables import holds

limit = SpendLimit(1, per="thread")
caps = (Cap(limit, limit.place("t", 0.0)),)
store = SpendStore(sys.argv[1], lease_s=0.3)
asyncio.run(store.hold(caps, Decimal("0.2")))
if os.fork() == 0:  # it holds as well, and dies without a word
    asyncio.run(store.hold(caps, Decimal("0.5")))
    os._exit(0)
_, status = os.wait()
assert status == 0, status


async def left():
    return (await store.left(caps)).nano / 10**9


async def lapses():  # the parent goes on to report: for itself alone
    for _ in range(100):
        if await left() == 0.8:
            return
        await asyncio.sleep(0.05)
    raise SystemExit(f"{await left()} is left: the child's hold outlives it")


asyncio.run(lapses())
"""


def test_what_a_forked_child_holds_lapses_with_the_child(database: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKED, database],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr


async def test_sums_beyond_all_sense_overflow_nothing(opened: Callable[..., SpendStore]) -> None:
    store = opened()
    for _ in range(20):
        held = await store.hold(caps(10**9, "u"), Decimal("0.1")) if _ == 0 else None
        store.add([caps(10**9, "u")[0].place], Decimal(10**30))
        if held:
            store.settle(held, Decimal(10**30))
    assert store.flush()
    assert await left(store, caps(10**9, "u")) < 0


def test_stores_that_open_at_once_make_the_tables_once(database: str) -> None:
    errors: list[BaseException] = []

    def open_it() -> None:
        try:
            SpendStore(database).close()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=open_it) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


async def test_a_store_that_is_down_refuses_and_keeps_what_was_paid(
    opened: Callable[..., SpendStore],
) -> None:
    store, beside = opened(), opened()
    held = await store.hold(caps(), Decimal("0.5"))
    await left(beside, caps())
    _rename(beside, "xrouter_spend", "away")
    with pytest.raises(BudgetStoreError, match="when_down='allow'"):
        await store.hold(caps(), Decimal("0.1"))
    store.settle(held, Decimal("0.2"))
    assert not store.flush(0.3)
    assert store.waiting == 1
    _rename(beside, "away", "xrouter_spend")
    assert spent(store, caps()) == Decimal("0.2")
    assert await left(store, caps()) == Decimal("0.8")


async def test_one_bad_entry_does_not_take_the_others_with_it(
    opened: Callable[..., SpendStore],
) -> None:
    store = opened()
    bad = SpendLimit(1, per="thread").place("x", 0)._replace(who=object())  # type: ignore[arg-type]
    store.add([bad], Decimal(1))
    held = await asyncio.gather(*(store.hold(caps(), Decimal("0.1")) for _ in range(5)))
    assert len({hold.id for hold in held}) == 5


def test_options_without_sense_are_refused(tmp_path: Path) -> None:
    wrong = ({"lease_s": 0}, {"timeout_s": "soon"}, {"timeout_s": True}, {"lapsed": "forget"})
    for options in wrong:
        with pytest.raises(ConfigurationError):
            SpendStore(tmp_path / "s.db", **options)
    with pytest.raises(StoreError, match="does not exist"):
        SpendStore(tmp_path / "no" / "s.db")


def _rename(store: SpendStore, old: str, new: str) -> None:
    with store._engine.begin() as connection:
        connection.execute(text(f"ALTER TABLE {old} RENAME TO {new}"))


async def test_a_file_that_is_deleted_under_way_is_counted_in_anew_by_all(tmp_path: Path) -> None:
    path, given = tmp_path / "spend.db", caps(1)
    old = SpendStore(path)
    await old.hold(given, Decimal("0.9"))
    for file in tmp_path.iterdir():
        file.unlink()
    new = SpendStore(path)
    held = await old.hold(given, Decimal("0.6"))
    with pytest.raises(BudgetExceededError):
        await new.hold(given, Decimal("0.6"))
    old.settle(held, Decimal("0.3"))
    assert spent(old, given) == spent(new, given) == Decimal("0.3")
    for store in (old, new):
        store.close()


async def test_where_there_can_be_no_file_any_more_no_call_is_made(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    store, given = SpendStore(folder / "spend.db"), caps(1)
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    with pytest.raises(BudgetStoreError, match="can't be asked"):
        await store.hold(given, Decimal("0.6"))
    folder.mkdir()
    await store.hold(given, Decimal("0.6"))
    store.close()


@pytest.mark.parametrize(("store", "named"), [(SpendStore, "spend store"), (KeyStore, "key store")])
def test_a_file_that_is_no_database_is_named_as_what_it_was_to_be(
    store: Callable[[Path], object], named: str, tmp_path: Path
) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not a database, but notes that somebody has taken\n" * 50)
    with pytest.raises(StoreError, match=f"can't open the {named} .*Move the file away"):
        store(path)
