"""What the policies of all kinds of checkpoint share, and what those do that expect a score and a
cost of every card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from xrouter_lg.calls.told.notices import notice_failed_model
from xrouter_lg.checkpoints.manifest import Manifest
from xrouter_lg.errors import PolicyError
from xrouter_lg.policies.base import BasePolicy
from xrouter_lg.policies.thompson import best_chances
from xrouter_lg.policies.utility import Predictor, Utilities, load_head
from xrouter_lg.pool.card import ModelCard
from xrouter_lg.types import Proposal, RouteRequest

NAME = "checkpoint"
"""What a record calls the policy of a checkpoint, whatever its kind."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a decision would be made on."""

    expected: Utilities
    router_tokens: int
    """Prompt and completion tokens of the router model for this decision."""


class TrainedPolicy(BasePolicy):
    """The policy of a checkpoint: its folder, its manifest, and the version on every record."""

    name = NAME

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path, self.manifest = path, manifest
        self.version = manifest.version

    def cost_weight(self, request: RouteRequest) -> float:
        """λ of a request: what the dial says for its quality target, else its own weight."""
        if request.quality_target is not None and self.manifest.dial:
            return self.manifest.weight_for_quality(request.quality_target)
        return request.cost_weight


class EstimatingPolicy(TrainedPolicy):
    """One that decides by expected score and cost of every card.

    Raises:
        CheckpointError: the head's file is missing or damaged.
        MissingExtraError: numpy or safetensors is not installed, and there is a head.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        super().__init__(path, manifest)
        self._predictor = Predictor.of(manifest, load_head(manifest, path))

    def weigh(
        self,
        request: RouteRequest,
        candidates: Sequence[ModelCard],
        contrasts: Mapping[str, float],
    ) -> Utilities:
        """The candidates at the request's own cost weight."""
        weight = self.cost_weight(request)
        return self._predictor.utilities(contrasts, request, candidates, weight)


def by_head(
    policy: TrainedPolicy,
    predictor: Predictor,
    request: RouteRequest,
    candidates: Sequence[ModelCard],
    problem: PolicyError,
) -> Proposal:
    """What a checkpoint's value model decides alone, where its language model failed with
    ``problem``; that is told once in a while.

    Raises:
        PolicyError: the problem itself, of a checkpoint without a value model.
    """
    if predictor.head is None:
        raise problem
    notice_failed_model(str(policy.name), str(policy.version), problem)
    weight = policy.cost_weight(request)
    found = predictor.with_share(1.0).utilities({}, request, candidates, weight)
    return proposed(found, f"the language model failed; {reason_of(found, weight)}")


def proposed(found: Utilities, reason: str) -> Proposal:
    """A proposal by expected scores and costs: the card of highest utility first."""
    return Proposal(
        found.probabilities,
        reason=reason,
        quality=found.quality,
        explore=best_chances(found),
        cost_usd=found.cost_usd,
    )


def reason_of(found: Utilities, cost_weight: float) -> str:
    """In words why the best card is taken."""
    best = found.best
    said = (
        f"expected score {found.quality[best]:.2f} at ${found.cost_usd[best]:.6f}, "
        f"cost weight {cost_weight:g}"
    )
    return f"{said}; read without a part that training does not know" if found.left_out else said
