"""Which prompts are worth another answer."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

import numpy as np
import pytest

from xrouter_lg.arrays import Floats, Ints
from xrouter_lg.backfill import BackfillError, Weights
from xrouter_lg.backfill.known import Known
from xrouter_lg.backfill.predict import expected_scores, groups_of, vectors
from xrouter_lg.backfill.value import Terms, order_of, ordered, terms_of
from xrouter_lg.figures.hull import hulls
from xrouter_lg.judge.baselines.learned import predicted_family
from xrouter_lg.outcomes.grid import OutcomeGrid

NAN = float("nan")
CARDS = ("cheap", "middle", "dear")
COSTS = np.array([1.0, 4.0, 20.0])


def known(
    score: Floats, families: list[str], prompts: list[str] | None = None, **fields: Any
) -> Known:
    n, m = score.shape
    grid = OutcomeGrid(
        tuple(("s", "t", str(i)) for i in range(n)),
        tuple(prompts or [f"prompt {i}" for i in range(n)]),
        tuple(families),
        tuple(f"card{j}" for j in range(m)),
        score,
        np.full((n, m), NAN),
    )
    values: dict[str, Any] = {
        "grid": grid,
        "answered": np.zeros((n, m), dtype=bool),
        "spend": np.full(n, NAN),
        "output_tokens": np.full(m, NAN),
        "labels": {},
    }
    return Known(**{**values, **fields})


def terms(n: int, **fields: Any) -> Terms:
    values: dict[str, Any] = {
        "disagreement": np.full(n, 0.5),
        "spend": np.full(n, 0.5),
        "unknown": np.full(n, 0.5),
        "price": np.ones(n),
        "group": np.zeros(n, dtype=np.int64),
        "complete": np.zeros(1, dtype=np.int64),
    }
    return Terms(**{**values, **fields})


ONLY = Weights(disagreement=0, spend=0, unknown=0, coverage=0, price=0, explore=0)


@pytest.mark.parametrize(
    ("term", "expected"),
    [
        ("disagreement", [3, 2, 1, 0]),
        ("spend", [3, 2, 1, 0]),
        ("unknown", [3, 2, 1, 0]),
        ("price", [0, 1, 2, 3]),
    ],
)
def test_each_term_orders_by_itself(term: str, expected: list[int]) -> None:
    rising = np.array([0.1, 0.3, 0.6, 0.9])
    order = ordered(
        terms(4, **{term: rising}), np.arange(4), dataclasses.replace(ONLY, **{term: 1.0}), seed=0
    )
    assert order.tolist() == expected


def test_by_family_no_prompt_is_preferred_within_its_family() -> None:
    rng = np.random.default_rng(0)
    group = np.arange(40) % 2
    telling = np.where(group == 0, 0.2, 0.8) * rng.uniform(0.5, 1.0, 40)
    plain = terms(40, disagreement=telling, group=group, complete=np.zeros(2, dtype=np.int64))
    weights = dataclasses.replace(ONLY, disagreement=1.0)
    by_value = ordered(plain, np.arange(40), weights, seed=0)[:20]
    drawn = [ordered(plain.by_family(), np.arange(40), weights, seed=s)[:20] for s in range(200)]
    assert all((group[order] == 1).all() for order in (by_value, *drawn))
    # Half of a family, the half that tells most, against a random half each time.
    first_half = np.array([telling[order[:10]].mean() for order in drawn])
    mean = telling[group == 1].mean()
    assert telling[by_value[:10]].mean() > mean + 0.05
    assert abs(first_half.mean() - mean) < 0.01


def test_coverage_takes_families_in_turn_and_starts_with_the_least_known() -> None:
    group = np.array([0] * 6 + [1] * 3)
    order = ordered(
        terms(9, group=group, complete=np.array([0, 2])),
        np.arange(9),
        dataclasses.replace(ONLY, coverage=1.0),
        seed=0,
    )
    assert sorted(order.tolist()) == list(range(9))
    # Family 1 has two complete prompts: family 0 gets its first two before both take turns.
    assert group[order][:2].tolist() == [0, 0]
    assert Counter(group[order][2:6].tolist()) == {0: 2, 1: 2}


def test_exploring_reaches_what_has_no_value() -> None:
    hopeless = np.array([1.0] * 90 + [0.01] * 10)
    weights = dataclasses.replace(ONLY, disagreement=1.0, explore=0.3)
    order = ordered(terms(100, disagreement=hopeless), np.arange(100), weights, seed=1)
    assert sorted(order.tolist()) == list(range(100))
    assert (order[:50] >= 90).any()
    greedy = dataclasses.replace(weights, explore=0.0)
    assert (
        ordered(terms(100, disagreement=hopeless), np.arange(100), greedy, seed=1)[:50] < 90
    ).all()


def test_the_same_seed_gives_the_same_order_and_another_one_another() -> None:
    table = known(np.full((40, 2), NAN), ["a"] * 40)
    price, rows = np.ones(40), np.arange(40)

    def order(strategy: Any, seed: int) -> list[int]:
        found: list[int] = order_of(table, price, rows, strategy=strategy, seed=seed).tolist()
        return found

    for strategy in ("value", "family", "random"):
        assert order(strategy, 1) == order(strategy, 1) != order(strategy, 2)


@pytest.mark.parametrize("by_text", [False, True], ids=["family", "text"])
def test_a_prompts_own_score_does_not_count_for_it(by_text: bool) -> None:
    rng = np.random.default_rng(0)
    score = np.full((60, 2), NAN)
    score[:, 0] = rng.integers(0, 2, 60)
    prompts = [f"word{i // 2}" for i in range(60)]
    texts = vectors(prompts) if by_text else None
    pairs = np.zeros(60, dtype=np.int64) if by_text else np.arange(60) // 2
    before = expected_scores(score, pairs, texts, seed=0)
    other = score.copy()
    other[6, 0] = 1 - other[6, 0]
    after = expected_scores(other, pairs, texts, seed=0)
    moved = np.abs(after - before)[:, 0]
    # Its twin hears of it; itself only through the card's mean, as every other prompt does.
    assert moved[7] > 0.15
    assert moved[6] <= moved[8] + 1e-9 < 0.05


def test_disagreement_is_highest_where_cards_differ_on_similar_prompts() -> None:
    # Three families: both right, one right and one wrong, both wrong.
    score = np.array([[1.0, 1.0]] * 10 + [[0.0, 1.0]] * 10 + [[0.0, 0.0]] * 10 + [[NAN, NAN]] * 3)
    families = ["easy"] * 10 + ["split"] * 10 + ["hard"] * 10 + ["easy", "split", "hard"]
    found = terms_of(known(score, families), np.ones(33))
    easy, split, hard = found.disagreement[-3:]
    assert split > max(easy, hard) + 0.05
    assert found.complete.tolist() == [10, 10, 10]
    assert found.unknown[-1] == 1.0


def test_similar_words_tell_of_cards_where_labels_do_not() -> None:
    prompts = [f"integral of x to the {i}" for i in range(30)] + [f"poem on {i}" for i in range(30)]
    score = np.array([[0.0, 1.0]] * 30 + [[1.0, 1.0]] * 30)
    score[[0, 30]] = NAN
    found = terms_of(known(score, ["traces"] * 60, prompts), np.ones(60))
    assert found.disagreement[0] > found.disagreement[30] + 0.2


def test_unlabelled_traces_are_grouped_by_topic() -> None:
    prompts = [f"integral of x to the {i}" for i in range(90)] + [f"poem on {i}" for i in range(90)]
    group = groups_of(["traces"] * 180, vectors(prompts), seed=0)
    assert len(set(group.tolist())) > 1
    maths, poems = Counter(group[:90].tolist()), Counter(group[90:].tolist())
    assert sum((maths & poems).values()) < 9, "but for a stray one, no topic holds both"
    assert groups_of(["a"] * 90 + ["b"] * 90, None, seed=0).tolist() == [0] * 90 + [1] * 90


def test_texts_without_a_word_and_tables_without_a_score_are_ordered_too() -> None:
    table = known(np.full((5, 1), NAN), ["a"] * 5, ["?", "!", ".", "-", "+"])
    assert sorted(order_of(table, np.full(5, NAN), np.arange(5)).tolist()) == [0, 1, 2, 3, 4]
    assert order_of(table, np.ones(5), np.array([], dtype=np.int64)).tolist() == []


@pytest.mark.parametrize("changed", [{"explore": 1.5}, {"spend": -1}, {"coverage": NAN}, {"x": 1}])
def test_a_weight_that_makes_no_sense_is_refused(changed: dict[str, float]) -> None:
    with pytest.raises(BackfillError, match=next(iter(changed))):
        Weights.of(changed)


# Does it pay? A made-up traffic in which it is known where there is something to learn.


def traffic(seed: int, n: int) -> tuple[Floats, Floats, list[str], list[str]]:
    """Scores [n, 3], costs [n, 3], families and prompts. Two thirds of the traffic is small talk
    that every card answers; in twelve small families one card, another each time, is the right
    one, and which cannot be told from the family's name."""
    rng = np.random.default_rng(seed)
    talk = rng.random(n) < 2 / 3
    special = rng.integers(0, 12, n)
    right = rng.permutation(np.arange(12) % 3)[special]
    chance = np.where(np.arange(3)[None, :] == right[:, None], 0.9, 0.15)
    chance[talk] = 0.97
    score = (rng.random((n, 3)) < chance).astype(float)
    length = rng.uniform(0.5, 1.5, n)
    cost = COSTS[None, :] * length[:, None]
    families = ["talk" if small else f"kind{k}" for small, k in zip(talk, special, strict=True)]
    prompts = [
        f"{family} {' '.join(f'{family}w{rng.integers(9)}' for _ in range(4))}"
        for family in families
    ]
    return score, cost, families, prompts


