"""How the warm start learns."""

from __future__ import annotations

from typing import Literal

from pydantic.dataclasses import dataclass

from training.config.settings import SETTINGS, Count, Whole


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class WarmStartConfig:
    """How the warm start learns.

    Raises:
        ValueError: settings that exclude each other.
    """

    epochs: Count = 2
    batch_size: Count = 16
    """Prompts per optimiser step, whatever the number of processes."""
    learning_rate: float = 1e-3
    schedule: Literal["cosine_with_min_lr", "cosine", "linear", "constant_with_warmup"] = (
        "cosine_with_min_lr"
    )
    """Transformers' name of the learning rate's course; the first ends at a tenth of the peak."""
    warmup_share: float = 0.06
    """Share of steps over which the learning rate rises."""
    outcome_share: float = 0.4
    """a: weight of a prompt's own outcome in its target."""
    recipe: Literal["cached", "plain"] = "cached"
    """``cached`` (the CPU recipe) computes the frozen layers once; ``plain`` runs every layer on
    every step, and is what slots that are dealt anew, or a GPU, need."""
    method: Literal["lora", "full"] = "lora"
    """LoRA on the layers above the frozen ones, or all of their weights."""
    frozen_layers: Whole = 20
    """Layers below the trained ones; their activations are cached."""
    lora_rank: Whole = 16
    lora_alpha: Whole = 32
    permute: bool = False
    """Deal the slots anew for each training prompt, so that no card owns a letter."""
    max_grad_norm: float = 1.0
    stop_on: Literal["log_loss", "utility"] = "log_loss"
    """What is measured on validation prompts to stop early and to keep the best: the log loss of
    every card's success, or the utility of the decisions over a range of cost weights."""
    seed: Whole = 0

    def __post_init__(self) -> None:
        if self.permute and self.recipe == "cached":
            raise ValueError(
                "warm_start.permute needs warm_start.recipe=plain: cached activations hold one "
                "order of the candidates"
            )
