from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from xrouter_lg.figures.curve import predicted_curve
from xrouter_lg.figures.metrics import Reference, evaluate
from xrouter_lg.judge.baselines.cascades import agreement_cascade, answer_ids, verify_cascade
from xrouter_lg.judge.baselines.learned import (
    LEARNED,
    Estimator,
    knn,
    logistic_head,
    predicted_family,
    told_label,
)
from xrouter_lg.judge.gate.compare import (
    compare_halves,
    estimated,
    fixed_builders,
    reference_builders,
)
from xrouter_lg.outcomes.grid import OutcomeGrid
from xrouter_lg.outcomes.split import random_split

every_estimator = pytest.mark.parametrize("estimator", LEARNED.values(), ids=LEARNED)


@pytest.fixture
def halves(two_tasks: OutcomeGrid) -> tuple[OutcomeGrid, OutcomeGrid]:
    return random_split(two_tasks, seed=0)


@every_estimator
def test_an_estimator_that_can_read_beats_the_zero_router(
    estimator: Estimator, halves: tuple[OutcomeGrid, OutcomeGrid]
) -> None:
    train, test = halves
    predictions = estimator(train, test.prompts, test.families)
    reference = Reference.of(train)
    curve = predicted_curve("learned", predictions, test, c_ref=reference.c_ref)
    assert evaluate(curve, test, reference, draws=200).gain.above(0.02)


@every_estimator
def test_predictions_do_not_depend_on_the_rest_of_the_batch(
    estimator: Estimator, halves: tuple[OutcomeGrid, OutcomeGrid]
) -> None:
    train, test = halves
    together = estimator(train, test.prompts[:20], test.families[:20])
    alone = estimator(train, test.prompts[7:8], test.families[7:8])
    assert together.quality[7] == pytest.approx(alone.quality[0])
    assert together.cost[7] == pytest.approx(alone.cost[0])


@every_estimator
def test_predictions_are_scores_and_costs(
    estimator: Estimator, halves: tuple[OutcomeGrid, OutcomeGrid]
) -> None:
    train, _ = halves
    found = estimator(train, ["", "add 1", "something else"], ["sums", "x", "x"])
    assert ((found.quality >= 0) & (found.quality <= 1)).all()
    assert (found.cost > 0).all()


def test_family_means_are_shrunk_by_their_size(make_table: Callable[..., OutcomeGrid]) -> None:
    table = make_table([[1.0], [1.0], [0.0], [0.0]], [[1.0]] * 4, families=["a", "b", "b", "b"])
    found = told_label(table, ["?"] * 3, ["a", "b", "never seen"], strength=1.0)
    # Overall ½. a: 1 of 2 parts own (1); b: 3 of 4 parts own (1/3).
    assert found.quality[:, 0] == pytest.approx([0.75, 0.5 - 0.75 / 6, 0.5])


def test_an_unseen_family_gets_the_overall_mean(two_tasks: OutcomeGrid) -> None:
    found = told_label(two_tasks, ["?"], ["never seen"])
    assert found.quality[0] == pytest.approx(two_tasks.score.mean(0))


def test_the_told_label_bound_must_be_told(two_tasks: OutcomeGrid) -> None:
    with pytest.raises(ValueError, match="families"):
        told_label(two_tasks, ["?"])


def test_only_the_bound_reads_the_label(halves: tuple[OutcomeGrid, OutcomeGrid]) -> None:
    train, test = halves
    lies = ["sums"] * len(test)
    for name in LEARNED.keys() - {"told the label"}:
        told, untold = LEARNED[name](train, test.prompts, lies), LEARNED[name](train, test.prompts)
        assert (told.quality == untold.quality).all(), name


def test_knn_is_a_blend_of_its_neighbours_and_the_mean(
    make_table: Callable[..., OutcomeGrid],
) -> None:
    table = make_table(
        [[1.0], [0.0], [0.0]], [[3.0], [1.0], [1.0]], prompts=["red fox", "blue sky", "blue sea"]
    )
    found = knn(table, ["a red fox"], k=1, weight=0.6)
    assert found.quality[0, 0] == pytest.approx(0.6 * 1.0 + 0.4 / 3)
    assert found.cost[0, 0] == pytest.approx(0.6 * 3.0 + 0.4 * 5 / 3)


def test_a_single_family_is_its_mean(make_table: Callable[..., OutcomeGrid]) -> None:
    table = make_table([[1.0], [0.0]], [[1.0], [1.0]])
    assert predicted_family(table, ["?"]).quality.tolist() == [[0.5]]


def test_a_model_that_never_fails_needs_no_classifier(
    make_table: Callable[..., OutcomeGrid],
) -> None:
    texts = ["red fox", "blue sky", "red sea", "blue fox"]
    table = make_table([[1, 1], [1, 0], [1, 1], [1, 0]], [[1, 1]] * 4, prompts=texts)
    assert logistic_head(table, ["a fox"], width=2).quality[0, 0] == 1.0


def test_a_verified_answer_is_kept_and_a_rejected_one_paid_twice(
    make_table: Callable[..., OutcomeGrid],
) -> None:
    table = make_table([[1, 1], [0, 1], [0, 0], [1, 1]], [[1, 10]] * 4)
    curve = verify_cascade(table, table, table.score >= 1, table.score >= 1)
    # Right on three of four; two of four escalate: 1 + 10 / 2. Always-dear is dearer and no better.
    assert curve.points.tolist() == [[1.0, 0.5], [6.0, 0.75]]


def test_agreement_accepts_and_disagreement_pays_a_third_call(
    make_table: Callable[..., OutcomeGrid],
) -> None:
    table = make_table([[1, 1, 1], [0, 1, 1], [1, 0, 1], [1, 1, 0]], [[1, 1.5, 20]] * 4)
    answers = np.array([[0, 0, 0], [0, 1, 1], [0, 1, 0], [0, 0, 1]])
    curve = agreement_cascade(table, table, answers, answers)
    # Both cheap ones on all, the dear one on the two where they differ: 2.5 + 20 / 2, all right.
    assert curve.points[-1] == pytest.approx([12.5, 1.0])


def test_two_missing_answers_do_not_agree(make_table: Callable[..., OutcomeGrid]) -> None:
    table = make_table([[0, 0, 1]], [[1, 1, 5]])
    curve = agreement_cascade(table, table, np.array([[-1, -1, 0]]), np.array([[-1, -1, 0]]))
    assert curve.points[-1] == pytest.approx([5.0, 1.0])
    assert curve.score.max() == 1.0


def test_equal_answers_get_equal_numbers_within_a_prompt() -> None:
    ids = answer_ids([['"answer": "2.0"', '"answer": 2', '"answer": "3"', None]])
    assert ids.tolist() == [[0, 0, 1, -1]]


def test_both_splits_stand_side_by_side_and_only_one_is_easy(two_tasks: OutcomeGrid) -> None:
    builders = {
        **fixed_builders(two_tasks.models),
        **reference_builders(),
        "told": estimated("told", told_label),
    }
    halves = random_split(two_tasks, seed=0)
    rows = {row.name: row for row in compare_halves(*halves, builders, draws=100).rows}
    assert set(rows) == {*two_tasks.models, "random", "static mix", "oracle", "told"}
    assert rows["told"].gain.above(0.02)
    unseen = rows["told"].unseen_gain.value
    # Taught on one kind only, it knows the wrong model for the other.
    assert unseen is not None and unseen < 0.0
