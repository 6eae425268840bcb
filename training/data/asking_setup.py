"""What a run calls live: prompts of its table that nobody has answered yet."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from training.config.run import RunConfig
from training.data.asking import LiveOutcomes, LivePrompt
from xrouter_lg.arrays import Ints
from xrouter_lg.backfill.grader import Grader
from xrouter_lg.errors import ConfigurationError
from xrouter_lg.outcomes import OutcomeGrid, OutcomeTable
from xrouter_lg.outcomes.conversation import UnaskableError, conversation_of, meta_of
from xrouter_lg.outcomes.schema import KEY
from xrouter_lg.pool.card import normalise_name
from xrouter_lg.pool.pool import ModelPool
from xrouter_lg.portal import run_sync
from xrouter_lg.prompts import slots

ANSWERS_FILE = "live.db"
"""Every answer that a run has paid for, in its folder."""


class LiveSetup:
    """The prompts of the prompts table that have no row in the outcome matrix and a verifier.
    No card is asked, and no file of answers opened, before :meth:`open`.

    Raises:
        ConfigurationError: there are none, a judge without a price, or a verifier file that can't
            be used or that does not know right from wrong on its own cases.
    """

    def __init__(self, config: RunConfig, table: OutcomeGrid) -> None:
        live = config.live
        try:
            self._grader = Grader.from_yaml(live.verifiers)
            self._grader.prove_free()
        except (ValueError, RuntimeError) as error:
            raise ConfigurationError(f"live.verifiers: {error}") from error
        for judge in self._grader.judges():
            if judge.effective_price is None:
                raise ConfigurationError(
                    f"live.verifiers: the price of the judge {judge.name!r} is unknown, so no "
                    "budget can be kept; give its card a price"
                )
        self._config, self._table = config, table
        self.prompts = _prompts(config, table, self._grader)
        if not self.prompts:
            raise ConfigurationError(
                "live.budget_usd is set, but every prompt of the table is recorded already, or has "
                f"no verifier in {live.verifiers!r}; add prompts without outcomes to "
                "prompts.parquet, or set live.budget_usd=0"
            )
        self.questions = [slots.render_question(prompt.messages) for prompt in self.prompts]

    def open(self) -> LiveOutcomes:
        """Their outcomes, judges proven on the same budget; to be closed.

        Raises:
            BackfillError: the run's answers are in use, or the budget does not cover the proofs.
            UnprovenVerifierError: a judge misjudged a known case.
        """
        config = self._config
        pool = ModelPool.from_yaml(config.pool, reload=False)
        outcomes = LiveOutcomes(
            [pool[normalise_name(name)] for name in self._table.models],
            self.prompts,
            budget_usd=config.live.budget_usd,
            concurrency=config.live.concurrency,
            answers=Path(config.output) / ANSWERS_FILE,
        )
        try:
            run_sync(self._grader.prove(outcomes.cache, outcomes.account))
        except BaseException:
            outcomes.close()
            raise
        return outcomes

    def mixed_in(self, rows: Ints, rng: np.random.Generator) -> Ints:
        """Table rows with some of them replaced by live prompts, which are numbered behind the
        table: each at most once, and no more than the configured share."""
        count = min(len(self.prompts), int(len(rows) * self._config.live.share))
        mixed = rows.copy()
        places = rng.permutation(len(rows))[:count]
        mixed[places] = len(self._table) + rng.permutation(len(self.prompts))[:count]
        return mixed


def _prompts(config: RunConfig, table: OutcomeGrid, grader: Grader) -> list[LivePrompt]:
    sources = config.data.sources
    frame = OutcomeTable.load(config.outcomes).prompts
    if sources:
        frame = frame.filter(pl.col("source").is_in(list(sources)))
    known = set(table.prompt_ids)
    found = []
    for row in frame.sort(KEY).collect().iter_rows(named=True):
        rule = grader.suite.rule_for(row["source"], row["task"])
        if rule is None or "|".join(row[name] for name in KEY) in known:
            continue
        meta = meta_of(row.get("meta"))
        try:
            messages = conversation_of(row["prompt"], meta).messages
        except UnaskableError:
            continue
        reference = meta.get("reference", row.get("reference"))
        found.append(LivePrompt(messages, rule.verifier, reference, meta, rule.digest))
    return found
