"""GRPO over slots with TRL's own trainer: a completion is a letter a turn, and the reward a plain
function.

The policy that is trained is the policy that serves. Serving takes the letter with the highest
utility u = sigmoid(z) - λ · c / c_ref; here

    π(letter | prompt) = softmax over legal letters of u / T,

so an update moves exactly the probabilities that the decision compares, and λ, today's prices and
the legal letters act through u. They are no part of the prompt (:mod:`xrouter_lg.prompts.slots`).

TRL draws prompts, forms groups, scales rewards, computes loss, clips, steps and reports. Two of
its methods are replaced. Generation asks an environment
(:class:`training.grpo.turns.TurnEnvironment`) for the state of each turn; sampling can't leave the
legal letters. Scoring gives a letter the log probability it has in its own turn's prompt. Samples
of a group share their prompts, so each distinct prompt is computed once, and only by the layers
above the frozen ones where a reading has their activations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset  # type: ignore[import-untyped]
from torch import Tensor
from transformers import PrinterCallback, TrainerCallback
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer

from training.config.grpo import GrpoSettings
from training.config.trainer import TrainerConfig
from training.grpo.turns import Actions, TurnEnvironment, TurnState
from training.model.reading import Reading, answering
from training.model.slots import SlotModel
from training.stage.callbacks import last_checkpoint

__all__ = [
    "GrpoSettings",
    "SlotGRPOTrainer",
    "arguments",
    "log_policy",
    "play",
    "play_greedily",
    "train_grpo",
]

_NEVER = -1e9
"""Logit of an illegal letter; finite, or an entropy would be 0 · inf."""

Choose = Callable[[Tensor, int], list[int]]
"""Gives an action per row of log probabilities [B, L], on a turn."""


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


def play(
    environment: TurnEnvironment,
    episodes: Sequence[int],
    log_policy_of: Callable[[Sequence[TurnState]], Tensor],
    choose: Choose,
) -> list[Actions]:
    """Play episodes side by side to their end; the actions of each."""
    actions: list[Actions] = [() for _ in episodes]
    for turn in range(environment.turns):
        waiting, states = [], []
        for row, episode in enumerate(episodes):
            state = environment.state(episode, actions[row])
            if state is not None:
                waiting.append(row)
                states.append(state)
        if not states:
            break
        everyone_B_L = log_policy_of(states)
        # A row draws its own number whoever else is still playing.
        padded = torch.zeros(len(episodes), everyone_B_L.shape[1])
        padded[waiting] = everyone_B_L.float().cpu()
        chosen = choose(padded, turn)
        for row in waiting:
            actions[row] = (*actions[row], chosen[row])
        environment.advance([(episodes[row], actions[row]) for row in waiting])
    return actions


@torch.no_grad()
def play_greedily(
    slot: SlotModel, reading: Reading, environment: TurnEnvironment, *, batch_size: int = 32
) -> list[Actions]:
    """The actions of every episode when the best letter is always taken, as in serving."""
    training = slot.model.training
    slot.model.eval()
    known: dict[int, Tensor] = {}

    def log_policy_of(states: Sequence[TurnState]) -> Tensor:
        # One prompt stands in many episodes, at other cost weights: it is read once.
        numbers = reading.find([s.question for s in states], [s.prefix for s in states])
        new = sorted(set(numbers) - known.keys(), key=lambda n: len(reading.ids(n)))
        for start in range(0, len(new), batch_size):
            part = new[start : start + batch_size]
            tensors = {k: v.to(slot.device) for k, v in reading.inputs(part).items()}
            known.update(zip(part, reading.contrast(slot, **tensors), strict=True))
        return log_policy(slot, torch.stack([known[n] for n in numbers]), states, 1.0)

    def best(log_policy_B_L: Tensor, _turn: int) -> list[int]:
        found: list[int] = log_policy_B_L.argmax(1).tolist()
        return found

    actions = play(environment, range(len(environment)), log_policy_of, best)
    slot.model.train(training)
    return actions


class SlotGRPOTrainer(GRPOTrainer):  # type: ignore[misc]
    """Use within :func:`training.model.reading.answering`, or by :func:`train_grpo`.

    Rows of the dataset have a ``prompt`` and the number of an ``episode``.
    """

    def __init__(
        self,
        slot: SlotModel,
        reading: Reading,
        environment: TurnEnvironment,
        temperature: float,
        **options: Any,
    ) -> None:
        self._slot, self._reading, self._play_in = slot, reading, environment
        self._policy_temperature = temperature
        self._episodes: list[int] = []
        super().__init__(model=slot.model, reward_funcs=self._reward, **options)
        self.remove_callback(PrinterCallback)

    def _reward(
        self,
        completion_ids: Sequence[Sequence[int]],
        episode: Sequence[int],
        log_metric: Callable[[str, float], None],
        **_: Any,
    ) -> list[float | None]:
        letter_of = {token: letter for letter, token in enumerate(self._slot.slot_ids)}
        taken = [
            (number, tuple(letter_of[token] for token in ids))
            for number, ids in zip(episode, completion_ids, strict=True)
        ]
        results = self._play_in.results(taken)
        for name, value in results.metrics.items():
            log_metric(name, value)
        return [None if np.isnan(value) else float(value) for value in results.reward_B]

    def _tokenize_prompts(self, prompts: list[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
        """The first turn's prompts part by part, as serving does."""
        states = [self._state(episode, ()) for episode in self._episodes]
        numbers = self._reading.find([s.question for s in states], [s.prefix for s in states])
        return [self._reading.ids(number) for number in numbers], None, {}

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        self._episodes = [int(row["episode"]) for row in inputs]
        output: dict[str, Any] = super()._generate_and_score_completions(inputs)
        # TRL shuffles and splits the batch by its tensors: the episodes go along.
        output["episode"] = torch.tensor(self._episodes, device=self.accelerator.device)
        return output

    def _generate_single_turn(
        self, prompt_ids: list[list[int]], *_: Any, **__: Any
    ) -> tuple[list[list[int]], None]:
        played = play(self._play_in, self._episodes, self._log_policy_now, self._sample)
        return [[self._slot.slot_ids[a] for a in actions] for actions in played], None

    @torch.no_grad()
    def _log_policy_now(self, states: Sequence[TurnState]) -> Tensor:
        contrast_B_L = read_states(self.model, self._slot, self._reading, states)
        return log_policy(self._slot, contrast_B_L, states, self._policy_temperature)

    def _sample(self, log_policy_B_L: Tensor, turn: int) -> list[int]:
        """One draw per row. The draws follow from seed, step and place in the whole batch, so they
        are the same however many processes share it."""
        batch, whole = len(log_policy_B_L), self.accelerator.num_processes
        rng = np.random.default_rng([self.args.seed, self.state.global_step, turn])
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
        loss: Tensor = super()._compute_loss(model, inputs)
        return loss

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        *_: Any,
        **__: Any,
    ) -> tuple[Tensor, Tensor, None]:
        """Log probability and entropy [B, T] of the letter of each turn, in that turn's prompt."""
        letter_of = {token: letter for letter, token in enumerate(self._slot.slot_ids)}
        taken_B_T = input_ids[:, -logits_to_keep:].tolist()
        mask_B_T = attention_mask[:, -logits_to_keep:].tolist()
        states, at, letters = [], [], []
        for row, episode in enumerate(self._episodes):
            actions: Actions = ()
            for turn in range(logits_to_keep):
                if mask_B_T[row][turn]:
                    letter = letter_of[taken_B_T[row][turn]]
                    states.append(self._state(episode, actions))
                    at.append((row, turn))
                    letters.append(letter)
                    actions = (*actions, letter)
        contrast = read_states(model, self._slot, self._reading, states)
        logp_S_L = log_policy(self._slot, contrast, states, self._policy_temperature)
        place = tuple(torch.tensor(side, device=logp_S_L.device) for side in zip(*at, strict=True))
        chosen_S = torch.tensor(letters, device=logp_S_L.device)
        empty_B_T = torch.zeros(len(input_ids), logits_to_keep, device=logp_S_L.device)
        logps = empty_B_T.index_put(place, logp_S_L.gather(1, chosen_S[:, None])[:, 0])
        entropies = empty_B_T.index_put(place, -(logp_S_L.exp() * logp_S_L).sum(-1))
        return logps, entropies.detach(), None

    def _state(self, episode: int, actions: Actions) -> TurnState:
        state = self._play_in.state(episode, actions)
        assert state is not None, "an action was taken after the end of an episode"
        return state


