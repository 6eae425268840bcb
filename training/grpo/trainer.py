"""GRPO over slots with TRL's own trainer: a completion is one letter, and the reward a plain
function.

The policy that is trained is the policy that serves. Serving takes the letter with the highest
utility u = sigmoid(z) - λ · c / c_ref; here

    π(letter | prompt) = softmax over legal letters of u / T,

so an update moves exactly the probabilities that the decision compares, and λ, today's prices and
the legal letters act through u. They are no part of the prompt (:mod:`xrouter_lg.prompts.slots`).

TRL draws prompts, forms groups, scales rewards, computes the loss, clips, steps and reports. Five
of its methods, all private to it, are overridden: ``_tokenize_prompts`` gives the ids that serving
sends, ``_generate_single_turn`` samples from π, which can't leave the legal letters,
``_get_per_token_logps_and_entropies`` scores a letter under π, and
``_generate_and_score_completions`` and ``_compute_loss`` keep track of which episode each row of a
batch is. Samples of a group share their prompt, so each distinct prompt is computed once, and only
by the layers above the frozen ones where a reading has their activations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from transformers import PrinterCallback, TrainerCallback
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer

from training.config.grpo import GrpoSettings
from training.config.trainer import TrainerConfig
from training.grpo.turns import OneTurn, Results, TurnState
from training.model.reading import Reading, answering
from training.model.slots import SlotModel
from training.stage.callbacks import resumed
from xrouter_lg.arrays import Ints

_NEVER = -1e9
"""Logit of an illegal letter; finite, or an entropy would be 0 · inf."""


def log_policy(
    slot: SlotModel, contrast_B_L: Tensor, states: Sequence[TurnState], temperature: float
) -> Tensor:
    """Log probability of each letter [B, L] in these states."""
    device = contrast_B_L.device

    def stacked(name: str) -> Tensor:
        return torch.from_numpy(np.stack([getattr(state, name) for state in states])).to(device)

    quality_B_L = torch.sigmoid(slot.z(contrast_B_L, stacked("prior_L").float()))
    utility_B_L = (quality_B_L - stacked("penalty_L").float()) / temperature
    return torch.log_softmax(utility_B_L.masked_fill(~stacked("legal_L"), _NEVER), dim=-1)


def read_states(
    model: Any, slot: SlotModel, reading: Reading, states: Sequence[TurnState]
) -> Tensor:
    """Contrasts [B, L] of states by one pass over the distinct prompts among them."""
    numbers = reading.find([state.question for state in states], [state.prefix for state in states])
    distinct, inverse = np.unique(np.array(numbers), return_inverse=True)
    tensors = {k: v.to(slot.device) for k, v in reading.inputs(distinct).items()}
    contrast_U_L: Tensor = model(contrast=True, **tensors)
    return contrast_U_L[torch.from_numpy(inverse).to(contrast_U_L.device)]


@torch.no_grad()
def play_greedily(
    slot: SlotModel, reading: Reading, turns: OneTurn, *, batch_size: int = 32
) -> Ints:
    """The best letter of every episode [B], as serving takes it."""
    training = slot.model.training
    slot.model.eval()
    states = [turns.state(episode) for episode in range(len(turns))]
    numbers = reading.find([s.question for s in states], [s.prefix for s in states])
    # One prompt stands in many episodes, at other cost weights: it is read once.
    distinct = sorted(set(numbers), key=lambda n: len(reading.ids(n)))
    known: dict[int, Tensor] = {}
    for start in range(0, len(distinct), batch_size):
        part = distinct[start : start + batch_size]
        tensors = {k: v.to(slot.device) for k, v in reading.inputs(part).items()}
        known.update(zip(part, reading.contrast(slot, **tensors), strict=True))
    slot.model.train(training)
    contrast_B_L = torch.stack([known[n] for n in numbers])
    letters: Ints = log_policy(slot, contrast_B_L, states, 1.0).argmax(1).cpu().numpy()
    return letters


class Player(Protocol):
    """A policy over letters, and the episodes it plays."""

    model: Any
    """What TRL trains."""
    letter_ids: tuple[int, ...]
    """The token of each letter."""

    def prompt_ids(self, episodes: Sequence[int]) -> list[list[int]]:
        """Token ids of the prompts."""
        ...

    def log_policy(self, model: Any, episodes: Sequence[int]) -> Tensor:
        """Log probability of each letter [B, L]; ``model`` is :attr:`model`, as wrapped."""
        ...

    def results(self, episodes: Sequence[int], letters: Sequence[int]) -> Results:
        """What the letters earned."""
        ...

    def held(self, log_policy_B_L: Tensor, episodes: Sequence[int]) -> Tensor:
        """What is added to the loss so that the policy stays near where it began; 0 for nothing."""
        ...


class SlotPlayer:
    """A language model that reads slots; within :func:`training.model.reading.answering`."""

    def __init__(
        self, slot: SlotModel, reading: Reading, turns: OneTurn, temperature: float
    ) -> None:
        self.model, self.letter_ids = slot.model, slot.slot_ids
        self._slot, self._reading, self._turns = slot, reading, turns
        self._temperature = temperature
        self.results = turns.results

    def prompt_ids(self, episodes: Sequence[int]) -> list[list[int]]:
        """Part by part, as serving does."""
        states = self._states(episodes)
        numbers = self._reading.find([s.question for s in states], [s.prefix for s in states])
        return [self._reading.ids(number) for number in numbers]

    def log_policy(self, model: Any, episodes: Sequence[int]) -> Tensor:
        states = self._states(episodes)
        contrast_B_L = read_states(model, self._slot, self._reading, states)
        return log_policy(self._slot, contrast_B_L, states, self._temperature)

    def held(self, log_policy_B_L: Tensor, episodes: Sequence[int]) -> Tensor:
        return log_policy_B_L.new_zeros(())

    def _states(self, episodes: Sequence[int]) -> list[TurnState]:
        return [self._turns.state(episode) for episode in episodes]


class LetterGRPOTrainer(GRPOTrainer):
    """One letter per completion. Rows of the dataset have a ``prompt`` and the number of an
    ``episode``."""

    def __init__(self, player: Player, **options: Any) -> None:
        self._player = player
        self._episodes: list[int] = []
        self._held: Tensor | None = None
        super().__init__(model=player.model, reward_funcs=self._reward, **options)
        self.remove_callback(PrinterCallback)

    def _reward(
        self,
        completion_ids: Sequence[Sequence[int]],
        episode: Sequence[int],
        log_metric: Callable[[str, float], None],
        **_: Any,
    ) -> list[float | None]:
        letters = [self._player.letter_ids.index(token) for (token,) in completion_ids]
        results = self._player.results(episode, letters)
        for name, value in results.metrics.items():
            log_metric(name, value)
        return [None if np.isnan(value) else float(value) for value in results.reward_B]

    def _tokenize_prompts(self, prompts: list[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
        return self._player.prompt_ids(self._episodes), None, {}

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        self._episodes = [int(row["episode"]) for row in inputs]
        output: dict[str, Any] = super()._generate_and_score_completions(inputs)
        # TRL shuffles and splits the batch by its tensors: the episodes go along.
        output["episode"] = torch.tensor(self._episodes, device=self.accelerator.device)
        return output

    def _generate_single_turn(
        self, prompt_ids: list[list[int]], *_: Any, **__: Any
    ) -> tuple[list[list[int]], None]:
        with torch.no_grad():
            found = self._player.log_policy(self.model, self._episodes)
        return [[self._player.letter_ids[letter]] for letter in self._sample(found.cpu())], None

    def _sample(self, log_policy_B_L: Tensor) -> list[int]:
        """One draw per row. The draws follow from seed, step and place in the whole batch, so they
        are the same however many processes share it."""
        batch, whole = len(log_policy_B_L), self.accelerator.num_processes
        rng = np.random.default_rng([self.args.seed, self.state.global_step, 0])
        start = self.accelerator.process_index * batch
        draw_B = rng.random(batch * whole)[start : start + batch]
        rising_B_L = log_policy_B_L.double().exp().cumsum(-1).numpy()
        rising_B_L /= rising_B_L[:, -1:]
        return [
            int(np.searchsorted(row, u, side="right"))
            for row, u in zip(rising_B_L, draw_B, strict=True)
        ]

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        self._episodes = inputs["episode"].tolist()
        loss: Tensor = super()._compute_loss(model, inputs)  # type: ignore[no-untyped-call]
        held, self._held = self._held, None
        return loss if held is None else loss + held / self.current_gradient_accumulation_steps

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        *_: Any,
        **__: Any,
    ) -> tuple[Tensor, Tensor, None]:
        """Log probability and entropy [B, 1] of the letter of each row."""
        logp_B_L = self._player.log_policy(model, self._episodes)
        letters = [self._player.letter_ids.index(token) for token in input_ids[:, -1].tolist()]
        chosen_B_1 = torch.tensor(letters, device=logp_B_L.device)[:, None]
        entropy_B_1 = -(logp_B_L.exp() * logp_B_L).sum(-1, keepdim=True)
        self._held = self._player.held(logp_B_L, self._episodes)
        return logp_B_L.gather(1, chosen_B_1), entropy_B_1.detach(), None


def train_grpo(
    slot: SlotModel,
    reading: Reading,
    turns: OneTurn,
    settings: GrpoSettings,
    *,
    tokenizer: Any,
    folder: Path,
    trainer: TrainerConfig | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    resume: bool = False,
) -> None:
    """Train ``slot`` in place; an episode is played by one group.

    ``folder`` gets the trainer's checkpoints; ``resume`` goes on from the newest of them.

    Raises:
        ValueError: fewer episodes than ``steps * prompts_per_step``.
    """
    how = trainer or TrainerConfig(device="cpu")
    settings.check_episodes(len(turns))
    states = [turns.state(episode) for episode in range(settings.episodes)]
    rows = [{"prompt": s.prefix + s.question, "episode": n} for n, s in enumerate(states)]
    with answering(slot, reading):
        LetterGRPOTrainer(
            SlotPlayer(slot, reading, turns, settings.temperature),
            args=GRPOConfig(**arguments(settings, how, folder)),
            train_dataset=Dataset.from_list(rows),
            # TRL may give it a padding token; ours must stay as it was hashed.
            processing_class=deepcopy(tokenizer),
            callbacks=list(callbacks),
        ).train(resume_from_checkpoint=resumed(folder, resume))


def arguments(settings: GrpoSettings, how: TrainerConfig, folder: Path) -> dict[str, Any]:
    """Arguments of TRL's ``GRPOConfig``."""
    return {
        **shared_arguments(settings, how, folder),
        "max_completion_length": 1,
        # The policy has its own temperature, in score points.
        "temperature": 1.0,
    }


def shared_arguments(settings: GrpoSettings, how: TrainerConfig, folder: Path) -> dict[str, Any]:
    """Those that do not depend on the codec."""
    whole = settings.generations * settings.prompts_per_step
    return {
        **how.arguments(folder, seed=settings.seed),
        "max_steps": settings.steps,
        "learning_rate": settings.learning_rate,
        "lr_scheduler_type": settings.schedule,
        "per_device_train_batch_size": how.per_device(whole, "generations × prompts_per_step"),
        "num_generations": settings.generations,
        "scale_rewards": settings.scale_rewards,
        "beta": 0.0,
        "shuffle_dataset": False,
    }
