"""What GRPO adds where the warm start can't know: old logs, then feedback on fresh requests.

    python -m benchmarks.experiments.fresh_feedback.study \
        --outcomes FOLDER --base FOLDER_OR_GGUF --output runs/feedback

A full outcome table plays the world (:mod:`benchmarks.experiments.fresh_feedback.world`). The warm
start learns from what an old router's logs hold. Then GRPO acts on fresh requests and is told the
outcomes of what it tried, and of nothing else. Against it, on the same held-out prompts:

    logs       the warm start, as it is
    grpo       GRPO from there; its state after the last step, for nothing is left to choose by
    continued  the warm start trained on with the outcomes that GRPO bought, supervised
    refit      a new warm start from the logs and those outcomes
    recent     a new warm start from those outcomes alone
    random     as refit, with as many outcomes of cards tried at random
    full       a warm start that is told every outcome of logged and fresh prompts: the bound
    constant   for each cost weight the card that was best over those prompts: no model at all

The family head has no share: it would hide what the language model learns. Only the upper layers
are trained, over cached activations.
"""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from langchain_core.messages import HumanMessage
from rich.console import Console

from benchmarks.experiments.fresh_feedback.figures import ARMS, show, summary
from benchmarks.experiments.fresh_feedback.world import (
    RULES,
    Revealing,
    Rule,
    World,
    at_random,
    world_of,
)
from benchmarks.experiments.shared import experiment_parser, load_upper, read_inputs
from training.config.grpo import GrpoSettings
from training.config.sampling import Sampling
from training.config.warm_start import WarmStartConfig
from training.data.reward import Reward
from training.grpo.episodes import EpisodeEnvironment, in_rounds
from training.grpo.trainer import train_grpo
from training.grpo.turns import OneTurn
from training.model.base import Base, threads
from training.model.reading import CachedReading, predict
from training.model.slots import SlotModel, slot_model
from training.stage.callbacks import Report
from training.stage.plots import plot_feedback
from training.stage.progress import Progress, shown
from training.stage.resume import restore_state, save_state
from training.warm_start.targets import card_samples, measure_centre
from training.warm_start.trainer import train_slots
from xrouter_lg.arrays import Bools, Floats
from xrouter_lg.errors import XRouterError
from xrouter_lg.figures.curve import Predictions, choose, predicted_curve
from xrouter_lg.figures.metrics import Reference, evaluate
from xrouter_lg.figures.routed_utility import WEIGHTS, routed_utility
from xrouter_lg.files import write_json
from xrouter_lg.outcomes.grid import OutcomeGrid
from xrouter_lg.pool.card import normalise_name
from xrouter_lg.prompts import slots

_PRIOR_STRENGTH = 2.0
"""Outcomes' worth of the mean over all cards that a card's mean is mixed with."""


@dataclass(frozen=True)
class Trial:
    """A table, a base, and how both kinds of learning are done."""

    table: OutcomeGrid
    base_folder: Path
    run_folder: Path
    warm: WarmStartConfig
    grpo: GrpoSettings
    """``steps`` follows from ``rounds``."""
    rounds: int
    """How often GRPO meets each fresh request; an outcome is bought once."""
    trained_layers: int
    dtype: str = "bfloat16"

    @property
    def names(self) -> list[str]:
        return [normalise_name(name) for name in self.table.models]

    @cached_property
    def questions(self) -> list[str]:
        return [slots.render_question([HumanMessage(text)]) for text in self.table.prompts]

    def load(self, progress: Progress | None = None) -> tuple[Base, CachedReading]:
        """A fresh base, and the prompts read from the trained layers on. The candidate block says
        nothing of the cards: what the logs could say of them is what is in doubt."""
        return load_upper(
            self.base_folder,
            [slots.card_line("", {}) for _ in self.names],
            self.questions,
            trained_layers=self.trained_layers,
            run_folder=self.run_folder,
            dtype=self.dtype,
            progress=progress,
        )


def prior_of(score_N_M: Floats) -> Floats:
    """[M] log-odds of each card's mean over what is known of it, NaN being unknown."""
    known = np.isfinite(score_N_M)
    overall = score_N_M[known].mean()
    total_M = np.where(known, score_N_M, 0.0).sum(0) + _PRIOR_STRENGTH * overall
    mean_M = np.clip(total_M / (known.sum(0) + _PRIOR_STRENGTH), 0.01, 0.99)
    odds: Floats = np.log(mean_M / (1.0 - mean_M))
    return odds


