"""How likely a policy holds each card to be the best one, against what can be worked out."""

from __future__ import annotations

import math
from dataclasses import replace
from statistics import NormalDist

import numpy as np
import pytest
from langchain_core.messages import HumanMessage

from tests.support.flat_heads import SUMS, flat_head, manifest_of
from xrouter_lg import ModelCard, RouteRequest
from xrouter_lg.arrays import Floats
from xrouter_lg.checkpoints.family_head import FamilyHead
from xrouter_lg.policies.thompson import DRAWS, NEWCOMER, best_chances
from xrouter_lg.policies.utility import Predictor, Utilities
from xrouter_lg.value.posterior import unlearned

USD = (1e-4, 1e-3)
ERROR = 4 * math.sqrt(0.25 / DRAWS)
"""Four standard errors of a chance that was counted over the draws."""


def cards(*names: str) -> list[ModelCard]:
    return [ModelCard(name=n, model=n, base_url="http://127.0.0.1:1/v1") for n in names]


def weighed(
    head: FamilyHead,
    mean: tuple[float, ...],
    usd: tuple[float, ...] = USD,
    *,
    text: str = SUMS[0],
    cost_weight: float = 0.0,
    names: tuple[str, ...] | None = None,
    contrasts: dict[str, float] | None = None,
    share: float = 1.0,
) -> Utilities:
    predictor = Predictor.of(manifest_of(head, mean, usd), head).with_share(share)
    request = RouteRequest([HumanMessage(text)], prompt_tokens=10)
    return predictor.utilities(contrasts or {}, request, cards(*(names or head.cards)), cost_weight)


def chances(head: FamilyHead, mean: tuple[float, ...], **options: object) -> dict[str, float]:
    found = best_chances(weighed(head, mean, **options))  # type: ignore[arg-type]
    assert found is not None
    assert sum(found.values()) == pytest.approx(1.0)
    return found


@pytest.mark.parametrize("gap", [0.0, 0.05, 0.2])
def test_two_cards_are_the_best_as_often_as_the_normal_distribution_says(gap: float) -> None:
    mean = (0.6, 0.6 + gap)
    found = chances(flat_head(("a", "b"), mean, np.diag([0.01, 0.02])), mean)
    expected = NormalDist().cdf(gap / math.sqrt(0.03))
    assert found["b"] == pytest.approx(expected, abs=ERROR)


def test_what_cards_have_in_common_is_no_reason_to_try_the_worse_one() -> None:
    mean, together = (0.6, 0.65), np.full((2, 2), 0.02)
    assert chances(flat_head(("a", "b"), mean, together), mean)["a"] == 0.0
    apart = np.diag([0.02, 0.02])
    assert chances(flat_head(("a", "b"), mean, apart), mean)["a"] > 0.3


def test_partitions_that_learned_from_the_same_outcomes_are_no_more_certain_together() -> None:
    mean, covariance = (0.6, 0.7), np.diag([0.03, 0.03])
    expected = NormalDist().cdf(0.1 / math.sqrt(0.06))
    for partitions in (1, 3):
        found = chances(flat_head(("a", "b"), mean, covariance, partitions), mean)
        assert found["b"] == pytest.approx(expected, abs=ERROR)


def test_a_covariance_of_many_cards_is_drawn_from_as_it_is(rng: np.random.Generator) -> None:
    """Against draws by numpy's own multivariate normal, candidates a part of the cards."""
    names, mean = ("a", "b", "c", "d", "e"), (0.5, 0.55, 0.6, 0.62, 0.4)
    half = rng.normal(0, 0.08, (5, 5))
    covariance: Floats = half @ half.T
    head = flat_head(names, mean, covariance)
    some = ("b", "e", "d")
    found = chances(head, mean, usd=(1e-3,) * 5, names=some)
    at = [names.index(name) for name in some]
    drawn = rng.multivariate_normal(np.array(mean)[at], covariance[np.ix_(at, at)], 200_000)
    expected = np.bincount(drawn.argmax(1), minlength=3) / 200_000
    assert [found[name] for name in some] == pytest.approx(expected, abs=ERROR)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(5)


