"""Warm start: teach the base model the success log-odds of every card, from recorded outcomes.

The target of card m on a prompt is not its one recorded outcome, which is a noisy draw (two runs
of one model disagree on 3 to 19 % of prompts), but that outcome shrunk towards what is known of
its kind of task:

    t_m = a * y_m + (1 - a) * mean of m over the prompt's family,

the family's mean itself being shrunk towards the card's mean. The loss is the binary cross-entropy
of sigmoid(prior_m + logit(slot m) - logit(anchor) - centre_m) against t_m, so the model learns how
a prompt departs from the card's average, and an untrained model starts at the average.

:func:`train_cached` is the CPU recipe: the lower layers are frozen and their activations cached
(:mod:`training.features`); LoRA trains the upper ones. What comes out is a plain PEFT adapter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.nn import functional

from training.base_model import Base, decoder_of, part_of, run_prefix, run_questions
from training.features import ActivationCache
from xrouter_lg.prompts import slots

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_FAMILY_PRIOR = 8.0
"""Prompts of the overall mean that a family's mean is mixed with."""
_EDGE = 0.01
"""Success probabilities are kept this far from 0 and 1: log-odds stay finite."""
_CENTRE_SAMPLE = 192
"""Prompts that the untrained base's mean slot logits are measured on."""


@dataclass(frozen=True, kw_only=True)
class WarmStartConfig:
    """How the warm start learns."""

    epochs: int = 2
    batch_size: int = 16
    learning_rate: float = 1e-3
    warmup_share: float = 0.06
    """Share of steps over which the learning rate rises; a cosine takes it down to a tenth."""
    outcome_share: float = 0.4
    """a: weight of a prompt's own outcome in its target."""
    frozen_layers: int = 20
    """Layers below the trained ones; their activations are cached."""
    lora_rank: int = 16
    lora_alpha: int = 32
    max_grad_norm: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class Step:
    """What a progress bar may show after one optimiser step."""

    step: int
    steps: int
    loss: float
    """Mean over the last 20 steps, nats per card."""


@dataclass
class SlotModel:
    """A model that reads success log-odds off its slots.

    z = prior + (logit(slot) - logit(anchor)) - centre, per card.
    """

    model: Any
    slot_ids: tuple[int, ...]
    anchor_id: int
    prior_M: Tensor
    centre_M: Tensor

    def contrast(self, hidden_B_D: Tensor) -> Tensor:
        """``logit(slot) - logit(anchor)`` [B, M] from final hidden states, in float32."""
        head_V_D = _head(self.model)
        ids = torch.tensor([*self.slot_ids, self.anchor_id])
        logits = hidden_B_D.float() @ head_V_D[ids].float().T
        return logits[:, :-1] - logits[:, -1:]

    def log_odds(self, hidden_B_D: Tensor) -> Tensor:
        """Success log-odds [B, M]."""
        return self.contrast(hidden_B_D) - self.centre_M + self.prior_M


def soft_targets(score_N_M: Floats, families: Sequence[str], outcome_share: float) -> Floats:
    """Targets [N, M] in [0, 1] out of recorded scores [N, M]; see the module.

    Raises:
        ValueError: ``outcome_share`` outside [0, 1], or lengths that differ.
    """
    if not 0.0 <= outcome_share <= 1.0:
        raise ValueError(f"outcome_share is {outcome_share!r}; it must lie in [0, 1]")
    if len(families) != len(score_N_M):
        raise ValueError(f"{len(score_N_M)} rows of scores, but {len(families)} families")
    overall_M = score_N_M.mean(0)
    names = np.asarray(families)
    known_N_M = np.empty_like(score_N_M)
    for family in np.unique(names):
        own = names == family
        mean_M = (score_N_M[own].sum(0) + _FAMILY_PRIOR * overall_M) / (own.sum() + _FAMILY_PRIOR)
        known_N_M[own] = mean_M
    targets: Floats = outcome_share * score_N_M + (1.0 - outcome_share) * known_N_M
    return targets


def prior_log_odds(score_N_M: Floats) -> Floats:
    """Log-odds [M] of each card's mean score."""
    mean_M = np.clip(score_N_M.mean(0), _EDGE, 1.0 - _EDGE)
    odds: Floats = np.log(mean_M / (1.0 - mean_M))
    return odds


