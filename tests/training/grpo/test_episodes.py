"""The replay environment: episodes out of a table, exact and fast."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

from training.config.sampling import Sampling
from training.data.outcome_source import RecordedOutcomes
from training.data.reward import Reward
from training.grpo.episodes import MUST_NOT_CALL, EpisodeEnvironment, Episodes

SCORE = np.array([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]])
COST = np.array([[0.001, 0.002, 0.010], [0.001, 0.002, 0.010]])
REWARD = Reward(c_ref_usd=0.01)


def environment(**options: Any) -> EpisodeEnvironment:
    return EpisodeEnvironment(RecordedOutcomes(SCORE, COST), REWARD, **options)


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_an_action_gives_the_recorded_outcome_of_the_card_in_its_slot() -> None:
    episodes = Episodes(
        prompt_B=np.array([0, 1]),
        card_B_S=np.array([[2, 0, -1], [0, 1, 2]]),
        price_factor_B_S=np.array([[1.0, 2.0, 1.0], [1.0, 1.0, 1.0]]),
        cost_weight_B=np.array([1.0, 0.0]),
    )

    outcome = environment().step(episodes, np.array([1, 2]))

    assert outcome.score_B.tolist() == [1.0, 1.0]
    assert outcome.cost_usd_B.tolist() == pytest.approx([0.002, 0.010])
    assert outcome.reward_B.tolist() == pytest.approx([1 - 0.2, 1.0])


def test_router_tokens_are_part_of_the_cost() -> None:
    env = environment(router_cost_usd=0.001)
    episodes = env.sample(4, rng())

    free = environment().step(episodes, np.zeros(4, dtype=np.int64))
    paid = env.step(episodes, np.zeros(4, dtype=np.int64))

    assert np.allclose(paid.cost_usd_B - free.cost_usd_B, 0.001)


def test_pools_slots_prices_and_cost_weights_change_from_episode_to_episode() -> None:
    env = environment(sampling=Sampling(smallest_pool=1, price_jitter=0.5))

    episodes = env.sample(400, rng())

    assert set(episodes.legal_B_S.sum(1)) == {1, 2, 3}
    assert set(episodes.card_B_S[:, 0]) == {0, 1, 2}
    assert len(np.unique(episodes.price_factor_B_S)) > 400
    assert 0.02 < (episodes.cost_weight_B == 0).mean() < 0.2
    assert episodes.cost_weight_B.max() <= 10.0


def test_no_card_sits_in_two_slots() -> None:
    for row in environment().sample(200, rng()).card_B_S:
        cards = row[row >= 0]
        assert len(set(cards)) == len(cards)


def test_without_permutation_a_card_keeps_its_slot() -> None:
    env = environment(sampling=Sampling(permute=False))

    cards = env.sample(100, rng()).card_B_S

    assert (np.where(cards >= 0, cards, np.arange(3)) == np.arange(3)).all()


def test_a_card_without_a_known_outcome_is_never_a_candidate() -> None:
    score = SCORE.copy()
    score[0, 1] = np.nan
    env = EpisodeEnvironment(RecordedOutcomes(score, COST), REWARD)

    episodes = env.sample(300, rng())

    first = episodes.card_B_S[episodes.prompt_B == 0]
    assert not (first == 1).any()


def test_must_not_call_prompts_pay_for_answering_and_for_nothing_else() -> None:
    env = environment(must_not_call_N=[True, False])
    episodes = Episodes(
        prompt_B=np.array([0, 0, 1]),
        card_B_S=np.tile(np.arange(3), (3, 1)),
        price_factor_B_S=np.ones((3, 3)),
        cost_weight_B=np.zeros(3),
    )

    outcome = env.step(episodes, np.array([MUST_NOT_CALL, 0, MUST_NOT_CALL]))

    assert outcome.score_B.tolist() == [1.0, 0.0, 0.0]
    assert outcome.cost_usd_B.tolist() == [0.0, 0.001, 0.0]


def test_an_empty_slot_is_refused() -> None:
    episodes = Episodes(np.array([0]), np.array([[0, -1, -1]]), np.ones((1, 3)), np.array([0.0]))

    with pytest.raises(ValueError, match="slot 1 holds no candidate"):
        environment().step(episodes, np.array([1]))


def test_a_prompt_without_any_outcome_is_refused() -> None:
    with pytest.raises(ValueError, match="prompt 1 has no outcome"):
        EpisodeEnvironment(RecordedOutcomes(np.array([[1.0], [np.nan]]), np.ones((2, 1))), REWARD)


def test_seeds_make_it_repeatable() -> None:
    one, other = environment().sample(20, rng()), environment().sample(20, rng())

    assert (one.card_B_S == other.card_B_S).all()
    assert (one.cost_weight_B == other.cost_weight_B).all()


def test_thousands_of_episodes_a_second() -> None:
    table = np.random.default_rng(1)
    score, cost = table.integers(0, 2, (2_000, 10)).astype(float), table.random((2_000, 10))
    env = EpisodeEnvironment(RecordedOutcomes(score, cost), REWARD)
    started = time.process_time()
    for _ in range(5):
        env.step(episodes := env.sample(2_000, rng()), np.argmax(episodes.legal_B_S, axis=1))

    assert 10_000 / (time.process_time() - started) > 5_000