def test_the_cost_weight_counts_as_in_the_decision() -> None:
    mean, covariance = (0.6, 0.8), np.diag([0.01, 0.01])
    head = flat_head(("a", "b"), mean, covariance)
    # b is dearer by 0.9 of the reference.
    even = chances(head, mean, cost_weight=0.2 / 0.9)
    assert even["a"] == pytest.approx(0.5, abs=ERROR)


def test_a_request_says_the_same_every_time_and_another_one_its_own() -> None:
    mean = (0.6, 0.62)
    head = flat_head(("a", "b"), mean, np.diag([0.01, 0.01]))
    assert chances(head, mean) == chances(head, mean)
    others = {chances(head, mean, text=text)["a"] for text in SUMS[:8]}
    assert len(others) > 1


def test_far_from_what_was_seen_the_overall_best_is_the_best() -> None:
    mean = (0.6, 0.62)
    head = flat_head(("a", "b"), mean, np.diag([0.01, 0.01]))
    assert chances(head, mean, text="Quo usque tandem abutere") == {"a": 0.0, "b": 1.0}


def test_a_card_counted_on_less_for_want_of_trials_is_tried_by_its_mean() -> None:
    mean = (0.6, 0.6)
    head = flat_head(("a", "b"), mean, np.diag([0.0001, 0.02]))
    counted = np.array(head.arrays["quality_F_M"])
    counted[:, 1] -= 0.2
    wary = FamilyHead({**head.arrays, "quality_F_M": counted}, head.families, head.cards)
    found = weighed(wary, mean)
    assert found.utility["a"] > found.utility["b"]
    chance = best_chances(found)
    assert chance is not None and chance["b"] == pytest.approx(0.5, abs=ERROR)


def test_beside_a_language_model_the_heads_doubt_has_its_share() -> None:
    """At a quarter of the reading the spread is a quarter too."""
    mean, gap = (0.6, 0.65), 0.05
    head = flat_head(("a", "b"), mean, np.diag([0.02, 0.02]))
    found = chances(head, mean, contrasts={"a": 0.0, "b": 0.0}, share=0.25)
    expected = NormalDist().cdf(gap / (0.25 * math.sqrt(0.04)))
    assert found["b"] == pytest.approx(expected, abs=ERROR)


def test_a_card_that_the_head_does_not_know_is_as_far_from_the_others_as_cards_are() -> None:
    """Expected at the mean of their log-odds, known to nothing but how far cards differ."""
    mean = (0.6, 0.9)
    head = flat_head(("a", "b"), mean, np.diag([1e-8, 1e-8]))
    odds = math.sqrt(0.6 / 0.4 * 0.9 / 0.1)
    spread = math.sqrt(unlearned(1, 2).covariance_F_M_M[0, 0, 0])
    assert pytest.approx(spread) == NEWCOMER
    found = chances(head, mean, names=("b", "stranger"))
    expected = NormalDist().cdf((odds / (1 + odds) - 0.9) / spread)
    assert found["stranger"] == pytest.approx(expected, abs=ERROR)
    assert 0.2 < expected < 0.4


def test_a_head_that_does_not_know_its_uncertainty_says_nothing() -> None:
    mean = (0.6, 0.7)
    head = flat_head(("a", "b"), mean, np.diag([0.01, 0.01]))
    arrays = {k: v for k, v in head.arrays.items() if k not in ("root_F_M_M", "mean_F_M")}
    assert best_chances(weighed(FamilyHead(arrays, head.families, head.cards), mean)) is None


def test_without_a_head_nothing_is_said() -> None:
    mean = (0.6, 0.7)
    head = flat_head(("a", "b"), mean, np.diag([0.01, 0.01]))
    predictor = replace(Predictor.of(manifest_of(head, mean, USD), head), head=None)
    request = RouteRequest([HumanMessage("hi")], prompt_tokens=10)
    assert best_chances(predictor.utilities({}, request, cards("a", "b"), 0.0)) is None


def test_roots_of_another_shape_are_refused() -> None:
    head = flat_head(("a", "b"), (0.6, 0.7), np.diag([0.01, 0.01]))
    arrays = {**head.arrays, "root_F_M_M": head.arrays["root_F_M_M"][:, :1]}
    with pytest.raises(ValueError, match="roots"):
        FamilyHead(arrays, head.families, head.cards)
