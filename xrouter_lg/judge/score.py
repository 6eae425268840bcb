"""The figures of a checkpoint from the file of its choices: the definition of its score.

A choices file (Parquet) has one row per prompt and cost weight:

    source, task, prompt_id   which prompt
    cost_weight               λ, at least eight of them
    model                     the model whose answer was returned; several calls: joined by `+`
    score                     of the answer returned, 0 to 1
    cost_usd                  all worker calls made for it
    router_cost_usd           the decision itself, on top of cost_usd
    probability               optional: the policy's success probability for its choice

Every prompt of the outcome table must be answered at every cost weight (a router that skips hard
prompts would otherwise win), and what a single named model scored and cost must be what the
outcome table says. Everything else follows from `metrics`, with cost = cost_usd + router_cost_usd.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from xrouter_lg.arrays import Floats, Ints
from xrouter_lg.figures.curve import Curve
from xrouter_lg.figures.dial import Dial, check_dial
from xrouter_lg.figures.metrics import DRAWS, Metrics, Reference, evaluate
from xrouter_lg.figures.quality import Calibration, calibration
from xrouter_lg.files import reading
from xrouter_lg.outcomes.grid import OutcomeGrid
from xrouter_lg.outcomes.schema import KEY

COLUMNS = (*KEY, "cost_weight", "model", "score", "cost_usd", "router_cost_usd")
MIN_WEIGHTS = 8


@dataclass(frozen=True)
class Score:
    metrics: Metrics
    dial: Dial
    calibration: Calibration | None
    """Of the chosen models' success probabilities; None when the file has none."""
    best_fixed: str
    cheapest: str
    reference_from: str
    """Where best fixed and cheapest were named: `train`, `checkpoint` (by its own statistics), or
    `test` when neither was given."""
    prompts: int
    draws: int
    seed: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def read_choices(
    choices: str | Path | pl.DataFrame, test: OutcomeGrid
) -> tuple[Curve, Floats | None]:
    """The curve of a choices file on the prompts of `test`, and [L, N] probabilities if any."""
    with reading(lambda said: ValueError(f"choices file {choices}: {said}")):
        frame = choices if isinstance(choices, pl.DataFrame) else pl.read_parquet(choices)
    absent = [name for name in COLUMNS if name not in frame.columns]
    if absent:
        raise ValueError(f"the choices file lacks {absent!r}; it needs {COLUMNS!r}")
    at = pl.DataFrame({"id": test.prompt_ids, "row": np.arange(len(test))})
    frame = frame.with_columns(id=pl.concat_str(KEY, separator="|")).join(at, on="id")
    weights = np.unique(frame["cost_weight"].to_numpy())
    if len(weights) < MIN_WEIGHTS:
        raise ValueError(f"{len(weights)} cost weights on these prompts; {MIN_WEIGHTS} are needed")
    expected = len(weights) * len(test)
    if frame.height != expected or frame.select("row", "cost_weight").is_duplicated().any():
        raise ValueError(
            f"{frame.height} choices on the outcome table's prompts, expected one for each of "
            f"{len(test)} prompts × {len(weights)} cost weights = {expected}"
        )
    frame = frame.sort("cost_weight", "row")
    shape = (len(weights), len(test))

    def column(name: str) -> Floats:
        values = frame[name].cast(pl.Float64).to_numpy().reshape(shape)
        if not np.isfinite(values).all():
            raise ValueError(f"{name} is unknown for some choices; unknown is not zero")
        return values

    router = column("router_cost_usd")
    score, worker = column("score"), column("cost_usd")
    choice = _choice(frame, shape, test, score, worker)
    probability = column("probability") if "probability" in frame.columns else None
    return Curve("choices", weights, score, worker + router, choice, router), probability


def curve_of(frame: pl.DataFrame, test: OutcomeGrid, name: str) -> Curve:
    """The curve of a choices table under another name."""
    return replace(read_choices(frame, test)[0], name=name)


def _choice(
    frame: pl.DataFrame, shape: tuple[int, int], test: OutcomeGrid, score: Floats, cost: Floats
) -> Ints | None:
    """[L, N] columns of the models named, checked against the table; None for several calls."""
    column = {name: m for m, name in enumerate(test.models)}
    names = frame["model"].to_list()
    if any(name is None or "+" in name for name in names):
        return None
    unknown = sorted({name for name in names if name not in column})
    if unknown:
        raise ValueError(f"{unknown!r} are not in the pool {test.models!r}")
    choice = np.array([column[name] for name in names], dtype=np.int64).reshape(shape)
    rows = np.arange(shape[1])
    for what, claimed, values in (("score", score, test.score), ("cost_usd", cost, test.cost)):
        if not np.allclose(claimed, values[rows, choice], rtol=1e-6, atol=1e-12):
            raise ValueError(f"{what} in the choices file differs from the outcome table's")
    return choice


def score_choices(
    choices: str | Path | pl.DataFrame,
    test: OutcomeGrid,
    *,
    train: OutcomeGrid | None = None,
    reference: Reference | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> Score:
    """All figures of a choices file. `train` names the best fixed and the cheapest model, or
    `reference` does, which is then taken to be the checkpoint's own."""
    if train is not None and train.models != test.models:
        raise ValueError("train and test tables must have the same models in the same order")
    named = "train" if train is not None else "test" if reference is None else "checkpoint"
    if reference is None or train is not None:
        reference = Reference.of(test if train is None else train)
    curve, probability = read_choices(choices, test)
    return Score(
        metrics=evaluate(curve, test, reference, draws=draws, seed=seed),
        dial=check_dial(curve),
        calibration=None if probability is None else calibration(probability, curve.score),
        best_fixed=test.models[reference.best_fixed],
        cheapest=test.models[reference.cheapest],
        reference_from=named,
        prompts=len(test),
        draws=draws,
        seed=seed,
    )
