"""What a run will work on, checked and split before anything expensive."""

from __future__ import annotations

import collections
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from langchain_core.messages import BaseMessage

from training.checks import check_base, check_machine, check_settings, check_table
from training.config import DataConfig, RunConfig
from training.conversations import read_conversations
from training.judge.table import Ints, Paired, random_split, read_paired
from xrouter_lg.errors import ConfigurationError
from xrouter_lg.prompts import slots

_VALIDATION_SHARE = 0.1
"""Share of the training half that the best state is chosen on."""


@dataclass(frozen=True)
class Plan:
    """What a run will work on; everything in it has been checked."""

    config: RunConfig
    folder: Path
    table: Paired
    train: Ints
    """Rows of the table learned from, those for validation included."""
    test: Ints
    """Rows held out."""
    lines: tuple[str, ...]
    questions: tuple[str, ...]
    """Rendered, in the order of the table."""
    conversations: tuple[tuple[BaseMessage, ...], ...]
    """What was asked: a lone question, or all that stood before it too."""

    @property
    def prefix(self) -> str:
        return slots.render_prefix(self.lines)

    @property
    def validation(self) -> Ints:
        """Training rows that are never trained on: the best state is chosen on them."""
        return self._shuffled()[: self._held()]

    @property
    def fit(self) -> Ints:
        """Training rows that are trained on."""
        return self._shuffled()[self._held() :]

    def _held(self) -> int:
        return max(1, round(len(self.train) * _VALIDATION_SHARE))

    def _shuffled(self) -> Ints:
        return np.random.default_rng(self.config.warm_start.seed).permutation(self.train)


def plan(config: RunConfig) -> Plan:
    """Check a run and split its data.

    Raises:
        ConfigurationError: names the setting that can't work and what to give instead.
    """
    root = Path(config.outcomes)
    for name in ("outcomes.parquet", "prompts.parquet"):
        if not config.outcomes or not root.joinpath(name).is_file():
            raise ConfigurationError(
                f"outcomes is {config.outcomes!r}; it must be a folder with outcomes.parquet and "
                "prompts.parquet"
            )
    check_settings(config)
    check_machine(config)
    check_base(config)
    table = _read(root, config.data)
    check_table(config, table)
    half, _ = random_split(table, seed=config.data.split_seed, train_share=config.data.train_share)
    rows = {name: row for row, name in enumerate(table.prompt_ids)}
    train = np.array([rows[name] for name in half.prompt_ids], dtype=np.int64)
    test = np.setdiff1d(np.arange(len(table)), train)
    if len(train) < config.min_prompts or not len(test):
        raise ConfigurationError(
            f"{len(train)} prompts to learn from and {len(test)} held out; at least "
            f"{config.min_prompts} and 1 are needed (min_prompts)"
        )
    lines = card_lines(table.rows(train), config.data.strengths)
    said = read_conversations(root / "prompts.parquet", table.prompt_ids, table.prompts)
    questions = tuple(slots.render_question(messages) for messages in said)
    work = Plan(config, Path(config.output), table, train, test, lines, questions, said)
    # These work on plans, and find out for themselves what they lack.
    if config.grpo.turns > 1 and config.codec == "slots":
        from training.sequence_setup import SequenceSetup

        SequenceSetup(work)
    if config.live.budget_usd:
        from training.live_setup import LiveSetup

        LiveSetup(work)
    return work


def card_lines(train: Paired, kinds: int) -> tuple[str, ...]:
    """What the prompt says of each model: its measured success on the most frequent tasks."""
    tasks = np.array([family.split("|")[1] for family in train.families])
    frequent = [str(task) for task, _ in collections.Counter(tasks).most_common(kinds)]
    return tuple(
        slots.card_line("", {t: float(train.score[tasks == t, m].mean()) for t in frequent})
        for m in range(len(train.models))
    )


def _read(root: Path, data: DataConfig) -> Paired:
    try:
        return read_paired(
            root / "outcomes.parquet",
            root / "prompts.parquet",
            sources=data.sources or None,
            models=data.models or None,
            rename=dict(data.rename) or None,
        )
    except (ValueError, pl.exceptions.PolarsError) as error:
        raise ConfigurationError(f"the outcome table can't be used: {error}") from error
