"""What of a log no longer holds: swaps told and untold, prices, and what is no change."""

import dataclasses

import numpy as np
import pytest

from tests.support.logs import CARDS, World, always
from xrouter_lg.fitting.aged import CardChange
from xrouter_lg.fitting.from_log import FromLog, learned_from
from xrouter_lg.fitting.read_lesson import LessonSettings
from xrouter_lg.judge.one_sided import conclude_from_log
from xrouter_lg.outcomes.grid import OutcomeGrid

N, SWAP = 1600, 1000
LARGE = CARDS.index("large")
AT_SWAP = 1_700_000_000.0 + 60.0 * SWAP


def swapped(seed: int = 0, *, chance: float = 0.45) -> World:
    """A world whose large card is right less often from one moment on."""
    world = World.of(N, seed)
    score = world.score_N_M.copy()
    later = np.random.default_rng(seed + 7).random(N - SWAP) < chance
    score[SWAP:, LARGE] = later
    return dataclasses.replace(world, score_N_M=score)


def log(world: World, seed: int = 0, **more: object) -> OutcomeGrid:
    table = world.log(always("large", N, 0.3), seed, wrong=0.1)
    table.more.update(more)  # type: ignore[attr-defined]
    return table


def served(table: OutcomeGrid, early: str, late: str) -> np.ndarray:
    names = np.full(table.score.shape, None, dtype=object)
    called = np.isfinite(table.cost)
    names[called] = "the same"
    names[:SWAP, LARGE] = early
    names[SWAP:, LARGE] = late
    names[~called] = None
    return names


def learned(table: OutcomeGrid) -> FromLog:
    return learned_from(table, LessonSettings())


def only(found: FromLog) -> CardChange:
    (change,) = found.aged.changes
    return change


def test_a_card_that_answers_as_another_model_is_learned_anew() -> None:
    table = log(swapped())
    found = learned(
        dataclasses.replace(table, more={**table.more, "served_model": served(table, "m-1", "m-2")})
    )
    change = only(found)
    assert (change.card, change.kind) == ("large", "served model")
    assert abs(change.since - AT_SWAP) < 60 * 20
    assert "answers as m-2, before as m-1" in change.said
    mean_M, _, _ = found.model.overall()
    assert mean_M[LARGE] == pytest.approx(0.45, abs=0.08)
    assert mean_M[0] == pytest.approx(0.55, abs=0.12)  # what is known of the others stays


def test_a_silent_swap_is_found_by_the_scores() -> None:
    found = [learned(log(swapped(seed), seed)) for seed in range(4)]
    for one in found:
        change = only(one)
        assert (change.card, change.kind) == ("large", "scores")
        assert abs(change.since - AT_SWAP) < 60 * 120
        assert one.model.overall()[0][LARGE] == pytest.approx(0.45, abs=0.1)


def test_what_a_card_scored_before_it_changed_judges_nothing() -> None:
    concluded = conclude_from_log(learned(log(swapped())), cost_weight=0.2)
    assert [change.card for change in concluded.changes] == ["large"]
    # Of the large card's answers only the later ones count as scored.
    assert concluded.scored < N * 0.7
    assert "scores" in " ".join(concluded.to_json()["reasons"])


def test_logs_of_cards_that_stay_what_they_are_show_no_change() -> None:
    alarms = [len(learned(log(World.of(N, seed), seed)).aged.changes) for seed in range(10)]
    assert sum(alarms) <= 1


def test_a_name_behind_which_several_models_answer_all_along_has_not_changed() -> None:
    table = log(World.of(N))
    names = served(table, "a", "a")
    names[::2, LARGE] = np.where(np.isfinite(table.cost[::2, LARGE]), "b", None)
    found = learned(dataclasses.replace(table, more={**table.more, "served_model": names}))
    assert found.aged.changes == ()


def test_a_stricter_judge_who_came_later_is_no_change_of_the_card() -> None:
    table = log(swapped())
    by = table.more["scored_by"].copy()
    by[SWAP:] = np.where(by[SWAP:] == "feedback", "strict", None)
    found = learned(dataclasses.replace(table, more={**table.more, "scored_by": by}))
    assert found.aged.changes == ()