class Arms:
    """The arms of one rule and one split."""

    def __init__(self, trial: Trial, rule: Rule, split: int, progress: Progress) -> None:
        self._trial, self._progress, self._split = trial, progress, split
        self._name = f"{rule} {split}"
        self.world: World = world_of(trial.table, rule, split)
        self.start = trial.run_folder / f"{rule}-{split}.safetensors"
        """The warm start on the logs."""

    def run(self, arm: str, bought: Bools | None) -> tuple[Floats, Bools | None]:
        """Qualities [T, M] of an arm on the held-out prompts, and which outcomes it bought itself.
        ``bought`` are those of GRPO."""
        world, truth = self.world, self.world.table.score
        known = world.logged_N_M.copy()
        if arm == "logs":
            slot = self._supervised(arm, known)
            save_state(slot[0], self.start)
            return self._read(*slot), None
        if arm == "grpo":
            return self._grpo()
        if arm == "full":
            known[world.known_prompts] = truth[world.known_prompts]
            return self._read(*self._supervised(arm, known)), None
        assert bought is not None, "GRPO comes first: the others learn from what it bought"
        if arm == "random":
            rng = np.random.default_rng([self._split, 7])
            bought = at_random(world, int(bought.sum()), rng)
        own = bought if arm == "random" else None
        if arm in ("continued", "recent"):
            known = np.full_like(known, np.nan)
        known[bought] = truth[bought]
        found = self._supervised(arm, known, go_on=arm == "continued")
        return self._read(*found), own

    def _fresh_model(self, prior_M: Floats) -> tuple[SlotModel, CachedReading, Base]:
        base, reading = self._trial.load()
        config = self._warm(reading)
        slot = slot_model(base, prior_M, config)
        measure_centre(slot, reading, np.sort(self.world.known_prompts), config.seed)
        return slot, reading, base

    def _warm(self, reading: CachedReading) -> WarmStartConfig:
        return replace(self._trial.warm, frozen_layers=reading.cache.layers, seed=self._split)

    def _supervised(
        self, arm: str, known_N_M: Floats, *, go_on: bool = False
    ) -> tuple[SlotModel, CachedReading]:
        """Learn the known outcomes; from the warm start on the logs if ``go_on``."""
        prior = prior_of(self.world.logged_N_M if go_on else known_N_M)
        slot, reading, base = self._fresh_model(prior)
        if go_on:
            restore_state(slot, self.start)
        rows = np.flatnonzero(np.isfinite(known_N_M).any(1))
        samples = card_samples(slot, reading, rows, known_N_M[rows])
        name = f"{self._name} {arm}"
        train_slots(
            slot,
            reading,
            samples,
            self._warm(reading),
            tokenizer=base.tokenizer,
            folder=self._trial.run_folder / "trainer",
            callbacks=[
                Report(lambda at, of, e: self._progress(name, at, of, f"loss {e['loss']:.3f}"))
            ],
        )
        return slot, reading

    def _grpo(self) -> tuple[Floats, Bools]:
        trial, world = self._trial, self.world
        prior = prior_of(world.logged_N_M)
        slot, reading, base = self._fresh_model(prior)
        restore_state(slot, self.start)
        steps = trial.rounds * len(world.fresh) // trial.grpo.prompts_per_step
        settings = replace(trial.grpo, steps=steps, seed=self._split)
        source = Revealing(world.table)
        environment = EpisodeEnvironment(
            source,
            Reward(world.c_ref_usd),
            sampling=Sampling(
                cost_weight_low=min(WEIGHTS),
                cost_weight_high=max(WEIGHTS),
                smallest_pool=len(trial.names),
                permute=False,
            ),
        )
        rng = np.random.default_rng(self._split)
        wanted = settings.episodes
        prefix = reading.prefix
        turns = OneTurn(
            environment,
            environment.sample(wanted, rng, in_rounds(world.fresh, wanted, rng)),
            trial.questions,
            lambda _cards: prefix,
            prior_M=prior,
            expected_usd_N_M=np.tile(world.expected_usd_M, (len(trial.table), 1)),
            names=trial.names,
        )
        name = f"{self._name} grpo"
        train_grpo(
            slot,
            reading,
            turns,
            settings,
            tokenizer=base.tokenizer,
            folder=trial.run_folder / "trainer",
            callbacks=[
                Report(lambda at, of, e: self._progress(name, at, of, f"reward {e['reward']:.3f}"))
            ],
        )
        return self._read(slot, reading), source.revealed

    def _read(self, slot: SlotModel, reading: CachedReading) -> Floats:
        quality: Floats = 1.0 / (1.0 + np.exp(-predict(slot, reading, self.world.test)))
        return quality

    def judge(self, quality_T_M: Floats | None) -> dict[str, Any]:
        """Figures on the held-out prompts; None judges the constant choice."""
        world = self.world
        test, known = world.table.rows(world.test), world.table.rows(world.known_prompts)
        if quality_T_M is None:
            quality_T_M = np.tile(known.score.mean(0), (len(test), 1))
        expected = np.tile(world.expected_usd_M, (len(test), 1))
        c_ref = world.c_ref_usd
        utility_T = routed_utility(quality_T_M, expected, test.score, test.cost, c_ref, WEIGHTS)
        taken_W_T = [choose(quality_T_M, expected, weight, c_ref) for weight in WEIGHTS]
        cards = np.arange(len(test.models))
        curve = predicted_curve("arm", Predictions(quality_T_M, expected), test, c_ref=c_ref)
        return {
            "utility_T": utility_T.round(6).tolist(),
            "share_W_M": [(taken[:, None] == cards).mean(0).tolist() for taken in taken_W_T],
            "gain": evaluate(curve, test, Reference.of(known), draws=1).gain.value,
        }


