"""Several turns: call, look at the answer, accept it or call another; one letter a turn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from langchain_core.messages import HumanMessage

from tests.support.tiny_model import write_tiny_base
from training.config.warm_start import WarmStartConfig
from training.data.reward import Reward
from training.grpo.episodes import Episodes, whole_pool
from training.grpo.outcome_source import RecordedOutcomes
from training.grpo.trainer import GrpoSettings, play_greedily, train_grpo
from training.model.base import Base, load_base
from training.model.features import build_cache
from training.model.reading import CachedReading, PlainReading, Reading
from training.model.slots import SlotModel, slot_model
from training.sequential import (
    Letters,
    SequentialEnvironment,
    draw_states,
    pair_line,
    question_with_answers,
    sequential_samples,
)
from training.stage.callbacks import Report
from training.warm_start.targets import measure_centre
from training.warm_start.trainer import train_slots
from xrouter_lg.prompts import slots

pytestmark = pytest.mark.train

# On even prompts the small model is right, on odd ones only the large one.
TEXTS = [["yes" if i % 2 == 0 else "?????????", "yes"] for i in range(16)]
SCORE = np.array([[1.0, 1.0] if i % 2 == 0 else [0.0, 1.0] for i in range(16)])
COST = np.tile([1e-4, 1e-3], (16, 1))
LINES = ("small one", "large one")
NAMES = ("small", "large")
REWARD = Reward(c_ref_usd=1e-3)
SOURCE = RecordedOutcomes(SCORE, COST, TEXTS)
CONVERSATIONS = [[HumanMessage(f"number {i}")] for i in range(16)]
SMALL, LARGE, FIRST, SECOND = range(4)


def environment(
    letters: Letters | None = None, episodes: Episodes | None = None, **options: Any
) -> SequentialEnvironment:
    what = letters or Letters(2, turns=3)
    return SequentialEnvironment(
        SOURCE,
        episodes or whole_pool(np.arange(16), 2, [0.5]),
        CONVERSATIONS,
        [*LINES, *(pair_line(pair) for pair in what.pairs)],
        REWARD,
        letters=what,
        prior_M=np.array([0.2, 1.5]),
        expected_usd_M=COST.mean(0),
        names=NAMES,
        **options,
    )


def legal(env: SequentialEnvironment, *actions: int, episode: int = 1) -> list[int]:
    for count in range(1, len(actions) + 1):
        env.advance([(episode, actions[:count])])
    state = env.state(episode, actions)
    return [] if state is None else np.flatnonzero(state.legal_L).tolist()


def test_the_letters_that_are_legal_follow_the_course_of_the_episode() -> None:
    env = environment()

    assert legal(env) == [SMALL, LARGE]
    assert legal(env, SMALL) == [LARGE, FIRST]
    assert legal(env, SMALL, LARGE) == [FIRST, SECOND]  # the last turn can only accept
    assert legal(env, SMALL, FIRST) == []
    assert legal(env, SMALL, LARGE, SECOND) == []


def test_a_state_is_what_serving_would_render() -> None:
    env = environment()
    env.advance([(1, (SMALL,))])
    env.advance([(1, (SMALL, LARGE))])

    first, second = env.state(1, ()), env.state(1, (SMALL, LARGE))

    assert first is not None and second is not None
    rendered = slots.render(CONVERSATIONS[1], LINES)
    assert (first.prefix, first.question) == (rendered.prefix, rendered.question)
    assert "Q: 1 words, agrees with none. ?????????" in second.question
    assert "R: 1 words, agrees with none. yes" in second.question
    assert second.question.startswith(rendered.question.removesuffix("Good choice:"))


def test_costs_of_calls_and_of_the_routers_own_tokens_add_up() -> None:
    env = environment(router_usd=lambda prompt: 1e-6)
    env.advance([(1, (SMALL,)), (0, (SMALL,))])
    env.advance([(1, (SMALL, LARGE)), (0, (SMALL, FIRST))])
    env.advance([(1, (SMALL, LARGE, SECOND))])

    results = env.results([(1, (SMALL, LARGE, SECOND)), (0, (SMALL, FIRST))])

    expected = [1 - 0.5 * (1.1e-3 + 3e-6) / 1e-3, 1 - 0.5 * (1e-4 + 2e-6) / 1e-3]
    assert results.reward_B.tolist() == pytest.approx(expected)
    assert results.metrics["calls"] == 1.5
    assert results.metrics["share/small"] == results.metrics["share/large"] == 0.5


def test_one_turn_calls_and_ends() -> None:
    env = environment(Letters(2, turns=1))

    assert legal(env) == [SMALL, LARGE]
    env.advance([(1, (LARGE,))])
    assert env.state(1, (LARGE,)) is None
    assert env.results([(1, (LARGE,))]).reward_B.tolist() == pytest.approx([0.5])


def test_a_pair_is_called_at_once_and_either_answer_can_be_accepted() -> None:
    env = environment(Letters(2, turns=3, pairs=((0, 1),)))
    pair, first, second = 2, 3, 4

    assert legal(env) == [SMALL, LARGE, pair]
    assert legal(env, pair) == [first, second]
    assert env.results([(1, (pair, second))]).reward_B.tolist() == pytest.approx([1 - 0.55])
    state = env.state(1, ())
    assert state is not None and "C: A and B at once" in state.prefix


def test_a_card_outside_the_episodes_pool_is_never_called() -> None:
    episodes = Episodes(np.array([0]), np.array([[0, -1]]), np.ones((1, 2)), np.array([0.5]))

    assert legal(environment(episodes=episodes), episode=0) == [SMALL]
    assert legal(environment(episodes=episodes), SMALL, episode=0) == [FIRST]


def test_an_answer_that_never_came_has_no_letter_and_no_reward() -> None:
    class Down:
        """The small card is down, the large one answers."""

        shape = (16, 2)

        def askable(self) -> Any:
            return np.ones((16, 2), dtype=np.bool_)

        def ask(self, prompt_B: Any, card_B: Any) -> Any:
            return np.where(card_B == 0, np.nan, 1.0), np.where(card_B == 0, np.nan, 1e-3)

        def answer(self, prompt: int, card: int) -> Any:
            return None if card == 0 else SOURCE.answer(prompt, card)

    env = SequentialEnvironment(
        Down(),
        whole_pool(np.arange(16), 2, [0.5]),
        CONVERSATIONS,
        LINES,
        REWARD,
        letters=Letters(2, turns=3),
        prior_M=np.zeros(2),
        expected_usd_M=COST.mean(0),
        names=NAMES,
    )

    assert legal(env, SMALL) == [LARGE]
    assert legal(env, SMALL, LARGE) == [FIRST]
    # What the failed call has cost is unknown, and so is the reward.
    assert np.isnan(env.results([(1, (SMALL, LARGE, FIRST))]).reward_B).all()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"cards": 2, "turns": 0}, "1 or more"),
        ({"cards": 2, "turns": 3, "pairs": ((0, 2),)}, "no pair"),
        ({"cards": 17, "turns": 3}, "16 and 8 letters"),
        ({"cards": 4, "turns": 20}, "16 and 8 letters"),
    ],
)
def test_letters_that_do_not_exist_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Letters(**options)


def test_warm_start_states_teach_answers_and_the_cards_that_are_left() -> None:
    letters = Letters(2, turns=3)
    states = draw_states(16, letters, np.random.default_rng(0), states_per_prompt=2)
    target = np.full((16, 2), 0.5)

    samples = sequential_samples(
        states, np.arange(len(states)), target, SCORE, letters, np.array([0.2, 1.5])
    )

    assert len(states) == 16 * 3
    for number, (row, shown) in enumerate(states):
        called = samples.target_N_L[number, : len(letters.calls)]
        assert np.isnan(called).tolist() == [card in shown for card in range(2)]
        for place, card in enumerate(shown):
            found = samples.target_N_L[number, 2 + place]
            assert found == pytest.approx(0.8 * SCORE[row, card] + 0.1)
            assert samples.prior_N_L[number, 2 + place] == [0.2, 1.5][card]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_base(tmp_path_factory.mktemp("base"))


def warm(folder: Path, tmp_path: Path, recipe: str) -> tuple[SlotModel, Reading, Base]:
    """A policy that has learned to read answers: unclear ones are wrong."""
    base, letters = load_base(folder), Letters(2, turns=3)
    config = WarmStartConfig(
        recipe=recipe,  # type: ignore[arg-type]
        method="full",
        frozen_layers=0 if recipe == "plain" else 1,
        epochs=20,
        batch_size=16,
        learning_rate=3e-3,
    )
    states = draw_states(16, letters, np.random.default_rng(0), states_per_prompt=2)
    questions = [
        question_with_answers(SOURCE, CONVERSATIONS[row], NAMES, row, shown)
        for row, shown in states
    ]
    prefix = slots.render_prefix(LINES)
    reading: Reading
    if recipe == "plain":
        reading = PlainReading(base.tokenizer, prefix, questions)
    else:
        cache = build_cache(base, prefix, questions, layers=1, folder=tmp_path / "cache")
        reading = CachedReading(base, cache, prefix, questions)
    slot = slot_model(base, np.array([0.2, 1.5]), config, answers=letters.answers)
    measure_centre(slot, reading, np.arange(len(questions)), 0)
    target = np.tile(SCORE.mean(0), (16, 1))
    samples = sequential_samples(
        states,
        np.array(reading.find(questions)),
        target,
        SCORE,
        letters,
        np.array([0.2, 1.5]),
        answer_share=1.0,
    )
    train_slots(slot, reading, samples, config, tokenizer=base.tokenizer, folder=tmp_path / "warm")
    return slot, reading, base


def test_a_warm_start_and_grpo_make_a_cascade_that_beats_every_single_call(
    folder: Path, tmp_path: Path
) -> None:
    """Call the small card, accept what is clear, call the large card for the rest."""
    slot, reading, base = warm(folder, tmp_path, "plain")
    env = environment()
    before = env.results(list(enumerate(play_greedily(slot, reading, env))))
    prompts = np.random.default_rng(0).integers(0, 16, 80)
    report = Report()

    train_grpo(
        slot,
        reading,
        environment(episodes=whole_pool(prompts, 2, [0.5])),
        GrpoSettings(steps=20, turns=3, learning_rate=2e-3, temperature=0.3, prompts_per_step=4),
        tokenizer=base.tokenizer,
        folder=tmp_path / "grpo",
        callbacks=[report],
    )

    # Small alone earns 0.45, large alone 0.5, the perfect cascade 0.7.
    after = env.results(list(enumerate(play_greedily(slot, reading, env))))
    assert before.reward_B.mean() < 0.55
    assert after.reward_B.mean() > 0.65
    assert after.metrics["calls"] == pytest.approx(1.5, abs=0.2)
    assert all(1.0 <= entry["calls"] <= 2.0 for entry in report.log)
    assert max(entry["completions/max_length"] for entry in report.log) == 3


def test_states_met_on_the_way_are_read_by_the_cached_recipe_too(
    folder: Path, tmp_path: Path
) -> None:
    slot, reading, base = warm(folder, tmp_path, "cached")
    known = len(reading)
    before = torch.cat([p.flatten() for p in slot.model.parameters() if p.requires_grad]).clone()

    train_grpo(
        slot,
        reading,
        environment(episodes=whole_pool(np.arange(16), 2, [0.01])),
        GrpoSettings(steps=2, turns=3, learning_rate=1e-3, temperature=5.0),
        tokenizer=base.tokenizer,
        folder=tmp_path / "grpo",
    )

    after = torch.cat([p.flatten() for p in slot.model.parameters() if p.requires_grad])
    assert not torch.equal(before, after)
    assert len(reading) >= known


def test_dealt_slots_and_missing_lines_are_refused() -> None:
    dealt = Episodes(np.array([0]), np.array([[1, 0]]), np.ones((1, 2)), np.array([0.5]))

    with pytest.raises(ValueError, match="permute=False"):
        environment(episodes=dealt)
    with pytest.raises(ValueError, match="2 lines for 3 call letters"):
        SequentialEnvironment(
            SOURCE,
            whole_pool(np.arange(16), 2, [0.5]),
            CONVERSATIONS,
            LINES,
            REWARD,
            letters=Letters(2, turns=3, pairs=((0, 1),)),
            prior_M=np.zeros(2),
            expected_usd_M=COST.mean(0),
            names=NAMES,
        )
