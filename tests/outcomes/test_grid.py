"""Grids: the part without holes, pools, what they have in common, and which outcomes they are."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from integrations.demo.questions import DATA
from tests.support.grids import make_grid
from xrouter_lg.figures.curve import static_mix_curve
from xrouter_lg.figures.metrics import Reference, evaluate
from xrouter_lg.judge.baselines.learned import knn as nearest
from xrouter_lg.judge.gate.compare import estimated
from xrouter_lg.outcomes import OutcomeError, OutcomeTable
from xrouter_lg.outcomes.grid import OutcomeGrid
from xrouter_lg.outcomes.split import random_split

NAN = float("nan")


def sources(*names: str, **fields: object) -> OutcomeGrid:
    """A prompt of each source; m0 and m1 cost 1 and 2, and are right in turns."""
    n = len(names)
    grid = make_grid([[i % 2, 1 - i % 2] for i in range(n)], [[1, 2]] * n)
    keys = tuple((name, "t", str(i)) for i, name in enumerate(names))
    return dataclasses.replace(grid, keys=keys, **fields)  # type: ignore[arg-type]


def test_among_equally_good_models_the_cheaper_is_the_best() -> None:
    grid = make_grid([[1, 1, 0]], [[3, 2, 1]])
    assert (grid.best_fixed(), grid.cheapest(), grid.reference_cost()) == (1, 2, 2.0)


def test_a_figure_over_all_models_refuses_holes_and_nothing() -> None:
    grid = make_grid([[1, 0], [1, 1]], [[1, NAN], [1, 1]])
    for figure in (grid.best_fixed, grid.cheapest, grid.reference_cost):
        with pytest.raises(OutcomeError, match=r"1 of 4 outcomes are unknown.*complete\(\)"):
            figure()
    assert grid.complete().best_fixed() == 0
    with pytest.raises(OutcomeError, match="needs prompts and models, got 0 and 2"):
        grid.rows(np.zeros(2, dtype=np.bool_)).best_fixed()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"score": np.array([[1.5]])}, "scores must lie"),
        ({"cost": np.array([[-1.0]])}, "costs must be"),
        ({"cost": np.array([[np.inf]])}, "costs must be"),
        ({"score": np.ones((1, 2))}, r"score has shape \(1, 2\), expected \(1, 1\)"),
        ({"prompts": ()}, "1 keys and 1 models, but 0 prompts"),
        ({"keys": (("p0",), ("p0",)), "prompts": ("a", "b"), "families": ("f", "f")}, "unique"),
    ],
)
def test_what_is_no_grid_is_refused(change: dict[str, object], said: str) -> None:
    with pytest.raises(OutcomeError, match=said):
        dataclasses.replace(make_grid([[1]], [[1]]), **change)  # type: ignore[arg-type]


def test_models_are_cards_by_their_normalised_names() -> None:
    grid = make_grid([[1, 1]], [[1, 1]], models=("GPT-4.1", "?"))
    assert grid.cards == ("gpt_4_1", "?")


def test_a_choice_of_rows_and_models_takes_every_column_along() -> None:
    grid = sources("a", "b", "a", more={"n": np.arange(6.0).reshape(3, 2)})
    grid = dataclasses.replace(grid, about={"meta": np.array(["x", None, "z"], dtype=object)})
    chosen = grid.of(("m1", "m0")).rows(np.array([2, 0]))
    assert chosen.prompt_ids == ("a|t|2", "a|t|0") and chosen.models == ("m1", "m0")
    assert chosen.cost.tolist() == [[2, 1], [2, 1]] and chosen.more["n"].tolist() == [
        [5, 4],
        [1, 0],
    ]
    assert chosen.about["meta"].tolist() == ["z", "x"]


def test_joined_grids_have_the_models_of_both_and_holes_between() -> None:
    one, other = sources("a", "a"), sources("b").of(("m1", "m2"))
    both = one.joined(other)
    assert both.models == ("m0", "m1", "m2") and both.cards == both.models
    assert both.candidates.tolist() == [[True, True, False]] * 2 + [[False, True, False]]
    assert both.complete(("m1",)).prompt_ids == both.prompt_ids


def test_declared_pools_are_pools_though_their_models_are_the_same() -> None:
    one = sources("a", "a", "a", declared=((("a",), ("m0", "m1")),))
    other = sources("b", declared=((("b",), ("m1", "m0")),))
    grid = one.joined(other)
    assert [(p.sources, p.models, p.rows.tolist()) for p in grid.pools()] == [
        (("a",), ("m0", "m1"), [0, 1, 2]),
        (("b",), ("m1", "m0"), [3]),
    ]
    assert [part.models for part in grid.parts()] == [("m0", "m1"), ("m1", "m0")]
    # Two in three of the first are right with m1, which costs 2; so is the other pool's one.
    assert grid.reference_cost() == pytest.approx((3 * 2 + 1 * 2) / 4)
    assert grid.fingerprint() != dataclasses.replace(grid, declared=()).fingerprint()
    assert [len(pool.rows) for pool in grid.rows(np.array([3])).pools()] == [0, 1]


def test_the_fingerprint_sees_scores_costs_and_names() -> None:
    grid = sources("a", "b")
    changed = [
        dataclasses.replace(grid, score=1 - grid.score),
        dataclasses.replace(grid, cost=2 * grid.cost),
        dataclasses.replace(grid, models=("m0", "other")),
        grid.rows(np.array([1, 0])),
    ]
    assert len({one.fingerprint() for one in (grid, *changed)}) == 5
    assert grid.fingerprint() == dataclasses.replace(grid, prompts=("x", "y")).fingerprint()


def test_the_recorded_demo_is_the_same_table_for_ever() -> None:
    grid = OutcomeTable.load(DATA).complete_grid()
    train, test = random_split(grid, seed=0)
    assert (len(grid), grid.fingerprint()) == (1352, "f3983bf5dacee231")
    assert (train.fingerprint(), test.fingerprint()) == (
        "0443e3c7f9964441",
        "a16cc3b11ea8a239",
    )
    assert repr(grid.reference_cost()) == "2.5766789820266268e-05"


def test_figures_of_the_recorded_demo_are_the_same_for_ever() -> None:
    train, test = random_split(OutcomeTable.load(DATA).complete_grid(), seed=0)
    reference = Reference.of(train)
    mix = evaluate(static_mix_curve(train, test), test, reference, draws=50)
    knn = evaluate(estimated("kNN", nearest)(train, test, reference), test, reference, draws=50)
    assert [mix.aiq.value, mix.gain.value] == pytest.approx(
        [0.6091867469879517, -0.008896967487886043]
    )
    assert [knn.aiq.value, knn.gain.value] == pytest.approx([0.686230353724025, 0.0681466392481872])
