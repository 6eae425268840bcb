"""The warm start: TRL's trainer on soft targets, with cached activations or without."""

from __future__ import annotations

import json
import math
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import TrainerCallback

from tests.support.tiny_model import write_tiny_base
from training.config.trainer import TrainerConfig
from training.model.base import Base, load_base
from training.model.features import build_cache, encode
from training.model.reading import CachedReading, PlainReading, Reading, predict
from training.model.slots import SlotModel
from training.stage.callbacks import KeepBest, Report, StopOnSignal, last_checkpoint, orderly_stop
from training.warm_start.rows import Samples
from training.warm_start.targets import (
    WarmStartConfig,
    card_samples,
    measure_centre,
    permuted_samples,
    slot_model,
    soft_targets,
)
from training.warm_start.trainer import slot_loss, train_slots
from xrouter_lg.fitting.lesson import prior_log_odds
from xrouter_lg.prompts import slots

pytestmark = pytest.mark.train

LINES = ("one", "two")
PREFIX = slots.render_prefix(LINES)
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


def setup(
    base_folder: Path, tmp_path: Path, config: WarmStartConfig
) -> tuple[SlotModel, Reading, Base]:
    base = load_base(base_folder)
    reading: Reading
    if config.recipe == "plain":
        reading = PlainReading(base.tokenizer, PREFIX, QUESTIONS)
    else:
        cache = build_cache(
            base,
            PREFIX,
            QUESTIONS,
            layers=config.frozen_layers,
            folder=tmp_path / "cache",
            batch_tokens=300,
        )
        reading = CachedReading(base, cache, PREFIX, QUESTIONS)
    return slot_model(base, prior_log_odds(SCORE), config), reading, base


def train(
    base_folder: Path, tmp_path: Path, config: WarmStartConfig, target: Any = SCORE, **options: Any
) -> tuple[SlotModel, Reading]:
    slot, reading, base = setup(base_folder, tmp_path, config)
    measure_centre(slot, reading, EVERY, 0)
    train_slots(
        slot,
        reading,
        card_samples(slot, reading, EVERY, target),
        config,
        tokenizer=base.tokenizer,
        folder=tmp_path / "out",
        **options,
    )
    return slot, reading


def weights(slot: SlotModel) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in slot.model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("frozen_layers", [0, 1, 2])
def test_cached_halves_give_what_the_whole_model_gives(
    base_folder: Path, tmp_path: Path, frozen_layers: int
) -> None:
    config = WarmStartConfig(frozen_layers=frozen_layers)
    slot, reading, base = setup(base_folder, tmp_path, config)
    plain = PlainReading(base.tokenizer, PREFIX, QUESTIONS)

    # float16 on disk keeps three digits.
    assert np.allclose(predict(slot, reading, EVERY), predict(slot, plain, EVERY), atol=2e-2)


def test_a_question_that_the_cache_lacks_is_read_all_the_same(
    base_folder: Path, tmp_path: Path
) -> None:
    slot, reading, base = setup(base_folder, tmp_path, WarmStartConfig(frozen_layers=2))
    new = ["<request>\nsomething else\n</request>\nGood choice:", QUESTIONS[3], "x"]

    found = reading.find(new)

    assert found == [len(QUESTIONS), 3, len(QUESTIONS) + 1]
    assert reading.find(new) == found
    plain = PlainReading(base.tokenizer, PREFIX, new)
    assert np.allclose(predict(slot, reading, found), predict(slot, plain, [0, 1, 2]), atol=2e-2)
    assert reading.ids(found[0]) == encode(base.tokenizer, PREFIX) + encode(base.tokenizer, new[0])


def test_cached_activations_refuse_another_candidate_block(
    base_folder: Path, tmp_path: Path
) -> None:
    _, reading, _ = setup(base_folder, tmp_path, WarmStartConfig(frozen_layers=1))

    with pytest.raises(ValueError, match="recipe=plain"):
        reading.find(QUESTIONS[:1], ["Models:\nA: other\n"])


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


@pytest.mark.parametrize("recipe", ["cached", "plain"])
def test_every_trainable_parameter_moves_and_nothing_else(
    base_folder: Path, tmp_path: Path, recipe: str
) -> None:
    config = WarmStartConfig(
        recipe=recipe,  # type: ignore[arg-type]
        frozen_layers=1,
        epochs=2,
        batch_size=8,
        lora_rank=4,
    )
    slot, reading, base = setup(base_folder, tmp_path, config)
    before = {n: p.detach().clone() for n, p in slot.model.named_parameters()}

    train_slots(
        slot,
        reading,
        card_samples(slot, reading, EVERY, SCORE),
        config,
        tokenizer=base.tokenizer,
        folder=tmp_path / "out",
    )

    trained = 0
    for name, parameter in slot.model.named_parameters():
        moved = not torch.equal(before[name], parameter)
        assert moved == parameter.requires_grad, name
        trained += moved
        if moved:
            assert ".layers.0." not in name
    assert trained == 2 * 2 * 7  # two layers, A and B, seven linear maps each


