"""How GRPO learns."""

from __future__ import annotations

from typing import Literal

from pydantic.dataclasses import dataclass

from training.config.settings import SETTINGS, Count, Whole


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class GrpoSettings:
    """How GRPO learns.

    Raises:
        ValueError: group-wise reward scaling that was not asked for by name, a temperature not
            above 0, or a count below 1.
    """

    steps: Whole = 50
    learning_rate: float = 2e-4
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    generations: Whole = 8
    """Samples per prompt: a group."""
    prompts_per_step: Count = 4
    """Prompts per optimiser step, whatever the number of processes."""
    temperature: float = 0.1
    """T, in score points: how far below the best a card may lie and still be tried."""
    scale_rewards: Literal["batch", "none", "group"] = "none"
    allow_group_scaling: bool = False
    """Group scaling divides each group's rewards by their own spread, which takes the cost weight
    out of every group that is right (or wrong) throughout: ``python -m
    benchmarks.experiments.reward_scaling`` shows it, and is what this is for."""
    anchor: float = 0.1
    """Of the family head, where no language model is trained: weight, in score points, of its
    distance (Kullback-Leibler) from the policy that it begins as."""
    entropy: float = 0.0
    """Of the family head: weight, in score points, of the policy's entropy."""
    validate_every: Count = 10
    """Steps between two validations of the utility on held-back prompts."""
    patience: Count = 3
    """Validations without an improvement before training stops; the best state is kept."""
    seed: Whole = 0

    def __post_init__(self) -> None:
        if self.scale_rewards == "group" and not self.allow_group_scaling:
            raise ValueError(
                "scale_rewards is 'group'; it must be 'batch' or 'none': scaling by group makes "
                "the cost weight inert (allow_group_scaling=true lets you measure it)"
            )
        if not self.temperature > 0.0:
            raise ValueError(f"temperature is {self.temperature!r}; it must be above 0")
        for name in ("anchor", "entropy"):
            if not 0.0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must not be negative")
        if self.generations < 2:
            raise ValueError(f"generations is {self.generations!r}; a group needs at least 2")
        if self.steps < 0:
            raise ValueError(f"steps is {self.steps!r}; it must not be negative")

    @property
    def episodes(self) -> int:
        """That are played, each by a group."""
        return self.steps * self.prompts_per_step

    def check_episodes(self, there: int) -> None:
        """Refuse too few.

        Raises:
            ValueError: fewer than are played.
        """
        if there < self.episodes:
            raise ValueError(
                f"{self.steps} steps of {self.prompts_per_step} prompts need {self.episodes} "
                f"episodes; there are {there}"
            )
