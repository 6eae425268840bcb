"""What the quality benchmark measures: tasks, baselines on all splits, sequences of calls."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import xrouter_lg.checkpoints.family_head
import xrouter_lg.checkpoints.tool_fit
import xrouter_lg.fitting.family_head
from xrouter_lg.arrays import Floats
from xrouter_lg.checkpoints.family_head import FamilyHead
from xrouter_lg.checkpoints.parts import HeadStats
from xrouter_lg.figures import curve
from xrouter_lg.figures.bootstrap import Figure, figure
from xrouter_lg.figures.curve import Curve, Predictions, predicted_curve
from xrouter_lg.figures.metrics import Reference, difference, resample, weighted_gain
from xrouter_lg.files import whole
from xrouter_lg.fitting.family_head import fit_family_head, head_stats
from xrouter_lg.judge import baselines
from xrouter_lg.judge.baselines import Fitted, PredictedFamily, ToldLabel, answer_ids
from xrouter_lg.judge.gate import compare
from xrouter_lg.judge.gate.compare import (
    Builder,
    all_builders,
    cross_validated,
    estimated,
    reference_builders,
)
from xrouter_lg.outcomes import OutcomeTable, grid
from xrouter_lg.outcomes.grid import OutcomeGrid
from xrouter_lg.outcomes.split import family_folds, random_split
from xrouter_lg.policies.utility import certainty

DENSE = (0.0, *(float(x) for x in np.geomspace(0.001, 100.0, 79)))
"""Cost weights dense enough that choosing at them finds every vertex of a train half's hull."""
ONE_HEAD = "one family head for all pools"


@dataclass(frozen=True)
class QualityTask:
    sources: tuple[str, ...]
    rename: Mapping[str, str]
    about: str

    def read(self, folder: Path) -> OutcomeGrid:
        return OutcomeTable.load(folder).complete_grid(sources=self.sources, rename=self.rename)


