"""Policies that know nothing of the request: the ones that a learned policy has to beat."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace

from xrouter_lg.errors import PolicyConfigError
from xrouter_lg.policies.base import BasePolicy, by_price, one_hot
from xrouter_lg.pool.card import ModelCard, normalise_name
from xrouter_lg.types import Action, Proposal, RouteRequest


class FixedPolicy(BasePolicy):
    """Always the same card (``card=None``: the pool's default). Where it can't take a request,
    the cheapest one that can."""

    name = "fixed"

    def __init__(self, card: str | None = None) -> None:
        self.card = None if card is None else normalise_name(card)
        self.version = self.card or "default"

    async def propose(self, request: RouteRequest, candidates: Sequence[ModelCard]) -> Proposal:
        wanted = self.card or request.default
        if wanted is not None and any(card.name == wanted for card in candidates):
            return Proposal(one_hot(wanted, candidates), reason="fixed")
        chosen = by_price(candidates, request)[0].name
        return Proposal(
            one_hot(chosen, candidates),
            reason=f"{wanted!r} can't take this request; cheapest that can",
        )


class CheapestPolicy(BasePolicy):
    """The card with the lowest expected cost of this request."""

    name = "cheapest"

    async def propose(self, request: RouteRequest, candidates: Sequence[ModelCard]) -> Proposal:
        chosen = by_price(candidates, request)[0].name
        return Proposal(one_hot(chosen, candidates), reason="lowest expected cost")


class RandomPolicy(BasePolicy):
    """Each candidate with the same probability. The logged propensities make its traces the
    best ones to learn from."""

    name = "random"

    def __init__(self, seed: int | None = None) -> None:
        self._random = random.Random(seed)

    async def propose(self, request: RouteRequest, candidates: Sequence[ModelCard]) -> Proposal:
        share = 1.0 / len(candidates)
        return draw({card.name: share for card in candidates}, self._random, "drawn evenly")


class StaticMixPolicy(BasePolicy):
    """Cards in fixed shares, whatever is asked: the mixtures on the hull of the fixed models
    that a learned policy has to beat.

    Raises:
        PolicyConfigError: a share that is no positive finite number, or none at all.
    """

    name = "mix"

    def __init__(self, shares: Mapping[str, float], seed: int | None = None) -> None:
        self.shares: dict[str, float] = {}
        for card, share in shares.items():
            if isinstance(share, bool) or not math.isfinite(share) or share <= 0:
                raise PolicyConfigError(
                    f"the mix gives {card!r} a share of {share!r}; it must be a finite number "
                    "above 0"
                )
            self.shares[normalise_name(card)] = float(share)
        if not self.shares:
            raise PolicyConfigError("a mix needs at least one card, such as {'small': 1.0}")
        text = ",".join(f"{card}={share:g}" for card, share in sorted(self.shares.items()))
        self.version = hashlib.sha256(text.encode()).hexdigest()[:12]
        self._random = random.Random(seed)

    async def propose(self, request: RouteRequest, candidates: Sequence[ModelCard]) -> Proposal:
        present = {c.name: self.shares[c.name] for c in candidates if c.name in self.shares}
        if not present:
            chosen = by_price(candidates, request)[0].name
            return Proposal(
                one_hot(chosen, candidates),
                reason="no card of the mix can take this request; cheapest that can",
            )
        whole = sum(present.values())
        probabilities = {name: share / whole for name, share in present.items()}
        drawn = draw(probabilities, self._random, "drawn by the mix's shares")
        # Cards outside the mix stay reachable for failover, behind all of its own.
        rest = {card.name: 0.0 for card in candidates if card.name not in present}
        return replace(drawn, probabilities={**drawn.probabilities, **rest})


def draw(probabilities: Mapping[str, float], rng: random.Random, reason: str) -> Proposal:
    """One card drawn from a distribution, with its probability as propensity."""
    names = list(probabilities)
    chosen = rng.choices(names, weights=[probabilities[name] for name in names])[0]
    return Proposal(
        probabilities,
        actions=(Action("call", card=chosen),),
        propensity=probabilities[chosen],
        reason=reason,
    )
