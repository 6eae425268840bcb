"""Two policies on live traffic: a small share of the threads is decided by the candidate.

A thread's side follows from a hash of its id, so that it never changes: not between turns, not
between processes, not when the share grows (main's threads move over, the candidate's stay). The
record says which arm decided and with what probability a thread falls into it; `xrouter canary`
compares the two.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Literal

from xrouter_lg.errors import PolicyConfigError
from xrouter_lg.policies.base import BasePolicy, Policy, PolicyLike
from xrouter_lg.pool.card import ModelCard
from xrouter_lg.types import Proposal, RouteRequest

Arm = Literal["main", "candidate"]


class CanaryPolicy(BasePolicy):
    """``candidate`` decides ``share`` of the threads, ``main`` the others.

    Both are anything that a ``policy`` may be; by name they are resolved by the node or router
    that this is given to. A request without a thread is assigned by its own id. Another ``salt``
    draws the threads anew: give each experiment its own, or the same users try every candidate.

    Raises:
        PolicyConfigError: a share outside [0, 1], or an empty salt.
    """

    name = "canary"

    def __init__(
        self,
        main: PolicyLike,
        candidate: PolicyLike,
        *,
        share: float = 0.05,
        salt: str = "canary",
    ) -> None:
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
            raise PolicyConfigError(
                f"the canary's share is {share!r}; it must be a number from 0 to 1, such as 0.05"
            )
        if not isinstance(salt, str) or not salt:
            raise PolicyConfigError(f"the canary's salt is {salt!r}; it must be a text")
        self.main, self.candidate = main, candidate
        self.share, self.salt = float(share), salt

    @property
    def version(self) -> str:  # type: ignore[override]  # its parts may follow an alias
        parts = (part_of(self.main).version, part_of(self.candidate).version)
        return f"{parts[0]}|{parts[1]}@{self.share:g}"

    def arm_of(self, request: RouteRequest) -> Arm:
        """The side of a request: the same for all requests of a thread."""
        return "candidate" if in_share(_unit(request)[1], self.share, self.salt) else "main"

    def chosen_for(self, request: RouteRequest) -> Policy:
        """The arm's policy; the arm is noted with the request."""
        arm = self.arm_of(request)
        request.attempt.notes["arm"] = {
            "arm": arm,
            "propensity": self.share if arm == "candidate" else 1.0 - self.share,
            "unit": _unit(request)[0],
            "salt": self.salt,
        }
        policy = part_of(self.candidate if arm == "candidate" else self.main)
        return policy.chosen_for(request) if isinstance(policy, BasePolicy) else policy

    async def propose(self, request: RouteRequest, candidates: Sequence[ModelCard]) -> Proposal:
        return await self.chosen_for(request).propose(request, candidates)

    def worst_case_usd(
        self, request: RouteRequest, candidates: Sequence[ModelCard]
    ) -> Decimal | None:
        policy = self.chosen_for(request)
        if isinstance(policy, BasePolicy):
            return policy.worst_case_usd(request, candidates)
        return Decimal(0)

    def resolved(self, resolve: Callable[[PolicyLike], Policy]) -> BasePolicy:
        return CanaryPolicy(
            resolve(self.main), resolve(self.candidate), share=self.share, salt=self.salt
        )

    def warm_up(self) -> None:
        for part in (self.main, self.candidate):
            if isinstance(part, BasePolicy):
                part.warm_up()

    def close(self) -> None:
        for part in (self.main, self.candidate):
            if isinstance(part, BasePolicy):
                part.close()

    def __repr__(self) -> str:
        return f"CanaryPolicy({self.main!r}, {self.candidate!r}, share={self.share:g})"


def in_share(key: str, share: float, salt: str) -> bool:
    """Whether a key falls into a share of all keys: always the same answer, and still yes when
    the share grows."""
    digest = hashlib.sha256(f"{salt}\0{key}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def part_of(part: PolicyLike) -> Policy:
    """A part that is a policy already.

    Raises:
        PolicyConfigError: it is a name still: nobody knows the pool that it belongs to.
    """
    if isinstance(part, Policy):
        return part
    raise PolicyConfigError(
        f"{part!r} is no policy yet; give the whole to XRouterNode(policy=...) or Router, which "
        "resolve names, or use resolve_policy(..., pool)"
    )


def unit_key(request: RouteRequest) -> str:
    """What a request is assigned by: its thread, else itself."""
    return _unit(request)[1]


def _unit(request: RouteRequest) -> tuple[str, str]:
    if request.thread_id is not None:
        return "thread", request.thread_id
    if request.request_id is not None:
        return "request", request.request_id
    # A router that is used without a graph and told neither: a draw is all there is.
    drawn: str = request.attempt.notes.setdefault("drawn", secrets.token_hex(8))
    return "request", drawn
