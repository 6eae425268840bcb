"""Settings of episodes that call workers."""

from __future__ import annotations

from pydantic.dataclasses import dataclass

from training.config.settings import SETTINGS, Count, Location, Share


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class LiveConfig:
    """Prompts without recorded outcomes join GRPO by calling the pool's cards, within a budget.

    Raises:
        ValueError: a budget below 0, or a count below 1.
    """

    budget_usd: float = 0.0
    """What all live calls and verdicts of a run may cost together, those before a resume
    included; 0 calls nobody."""
    verifiers: Location = ""
    """The verifier file (``xrouter verifiers``) that scores live answers."""
    concurrency: Count = 8
    share: Share = 0.5
    """Most of GRPO's episodes that may be about such prompts."""

    def __post_init__(self) -> None:
        if not self.budget_usd >= 0.0:
            raise ValueError(f"live.budget_usd is {self.budget_usd!r}; it must not be negative")
        if self.budget_usd and not self.verifiers:
            raise ValueError("live.budget_usd is set; give live.verifiers, which score the answers")
