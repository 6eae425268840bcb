"""A plain function as a policy."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from xrouter_lg.errors import InvalidProposalError
from xrouter_lg.policies.base import BasePolicy, PolicyFunction, one_hot
from xrouter_lg.pool.card import ModelCard
from xrouter_lg.types import Proposal, RouteRequest


class FunctionPolicy(BasePolicy):
    """Asks ``function(request, candidates)``, sync or async.

    It returns a card's name, the card itself, a mapping of names to probabilities, or a
    :class:`Proposal`. A sync function runs in a thread, so that it may wait for something.
    """

    def __init__(self, function: PolicyFunction) -> None:
        self._function = function
        named = getattr(function, "__name__", None) or type(function).__name__
        self.name = "function" if named == "<lambda>" else str(named)
        called = function if inspect.isroutine(function) else type(function).__call__
        self._is_async = inspect.iscoroutinefunction(called)

    async def propose(self, request: RouteRequest, candidates: Sequence[ModelCard]) -> Proposal:
        if self._is_async:
            said = await self._function(request, candidates)
        else:
            said = await asyncio.to_thread(self._called, request, candidates)
            if inspect.isawaitable(said):  # a partial of a coroutine function, or the like
                said = await said
        return self._proposal(said, candidates)

    def _called(self, request: RouteRequest, candidates: Sequence[ModelCard]) -> Any:
        try:
            return self._function(request, candidates)
        except StopIteration as error:  # no future takes it: whoever waits would wait for ever
            raise RuntimeError("the function raised StopIteration") from error

    def _proposal(self, said: Any, candidates: Sequence[ModelCard]) -> Proposal:
        if isinstance(said, Proposal):
            return said
        if isinstance(said, Mapping):
            return Proposal(dict(said), reason=self.name)
        name = said.name if isinstance(said, ModelCard) else said
        if isinstance(name, str) and any(card.name == name for card in candidates):
            return Proposal(one_hot(name, candidates), propensity=1.0, reason=self.name)
        names = ", ".join(card.name for card in candidates)
        raise InvalidProposalError(
            f"{self.name} returned {said!r}; it must return the name of a candidate ({names}), "
            "a mapping of names to probabilities, or a Proposal"
        )
