"""One pool judged: what is measured, what is left open, and where the policy went wrong."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tests.judge.made import make_judged
from tests.support.grids import two_task_grid
from xrouter_lg.figures.curve import fixed_curve
from xrouter_lg.figures.metrics import Reference
from xrouter_lg.judge.baselines.learned import knn, told_label
from xrouter_lg.judge.gate.assess import Assessment, AssessSettings, Pooled, assess
from xrouter_lg.judge.gate.compare import (
    compare_halves,
    cross_validated,
    estimated,
    fixed_builders,
    random_folds,
)
from xrouter_lg.judge.run import Judged
from xrouter_lg.outcomes.grid import OutcomeGrid
from xrouter_lg.outcomes.split import random_split


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Judged:
    return make_judged(tmp_path_factory.mktemp("judged"), two_task_grid())


@pytest.fixture
def pool(judged: Judged) -> Assessment:
    return judged.pools[0]


def test_every_baseline_of_the_issue_has_a_row_on_both_splits(pool: Assessment) -> None:
    assert pool.comparison is not None
    names = [row.name for row in pool.comparison.rows]
    assert set(names) >= {
        *pool.models,
        "random",
        "static mix",
        "kNN",
        "predicted family",
        "linear head",
        "logistic head",
        "told the label",
        "perfect verify cascade",
        "oracle",
    }
    assert all(row.unseen_gain is not None for row in pool.comparison.rows)
    assert pool.shuffle_row is not None and pool.shuffle_row.name == "shuffle"


def test_a_policy_that_reads_beats_every_mixture_but_not_the_neighbours_that_read_too(
    judged: Judged, pool: Assessment
) -> None:
    assert judged.promote is False
    assert pool.verdict is not None and pool.verdict.use == "kNN"
    passed = {row.over: row.gain.above() for row in pool.verdict.gains}
    assert passed["best fixed"] and passed["static mix"] and passed["cost-matched shuffle"]
    assert not passed["kNN"]
    assert pool.policy_row.gain.above(0.02)
    assert pool.shuffle_row is not None and not pool.shuffle_row.gain.above(0.0)


def test_savings_add_up(judged: Judged, pool: Assessment) -> None:
    first = pool.savings[0]
    assert first.cost_weight == pytest.approx(0.3)
    chosen = judged.choices.filter(pl.col("cost_weight") == first.cost_weight)
    assert first.usd == pytest.approx((chosen["cost_usd"] + chosen["router_cost_usd"]).sum())
    assert first.saved_share.value == pytest.approx(1 - first.usd / first.fixed_usd)
    assert first.score == pytest.approx(chosen["score"].mean())


def test_routes_per_family_are_shares_of_its_prompts(pool: Assessment) -> None:
    assert sum(family.prompts for family in pool.families) == pool.prompts
    for family in pool.families:
        assert sum(family.shares.values()) == pytest.approx(1.0)
    sums = next(f for f in pool.families if f.family.endswith("sums"))
    assert max(sums.shares, key=lambda name: sums.shares[name]) == "adder"


def test_regressions_are_real_and_worst_first(judged: Judged, pool: Assessment) -> None:
    assert pool.regressions
    losses = [row.loss for row in pool.regressions]
    assert losses == sorted(losses, reverse=True)
    texts = dict(zip(judged.table.prompt_ids, judged.table.prompts, strict=True))
    for row in pool.regressions:
        assert row.score < row.fixed_score and texts[row.prompt_id] == row.prompt
        assert row.expected is not None and 0 <= row.expected <= 1


def test_the_band_holds_the_curve_and_ends_with_money(pool: Assessment) -> None:
    low, mid, high = (np.array(v) for v in (pool.band.low, pool.band.score, pool.band.high))
    assert ((low <= mid + 1e-9) & (mid <= high + 1e-9)).all()
    assert (np.diff(mid) >= -1e-12).all() and (np.diff(pool.band.usd) > 0).all()


def test_everything_is_json(judged: Judged) -> None:
    data = json.loads(json.dumps(judged.to_json(), allow_nan=False))
    assert data["pools"][0]["parts"]["all"]["metrics"]["gain"]["value"] > 0
    assert data["promote"] is False and data["prompts"] == len(judged.table)


def test_families_the_checkpoint_never_saw_are_judged_apart(
    judged: Judged, pool: Assessment, tmp_path: Path
) -> None:
    paired = judged.table.complete(pool.models)
    seen = frozenset(f for f in paired.families if f.endswith("sums"))
    reference = Reference(1, 0, judged.manifest.c_ref_usd)
    apart = assess(
        Pooled(judged.choices, paired, None, reference, seen),
        AssessSettings(cost_weight=0.3, draws=40),
    )
    assert set(apart.parts) == {"all", "seen families", "unseen families"}
    sizes = {name: part.prompts for name, part in apart.parts.items()}
    assert sizes["seen families"] + sizes["unseen families"] == sizes["all"]
    assert apart.policy_row.unseen_gain == apart.parts["unseen families"].metrics.gain


def test_without_a_training_half_there_is_no_verdict_and_no_baseline(
    judged: Judged, pool: Assessment
) -> None:
    paired = judged.table.complete(pool.models)
    reference = Reference(1, 0, judged.manifest.c_ref_usd)
    bare = assess(
        Pooled(judged.choices, paired, None, reference, frozenset()),
        AssessSettings(cost_weight=0.3, draws=40),
    )
    assert bare.verdict is None and bare.comparison is None and bare.over_knn is None
    assert bare.parts["all"].reference_from == "checkpoint"
    assert bare.parts["all"].best_fixed == "large"


def test_the_production_checkpoint_must_be_beaten_too(judged: Judged, pool: Assessment) -> None:
    paired = judged.table.complete(pool.models)
    reference = Reference(1, 0, judged.manifest.c_ref_usd)
    same = assess(
        Pooled(judged.choices, paired, paired, reference, frozenset(), production=judged.choices),
        AssessSettings(cost_weight=0.3, draws=40, baselines=False),
    )
    assert same.verdict is not None and not same.verdict.promote
    assert any("production" in reason for reason in same.verdict.reasons)


def test_a_single_family_leaves_the_unseen_column_open(two_tasks: OutcomeGrid) -> None:
    one = two_tasks.rows(np.array([f == "sums" for f in two_tasks.families]))
    found = compare_halves(*random_split(one, seed=0), fixed_builders(one.models), draws=20)
    assert all(row.unseen_gain is None for row in found.rows)


def test_cross_validation_judges_every_prompt_once_by_a_fit_that_did_not_see_it(
    two_tasks: OutcomeGrid,
) -> None:
    fold = random_folds(two_tasks, seed=0, folds=5)
    assert set(fold) == set(range(5))
    curve = cross_validated(two_tasks, estimated("told", told_label), folds=5)
    assert curve.score.shape == (len(curve.cost_weight), len(two_tasks))
    # At quality alone a router that is told the kind takes a model that is good at it.
    assert curve.score[0].mean() > 0.85
    alone = estimated("nearest", partial(knn, k=1, weight=1.0))
    # A nearest neighbour that had seen the prompt itself would repeat its outcome.
    assert cross_validated(two_tasks, alone, folds=5).score[0].mean() < 0.97


def test_curves_with_other_settings_in_every_fold_are_not_pooled(two_tasks: OutcomeGrid) -> None:
    def odd(train: OutcomeGrid, test: OutcomeGrid, reference: Reference) -> object:
        curve = fixed_curve(test)
        keep = 2 if len(train) % 2 else 3
        return type(curve)("odd", curve.cost_weight[:keep], curve.score[:keep], curve.cost[:keep])

    sizes = {int((random_folds(two_tasks, seed=0, folds=5) != n).sum()) % 2 for n in range(5)}
    assert sizes == {0, 1}
    with pytest.raises(ValueError, match="other settings in every fold"):
        cross_validated(two_tasks, odd, folds=5)  # type: ignore[arg-type]
