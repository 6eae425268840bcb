"""One limit, several processes: all of them together never pass it, and who is killed lets go."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.support.apps import true_cost
from xrouter_lg.calls.spend.books import Cap
from xrouter_lg.calls.spend.limits import SpendLimit
from xrouter_lg.calls.spend.store import SpendStore
from xrouter_lg.testing import FakeModel, FakeOpenAIServer, FaultPlan, always, hang

ROOT = Path(__file__).parents[2]
LIMIT = SpendLimit("0.02")
CAPS = (Cap(LIMIT, LIMIT.place("", 0.0)),)


def spender(fake: FakeOpenAIServer, store: str, count: int, *lease: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "tests.support.spender"),
            *(fake.base_url, store, str(LIMIT.usd), str(count), *lease),
        ],
        cwd=ROOT,
        env={**os.environ, "SPENDER_KEY": "test", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_thousand_requests_of_four_processes_never_pass_the_limit(
    fake: FakeOpenAIServer, database: str
) -> None:
    """An answer costs 0.0002 of the 0.00028 or so that it may cost: at least seventy fit."""
    fake.add_model(FakeModel(name="small", reply="a", prompt_tokens=1, completion_tokens=100))
    processes = [spender(fake, database, 250) for _ in range(4)]
    told: list[dict[str, Any]] = [json.loads(it.communicate(timeout=540)[0]) for it in processes]
    assert [one["why"] for one in told] == [None] * 4
    answered = sum(one["answered"] for one in told)
    assert answered + sum(one["refused"] for one in told) == 1_000
    billed = true_cost(fake)
    assert answered == len(fake.bill)
    assert Decimal("0.01") < billed <= Decimal("0.02")
    with_store = SpendStore(database)
    assert with_store.spent(CAPS[0].place) == billed
    assert asyncio.run(with_store.left(CAPS)).nano == int((Decimal("0.02") - billed) * 10**9)
    with_store.close()


def test_what_a_killed_process_held_is_free_after_its_lease(
    fake: FakeOpenAIServer, database: str
) -> None:
    fake.faults = FaultPlan(default=always(hang(120)))
    process = spender(fake, database, 50, "2")
    store = SpendStore(database, lease_s=2)
    try:
        until = time.monotonic() + 100
        while fake.calls.get("small", 0) < 50:
            assert time.monotonic() < until, "the process has not made its calls"
            time.sleep(0.05)
        held = LIMIT.nano - asyncio.run(store.left(CAPS)).nano
        assert held > 50 * 200_000  # a hundred tokens each
        time.sleep(3)
        assert LIMIT.nano - asyncio.run(store.left(CAPS)).nano == held  # it is alive
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        while asyncio.run(store.left(CAPS)).nano < LIMIT.nano:
            assert time.monotonic() < until, "nothing has lapsed"
            time.sleep(0.1)
        assert store.lapsed == 50
        assert store.spent(CAPS[0].place) == 0
    finally:
        process.kill()
        process.communicate()
        store.close()


@pytest.mark.parametrize("kills", [5])
def test_processes_that_are_killed_at_any_moment_leave_books_that_add_up(
    fake: FakeOpenAIServer, database: str, kills: int
) -> None:
    """What was billed after a kill is not counted, and what is counted was billed."""
    fake.add_model(FakeModel(name="small", reply="a", prompt_tokens=1, completion_tokens=100))
    for _ in range(kills):
        before = len(fake.bill)
        process = spender(fake, database, 40, "0.5")
        while len(fake.bill) == before and process.poll() is None:
            time.sleep(0.001)
        process.kill()
        process.communicate()
    store = SpendStore(database, lease_s=0.5)
    until = time.monotonic() + 60
    while True:
        left = asyncio.run(store.left(CAPS)).nano
        counted = store.spent(CAPS[0].place)
        if left == LIMIT.nano - int(counted * 10**9):
            break
        assert time.monotonic() < until, "something is held for ever"
        time.sleep(0.1)
    assert counted <= true_cost(fake)
    store.close()
