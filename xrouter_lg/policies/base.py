"""What a policy is, and what may stand for one."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

from langchain_core.language_models import BaseChatModel

from xrouter_lg.errors import InvalidProposalError
from xrouter_lg.pool.pool import ModelCard
from xrouter_lg.types import Action, Answer, Proposal, RouteRequest

MAX_PARALLEL_CALLS = 4
"""Calls that a policy may propose in one turn."""


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
    tokens = 500 if request is None else request.prompt_tokens
    return sorted(candidates, key=lambda card: _price_key(card.estimate_usd(tokens)))


def _price_key(cost: Decimal | None) -> tuple[bool, Decimal]:
    return cost is None, cost or Decimal(0)


def check_proposal(
    proposal: Proposal, candidates: Sequence[ModelCard], answers: Sequence[Answer] = ()
) -> None:
    """Refuse a proposal that is not a set of actions on the candidates and the answers so far.

    Raises:
        InvalidProposalError: unknown card, probability that is no number in [0, 1], none above
            zero and no action either, propensity outside (0, 1], nothing to explore by, an expected
            cost that is no sum of money, too many calls, mixed kinds of action, an answer selected
            that is not there.
    """
    names = {card.name for card in candidates}
    if not isinstance(proposal, Proposal):
        raise InvalidProposalError(f"it returned a {type(proposal).__name__}, not a Proposal")
    _check_probabilities(proposal.probabilities, names)
    if not proposal.actions and not any(proposal.probabilities.values()):
        raise InvalidProposalError("it gives no card a probability above 0, and names no action")
    if proposal.propensity is not None and not 0.0 < proposal.propensity <= 1.0 + 1e-6:
        raise InvalidProposalError(
            f"propensity is {proposal.propensity!r}; it must be above 0 and at most 1, or None"
        )
    if proposal.explore is not None:
        _check_probabilities(proposal.explore, names)
        if not any(proposal.explore.values()):
            raise InvalidProposalError("explore gives no card a probability above 0")
    _check_costs(proposal.cost_usd or {}, names)
    kinds = {action.kind for action in proposal.actions}
    if len(kinds) > 1:
        raise InvalidProposalError(f"it mixes {' and '.join(sorted(kinds))} in one turn")
    if kinds and kinds != {"call"} and len(proposal.actions) > 1:
        raise InvalidProposalError(f"it proposes {len(proposal.actions)} final answers at once")
    if len(proposal.actions) > MAX_PARALLEL_CALLS:
        raise InvalidProposalError(
            f"it proposes {len(proposal.actions)} calls in one turn; at most {MAX_PARALLEL_CALLS}"
        )
    for action in proposal.actions:
        _check_action(action, names, answers)


def _check_probabilities(probabilities: Mapping[str, float], names: set[str]) -> None:
    for name, value in probabilities.items():
        if name not in names:
            raise InvalidProposalError(
                f"it gives a probability to {name!r}, which is no candidate "
                f"({', '.join(sorted(names))})"
            )
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not math.isfinite(value)
            or not 0.0 <= value <= 1.0 + 1e-6
        ):
            raise InvalidProposalError(
                f"its probability of {name!r} is {value!r}; it must be a number in [0, 1]"
            )


def _check_costs(costs: Mapping[str, float], names: set[str]) -> None:
    for name, value in costs.items():
        if name not in names:
            raise InvalidProposalError(
                f"it expects a cost of {name!r}, which is no candidate ({', '.join(sorted(names))})"
            )
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not 0.0 <= value < math.inf
        ):
            raise InvalidProposalError(
                f"its expected cost of {name!r} is {value!r}; it must be USD, 0 or more"
            )


def _check_action(action: Action, names: set[str], answers: Sequence[Answer]) -> None:
    if action.kind not in ("call", "select", "answer"):
        raise InvalidProposalError(
            f"its action is a {action.kind!r}; it must be a call, a select or an answer"
        )
    if action.kind == "call" and action.card not in names:
        raise InvalidProposalError(
            f"it calls {action.card!r}, which is no candidate ({', '.join(sorted(names))})"
        )
    if action.kind == "answer" and not (action.text or "").strip():
        raise InvalidProposalError("it answers itself with an empty text")
    if action.kind == "select" and all(a.call_id != action.call_id for a in answers):
        known = ", ".join(answer.call_id for answer in answers) or "none"
        raise InvalidProposalError(f"it selects {action.call_id!r}, which is no answer ({known})")
    if action.max_tokens is not None and (
        isinstance(action.max_tokens, bool)
        or not isinstance(action.max_tokens, int)
        or action.max_tokens < 1
    ):
        raise InvalidProposalError(
            f"max_tokens is {action.max_tokens!r}; it must be a whole number, at least 1"
        )
    if action.hint is not None and not isinstance(action.hint, str):
        raise InvalidProposalError(f"hint is {action.hint!r}; it must be text")
    if action.temperature is not None and not 0.0 <= action.temperature <= 2.0:
        raise InvalidProposalError(
            f"temperature is {action.temperature!r}; it must lie between 0 and 2"
        )