def test_costs_of_before_a_price_change_count_at_the_new_price() -> None:
    rng = np.random.default_rng(0)
    table = log(World.of(N))
    used = [
        rng.integers(low, high, table.score.shape).astype(float)
        for low, high in ((50, 4000), (5, 800))
    ]
    usd = np.where(np.isfinite(table.cost), (used[0] * 1.0 + used[1] * 4.0) / 1e6, np.nan)
    dear = usd.copy()
    dear[SWAP:, LARGE] *= 2.0
    tokens = {"input_tokens": used[0], "output_tokens": used[1]}
    found = learned(dataclasses.replace(table, cost=dear, more={**table.more, **tokens}))
    change = only(found)
    assert (change.card, change.kind) == ("large", "price")
    assert change.size == pytest.approx(2.0, rel=0.02)
    assert abs(change.since - AT_SWAP) < 60 * 3
    at_new = np.where(np.arange(N)[:, None] < SWAP, dear * np.array([1, 1, 2]), dear)
    np.testing.assert_allclose(found.table.cost, at_new, rtol=0.03)
    steady = learned(dataclasses.replace(table, cost=usd, more={**table.more, **tokens}))
    assert steady.aged.changes == ()


def priced(seed: int = 0) -> tuple[OutcomeGrid, np.ndarray]:
    """A log with tokens, each card at a steady price."""
    rng = np.random.default_rng(seed)
    table = log(World.of(N))
    used = [
        rng.integers(low, high, table.score.shape).astype(float)
        for low, high in ((50, 4000), (5, 800))
    ]
    usd = np.where(np.isfinite(table.cost), (used[0] * 1.0 + used[1] * 4.0) / 1e6, np.nan)
    tokens = {"input_tokens": used[0], "output_tokens": used[1]}
    return dataclasses.replace(table, more={**table.more, **tokens}), usd


@pytest.mark.parametrize("factor", [0.4, 1.5, 3.0])
def test_three_answers_at_another_price_tell_it(factor: float) -> None:
    table, usd = priced()
    last = np.flatnonzero(np.isfinite(usd[:, LARGE]))[-3:]
    usd[last, LARGE] *= factor
    change = only(learned(dataclasses.replace(table, cost=usd)))
    assert (change.card, change.kind) == ("large", "price")
    assert change.size == pytest.approx(factor, rel=0.05)


@pytest.mark.parametrize("seed", range(4))
def test_a_prompt_cache_that_makes_some_answers_cheap_is_no_new_price(seed: int) -> None:
    table, usd = priced(seed)
    cheap = np.random.default_rng(seed).random(usd.shape) < 0.15
    usd[cheap] *= 0.5
    assert learned(dataclasses.replace(table, cost=usd)).aged.changes == ()


def test_a_log_without_times_tells_no_change() -> None:
    table = log(swapped())
    more = {**table.more, "observed_at": np.full(table.score.shape, np.nan)}
    found = learned(dataclasses.replace(table, more=more))
    assert found.aged.changes == ()
    assert found.aged.half_life_s is None


@pytest.mark.parametrize("exploration", [0.1, 0.5])
def test_a_log_that_stays_what_it_is_does_not_fade(exploration: float) -> None:
    for seed in range(3):
        table = World.of(2000, seed).log(always("large", 2000, exploration), seed, wrong=0.1)
        assert learned(table).aged.half_life_s is None


def test_answers_that_were_bought_kind_after_kind_are_no_history_of_a_card() -> None:
    world = World.of(N)
    table = log(world)
    score, cost = table.score.copy(), table.cost.copy()
    at, by = table.more["observed_at"].copy(), table.more["scored_by"].copy()
    small = CARDS.index("small")
    # The small card was bought on all of one kind first, then on the other, which it is bad at.
    bought = np.flatnonzero(np.isnan(cost[:, small]))
    for number, row in enumerate(bought[np.argsort(world.kind_N[bought], kind="stable")][::4]):
        score[row, small], cost[row, small] = world.score_N_M[row, small], 0.001
        at[row, small], by[row, small] = 1.8e9 + number, "judge"
    more = {**table.more, "observed_at": at, "scored_by": by}
    found = learned(dataclasses.replace(table, score=score, cost=cost, more=more))
    assert found.aged.changes == ()
