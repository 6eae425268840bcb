"""The parts that a manifest is made of; which kind of checkpoint has which is the manifest's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from xrouter_lg.prompts import slots


@dataclass(frozen=True, slots=True)
class BaseIdentity:
    """Which base model a checkpoint belongs to."""

    model_id: str
    sha256: str
    """Digest of the base's safetensors, in the order of their names."""
    tokenizer_sha256: str
    layers: int
    hidden_size: int


@dataclass(frozen=True, slots=True)
class LanguageModel:
    """The language model of a checkpoint, and the prompts that it was trained with."""

    base: BaseIdentity
    weights: Literal["adapter", "merged"]
    prompt_hash: str = field(default_factory=slots.prompt_hash)
    blocks: tuple[int, ...] = ()
    """Cards of each block of a prompt for slots, in slot order; empty: 16 a block."""

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        base, blocks = BaseIdentity(**data["base"]), tuple(data.get("blocks", ()))
        return cls(**{**data, "base": base, "blocks": blocks})


@dataclass(frozen=True, slots=True)
class CardStats:
    """What training measured for one card, and how to read its slot.

    The success log-odds of the card on a prompt are
    ``prior + logit(slot) - logit(anchor) - centre``; see ``policies/utility.py``. Without slots
    ``centre`` is 0 and means nothing; without a language model ``line`` is empty.
    """

    name: str
    line: str
    """The card's line in the prompt, as trained; with tools its description."""
    prior: float
    """Log-odds of success over the training prompts."""
    centre: float
    """Mean of ``logit(slot) - logit(anchor)`` of the untrained base over training prompts."""
    output_tokens: float
    """Mean output tokens; 0 where the table has none."""
    cost_usd: float
    """Mean USD per request on the training prompts."""
    price: Mapping[str, str] | None = None
    """USD per million tokens at training time, None where unknown."""


@dataclass(frozen=True, slots=True)
class CostModel:
    """log(cost relative to the card's mean) as a linear function of the success log-odds of all
    cards: what kind of task it is tells how long the answers are.

    ``log_ratio_m = bias_m + sum_k weight_mk * z_k + tokens_m * log(prompt_tokens)``, clipped to
    ``[low_m, high_m]``, the range seen in training.
    """

    bias: tuple[float, ...]
    weight: tuple[tuple[float, ...], ...]
    tokens: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        weight = tuple(tuple(row) for row in data["weight"])
        return cls(weight=weight, **{k: tuple(v) for k, v in data.items() if k != "weight"})


@dataclass(frozen=True, slots=True)
class HeadStats:
    """The family head (``checkpoints/family_head.py``), alone or beside a language model."""

    file: str
    families: tuple[str, ...]
    cards: tuple[str, ...]
    """Cards that the head knows, in the order of its columns."""
    share: float
    """Weight of the head's expected score; a language model's has the rest."""
    known_low: float
    """Share of known words at and below which a request counts as foreign ..."""
    known_high: float
    """... and at and above which readings are trusted in full."""

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        lists = {name: tuple(data[name]) for name in ("families", "cards")}
        return cls(**{**data, **lists})


@dataclass(frozen=True, slots=True)
class CascadeStats:
    """Plans of several calls (``checkpoints/cascade_model.py``)."""

    file: str
    turns: int
    """Decisions a request may take where it was measured: the node's ``max_turns``."""

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        return cls(**data)


@dataclass(frozen=True, slots=True)
class ToolsStats:
    """How a chat model that calls cards as tools was trained to be asked."""

    direct: bool
    """Whether it may answer a request itself."""
    turns: int
    """Turns that a request may take: the node's ``max_turns``."""
    max_output_tokens: int
    """Tokens that it may write in one turn."""

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        return cls(**data)


@dataclass(frozen=True, slots=True)
class DialPoint:
    """One setting of the dial, measured on held-out prompts."""

    cost_weight: float
    quality: float
    cost_usd: float
    largest_share: float | None
    """Share of prompts that went to the most used card; None where a prompt may go to several."""
