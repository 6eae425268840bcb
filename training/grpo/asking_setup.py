"""What a run calls live: prompts of its table that nobody has answered yet."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl

from training.config.run import RunConfig
from training.data.pools import Table
from training.grpo.asking import LiveOutcomes, LivePrompt
from training.grpo.outcome_source import Ints
from xrouter_lg.errors import ConfigurationError
from xrouter_lg.judge.table import KEY
from xrouter_lg.outcomes.conversation import UnaskableError, conversation_of
from xrouter_lg.pool.pool import ModelPool, normalise_name
from xrouter_lg.prompts import slots
from xrouter_lg.verifiers import Suite


class LiveSetup:
    """The prompts of the prompts table that have no row in the outcome matrix and a verifier.

    Raises:
        ConfigurationError: there are none, or a verifier file that can't be used or that does not
            know right from wrong on its own cases.
    """

    def __init__(self, config: RunConfig, table: Table) -> None:
        try:
            suite = Suite.from_yaml(config.live.verifiers)
            for report in suite.check():
                report.raise_if_bad()
        except (ValueError, RuntimeError) as error:
            raise ConfigurationError(f"live.verifiers: {error}") from error
        self._rows, self._share = len(table), config.live.share
        self.prompts = _prompts(config, table, suite)
        if not self.prompts:
            raise ConfigurationError(
                "live.budget_usd is set, but every prompt of the table is recorded already, or has "
                f"no verifier in {config.live.verifiers!r}; add prompts without outcomes to "
                "prompts.parquet, or set live.budget_usd=0"
            )
        self.questions = [slots.render_question(prompt.messages) for prompt in self.prompts]
        pool = ModelPool.from_yaml(config.pool, reload=False)
        self.outcomes = LiveOutcomes(
            [pool[normalise_name(name)] for name in table.models],
            self.prompts,
            budget_usd=config.live.budget_usd,
            concurrency=config.live.concurrency,
            journal=Path(config.output) / "live.jsonl",
        )

    def mixed_in(self, rows: Ints, rng: np.random.Generator) -> Ints:
        """Table rows with some of them replaced by live prompts, which are numbered behind the
        table: each at most once, and no more than the configured share."""
        count = min(len(self.prompts), int(len(rows) * self._share))
        mixed = rows.copy()
        places = rng.permutation(len(rows))[:count]
        mixed[places] = self._rows + rng.permutation(len(self.prompts))[:count]
        return mixed


def _prompts(config: RunConfig, table: Table, suite: Suite) -> list[LivePrompt]:
    sources = config.data.sources
    frame = pl.scan_parquet(Path(config.outcomes) / "prompts.parquet")
    if sources:
        frame = frame.filter(pl.col("source").is_in(list(sources)))
    known = set(table.prompt_ids)
    found = []
    for row in frame.sort(KEY).collect().iter_rows(named=True):
        verifier = suite.verifier_for(row["source"], row["task"])
        if verifier is None or "|".join(row[name] for name in KEY) in known:
            continue
        meta = json.loads(row.get("meta") or "{}")
        try:
            messages = conversation_of(row["prompt"], meta).messages
        except UnaskableError:
            continue
        found.append(LivePrompt(messages, verifier, row.get("reference"), meta))
    return found
