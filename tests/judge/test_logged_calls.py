"""What is read of a log: which card was called, by which chance, and how it was scored."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.support.grids import make_grid
from xrouter_lg.judge.logged_calls import LoggedCalls, requests_per_day
from xrouter_lg.outcomes.grid import OutcomeGrid
from xrouter_lg.value.change import LEFT
from xrouter_lg.value.evidence import Evidence

N = float("nan")
DAY = 86_400.0
CARDS = ("small", "medium", "large")


def grid(score: Any, cost: Any, **more: Any) -> OutcomeGrid:
    columns = {name: np.array(value, dtype=float) for name, value in more.items()}
    return replace(make_grid(score, cost, models=CARDS), more=columns)


def six_requests() -> OutcomeGrid:
    """Called and scored; called and not scored; one bought beside the log's own, by its propensity
    and by its time; two of which nobody knows whose turn it was; one that was never answered."""
    return grid(
        [[1, N, N], [N, N, N], [0, N, 1], [1, 0, N], [1, 1, N], [N, N, N]],
        [[1, N, N], [N, 2, N], [1, N, 9], [1, 2, N], [1, 2, N], [N, N, N]],
        propensity=[[0.8, N, N], [N, 0.2, N], [0.8, N, N], [N, N, N], [N, N, N], [N, N, N]],
        observed_at=[[1, N, N], [N, 2, N], [30, N, 3], [4, 5, N], [N, N, N], [N, N, N]],
    )


def test_the_logs_own_call_is_the_drawn_one_else_the_first() -> None:
    table = six_requests()
    log = LoggedCalls.of(table, Evidence.of(table))
    assert log.row.tolist() == [0, 1, 2, 3]
    assert log.card.tolist() == [0, 1, 0, 0]
    assert log.called_chance == pytest.approx([0.8, 0.2, 0.8, N], nan_ok=True)
    assert log.score_M == pytest.approx(
        np.array([[1, N, N], [N, N, N], [0, N, 1], [1, 0, N]]), nan_ok=True
    )
    # What was bought is seen for certain; whether the log's own was, is its propensity.
    assert log.chance_M == pytest.approx(
        np.array([[0.8, N, N], [N, 0.2, N], [0.8, N, 1], [N, 1, N]]), nan_ok=True
    )
    assert (log.requests, log.scored, log.drawn) == (6, 3, 3)


def test_a_card_of_which_more_is_said_is_heard_as_loud_as_all() -> None:
    table = six_requests()
    log = LoggedCalls.of(table, Evidence.of(table))
    # Three of four calls are scored: all three of small's, none of medium's; ten calls' worth of
    # the usual share with each. Requests with several scores are compared among themselves.
    small, medium = (3 / 0.75 + 10) / 13, 10 / 11
    assert log.scored_L == pytest.approx([small, medium, 1, 1])


def test_two_answers_of_one_time_are_nobodys_turn() -> None:
    table = grid([[1, 0, N]], [[1, 2, N]], observed_at=[[7, 7, N]])
    assert len(LoggedCalls.of(table, Evidence.of(table)).row) == 0


def test_a_score_of_which_no_cost_is_known_was_a_call() -> None:
    table = grid([[N, 1, N]], [[N, N, N]])
    assert LoggedCalls.of(table, Evidence.of(table)).card.tolist() == [1]


def test_a_log_that_nobody_scored_is_heard_as_it_is() -> None:
    table = grid([[N, N, N]] * 2, [[1, N, N], [N, 2, N]])
    log = LoggedCalls.of(table, Evidence.of(table))
    assert (log.card.tolist(), log.scored_L.tolist()) == ([0, 1], [1, 1])


def test_what_a_card_scored_before_it_changed_is_no_score() -> None:
    table = six_requests()
    evidence = Evidence.of(table)
    worth = np.where(evidence.prompt_R == 0, LEFT, 1.0)
    log = LoggedCalls.of(table, replace(evidence, worth_R=worth))
    assert np.isnan(log.score_M[0]).all()
    assert log.scored == 2
    worth = np.where(evidence.prompt_R == 0, LEFT + 1e-6, 1.0)
    assert LoggedCalls.of(table, replace(evidence, worth_R=worth)).scored == 3


def test_thumbs_are_set_right_for_how_often_they_are_wrong() -> None:
    table = six_requests()
    evidence = Evidence.of(table)
    wrong = replace(evidence, error_R=np.where(evidence.prompt_R < 3, 0.1, 0.0))
    log = LoggedCalls.of(table, wrong)
    assert log.score_M[0, 0] == pytest.approx(1.125)
    assert log.score_M[2] == pytest.approx([-0.125, N, 1.125], nan_ok=True)
    assert log.score_M[3] == pytest.approx([1.0, 0.0, N], nan_ok=True)


def called(chances: list[float], cards: list[int], requests: int) -> LoggedCalls:
    """A log of which only the calls and their chances are known."""
    count = len(cards)
    nothing = np.full((count, 3), N)
    return LoggedCalls(
        np.arange(count),
        np.array(cards),
        nothing,
        nothing,
        np.array(chances),
        np.ones(count),
        requests,
    )


@pytest.mark.parametrize(
    ("chance", "calls", "requests", "contradicts"),
    [
        (0.25, 50, 100, True),  # 2.00 of all, ± 0.20
        (0.32, 50, 100, False),  # 1.56 of all, ± 0.16: within four of them
        (0.44, 5_000, 10_000, True),  # 1.14 of all, ± 0.01
        (0.46, 5_000, 10_000, False),  # 1.09 of all: what rounding may do
        (0.5, 5_490, 10_000, False),  # a tenth more
        (0.5, 5_510, 10_000, True),
        (0.1, 140, 1_000, False),  # 0.40 above 1, and four errors are 0.44
        (0.1, 145, 1_000, True),  # 0.450 above, and they are 0.445
        (1.0, 1_200, 1_000, True),
    ],
)
def test_calls_can_not_stand_for_more_requests_than_there_are(
    chance: float, calls: int, requests: int, contradicts: bool
) -> None:
    log = called([chance] * calls + [N] * 3, [1] * calls + [0] * 3, requests)
    why = log.contradiction(CARDS)
    assert (why is not None) == contradicts
    if why is not None:
        assert f"the calls of medium stand for {calls / chance / requests:.2f} times" in why


def test_why_a_log_was_unexplored_says_what_nobody_knows() -> None:
    one = [[1.0, N, N]]
    known = LoggedCalls.of(grid(one * 4, one * 4, propensity=one * 4), evidence_of(4))
    assert known.drawn == 0 and "0 of 4 scored answers came from a draw)" in known.unexplored
    half = [[1.0, N, N]] * 2 + [[N, N, N]] * 2
    assert (
        "nobody knows"
        not in LoggedCalls.of(grid(one * 4, one * 4, propensity=half), evidence_of(4)).unexplored
    )
    most = [[1.0, N, N]] + [[N, N, N]] * 3
    assert (
        "and of 3 nobody knows it: their propensity is empty"
        in LoggedCalls.of(grid(one * 4, one * 4, propensity=most), evidence_of(4)).unexplored
    )


def evidence_of(count: int) -> Evidence:
    one = [[1.0, N, N]]
    return Evidence.of(grid(one * count, one * count))


def timed(times: list[float]) -> OutcomeGrid:
    one = [[1.0, N, N]]
    seen = [[at, N, N] for at in times]
    return grid(one * len(times), one * len(times), observed_at=seen)


def test_the_pace_is_told_by_the_middle_of_a_log() -> None:
    even = [number * DAY / 100 for number in range(1001)]  # a hundred a day, for ten days
    assert requests_per_day(timed(even)) == pytest.approx(100.1)
    wrong = [3650 * DAY, *even[1:]]  # one clock is ten years ahead
    assert requests_per_day(timed(wrong)) == pytest.approx(100.1, rel=0.01)


def test_no_pace_is_told_of_an_hour_or_less_or_of_no_times() -> None:
    hour = 3600 / 0.9  # its middle, nine tenths, is an hour
    assert requests_per_day(timed([0.0, hour - 1])) is None
    assert requests_per_day(timed([0.0, hour + 1])) == pytest.approx(
        0.9 * 2 / ((hour + 1) * 0.9 / DAY)
    )
    assert requests_per_day(timed([5.0, N])) is None
    assert requests_per_day(grid([[1.0, N, N]], [[1.0, N, N]])) is None
