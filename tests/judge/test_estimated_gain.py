"""When a gain counts as likely, as expected, and as shown; and what of a log was drawn."""

from __future__ import annotations

import numpy as np
import pytest

from xrouter_lg.figures.bootstrap import Figure
from xrouter_lg.judge.logged_calls import LoggedCalls
from xrouter_lg.judge.one_sided import EstimatedGain
from xrouter_lg.value.overlap import SURE


def figure(value: float, error: float) -> Figure:
    return Figure(value, value - SURE * error, value + SURE * error)


def gain(model: Figure, robust: Figure | None) -> EstimatedGain:
    return EstimatedGain(model, robust)


@pytest.mark.parametrize(
    ("model", "robust", "likely"),
    [
        (figure(0.02, 0.1), figure(-0.01, 0.02), True),  # the draws do not rule it out
        (figure(0.02, 0.1), figure(-0.05, 0.02), False),  # they do
        (figure(-0.02, 0.1), figure(0.05, 0.02), False),  # nothing is expected
        (figure(0.02, 0.001), None, False),  # nothing was drawn
    ],
    ids=["open", "ruled out", "not expected", "never drawn"],
)
def test_a_gain_is_likely_where_it_is_expected_and_draws_do_not_rule_it_out(
    model: Figure, robust: Figure | None, likely: bool
) -> None:
    assert gain(model, robust).likely is likely


@pytest.mark.parametrize(("value", "expected"), [(0.29, False), (0.31, True), (-1.0, False)])
def test_a_gain_is_expected_from_a_part_of_its_error_on(value: float, expected: bool) -> None:
    assert gain(figure(value, 1.0), None).expected is expected


@pytest.mark.parametrize(
    ("model", "robust", "above"),
    [
        (figure(0.1, 0.01), figure(0.1, 0.2), True),
        (figure(0.1, 0.2), figure(0.1, 0.01), True),
        (figure(0.1, 0.2), figure(0.1, 0.2), False),
        (figure(0.1, 0.01), figure(-0.1, 0.2), False),
        (figure(0.1, 0.01), None, False),
    ],
    ids=["the model is sure", "the draws are sure", "neither", "they differ", "never drawn"],
)
def test_a_gain_is_shown_where_both_see_it_and_one_is_sure(
    model: Figure, robust: Figure | None, above: bool
) -> None:
    assert gain(model, robust).above is above


def test_what_was_drawn_has_a_chance_below_one_or_a_second_answer() -> None:
    score = np.array([[1.0, np.nan], [1.0, np.nan], [1.0, 0.0], [np.nan, np.nan], [np.nan, 1.0]])
    chance = np.array([[0.5, np.nan], [1.0, np.nan], [1.0, 1.0], [0.5, np.nan], [0.5, 1.0]])
    log = LoggedCalls(
        row=np.arange(5),
        card=np.zeros(5, dtype=np.int64),
        score_M=score,
        chance_M=chance,
        called_chance=chance[:, 0],
        scored_L=np.ones(5),
        requests=5,
    )
    # By a draw; by rule; with a bought answer; without a score; with a bought score alone.
    assert (log.scored, log.drawn) == (3, 2)
