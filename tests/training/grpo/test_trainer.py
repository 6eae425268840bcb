"""GRPO over slots: TRL's trainer, the serving policy, a cost weight that acts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from trl.trainer.grpo_config import GRPOConfig

from tests.support.tiny_model import write_tiny_base
from training.config.grpo import GrpoSettings
from training.config.sampling import Sampling
from training.config.trainer import TrainerConfig
from training.data.outcome_source import RecordedOutcomes
from training.data.reward import Reward
from training.grpo.episodes import EpisodeEnvironment, Episodes
from training.grpo.trainer import (
    LetterGRPOTrainer,
    SlotPlayer,
    arguments,
    log_policy,
    play_greedily,
    train_grpo,
)
from training.grpo.turns import OneTurn
from training.model.base import Base, load_base
from training.model.features import build_cache
from training.model.reading import CachedReading, PlainReading, Reading, answering, predict
from training.model.slots import SlotModel
from training.stage.callbacks import Report
from training.warm_start.targets import WarmStartConfig, slot_model
from xrouter_lg.prompts import slots

pytestmark = pytest.mark.train

LINES = ("one", "two", "three")
PREFIX = slots.render_prefix(LINES)
QUESTIONS = [f"<request>\nquestion {i}\n</request>\nGood choice:" for i in range(64)]
COST = np.tile([1e-4, 1e-3, 1e-2], (64, 1))
REWARD = Reward(c_ref_usd=1e-2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_base(tmp_path_factory.mktemp("base"))


def model(base: Base) -> SlotModel:
    return slot_model(base, np.zeros(3), WarmStartConfig(frozen_layers=1, lora_rank=4))


def block(cards: Sequence[int]) -> str:
    return slots.render_prefix([LINES[m] for m in cards])


def episodes_at(weight: float, count: int = 64, **how: Any) -> OneTurn:
    """Every choice is right; the policy learns the costs from rewards alone."""
    options: dict[str, Any] = {
        "permute": False,
        "smallest_pool": 3,
        "quality_only_share": 0.0,
        "cost_weight_low": weight,
        "cost_weight_high": weight,
        **how,
    }
    environment = EpisodeEnvironment(
        RecordedOutcomes(np.ones((64, 3)), COST), REWARD, sampling=Sampling(**options)
    )
    return one_turn(environment, count)


def one_turn(environment: EpisodeEnvironment, count: int = 64) -> OneTurn:
    episodes = environment.sample(count, np.random.default_rng(0), np.arange(count) % 64)
    return OneTurn(
        environment,
        episodes,
        QUESTIONS,
        block,
        prior_M=np.zeros(3),
        expected_usd_N_M=np.zeros_like(COST),
        names=("small", "medium", "large"),
    )


def plain(base: Base) -> Reading:
    return PlainReading(base.tokenizer, PREFIX, QUESTIONS)


def cached(base: Base, tmp_path: Path) -> Reading:
    cache = build_cache(base, PREFIX, QUESTIONS, layers=1, folder=tmp_path / "cache")
    return CachedReading(base, cache, PREFIX, QUESTIONS)


def train(
    slot: SlotModel, base: Base, reading: Reading, turns: OneTurn, out: Path, **options: Any
) -> list[dict[str, float]]:
    report = Report()
    train_grpo(
        slot,
        reading,
        turns,
        GrpoSettings(**{"steps": 4, "learning_rate": 1e-2, **options}),
        tokenizer=base.tokenizer,
        folder=out,
        callbacks=[report],
    )
    return report.log


def test_the_trained_policy_is_the_softmax_of_utilities_over_legal_slots(folder: Path) -> None:
    base = load_base(folder)
    slot, reading = model(base), plain(base)
    environment = EpisodeEnvironment(
        RecordedOutcomes(np.ones((1, 3)), COST[:1]), REWARD, sampling=Sampling(permute=False)
    )
    episodes = Episodes(
        np.array([0]), np.array([[0, -1, 2]]), np.array([[2.0, 1.0, 1.0]]), np.array([0.5])
    )
    turns = OneTurn(
        environment,
        episodes,
        QUESTIONS,
        block,
        prior_M=np.array([0.1, 0.2, 0.3]),
        expected_usd_N_M=COST,
        names=("a", "b", "c"),
    )
    state = turns.state(0)
    assert state.prefix == PREFIX
    contrast = reading.contrast(slot, **reading.inputs([0]))

    p = log_policy(slot, contrast, [state], 0.1)[0].exp()

    with torch.no_grad():
        logits = slot.model(torch.tensor([reading.ids(0)])).logits[0, -1]
    z = logits[list(slot.slot_ids)] - logits[slot.anchor_id] + torch.tensor([0.1, 0.2, 0.3])
    u = (torch.sigmoid(z) - torch.tensor([0.5 * 2e-4 / 1e-2, 0.0, 0.5])) / 0.1
    expected = torch.softmax(u[[0, 2]], -1)
    assert p[[0, 2]].tolist() == pytest.approx(expected.tolist(), abs=1e-5)
    assert float(p[1].detach()) == 0.0


@pytest.mark.parametrize("recipe", ["plain", "cached"])
def test_a_trl_step_moves_every_trainable_parameter(
    folder: Path, tmp_path: Path, recipe: str
) -> None:
    base = load_base(folder)
    slot = model(base)
    reading = plain(base) if recipe == "plain" else cached(base, tmp_path)
    before = {n: p.detach().clone() for n, p in slot.model.named_parameters() if p.requires_grad}

    log = train(slot, base, reading, episodes_at(1.0), tmp_path / "out")

    still = [
        n for n, p in slot.model.named_parameters() if n in before and torch.equal(before[n], p)
    ]
    assert still == []
    assert [entry["step"] for entry in log] == [1, 2, 3, 4]
    assert {"reward", "cost_usd", "score", "legal", "entropy", "share/large"} <= log[0].keys()
    assert sum(log[0][f"share/{name}"] for name in ("small", "medium", "large")) == 1.0
    assert "forward" not in slot.model.get_base_model().__dict__


def test_cached_activations_train_what_whole_prompts_train(folder: Path, tmp_path: Path) -> None:
    logs, weights = [], []
    for name in ("plain", "cached"):
        base = load_base(folder)
        slot = model(base)
        reading = plain(base) if name == "plain" else cached(base, tmp_path)
        logs.append(
            train(slot, base, reading, episodes_at(1.0), tmp_path / name, learning_rate=1e-3)
        )
        weights.append(torch.cat([p.flatten() for p in slot.model.parameters() if p.requires_grad]))

    # float16 on disk keeps three digits.
    assert [e["reward"] for e in logs[0]] == pytest.approx([e["reward"] for e in logs[1]], abs=0.02)
    assert torch.nn.functional.cosine_similarity(weights[0], weights[1], dim=0) > 0.999


def test_samples_of_a_group_share_one_pass_over_their_prompt(folder: Path, tmp_path: Path) -> None:
    base = load_base(folder)
    slot, reading = model(base), plain(base)
    sizes: list[int] = []
    contrast = reading.contrast

    def counted(slot: SlotModel, **inputs: torch.Tensor) -> torch.Tensor:
        sizes.append(len(inputs["input_ids"]))
        return contrast(slot, **inputs)

    reading.contrast = counted  # type: ignore[method-assign]
    train(slot, base, reading, episodes_at(1.0), tmp_path, steps=2, prompts_per_step=4)

    assert sizes == [4, 4, 4, 4]  # to sample and to learn, twice; 32 completions each


def test_a_larger_cost_weight_pushes_harder_away_from_dear_cards(
    folder: Path, tmp_path: Path
) -> None:
    """Every choice is right, so cost alone tells them apart."""
    chance = {}
    for weight in (0.02, 2.0):
        base = load_base(folder)
        slot, reading = model(base), plain(base)
        turns = episodes_at(weight)
        train(slot, base, reading, turns, tmp_path / f"{weight}", steps=8, learning_rate=3e-3)
        p = 1 / (1 + np.exp(-predict(slot, reading, [0])[0]))
        chance[weight] = p[2] - p[0]

    assert chance[2.0] < chance[0.02]


def test_scaling_by_group_takes_the_cost_weight_out(folder: Path, tmp_path: Path) -> None:
    """Every choice is right: a hundredth of the weight, and the same advantages to four digits."""
    advantages = {}
    for weight in (0.02, 2.0):
        for scale in ("group", "none"):
            base = load_base(folder)
            slot, reading = model(base), plain(base)
            settings = GrpoSettings(steps=1, scale_rewards=scale, allow_group_scaling=True)  # type: ignore[arg-type]
            batch = first_batch(slot, base, reading, episodes_at(weight), settings, tmp_path)
            order = torch.argsort(batch["episode"] * 1000 + batch["completion_ids"][:, 0])
            advantages[scale, weight] = batch["advantages"][order]

    assert torch.allclose(advantages["group", 0.02], advantages["group", 2.0], atol=0.1)
    assert torch.allclose(advantages["none", 0.02] * 100, advantages["none", 2.0], atol=1e-3)


def test_scaling_by_batch_keeps_the_cost_weight_where_weights_differ_within_a_batch(
    folder: Path, tmp_path: Path
) -> None:
    """One spread divides them all: what one episode's weight is to another's stays."""
    base = load_base(folder)
    slot, reading = model(base), plain(base)
    turns = episodes_at(1.0)
    turns._episodes.cost_weight_B[:4] = [0.02, 2.0, 0.02, 2.0]
    settings = GrpoSettings(steps=1, scale_rewards="batch", generations=32)

    batch = first_batch(slot, base, reading, turns, settings, tmp_path)

    spread = [float(batch["advantages"][batch["episode"] == e].std()) for e in range(4)]
    assert spread[1] > 20 * spread[0] and spread[3] > 20 * spread[2]


def first_batch(
    slot: SlotModel,
    base: Base,
    reading: Reading,
    turns: OneTurn,
    settings: GrpoSettings,
    out: Path,
) -> dict[str, torch.Tensor]:
    """What TRL makes of its first step's rows."""
    from datasets import Dataset

    rows = [{"prompt": f"{e}", "episode": e} for e in range(settings.prompts_per_step)]
    how = TrainerConfig(device="cpu")
    with answering(slot, reading):
        trainer = LetterGRPOTrainer(
            SlotPlayer(slot, reading, turns, settings.temperature),
            args=GRPOConfig(**arguments(settings, how, out)),
            train_dataset=Dataset.from_list(rows),
            processing_class=base.tokenizer,
        )
        loader = trainer.get_train_dataloader()
        trainer.model.train()
        batch: dict[str, torch.Tensor] = trainer._prepare_inputs(next(iter(loader)))
        return batch


