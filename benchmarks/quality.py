"""How good is a router on real outcomes, beside everything simpler? The headline table.

    python benchmarks/quality.py --data FOLDER [--checkpoint DIR] [--task headline] [--json]

FOLDER holds outcomes.parquet and prompts.parquet. Every policy is judged three ways, always
together: by cross-validation (five folds pooled, most prompts to learn from), on one half split
(where a checkpoint was trained), and on kinds of task that it never saw (whole families left out,
and whole tasks). Curves are kept in a cache: a second run redraws the table in seconds.

With --sequential FOLDER, an outcome table with responses, several calls per prompt are judged too:
mean and standard deviation over ten half splits.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.results import append, show
from training.judge import baselines, compare, curve, table
from training.judge.baselines import PredictedFamily, ToldLabel, answer_ids
from training.judge.bootstrap import Figure, figure
from training.judge.compare import (
    Builder,
    all_builders,
    cross_validated,
    estimated,
    reference_builders,
    weighted_gain,
)
from training.judge.curve import Curve, fixed_curve
from training.judge.estimates import cache_folder
from training.judge.metrics import DRAWS, Reference, difference, resample
from training.judge.table import Paired, family_folds, random_split, read_paired

DENSE = (0.0, *(float(x) for x in np.geomspace(0.001, 100.0, 79)))
"""Cost weights dense enough that choosing at them finds every vertex of a train half's hull."""


@dataclass(frozen=True)
class Task:
    sources: tuple[str, ...]
    rename: Mapping[str, str]
    about: str


TASKS = {
    "headline": Task(
        ("zeroeval", "bfcl_v1"),
        {
            "gemini-1.5-pro-preview-0514": "gemini-1.5-pro",
            "gemini-1.5-flash-preview-0514": "gemini-1.5-flash",
        },
        "maths, code reasoning and tool calling in one stream",
    ),
    "mmlu_pro": Task(("mmlu_pro",), {}, "fourteen subjects of knowledge"),
    "reasoning_gym": Task(("reasoning_gym",), {}, "logic and games"),
}


@dataclass(frozen=True)
class Measured:
    name: str
    folds: Figure | None
    """Gain in AIQ over the zero router, five folds pooled."""
    folds_parity: Figure | None
    half: Figure
    half_parity: Figure
    over_knn: Figure | None
    """AIQ over kNN's, on the same resamples of the half split."""
    unseen_families: Figure | None
    unseen_tasks: Figure | None


class Kept:
    """Curves on disk, by table, code and name: fits are slow, figures quick."""

    def __init__(self, folder: Path | None, whole: Paired) -> None:
        code = hashlib.sha256()
        for module in (baselines, compare, curve, table):
            for path in sorted(Path(str(module.__file__)).parent.glob("*.py")):
                code.update(path.read_bytes())
        self._folder = folder
        self._key = f"{whole.fingerprint()}-{code.hexdigest()[:12]}"

    def curve(self, what: str, make: Callable[[], Curve]) -> Curve:
        if self._folder is None:
            return make()
        digest = hashlib.sha256(what.encode()).hexdigest()[:16]
        path = self._folder / f"{self._key}-{digest}.npz"
        if path.is_file():
            with np.load(path, allow_pickle=False) as kept:
                return Curve(str(kept["name"]), kept["cost_weight"], kept["score"], kept["cost"])
        made = make()
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part.npz")
        arrays = {"cost_weight": made.cost_weight, "score": made.score, "cost": made.cost}
        np.savez_compressed(part, name=np.array(made.name), **arrays)
        part.replace(path)
        return made


