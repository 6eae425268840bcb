from collections.abc import Callable

import numpy as np
import pytest

from benchmarks.stream_parts.online_value import OnlineValue

KINDS = {
    "sums": "please add these numbers: {} plus {} is",
    "poems": "write a poem of sorrow about the colour {} and river {}",
}

GOOD_AT = {"a": {"sums": 0.9, "poems": 0.3}, "b": {"sums": 0.3, "poems": 0.9}}


def ask(
    value: OnlineValue,
    rng: np.random.Generator,
    at: int,
    card: str,
    right: Callable[[str], float],
    *,
    score: bool = True,
    served: str | None = None,
) -> None:
    kind = list(KINDS)[int(rng.integers(2))]
    text = KINDS[kind].format(*rng.integers(100, size=2))
    value.asked(f"r{at}", text, card, at)
    value.answered(f"r{at}", 1.0, served)
    if score:
        value.scored(f"r{at}", float(rng.random() < right(kind)), 0.0, at)


def learned(requests: int = 400) -> tuple[OnlineValue, np.random.Generator]:
    """Two cards: one is good at sums, the other at poems."""
    value, rng = OnlineValue(["a", "b"]), np.random.default_rng(0)
    for at in range(requests):
        card = "ab"[at % 2]
        ask(value, rng, at, card, GOOD_AT[card].__getitem__)
        if at == requests // 2:
            value.retrain()
    return value, rng


def test_it_expects_by_family_what_it_was_told_by_thumbs() -> None:
    value, _ = learned()
    sums = value.outlook(KINDS["sums"].format(3, 4)).mean_M
    poems = value.outlook(KINDS["poems"].format(3, 4)).mean_M
    assert sums[0] > sums[1] + 0.3
    assert poems[1] > poems[0] + 0.3


def test_before_the_first_outcome_all_cards_are_alike() -> None:
    found = OnlineValue(["a", "b"]).outlook("anything")
    assert found.mean_M[0] == found.mean_M[1]
    assert found.cost_ratio_M.tolist() == [1.0, 1.0]


def test_a_card_that_joins_is_little_known() -> None:
    value, _ = learned()
    value.join("c")
    found = value.outlook(KINDS["sums"].format(1, 2))
    spread = np.sqrt((found.root_M_Z**2).sum(1))
    assert spread[2] > 1.5 * spread[:2].max()
    with pytest.raises(ValueError, match="'c' is there already: a, b, c"):
        value.join("c")


def test_a_silent_swap_is_noticed_and_the_card_is_what_it_is_since() -> None:
    value, rng = learned()
    for at in range(400, 700):
        right = (0.1, 0.6)[at % 2]
        ask(value, rng, at, "ab"[at % 2], dict.fromkeys(KINDS, right).__getitem__)
    assert {alarm.card for alarm in value.alarms} >= {"a"}
    first = next(alarm for alarm in value.alarms if alarm.card == "a")
    assert abs(first.since - 400) < 60
    assert first.size is not None
    assert first.size < -0.2
    assert value.outlook(KINDS["sums"].format(3, 4)).mean_M[0] < 0.35


def test_another_model_behind_a_card_is_forgotten_at_once() -> None:
    value, rng = OnlineValue(["a", "b"]), np.random.default_rng(1)
    for at in range(100):
        ask(value, rng, at, "ab"[at % 2], lambda kind: 0.95, served=f"model-{at % 2}")
    before = np.sqrt((value.outlook("x").root_M_Z ** 2).sum(1))
    ask(value, rng, 100, "a", lambda kind: 0.95, score=False, served="model-new")
    after = np.sqrt((value.outlook("x").root_M_Z ** 2).sum(1))
    assert [(alarm.card, alarm.size) for alarm in value.alarms] == [("a", None)]
    assert after[0] > 1.3 * before[0]


def test_what_a_card_costs_is_learned_by_family() -> None:
    value, rng = OnlineValue(["a", "b"]), np.random.default_rng(2)
    for at in range(200):
        kind = list(KINDS)[at % 2]
        value.asked(f"r{at}", KINDS[kind].format(*rng.integers(100, size=2)), "a", at)
        value.answered(f"r{at}", 3.0 if kind == "poems" else 1.0, None)
        value.scored(f"r{at}", 1.0, 0.1, at)
    value.retrain()
    poems = value.outlook(KINDS["poems"].format(5, 6)).cost_ratio_M
    sums = value.outlook(KINDS["sums"].format(5, 6)).cost_ratio_M
    assert poems[0] > 2 * sums[0]
    assert poems[1] == pytest.approx(poems[0], rel=0.1)  # of b only the requests' size is known


def test_an_outcome_of_nothing_that_was_asked_is_an_error() -> None:
    value = OnlineValue(["a"])
    with pytest.raises(KeyError):
        value.scored("r0", 1.0, 0.0, 0.0)
    value.asked("r0", "text", "a", 0.0)
    value.scored("r0", 1.0, 0.0, 1.0)
    with pytest.raises(KeyError):
        value.scored("r0", 1.0, 0.0, 1.0)


def test_the_same_stream_teaches_the_same() -> None:
    one, other = learned(200)[0], learned(200)[0]
    text = KINDS["poems"].format(8, 9)
    assert one.outlook(text).mean_M.tolist() == other.outlook(text).mean_M.tolist()
