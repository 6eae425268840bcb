"""GRPO over slots: TRL's trainer, the serving policy, a cost weight that acts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.tiny_model import write_tiny_base
from training.base_model import Base, load_base
from training.grpo import GrpoSettings, SlotPolicyHead, train_grpo
from training.replay import ReplayEnvironment, Sampling
from training.reward import Reward
from training.warm_start import SlotModel, WarmStartConfig, slot_model

pytestmark = pytest.mark.train

PREFIX = "Models:\nA: one\nB: two\nC: three\n"
QUESTIONS = [f"<request>\nquestion {i}\n</request>\nGood choice:" for i in range(64)]
COST = np.tile([1e-4, 1e-3, 1e-2], (64, 1))
REWARD = Reward(c_ref_usd=1e-2)


@pytest.fixture
def base(tmp_path: Path) -> Base:
    return load_base(write_tiny_base(tmp_path / "base"))


def model(base: Base) -> SlotModel:
    return slot_model(base, np.zeros(3), WarmStartConfig(frozen_layers=1, lora_rank=4))


def environment(weight: float) -> ReplayEnvironment:
    how = Sampling(
        permute=False,
        smallest_pool=3,
        quality_only_share=0.0,
        cost_weight_low=weight,
        cost_weight_high=weight,
    )
    return ReplayEnvironment(np.ones((64, 3)), COST, REWARD, sampling=how)


def train(slot: SlotModel, base: Base, folder: Path, weight: float, **options: object) -> list:  # type: ignore[type-arg]
    settings = GrpoSettings(**{"steps": 4, "learning_rate": 1e-2, **options})  # type: ignore[arg-type]
    free = np.zeros_like(COST)  # the policy learns the costs from rewards alone
    return train_grpo(
        slot,
        base.tokenizer,
        PREFIX,
        QUESTIONS,
        environment(weight),
        free,
        REWARD.c_ref_usd,
        settings,
        folder=folder,
    )


def test_the_trained_policy_is_the_softmax_of_utilities_over_legal_slots(base: Base) -> None:
    slot = model(base)
    slot.model.eval()
    ids = base.tokenizer(PREFIX + QUESTIONS[0])["input_ids"]
    with torch.no_grad():
        plain = slot.model(torch.tensor([ids])).logits[0, -1]
    head = SlotPolicyHead(slot, temperature=0.1)
    head.add(ids, np.array([0.2, np.inf, 0.0]))
    with head, torch.no_grad():
        prompt_only = slot.model(input_ids=torch.tensor([ids])).logits[0, -1]
        padded = torch.tensor([[0, 0, *ids, slot.slot_ids[0]]])
        mask = torch.tensor([[0, 0, *[1] * len(ids), 1]])
        scored = slot.model(input_ids=padded, attention_mask=mask, logits_to_keep=2).logits[0, 0]

    p = torch.softmax(prompt_only, -1)
    z = plain[list(slot.slot_ids)] - plain[slot.anchor_id]
    u = (torch.sigmoid(z) - torch.tensor([0.2, 0.0, 0.0])) / 0.1
    expected = torch.softmax(u[[0, 2]], -1)
    assert p[[slot.slot_ids[0], slot.slot_ids[2]]].tolist() == pytest.approx(
        expected.tolist(), abs=1e-5
    )
    assert float(p.sum() - p[list(slot.slot_ids)].sum()) == pytest.approx(0.0, abs=1e-6)
    assert float(p[slot.slot_ids[1]]) == 0.0
    assert torch.allclose(torch.softmax(scored, -1), p, atol=1e-4)


def test_the_model_is_itself_again_after_training(base: Base) -> None:
    slot = model(base)
    ids = torch.tensor([base.tokenizer(QUESTIONS[0])["input_ids"]])
    before = slot.model(input_ids=ids).logits
    with SlotPolicyHead(slot, 0.1):
        pass

    assert torch.equal(slot.model(input_ids=ids).logits, before)


def test_a_trl_step_moves_every_trainable_parameter(base: Base, tmp_path: Path) -> None:
    slot = model(base)
    before = {n: p.detach().clone() for n, p in slot.model.named_parameters() if p.requires_grad}

    log = train(slot, base, tmp_path / "out", weight=1.0)

    still = [
        n for n, p in slot.model.named_parameters() if n in before and torch.equal(before[n], p)
    ]
    assert still == []
    assert len(log) == 4


def test_a_larger_cost_weight_pushes_harder_away_from_dear_cards(
    base: Base, tmp_path: Path
) -> None:
    """Every choice is right, so cost alone tells them apart: group scaling would make the two
    runs alike."""
    start = {n: p.detach().clone() for n, p in model(base).model.named_parameters()}
    chance = {}
    for weight in (0.02, 2.0):
        slot = model(load_base(base.folder))
        with torch.no_grad():
            for name, parameter in slot.model.named_parameters():
                parameter.copy_(start[name])
        # Plain gradients would show λ in their length; Adam hides it in a single step.
        train(slot, base, tmp_path / f"out{weight}", weight, steps=8, learning_rate=3e-3)
        ids = torch.tensor([base.tokenizer(PREFIX + QUESTIONS[0])["input_ids"]])
        with torch.no_grad():
            logits = slot.model.eval()(input_ids=ids).logits[0, -1]
        z = logits[list(slot.slot_ids)] - logits[slot.anchor_id]
        chance[weight] = float(torch.sigmoid(z)[2] - torch.sigmoid(z)[0])

    assert chance[2.0] < chance[0.02]


@pytest.mark.parametrize("options", [{"scale_rewards": "group"}, {"temperature": 0.0}])
def test_settings_that_would_not_learn_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        GrpoSettings(**options)  # type: ignore[arg-type]


def test_two_rows_with_one_prompt_are_refused(base: Base) -> None:
    head = SlotPolicyHead(model(base), 0.1)
    head.add([1, 2], np.zeros(3))

    with pytest.raises(ValueError, match="one cost weight"):
        head.add([1, 2], np.ones(3))


def test_too_few_prompts_are_refused(base: Base, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="need 400 prompts; there are 64"):
        train(model(base), base, tmp_path, 1.0, steps=100)