def measure(
    whole: Paired, *, seed: int, draws: int, kept: Kept, say: Callable[[str], None]
) -> list[Measured]:
    """Every baseline, on all splits."""
    train, test = random_split(whole, seed=seed)
    reference, everything = Reference.of(train), Reference.of(whole)
    pooled, halves = all_builders(whole.models, dial=DENSE), all_builders(whole.models)
    knn = kept.curve(f"half {seed} kNN", lambda: halves["kNN"](train, test, reference))
    rows = []
    for name, build in halves.items():
        say(name)
        folds = kept.curve(
            f"folds {seed} {name}",
            lambda name=name: cross_validated(whole, pooled[name], seed=seed),  # type: ignore[misc]
        )
        half = kept.curve(
            f"half {seed} {name}",
            lambda build=build: build(train, test, reference),  # type: ignore[misc]
        )
        all_of_it = resample(folds, whole, everything, draws=draws, seed=seed)
        sample = resample(half, test, reference, draws=draws, seed=seed)
        over = None
        if name not in (*whole.models, "kNN"):
            over = difference(half, knn, test, reference, draws=draws, seed=seed)
        rows.append(
            Measured(
                name,
                figure(all_of_it.aiq - all_of_it.zero_aiq),
                figure(all_of_it.parity),
                figure(sample.aiq - sample.zero_aiq),
                figure(sample.parity),
                over,
                unseen(whole, name, build, None, seed=seed, draws=draws, kept=kept),
                unseen(whole, name, build, 2, seed=seed, draws=draws, kept=kept),
            )
        )
    return rows


def unseen(
    whole: Paired,
    name: str,
    build: Builder,
    depth: int | None,
    *,
    seed: int,
    draws: int,
    kept: Kept,
) -> Figure | None:
    """The gain where each kind is judged by a fit that never saw it; None with a single kind."""
    if len({"|".join(f.split("|")[:depth]) for f in whole.families}) < 2:
        return None
    parts = []
    for number, (train, test, _) in enumerate(family_folds(whole, seed=seed, depth=depth)):
        reference = Reference.of(train)
        found = kept.curve(
            f"unseen {depth} {seed} {number} {name}",
            lambda a=train, b=test, r=reference: build(a, b, r),  # type: ignore[misc]
        )
        parts.append((found, test, reference))
    return figure(weighted_gain(parts, draws=draws, seed=seed))


def judged_checkpoint(options: argparse.Namespace, task: Task) -> tuple[Measured, dict[str, Any]]:
    """The checkpoint's row: what `xrouter judge` says of it."""
    from training.judge.run import JudgeSettings, judge_checkpoint

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


@dataclass(frozen=True)
class Sequence:
    name: str
    gain: float
    spread: float
    """Standard deviation over the splits."""
    parity: float
    """Median."""


