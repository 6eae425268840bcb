"""GRPO of the family head as a stage of a run.

It begins where supervised fitting ended and is held near it, learns on part of the prompts, and
the best state is chosen on others. Its gain over the start is then measured on prompts that neither
saw. Only where the lower bound of that gain is above zero is it learned again from all prompts, for
as many steps, and kept; otherwise the fitted head stays as it is.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import TrainerCallback
from trl.trainer.grpo_config import GRPOConfig

from training.config.grpo import GrpoSettings
from training.config.run import RunConfig
from training.config.trainer import TrainerConfig
from training.data.reward import Reward
from training.grpo.episodes import EpisodeEnvironment, in_rounds, whole_pool
from training.grpo.stage import note_of
from training.grpo.trainer import LetterGRPOTrainer, arguments
from training.head.net import HeadNet
from training.head.player import HeadPlayer, tokenizer_of
from training.head.rewards import robust_outcomes
from training.stage.callbacks import KeepBest, Log, resumed
from training.stage.plots import plot_grpo
from training.stage.progress import Progress
from training.stage.resume import Stage, digest_of, restore_weights, save_weights
from training.stage.supervise import supervise
from xrouter_lg.arrays import Ints
from xrouter_lg.figures.routed_utility import WEIGHTS
from xrouter_lg.fitting.from_log import FromLog
from xrouter_lg.outcomes.grid import fingerprint_of

_HELD, _JUDGED = 0.15, 0.25
"""Shares of the prompts that the best state is chosen on, and that its gain is measured on."""
SURE = 2.0
"""Standard errors by which the gain must be above zero."""


@dataclass(frozen=True)
class HeadGain:
    """What GRPO gained over fitting, in utility per request, on prompts of neither."""

    kept: bool
    gain: float
    low: float
    high: float
    steps: int
    """At which it was best; 0: where it began."""
    prompts: int


def reinforce_head(
    learned: FromLog,
    config: RunConfig,
    folder: Path,
    progress: Progress,
    *,
    resume: bool = False,
    sure: float = SURE,
) -> tuple[FromLog, HeadGain]:
    """GRPO from a fitted head; the head as it is to serve, and what was gained. ``sure`` is by how
    many standard errors the gain must be above zero for GRPO's head to be kept.

    Raises:
        TrainingInterruptedError: a signal asked for the stop; ``resume`` goes on.
    """
    settings = config.grpo
    game = _Game(learned, config)
    part_N = learned.parts([1.0 - _HELD - _JUDGED, _HELD, _JUDGED], settings.seed)
    fit, validation, last = (np.flatnonzero(part_N == part) for part in range(3))
    start = learned.without(part_N > 0) or learned.model
    net = HeadNet(start)
    chosen, gate = game.validation(net, validation), game.validation(net, last)
    before = gate.utility(net)
    key = digest_of([fingerprint_of([learned.table]), settings, config.sampling, config.reward])
    stage = Stage(folder, "grpo", key)
    best = KeepBest(
        lambda: {"utility": float(chosen.utility(net).mean())},
        lambda: save_weights(net, stage.weights),
        metric="utility",
        higher_is_better=True,
        every=settings.validate_every,
        patience=settings.patience,
        file=stage.folder / "validation.json",
        first=True,
    )
    if stage.done:
        restore_weights(net, stage.weights)
    else:
        supervise(
            stage,
            best,
            partial(train_head, game.training(net, fit, settings), settings),
            trainer=config.trainer,
            resume=resume,
            progress=progress,
            note=note_of,
            plot=partial(plot_grpo, names=list(learned.table.cards)),
            restore=partial(restore_weights, net),
        )
    gain = gate.utility(net) - before
    each = gain.reshape(len(last), len(WEIGHTS)).mean(1)
    error = float(each.std(ddof=1)) / math.sqrt(len(each))
    steps = _steps(stage)
    mean = float(each.mean())
    kept = steps > 0 and mean - sure * error > 0.0
    found = HeadGain(kept, mean, mean - SURE * error, mean + SURE * error, steps, len(last))
    if not kept:
        return learned, found
    whole = HeadNet(learned.model)
    again = dataclasses.replace(settings, steps=steps, schedule="constant")
    train_head(
        game.training(whole, np.arange(len(part_N)), again),
        again,
        folder=folder / "grpo_whole",
        trainer=config.trainer,
    )
    return dataclasses.replace(learned, model=whole.into(learned.model)), found


def train_head(
    player: HeadPlayer,
    settings: GrpoSettings,
    *,
    folder: Path,
    trainer: TrainerConfig | None = None,
    callbacks: list[TrainerCallback] | None = None,
    resume: bool = False,
) -> None:
    """Train a player's head in place; an episode is played by one group.

    Raises:
        ValueError: fewer episodes than ``steps * prompts_per_step``.
    """
    settings.check_episodes(len(player))
    how = trainer or TrainerConfig(device="cpu")
    LetterGRPOTrainer(
        player,
        args=GRPOConfig(**arguments(settings, how, folder)),
        train_dataset=Dataset.from_list(
            [{"prompt": str(episode), "episode": episode} for episode in range(settings.episodes)]
        ),
        processing_class=tokenizer_of(player.names),
        callbacks=callbacks or [],
    ).train(resume_from_checkpoint=resumed(folder, resume))


class _Game:
    """Episodes of a log's prompts, rewarded by what it tells."""

    def __init__(self, learned: FromLog, config: RunConfig) -> None:
        self._learned, self._config = learned, config
        self._names = learned.table.cards
        reward = Reward.of(config.reward, learned.c_ref_usd)
        # Slots have an order, a table of cards has none.
        sampling = dataclasses.replace(config.sampling, permute=False)
        self._environment = EpisodeEnvironment(robust_outcomes(learned), reward, sampling=sampling)

    def training(self, net: HeadNet, rows: Ints, settings: GrpoSettings) -> HeadPlayer:
        """Prompts in random order, round and round."""
        rng = np.random.default_rng(settings.seed)
        prompts = in_rounds(rows, settings.episodes, rng)
        return self._player(net, self._environment.sample(len(prompts), rng, prompts))

    def validation(self, net: HeadNet, rows: Ints) -> HeadPlayer:
        """Every prompt at every weight of the dial, the whole pool at list price."""
        return self._player(net, whole_pool(rows, len(self._names), WEIGHTS))

    def _player(self, net: HeadNet, episodes: Any) -> HeadPlayer:
        return HeadPlayer(
            net,
            self._learned.features.plane_N_P,
            self._environment,
            episodes,
            self._config.grpo,
            self._names,
        )


def _steps(stage: Stage) -> int:
    """After how many steps the best state was found."""
    history: list[Log] = json.loads(stage.mark.read_text())["validation"]
    best = max(history, key=lambda entry: (entry["utility"], -entry["step"]))
    return int(best["step"])