def test_slots_that_are_dealt_anew_are_learned_from_in_their_own_prompts(
    folder: Path, tmp_path: Path
) -> None:
    base = load_base(folder)
    slot, reading = model(base), plain(base)
    turns = episodes_at(1.0, permute=True, smallest_pool=2)
    prefixes = {turns.state(e).prefix for e in range(len(turns))}
    assert len(prefixes) > 5

    log = train(slot, base, reading, turns, tmp_path, prompts_per_step=8)

    assert len(log) == 4


def test_a_sampled_letter_is_always_legal(folder: Path, tmp_path: Path) -> None:
    base = load_base(folder)
    slot, reading = model(base), plain(base)

    log = train(
        slot,
        base,
        reading,
        episodes_at(1.0, smallest_pool=1),
        tmp_path,
        steps=6,
        prompts_per_step=8,
        temperature=100.0,  # as good as a die
    )

    # An illegal slot would have raised in the environment.
    assert all(entry["legal"] == 1.0 for entry in log)
    assert log[0]["entropy"] > 0.3


def test_greedy_play_takes_the_letter_of_the_highest_utility(folder: Path) -> None:
    base = load_base(folder)
    slot, reading = model(base), plain(base)
    cheap = one_turn(
        EpisodeEnvironment(
            RecordedOutcomes(np.ones((64, 3)), COST),
            REWARD,
            sampling=Sampling(permute=False, smallest_pool=3),
        ),
        4,
    )

    letters = play_greedily(slot, reading, cheap)

    best = predict(slot, reading, np.arange(4)).argmax(1)
    assert letters.tolist() == best.tolist()


