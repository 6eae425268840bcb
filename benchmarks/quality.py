"""How good is a router on real outcomes, beside everything simpler? The headline table.

    python benchmarks/quality.py --data FOLDER [--checkpoint DIR] [--task headline] [--json]

FOLDER holds outcomes.parquet and prompts.parquet. Every policy is judged three ways, always
together: by cross-validation (five folds pooled, most prompts to learn from), on one half split
(where a checkpoint was trained), and on kinds of task that it never saw (whole families left out,
and whole tasks). Curves are kept in a cache: a second run redraws the table in seconds.

--task all measures every task, and what one policy over all of them gains, each request in its own
pool. With --sequential FOLDER, an outcome table with responses, several calls per prompt are
judged too: mean and standard deviation over ten half splits.

--world asks instead what a router is worth that learns from what users have (benchmarks/worlds):
unlabelled (nobody tells kinds of task), one-sided (a log of one answer per request, some with a
thumb, some of those wrong), bought (answers chosen by what they teach, by what they cost);
--picture FILE draws the last two.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.quality_rows import (
    NO_LABELS,
    TASKS,
    Kept,
    Measured,
    QualityTask,
    measure,
    sequences,
    together,
)
from benchmarks.results import append, command, show
from benchmarks.worlds.commands import WORLDS, run_world
from xrouter_lg.figures.bootstrap import Figure, figure
from xrouter_lg.figures.curve import fixed_curve
from xrouter_lg.figures.metrics import DRAWS, Reference, resample
from xrouter_lg.judge.estimates import cache_folder
from xrouter_lg.outcomes.grid import OutcomeGrid


def judged_checkpoint(
    options: argparse.Namespace, task: QualityTask
) -> tuple[Measured, dict[str, Any]]:
    """The checkpoint's row: what `xrouter judge` says of it."""
    from xrouter_lg.judge.run import judge_checkpoint
    from xrouter_lg.judge.settings import JudgeSettings

    found = judge_checkpoint(
        JudgeSettings(
            checkpoint=options.checkpoint,
            base=options.base,
            outcomes=options.data / "outcomes.parquet",
            prompts=options.data / "prompts.parquet",
            sources=task.sources,
            rename=task.rename,
            unseen=tuple(options.unseen or ()),
            baselines=False,
            draws=options.draws,
            seed=options.seed,
            cache=cache_folder(),
        ),
        on_estimate=lambda done, whole, note: _say(f"checkpoint: {note}"),
    )
    pool = found.pools[0]
    row = Measured(
        f"checkpoint {found.manifest.version}",
        None,
        None,
        pool.policy_row.gain,
        pool.policy_row.parity,
        pool.over_knn,
        pool.policy_row.unseen_gain,
        None,
    )
    return row, found.to_json()


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _gain(value: Figure | None) -> str:
    if value is None or value.value is None:
        return ""
    return f"{value.value:+.4f} [{value.low or 0.0:+.4f}, {value.high or 0.0:+.4f}]"


