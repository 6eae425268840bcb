"""Which reward a run is trained with (:mod:`training.data.reward`)."""

from __future__ import annotations

from typing import Literal

from pydantic.dataclasses import dataclass

from training.config.settings import SETTINGS

RewardKind = Literal["linear", "success_gated"]


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class RewardConfig:
    """Which reward a run is trained with."""

    kind: RewardKind = "linear"
    k: float = 1.0
    """What a success at no cost is worth (``success_gated``)."""
    cap: float = 0.8
    """The most that cost takes from a success (``success_gated``)."""
