"""What an observation is worth: who was asked, when, and who says so."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from tests.support.grids import make_grid
from tests.support.worlds import evidence, of_grid
from xrouter_lg.outcomes.grid import OutcomeGrid
from xrouter_lg.value.evidence import Evidence, thumbs
from xrouter_lg.value.posterior import fit_posterior


def grid(**more: object) -> OutcomeGrid:
    made = make_grid([[1.0, 0.0], [float("nan"), 1.0]], [[1.0, 1.0], [float("nan"), 1.0]])
    return dataclasses.replace(made, more={k: np.array(v) for k, v in more.items()})


def test_every_known_score_is_an_observation() -> None:
    found = Evidence.of(grid())
    assert len(found) == 3
    assert list(zip(found.prompt_R, found.card_R, strict=True)) == [(0, 0), (0, 1), (1, 1)]
    assert found.worth_R.tolist() == [1.0, 1.0, 1.0]


def test_what_users_said_may_be_wrong_and_what_was_verified_is_not() -> None:
    table = grid(scored_by=[["feedback:thumb", "exact"], [None, "feedback"]])
    assert thumbs(table).tolist() == [[True, False], [False, True]]
    assert Evidence.of(table, thumb_error=0.2).error_R.tolist() == [0.2, 0.0, 0.2]


def test_one_bought_answer_in_two_rows_of_the_same_request_is_worth_one() -> None:
    nothing = float("nan")
    made = make_grid([[1.0, 1.0], [0.0, 1.0]], [[1.0, 1.0], [1.0, 1.0]])
    known = {
        "propensity": np.array([[0.5, nothing]] * 2),
        "observed_at": np.array([[1.0, 9.0], [2.0, 9.0]]),
    }
    table = dataclasses.replace(made, prompts=("again", "again"), more=known)
    found = Evidence.of(table)
    assert found.worth_R.tolist() == [1.0, 0.5, 1.0, 0.5], "what a log called was asked each time"
    other = dataclasses.replace(table, prompts=("again", "another"))
    assert Evidence.of(other).worth_R.tolist() == [1.0] * 4
    later = {**known, "observed_at": np.array([[1.0, 8.0], [2.0, 9.0]])}
    assert Evidence.of(dataclasses.replace(table, more=later)).worth_R.tolist() == [1.0] * 4


def test_a_table_of_results_that_asks_the_same_text_twice_has_two_outcomes() -> None:
    made = make_grid([[1.0, 1.0], [0.0, 1.0]], [[1.0, 1.0], [1.0, 1.0]])
    table = dataclasses.replace(made, prompts=("again", "again"))
    assert Evidence.of(table).worth_R.tolist() == [1.0] * 4


@pytest.mark.parametrize("error", [0.5, 0.9, -0.1])
def test_a_score_that_says_nothing_is_refused(error: float) -> None:
    with pytest.raises(ValueError, match=r"must lie in \[0, 0.5\)"):
        evidence([0], [0], [1.0], prompts=1, cards=1, error=error)


def test_columns_of_other_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="score_R has 1 rows, expected 2"):
        evidence([0, 1], [0, 0], [1.0], prompts=2, cards=1)


def test_without_propensities_nothing_is_weighed() -> None:
    family = np.array([0, 0, 1])
    plain = evidence([0, 1, 2], [0, 1, 0], [1, 0, 1], prompts=3, cards=2)
    assert plain.weighed(family, 2) is plain
    certain = dataclasses.replace(plain, propensity_R=np.ones(3))
    assert certain.weighed(family, 2) is certain


def test_draws_that_were_all_as_likely_are_worth_what_they_are() -> None:
    alike = evidence([0, 1, 2], [0, 0, 0], [1, 0, 1], prompts=3, cards=1, propensity=0.5)
    assert alike.weighed(np.zeros(3, dtype=np.int64), 1).worth_R == pytest.approx(np.ones(3))


def test_some_prompts_only() -> None:
    found = of_grid(np.array([[1.0, 0.0], [0.0, 1.0]])).of_prompts(np.array([False, True]))
    assert found.prompt_R.tolist() == [1, 1] and found.score_R.tolist() == [0.0, 1.0]
    assert (found.prompts, found.cards) == (2, 2)


def test_a_log_that_sends_hard_requests_to_one_card_is_read_without_bias() -> None:
    """Both cards are right on 6 of 10; the second was given mostly the hard half."""
    rng = np.random.default_rng(0)
    n = 8000
    hard = rng.random(n) < 0.5
    chance = np.where(hard, 0.75, 0.25)  # of the second card
    card = (rng.random(n) < chance).astype(int)
    score = (rng.random(n) < np.where(hard, 0.3, 0.9)).astype(float)
    taken = np.where(card == 1, chance, 1 - chance)
    log = evidence(np.arange(n), card, score, prompts=n, cards=2, propensity=taken)
    family = np.zeros(n, dtype=np.int64)
    found = fit_posterior(log, family, 1)
    assert found.mean_F_M == pytest.approx(np.full((1, 2), 0.6), abs=0.04)
    blind = fit_posterior(dataclasses.replace(log, propensity_R=np.full(n, np.nan)), family, 1)
    assert blind.mean_F_M[0, 0] > blind.mean_F_M[0, 1] + 0.2
    # The price of it: fewer outcomes' worth than there are.
    assert (found.worth_F_M < 0.9 * found.tries_F_M).all()


def test_a_judges_verdict_may_be_wrong_too() -> None:
    table = grid(scored_by=[["judge", "exact"], [None, "judge"]])
    assert Evidence.of(table).error_R.tolist() == [0.1, 0.0, 0.1]
