"""Which policy learns best from a stream of requests? Cumulative utility, regret, and recovery.

    OMP_NUM_THREADS=1 python benchmarks/stream.py --data FOLDER
        [--requests 10000] [--cost-weight 0.2] [--seeds 0 1 2] [--task headline]
        [--learners NAME ...] [--encoder FOLDER] [--plot FILE] [--json]

FOLDER holds outcomes.parquet and prompts.parquet: the truth, of which a learner sees the one cell
that it asks for. A thumb comes on 30 % of the answers, 100 requests late, one of ten turned round;
what an answer cost is known at once; every 500 requests a learner may retrain. On the way one card
joins (after 23 % of the requests), one changes its price threefold (45 %), and one is silently
swapped for a worse model (68 %).

The utility of a request is score − cost weight × cost / c_ref; c_ref is what the best fixed card
costs. What the columns mean is said in benchmarks/stream_parts/figures.py.

ParetoBandit needs `pip install paretobandit`; with --encoder, a folder that holds all-MiniLM-L6-v2
(and sentence-transformers), it runs on the features that it brings.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rich.console import Console

from benchmarks.quality_rows import TASKS
from benchmarks.results import append, command, show
from benchmarks.stream_parts import events, figures
from benchmarks.stream_parts.learner import Setting, SharedFeatures
from benchmarks.stream_parts.plot import draw
from benchmarks.stream_parts.registry import LEARNERS, PARETO, RANDOM, WORDS
from benchmarks.stream_parts.rivals.features import encoder_features, shared_features
from benchmarks.stream_parts.rivals.simple import Fixed, ToldEverything
from benchmarks.stream_parts.world import Played, StreamWorld, play
from training.stage.progress import Progress, shown
from xrouter_lg.figures.bootstrap import Figure
from xrouter_lg.outcomes import OutcomeTable

BEST, TOLD = "best fixed", "told everything"


def wanted(names: Sequence[str] | None, encoder: Path | None) -> list[str]:
    """The learners to run: those named, else all that can run here. Random is always among them:
    regret is measured by it."""
    if names is not None:
        return list(dict.fromkeys([RANDOM, *names]))
    found = list(LEARNERS)
    if importlib.util.find_spec("pareto_bandit") is None:
        print("left out: ParetoBandit; pip install paretobandit", file=sys.stderr)
        return [name for name in found if not name.startswith(PARETO)]
    return found if encoder is not None else [name for name in found if name != WORDS]


def run_all(
    worlds: Sequence[StreamWorld],
    settings: Sequence[Setting],
    names: Sequence[str],
    progress: Progress,
) -> tuple[dict[str, figures.Run], dict[str, list[Played | None]]]:
    """Every learner on every stream, and every fixed card on those where it is there throughout."""

    def tick(name: str, seed: int) -> Callable[[int], None]:
        return lambda done: progress(f"{name}, seed {seed}", done, worlds[0].requests, "")

    fixed: dict[str, list[Played | None]] = {
        card: [play(world, Fixed(card)) if card in world.always else None for world in worlds]
        for card in worlds[0].cards
    }
    best = []
    for i in range(len(worlds)):
        own = [played[i] for played in fixed.values()]
        best.append(max((one for one in own if one), key=lambda one: one.utility_T.sum()))
    runs = {
        TOLD: figures.Run(TOLD, [play(world, ToldEverything(world)) for world in worlds]),
        BEST: figures.Run(BEST, best),
    }
    for name in names:
        runs[name] = figures.Run(
            name,
            [
                play(world, LEARNERS[name](setting), tick(name, setting.seed))
                for world, setting in zip(worlds, settings, strict=True)
            ],
        )
    return runs, fixed


def measured(
    worlds: Sequence[StreamWorld], runs: dict[str, figures.Run], draws: int
) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows, the best first, and the rivals that each is divided by: ParetoBandit with its
    documented settings, and as it did best."""
    resamples = figures.Resamples(len(worlds), worlds[0].requests, draws=draws)
    bases = {
        "told": runs[TOLD].utility_ST,
        "best fixed": runs[BEST].utility_ST,
        "random": runs[RANDOM].utility_ST,
    }
    settings = [run for name, run in runs.items() if name.startswith(PARETO)]
    best = sorted(settings, key=lambda run: -run.utility_ST.sum())[:1]
    rivals = [run for run in settings if run.name == PARETO and run not in best] + best
    rows = [
        {
            **figures.row(run, bases, resamples, rivals=rivals),
            **figures.won_back(figures.recovery(worlds, run), draws=draws),
        }
        for run in runs.values()
    ]
    rows.sort(key=lambda row: -row["utility"].value)
    return rows, [run.name for run in rivals]