def slot_model(base: Base, prior_M: Floats, config: WarmStartConfig) -> SlotModel:
    """The base with a fresh LoRA adapter on its upper layers; the centre still zero.

    Raises:
        ValueError: no layer is left to train, or more cards than slots.
    """
    layers = base.identity.layers
    if not 0 <= config.frozen_layers < layers:
        raise ValueError(
            f"frozen_layers is {config.frozen_layers}; the base has {layers} layers, and at least "
            "one must be trained"
        )
    if len(prior_M) > len(slots.CARD_SLOTS):
        raise ValueError(f"{len(prior_M)} cards; the codec has {len(slots.CARD_SLOTS)} slots")
    torch.manual_seed(config.seed)
    lora = LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        target_modules=linear_names(base.model),
        layers_to_transform=list(range(config.frozen_layers, layers)),
        layers_pattern="layers",
        task_type="CAUSAL_LM",
    )
    return SlotModel(
        model=get_peft_model(base.model, lora),
        slot_ids=tuple(base.slot_ids[letter] for letter in slots.CARD_SLOTS[: len(prior_M)]),
        anchor_id=base.slot_ids[slots.ANCHOR_SLOT],
        prior_M=torch.tensor(prior_M, dtype=torch.float32),
        centre_M=torch.zeros(len(prior_M)),
    )


def linear_names(model: Any) -> list[str]:
    """Names of the linear maps inside a layer: what LoRA is put on."""
    layer = decoder_of(model).layers[-1]
    maps = (name for name, module in layer.named_modules() if isinstance(module, nn.Linear))
    return sorted({name.rpartition(".")[2] for name in maps})


class UpperHalf:
    """The trained layers over cached activations."""

    def __init__(self, slot: SlotModel, cache: ActivationCache) -> None:
        self.slot, self.cache = slot, cache
        decoder = decoder_of(slot.model)
        self._part = part_of(decoder, cache.layers, len(decoder.layers), with_norm=True)
        self._dtype = next(decoder.parameters()).dtype

    def hidden(self, index: Sequence[int] | Ints) -> Tensor:
        """Final hidden states [B, D] at the last token of each prompt; gradients flow."""
        hidden_B_T_D, lengths_B = self.cache.batch(index)
        _, prefix = run_prefix(self._part, self.cache.prefix_1_P_D.to(self._dtype))
        out = run_questions(self._part, hidden_B_T_D.to(self._dtype), lengths_B, prefix)
        last: Tensor = out[torch.arange(len(lengths_B)), lengths_B - 1]
        return last

    @torch.no_grad()
    def predict(self, index: Ints, *, batch_size: int = 32) -> Floats:
        """Success log-odds [N, M] for prompts of the cache, in the order of ``index``."""
        self.slot.model.eval()
        order = np.argsort(self.cache.lengths[index], kind="stable")
        found = np.empty((len(index), len(self.slot.slot_ids)))
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            found[rows] = self.slot.log_odds(self.hidden(index[rows])).numpy()
        return found


def measure_centre(upper: UpperHalf, index: Ints, seed: int) -> None:
    """Set the slot model's centre to the untrained base's mean contrast over a sample."""
    chosen = np.random.default_rng(seed).permutation(index)[:_CENTRE_SAMPLE]
    slot = upper.slot
    slot.centre_M.zero_()
    raw = torch.from_numpy(upper.predict(chosen)).float() - slot.prior_M
    slot.centre_M.copy_(raw.mean(0))


def train_cached(
    upper: UpperHalf,
    index: Ints,
    target_N_M: Floats,
    config: WarmStartConfig,
    *,
    on_step: Callable[[Step], None] | None = None,
    on_epoch: Callable[[int], bool] | None = None,
) -> None:
    """Train the adapter over cached activations, in place.

    ``index`` are prompts of the cache, ``target_N_M`` their targets in the same order.
    ``on_epoch(epochs done)`` may stop training by returning False.
    """
    slot = upper.slot
    parameters = [p for p in slot.model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=0.01)
    steps = config.epochs * math.ceil(len(index) / config.batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: learning_rate_at(step, steps, config.warmup_share)
    )
    rng = np.random.default_rng(config.seed)
    losses: list[float] = []
    for epoch in range(config.epochs):
        slot.model.train()
        order = rng.permutation(len(index))
        for start in range(0, len(order), config.batch_size):
            rows = order[start : start + config.batch_size]
            z_B_M = slot.log_odds(upper.hidden(index[rows]))
            target_B_M = torch.from_numpy(target_N_M[rows]).float()
            loss = functional.binary_cross_entropy_with_logits(z_B_M, target_B_M)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(parameters, config.max_grad_norm)
            optimiser.step()
            schedule.step()
            optimiser.zero_grad(set_to_none=True)
            losses.append(loss.item())
            if on_step is not None:
                on_step(Step(len(losses), steps, float(np.mean(losses[-20:]))))
        if on_epoch is not None and not on_epoch(epoch + 1):
            return


def learning_rate_at(step: int, steps: int, warmup_share: float) -> float:
    """Share of the peak learning rate: a linear rise, then a cosine down to a tenth."""
    warmup = max(1, round(steps * warmup_share))
    if step < warmup:
        return (step + 1) / warmup
    done = min(1.0, (step - warmup) / max(1, steps - warmup))
    return 0.1 + 0.9 * 0.5 * (1.0 + math.cos(math.pi * done))


def _head(model: Any) -> Tensor:
    weight: Tensor = model.get_output_embeddings().weight
    return weight
