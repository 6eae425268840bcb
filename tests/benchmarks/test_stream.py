"""The stream benchmark: what its world tells and keeps, what happens in it, what is measured."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from benchmarks import stream
from benchmarks.stream_parts import events, figures
from benchmarks.stream_parts.learner import Billed, Choice, Learner, Request, Setting, Thumb
from benchmarks.stream_parts.registry import LEARNERS, PARETO
from benchmarks.stream_parts.rivals.features import shared_features
from benchmarks.stream_parts.rivals.pareto import ParetoBandit
from benchmarks.stream_parts.rivals.simple import AtRandom, Fixed, ToldEverything
from benchmarks.stream_parts.world import (
    DELAY,
    RETRAIN_EVERY,
    THUMB_ERROR,
    THUMB_SHARE,
    StreamWorld,
    play,
)
from xrouter_lg.arrays import Floats
from xrouter_lg.outcomes import OutcomeTable
from xrouter_lg.outcomes.grid import OutcomeGrid

REQUESTS = 2500
CARDS = {"sums": 1e-3, "words": 1e-3, "dear": 4e-3}
SOURCES = ("zeroeval", "bfcl_v1")
"""Of sums and of words."""
POOR = ("poor at sums", "poor at words")
"""Each of one source: no model of the pool."""


def right(model: str, prompt: int) -> float:
    """Sums are the first card's, words the second's; the dear one is good at both, and whom a card
    is swapped for at neither."""
    sums = prompt % 2 == 0
    often = {"sums": 9 if sums else 3, "words": 3 if sums else 9, "dear": 9}.get(model, 2)
    return float((prompt // 2 * 7) % 10 < often)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    prompts, rows = [], []
    for i in range(160):
        key = {"source": SOURCES[i % 2], "task": "any", "prompt_id": f"{i:03}"}
        text = [f"add {i} and {i + 3} to seven", f"name a word like {'abcdefgh'[i % 8] * 3}"][i % 2]
        prompts.append({**key, "prompt": f"{text}, case {i}", "category": "x"})
        rows += [
            {**key, "model": model, "score": right(model, i), "cost_usd": usd}
            for model, usd in {**CARDS, POOR[i % 2]: 1e-4}.items()
        ]
    pl.DataFrame(prompts).write_parquet(tmp_path / "prompts.parquet")
    pl.DataFrame(rows).write_parquet(tmp_path / "outcomes.parquet")
    return tmp_path


@pytest.fixture
def truth(data: Path) -> tuple[OutcomeGrid, Floats]:
    return events.read(OutcomeTable.load(data), sources=SOURCES, rename={})


def world_of(truth: tuple[OutcomeGrid, Floats], seed: int = 0) -> StreamWorld:
    return StreamWorld(*truth, requests=REQUESTS, cost_weight=0.2, seed=seed)


class Hearing:
    """Passes a learner through and writes down all that it is told."""

    def __init__(self, learner: Learner) -> None:
        self._learner = learner
        self.heard: list[Request | Choice | Billed | Thumb | str] = []

    def choose(self, request: Request) -> Choice:
        choice = self._learner.choose(request)
        self.heard += [request, choice]
        return choice

    def answered(self, billed: Billed) -> None:
        self.heard.append(billed)
        self._learner.answered(billed)

    def rated(self, thumb: Thumb) -> None:
        self.heard.append(thumb)
        self._learner.rated(thumb)

    def retrain(self) -> None:
        self.heard.append("retrain")
        self._learner.retrain()


def setting_of(world: StreamWorld, grid: OutcomeGrid) -> Setting:
    return world.setting(shared_features(grid.prompts))


@pytest.mark.parametrize("name", ["random", "epsilon-greedy", "thompson", "linucb"])
def test_outcomes_that_were_not_asked_for_change_nothing_that_a_learner_hears(
    truth: tuple[OutcomeGrid, Floats], name: str
) -> None:
    world = world_of(truth)
    setting = setting_of(world, truth[0])
    first = Hearing(LEARNERS[name](setting))
    played = play(world, first)

    other = world_of(truth)
    unasked = 0
    phases = []
    for number, phase in enumerate(world.phases):
        asked = np.zeros(phase.score.shape, dtype=bool)
        here = world.phase_T == number
        asked[world.prompt_T[here], played.card_T[here]] = True
        unasked += int((~asked).sum())
        phases.append(
            dataclasses.replace(
                phase,
                score=np.where(asked, phase.score, 1.0 - phase.score),
                cost=np.where(asked, phase.cost, 7.0 * phase.cost),
            )
        )
    other.phases = phases
    second = Hearing(LEARNERS[name](setting))
    play(other, second)

    assert unasked > 0
    assert second.heard == first.heard


def test_a_thumb_is_a_hundred_requests_late_and_the_cost_is_known_at_once(
    truth: tuple[OutcomeGrid, Floats],
) -> None:
    world = world_of(truth)
    hearing = Hearing(AtRandom(setting_of(world, truth[0])))
    played = play(world, hearing)

    now, thumbs, retrained = -1, 0, []
    for one in hearing.heard:
        if isinstance(one, Request):
            now = one.at
        elif isinstance(one, Billed):
            assert one.id == f"r{now}"
            assert one.cost_usd == played.usd_T[now]
        elif isinstance(one, Thumb):
            # It comes before the next request is asked.
            assert int(one.id[1:]) == now + 1 - DELAY
            thumbs += 1
        elif one == "retrain":
            retrained.append(now + 1)
    assert thumbs > 0
    assert retrained == list(range(RETRAIN_EVERY, REQUESTS, RETRAIN_EVERY))


def test_three_answers_of_ten_get_a_thumb_and_one_thumb_of_ten_is_wrong(
    truth: tuple[OutcomeGrid, Floats],
) -> None:
    given = wrong = 0
    for seed in range(8):
        world = world_of(truth, seed)
        for t in range(REQUESTS):
            score, _ = world.pay(t, "dear")
            if (thumb := world.thumb(t, score)) is not None:
                given += 1
                wrong += thumb.up != (score == 1.0)
    assert given / (8 * REQUESTS) == pytest.approx(THUMB_SHARE, abs=0.01)
    assert wrong / given == pytest.approx(THUMB_ERROR, abs=0.015)


def test_every_prompt_comes_once_before_any_comes_again(truth: tuple[OutcomeGrid, Floats]) -> None:
    world, size = world_of(truth), len(truth[0])
    for start in range(0, REQUESTS - size, size):
        assert sorted(world.prompt_T[start : start + size]) == list(range(size))


@pytest.mark.parametrize("seed", range(4))
def test_a_card_joins_a_price_changes_and_a_card_is_swapped_in_silence(
    truth: tuple[OutcomeGrid, Floats], seed: int
) -> None:
    grid, swapped = truth
    world = world_of(truth, seed)
    join, price, swap = world.events
    assert [e.at for e in world.events] == [575, 1125, 1700]

    assert join.card not in world.request(join.at - 1).usual_usd
    assert join.card in world.request(join.at).usual_usd
    assert join.card not in world.always

    before = world.request(price.at - 1).usual_usd
    after = world.request(price.at).usual_usd
    changed = {name: after[name] / before[name] for name in after if after[name] != before[name]}
    assert list(changed) == [price.card]
    assert changed[price.card] == pytest.approx(3.0) or changed[price.card] == pytest.approx(1 / 3)

    assert world.request(swap.at).usual_usd == after
    column = grid.models.index(swap.card)
    for name in grid.models:
        own, other = (
            np.array([world.pay(t, name)[0] for t in range(*window)])
            for window in ((price.at, swap.at), (swap.at, REQUESTS))
        )
        rows = world.prompt_T[swap.at :]
        if name == swap.card:
            assert (other == swapped[rows, column]).all()
            assert other.mean() < own.mean() - 0.1
        else:
            assert (other == grid.score[rows, grid.models.index(name)]).all()


def test_a_card_is_swapped_for_a_worse_model_that_is_not_in_the_pool(
    truth: tuple[OutcomeGrid, Floats],
) -> None:
    grid, swapped = truth
    poor = [right(POOR[0], int(key[-1])) for key in grid.keys]
    assert grid.models == ("dear", "sums", "words")
    assert (swapped == np.array(poor)[:, None]).all()


def test_without_a_model_outside_a_card_is_swapped_for_a_worse_card_of_the_pool(
    truth: tuple[OutcomeGrid, Floats],
) -> None:
    grid, _ = truth
    swapped = events.impostors(grid, grid)
    sums, words = grid.models.index("sums"), grid.models.index("words")
    where = grid.within_sources(SOURCES[:1])
    assert (swapped[where, sums] == grid.score[where, words]).all()
    assert (swapped[~where, words] == grid.score[~where, sums]).all()


def test_a_card_that_none_is_worse_than_stays_what_it_is(
    truth: tuple[OutcomeGrid, Floats],
) -> None:
    grid, _ = truth
    where, words = grid.within_sources(SOURCES[:1]), grid.models.index("words")
    assert (events.impostors(grid, grid)[where, words] == grid.score[where, words]).all()


@pytest.mark.parametrize("seed", range(4))
def test_who_is_told_everything_beats_every_fixed_card(
    truth: tuple[OutcomeGrid, Floats], seed: int
) -> None:
    world = world_of(truth, seed)
    told = play(world, ToldEverything(world))
    assert world.always
    for card in world.always:
        assert told.utility_T.sum() > play(world, Fixed(card)).utility_T.sum()


@pytest.mark.parametrize("name", [name for name in LEARNERS if not name.startswith(PARETO)])
def test_a_rival_does_the_same_twice_and_states_its_propensities(
    truth: tuple[OutcomeGrid, Floats], name: str
) -> None:
    world = world_of(truth)
    setting = setting_of(world, truth[0])
    one, two = (play(world, LEARNERS[name](setting)) for _ in range(2))
    assert (one.card_T == two.card_T).all()
    assert (one.propensity_T == two.propensity_T).all()


def test_over_a_stream_one_over_the_propensity_counts_the_candidates(
    truth: tuple[OutcomeGrid, Floats],
) -> None:
    told = there = 0.0
    for seed in range(6):
        world = world_of(truth, seed)
        setting = setting_of(world, truth[0])
        told += (1 / play(world, LEARNERS["epsilon-greedy"](setting)).propensity_T).sum()
        there += sum(len(world.request(t).usual_usd) for t in range(REQUESTS))
    assert told == pytest.approx(there, rel=0.1)


@pytest.mark.parametrize("name", [n for n in LEARNERS if not n.startswith((PARETO, "random"))])
def test_a_rival_learns(truth: tuple[OutcomeGrid, Floats], name: str) -> None:
    world = world_of(truth)
    setting = setting_of(world, truth[0])
    chance = play(world, AtRandom(setting)).utility_T
    assert play(world, LEARNERS[name](setting)).utility_T.sum() > chance.sum()


class Saying:
    def __init__(self, choice: Choice) -> None:
        self._choice = choice

    def choose(self, request: Request) -> Choice:
        return self._choice

    def answered(self, billed: Billed) -> None: ...
    def rated(self, thumb: Thumb) -> None: ...
    def retrain(self) -> None: ...


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (Choice("poor", 1.0), "'poor' is no candidate"),
        (Choice("dear", 0.0), "propensity 0.0 is not above 0"),
        (Choice("dear", 1.5), "propensity 1.5"),
    ],
)
def test_a_choice_that_is_none_is_an_error(
    truth: tuple[OutcomeGrid, Floats], choice: Choice, message: str
) -> None:
    world = next(w for w in (world_of(truth, seed) for seed in range(20)) if "dear" in w.always)
    with pytest.raises(ValueError, match=message):
        play(world, Saying(choice))


def test_regret_removed_is_one_for_all_and_nothing_for_the_base(
    truth: tuple[OutcomeGrid, Floats],
) -> None:
    world = world_of(truth)
    random = figures.Run("random", [play(world, AtRandom(setting_of(world, truth[0])))])
    told = figures.Run("told", [play(world, ToldEverything(world))])
    best = max(
        (figures.Run(card, [play(world, Fixed(card))]) for card in world.always),
        key=lambda run: run.utility_ST.sum(),
    )
    bases = {"told": told.utility_ST, "best fixed": best.utility_ST, "random": random.utility_ST}
    resamples = figures.Resamples(1, REQUESTS, draws=50)
    regret = {name: float((told.utility_ST - one).sum()) for name, one in bases.items()}
    removed_by_best = 1.0 - regret["best fixed"] / regret["random"]
    assert removed_by_best > 0

    def figures_of(run: figures.Run) -> list[float]:
        found = figures.row(run, bases, resamples, rivals=[random, best])
        assert found["times"]["random"]["random"] is None, "chance removes none of its own regret"
        ratio = found["removed_of_random"].value / removed_by_best
        assert found["times"][best.name]["random"].value == pytest.approx(ratio)
        names = ("removed_of_best_fixed", "removed_of_random", "regret", "over_best_fixed")
        return [found[name].value for name in names]

    gap = float((told.utility_ST - best.utility_ST).sum())
    assert figures_of(told) == pytest.approx([1.0, 1.0, 0.0, gap])
    assert figures_of(best)[0] == pytest.approx(0.0)
    assert figures_of(best)[2:] == pytest.approx([gap, 0.0])
    assert figures_of(random)[1] == pytest.approx(0.0)


def test_a_swap_is_won_back_by_who_knows_and_not_by_who_goes_on(
    truth: tuple[OutcomeGrid, Floats],
) -> None:
    worlds = [w for w in (world_of(truth, s) for s in range(20)) if w.swap.card in w.always][:3]
    assert len(worlds) == 3
    knows = figures.Run("told", [play(w, ToldEverything(w)) for w in worlds])
    goes_on = figures.Run("fixed", [play(w, Fixed(w.swap.card)) for w in worlds])

    found = figures.won_back(figures.recovery(worlds, knows), draws=50)
    assert found["swap_cost"].value > 0.05
    assert found["won_back"].value == pytest.approx(1.0)
    found = figures.won_back(figures.recovery(worlds, goes_on), draws=50)
    assert found["won_back"].value == pytest.approx(0.0, abs=0.1)


def test_who_did_not_use_the_swapped_card_has_nothing_to_win_back(
    truth: tuple[OutcomeGrid, Floats],
) -> None:
    world = next(
        w
        for w in (world_of(truth, seed) for seed in range(20))
        if "dear" in w.always and w.swap.card != "dear"
    )
    run = figures.Run("fixed", [play(world, Fixed("dear"))])
    assert figures.won_back(figures.recovery([world], run), draws=50)["won_back"] is None


def test_the_command_prints_one_row_for_every_learner(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["epsilon-greedy", "linucb"]
    command = ["--data", str(data), "--requests", str(REQUESTS), "--seeds", "0", "1",
               "--draws", "20", "--json", "--learners", *names,
               "--plot", str(tmp_path / "stream.png")]  # fmt: skip
    assert stream.main(command) == 0
    found = json.loads(capsys.readouterr().out)
    assert {row["learner"] for row in found["rows"]} == {
        "told everything", "best fixed", "random", *names,
    }  # fmt: skip
    assert found["rows"][0]["learner"] == "told everything"
    assert [len(found["events"][seed]) for seed in ("0", "1")] == [3, 3]
    assert all(row["seeds"] for row in found["fixed"])
    pytest.importorskip("matplotlib")
    assert (tmp_path / "stream.png").read_bytes().startswith(b"\x89PNG")


def test_a_stream_too_short_for_a_recovery_is_refused(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        stream.main(["--data", str(data), "--requests", "1000"])
    assert "take 2000 or more" in capsys.readouterr().err


@pytest.fixture
def without_paretobandit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pareto_bandit", None)


@pytest.mark.usefixtures("without_paretobandit")
def test_without_paretobandit_it_says_how_to_install_it(truth: tuple[OutcomeGrid, Floats]) -> None:
    setting = setting_of(world_of(truth), truth[0])
    with pytest.raises(SystemExit, match="pip install paretobandit"):
        LEARNERS[PARETO](setting)
    assert not any(name.startswith(PARETO) for name in stream.wanted(None, None))


@pytest.mark.parametrize("name", [name for name in LEARNERS if name.startswith(PARETO)])
def test_paretobandit_plays_the_stream(truth: tuple[OutcomeGrid, Floats], name: str) -> None:
    pytest.importorskip("pareto_bandit")
    world = world_of(truth)
    setting = setting_of(world, truth[0])
    one, two = (play(world, LEARNERS[name](setting)) for _ in range(2))
    assert (one.card_T == two.card_T).all()
    assert one.utility_T.sum() > play(world, AtRandom(setting)).utility_T.sum()


def test_a_price_that_paretobandit_is_told_weighs_what_it_costs_in_utility(
    truth: tuple[OutcomeGrid, Floats],
) -> None:
    costs = pytest.importorskip("pareto_bandit.costs")
    world = world_of(truth)
    setting = setting_of(world, truth[0])
    rival = ParetoBandit(setting)
    for at in (0, world.events[0].at, world.events[1].at):
        request = world.request(at)
        rival.choose(request)
        router = rival._router
        assert set(router.registry) == set(request.usual_usd)
        for name, usd in request.usual_usd.items():
            rate = router.registry[name]["blended_cost_per_m"] / 1e3
            limits = router.config.market_cost_floor, router.config.market_cost_ceiling
            weighs = router.cost_penalty * costs.log_normalize_cost(rate, *limits)
            assert weighs == pytest.approx((1 - 2 * THUMB_ERROR) * setting.price(usd))
