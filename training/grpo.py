"""GRPO over slots with TRL's own trainer: one-token completions and a plain reward function.

The policy that is trained is the policy that serves. Serving takes the card with the highest
utility u_m = sigmoid(z_m) - λ · c_m / c_ref; here

    π(m | prompt) = softmax over legal slots of u_m / T,

so an update moves exactly the probabilities that the decision compares, and λ, today's prices and
the legal slots act through u. They are no part of the prompt (:mod:`xrouter_lg.prompts.slots`), so
:class:`SlotPolicyHead` holds them per prompt: a forward hook on the model replaces the logits at
the end of a known prompt. TRL is used as it is, and sampling can't leave the legal slots. A prompt
has one cost weight per run, which is why rows must be distinct.

``scale_rewards`` must not be ``"group"``: divided by its own standard deviation, a group in which
every choice is right has the same advantages for every λ > 0, which makes the cost weight inert.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from datasets import Dataset  # type: ignore[import-untyped]
from torch import Tensor
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer

from training.replay import Episodes, Floats, ReplayEnvironment
from training.warm_start import SlotModel
from xrouter_lg.prompts import slots

_NEVER = -1e9
"""Logit of a token outside the legal slots; finite, or an entropy would be 0 · inf."""


@dataclass(frozen=True, kw_only=True)
class GrpoSettings:
    """How GRPO learns.

    Raises:
        ValueError: group-wise reward scaling, or a temperature not above 0.
    """

    steps: int = 50
    learning_rate: float = 2e-4
    generations: int = 8
    """Samples per prompt: a group."""
    prompts_per_step: int = 4
    temperature: float = 0.1
    """T, in score points: how far below the best a card may lie and still be tried."""
    scale_rewards: Literal["batch", "none"] = "none"
    seed: int = 0
    report_to: str = "none"

    def __post_init__(self) -> None:
        if self.scale_rewards not in ("batch", "none"):
            raise ValueError(
                f"scale_rewards is {self.scale_rewards!r}; it must be 'batch' or 'none': scaling "
                "by group makes the cost weight inert"
            )
        if not self.temperature > 0.0:
            raise ValueError(f"temperature is {self.temperature!r}; it must be above 0")


class SlotPolicyHead:
    """Turns the logits behind a known prompt into the serving policy's, by a forward hook.

    Use as a context manager: the model is itself again afterwards.
    """

    def __init__(self, slot: SlotModel, temperature: float) -> None:
        self._slot, self._temperature = slot, temperature
        self._penalty: dict[tuple[int, ...], Tensor] = {}
        self._handle: Any = None

    def add(self, prompt_ids: Sequence[int], penalty_M: Floats) -> None:
        """Register a prompt: λ · c / c_ref per card, infinite where a card is no candidate.

        Raises:
            ValueError: the prompt is there already, or no card is a candidate.
        """
        key = tuple(prompt_ids)
        if key in self._penalty:
            raise ValueError("two rows have the same prompt, and a prompt has one cost weight")
        if not np.isfinite(penalty_M).any():
            raise ValueError("no card is a candidate")
        self._penalty[key] = torch.tensor(penalty_M, dtype=torch.float32)

    def __enter__(self) -> SlotPolicyHead:
        inner = self._slot.model.get_base_model()
        self._handle = inner.register_forward_hook(self._replace, with_kwargs=True)
        return self

    def __exit__(self, *error: object) -> None:
        self._handle.remove()

    def _replace(self, _module: Any, _args: Any, kwargs: dict[str, Any], output: Any) -> Any:
        ids_B_T, mask_B_T = kwargs["input_ids"], kwargs.get("attention_mask")
        logits_B_K_V = output.logits
        kept = logits_B_K_V.shape[1]
        changed: dict[tuple[int, int], Tensor] = {}
        for row in range(len(ids_B_T)):
            real = ids_B_T[row] if mask_B_T is None else ids_B_T[row][mask_B_T[row].bool()]
            ids = tuple(real.tolist())
            # Sampling shows the prompt alone, scoring the prompt and the one token behind it.
            for behind, key in ((0, ids), (1, ids[:-1])):
                penalty_M = self._penalty.get(key)
                if penalty_M is not None and behind < kept:
                    at = kept - 1 - behind
                    changed[row, at] = self._policy_logits(logits_B_K_V[row, at], penalty_M)
                    break
            else:
                raise RuntimeError(
                    "GRPO saw a prompt that was not registered: the tokenizer or TRL changed it"
                )
        # Rebuilt rather than written into: a write would hide the old values from autograd.
        rows = [
            torch.stack([changed.get((b, k), logits_B_K_V[b, k].float()) for k in range(kept)])
            for b in range(len(ids_B_T))
        ]
        output.logits = torch.stack(rows)
        return output

    def _policy_logits(self, logits_V: Tensor, penalty_M: Tensor) -> Tensor:
        slot = self._slot
        ids = torch.tensor(slot.slot_ids)
        contrast_M = logits_V[ids].float() - logits_V[slot.anchor_id].float()
        quality_M = torch.sigmoid(contrast_M - slot.centre_M + slot.prior_M)
        utility_M = (quality_M - penalty_M) / self._temperature
        utility_M = torch.where(torch.isfinite(penalty_M), utility_M, _NEVER)
        return torch.full_like(logits_V, _NEVER, dtype=torch.float32).index_put((ids,), utility_M)


class SlotGRPOTrainer(GRPOTrainer):
    """TRL's trainer, scoring by the model's logits.

    TRL 1.16 scores by a fused head that never shows its logits, which would bypass the hook; a
    completion of one token needs no such saving.
    """

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        **_: Any,
    ) -> tuple[Tensor, Tensor | None, None]:
        step = batch_size or len(input_ids)
        logps, entropies = [], []
        for start in range(0, len(input_ids), step):
            ids_B_T = input_ids[start : start + step]
            logits = model(
                input_ids=ids_B_T,
                attention_mask=attention_mask[start : start + step],
                logits_to_keep=logits_to_keep + 1,
                use_cache=False,
            ).logits[:, :-1]
            logp_B_K_V = torch.log_softmax(logits, dim=-1)
            taken_B_K_1 = ids_B_T[:, -logits_to_keep:, None]
            logps.append(logp_B_K_V.gather(-1, taken_B_K_1)[..., 0])
            entropies.append(-(logp_B_K_V.exp() * logp_B_K_V).sum(-1))
        return torch.cat(logps), torch.cat(entropies) if compute_entropy else None, None


def train_grpo(
    slot: SlotModel,
    tokenizer: Any,
    prefix: str,
    questions: Sequence[str],
    environment: ReplayEnvironment,
    expected_usd_N_M: Floats,
    c_ref_usd: float,
    settings: GrpoSettings,
    *,
    folder: Path,
    on_log: Callable[[dict[str, float]], None] | None = None,
) -> list[dict[str, float]]:
    """Train the adapter in place; TRL's log, one entry per step.

    ``questions`` are the rendered questions of the environment's N prompts and must differ;
    ``expected_usd_N_M`` is what the decision expects each card to cost. The environment must not
    permute slots, since a card keeps its letter here.

    Raises:
        ValueError: fewer prompts than ``steps * prompts_per_step``, or slots are permuted.
    """
    wanted = settings.steps * settings.prompts_per_step
    if len(questions) < wanted:
        raise ValueError(
            f"{settings.steps} steps of {settings.prompts_per_step} prompts need {wanted} prompts; "
            f"there are {len(questions)}"
        )
    if environment.sampling.permute:
        raise ValueError("the environment permutes slots; use Sampling(permute=False)")
    rng = np.random.default_rng(settings.seed)
    chosen = rng.permutation(len(questions))[:wanted]
    episodes = environment.sample(wanted, rng, chosen)
    head = SlotPolicyHead(slot, settings.temperature)
    rows = []
    for e in range(wanted):
        prompt = prefix + questions[episodes.prompt_B[e]]
        usd_M = expected_usd_N_M[episodes.prompt_B[e]] * episodes.price_factor_B_S[e]
        penalty_M = episodes.cost_weight_B[e] * usd_M / c_ref_usd
        head.add(tokenizer(prompt)["input_ids"], np.where(episodes.legal_B_S[e], penalty_M, np.inf))
        rows.append({"prompt": prompt, "episode": e})

    def reward(completions: list[str], episode: list[int], **_: Any) -> list[float | None]:
        return _rewards(environment, episodes, np.array(episode), completions)

    arguments = GRPOConfig(
        output_dir=str(folder),
        max_steps=settings.steps,
        learning_rate=settings.learning_rate,
        per_device_train_batch_size=settings.generations * settings.prompts_per_step,
        num_generations=settings.generations,
        max_completion_length=1,
        temperature=1.0,
        scale_rewards=settings.scale_rewards,
        beta=0.0,
        logging_steps=1,
        save_strategy="no",
        report_to=settings.report_to,
        seed=settings.seed,
        use_cpu=not torch.cuda.is_available(),
        bf16=False,
        gradient_checkpointing=False,
        disable_tqdm=True,
        shuffle_dataset=False,
    )
    with head:
        trainer = SlotGRPOTrainer(
            model=slot.model,
            reward_funcs=reward,
            args=arguments,
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
        )
        trainer.train()
    log = [
        {key: float(value) for key, value in entry.items() if isinstance(value, int | float)}
        for entry in trainer.state.log_history
        if "reward" in entry
    ]
    for number, entry in enumerate(log, 1):
        entry["step"] = float(number)
    if on_log is not None:
        for entry in log:
            on_log(entry)
    return log


def _rewards(
    environment: ReplayEnvironment,
    episodes: Episodes,
    index: np.typing.NDArray[np.int64],
    completions: Sequence[str],
) -> list[float | None]:
    """Rewards of sampled slots; None (left out of the batch) where an outcome is unknown."""
    taken = Episodes(
        episodes.prompt_B[index],
        episodes.card_B_S[index],
        episodes.price_factor_B_S[index],
        episodes.cost_weight_B[index],
    )
    letters = [text.strip() for text in completions]
    slot_B = np.array([slots.CARD_SLOTS.index(letter) for letter in letters])
    found = environment.step(taken, slot_B).reward_B
    return [None if np.isnan(value) else float(value) for value in found]
