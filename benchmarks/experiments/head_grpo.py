"""Does GRPO of the family head add to fitting it, on the same outcomes?

    python -m benchmarks.experiments.head_grpo --data FOLDER [--splits 6] [key=value ...]

FOLDER holds outcomes.parquet and prompts.parquet. On each half split the head is fitted to all
outcomes of one half, and to logs made of them (rules with 10 % exploration; any card by chance),
then TRL's GRPO goes on from it (training/configs/log.yaml, with the overrides given). Both choose
for the other half: shown is the difference in utility per request, the mean over the dial, with
what the run's own rule kept, and of the best state whatever the rule said.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.quality_rows import TASKS
from benchmarks.results import append, show
from benchmarks.worlds.logs import LogSettings, make_log
from benchmarks.worlds.one_sided import expected
from training.config.run import RunConfig, load_config
from training.head.stage import HeadGain, reinforce_head
from xrouter_lg.figures.metrics import Reference
from xrouter_lg.figures.routed_utility import WEIGHTS, routed_utility
from xrouter_lg.fitting.from_log import FromLog, learned_from
from xrouter_lg.fitting.read_lesson import LessonSettings
from xrouter_lg.outcomes.grid import OutcomeGrid
from xrouter_lg.outcomes.split import random_split

_REQUESTS = 2_000
_CONFIG = Path(__file__).resolve().parents[2] / "training" / "configs" / "log.yaml"
ALL = "all outcomes"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--splits", type=int, default=6)
    parser.add_argument("overrides", nargs="*", help="of the config, such as grpo.steps=200")
    options = parser.parse_intermixed_args()
    warnings.filterwarnings("ignore")
    config = load_config(_CONFIG, options.overrides)
    table = TASKS["headline"].read(options.data)
    found: dict[str, list[tuple[float, float, HeadGain]]] = {}
    for seed in range(options.splits):
        train, test = random_split(table, seed=seed)
        for name, log in worlds(train, seed):
            print(f"split {seed}: {name}", file=sys.stderr, flush=True)
            found.setdefault(name, []).append(one(log, test, config))
    rows = [[name, *_row(results)] for name, results in found.items()]
    columns = ("world", "kept", "gain of what was kept", "gain of the best state", "said")
    show(f"GRPO over fitting, utility per request, {options.splits} half splits", columns, rows)
    append("; ".join(f"{name}: kept {row[0]}, {row[1]}, ungated {row[2]}" for name, *row in rows))


def worlds(train: OutcomeGrid, seed: int) -> Iterator[tuple[str, OutcomeGrid]]:
    """What is known of a half, by what it is called."""
    yield ALL, dataclasses.replace(train, families=("",) * len(train))
    reference = Reference.of(train)
    for settings in (LogSettings("rules", 0.1), LogSettings("uniform", 1.0)):
        log = make_log(train, settings, reference, requests=_REQUESTS, seed=seed)
        yield f"log, {settings.kind}", log.table


def one(log: OutcomeGrid, test: OutcomeGrid, config: RunConfig) -> tuple[float, float, HeadGain]:
    """What was kept over the fitted head, the best state over it, and what the run said."""
    fitted = learned_from(log, LessonSettings())
    with tempfile.TemporaryDirectory() as folder:
        kept, gain = reinforce_head(fitted, config, Path(folder) / "kept", lambda *_: None)
        best, _ = reinforce_head(
            fitted, config, Path(folder) / "any", lambda *_: None, sure=-np.inf
        )
    before = utility(fitted, test)
    return utility(kept, test) - before, utility(best, test) - before, gain


def utility(learned: FromLog, test: OutcomeGrid) -> float:
    """On a half that was not learned from, by serving's own reading."""
    predicted = expected(learned, test)
    unit = Reference.of(test).c_ref
    return float(
        routed_utility(
            predicted.quality, predicted.cost, test.score, test.cost, unit, WEIGHTS
        ).mean()
    )


def _row(results: list[tuple[float, float, HeadGain]]) -> list[str]:
    kept, best = (np.array([result[at] for result in results]) for at in (0, 1))
    said = np.array([result[2].gain for result in results])
    times = sum(result[2].kept for result in results)
    return [f"{times} of {len(results)}", *map(_interval, (kept, best, said))]


def _interval(values: np.ndarray) -> str:
    error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
    return f"{values.mean():+.4f} ± {error:.4f}"


if __name__ == "__main__":
    main()