TASKS = {
    "headline": QualityTask(
        ("zeroeval", "bfcl_v1"),
        {
            "gemini-1.5-pro-preview-0514": "gemini-1.5-pro",
            "gemini-1.5-flash-preview-0514": "gemini-1.5-flash",
        },
        "maths, code reasoning and tool calling in one stream",
    ),
    "mmlu_pro": QualityTask(("mmlu_pro",), {}, "fourteen subjects of knowledge"),
    "reasoning_gym": QualityTask(("reasoning_gym",), {}, "logic and games"),
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

    def __init__(self, folder: Path | None, whole: OutcomeGrid) -> None:
        code = hashlib.sha256()
        for module in (baselines, compare, curve, grid):
            for path in sorted(Path(str(module.__file__)).parent.glob("*.py")):
                code.update(path.read_bytes())
        for module in (
            xrouter_lg.fitting.family_head,
            xrouter_lg.checkpoints.family_head,
            xrouter_lg.checkpoints.tool_fit,
        ):
            code.update(Path(str(module.__file__)).read_bytes())
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
        with whole(path) as part, part.open("wb") as file:
            np.savez_compressed(
                file,
                name=np.array(made.name),
                cost_weight=made.cost_weight,
                score=made.score,
                cost=made.cost,
            )
        return made


@dataclass(frozen=True)
class HeadAlone:
    """The family head as a checkpoint has it, without a language model beside it: no token of a
    router is paid for."""

    name: str = "family head"

    def fit(self, train: OutcomeGrid) -> Fitted:
        return fit_one_head([train])[0]


def fit_one_head(tables: Sequence[OutcomeGrid]) -> list[Fitted]:
    """One head that learns from the prompts of several pools, as it serves each of them."""
    models = tuple(dict.fromkeys(name for part in tables for name in part.models))
    prompts = [text for part in tables for text in part.prompts]
    families = [name for part in tables for name in part.families]
    score = np.concatenate([_among(part.score, part.models, models) for part in tables])
    cost = np.concatenate([_among(part.cost, part.models, models) for part in tables])
    head = fit_family_head(prompts, families, score, cost, models)
    stats = None if head is None else head_stats(head, prompts, share=1.0)
    return [
        _FittedHead(
            head, stats, part.models, Predictions(part.score.mean(0)[None], part.cost.mean(0)[None])
        )
        for part in tables
    ]


@dataclass(frozen=True)
class _FittedHead:
    head: FamilyHead | None
    stats: HeadStats | None
    models: tuple[str, ...]
    prior: Predictions
    """[1, M] mean score and cost."""

    def predict(self, prompts: Sequence[str], families: Sequence[str] | None = None) -> Predictions:
        quality = np.repeat(self.prior.quality, len(prompts), axis=0)
        cost = np.repeat(self.prior.cost, len(prompts), axis=0)
        if self.head is None or self.stats is None:
            return Predictions(quality, cost)
        for row, text in enumerate(prompts):
            reading = self.head.read(text)
            trust = certainty(self.stats, reading)
            own = np.array([reading.quality[name] for name in self.models])
            ratio = np.array([reading.cost_ratio[name] for name in self.models])
            quality[row] += trust * (own - quality[row])
            cost[row] *= 1.0 + trust * (ratio - 1.0)
        return Predictions(quality, cost)


def _among(values: Floats, own: Sequence[str], models: Sequence[str]) -> Floats:
    """[N, M] under a longer list of models; NaN where a table lacks one."""
    wide = np.full((len(values), len(models)), np.nan)
    wide[:, [models.index(name) for name in own]] = values
    return wide


def builders_of(models: Sequence[str], dial: tuple[float, ...] | None = None) -> dict[str, Builder]:
    """Every baseline, then what is shipped."""
    head = HeadAlone()
    return {
        **all_builders(models, dial=dial),
        head.name: estimated(head),
    }


def measure(
    whole: OutcomeGrid, *, seed: int, draws: int, kept: Kept, say: Callable[[str], None]
) -> list[Measured]:
    """Every baseline and the family head, on all splits."""
    train, test = random_split(whole, seed=seed)
    reference, everything = Reference.of(train), Reference.of(whole)
    pooled, halves = builders_of(whole.models, DENSE), builders_of(whole.models)
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
    whole: OutcomeGrid,
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


def together(
    tables: Mapping[str, OutcomeGrid],
    *,
    seed: int,
    draws: int,
    kept: Mapping[str, Kept],
    say: Callable[[str], None],
) -> dict[str, Figure]:
    """The gain on half splits over all pools, weighted by their prompts: of what is fitted to each
    pool by itself, and of one head that learns from half of each."""
    splits = {name: random_split(table, seed=seed) for name, table in tables.items()}
    heads: dict[str, Fitted] = {}

    def one_head(task: str, test: OutcomeGrid, reference: Reference) -> Curve:
        if not heads:
            heads.update(zip(splits, fit_one_head([a for a, _ in splits.values()]), strict=True))
        return predicted_curve(
            ONE_HEAD,
            heads[task].predict(test.prompts, test.families),
            test,
            c_ref=reference.c_ref,
        )

    parts: dict[str, list[tuple[Curve, OutcomeGrid, Reference]]] = {}
    for task, (train, test) in splits.items():
        reference = Reference.of(train)
        builders: dict[str, Builder] = {
            **builders_of(train.models),
            ONE_HEAD: lambda _, test, reference, task=task: one_head(task, test, reference),  # type: ignore[misc]
        }
        for row, build in builders.items():
            if row in train.models:
                continue
            say(f"{task}, together: {row}")
            found = kept[task].curve(
                f"half {seed} {row}",
                lambda b=build, a=train, t=test, r=reference: b(a, t, r),  # type: ignore[misc]
            )
            parts.setdefault(row, []).append((found, test, reference))
    return {row: figure(weighted_gain(own, draws=draws, seed=seed)) for row, own in parts.items()}


@dataclass(frozen=True)
class SequenceRow:
    name: str
    gain: float
    spread: float
    """Standard deviation over the splits."""
    parity: float
    """Median."""


def sequences(folder: Path, *, splits: int, say: Callable[[str], None]) -> list[SequenceRow]:
    """Policies of several calls beside those of one, over half splits; every call is paid."""
    from xrouter_lg.fitting.cascade import Recorded, fit_answers
    from xrouter_lg.fitting.cascade_choice import plan_curve, read_recorded

    whole, recorded = read_recorded(folder)
    whole = dataclasses.replace(whole, more={"answer": answer_ids(whole.more["response"].tolist())})
    row = {name: n for n, name in enumerate(whole.prompt_ids)}

    def rows_of(half: OutcomeGrid) -> Recorded:
        return recorded.rows(np.array([row[name] for name in half.prompt_ids]))

    def planned(train: OutcomeGrid, test: OutcomeGrid, reference: Reference) -> Curve:
        return plan_curve(fit_answers(train, rows_of(train)), test, rows_of(test))

    builders: dict[str, Builder] = {
        "static mix": reference_builders()["static mix"],
        "kNN": estimated(baselines.Neighbours()),
        "predicted family": estimated(PredictedFamily()),
        "told the label": estimated(ToldLabel()),
        "agreement cascade": compare.cascade_builders(agreement=True)["agreement cascade"],
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
        rows.append(SequenceRow(name, float(np.mean(gains)), spread, float(np.median(parities))))
    return rows