def fixed_rows(
    worlds: Sequence[StreamWorld], fixed: dict[str, list[Played | None]], told: figures.Run
) -> list[dict[str, Any]]:
    """Every card alone, over the streams where it is there from the first request to the last."""
    rows = []
    for card, played in fixed.items():
        there = [i for i, one in enumerate(played) if one is not None]
        own = np.array([one.utility_T.sum() for one in played if one is not None])
        if there:
            rows.append(
                {
                    "card": card,
                    "seeds": [worlds[i].seed for i in there],
                    "cumulative_utility": float(own.mean()),
                    "regret": float((told.utility_ST[there].sum(1) - own).mean()),
                }
            )
    return sorted(rows, key=lambda row: row["regret"])


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    started = time.perf_counter()
    task = TASKS[options.task]
    grid, swapped = events.read(
        OutcomeTable.load(options.data), sources=task.sources, rename=task.rename
    )
    names = wanted(options.learners, options.encoder)
    features = shared_features(grid.prompts)
    own: SharedFeatures | None = None
    with shown(Console(stderr=True), every_s=10) as progress:
        if options.encoder is not None:
            progress("encoding prompts", 0, len(grid), "")
            own = encoder_features(grid.prompts, options.encoder)
            progress("encoding prompts", len(grid), len(grid), "")
        worlds = [
            StreamWorld(
                grid, swapped,
                requests=options.requests, cost_weight=options.cost_weight, seed=seed,
            )
            for seed in options.seeds
        ]  # fmt: skip
        runs, fixed = run_all(worlds, [w.setting(features, own) for w in worlds], names, progress)
    rows, rivals = measured(worlds, runs, options.draws)
    drawn = False
    if options.plot is not None:
        drawn = _plot(options.plot, worlds, runs)
    data = {
        "command": command(),
        "seconds": round(time.perf_counter() - started, 1),
        "task": options.task,
        "own_features": own is not None,
        "prompts": len(grid),
        "cards": list(grid.models),
        "requests": options.requests,
        "cost_weight": options.cost_weight,
        "c_ref_usd": worlds[0].c_ref_usd,
        "events": {w.seed: [asdict(event) for event in w.events] for w in worlds},
        "rivals": rivals,
        "rows": rows,
        "fixed": fixed_rows(worlds, fixed, runs[TOLD]),
    }
    text = json.dumps(data, indent=1, allow_nan=False, default=asdict)
    if options.output is not None:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(text + "\n")
    if options.json:
        print(text)
        return 0
    _print(data)
    if options.plot is not None:
        print(options.plot if drawn else "no plot: matplotlib is not installed")
    append(
        f"{options.task}, {data['seconds']} s; over best fixed in {options.requests} requests: "
        + "; ".join(f"{row['learner']} {_signed(row['over_best_fixed'])}" for row in rows)
    )
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of the outcome table")
    parser.add_argument("--task", choices=sorted(TASKS), default="headline")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--cost-weight", type=float, default=0.2)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--learners", nargs="+", choices=list(LEARNERS), metavar="NAME",
                        help=f"of {', '.join(LEARNERS)}; default: all that can run")  # fmt: skip
    parser.add_argument("--encoder", type=Path, help="folder of all-MiniLM-L6-v2")
    parser.add_argument("--plot", type=Path, help="draw a PNG here")
    parser.add_argument("--draws", type=int, default=figures.DRAWS, help="of the bootstrap")
    parser.add_argument("--output", type=Path, help="write the JSON here")
    parser.add_argument("--json", action="store_true", help="print JSON, append nothing")
    options = parser.parse_args(arguments)
    if options.requests < figures.LONG_ENOUGH:
        parser.error(
            f"--requests {options.requests}: after the swap there must be room for a recovery, "
            f"take {figures.LONG_ENOUGH} or more"
        )
    return options


def _plot(path: Path, worlds: Sequence[StreamWorld], runs: dict[str, figures.Run]) -> bool:
    best = runs[BEST].utility_ST
    above = {name: run.utility_ST - best for name, run in runs.items() if name != BEST}
    top = max(float(one.sum(1).max()) for one in above.values())
    return draw(path, above, worlds[0].events, below=-2 * top)


def _print(data: dict[str, Any]) -> None:
    print(f"{data['command']}\n{data['seconds']} s")
    for seed, found in data["events"].items():
        said = "; ".join(f"{e['at']}: {e['card']} {e['about']}" for e in found)
        print(f"seed {seed}: {said}")
    show(
        f"{data['requests']} requests at cost weight {data['cost_weight']:g} [95 %]",
        ["learner", "cumulative utility", "over best fixed", "regret", "explored", "USD / c_ref"],
        [
            [
                row["learner"],
                _plain(row["cumulative_utility"], "{:.0f}"),
                _signed(row["over_best_fixed"]),
                _plain(row["regret"], "{:.0f}"),
                f"{row['explored']:.1%}",
                f"{row['cost_usd'] / data['c_ref_usd']:.3f}",
            ]
            for row in data["rows"]
        ],
    )
    show(
        "Regret removed, of best fixed and of random; that of random as times a rival's; the swap",
        ["learner", "of best fixed", "of random", *(f"times {name}" for name in data["rivals"]),
         "swap cost", "won back"],
        [
            [
                row["learner"],
                _plain(row["removed_of_best_fixed"], "{:+.2f}"),
                _plain(row["removed_of_random"], "{:.2f}"),
                *(_plain(times["random"], "{:.2f}") for times in row["times"].values()),
                _plain(row["swap_cost"], "{:.3f}"),
                _plain(row["won_back"], "{:.0%}"),
            ]
            for row in data["rows"]
        ],
    )  # fmt: skip
    show(
        "Every card alone, where it is there throughout",
        ["card", "cumulative utility", "regret", "seeds"],
        [
            [
                row["card"],
                f"{row['cumulative_utility']:.0f}",
                f"{row['regret']:.0f}",
                " ".join(map(str, row["seeds"])),
            ]
            for row in data["fixed"]
        ],
    )


def _signed(value: Figure) -> str:
    return _plain(value, "{:+.0f}")


def _plain(value: Figure | None, form: str) -> str:
    if value is None:
        return ""
    said = ["never" if x is None else form.format(x) for x in (value.value, value.low, value.high)]
    return f"{said[0]} [{said[1]}, {said[2]}]"


if __name__ == "__main__":
    raise SystemExit(main())