def _share(value: Figure | None) -> str:
    if value is None:
        return ""
    return "never" if value.value is None else f"{value.value:.0%}"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of the outcome table")
    parser.add_argument("--world", choices=["labelled", *WORLDS], default="labelled")
    parser.add_argument("--picture", type=Path, help="draw the curves of --world here")
    parser.add_argument("--task", choices=[*sorted(TASKS), "all"], default="headline")
    parser.add_argument("--checkpoint", type=Path, help="a trained checkpoint for one more row")
    parser.add_argument("--base", type=Path, help="its base model, if it is an adapter")
    parser.add_argument("--unseen", type=Path, action="append", help="trained without families")
    parser.add_argument("--sequential", type=Path, help="folder of a table with responses")
    parser.add_argument(
        "--splits", type=int, default=10, help="half splits of --sequential and --world"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--draws", type=int, default=DRAWS)
    parser.add_argument("--no-cache", action="store_true", help="fit everything anew")
    parser.add_argument("--output", type=Path, help="write the JSON here")
    parser.add_argument("--json", action="store_true", help="print JSON, append nothing")
    options = parser.parse_args()
    if options.world != "labelled":
        if options.task == "all":
            parser.error("--world takes one task: name it")
        return run_world(options)
    started = time.perf_counter()
    names = sorted(TASKS) if options.task == "all" else [options.task]
    if options.task == "all" and options.checkpoint is not None:
        parser.error("--checkpoint is judged on one task: name it, or take xrouter judge")
    tables = {name: TASKS[name].read(options.data) for name in names}
    folder = None if options.no_cache else cache_folder() / "curves"
    kept = Kept(folder)
    found = [_task(name, tables[name], kept, options) for name in names]
    pooled = (
        together(tables, seed=options.seed, draws=options.draws, kept=kept, say=_say)
        if len(tables) > 1
        else {}
    )
    sequential = (
        []
        if options.sequential is None
        else sequences(options.sequential, splits=options.splits, say=_say)
    )
    data = {
        "command": command(),
        "seconds": round(time.perf_counter() - started, 1),
        "seed": options.seed,
        "draws": options.draws,
        "tasks": found,
        "together": {name: asdict(value) for name, value in pooled.items()},
        "sequences": [asdict(row) for row in sequential],
    }
    text = json.dumps(data, indent=1, allow_nan=False, default=asdict)
    if options.output is not None:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(text + "\n")
    if options.json:
        print(text)
        return 0
    print(f"{data['command']}\n{data['seconds']} s")
    for task in found:
        _print(task)
    if pooled:
        show(
            "All together, each in its own pool: gain on the half split, weighted by prompts",
            ["policy", "gain"],
            [[name, _gain(value)] for name, value in pooled.items()],
        )
    if sequential:
        show(
            "Sequences of calls: gain over the static mix",
            ["policy", "gain", "parity (median)"],
            [[r.name, f"{r.gain:+.4f} ± {r.spread:.4f}", f"{r.parity:.0%}"] for r in sequential],
        )
    append(f"seed {options.seed}, {data['seconds']} s; " + "; ".join(map(_line, found)))
    return 0


def _task(name: str, whole: OutcomeGrid, kept: Kept, options: argparse.Namespace) -> dict[str, Any]:
    """One task's figures."""
    task = TASKS[name]
    _say(f"{name}: {len(whole)} prompts, {len(whole.models)} models")
    settings = {"seed": options.seed, "draws": options.draws}
    rows = measure(whole, kept=kept, say=_say, **settings)
    checkpoint = None
    if options.checkpoint is not None:
        row, checkpoint = judged_checkpoint(options, task)
        rows.insert(0, row)
    reference = Reference.of(whole)
    zero = resample(fixed_curve(whole), whole, reference, **settings)
    return {
        "task": name,
        "about": task.about,
        "prompts": len(whole),
        "models": list(whole.models),
        "best_fixed": whole.models[reference.best_fixed],
        "best_fixed_usd": whole.reference_cost(),
        "best_fixed_score": float(whole.score[:, reference.best_fixed].mean()),
        "zero_router_aiq": asdict(figure(zero.zero_aiq)),
        "rows": rows,
        "checkpoint": checkpoint,
    }


def _line(task: dict[str, Any]) -> str:
    shown = {row.name: row for row in task["rows"]}
    wanted = [task["rows"][0].name] if task["checkpoint"] else []
    wanted += ["kNN", "predicted family", "family head", NO_LABELS, "told the label"]
    return f"{task['task']}: " + "; ".join(
        f"{name} {_gain(shown[name].half)} parity {_share(shown[name].half_parity)}"
        for name in wanted
    )


def _print(task: dict[str, Any]) -> None:
    print(f"\n{task['task']}: {task['prompts']} prompts, {task['about']}")
    print(
        f"best fixed {task['best_fixed']} {task['best_fixed_score']:.4f} at "
        f"${task['best_fixed_usd']:.6f}; zero router AIQ {task['zero_router_aiq']['value']:.4f}"
    )
    show(
        "Gain in AIQ over the zero router [95 %], and parity with the best fixed model",
        ["policy", "five folds", "parity", "half split", "parity", "over kNN",
         "families unseen", "tasks unseen"],
        [
            [
                row.name,
                _gain(row.folds),
                _share(row.folds_parity),
                _gain(row.half),
                _share(row.half_parity),
                _gain(row.over_knn),
                _gain(row.unseen_families),
                _gain(row.unseen_tasks),
            ]
            for row in task["rows"]
        ],
    )  # fmt: skip


if __name__ == "__main__":
    raise SystemExit(main())
