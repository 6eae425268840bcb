"""What a policy is, and what may stand for one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

from langchain_core.language_models import BaseChatModel

from xrouter_lg.pool.card import ModelCard
from xrouter_lg.types import Proposal, RouteRequest


@runtime_checkable
class Policy(Protocol):
    """Anything with a name, a version and ``propose``. It proposes; the router decides."""

    name: str
    version: str

    async def propose(self, request: RouteRequest, candidates: Sequence[ModelCard]) -> Proposal: ...


PolicyFunction = Callable[[RouteRequest, Sequence[ModelCard]], Any]
"""See :class:`~xrouter_lg.policies.function.FunctionPolicy`."""

PolicyLike = Policy | BaseChatModel | ModelCard | str | Path | PolicyFunction
"""What may be written for a policy; see :func:`~xrouter_lg.policies.resolve.resolve_policy`."""


class BasePolicy(ABC):
    """What most policies share. Subclassing is a convenience, not a condition."""

    name: str = "policy"
    version: str = "1"
    timeout_s: ClassVar[float] = 10.0
    """Seconds after which the router gives up on a proposal."""
    orchestrates: ClassVar[bool] = False
    """Whether the policy uses further turns (looks at answers, selects, asks others)."""

    @abstractmethod
    async def propose(self, request: RouteRequest, candidates: Sequence[ModelCard]) -> Proposal:
        """Probabilities over ``candidates`` (never empty), and, where the policy draws or plans
        itself, the actions."""

    def worst_case_usd(
        self, request: RouteRequest, candidates: Sequence[ModelCard]
    ) -> Decimal | None:
        """The most that one proposal can cost (USD); None where unknown. Free unless said."""
        return Decimal(0)

    def chosen_for(self, request: RouteRequest) -> Policy:
        """The policy that decides this request: itself, unless it stands for several."""
        return self

    def warm_up(self) -> None:  # noqa: B027  # most have nothing to load
        """Load or check what the first request would wait for; may take seconds."""

    def close(self) -> None:  # noqa: B027
        """Let go of models and connections; a later request gets them again."""

    def resolved(self, resolve: Callable[[PolicyLike], Policy]) -> Policy:
        """Itself, with what it holds by name (a path, a card) made into policies."""
        return self


def one_hot(chosen: str, candidates: Sequence[ModelCard]) -> dict[str, float]:
    """All probability on one card; the others stay reachable for failover, cheapest first."""
    return {card.name: float(card.name == chosen) for card in candidates}


def by_price(
    candidates: Sequence[ModelCard], request: RouteRequest | None = None
) -> list[ModelCard]:
    """Candidates from the cheapest expected cost of this request to the dearest; unknown last."""

    def cost(card: ModelCard) -> Decimal | None:
        return card.estimate_usd(500) if request is None else expected_usd(card, request)

    return sorted(candidates, key=lambda card: _price_key(cost(card)))


def expected_usd(
    card: ModelCard, request: RouteRequest, output_tokens: int | None = None
) -> Decimal | None:
    """Expected cost (USD) of a call to a card: what it has of the prompt in its cache at the cached
    rate. None where the price is unknown."""
    warm = request.warm_tokens.get(card.name, 0)
    return card.estimate_usd(request.prompt_tokens, output_tokens, warm)


def _price_key(cost: Decimal | None) -> tuple[bool, Decimal]:
    return cost is None, cost or Decimal(0)