def test_an_interrupted_run_goes_on_to_the_same_weights(folder: Path, tmp_path: Path) -> None:
    from transformers import TrainerCallback

    class Cut(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, _args: Any, state: Any, control: Any, **__: Any) -> None:
            if state.global_step == 3:
                control.should_save = control.should_training_stop = True

    def run(out: Path, callbacks: list[Any], resume: bool) -> tuple[torch.Tensor, list[Any]]:
        base = load_base(folder)
        slot, report = model(base), Report()
        train_grpo(
            slot,
            plain(base),
            episodes_at(1.0),
            GrpoSettings(steps=6, learning_rate=1e-2),
            tokenizer=base.tokenizer,
            folder=out,
            callbacks=[*callbacks, report],
            resume=resume,
        )
        found = torch.cat([p.flatten() for p in slot.model.parameters() if p.requires_grad])
        return found, report.log

    whole, log = run(tmp_path / "whole", [], False)
    cut, _ = run(tmp_path / "cut", [Cut()], False)
    assert not torch.allclose(cut, whole, atol=1e-6)
    resumed, again = run(tmp_path / "cut", [], True)

    assert [e["reward"] for e in again] == pytest.approx([e["reward"] for e in log])
    assert torch.allclose(resumed, whole, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"scale_rewards": "group"}, "inert"),
        ({"scale_rewards": "all"}, "should be 'batch', 'none'"),
        ({"temperature": 0.0}, "above 0"),
        ({"generations": 1}, "at least 2"),
        ({"steps": -1}, "not be negative"),
    ],
)
def test_settings_that_would_not_learn_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        GrpoSettings(**options)


