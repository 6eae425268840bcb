"""What the quality benchmark measures: tasks, baselines on all splits, sequences of calls."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import xrouter_lg.checkpoints.family_head
import xrouter_lg.checkpoints.tool_fit
import xrouter_lg.fitting.family_head
from xrouter_lg.checkpoints.family_head import FamilyHead
from xrouter_lg.checkpoints.parts import HeadStats
from xrouter_lg.figures import curve
from xrouter_lg.figures.bootstrap import Figure, figure
from xrouter_lg.figures.curve import Curve, Predictions, predicted_curve
from xrouter_lg.figures.metrics import Reference, difference, weighted_gain
from xrouter_lg.files import whole
from xrouter_lg.fitting.family_head import head_of, head_stats
from xrouter_lg.judge.baselines import cascades
from xrouter_lg.judge.baselines.learned import LEARNED
from xrouter_lg.judge.gate import compare
from xrouter_lg.judge.gate.compare import (
    Builder,
    all_builders,
    cross_validated,
    estimated,
    reference_builders,
    row_of,
    unseen_gain,
)
from xrouter_lg.outcomes import OutcomeTable, grid
from xrouter_lg.outcomes.grid import OutcomeGrid
from xrouter_lg.outcomes.split import random_split
from xrouter_lg.policies.utility import certainty
from xrouter_lg.value import posterior
from xrouter_lg.value.features import Features

DENSE = (0.0, *(float(x) for x in np.geomspace(0.001, 100.0, 79)))
"""Cost weights dense enough that choosing at them finds every vertex of a train half's hull."""
ONE_HEAD = "one family head for all pools"
NO_LABELS = "family head, no labels"


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
    """Curves on disk, by code, name and outcomes: fits are slow, figures quick."""

    def __init__(self, folder: Path | None) -> None:
        code = hashlib.sha256()
        for module in (cascades, compare, curve, grid, posterior):
            for path in sorted(Path(str(module.__file__)).parent.glob("*.py")):
                code.update(path.read_bytes())
        for module in (
            xrouter_lg.fitting.family_head,
            xrouter_lg.checkpoints.family_head,
            xrouter_lg.checkpoints.tool_fit,
        ):
            code.update(Path(str(module.__file__)).read_bytes())
        self._folder, self._code = folder, code.hexdigest()[:12]

    def around(self, name: str, build: Builder) -> Builder:
        """The same builder, which does not build again what lies on disk."""
        if self._folder is None:
            return build
        folder = self._folder

        def kept(train: OutcomeGrid, test: OutcomeGrid, reference: Reference) -> Curve:
            what = f"{self._code} {name} {train.fingerprint()} {test.fingerprint()}"
            path = folder / f"{hashlib.sha256(what.encode()).hexdigest()[:24]}.npz"
            if path.is_file():
                with np.load(path, allow_pickle=False) as file:
                    return Curve(
                        str(file["name"]), file["cost_weight"], file["score"], file["cost"]
                    )
            made = build(train, test, reference)
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

        return kept


def family_head(
    train: OutcomeGrid, prompts: Sequence[str], families: Sequence[str] | None = None
) -> Predictions:
    """The family head as a checkpoint has it, without a language model beside it: no token of a
    router is paid for."""
    return fit_one_head([train])[0].predict(prompts)


def unlabelled_head(
    train: OutcomeGrid, prompts: Sequence[str], families: Sequence[str] | None = None
) -> Predictions:
    """The same where nobody has told the kind of task of any prompt."""
    untold = dataclasses.replace(train, families=("",) * len(train))
    return fit_one_head([untold])[0].predict(prompts)


def fit_one_head(tables: Sequence[OutcomeGrid]) -> list[FittedHead]:
    """One head that learns from the prompts of several pools, as it serves each of them."""
    whole = functools.reduce(OutcomeGrid.joined, tables)
    head = head_of(whole, whole.models)
    stats = None if head is None else head_stats(head, Features.of(whole.prompts), share=1.0)
    return [
        FittedHead(
            head, stats, part.models, Predictions(part.score.mean(0)[None], part.cost.mean(0)[None])
        )
        for part in tables
    ]


