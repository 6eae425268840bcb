"""What reward scaling does to the cost weight, measured on recorded outcomes.

    python -m benchmarks.experiments.reward_scaling \
        --outcomes FOLDER --base FOLDER --output runs/ablation

For every way of scaling rewards and every cost weight λ a fresh policy is trained by GRPO from the
same start, in which every card is as probable as any other. The policy is told nothing about costs
(the decision's own penalty is left out), so whatever it learns of them comes through the rewards.
Shown on held-out prompts: share per card, mean cost and mean score of the trained policy. A scaling
under which these hardly change with λ has made the cost weight inert.

Only the upper layers are trained, over cached activations: a few minutes on a CPU.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from langchain_core.messages import HumanMessage
from rich.console import Console
from rich.table import Table

from benchmarks.experiments.shared import experiment_parser, load_upper, read_inputs
from training.config.grpo import GrpoSettings
from training.config.sampling import Sampling
from training.config.warm_start import WarmStartConfig
from training.data.inputs import card_lines
from training.data.outcome_source import RecordedOutcomes
from training.data.reward import Reward
from training.grpo.episodes import EpisodeEnvironment, in_rounds
from training.grpo.trainer import log_policy, train_grpo
from training.grpo.turns import OneTurn
from training.model.base import Base, threads
from training.model.reading import CachedReading
from training.model.slots import SlotModel, slot_model
from training.stage.callbacks import Report
from training.stage.plots import plot_ablation
from training.stage.progress import Progress, shown
from training.warm_start.targets import measure_centre
from xrouter_lg.arrays import Floats, Ints
from xrouter_lg.errors import XRouterError
from xrouter_lg.files import write_json
from xrouter_lg.outcomes.grid import OutcomeGrid
from xrouter_lg.outcomes.split import random_split
from xrouter_lg.pool.card import normalise_name
from xrouter_lg.prompts import slots

MODES = ("none", "batch", "group")
WEIGHTS = (0.1, 0.5, 2.0)


@dataclass(frozen=True)
class SmallRun:
    """A small real case. ``train`` and ``test`` are rows of ``table``."""

    table: OutcomeGrid
    train: Ints
    test: Ints
    base_folder: Path
    run_folder: Path
    trained_layers: int = 4
    dtype: str = "bfloat16"
    lines: tuple[str, ...] = field(init=False)
    questions: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        lines = card_lines(self.table.rows(self.train), 3)
        questions = [slots.render_question([HumanMessage(text)]) for text in self.table.prompts]
        object.__setattr__(self, "lines", lines)
        object.__setattr__(self, "questions", tuple(questions))

    @property
    def names(self) -> list[str]:
        return [normalise_name(name) for name in self.table.models]

    @property
    def c_ref_usd(self) -> float:
        return self.table.rows(self.train).reference_cost()

    def load(self, progress: Progress | None = None) -> tuple[Base, CachedReading]:
        """A fresh base, and its prompts read from the trained layers on."""
        return load_upper(
            self.base_folder,
            self.lines,
            self.questions,
            trained_layers=self.trained_layers,
            run_folder=self.run_folder,
            dtype=self.dtype,
            progress=progress,
        )

    def turns(self, rows: Ints, weight: float) -> OneTurn:
        """An episode for each of these rows, at one cost weight, that nothing but its reward
        tells about costs."""
        how = Sampling(
            cost_weight_low=weight,
            cost_weight_high=weight,
            quality_only_share=0.0,
            smallest_pool=len(self.names),
            permute=False,
        )
        source = RecordedOutcomes(self.table.score, self.table.cost)
        environment = EpisodeEnvironment(source, Reward(self.c_ref_usd), sampling=how)
        return OneTurn(
            environment,
            environment.sample(len(rows), np.random.default_rng(0), rows),
            self.questions,
            lambda cards: slots.render_prefix([self.lines[m] for m in cards]),
            prior_M=np.zeros(len(self.names)),
            expected_usd_N_M=np.zeros_like(self.table.cost),
            names=self.names,
        )


def case_of(
    table: OutcomeGrid, base_folder: Path, run_folder: Path, *, prompts: int, **options: Any
) -> SmallRun:
    """At most ``prompts`` rows of either half of a table."""
    train, test = (half.prompt_ids[:prompts] for half in random_split(table, seed=0))
    rows = {name: row for row, name in enumerate(table.prompt_ids)}
    small = table.rows(np.array([rows[i] for i in (*train, *test)], dtype=np.int64))
    return SmallRun(
        small,
        np.arange(len(train)),
        np.arange(len(train), len(small)),
        base_folder,
        run_folder,
        **options,
    )


def run_one(
    case: SmallRun, settings: GrpoSettings, weight: float, progress: Progress
) -> dict[str, Any]:
    """Train one policy at one cost weight and measure it on the held-out prompts."""
    base, reading = case.load()
    config = WarmStartConfig(frozen_layers=reading.cache.layers, seed=settings.seed)
    slot = slot_model(base, np.zeros(len(case.names)), config)
    measure_centre(slot, reading, case.train, settings.seed)
    rng = np.random.default_rng(settings.seed)
    rows = in_rounds(case.train, settings.episodes, rng)
    name = f"{settings.scale_rewards}, λ = {weight:g}"
    report = Report(
        lambda step, steps, entry: progress(name, step, steps, f"reward {entry['reward']:.3f}")
    )
    train_grpo(
        slot,
        reading,
        case.turns(rows, weight),
        settings,
        tokenizer=base.tokenizer,
        folder=case.run_folder / "trainer",
        callbacks=[report],
    )
    policy = _policy(slot, reading, case, weight, settings.temperature)
    held = case.table.rows(case.test)
    return {
        "scale_rewards": settings.scale_rewards,
        "cost_weight": weight,
        "share": dict(zip(case.names, policy.mean(0).tolist(), strict=True)),
        "cost_usd": float((policy * held.cost).sum(1).mean()),
        "score": float((policy * held.score).sum(1).mean()),
        "log": report.log,
    }


@torch.no_grad()
def _policy(
    slot: SlotModel, reading: CachedReading, case: SmallRun, weight: float, temperature: float
) -> Floats:
    """Probability of each card [N, M] on the held-out prompts, as it is sampled in training."""
    slot.model.eval()
    turns, found = case.turns(case.test, weight), []
    for start in range(0, len(case.test), 16):
        rows = case.test[start : start + 16]
        states = [turns.state(start + place) for place in range(len(rows))]
        contrast = reading.contrast(slot, **reading.inputs(rows))
        found.append(log_policy(slot, contrast, states, temperature).exp().numpy())
    return np.concatenate(found).astype(np.float64)


def ablate(
    case: SmallRun,
    settings: GrpoSettings,
    progress: Progress,
    *,
    modes: Sequence[str] = MODES,
    weights: Sequence[float] = WEIGHTS,
) -> list[dict[str, Any]]:
    """Every mode at every weight. ``ablation.json`` in the case's folder is written after each, and
    what it holds already is not done again."""
    file = case.run_folder / "ablation.json"
    results: list[dict[str, Any]] = []
    what = {
        "prompts": list(case.table.prompt_ids),
        "models": case.names,
        "trained_layers": case.trained_layers,
        "steps": settings.steps,
        "learning_rate": settings.learning_rate,
        "generations": settings.generations,
        "prompts_per_step": settings.prompts_per_step,
        "temperature": settings.temperature,
        "seed": settings.seed,
    }
    if file.is_file():
        before = json.loads(file.read_text())
        results = before["results"] if before["what"] == what else []
    case.load(progress)
    for mode in modes:
        for weight in weights:
            done = {(entry["scale_rewards"], entry["cost_weight"]) for entry in results}
            if (mode, weight) in done:
                continue
            chosen = GrpoSettings(
                **{**vars(settings), "scale_rewards": mode, "allow_group_scaling": True}
            )
            results.append(run_one(case, chosen, weight, progress))
            gc.collect()  # a trainer and its model hold each other
            write_json(file, {"what": what, "results": results})
    plot_ablation(results, case.names, case.run_folder / "ablation.png")
    return results


def show(results: Sequence[dict[str, Any]], names: Sequence[str], console: Console) -> None:
    """The results as a table."""
    table = Table(title="held-out prompts after GRPO from an even start", title_justify="left")
    table.add_column("scale_rewards")
    for column in ("λ", *names, "mean USD", "mean score"):
        table.add_column(column, justify="right")
    for entry in results:
        table.add_row(
            entry["scale_rewards"],
            f"{entry['cost_weight']:g}",
            *(f"{entry['share'][name]:.0%}" for name in names),
            f"{entry['cost_usd']:.6f}",
            f"{entry['score']:.3f}",
        )
    console.print(table)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0, or 2 when it can't start."""
    parser = experiment_parser(__doc__, "runs/ablation")
    parser.add_argument("--prompts", type=int, default=150, help="at most, of either half")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--weights", type=float, nargs="*", default=list(WEIGHTS))
    options = parser.parse_args(argv)
    console = Console(stderr=True)
    try:
        settings = GrpoSettings(
            steps=options.steps,
            prompts_per_step=options.prompts_per_step,
            learning_rate=options.learning_rate,
            schedule="constant",
        )
        table, folder = read_inputs(options)
    except (XRouterError, ValueError, OSError) as error:
        console.print(f"[red]error:[/red] {error}", highlight=False)
        return 2
    case = case_of(
        table,
        folder,
        options.output,
        prompts=options.prompts,
        trained_layers=options.trained_layers,
    )
    with threads(options.threads), shown(console, every_s=10) as progress:
        results = ablate(case, settings, progress, weights=options.weights)
    show(results, case.names, Console())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
