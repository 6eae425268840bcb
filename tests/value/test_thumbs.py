"""How often users are wrong, from answers that a verifier judged too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xrouter_lg.outcomes import OutcomeTable
from xrouter_lg.outcomes.grid import OutcomeGrid
from xrouter_lg.value.evidence import THUMB_ERROR, Evidence
from xrouter_lg.value.thumbs import thumb_error, unlike_thumbs

Cell = tuple[float | None, str | None, float | None]
"""Score, who gave it, and what users said."""


def grid(cells: Sequence[Cell]) -> OutcomeGrid:
    """One card's outcomes, read off a table."""
    key = {"source": "s", "task": "t"}
    outcomes: list[dict[str, Any]] = [
        {**key, "prompt_id": str(n), "model": "small", "cost_usd": 0.001}
        | {"score": score, "scored_by": by, "feedback": said}
        for n, (score, by, said) in enumerate(cells)
    ]
    prompts = [{**key, "prompt_id": str(n), "prompt": f"q{n}"} for n in range(len(cells))]
    table = OutcomeTable.from_rows(outcomes, prompts)
    return table.grid(more=("scored_by", "feedback"), every=True)


def test_without_an_overlap_it_is_assumed_and_said_so() -> None:
    found = thumb_error(grid([(1.0, "feedback", 1.0), (0.0, "exact", None), (None, None, None)]))
    assert (found.value, found.overlap, found.assumed) == (THUMB_ERROR, 0, True)
    assert str(found) == (
        "thumbs are assumed to be wrong 10% of the time: no answer has both a thumb and a "
        "verifier's verdict"
    )


def test_a_table_without_the_column_tells_nothing() -> None:
    bare = OutcomeGrid((("a",),), ("q",), ("f",), ("m",), np.array([[1.0]]), np.array([[0.1]]))
    assert thumb_error(bare).assumed


def test_a_score_that_users_had_a_part_in_proves_nothing() -> None:
    found = thumb_error(grid([(0.5, "exact, feedback", 0.0), (1.0, "feedback", 1.0)]))
    assert (found.overlap, found.assumed) == (0, True)


def test_a_thumb_that_is_wrong_three_times_in_ten_is_found_in_many_answers() -> None:
    rng = np.random.default_rng(3)
    truth = rng.random(4000) < 0.6
    wrong = rng.random(4000) < 0.3
    cells = [
        (float(t), "exact", float(t != w))
        for t, w in zip(truth.tolist(), wrong.tolist(), strict=True)
    ]
    found = thumb_error(grid(cells))
    assert found.value == pytest.approx(0.3, abs=0.03)
    assert (found.overlap, found.assumed) == (4000, False)
    assert str(found).startswith("thumbs are wrong 30% of the time, by 4000 answers")


def test_few_answers_move_the_assumption_by_what_they_are_worth() -> None:
    # Two disagreements in five, and twenty answers' worth of one in ten: (2 + 2) / (5 + 20).
    cells = [(1.0, "exact", 0.0)] * 2 + [(0.0, "exact", 0.0)] * 3
    assert thumb_error(grid(cells)).value == pytest.approx(4 / 25)


def test_grades_that_agree_are_no_errors() -> None:
    # 0.75 of five stars for an answer that is three quarters right is what the answer was worth.
    agreed = thumb_error(grid([(0.75, "judge", 0.75)] * 400))
    assert agreed.value == pytest.approx(2 / (400 * 0.25 + 20))


def test_answers_that_are_half_right_tell_nothing() -> None:
    found = thumb_error(grid([(0.5, "judge", 1.0)] * 9))
    assert (found.value, found.overlap, found.assumed) == (THUMB_ERROR, 9, True)
    assert "9 answers" in str(found)


@pytest.mark.parametrize(("said", "expected"), [(1.0, 0.01), (0.0, 0.4)])
def test_it_stays_where_a_thumb_says_something_and_proves_nothing_alone(
    said: float, expected: float
) -> None:
    assert thumb_error(grid([(1.0, "exact", said)] * 2000)).value == expected


@given(
    st.lists(
        st.tuples(
            st.one_of(st.none(), st.floats(0, 1)),
            st.sampled_from([None, "exact", "feedback"]),
            st.one_of(st.none(), st.floats(0, 1)),
        ),
        min_size=1,
        max_size=12,
    )
)
def test_whatever_is_known_it_is_what_evidence_takes(
    cells: Sequence[Cell],
) -> None:
    table = grid(cells)
    found = thumb_error(table)
    assert 0.01 <= found.value <= 0.4
    assert found.assumed == (found.value == THUMB_ERROR and not _tells(cells))
    evidence = Evidence.of(table, thumb_error=found.value)
    assert set(evidence.error_R.tolist()) <= {0.0, found.value}


def _tells(cells: Sequence[Cell]) -> bool:
    return any(
        score is not None and said is not None and by != "feedback" and (1 - 2 * score) ** 2 > 0
        for score, by, said in cells
    )


def judged_twice(seed: int, *, praised: float = 0.0, blamed: float = 0.0) -> OutcomeGrid:
    """150 answers of each of three cards that a verifier and a user judged; a tenth of the users is
    wrong, and of the first card a share says up, or down, whatever it said."""
    rng = np.random.default_rng(seed)
    shape = (150, 3)
    right = rng.random(shape) < np.array([0.7, 0.6, 0.9])
    up = right ^ (rng.random(shape) < 0.1)
    up[:, 0] |= rng.random(150) < praised
    up[:, 0] &= rng.random(150) >= blamed
    return OutcomeGrid(
        keys=tuple(("s", "t", str(n)) for n in range(150)),
        prompts=tuple(f"q{n}" for n in range(150)),
        families=("f",) * 150,
        models=("kind", "plain", "good"),
        score=right.astype(float),
        cost=np.full(shape, 0.001),
        more={"feedback": up.astype(float), "scored_by": np.full(shape, "exact", dtype=object)},
    )


@pytest.mark.parametrize("way", ["up", "down"])
def test_a_card_that_users_praise_or_blame_whatever_it_said_is_named(way: str) -> None:
    found = others = 0
    for seed in range(20):
        share = {"praised" if way == "up" else "blamed": 0.5}
        unlike = unlike_thumbs(judged_twice(seed, **share))
        found += ("kind", way) in {(one.card, one.said) for one in unlike}
        others += any(one.card != "kind" for one in unlike)
    assert found >= 18
    assert others <= 2


def test_cards_that_users_treat_alike_are_not_told_apart_however_good_they_are() -> None:
    assert sum(bool(unlike_thumbs(judged_twice(seed))) for seed in range(200)) <= 10


def test_what_is_said_of_such_a_card_names_the_answers_that_tell_it() -> None:
    (found,) = unlike_thumbs(judged_twice(0, praised=0.9))
    assert str(found).startswith(
        f"users say 'up' to {found.misjudged} of {found.judged} answers of kind that a verifier "
        "calls wrong"
    )
    assert found.misjudged > 0.7 * found.judged
    assert found.usual < 0.3


def test_without_a_verdict_no_card_is_unlike_the_others() -> None:
    assert unlike_thumbs(grid([(1.0, "feedback", 1.0), (0.0, "exact", None)])) == ()