def sequences(folder: Path, *, splits: int, say: Callable[[str], None]) -> list[Sequence]:
    """Policies of several calls beside those of one, over half splits; every call is paid."""
    from training.answer_fit import Recorded, fit_answers
    from training.plans import plan_curve, read_answers

    whole = read_paired(folder / "outcomes.parquet", folder / "prompts.parquet")
    texts = read_answers(folder / "outcomes.parquet", whole)
    recorded = Recorded.of(texts)
    answers = dict(zip(whole.prompt_ids, answer_ids(texts).tolist(), strict=True))
    row = {name: n for n, name in enumerate(whole.prompt_ids)}

    def rows_of(half: Paired) -> Recorded:
        return recorded.rows(np.array([row[name] for name in half.prompt_ids]))

    def planned(train: Paired, test: Paired, reference: Reference) -> Curve:
        return plan_curve(fit_answers(train, rows_of(train)), test, rows_of(test))

    builders: dict[str, Builder] = {
        "static mix": reference_builders()["static mix"],
        "kNN": estimated(baselines.Neighbours()),
        "predicted family": estimated(PredictedFamily()),
        "told the label": estimated(ToldLabel()),
        "agreement cascade": compare.cascade_builders(answers)["agreement cascade"],
        "plans from a model of answers": planned,
    }
    rows = []
    for name, build in builders.items():
        say(f"sequences: {name}")
        gains, parities = [], []
        for seed in range(splits):
            train, test = random_split(whole, seed=seed)
            reference = Reference.of(train)
            sample = resample(build(train, test, reference), test, reference, draws=1)
            mix = resample(builders["static mix"](train, test, reference), test, reference, draws=1)
            gains.append(float((sample.aiq - mix.aiq)[0]))
            parities.append(float(sample.parity[0]))
        spread = float(np.std(gains, ddof=1)) if splits > 1 else 0.0
        rows.append(Sequence(name, float(np.mean(gains)), spread, float(np.median(parities))))
    return rows


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
    parser.add_argument("--task", choices=sorted(TASKS), default="headline")
    parser.add_argument("--checkpoint", type=Path, help="a trained checkpoint for one more row")
    parser.add_argument("--base", type=Path, help="its base model, if it is an adapter")
    parser.add_argument("--unseen", type=Path, action="append", help="trained without families")
    parser.add_argument("--sequential", type=Path, help="folder of a table with responses")
    parser.add_argument("--splits", type=int, default=10, help="half splits of --sequential")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--draws", type=int, default=DRAWS)
    parser.add_argument("--no-cache", action="store_true", help="fit everything anew")
    parser.add_argument("--output", type=Path, help="write the JSON here")
    parser.add_argument("--json", action="store_true", help="print JSON, append nothing")
    options = parser.parse_args()
    started, task = time.perf_counter(), TASKS[options.task]
    whole = read_paired(
        options.data / "outcomes.parquet",
        options.data / "prompts.parquet",
        sources=task.sources,
        rename=task.rename,
    )
    kept = Kept(None if options.no_cache else cache_folder() / "curves", whole)
    rows = measure(whole, seed=options.seed, draws=options.draws, kept=kept, say=_say)
    checkpoint = None
    if options.checkpoint is not None:
        row, checkpoint = judged_checkpoint(options, task)
        rows.insert(0, row)
    sequential = (
        []
        if options.sequential is None
        else sequences(options.sequential, splits=options.splits, say=_say)
    )
    reference = Reference.of(whole)
    zero = resample(fixed_curve(whole), whole, reference, draws=options.draws, seed=options.seed)
    best = whole.models[reference.best_fixed]
    data = {
        "command": " ".join(["python", *sys.argv]),
        "seconds": round(time.perf_counter() - started, 1),
        "task": options.task,
        "about": task.about,
        "prompts": len(whole),
        "models": list(whole.models),
        "best_fixed": best,
        "best_fixed_usd": whole.reference_cost(),
        "best_fixed_score": float(whole.score[:, reference.best_fixed].mean()),
        "zero_router_aiq": asdict(figure(zero.zero_aiq)),
        "seed": options.seed,
        "draws": options.draws,
        "rows": [asdict(row) for row in rows],
        "sequences": [asdict(row) for row in sequential],
        "checkpoint": checkpoint,
    }
    text = json.dumps(data, indent=1, allow_nan=False)
    if options.output is not None:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(text + "\n")
    if options.json:
        print(text)
        return 0
    _print(data, rows, sequential)
    shown = {row.name: row for row in rows}
    append(
        f"quality of {options.task}, seed {options.seed}, {data['seconds']} s: "
        + "; ".join(
            f"{name} {_gain(shown[name].half)} parity {_share(shown[name].half_parity)}"
            for name in [rows[0].name, "kNN", "predicted family", "told the label"]
            if name in shown
        )
    )
    return 0


def _print(data: dict[str, Any], rows: list[Measured], sequential: list[Sequence]) -> None:
    print(f"{data['command']}\n{data['prompts']} prompts, {data['about']}; {data['seconds']} s")
    print(
        f"best fixed {data['best_fixed']} {data['best_fixed_score']:.4f} at "
        f"${data['best_fixed_usd']:.6f}; zero router AIQ {data['zero_router_aiq']['value']:.4f}"
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
            for row in rows
        ],
    )  # fmt: skip
    if sequential:
        show(
            "Sequences of calls: gain over the static mix",
            ["policy", "gain", "parity (median)"],
            [[r.name, f"{r.gain:+.4f} ± {r.spread:.4f}", f"{r.parity:.0%}"] for r in sequential],
        )


if __name__ == "__main__":
    raise SystemExit(main())
