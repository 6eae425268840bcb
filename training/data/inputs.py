"""What a run will work on, checked and split before anything expensive."""

from __future__ import annotations

import collections
import dataclasses
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from langchain_core.messages import BaseMessage

from training.config.run import DataConfig, RunConfig
from training.data.asking_setup import LiveSetup
from training.data.checks import check_base, check_machine, check_settings, check_table
from training.data.cut import Cut, cut_of
from xrouter_lg.arrays import Bools, Ints
from xrouter_lg.errors import ConfigurationError
from xrouter_lg.fitting.read_lesson import LessonSettings, read_either, read_table
from xrouter_lg.outcomes import OutcomeTable
from xrouter_lg.outcomes.conversation import conversations
from xrouter_lg.outcomes.grid import OutcomeGrid
from xrouter_lg.outcomes.near import NearDuplicates, near_duplicates
from xrouter_lg.outcomes.split import fold_masks, trained_on
from xrouter_lg.prompts import slots

_VALIDATION_SHARE = 0.1
"""Share of the training half that the best state is chosen on."""


@dataclass(frozen=True)
class Plan:
    """What a run will work on; everything in it has been checked."""

    config: RunConfig
    folder: Path
    table: OutcomeGrid
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
    live: LiveSetup | None
    """What GRPO may call workers with; None without a budget for it."""

    @cached_property
    def cut(self) -> Cut:
        """How the cards are cut into blocks of a prompt."""
        return cut_of(self.table)

    @cached_property
    def near(self) -> NearDuplicates:
        """What the prompts held out have in common with those learned from."""
        texts = self.table.prompts
        return near_duplicates([texts[i] for i in self.train], [texts[i] for i in self.test])

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


@dataclass(frozen=True)
class TablePlan:
    """A run without a language model over a whole table: a log, of most of whose prompts one card's
    outcome is known, or recorded answers that plans are learned from."""

    config: RunConfig
    folder: Path
    table: OutcomeGrid


def plan(config: RunConfig) -> Plan | TablePlan:
    """Check a run and split its data. A log is not split: all of it is learned from.

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
    elif config.codec == "cascade":
        table = read_table(root, lesson_settings(config))
        return TablePlan(config, Path(config.output), table)
    elif config.data.pools == "same":
        log, complete = read_either(root, lesson_settings(config))
        if not complete:
            return TablePlan(config, Path(config.output), log)
    table = _read(root, config)
    check_table(config, table)
    data = config.data
    gone = _left_out(table, data)
    learned = trained_on(table.prompt_ids, seed=data.split_seed, train_share=data.train_share)
    train, test = np.flatnonzero(learned & ~gone), np.flatnonzero(~learned & ~gone)
    _check_sizes(config, table, train, test)
    lines = card_lines(table.rows(train), data.strengths)
    said = conversations(table)
    questions = tuple(slots.render_question(messages) for messages in said)
    left = np.flatnonzero(gone)
    live = LiveSetup(config, table) if config.live.budget_usd else None
    return Plan(config, Path(config.output), table, train, test, left, lines, questions, said, live)


def lesson_settings(config: RunConfig) -> LessonSettings:
    """The run's part of the table, as fitting without a language model reads it."""
    data = config.data
    return LessonSettings(
        sources=data.sources,
        models=data.models,
        rename=data.rename,
        train_share=data.train_share,
        split_seed=data.split_seed,
        pool=config.pool,
        min_prompts=config.min_prompts,
    )


def card_lines(train: OutcomeGrid, kinds: int) -> tuple[str, ...]:
    """What the prompt says of each model: its measured success on the most frequent tasks of the
    pool that brought the model in: all cards of a block speak of the same tasks."""
    own: dict[str, str] = {}
    for part in train.parts():
        tasks = np.array([family.split("|")[1] for family in part.families])
        frequent = [str(task) for task, _ in collections.Counter(tasks).most_common(kinds)]
        for m, name in enumerate(part.models):
            success = {t: float(part.score[tasks == t, m].mean()) for t in frequent}
            own.setdefault(name, slots.card_line("", success))
    return tuple(own[name] for name in train.models)


def _read(root: Path, config: RunConfig) -> OutcomeGrid:
    """The run's outcomes, complete or pool after pool."""
    data, more = config.data, ("output_tokens", "response")

    def read(sources: Sequence[str], models: Sequence[str] = ()) -> OutcomeGrid:
        return table.complete_grid(
            sources=sources or None,
            models=models or None,
            rename=data.rename,
            more=more if config.codec == "tools" and config.tools.turns > 1 else more[:1],
            about=("meta", "must_not_call", "reference"),
        )

    try:
        table = OutcomeTable.load(root / "outcomes.parquet", root / "prompts.parquet")
        if data.pools == "same":
            return read(data.sources, data.models)
        groups = data.pools
        if groups == "per_source":
            found = table.outcomes.select("source").unique().collect()["source"].sort().to_list()
            groups = tuple((source,) for source in data.sources or found)
        return _in_pools(groups, read, data.models)
    except ValueError as error:
        raise ConfigurationError(
            f"the outcome table can't be used: {error}. A language model learns from prompts that "
            "every model answered; from a log family_head_share=1 learns"
        ) from error


def _in_pools(
    groups: Sequence[Sequence[str]],
    read: Callable[[Sequence[str]], OutcomeGrid],
    models: Sequence[str],
) -> OutcomeGrid:
    """Groups of sources, one after the other, each as `read` gives it: complete for the models that
    cover it. `models` keeps only some of them.

    Raises:
        ValueError: a group without a model, or what `read` raises.
    """
    parts = []
    for group in groups:
        grid = read(group)
        names = tuple(name for name in grid.models if not models or name in models)
        if not names:
            raise ValueError(
                f"none of data.models covers every prompt of {', '.join(group)} at a known cost"
            )
        parts.append(dataclasses.replace(grid.of(names), declared=((tuple(group), names),)))
    whole = functools.reduce(OutcomeGrid.joined, parts)
    if lost := sorted(set(models) - set(whole.models)):
        raise ValueError(f"no source is covered by {', '.join(lost)} of data.models")
    return whole


def _left_out(table: OutcomeGrid, data: DataConfig) -> Bools:
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
        dealt = list(fold_masks(table.families, seed=data.split_seed, folds=int(folds)))
        gone |= dealt[int(fold) - 1]
    return gone


def _check_sizes(config: RunConfig, table: OutcomeGrid, train: Ints, test: Ints) -> None:
    """Enough to learn from, in every pool: nothing else teaches its own cards."""
    if len(train) < config.min_prompts or not len(test):
        raise ConfigurationError(
            f"{len(train)} prompts to learn from and {len(test)} held out; at least "
            f"{config.min_prompts} and 1 are needed (min_prompts)"
        )
    for pool in table.pools():
        own, kept = (len(np.intersect1d(rows, pool.rows)) for rows in (train, test))
        if own < config.min_prompts or not kept:
            raise ConfigurationError(
                f"{own} prompts of {', '.join(pool.sources)} to learn from and {kept} held out; at "
                f"least {config.min_prompts} and 1 are needed of every pool (min_prompts). Leave "
                "fewer of its families out, or the source itself (data.sources)"
            )
