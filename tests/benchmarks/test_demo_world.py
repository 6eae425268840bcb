"""The demo's two weeks in memory, with a few questions of each kind."""

from __future__ import annotations

import functools
import sys

import numpy as np
import pytest

pytest.importorskip("sklearn")

from benchmarks.experiments import demo_world
from benchmarks.experiments.demo_world import PlayedSplit, WeeksLog, nights
from integrations.demo.questions import load
from integrations.demo.users import WRONG


@pytest.fixture(scope="module")
def world() -> PlayedSplit:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(demo_world, "load", functools.partial(load, per_family=24))
        return PlayedSplit("a0")


def week(world: PlayedSplit) -> WeeksLog:
    """Every question once, to the card that the rules take."""
    log = WeeksLog(world, 0)
    log.add(world.seen.rules, np.full(len(world.seen.rules), 0.9))
    return log


def test_whoever_is_told_every_answer_routes_better_than_the_rules(world: PlayedSplit) -> None:
    rows = np.arange(len(world.held_out.rules))
    price = demo_world._WEIGHT * world.held_out.usd / world.unit_usd
    best = (world.held_out.score - price).max(1).mean()
    rules = (world.held_out.score - price)[rows, world.held_out.rules].mean()
    # No card of a request can be better than its best one.
    assert 0.0 < world.full_gain() <= best - rules


def test_a_purchase_keeps_to_its_budget_and_buys_what_nobody_knows(world: PlayedSplit) -> None:
    log = week(world)
    budget = 20 * float(world.seen.usd.mean())
    log.buy(budget, 0.3, 0)
    assert log.bought.sum() >= 5
    assert world.seen.usd[log.bought].sum() <= budget
    assert not (log.bought & log.called).any()


def test_a_bought_answer_is_worth_one_however_often_its_question_came(world: PlayedSplit) -> None:
    log = week(world)
    log.bought[:5, :] = True
    once = log.evidence()
    log.add(world.seen.rules, np.full(len(world.seen.rules), 0.9))
    twice = log.evidence()
    for found, releases in ((once, 1), (twice, 2)):
        bought = np.isnan(found.propensity_R)
        question = found.prompt_R[bought] % len(world.seen.rules)
        worth = np.zeros(world.seen.score.shape)
        np.add.at(worth, (question, found.card_R[bought]), found.worth_R[bought])
        # A user who speaks of the same answer is heard instead, in that release.
        assert set(np.round(worth[:5].ravel(), 9).tolist()) <= {0.0, 1.0}
        assert (worth[:5].sum(1) >= len(world.seen.usd[0]) - 1).all() and not worth[5:].any()
        assert found.prompts == releases * len(world.seen.rules)
    assert (twice.worth_R < 1.0).any()


def test_thumbs_and_verdicts_are_wrong_as_often_as_is_said(world: PlayedSplit) -> None:
    log = WeeksLog(world, 0)
    wrong = (log.verdict != (world.seen.score > 0.5)).mean()
    assert wrong == pytest.approx(WRONG, abs=0.04)


def test_two_weeks_are_played_alike_from_one_seed_and_learn_something(world: PlayedSplit) -> None:
    first, second = nights(world, 0, caution=0.0, weight=0.3)
    assert nights(world, 0, caution=0.0, weight=0.3) == (first, second)
    # A week of thumbs is worth less than every answer, and not less than what the rules had.
    assert -0.1 < first <= world.full_gain() + 0.1
    assert -0.1 < second <= world.full_gain() + 0.1


def test_the_table_has_a_line_for_every_combination(
    world: PlayedSplit, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = []

    def played(
        world: PlayedSplit, seed: int, *, caution: float, weight: float | None
    ) -> tuple[float, float]:
        asked.append((seed, caution, weight))
        return 0.1 * seed, 0.2

    monkeypatch.setattr(demo_world, "PlayedSplit", lambda split: world)
    monkeypatch.setattr(demo_world, "nights", played)
    monkeypatch.setattr(
        sys, "argv",
        ["demo_world", "--splits", "1", "--seeds", "2", "--caution", "0", "2",
         "--told", "one", "many"],
    )  # fmt: skip
    demo_world.main()
    weight = demo_world._WEIGHT
    assert asked == [(s, c, w) for w in (weight, None) for c in (0.0, 2.0) for s in (0, 1)]
    said = capsys.readouterr().out
    assert said.count("+0.050 ± 0.035") == 4 and said.count("+0.200 ± 0.000") == 4