def train_grpo(
    slot: SlotModel,
    reading: Reading,
    environment: TurnEnvironment,
    settings: GrpoSettings,
    *,
    tokenizer: Any,
    folder: Path,
    trainer: TrainerConfig | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    resume: bool = False,
) -> None:
    """Train ``slot`` in place; an episode of the environment is played by one group.

    ``folder`` gets the trainer's checkpoints; ``resume`` goes on from the newest of them.

    Raises:
        ValueError: fewer episodes than ``steps * prompts_per_step``, or one that has ended before
            its first decision.
    """
    how = trainer or TrainerConfig(device="cpu")
    wanted = settings.steps * settings.prompts_per_step
    if len(environment) < wanted:
        raise ValueError(
            f"{settings.steps} steps of {settings.prompts_per_step} prompts need {wanted} "
            f"episodes; there are {len(environment)}"
        )
    rows = []
    for episode in range(wanted):
        state = environment.state(episode, ())
        if state is None:
            raise ValueError(f"episode {episode} has no candidate")
        rows.append({"prompt": state.prefix + state.question, "episode": episode})
    found = last_checkpoint(folder) if resume else None
    with answering(slot, reading):
        SlotGRPOTrainer(
            slot,
            reading,
            environment,
            settings.temperature,
            args=GRPOConfig(**arguments(settings, how, folder, environment.turns)),
            train_dataset=Dataset.from_list(rows),
            # TRL may give it a padding token; ours must stay as it was hashed.
            processing_class=deepcopy(tokenizer),
            callbacks=list(callbacks),
        ).train(resume_from_checkpoint=None if found is None else str(found))


def arguments(
    settings: GrpoSettings, how: TrainerConfig, folder: Path, turns: int
) -> dict[str, Any]:
    """Arguments of TRL's ``GRPOConfig``."""
    return {
        **shared_arguments(settings, how, folder),
        "max_completion_length": turns,
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
