"""Rows of the warm start."""

from __future__ import annotations

from dataclasses import dataclass

from xrouter_lg.arrays import Floats, Ints


@dataclass(frozen=True)
class Samples:
    """N rows to learn from, of prompts of a reading."""

    prompt_N: Ints
    """Number of the prompt in the reading."""
    prior_N_L: Floats
    """Log-odds that each letter starts from."""
    target_N_L: Floats
    """What each letter should say, 0 to 1; NaN where it has no meaning."""

    def __post_init__(self) -> None:
        if not (len(self.prompt_N) == len(self.prior_N_L) == len(self.target_N_L)):
            raise ValueError("prompts, priors and targets differ in number")

    def __len__(self) -> int:
        return len(self.prompt_N)
