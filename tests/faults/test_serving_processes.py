"""Two server processes behind one client, on one Postgres database: one budget."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
from openai import AsyncOpenAI, RateLimitError

from tests.support.apps import true_cost
from xrouter_lg.serve.access.keys import KeyStore
from xrouter_lg.testing import FakeOpenAIServer
from xrouter_lg.tracing import TraceStore

ROOT = Path(__file__).parents[2]
POOL = """
models:
  - {{name: small, model: small, base_url: "{url}", price: {{input: 1, output: 2}}}}
"""


@contextlib.contextmanager
def serving(pool: Path, database: str) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-c", "from xrouter_lg.cli import main; main()", "serve"]
    command += ["--pool", str(pool), "--port", str(port), "--keys", database, "--traces", database]
    with subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}) as served:
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            served.terminate()


def wait_for(url: str) -> None:
    until = time.monotonic() + 120
    while True:
        try:
            httpx.get(f"{url}/healthz").raise_for_status()
            return
        except httpx.HTTPError:
            assert time.monotonic() < until, "the server has not come up"
            time.sleep(0.2)


async def ask_both(one: str, two: str, key: str) -> list[Any]:
    async with AsyncOpenAI(base_url=f"{one}/v1", api_key=key, max_retries=0) as here:
        clients = (here, here.with_options(base_url=f"{two}/v1"))
        hello: Any = [{"role": "user", "content": "Hi"}]
        return await asyncio.gather(
            *(
                client.chat.completions.create(model="xrouter", messages=hello)
                for _ in range(60)
                for client in clients
            ),
            return_exceptions=True,
        )


def test_two_servers_keep_one_budget_and_one_trace_store(
    fake: FakeOpenAIServer, postgres_url: str, tmp_path: Path
) -> None:
    (tmp_path / "pool.yaml").write_text(POOL.format(url=fake.base_url))
    keys = KeyStore(postgres_url)
    text = keys.add("alice", budget_usd="0.03", period="total")
    (key,) = keys.load().values()
    with (
        serving(tmp_path / "pool.yaml", postgres_url) as one,
        serving(tmp_path / "pool.yaml", postgres_url) as two,
    ):
        for url in (one, two):
            wait_for(url)
        done = asyncio.run(ask_both(one, two, text))
    refused = [error for error in done if isinstance(error, BaseException)]
    assert {type(error) for error in refused} <= {RateLimitError}
    assert 0 < len(fake.bill) == len(done) - len(refused)
    assert true_cost(fake) <= Decimal("0.03")
    assert keys.spent(key) == true_cost(fake)
    keys.close()
    with TraceStore(postgres_url) as store:
        answered = [row for row in store.routes(tenant="alice") if row.record.route == "small"]
    assert len(answered) == len(fake.bill)