def compare(
    trial: Trial,
    rules: Sequence[Rule],
    splits: Sequence[int],
    progress: Progress,
    *,
    wanted: Collection[str] = ARMS,
) -> list[dict[str, Any]]:
    """The wanted arms of every rule and split. ``feedback.json`` is written after each; what it
    holds already is not done again."""
    file = trial.run_folder / "feedback.json"
    base, _ = trial.load(progress)
    what = {
        "base": base.identity.sha256,
        "table": trial.table.fingerprint(),
        "warm_start": asdict(trial.warm),
        "grpo": asdict(trial.grpo),
        "rounds": trial.rounds,
        "trained_layers": trial.trained_layers,
    }
    results: list[dict[str, Any]] = []
    if file.is_file():
        before = json.loads(file.read_text())
        results = before["results"] if before["what"] == json.loads(json.dumps(what)) else []
    for rule in rules:
        for split in splits:
            arms = Arms(trial, rule, split, progress)
            for arm in (arm for arm in ARMS if arm in wanted):
                own = {e["arm"]: e for e in results if (e["rule"], e["split"]) == (rule, split)}
                if arm in own and (arm != "logs" or arms.start.is_file()):
                    continue
                results = [e for e in results if e is not own.get(arm)]
                begun = time.monotonic()
                pairs = None
                if "grpo" in own:
                    pairs = np.zeros(trial.table.score.shape, dtype=np.bool_)
                    pairs[tuple(np.array(own["grpo"]["bought"]).T)] = True
                quality, bought = (None, None) if arm == "constant" else arms.run(arm, pairs)
                entry = {"rule": rule, "split": split, "arm": arm, **arms.judge(quality)}
                entry["test"] = arms.world.test.tolist()
                entry["seconds"] = time.monotonic() - begun
                if bought is not None:
                    entry["bought"] = np.argwhere(bought).tolist()
                    entry["bought_usd"] = float(trial.table.cost[bought].sum())
                results.append(entry)
                write_json(file, {"what": what, "results": results})
                gc.collect()  # a trainer and its model hold each other
    return results


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0, 2 when it can't start, or 130 when it was stopped; what is done is kept."""
    parser = experiment_parser(__doc__, "runs/feedback")
    parser.add_argument("--prompts", type=int, help="at most, drawn at random")
    parser.add_argument("--rules", nargs="*", choices=RULES, default=list(RULES))
    parser.add_argument("--arms", nargs="*", choices=ARMS, default=list(ARMS))
    parser.add_argument("--splits", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--generations", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=3e-4, help="of GRPO")
    parser.add_argument("--temperature", type=float, default=0.2)
    options = parser.parse_args(argv)
    console = Console(stderr=True)
    try:
        table, folder = read_inputs(options, least=2)
        if options.prompts and options.prompts < len(table):
            chosen = np.random.default_rng(0).choice(len(table), options.prompts, replace=False)
            table = table.rows(np.sort(chosen))
        grpo = GrpoSettings(
            learning_rate=options.learning_rate,
            generations=options.generations,
            prompts_per_step=options.prompts_per_step,
            temperature=options.temperature,
            schedule="constant",  # feedback goes on: no step is the last
        )
        warm = WarmStartConfig(epochs=options.epochs, outcome_share=1.0)
    except (XRouterError, ValueError, OSError) as error:
        console.print(f"[red]error:[/red] {error}", highlight=False)
        return 2
    # Every other arm learns from what these leave, or is measured against it.
    wanted = {"constant", "logs", "grpo", *options.arms}
    trial = Trial(table, folder, options.output, warm, grpo, options.rounds, options.trained_layers)
    try:
        with threads(options.threads), shown(console, every_s=10) as progress:
            results = compare(trial, options.rules, options.splits, progress, wanted=wanted)
    except KeyboardInterrupt:
        console.print("stopped; what is done is kept, the same command goes on from there")
        return 130
    rows = summary(results)
    write_json(options.output / "summary.json", rows)
    plot_feedback(rows, options.output / "feedback.png")
    out = Console()
    show(rows, out if out.is_terminal else Console(width=140))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