def learned(seed: int, strategy: Any, budget_share: float) -> tuple[float, float]:
    """Utility of routing learned from what a budget buys, and the static hull's error."""
    score, cost, families, prompts = traffic(seed, 900)
    train, test = np.arange(600), np.arange(600, 900)
    rng = np.random.default_rng(100 + seed)
    chosen = rng.integers(0, 3, 600)  # the card that served each request
    there = np.full((600, 3), NAN)
    there[train, chosen] = score[train, chosen]
    price = cost[train].sum(1) - cost[train, chosen]
    table = known(
        there,
        families[:600],
        prompts[:600],
        spend=cost[train, chosen],
    )
    order = order_of(table, price, train, strategy=strategy, seed=seed)
    bought = order[np.cumsum(price[order]) <= budget_share * price.sum()]
    paired = OutcomeGrid(
        tuple((str(i),) for i in bought),
        tuple(prompts[i] for i in bought),
        tuple(families[i] for i in bought),
        CARDS,
        score[bought],
        cost[bought],
    )
    expected = predicted_family(paired, [prompts[i] for i in test])
    weight = 0.2 / COSTS[2]
    choice = (expected.quality - weight * expected.cost).argmax(1)
    utility = float((score[test, choice] - weight * cost[test, choice]).mean())
    return utility, _hull_error(score[train], cost[train], families[:600], bought)


