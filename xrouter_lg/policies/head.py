"""A checkpoint without a language model: a family head decides, in a millisecond, at no cost."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from xrouter_lg.checkpoints.folder import verify
from xrouter_lg.policies.trained import Estimate, EstimatingPolicy, proposed, reason_of
from xrouter_lg.pool.card import ModelCard
from xrouter_lg.types import Proposal, RouteRequest


class HeadPolicy(EstimatingPolicy):
    """Routes by a checkpoint of kind ``head``; ``path`` is its folder.

    It needs numpy and safetensors (``pip install "xrouter_lg[checkpoint]"``), neither torch nor a
    tokenizer, and no server.

    Raises:
        CheckpointError: no checkpoint there, or a damaged one.
        MissingExtraError: numpy or safetensors is not installed.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__(Path(path), verify(path, kind="head"))

    async def propose(self, request: RouteRequest, candidates: Sequence[ModelCard]) -> Proposal:
        """Success probability and expected cost of each candidate; the highest utility first."""
        found = self.weigh(request, candidates, {})
        return proposed(found, reason_of(found, self.cost_weight(request)))

    def estimate(
        self, requests: Sequence[RouteRequest], candidates: Sequence[ModelCard]
    ) -> list[Estimate]:
        """What :meth:`propose` expects of each candidate, for many requests, in order."""
        return [Estimate(self.weigh(request, candidates, {}), 0) for request in requests]

    def __repr__(self) -> str:
        return f"HeadPolicy({str(self.path)!r})"
