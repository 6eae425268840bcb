"""What a run will work on, checked and split before anything expensive."""

from __future__ import annotations

import collections
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl
from langchain_core.messages import BaseMessage

from training.config.run import DataConfig, RunConfig
from training.data.pools import Cut, PoolTable, Table, cut_of, read_pools
from training.run.preflight import check_base, check_machine, check_settings, check_table
from xrouter_lg.errors import ConfigurationError
from xrouter_lg.judge.table import Bools, Ints, Paired, family_folds, read_paired, trained_on
from xrouter_lg.outcomes.conversations import read_conversations
from xrouter_lg.prompts import slots

_VALIDATION_SHARE = 0.1
"""Share of the training half that the best state is chosen on."""


@dataclass(frozen=True)
class Plan:
    """What a run will work on; everything in it has been checked."""

    config: RunConfig
    folder: Path
    table: Table
    train: Ints
    """Rows of the table learned from, those for validation included."""
    test: Ints
    """Rows held out."""
    left_out: Ints
    """Rows of families that were left out: neither learned from nor held out."""
    lines: tuple[str, ...]
    questions: tuple[str, ...]
    """Rendered, in the order of the table."""
    conversations: tuple[tuple[BaseMessage, ...], ...]
    """What was asked: a lone question, or all that stood before it too."""

    @cached_property
    def cut(self) -> Cut:
        """How the cards are cut into blocks of a prompt."""
        return cut_of(self.table)

    @property
    def prefixes(self) -> tuple[str, ...]:
        """The candidate block of each block of cards."""
        cards = map(self.cut.cards, range(len(self.cut.sizes)))
        return tuple(slots.render_prefix(self.lines[own]) for own in cards)

    @property
    def prefix(self) -> str:
        """The candidate block of a run with a single one."""
        (prefix,) = self.prefixes
        return prefix

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
    if config.trains_model:
        check_machine(config)
        check_base(config)
    table = _read(root, config.data)
    check_table(config, table)
    data = config.data
    gone = _left_out(table, data)
    learned = trained_on(table.prompt_ids, seed=data.split_seed, train_share=data.train_share)
    train, test = np.flatnonzero(learned & ~gone), np.flatnonzero(~learned & ~gone)
    _check_sizes(config, table, train, test)
    lines = card_lines(table.rows(train), data.strengths)
    said = read_conversations(root / "prompts.parquet", table.prompt_ids, table.prompts)
    questions = tuple(slots.render_question(messages) for messages in said)
    left = np.flatnonzero(gone)
    work = Plan(config, Path(config.output), table, train, test, left, lines, questions, said)
    # These work on plans, and find out for themselves what they lack.
    if config.grpo.turns > 1 and config.codec == "slots":
        from training.sequence_setup import SequenceSetup

        SequenceSetup(work)
    if config.live.budget_usd:
        from training.grpo.asking_setup import LiveSetup

        LiveSetup(work)
    return work


def card_lines(train: Table, kinds: int) -> tuple[str, ...]:
    """What the prompt says of each model: its measured success on the most frequent tasks. With
    several pools they are those of the pool that brought the model in: all cards of a block speak
    of the same tasks."""
    if isinstance(train, PoolTable):
        own: dict[str, str] = {}
        for part in train.parts():
            for name, line in zip(part.models, card_lines(part, kinds), strict=True):
                own.setdefault(name, line)
        return tuple(own[name] for name in train.models)
    tasks = np.array([family.split("|")[1] for family in train.families])
    frequent = [str(task) for task, _ in collections.Counter(tasks).most_common(kinds)]
    return tuple(
        slots.card_line("", {t: float(train.score[tasks == t, m].mean()) for t in frequent})
        for m in range(len(train.models))
    )


def _read(root: Path, data: DataConfig) -> Table:
    def read(sources: Sequence[str], models: Sequence[str] = ()) -> Paired:
        return read_paired(
            root / "outcomes.parquet",
            root / "prompts.parquet",
            sources=sources or None,
            models=models or None,
            rename=dict(data.rename) or None,
        )

    try:
        if data.pools == "same":
            return read(data.sources, data.models)
        groups = data.pools
        if groups == "per_source":
            column = pl.scan_parquet(root / "outcomes.parquet").select("source").unique()
            found = sorted(column.collect()["source"].to_list())
            groups = tuple((source,) for source in data.sources or found)
        return read_pools(groups, read, data.models)
    except (ValueError, pl.exceptions.PolarsError) as error:
        raise ConfigurationError(f"the outcome table can't be used: {error}") from error


def _left_out(table: Table, data: DataConfig) -> Bools:
    """[N] prompts of families that the settings leave out."""
    gone = np.zeros(len(table), dtype=np.bool_)
    for name in data.leave_out:
        own = np.array([f == name or f.startswith(f"{name}|") for f in table.families])
        if not own.any():
            some = ", ".join(sorted(set(table.families))[:3])
            raise ConfigurationError(
                f"data.leave_out names {name!r}, which is no family of the table nor its first "
                f"parts; families are like {some}"
            )
        gone |= own
    if data.family_fold:
        fold, slash, folds = data.family_fold.partition("/")
        count = len(set(table.families))
        good = slash and fold.isdecimal() and folds.isdecimal()
        if not good or not 1 <= int(fold) <= int(folds) <= count or int(folds) < 2:
            raise ConfigurationError(
                f"data.family_fold is {data.family_fold!r}; write K/N, the K-th of N folds (2 to "
                f"{count}, the number of families)"
            )
        dealt = list(family_folds(table, seed=data.split_seed, folds=int(folds)))
        gone |= dealt[int(fold) - 1][2]
    return gone


def _check_sizes(config: RunConfig, table: Table, train: Ints, test: Ints) -> None:
    """Enough to learn from, in every pool: nothing else teaches its own cards."""
    if len(train) < config.min_prompts or not len(test):
        raise ConfigurationError(
            f"{len(train)} prompts to learn from and {len(test)} held out; at least "
            f"{config.min_prompts} and 1 are needed (min_prompts)"
        )
    if not isinstance(table, PoolTable):
        return
    for number, pool in enumerate(table.pools):
        own, kept = (int((table.pool_N[rows] == number).sum()) for rows in (train, test))
        if own < config.min_prompts or not kept:
            raise ConfigurationError(
                f"{own} prompts of {', '.join(pool.sources)} to learn from and {kept} held out; at "
                f"least {config.min_prompts} and 1 are needed of every pool (min_prompts). Leave "
                "fewer of its families out, or the source itself (data.sources)"
            )
