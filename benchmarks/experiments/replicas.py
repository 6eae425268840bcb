"""One key's budget over 1, 2 and 4 server processes: requests per second, and what is overrun.

    python -m benchmarks.experiments.replicas [--database URL ...] [--replicas 1 2 4] [--seconds 5]

Each replica is ``xrouter serve`` in a process of its own on one key store, before one fake worker
that answers after ``--latency-ms``, and has ``--connections`` clients of its own: where there are
processors enough, twice the replicas answer twice as often. First with a budget that never ends;
then with one that covers a few dozen answers while all ask: whatever is billed above it is an
overrun. Without ``--database``: SQLite, and a Postgres server of tests' own.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.results import append, show
from benchmarks.server_parts.load import Load, measure
from benchmarks.server_parts.processes import (
    XROUTER,
    cpu_s,
    free_port,
    percentile_99,
    process,
    wait_for,
    worker,
)
from xrouter_lg.serve.access.keys import KeyStore

_PRICE = Decimal("0.1") / 10**6
_MAX_TOKENS = 64


def main(options: argparse.Namespace) -> None:
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        databases: list[str] = options.database or [
            str(folder / "keys.db"),
            stack.enter_context(_postgres()),
        ]
        rows: list[list[str]] = []
        for database in databases:
            alone: float | None = None
            for count in options.replicas:
                row, rate = _measured(database, count, folder, options, alone)
                alone = alone or rate / count
                rows.append(row)
    show("Replicas on one budget, on a machine that others use too", _COLUMNS, rows)
    append("; ".join(map(_told, rows)))


_COLUMNS = [
    *("store", "replicas", "requests/s", "of linear", "ms", "p99 ms", "CPU ms", "errors"),
    *("answered at the end", "billed of the budget", "overrun USD"),
]


def _measured(
    database: str, count: int, folder: Path, options: argparse.Namespace, alone: float | None
) -> tuple[list[str], float]:
    store = KeyStore(database)
    name = f"{count}-{time.time()}"
    rich = store.add(f"rich-{name}", budget_usd=1_000_000, period="total")
    budget = Decimal(options.answers) * _PRICE * 30
    poor = store.add(f"poor-{name}", budget_usd=budget, period="total")
    with contextlib.ExitStack() as stack:
        fake, _ = stack.enter_context(worker(options.latency_ms))
        servers = [stack.enter_context(_replica(database, fake, folder)) for _ in range(count)]
        urls = [url for url, _ in servers]
        asyncio.run(_all(urls, rich, options.connections, 1.0))  # opens what is opened
        before = sum(cpu_s(pid) for _, pid in servers)
        loads = asyncio.run(_all(urls, rich, options.connections, options.seconds))
        cpu = sum(cpu_s(pid) for _, pid in servers) - before
        billed_before = _billed(fake)
        last = asyncio.run(_all(urls, poor, options.connections, options.seconds))
        billed = _billed(fake) - billed_before
    store.close()
    seconds = [second for load in loads for second in load.seconds]
    rate = sum(load.rate for load in loads)
    linear = 1.0 if alone is None else rate / count / alone
    row = [
        "Postgres" if "://" in database else "SQLite",
        str(count),
        f"{rate:.0f}",
        f"{linear:.0%}",
        f"{statistics.median(seconds) * 1000:.1f}",
        f"{percentile_99(seconds) * 1000:.1f}",
        f"{cpu * 1000 / len(seconds):.1f}",
        str(sum(load.errors for load in loads)),
        str(sum(len(load.seconds) for load in last)),
        f"{billed / budget:.1%}",
        f"{max(Decimal(0), billed - budget):f}",
    ]
    return row, rate


async def _all(urls: list[str], key: str, connections: int, seconds: float) -> list[Load]:
    return await asyncio.gather(
        *(measure(url, connections, seconds, stream=False, key=key) for url in urls)
    )


def _told(row: list[str]) -> str:
    store, count, rate, linear, ms, p99, cpu, errors, answered, billed, overrun = row
    wrong = "" if errors == "0" else f", {errors} errors"
    return (
        f"{store}, {count} replicas: {rate} requests/s ({linear} of linear), {ms} ms (p99 {p99}), "
        f"CPU {cpu} ms{wrong}; small budget: {answered} answered, {billed} of it billed, "
        f"overrun ${overrun}"
    )


def _billed(worker: str) -> Decimal:
    with urllib.request.urlopen(f"{worker}/_stats") as reply:
        bill = json.load(reply)["bill_by_model"].get("small", {})
    tokens: int = bill.get("prompt_tokens", 0) + bill.get("completion_tokens", 0)
    return tokens * _PRICE


@contextlib.contextmanager
def _replica(database: str, worker: str, folder: Path) -> Iterator[tuple[str, int]]:
    rate = float(_PRICE * 10**6)
    card = {
        "name": "small",
        "model": "small",
        "base_url": f"{worker}/v1",
        "price": {"input": rate, "output": rate},
        "max_output_tokens": _MAX_TOKENS,
    }
    pool = folder / "pool.json"
    pool.write_text(json.dumps({"models": [card]}))
    port = free_port()
    command = [*XROUTER, "serve", "--pool", str(pool), "--port", str(port), "--keys", database]
    with process(command, stdout=subprocess.DEVNULL) as started:
        wait_for(f"http://127.0.0.1:{port}/healthz")
        yield f"http://127.0.0.1:{port}", started.pid


@contextlib.contextmanager
def _postgres() -> Iterator[str]:
    from tests.support.postgres import new_database, running_postgres

    with running_postgres() as url:
        yield new_database(url)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--database", nargs="*", help="paths or URLs; SQLite and Postgres without")
    parser.add_argument("--replicas", type=int, nargs="*", default=[1, 2, 4])
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--connections", type=int, default=8, help="of each replica's clients")
    parser.add_argument("--latency-ms", type=int, default=200)
    parser.add_argument("--answers", type=int, default=20, help="that the small budget covers")
    main(parser.parse_args())
