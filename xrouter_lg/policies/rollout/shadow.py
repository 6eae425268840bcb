"""A policy that proposes beside the one that decides, and is never obeyed.

The main policy's proposal is served. The shadow's is made behind it, on the event loop of another
thread (:mod:`xrouter_lg.policies.rollout.shadow_runs`), while the request goes on: neither its time
nor its failure nor its code that blocks reaches the request. What it proposed and what that cost is
put into the record when the answer is there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from decimal import Decimal

from xrouter_lg.errors import PolicyConfigError, PolicyTimeoutError
from xrouter_lg.policies.base import BasePolicy, Policy, PolicyLike
from xrouter_lg.policies.rollout import shadow_runs
from xrouter_lg.policies.rollout.canary import in_share, part_of, unit_key
from xrouter_lg.pool.card import ModelCard
from xrouter_lg.types import Proposal, RouteRequest

_MARGIN_S = 1.0
"""The main policy's deadline ends here, so much before the router's own: a main policy that times
out is when one wants to know what the other would have done."""


class ShadowPolicy(BasePolicy):
    """``main`` decides; ``shadow`` proposes beside it and is recorded.

    Both are anything that a ``policy`` may be; by name they are resolved by the node or router
    that this is given to. The shadow has until the answer is there, at most ``deadline_s``
    seconds; ``wait_s`` holds a finished answer back for a shadow that is slower than that (0:
    never). ``share`` of the threads is shadowed. Its charges are no part of the request's bill or
    budget: they stand beside it in the record, as ``shadow_cost_usd``.

    No shadow is asked where no policy is (one candidate, inside a tool loop) and while both are
    the same version.

    Raises:
        PolicyConfigError: a number out of range.
    """

    def __init__(
        self,
        main: PolicyLike,
        shadow: PolicyLike,
        *,
        share: float = 1.0,
        deadline_s: float = 10.0,
        wait_s: float = 0.0,
    ) -> None:
        for name, value, least, most in (
            ("share", share, 0.0, 1.0),
            ("deadline_s", deadline_s, 0.001, 3600.0),
            ("wait_s", wait_s, 0.0, 3600.0),
        ):
            if (
                isinstance(value, bool)
                or not isinstance(value, int | float)
                or not least <= value <= most
            ):
                raise PolicyConfigError(
                    f"the shadow's {name} is {value!r}; it must be a number from {least:g} to "
                    f"{most:g}"
                )
        self.main, self.shadow = main, shadow
        self.share, self.deadline_s, self.wait_s = float(share), float(deadline_s), float(wait_s)

    @property
    def name(self) -> str:  # type: ignore[override]  # who decides
        return part_of(self.main).name

    @property
    def version(self) -> str:  # type: ignore[override]
        return part_of(self.main).version

    @property
    def timeout_s(self) -> float:  # type: ignore[override]
        return self._main_timeout_s + _MARGIN_S

    @property
    def orchestrates(self) -> bool:  # type: ignore[override]
        return bool(getattr(self.main, "orchestrates", False))

    @property
    def _main_timeout_s(self) -> float:
        return float(getattr(self.main, "timeout_s", BasePolicy.timeout_s))

    def chosen_for(self, request: RouteRequest) -> Policy:
        main = part_of(self.main)
        chosen = main.chosen_for(request) if isinstance(main, BasePolicy) else main
        this: BasePolicy = self
        return this if chosen is main else self._with(chosen, self.shadow)

    async def propose(self, request: RouteRequest, candidates: Sequence[ModelCard]) -> Proposal:
        main = part_of(self.main)
        try:
            try:
                async with asyncio.timeout(self._main_timeout_s) as deadline:
                    proposal = await main.propose(request, candidates)
            except TimeoutError as error:
                if not deadline.expired():
                    raise
                raise PolicyTimeoutError(
                    f"no proposal within {self._main_timeout_s:g} s"
                ) from error
        except Exception:
            self._start(main, request, candidates)
            raise
        self._start(main, request, candidates)
        return proposal

    def _start(self, main: Policy, request: RouteRequest, candidates: Sequence[ModelCard]) -> None:
        if "shadow" in request.attempt.notes:  # asked again, with a budget that a human raised
            return
        shadow = part_of(self.shadow)
        if not in_share(unit_key(request), self.share, "shadow"):
            return
        note = shadow_runs.start(
            shadow,
            request,
            candidates,
            deadline_s=self.deadline_s,
            wait_s=self.wait_s,
            unless=(main.name, main.version),
        )
        if note is not None:
            request.attempt.notes["shadow"] = note

    def worst_case_usd(
        self, request: RouteRequest, candidates: Sequence[ModelCard]
    ) -> Decimal | None:
        """The main policy's: a shadow is no part of the request's budget."""
        if isinstance(self.main, BasePolicy):
            return self.main.worst_case_usd(request, candidates)
        return Decimal(0)

    def resolved(self, resolve: Callable[[PolicyLike], Policy]) -> BasePolicy:
        return self._with(resolve(self.main), resolve(self.shadow))

    def _with(self, main: Policy, shadow: PolicyLike) -> BasePolicy:
        return ShadowPolicy(
            main, shadow, share=self.share, deadline_s=self.deadline_s, wait_s=self.wait_s
        )

    def warm_up(self) -> None:
        for part in (self.main, self.shadow):
            if isinstance(part, BasePolicy):
                part.warm_up()

    def close(self) -> None:
        for part in (self.main, self.shadow):
            if isinstance(part, BasePolicy):
                part.close()

    def __repr__(self) -> str:
        return f"ShadowPolicy({self.main!r}, {self.shadow!r})"