def test_full_fine_tuning_moves_the_upper_layers_themselves(
    base_folder: Path, tmp_path: Path
) -> None:
    config = WarmStartConfig(method="full", recipe="plain", frozen_layers=2, batch_size=8)
    slot, reading, base = setup(base_folder, tmp_path, config)
    before = {n: p.detach().clone() for n, p in slot.model.named_parameters()}

    train_slots(
        slot,
        reading,
        card_samples(slot, reading, EVERY, SCORE),
        config,
        tokenizer=base.tokenizer,
        folder=tmp_path / "out",
    )

    moved = {n for n, p in slot.model.named_parameters() if not torch.equal(before[n], p)}
    assert moved == {n for n in before if ".layers.2." in n or n == "model.norm.weight"}


def test_it_is_the_plain_loop_one_would_write_by_hand(base_folder: Path, tmp_path: Path) -> None:
    """TRL's trainer and twenty lines of torch, on the same batches, end at the same weights."""
    config = WarmStartConfig(
        frozen_layers=1, epochs=2, batch_size=8, learning_rate=1e-2, schedule="linear"
    )
    batches: list[list[int]] = []

    class Seen(TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, *_: Any, train_dataloader: Any, **__: Any) -> None:
            collate = train_dataloader.collate_fn

            def noted(rows: Any) -> Any:
                batches.append([row["row"] for row in rows])
                return collate(rows)

            train_dataloader.base_dataloader.collate_fn = noted

    slot, _ = train(base_folder, tmp_path, config, callbacks=[Seen()])

    other, reading, _ = setup(base_folder, tmp_path, config)
    measure_centre(other, reading, EVERY, 0)
    parameters = [p for p in other.model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=0.01)
    steps, warmup = len(batches), math.ceil(len(batches) * config.warmup_share)
    other.model.train()
    for step, rows in enumerate(batches):
        share = step / warmup if step < warmup else (steps - step) / (steps - warmup)
        for group in optimiser.param_groups:
            group["lr"] = config.learning_rate * share
        z = other.z(reading.contrast(other, **reading.inputs(EVERY[rows])))
        slot_loss(z, torch.tensor(SCORE[rows]).float()).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters, config.max_grad_norm)
        optimiser.step()
        optimiser.zero_grad()

    assert len(batches) == 6
    mine = weights(other)
    for name, found in weights(slot).items():
        assert torch.allclose(found, mine[name], atol=1e-5), name


@pytest.mark.parametrize("recipe", ["cached", "plain"])
def test_it_learns_which_card_suits_which_prompt(
    base_folder: Path, tmp_path: Path, recipe: str
) -> None:
    config = WarmStartConfig(
        recipe=recipe,  # type: ignore[arg-type]
        frozen_layers=1,
        epochs=25,
        batch_size=8,
        learning_rate=1e-2,
    )

    slot, reading = train(base_folder, tmp_path, config, soft_targets(SCORE, FAMILIES, 1.0))

    assert (predict(slot, reading, EVERY).argmax(1) == SCORE.argmax(1)).mean() >= 0.9


def test_it_learns_with_the_cards_dealt_anew_to_the_letters(
    base_folder: Path, tmp_path: Path
) -> None:
    config = WarmStartConfig(
        recipe="plain",
        method="full",
        permute=True,
        frozen_layers=0,
        epochs=60,
        batch_size=8,
        learning_rate=3e-3,
    )
    slot, reading, base = setup(base_folder, tmp_path, config)
    measure_centre(slot, reading, EVERY, 0)
    samples = permuted_samples(
        slot,
        reading,
        QUESTIONS,
        SCORE,
        lambda order: slots.render_prefix([LINES[m] for m in order]),
        np.random.default_rng(0),
    )
    swapped = samples.target_N_L[:, 0] != SCORE[:, 0]
    assert 4 < swapped.sum() < 20
    assert (samples.prompt_N[swapped] >= len(QUESTIONS)).all()

    train_slots(slot, reading, samples, config, tokenizer=base.tokenizer, folder=tmp_path / "out")

    found = predict(slot, reading, samples.prompt_N)
    assert (found.argmax(1) == samples.target_N_L.argmax(1)).mean() >= 0.9


def test_letters_without_a_target_are_left_out_of_the_loss() -> None:
    z = torch.tensor([[0.0, 50.0], [0.0, -50.0]])
    nan = float("nan")

    assert float(slot_loss(z, torch.tensor([[1.0, nan], [nan, 0.0]]))) == pytest.approx(
        math.log(2) / 2
    )


