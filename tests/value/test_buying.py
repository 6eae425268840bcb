"""Which answers are worth buying: money goes where it changes what is chosen."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from xrouter_lg.arrays import Floats
from xrouter_lg.value.buying import Market, Stakes, buy, told
from xrouter_lg.value.evidence import Evidence
from xrouter_lg.value.features import Features
from xrouter_lg.value.grouping import Partition
from xrouter_lg.value.model import ValueModel
from xrouter_lg.value.posterior import PROMPT_SHARE
from xrouter_lg.value.purchases import LEAST_REQUESTS, Horizon, next_round, requests_of_a_month

EACH = 120
"""Requests of each of three families: maths, poem, chat."""
FAMILIES = np.repeat(np.arange(3), EACH)
STAKES = Stakes((0.05, 0.2), 1.0)


def table(chance_F_M: Floats, asked_F_M: Floats, seed: int = 0) -> Floats:
    """[N, M] scores; NaN where a request was not put to a card. A family's first so many were."""
    rng = np.random.default_rng(seed)
    score = (rng.random((3 * EACH, chance_F_M.shape[1])) < chance_F_M[FAMILIES]).astype(float)
    place = np.arange(3 * EACH) % EACH
    score[place[:, None] >= asked_F_M[FAMILIES]] = np.nan
    return score


def evidence(score: Floats) -> Evidence:
    row, card = np.nonzero(np.isfinite(score))
    nothing = np.zeros(len(row))
    unknown = np.full(len(row), np.nan)
    ones = np.ones(len(row))
    return Evidence(row, card, score[row, card], nothing, ones, unknown, *score.shape)


def model(score: Floats, usd_M: Floats) -> ValueModel:
    families = (Partition(("maths", "poem", "chat"), FAMILIES),)
    cost = np.where(np.isfinite(score), usd_M, np.nan)
    return ValueModel(families, (), (), ()).learned(evidence(score), cost)


def market(score: Floats, usd_M: Floats) -> Market:
    there = np.isfinite(score)
    return Market(np.where(there, np.inf, usd_M), there)


USD = np.array([0.1, 0.1, 0.1])
# Everywhere the first card is best and known to be; of maths nobody knows how the second does.
CHANCE = np.array([[0.6, 0.6, 0.3], [0.9, 0.7, 0.2], [0.9, 0.7, 0.2]])
ASKED = np.array([[60, 0, 60], [60, 60, 60], [60, 60, 60]])


def test_the_money_goes_to_the_one_family_and_card_that_nobody_knows() -> None:
    score = table(CHANCE, ASKED)
    bought = buy(model(score, USD), market(score, USD), STAKES, budget_usd=1.0)
    kinds = Counter((int(FAMILIES[one.row]), one.card) for one in bought)
    assert kinds[0, 1] >= 0.8 * len(bought) > 0


def test_what_is_dear_is_bought_less() -> None:
    score = table(CHANCE, ASKED)
    found = []
    for usd in (0.1, 2.0):
        price = np.array([0.1, usd, 0.1])
        worth = buy(model(score, USD), market(score, price), STAKES, budget_usd=4.0)
        found.append(sum(one.card == 1 for one in worth))
    assert 0 <= found[1] < found[0]


def test_where_everything_is_known_nothing_is_worth_its_price() -> None:
    chance = np.array([[0.9, 0.1, 0.1], [0.1, 0.9, 0.1], [0.1, 0.1, 0.9]])
    score = table(chance, np.full((3, 3), EACH - 5))
    stakes = Stakes((0.05, 0.2), 1.0, least=1e-3)
    assert buy(model(score, USD), market(score, USD), stakes, budget_usd=10.0) == []
    unknown = table(chance, np.full((3, 3), 2))
    assert buy(model(unknown, USD), market(unknown, USD), stakes, budget_usd=10.0)


