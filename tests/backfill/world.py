"""A folder with an outcome table, a pool on a fake provider, and backfills of it."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import yaml

from xrouter_lg.backfill import Backfill, Conditions, Grader, Selection, Tally
from xrouter_lg.outcomes import OutcomeTable
from xrouter_lg.pool.pool import ModelPool
from xrouter_lg.pool.pricing import Price
from xrouter_lg.testing import FakeModel, FakeOpenAIServer
from xrouter_lg.types import TokenUsage

PRICES = {"small": (1, 2), "medium": (3, 6), "large": (10, 30)}
LIMIT = 40


def echo(body: dict[str, Any]) -> str:
    """The number in the last message."""
    return str(body["messages"][-1]["content"]).split()[-1]


def models(latency_s: float = 0.0) -> list[FakeModel]:
    """``small`` knows small numbers, ``medium`` is always right, ``large`` shouts."""

    def small(body: dict[str, Any]) -> str:
        return echo(body) if int(echo(body)) < 10 else "I do not know"

    return [
        FakeModel(name="small", reply=small, latency_s=latency_s),
        FakeModel(name="medium", reply=echo, latency_s=latency_s),
        FakeModel(name="large", reply=lambda body: f"{echo(body)}!", latency_s=latency_s),
    ]


class World:
    """``prompts`` questions that ``large`` has answered; ``small`` and ``medium`` have not."""

    def __init__(self, folder: Path, server: FakeOpenAIServer, prompts: int = 12) -> None:
        self.folder, self.server = folder, server
        self.pool_file, self.cache = folder / "pool.yaml", folder / "backfill.db"
        self.write_pool()
        self.write_table([self.prompt(i) for i in range(prompts)])

    def prompt(self, number: int, **fields: Any) -> dict[str, Any]:
        return {
            "source": "traces",
            "task": "numbers",
            "prompt_id": f"p{number}",
            "prompt": f"Say the number {number}",
            "category": None,
            "reference": str(number),
            "meta": None,
            **fields,
        }

    def write_table(
        self,
        prompts: Sequence[Mapping[str, Any]],
        outcomes: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        key = ("source", "task", "prompt_id")
        rows = outcomes or [
            {**{name: prompt[name] for name in key}, "model": "large", "score": 1.0}
            | {"cost_usd": 0.001, "output_tokens": 4, "response": "a traced answer"}
            for prompt in prompts
        ]
        OutcomeTable.from_rows(rows, prompts).write(self.folder)

    def write_pool(self, **changes: Mapping[str, Any]) -> None:
        cards = [
            {
                "name": name,
                "model": name,
                "base_url": self.server.base_url,
                "price": {"input": prices[0], "output": prices[1]},
                "max_output_tokens": LIMIT,
                **changes.get(name, {}),
            }
            for name, prices in PRICES.items()
        ]
        cards = [{k: v for k, v in card.items() if v is not None} for card in cards]
        self.pool_file.write_text(yaml.safe_dump({"default": "large", "models": cards}))

    @property
    def pool(self) -> ModelPool:
        return ModelPool.from_yaml(self.pool_file, reload=False)

    def verifiers(self, *specs: Any) -> Path:
        path = self.folder / "verifiers.yaml"
        path.write_text(yaml.safe_dump(list(specs)))
        return path

    def open(
        self,
        budget_usd: Decimal | float | str = 1,
        *,
        grader: Grader | None = None,
        conditions: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Backfill:
        selection = {
            name: options.pop(name)
            for name in list(options)
            if name in Selection.__dataclass_fields__
        }
        return Backfill.open(
            self.folder,
            self.pool,
            Conditions(budget_usd, **(conditions or {})),
            selection=Selection(**{"strategy": "random", **selection}),
            grader=grader,
            **options,
        )

    async def run(
        self,
        budget_usd: Decimal | float | str = 1,
        *,
        setup: Callable[[Backfill], None] | None = None,
        on_start: Any = None,
        **options: Any,
    ) -> Tally:
        with self.open(budget_usd, **options) as opened:
            if setup is not None:
                setup(opened)
            return await opened.run(on_start=on_start)

    @property
    def outcomes(self) -> pl.DataFrame:
        return OutcomeTable.load(self.folder).outcomes.collect()

    def outcome(self, prompt_id: str, model: str) -> dict[str, Any]:
        chosen = self.outcomes.filter(
            (pl.col("prompt_id") == prompt_id) & (pl.col("model") == model)
        )
        assert chosen.height == 1, chosen
        return chosen.row(0, named=True)

    def asked(self) -> Counter[tuple[str, str]]:
        """Requests by model and question."""
        return Counter(
            (request.model, request.body["messages"][-1]["content"])
            for request in self.server.requests
        )

    def billed_usd(self) -> Decimal:
        """The server's own books, at the pool's prices."""
        total = Decimal(0)
        for line in self.server.bill:
            inputs, outputs = PRICES[line.model]
            usage = TokenUsage(line.usage.prompt_tokens, line.usage.completion_tokens)
            total += Price(Decimal(inputs), Decimal(outputs)).cost(usage)
        return total

    def journal(self, query: str) -> list[tuple[Any, ...]]:
        """Rows out of the cache's file."""
        connection = sqlite3.connect(self.cache)
        try:
            return connection.execute(query).fetchall()
        finally:
            connection.close()

    def charges(self) -> list[dict[str, Any]]:
        return [
            json.loads(row[0]) for row in self.journal("select charge from charges order by id")
        ]

    def counted_usd(self) -> Decimal:
        """What a budget counts: costs, and worst cases where the cost is unknown."""
        return sum(
            (
                Decimal(cost if cost is not None else held or 0)
                for cost, held in self.journal("select cost_usd, held_usd from charges")
            ),
            Decimal(0),
        )
