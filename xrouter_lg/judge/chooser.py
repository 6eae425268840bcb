"""A checkpoint's policy, asked what it does with the prompts of a table: what all kinds share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Literal, TypeVar

import numpy as np
import polars as pl

from xrouter_lg.checkpoints.manifest import Manifest
from xrouter_lg.judge.choices import dial_of
from xrouter_lg.judge.estimates import Progress
from xrouter_lg.outcomes.grid import OutcomeGrid
from xrouter_lg.outcomes.schema import KEY
from xrouter_lg.policies.trained import TrainedPolicy

P = TypeVar("P", bound=TrainedPolicy, covariant=True)


@dataclass(frozen=True, kw_only=True)
class Asking:
    """How checkpoints are asked about a table."""

    base: str | Path | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    server: str | None = None
    """``vllm:URL`` or ``llama_cpp:URL`` where a server runs the language models."""
    cost_weight: float
    """λ at which is judged."""
    router_usd_per_million: float
    cache: Path | None = None
    progress: Progress | None = None


class Chooser(ABC, Generic[P]):
    """A checkpoint's policy, asked about recorded prompts."""

    def __init__(self, policy: P, asking: Asking) -> None:
        self.policy, self.asking = policy, asking

    @property
    def manifest(self) -> Manifest:
        return self.policy.manifest

    def cost_weights(self) -> tuple[float, ...]:
        """The cost weights it is run at: its own dial, or the judge's, and the judged one."""
        return dial_of(self.manifest, self.asking.cost_weight)

    @abstractmethod
    def choices(self, rows: OutcomeGrid, weights: Sequence[float]) -> pl.DataFrame:
        """The rows of a choices file (``score.py``) for these prompts at these cost weights."""

    def close(self) -> None:
        """Let go of the policy's model."""
        self.policy.close()


@dataclass(frozen=True)
class Taken:
    """What was done about one prompt."""

    model: str | None
    """Several joined by ``+``; None where none was called."""
    score: float
    cost_usd: float
    router_usd: float = 0.0


def paid(
    rows: OutcomeGrid, n: int, called: Sequence[int], served: int, router_usd: float = 0.0
) -> Taken:
    """What calling these columns came to where the answer of ``served`` was returned."""
    usd = float(np.sum([rows.cost[n, at] for at in called]))
    names = "+".join(rows.models[at] for at in called)
    return Taken(names, float(rows.score[n, served]), usd, router_usd)


def frame_of(rows: OutcomeGrid, weight: float, taken: Sequence[Taken]) -> pl.DataFrame:
    """The rows of a choices file at one cost weight."""
    return pl.DataFrame(
        {
            **{name: [key[part] for key in rows.keys] for part, name in enumerate(KEY)},
            "cost_weight": np.full(len(rows), float(weight)),
            "model": pl.Series([one.model for one in taken], dtype=pl.String),
            "score": [one.score for one in taken],
            "cost_usd": [one.cost_usd for one in taken],
            "router_cost_usd": [one.router_usd for one in taken],
        }
    )
