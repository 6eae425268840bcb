"""What a run of several turns works on: recorded answers, and the states they make."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from training.config.grpo import GrpoSettings
from training.data.inputs import Plan
from training.data.reward import Reward
from training.grpo.episodes import Episodes, whole_pool
from training.grpo.outcome_source import Floats, RecordedOutcomes
from training.grpo.trainer import play_greedily
from training.model.reading import Reading, predict
from training.model.slots import SlotModel
from training.sequential import (
    Letters,
    SequentialEnvironment,
    draw_states,
    question_with_answers,
    sequential_samples,
)
from training.stage.resume import digest_of
from training.warm_start.rows import Samples
from xrouter_lg.errors import ConfigurationError
from xrouter_lg.figures.curve import DIAL
from xrouter_lg.fitting.lesson import prior_log_odds
from xrouter_lg.judge.table import KEY
from xrouter_lg.pool.pool import normalise_name
from xrouter_lg.prompts import slots

_CENTRE_SAMPLE = 96
"""States that the untrained base's mean contrast of answer letters is measured on."""


class SequenceSetup:
    """The states, letters and answers of a run with ``grpo.turns`` above 1.

    Raises:
        ConfigurationError: the table has no answers, or too many letters are needed.
    """

    def __init__(self, work: Plan) -> None:
        settings: GrpoSettings = work.config.grpo
        self.work, table = work, work.table
        try:
            self.letters = Letters(len(table.models), settings.turns)
        except ValueError as error:
            raise ConfigurationError(f"grpo.turns: {error}") from error
        self.names = [normalise_name(name) for name in table.models]
        self.texts = read_answers(work)
        self.source = RecordedOutcomes(table.score, table.cost, self.texts)
        self.conversations = work.conversations
        self.states = draw_states(
            len(work.fit), self.letters, np.random.default_rng(work.config.warm_start.seed)
        )
        self.questions = [
            question_with_answers(
                self.source, self.conversations[work.fit[row]], self.names, work.fit[row], shown
            )
            for row, shown in self.states
        ]

    @property
    def key(self) -> str:
        """What the warm start's states depend on besides the table."""
        return digest_of([self.work.config.grpo.turns, self.questions])

    def samples(self, reading: Reading, target_N_M: Floats) -> Samples:
        """Rows for the warm start; targets are those of the rows to fit."""
        table, fit = self.work.table, self.work.fit
        prior_M = prior_log_odds(table.score[self.work.train])
        numbers = np.array(reading.find(self.questions), dtype=np.int64)
        return sequential_samples(
            self.states, numbers, target_N_M, table.score[fit], self.letters, prior_M
        )

    def measure_answer_centre(self, slot: SlotModel, reading: Reading) -> None:
        """Set the centre of the answer letters to the untrained base's mean contrast over states
        in which they can be taken."""
        calls = len(self.letters.calls)
        shown = [at for at, (_, cards) in enumerate(self.states) if cards]
        chosen = np.random.default_rng(self.work.config.warm_start.seed).permutation(shown)
        chosen = chosen[:_CENTRE_SAMPLE]
        before = slot.centre_M.clone()
        slot.centre_M[calls:] = 0.0
        numbers = reading.find([self.questions[at] for at in chosen])
        z = predict(slot, reading, numbers)[:, calls:]
        for place in range(self.letters.answers):
            legal = np.array([len(self.states[at][1]) > place for at in chosen])
            before[calls + place] = float(z[legal, place].mean()) if legal.any() else 0.0
        slot.centre_M.copy_(torch.as_tensor(before))

    def environment(
        self, episodes: Episodes, reward: Reward, router_usd_per_million: float
    ) -> SequentialEnvironment:
        """Episodes whose prompts are rows of the run's table."""
        table, train = self.work.table, self.work.train
        return SequentialEnvironment(
            self.source,
            episodes,
            self.conversations,
            self.work.lines,
            reward,
            letters=self.letters,
            prior_M=prior_log_odds(table.score[train]),
            expected_usd_M=table.cost[train].mean(0),
            names=self.names,
            # Four characters a token: near enough for what is a hundredth of a call.
            router_usd=lambda prompt: len(prompt) / 4 * router_usd_per_million / 1e6,
        )

    def judge(self, slot: SlotModel, reading: Reading) -> dict[str, Any]:
        """Held-out figures of the sequential policy at every weight of the dial, and what serving
        needs beside the checkpoint: the centre of each answer letter."""
        work, calls = self.work, len(self.letters.calls)
        reward = work.config.reward.build(work.table.rows(work.train).reference_cost())
        points = []
        for weight in DIAL:
            episodes = whole_pool(work.test, calls, [weight])
            environment = self.environment(episodes, reward, work.config.router_usd_per_million)
            taken = list(enumerate(play_greedily(slot, reading, environment)))
            metrics = environment.results(taken).metrics
            points.append({"cost_weight": weight, **metrics})
        letters = slots.ANSWER_SLOTS[: self.letters.answers]
        return {
            "turns": self.letters.turns,
            "answer_centre": dict(zip(letters, slot.centre_M[calls:].tolist(), strict=True)),
            "held_out": points,
        }


def read_answers(work: Plan) -> list[list[str]]:
    """Recorded answers [N][M], in the order of the table.

    Raises:
        ConfigurationError: the table has none, or lacks some.
    """
    data, table = work.config.data, work.table
    rows = pl.scan_parquet(Path(work.config.outcomes) / "outcomes.parquet")
    if "response" not in rows.collect_schema().names():
        raise ConfigurationError(
            f"grpo.turns is {work.config.grpo.turns}, which shows answers to the policy, and the "
            f"outcome table {work.config.outcomes!r} has no column 'response'; record answers, or "
            "set grpo.turns=1"
        )
    frame = (
        rows.with_columns(
            pl.col("model").replace(dict(data.rename)),
            pl.concat_str(KEY, separator="|").alias("key"),
        )
        .filter(pl.col("key").is_in(list(table.prompt_ids)) & pl.col("response").is_not_null())
        .select("key", "model", "response")
        .collect()
    )
    found = {(key, model): text for key, model, text in frame.iter_rows()}
    lacking = [(key, m) for key in table.prompt_ids for m in table.models if (key, m) not in found]
    if lacking:
        key, model = lacking[0]
        raise ConfigurationError(
            f"{len(lacking)} outcomes have no recorded answer, such as {model!r} on {key!r}; leave "
            "those models out (data.models), or set grpo.turns=1"
        )
    return [[found[key, model] for model in table.models] for key in table.prompt_ids]