@pytest.mark.parametrize("budget", [0.05, 0.1, 0.75, 3.0])
def test_the_budget_is_never_exceeded_and_no_answer_is_bought_twice(budget: float) -> None:
    score = table(CHANCE, np.full((3, 3), 6))
    bought = buy(model(score, USD), market(score, USD), STAKES, budget_usd=budget)
    assert sum(one.usd for one in bought) <= budget + 1e-9
    cells = [(one.row, one.card) for one in bought]
    assert len(set(cells)) == len(cells)
    assert all(np.isnan(score[cell]) for cell in cells)
    assert len(bought) == (0 if budget < 0.1 else pytest.approx(budget / 0.1, abs=1))


def test_each_further_answer_of_a_kind_is_worth_less() -> None:
    score = table(CHANCE, ASKED)
    bought = buy(model(score, USD), market(score, USD), STAKES, budget_usd=6.0)
    worth = [one.worth for one in bought if FAMILIES[one.row] == 0 and one.card == 1]
    assert len(worth) > 15
    assert np.mean(worth[-5:]) < 0.5 * np.mean(worth[:5])


def test_an_answer_beside_others_tells_the_difference_more_surely_than_one_alone() -> None:
    noise = np.full((1, 3), 0.25)
    alone_h, alone_r = told(noise, np.array([[False, False, False]]))
    beside_h, beside_r = told(noise, np.array([[True, False, False]]))
    assert alone_h[0].tolist() == np.eye(3).tolist()
    assert alone_r[0].tolist() == [0.25] * 3
    # What the first card's answer says of the prompt's difficulty is taken away.
    assert beside_h[0, 1].tolist() == [-PROMPT_SHARE, 1.0, 0.0]
    assert beside_r[0, 1] == pytest.approx(0.25 * (1 - PROMPT_SHARE**2))


def words(rng: np.random.Generator) -> tuple[str, ...]:
    kinds = ("maths sum of integers", "poem rhyme about spring", "chat hello how are you")
    return tuple(f"{kinds[f]} number{rng.integers(9)}" for f in FAMILIES)


def test_with_next_to_nothing_known_prompts_are_drawn_and_put_to_every_card() -> None:
    features = Features.of(words(np.random.default_rng(0)))
    score = np.full((3 * EACH, 3), np.nan)
    basket = next_round(
        features, evidence(score), score, market(score, USD), Horizon(1e6), budget_usd=3.0
    )
    rows = Counter(one.row for one in basket.purchases)
    assert set(rows.values()) == {3} and len(rows) == 10
    assert (basket.gain, basket.worth_usd) == (None, None)
    assert len({int(FAMILIES[row]) for row in rows}) == 3


def test_a_round_says_what_it_is_worth_and_few_requests_are_worth_little() -> None:
    features = Features.of(words(np.random.default_rng(0)))
    score = table(CHANCE, ASKED)
    cost = np.where(np.isfinite(score), USD, np.nan)

    def bought(requests: float) -> tuple[int, float]:
        basket = next_round(
            features,
            evidence(score),
            cost,
            market(score, USD),
            Horizon(requests, cost_weight=0.2),
            budget_usd=20.0,
        )
        assert basket.worth_usd is not None
        assert not basket.purchases or basket.worth_usd >= basket.usd
        return len(basket.purchases), basket.worth_usd

    many, few = bought(1e6), bought(200)
    assert few[0] < many[0]
    assert few[1] < many[1]
    assert bought(1.0) == (0, 0.0)


def test_a_logs_rate_tells_how_many_requests_are_to_come() -> None:
    day = 86_400.0
    assert requests_of_a_month(np.array([0.0, 10 * day]), 20_000) == pytest.approx(60_000)
    assert requests_of_a_month(np.array([0.0, 60.0]), 20_000) == 20_000
    assert requests_of_a_month(np.full(3, np.nan), 3) == LEAST_REQUESTS


@pytest.mark.parametrize("bad", [{"requests": 0.0}, {"requests": 1.0, "cost_weight": -1.0}])
def test_traffic_that_makes_no_sense_is_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        Horizon(**bad)