def test_too_few_episodes_are_refused(folder: Path, tmp_path: Path) -> None:
    base = load_base(folder)

    with pytest.raises(ValueError, match="need 400 episodes; there are 64"):
        train(model(base), base, plain(base), episodes_at(1.0), tmp_path, steps=100)


def test_an_unknown_outcome_leaves_the_batch(folder: Path, tmp_path: Path) -> None:
    """A worker or verifier that failed: no reward, no advantage, no zero in the mean."""

    class Failing:
        shape = (64, 3)

        def askable(self) -> Any:
            return np.ones((64, 3), dtype=np.bool_)

        def ask(self, prompt_B: Any, card_B: Any) -> Any:
            return np.where(card_B == 0, np.nan, 1.0), COST[prompt_B, card_B]

        def answer(self, prompt: int, card: int) -> None:
            return None

    base = load_base(folder)
    slot, reading = model(base), plain(base)
    environment = EpisodeEnvironment(
        Failing(), REWARD, sampling=Sampling(permute=False, smallest_pool=3)
    )
    settings = GrpoSettings(steps=1, temperature=100.0)

    batch = first_batch(slot, base, reading, one_turn(environment), settings, tmp_path)

    failed = batch["completion_ids"][:, 0] == slot.slot_ids[0]
    assert 0 < failed.sum() < len(failed)
    assert (batch["advantages"][failed] == 0).all()
    assert batch["advantages"][~failed].abs().sum() > 0
