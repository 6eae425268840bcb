"""The warm start over cached activations: it computes what the whole model does, and it learns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.tiny_model import write_tiny_base
from training.base_model import load_base
from training.features import build_cache, encode
from training.warm_start import (
    UpperHalf,
    WarmStartConfig,
    learning_rate_at,
    measure_centre,
    prior_log_odds,
    slot_model,
    soft_targets,
    train_cached,
)

pytestmark = pytest.mark.train

PREFIX = "Models:\nA: one\nB: two\n"
QUESTIONS = [
    f"<request>\n{kind} {i}{'!' * (i % 5)}\n</request>\nGood choice:"
    for i in range(12)
    for kind in ("sum", "poem")
]
SCORE = np.array([[0.9, 0.1] if "sum" in q else [0.1, 0.9] for q in QUESTIONS])
FAMILIES = ["sum" if "sum" in q else "poem" for q in QUESTIONS]
EVERY = np.arange(len(QUESTIONS))


@pytest.fixture(scope="module")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_base(tmp_path_factory.mktemp("base"))


def upper_half(base_folder: Path, tmp_path: Path, config: WarmStartConfig) -> UpperHalf:
    base = load_base(base_folder)
    cache = build_cache(
        base, PREFIX, QUESTIONS, layers=config.frozen_layers, folder=tmp_path, batch_tokens=300
    )
    return UpperHalf(slot_model(base, prior_log_odds(SCORE), config), cache)


@pytest.mark.parametrize("frozen_layers", [0, 1, 2])
def test_cached_halves_give_what_the_whole_model_gives(
    base_folder: Path, tmp_path: Path, frozen_layers: int
) -> None:
    upper = upper_half(base_folder, tmp_path, WarmStartConfig(frozen_layers=frozen_layers))
    upper.slot.model.eval()
    with torch.no_grad():
        found = upper.hidden(EVERY)
        for i, question in enumerate(QUESTIONS):
            tokenizer = load_base(base_folder).tokenizer
            ids = encode(tokenizer, PREFIX) + encode(tokenizer, question)
            whole = upper.slot.model(torch.tensor([ids]), output_hidden_states=True)
            # float16 on disk keeps three digits.
            assert torch.allclose(found[i], whole.hidden_states[-1][0, -1], atol=2e-2)


def test_a_cache_is_reused_and_another_question_is_another_cache(
    base_folder: Path, tmp_path: Path
) -> None:
    base = load_base(base_folder)
    calls: list[int] = []

    def build(questions: list[str]) -> Path:
        return build_cache(
            base,
            PREFIX,
            questions,
            layers=1,
            folder=tmp_path,
            progress=lambda done, whole: calls.append(done),
        ).folder

    first = build(QUESTIONS)
    ran = len(calls)
    assert build(QUESTIONS) == first
    assert len(calls) == ran
    assert build(QUESTIONS[:3]) != first


def test_every_trainable_parameter_moves_and_nothing_else(
    base_folder: Path, tmp_path: Path
) -> None:
    config = WarmStartConfig(frozen_layers=1, epochs=2, batch_size=8, lora_rank=4)
    upper = upper_half(base_folder, tmp_path, config)
    before = {n: p.detach().clone() for n, p in upper.slot.model.named_parameters()}

    train_cached(upper, EVERY, SCORE, config)

    trained = 0
    for name, parameter in upper.slot.model.named_parameters():
        moved = not torch.equal(before[name], parameter)
        assert moved == parameter.requires_grad, name
        trained += moved
        if moved:
            assert ".layers.0." not in name
    assert trained == 2 * 2 * 7  # two layers, A and B, seven linear maps each


def test_it_learns_which_card_suits_which_prompt(base_folder: Path, tmp_path: Path) -> None:
    config = WarmStartConfig(
        frozen_layers=1, epochs=25, batch_size=8, learning_rate=1e-2, outcome_share=1.0
    )
    upper = upper_half(base_folder, tmp_path, config)
    measure_centre(upper, EVERY, 0)

    train_cached(upper, EVERY, soft_targets(SCORE, FAMILIES, 1.0), config)

    assert (upper.predict(EVERY).argmax(1) == SCORE.argmax(1)).mean() >= 0.9


def test_an_untrained_model_starts_at_the_prior(base_folder: Path, tmp_path: Path) -> None:
    upper = upper_half(base_folder, tmp_path, WarmStartConfig(frozen_layers=1))

    measure_centre(upper, EVERY, 0)

    assert np.allclose(upper.predict(EVERY).mean(0), prior_log_odds(SCORE), atol=1e-4)


def test_targets_lie_between_a_prompts_own_outcome_and_its_family() -> None:
    score = np.array([[1.0], [0.0], [1.0], [1.0]])

    own = soft_targets(score, ["a", "a", "b", "b"], 1.0)
    family = soft_targets(score, ["a", "a", "b", "b"], 0.0)

    assert (own == score).all()
    # (1 + 8 * 0.75) / (2 + 8) and (2 + 8 * 0.75) / (2 + 8)
    assert family[:, 0].tolist() == pytest.approx([0.7, 0.7, 0.8, 0.8])


def test_the_learning_rate_rises_and_falls() -> None:
    rates = [learning_rate_at(step, 100, 0.1) for step in range(100)]

    assert rates[0] < rates[9] == 1.0
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] == pytest.approx(0.1, abs=0.01)


def test_a_base_without_layers_to_train_is_refused(base_folder: Path) -> None:
    with pytest.raises(ValueError, match="the base has 3 layers"):
        slot_model(load_base(base_folder), np.zeros(2), WarmStartConfig(frozen_layers=3))