@dataclass(frozen=True)
class FittedHead:
    head: FamilyHead | None
    stats: HeadStats | None
    models: tuple[str, ...]
    prior: Predictions
    """[1, M] mean score and cost."""

    def predict(self, prompts: Sequence[str]) -> Predictions:
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


def builders_of(models: Sequence[str], dial: tuple[float, ...] | None = None) -> dict[str, Builder]:
    """Every baseline, then what is shipped."""
    return {
        **all_builders(models, dial=dial),
        "family head": estimated("family head", family_head),
        NO_LABELS: estimated(NO_LABELS, unlabelled_head),
    }


def measure(
    whole: OutcomeGrid, *, seed: int, draws: int, kept: Kept, say: Callable[[str], None]
) -> list[Measured]:
    """Every baseline and the family head, on all splits."""
    how = {"seed": seed, "draws": draws}
    train, test = random_split(whole, seed=seed)
    reference, everything = Reference.of(train), Reference.of(whole)
    pooled = builders_of(whole.models, DENSE)
    halves = {name: kept.around(name, build) for name, build in builders_of(whole.models).items()}
    knn = halves["kNN"](train, test, reference)
    rows = []
    for name, build in halves.items():
        say(name)
        folds = cross_validated(whole, kept.around(f"dense {name}", pooled[name]), seed=seed)
        half = build(train, test, reference)
        over = None
        if name not in (*whole.models, "kNN"):
            over = difference(half, knn, test, reference, **how)
        all_of_it, of_half = (
            row_of(folds, whole, everything, **how),
            row_of(half, test, reference, **how),
        )
        rows.append(
            Measured(
                name,
                all_of_it.gain,
                all_of_it.parity,
                of_half.gain,
                of_half.parity,
                over,
                unseen_gain(whole, build, **how),
                unseen_gain(whole, build, depth=2, **how),
            )
        )
    return rows


def together(
    tables: Mapping[str, OutcomeGrid],
    *,
    seed: int,
    draws: int,
    kept: Kept,
    say: Callable[[str], None],
) -> dict[str, Figure]:
    """The gain on half splits over all pools, weighted by their prompts: of what is fitted to each
    pool by itself, and of one head that learns from half of each."""
    splits = {name: random_split(table, seed=seed) for name, table in tables.items()}
    heads: dict[str, FittedHead] = {}

    def one_head(task: str, test: OutcomeGrid, reference: Reference) -> Curve:
        if not heads:
            heads.update(zip(splits, fit_one_head([a for a, _ in splits.values()]), strict=True))
        predicted = heads[task].predict(test.prompts)
        return predicted_curve(ONE_HEAD, predicted, test, c_ref=reference.c_ref)

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
            found = kept.around(row, build)(train, test, reference)
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
    from xrouter_lg.fitting.cascade import fit_answers
    from xrouter_lg.fitting.cascade_choice import Split, plan_curve, read_recorded

    table, recorded = read_recorded(folder)
    answers = cascades.answer_ids(table.more["response"].tolist())
    table = dataclasses.replace(table, more={"answer": answers})
    builders: dict[str, Builder] = {
        "static mix": reference_builders()["static mix"],
        **{
            name: estimated(name, LEARNED[name])
            for name in ("kNN", "predicted family", "told the label")
        },
        "agreement cascade": compare.cascade_builders(agreement=True)["agreement cascade"],
    }
    every = [Split.of(table, recorded, seed) for seed in range(splits)]

    def planned(split: Split) -> Curve:
        return plan_curve(fit_answers(split.train, split.learned_from), split.test, split.judged_on)

    rows = []
    for name in (*builders, "plans from a model of answers"):
        say(f"sequences: {name}")
        judged = [
            split.judge(
                builders[name](split.train, split.test, split.reference)
                if name in builders
                else planned(split)
            )
            for split in every
        ]
        gains = [one.over_mix for one in judged]
        spread = float(np.std(gains, ddof=1)) if splits > 1 else 0.0
        parity = float(np.median([one.parity for one in judged]))
        rows.append(SequenceRow(name, float(np.mean(gains)), spread, parity))
    return rows
