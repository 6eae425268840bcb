"""The model that is trained: a causal language model whose slots carry success log-odds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from training.config.warm_start import WarmStartConfig
from training.model.base import Base, decoder_of
from xrouter_lg.arrays import Floats
from xrouter_lg.prompts import slots


@dataclass
class SlotModel:
    """A model that reads success log-odds off its slots.

    z = prior + (logit(slot) - logit(anchor)) - centre, for the letter of each of L cards. Cards of
    several blocks share letters: on one prompt only those of its own block mean anything.
    """

    model: Any
    slot_ids: tuple[int, ...]
    anchor_id: int
    prior_M: Tensor
    centre_M: Tensor

    def contrast(self, hidden_B_D: Tensor) -> Tensor:
        """``logit(slot) - logit(anchor)`` [B, L] from final hidden states, in float32."""
        head_V_D = _head(self.model)
        ids = torch.tensor([*self.slot_ids, self.anchor_id], device=head_V_D.device)
        logits = hidden_B_D.float() @ head_V_D[ids].float().T
        return logits[:, :-1] - logits[:, -1:]

    def log_odds(self, hidden_B_D: Tensor) -> Tensor:
        """Success log-odds [B, L]."""
        return self.z(self.contrast(hidden_B_D))

    def z(self, contrast_B_L: Tensor, prior_B_L: Tensor | None = None) -> Tensor:
        """Success log-odds [B, L] of a contrast; ``prior_B_L`` replaces the model's own prior
        where a letter does not stand for the card it usually does."""
        prior = self.prior_M if prior_B_L is None else prior_B_L
        return contrast_B_L - self.centre_M.to(contrast_B_L.device) + prior.to(contrast_B_L.device)

    @property
    def device(self) -> torch.device:
        """Where the model's weights are."""
        return _head(self.model).device


def slot_model(
    base: Base,
    prior_M: Floats,
    config: WarmStartConfig,
    *,
    blocks: Sequence[int] = (),
) -> SlotModel:
    """The base made trainable as ``config`` says; the centre still zero.

    ``blocks`` are the cards of each block where there are several: the letters of each begin anew.

    Raises:
        ValueError: no layer is left to train, or more cards than letters.
    """
    layers = base.identity.layers
    if not 0 <= config.frozen_layers < layers:
        raise ValueError(
            f"frozen_layers is {config.frozen_layers}; the base has {layers} layers, and at least "
            "one must be trained"
        )
    sizes = blocks or [len(prior_M)]
    if max(sizes) > len(slots.CARD_SLOTS):
        raise ValueError(f"{max(sizes)} cards; there are {len(slots.CARD_SLOTS)} slots")
    letters = "".join(slots.CARD_SLOTS[:size] for size in sizes)
    model = trainable(base.model, layers, config)
    return SlotModel(
        model=model,
        slot_ids=tuple(base.slot_ids[letter] for letter in letters),
        anchor_id=base.slot_ids[slots.ANCHOR_SLOT],
        prior_M=torch.tensor(prior_M, dtype=torch.float32),
        centre_M=torch.zeros(len(letters)),
    )


def trainable(model: Any, layers: int, config: WarmStartConfig) -> Any:
    """The base with LoRA on the layers above the frozen ones, or with those layers unfrozen."""
    if config.method == "full":
        return _unfrozen(model, config)
    lora = LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        target_modules=linear_names(model),
        layers_to_transform=list(range(config.frozen_layers, layers)),
        layers_pattern="layers",
        task_type="CAUSAL_LM",
    )
    torch.manual_seed(config.seed)  # PEFT draws the first matrix at random
    return get_peft_model(model, lora)


def linear_names(model: Any) -> list[str]:
    """Names of the linear maps inside a layer: what LoRA is put on."""
    layer = decoder_of(model).layers[-1]
    maps = (name for name, module in layer.named_modules() if isinstance(module, nn.Linear))
    return sorted({name.rpartition(".")[2] for name in maps})


def _unfrozen(model: Any, config: WarmStartConfig) -> Any:
    """Full fine-tuning of the layers above the frozen ones; of everything if none is frozen and
    embeddings are computed anew."""
    decoder = decoder_of(model)
    if config.frozen_layers == 0 and config.recipe == "plain":
        return model.requires_grad_(True)
    model.requires_grad_(False)
    for layer in decoder.layers[config.frozen_layers :]:
        layer.requires_grad_(True)
    decoder.norm.requires_grad_(True)
    return model


def _head(model: Any) -> Tensor:
    weight: Tensor = model.get_output_embeddings().weight
    return weight
