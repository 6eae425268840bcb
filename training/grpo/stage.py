"""GRPO as a stage of a run."""

from __future__ import annotations

import dataclasses
from contextlib import closing, nullcontext
from functools import partial

import numpy as np

from training.data.asking import LiveOutcomes
from training.data.inputs import Plan
from training.data.outcome_source import OutcomeSource, RecordedOutcomes, StackedOutcomes
from training.data.reward import Reward
from training.grpo.episodes import EpisodeEnvironment, Episodes, in_rounds, whole_pool
from training.grpo.trainer import play_greedily, train_grpo
from training.grpo.turns import OneTurn
from training.model.base import Base
from training.model.reading import Reading
from training.model.slots import SlotModel
from training.stage.callbacks import KeepBest, Log
from training.stage.plots import plot_grpo
from training.stage.progress import Progress
from training.stage.resume import Stage, digest_of, restore_state, save_state
from training.stage.supervise import supervise
from training.warm_start.stage import stage_key
from xrouter_lg.figures.routed_utility import WEIGHTS
from xrouter_lg.fitting.lesson import prior_log_odds
from xrouter_lg.pool.card import normalise_name
from xrouter_lg.prompts import slots


def reinforce(
    work: Plan,
    slot: SlotModel,
    base: Base,
    reading: Reading,
    progress: Progress,
    *,
    resume: bool = False,
) -> None:
    """GRPO from where the warm start ended, or what an earlier run with these settings left. The
    state with the highest validation utility is kept, the warm start's included.

    Raises:
        TrainingInterruptedError: a signal asked for the stop; ``resume`` goes on.
    """
    settings = work.config.grpo
    key = digest_of([stage_key(work, base), settings, work.config.sampling, work.config.reward])
    stage = Stage(work.folder, "grpo", key)
    if stage.done:
        restore_state(slot, stage.weights)
        return
    live = work.live
    maker = _Environments(work)
    validation = maker.validation()

    def measure() -> Log:
        letters = play_greedily(slot, reading, validation)
        results = validation.results(range(len(validation)), letters)
        known = results.reward_B[np.isfinite(results.reward_B)]
        return {"utility": float(known.mean()), **results.metrics}

    best = KeepBest(
        measure,
        lambda: save_state(slot, stage.weights),
        metric="utility",
        higher_is_better=True,
        every=settings.validate_every,
        patience=settings.patience,
        file=stage.folder / "validation.json",
        first=True,
    )
    called = nullcontext() if live is None else closing(live.open())
    with called as outcomes:
        turns = maker.training(outcomes)
        supervise(
            stage,
            best,
            partial(train_grpo, slot, reading, turns, settings, tokenizer=base.tokenizer),
            trainer=work.config.trainer,
            resume=resume,
            progress=progress,
            note=note_of,
            plot=partial(plot_grpo, names=maker.names),
            restore=partial(restore_state, slot),
        )


class _Environments:
    """Episodes over the training rows, for learning and for validation."""

    def __init__(self, work: Plan) -> None:
        self._work, self._live = work, work.live
        half = work.table.rows(work.train)
        self._reward = Reward.of(work.config.reward, half.reference_cost())
        self._prior = prior_log_odds(half.score)
        self._usd = half.cost.mean(0)
        self.names = [normalise_name(name) for name in work.table.models]

    def training(self, called: LiveOutcomes | None) -> OneTurn:
        """One episode a group: prompts in random order, round and round."""
        settings = self._work.config.grpo
        wanted = settings.episodes
        rng = np.random.default_rng(settings.seed)
        rows = in_rounds(self._work.fit, wanted, rng)
        source: OutcomeSource = self._recorded()
        if self._live is not None and called is not None:
            source = StackedOutcomes(source, called)
            rows = self._live.mixed_in(rows, rng)
        environment = EpisodeEnvironment(source, self._reward, sampling=self._work.config.sampling)
        return self._turns(environment, environment.sample(wanted, rng, rows))

    def validation(self) -> OneTurn:
        """Every validation prompt at every weight of the dial, the whole pool at list price."""
        episodes = whole_pool(self._work.validation, len(self.names), WEIGHTS)
        how = dataclasses.replace(self._work.config.sampling, permute=False)
        environment = EpisodeEnvironment(self._recorded(), self._reward, sampling=how)
        return self._turns(environment, episodes)

    def _recorded(self) -> RecordedOutcomes:
        return RecordedOutcomes(self._work.table.score, self._work.table.cost)

    def _turns(self, environment: EpisodeEnvironment, episodes: Episodes) -> OneTurn:
        work = self._work
        more = () if self._live is None else self._live.questions
        questions = [*work.questions, *more]
        return OneTurn(
            environment,
            episodes,
            questions,
            lambda cards: slots.render_prefix([work.lines[m] for m in cards]),
            prior_M=self._prior,
            expected_usd_N_M=np.tile(self._usd, (len(questions), 1)),
            names=self.names,
        )


def note_of(entry: Log) -> str:
    """One line on how a step went."""
    shares = sorted(
        ((value, name[6:]) for name, value in entry.items() if name.startswith("share/")),
        reverse=True,
    )
    most = " ".join(f"{name} {value:.0%}" for value, name in shares[:3] if value > 0)
    return (
        f"reward {entry.get('reward', float('nan')):.3f}, "
        f"${entry.get('cost_usd', float('nan')):.6f}, legal {entry.get('legal', 0.0):.0%}, "
        f"entropy {entry.get('entropy', float('nan')):.2f}, {most}"
    )