def _hull_error(score: Floats, cost: Floats, families: list[str], bought: Ints) -> float:
    """Mean error of the heights of the fixed models' hull, estimated family by family."""
    names, group = np.unique(np.array(families), return_inverse=True)
    share = np.bincount(group) / len(group)
    estimate = []
    for values in (cost, score):
        means = [
            values[bought[group[bought] == g]].mean(0)
            if (group[bought] == g).any()
            else values[bought].mean(0)
            for g in range(len(names))
        ]
        estimate.append(share @ np.array(means))
    both = hulls(np.stack([estimate[0], cost.mean(0)]), np.stack([estimate[1], score.mean(0)]))
    at = np.linspace(COSTS[0], COSTS[2], 20)
    heights = np.array([both.height(np.array([x, x])) for x in at])
    return float(np.abs(heights[:, 0] - heights[:, 1]).mean())


def test_for_the_same_money_chosen_prompts_teach_more_than_random_ones() -> None:
    figures = {
        strategy: np.array([learned(seed, strategy, 0.1) for seed in range(12)])
        for strategy in ("value", "family", "random")
    }
    for strategy in ("value", "family"):
        better = figures[strategy] - figures["random"]
        gain, error = better[:, 0], -better[:, 1]
        assert gain.mean() > 3 * gain.std(ddof=1) / np.sqrt(len(gain))
        assert gain.mean() > 0.01
        assert error.mean() > error.std(ddof=1) / np.sqrt(len(error))