def test_samples_of_different_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="differ in number"):
        Samples(np.arange(2), np.zeros((3, 2)), np.zeros((3, 2)))


def test_an_untrained_model_starts_at_the_prior(base_folder: Path, tmp_path: Path) -> None:
    slot, reading, _ = setup(base_folder, tmp_path, WarmStartConfig(frozen_layers=1))

    measure_centre(slot, reading, EVERY, 0)

    assert np.allclose(predict(slot, reading, EVERY).mean(0), prior_log_odds(SCORE), atol=1e-4)


def test_an_interrupted_run_goes_on_to_the_same_weights(base_folder: Path, tmp_path: Path) -> None:
    config = WarmStartConfig(frozen_layers=1, epochs=2, batch_size=4, learning_rate=1e-2)
    trainer = TrainerConfig(device="cpu", save_every=100)
    whole, _ = train(base_folder, tmp_path / "whole", config, trainer=trainer)

    class Press(TrainerCallback):  # type: ignore[misc]
        """Ctrl-C in the middle of the second epoch's first step."""

        def on_step_begin(self, _args: Any, state: Any, *_: Any, **__: Any) -> None:
            if state.global_step == 7:
                signal.raise_signal(signal.SIGINT)

    with orderly_stop() as asked:
        stop = StopOnSignal(asked)
        slot, _ = train(
            base_folder, tmp_path / "cut", config, trainer=trainer, callbacks=[Press(), stop]
        )
    assert stop.stopped_at == 8
    assert not torch.equal(
        torch.cat([p.flatten() for p in weights(slot).values()]),
        torch.cat([p.flatten() for p in weights(whole).values()]),
    )

    report = Report()
    slot, _ = train(
        base_folder, tmp_path / "cut", config, trainer=trainer, callbacks=[report], resume=True
    )

    assert [entry["step"] for entry in report.log] == [float(i) for i in range(1, 13)]
    for name, found in weights(whole).items():
        assert torch.allclose(found, weights(slot)[name], atol=1e-6), name


def test_the_best_state_is_kept_and_training_stops_when_it_gets_no_better(
    base_folder: Path, tmp_path: Path
) -> None:
    figures = iter([0.5, 0.7, 0.6, 0.65, 0.9, 0.9, 0.9])
    saved: list[int] = []
    best = KeepBest(
        lambda: {"utility": next(figures)},
        lambda: saved.append(len(best.history)),
        metric="utility",
        higher_is_better=True,
        every=2,
        patience=2,
        file=tmp_path / "validation.json",
    )
    config = WarmStartConfig(frozen_layers=1, epochs=4, batch_size=4)

    train(base_folder, tmp_path, config, callbacks=[best])

    assert [entry["step"] for entry in best.history] == [2, 4, 6, 8]
    assert best.best == {"utility": 0.7, "step": 4.0}
    assert saved == [1, 2]
    assert json.loads((tmp_path / "validation.json").read_text()) == best.history


def test_a_trainers_checkpoint_holds_the_adapter_as_safetensors(
    base_folder: Path, tmp_path: Path
) -> None:
    config = WarmStartConfig(frozen_layers=1, epochs=1, batch_size=8)

    train(base_folder, tmp_path, config, trainer=TrainerConfig(device="cpu", save_every=2))

    found = last_checkpoint(tmp_path / "out")
    assert found is not None and found.name == "checkpoint-3"
    assert (found / "adapter_model.safetensors").is_file()


def test_the_model_is_itself_again_after_training(base_folder: Path, tmp_path: Path) -> None:
    slot, _ = train(base_folder, tmp_path, WarmStartConfig(frozen_layers=1, epochs=1))

    assert "forward" not in slot.model.get_base_model().__dict__


def test_targets_lie_between_a_prompts_own_outcome_and_its_family() -> None:
    score = np.array([[1.0], [0.0], [1.0], [1.0]])

    own = soft_targets(score, ["a", "a", "b", "b"], 1.0)
    family = soft_targets(score, ["a", "a", "b", "b"], 0.0)

    assert (own == score).all()
    # (1 + 8 * 0.75) / (2 + 8) and (2 + 8 * 0.75) / (2 + 8)
    assert family[:, 0].tolist() == pytest.approx([0.7, 0.7, 0.8, 0.8])


def test_a_base_without_layers_to_train_is_refused(base_folder: Path) -> None:
    with pytest.raises(ValueError, match="the base has 3 layers"):
        slot_model(load_base(base_folder), np.zeros(2), WarmStartConfig(frozen_layers=3))


def test_cached_activations_and_dealt_slots_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="recipe=plain"):
        WarmStartConfig(permute=True)
