"""What changes from episode to episode of GRPO."""

from __future__ import annotations

from pydantic.dataclasses import dataclass

from training.config.settings import SETTINGS, Count, Share


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class Sampling:
    """What changes from episode to episode.

    Raises:
        ValueError: bounds that are no bounds.
    """

    cost_weight_low: float = 0.01
    cost_weight_high: float = 10.0
    """λ is drawn evenly in its logarithm between the two ..."""
    quality_only_share: Share = 0.1
    """... but for this share of episodes, where it is 0."""
    smallest_pool: Count = 2
    """Candidates of an episode: between this and all, evenly."""
    permute: bool = True
    """Whether slots are dealt anew to the candidates; off, a card keeps its place."""
    price_jitter: float = 0.0
    """Standard deviation of the logarithm of a card's price factor."""

    def __post_init__(self) -> None:
        if not 0.0 < self.cost_weight_low <= self.cost_weight_high:
            raise ValueError(
                f"cost weights between {self.cost_weight_low!r} and {self.cost_weight_high!r}: the "
                "lower must be above 0 and not above the higher"
            )
        if self.price_jitter < 0.0:
            raise ValueError(f"price_jitter is {self.price_jitter!r}; it must be at least 0")
