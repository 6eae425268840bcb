"""What one-sided logs allow to conclude."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.support.logs import CARDS, USD, World, always
from xrouter_lg.errors import ConfigurationError
from xrouter_lg.fitting.from_log import FromLog, learned_from
from xrouter_lg.fitting.read_lesson import LessonSettings
from xrouter_lg.judge.logged_calls import LoggedCalls, requests_per_day
from xrouter_lg.judge.one_sided import Conclusion, conclude_from_log
from xrouter_lg.outcomes.grid import OutcomeGrid
from xrouter_lg.value.evidence import Evidence

WEIGHT = 0.5
C_REF = 0.01


def concluded(table: OutcomeGrid) -> tuple[FromLog, Conclusion]:
    learned = learned_from(table, LessonSettings())
    found = conclude_from_log(
        learned,
        cost_weight=WEIGHT,
        c_ref_usd=C_REF,
    )
    return learned, found


def routed(learned: FromLog, world: World) -> float:
    """Utility of the checkpoint's choices on another world's requests."""
    from xrouter_lg.fitting.family_head import export_head

    head = export_head(learned.features, learned.model, learned.table.cost, CARDS)
    utility = world.utility(WEIGHT, C_REF)
    total = 0.0
    for row, prompt in enumerate(world.prompts):
        reading = head.read(prompt)
        value = [reading.quality[c] - WEIGHT * USD[m] / C_REF for m, c in enumerate(CARDS)]
        total += utility[row, int(np.argmax(value))]
    return total / len(world.prompts)


def test_a_log_that_explored_promotes_what_is_better_and_never_overstates_it() -> None:
    world, fresh = World.of(1500), World.of(1500, seed=9)
    learned, found = concluded(world.log(always("large", 1500, 0.3)))
    assert found.use == "checkpoint"
    assert found.promote
    assert found.over_log is not None
    assert found.over_log.doubly_robust is not None
    logged = float((always("large", 1500, 0.3) * fresh.utility(WEIGHT, C_REF)).sum(1).mean())
    gain = routed(learned, fresh) - logged
    # Both are of fits that saw four fifths of the log, which dare less: neither overstates it.
    for figure in (found.over_log.model, found.over_log.doubly_robust):
        assert 0.1 < (figure.value or 0.0) < gain + 0.03


def test_thumbs_of_which_a_tenth_is_wrong_promote_too() -> None:
    table = World.of(3000).log(always("large", 3000, 0.3), scored=0.5, wrong=0.1)
    _, found = concluded(table)
    assert found.use == "checkpoint"


@pytest.mark.parametrize("told", [True, False])
def test_a_log_that_never_explored_is_held_however_good_it_looks(told: bool) -> None:
    world = World.of(1500, hard=0.5)
    # The rule knows what no word tells: hard requests go to large, where small would fail.
    chances = np.eye(3)[np.where(world.hard_N == 1, 2, np.where(world.kind_N == 0, 0, 1))]
    _, found = concluded(world.log(chances, told=told))
    assert found.use == "as it is"
    assert "never explored" in found.reason
    assert "exploration=0.05" in found.reason
    assert ("nobody knows it: their propensity is empty" in found.reason) is not told


def test_where_routing_adds_nothing_the_best_card_is_named() -> None:
    rng = np.random.default_rng(0)
    world = World.of(1500)
    flat = (rng.random(world.score_N_M.shape) < np.array([0.9, 0.3, 0.5])).astype(float)
    world.score_N_M[:] = flat
    table = world.log(np.full((1500, 3), 1 / 3))
    _, found = concluded(table)
    assert found.use in ("fixed", "checkpoint")
    assert found.fixed == "small"
    if found.use == "fixed":
        assert found.card == "small"


def test_a_card_of_few_lucky_answers_does_not_take_the_place_of_one_that_is_known() -> None:
    world = World.of(2400)
    world.score_N_M[:] = (np.arange(2400) % 10 < 9)[:, None] * [0.0, 0.0, 1.0]
    table = world.log(always("large", 2400, 0.06))
    coder = CARDS.index("coder")
    lucky = np.flatnonzero(np.isfinite(table.score[:, coder]))
    table.score[lucky, coder] = np.arange(len(lucky)) % 14 != 0
    assert 0.9 < table.score[lucky, coder].mean() < 0.95
    assert len(lucky) >= 30
    found = conclude_from_log(
        learned_from(table, LessonSettings()), cost_weight=0.0, c_ref_usd=C_REF
    )
    assert found.fixed == "large"


def test_where_all_cards_are_alike_nothing_is_lost_to_the_one_that_is_cheapest() -> None:
    for seed in range(4):
        world, fresh = World.of(400, seed=seed), World.of(400, seed=50 + seed)
        rng = np.random.default_rng(seed)
        world.score_N_M[:] = (rng.random(world.score_N_M.shape) < 0.7).astype(float)
        fresh.score_N_M[:] = 0.7
        learned, _ = concluded(world.log(always("small", 400, 0.2), seed=seed))
        # What routing can lose here is the price of dearer cards that luck speaks for.
        assert routed(learned, fresh) > 0.7 - WEIGHT * USD[0] / C_REF - 0.03


def test_bought_answers_tell_what_the_log_never_tried() -> None:
    world = World.of(1200)
    table = world.log(always("large", 1200), told=False)
    for row in range(0, 1200, 4):  # of every fourth request the others were asked too
        for m in range(2):
            table.score[row, m] = world.score_N_M[row, m]
            table.cost[row, m] = USD[m]
    _, found = concluded(table)
    assert found.drawn >= 290
    assert found.use == "checkpoint"


def test_too_few_scores_conclude_nothing() -> None:
    world = World.of(400)
    table = world.log(always("large", 400, 0.5), scored=0.15)
    learned = learned_from(table, LessonSettings(min_prompts=20))
    found = conclude_from_log(
        learned,
        cost_weight=WEIGHT,
        c_ref_usd=C_REF,
    )
    assert found.use == "as it is"
    assert "at least 100 are needed" in found.reason
    assert found.over_log is None


def test_a_log_of_one_card_is_refused_with_what_to_do() -> None:
    table = World.of(300).log(always("large", 300)).of(["large"])
    with pytest.raises(ConfigurationError, match=r"exploration=0\.05.*xrouter backfill"):
        learned_from(table, LessonSettings())


def test_overlap_counts_every_scored_answer_once_and_names_every_kind() -> None:
    learned, found = concluded(World.of(800).log(always("large", 800, 0.2), scored=0.6))
    assert sum(row.tries for row in found.overlap) == len(learned.evidence)
    families = {row.family for row in found.overlap}
    assert len(found.overlap) == len(families) * len(CARDS)
    assert sum(row.share for row in found.overlap) == pytest.approx(len(CARDS))
    never = [row for row in found.overlap if not row.tries]
    asked = [row for row in found.overlap if row.tries > 20]
    assert asked
    assert all(row.error > max(one.error for one in asked) for row in never)


def test_what_would_settle_it_names_kind_card_answers_and_price() -> None:
    _, found = concluded(World.of(800).log(always("large", 800, 0.05)))
    assert found.to_settle
    line = found.to_settle[0]
    assert line.instead_of != line.card
    assert line.answers >= 5
    assert line.usd == pytest.approx(line.answers * USD[CARDS.index(line.card)], rel=0.2)
    assert "answers, $" in str(line)
    assert "explore 5 %" in str(line)


def test_a_conclusion_has_a_json_form_that_promotion_reads() -> None:
    _, found = concluded(World.of(600).log(always("large", 600, 0.3)))
    text = json.dumps(found.to_json(), allow_nan=False)
    assert json.loads(text)["promote"] is found.promote
    assert json.loads(text)["reasons"][0] == found.reason


def test_propensities_that_the_log_can_not_have_had_conclude_nothing() -> None:
    chances = always("large", 1500, 0.3)
    table = World.of(1500).log(chances)
    called = np.isfinite(table.more["propensity"])
    table.more["propensity"][called] = 1 / 3  # as if every card were drawn alike
    _, found = concluded(table)
    assert found.use == "as it is"
    assert "propensities contradict the log: by them the calls of large stand for" in found.reason


@pytest.mark.parametrize("seed", range(3))
def test_propensities_of_a_log_whose_other_cards_nobody_scores_contradict_nothing(
    seed: int,
) -> None:
    chances = always("large", 1500, 0.6)
    table = World.of(1500, seed).log(chances, seed)
    gone = CARDS.index("small")
    table.score[:, gone] = np.nan
    # As a log is read: a card without any score is no card of the table, its requests stay.
    kept = table.of([name for name in CARDS if name != "small"])
    found = conclude_from_log(
        learned_from(kept, LessonSettings()), cost_weight=WEIGHT, c_ref_usd=C_REF
    )
    assert "contradict" not in found.reason


def test_a_card_of_which_users_speak_more_is_not_heard_louder() -> None:
    """The value model is told wrong about one card, so that the draws have to set it right."""
    world = World.of(6000)
    table = world.log(always("large", 6000, 0.5))
    quiet = np.random.default_rng(1).random(6000) < 0.8
    for name in ("small", "coder"):
        table.score[quiet, CARDS.index(name)] = np.nan
    log = LoggedCalls.of(table, Evidence.of(table))
    assert log.scored_L[log.card == 2].mean() > 3.0 * log.scored_L[log.card == 0].mean()
    # What every card scores, by the draws alone: the usual mean of each.
    every, own = np.arange(len(log.row)), log.own
    told = np.isfinite(log.score_M[own])
    for card in range(3):
        drawn = told & (log.card == card)
        mean = (log.score_M[every, card] / log.chance_M[every, card] / log.scored_L)[drawn].sum()
        assert mean / told.sum() == pytest.approx(world.score_N_M[:, card].mean(), abs=0.08)


def test_a_clock_that_is_years_ahead_stretches_no_log() -> None:
    table = World.of(2000).log(always("large", 2000, 0.3))
    usual = requests_per_day(table)
    assert usual is not None
    table.more["observed_at"][::100] += 10 * 365 * 86_400
    assert requests_per_day(table) == pytest.approx(usual, rel=0.02)


def test_thumbs_of_a_card_that_users_praise_whatever_it_said_are_not_counted() -> None:
    world = World.of(3000)
    table = world.log(np.full((3000, 3), 1 / 3), scored=0.5, wrong=0.1)
    rng = np.random.default_rng(5)
    praised = np.isfinite(table.score[:, 0]) & (rng.random(3000) < 0.5)
    table.score[praised, 0] = 1.0
    table.more["feedback"] = table.score.copy()
    verified = np.isfinite(table.score) & (rng.random(3000) < 0.3)[:, None]
    table.score[verified] = world.score_N_M[verified]
    table.more["scored_by"][verified] = "exact"
    learned, found = concluded(table)
    (unlike,) = learned.unlike
    assert (unlike.card, unlike.said) == ("small", "up")
    assert str(unlike) in found.to_json()["reasons"]
    counted = learned.evidence.card_R == 0
    assert counted.sum() == verified[:, 0].sum()
    assert (learned.evidence.error_R[counted] == 0.0).all()
    # The other cards' thumbs are counted as ever.
    assert (learned.evidence.error_R[~counted] > 0.0).any()
