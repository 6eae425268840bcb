"""The core: constraints, policy, guards, decision. Knows neither LangGraph nor a server."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from functools import partial
from typing import Any

from xrouter_lg.calls.attempt import Workers
from xrouter_lg.calls.ledger import Budget, RequestAccount
from xrouter_lg.calls.replicas import Replicas
from xrouter_lg.errors import BudgetExceededError, ConfigurationError
from xrouter_lg.policies.base import BasePolicy, Policy, by_price, one_hot
from xrouter_lg.policies.resolve import PolicyLike, resolve_policy
from xrouter_lg.pool.card import ModelCard
from xrouter_lg.pool.pool import ModelPool
from xrouter_lg.routing import constraints
from xrouter_lg.routing.exploration import Drawn, Exploration, Explorer, as_exploration
from xrouter_lg.routing.proposing import Proposed, ask, best_answer
from xrouter_lg.routing.reserving import estimate_usd, reserve
from xrouter_lg.routing.spending import Spending
from xrouter_lg.routing.tool_loop import caller_in_loop
from xrouter_lg.routing.trajectory import above_stalled, steps_of
from xrouter_lg.types import Action, CallId, Decision, PlannedCall, Proposal, RouteRequest

_POOLS_KEPT = 8
"""Versions of a reloaded pool that requests under way may still refer to."""


class Router:
    """Decides for each request which cards to call. One object serves any number of requests,
    threads and event loops at once.

    ``cost_weight`` (λ ≥ 0) and ``budget`` are defaults that a request may override.
    ``max_turns=1`` makes one decision and returns the answer verbatim; more lets a policy that
    can (see ``BasePolicy.orchestrates``) look at answers and go on. ``exploration`` is the rate of
    requests for which a card is drawn by what the policy does not know instead of its favourite,
    or an :class:`~xrouter_lg.routing.exploration.Exploration`, which also bounds what that may
    cost; the propensity is logged, so that traces can be judged later. Nothing is drawn in a tool
    loop, for a failed policy, for one that plans its calls itself, or where one card is left.

    Raises:
        ConfigurationError: a bad option, card or policy; everything that can be found before the
            first request is.
    """

    def __init__(
        self,
        pool: ModelPool,
        policy: PolicyLike = "fixed",
        *,
        cost_weight: float = 0.0,
        max_turns: int = 1,
        budget: Budget | None = None,
        exploration: float | Exploration = 0.0,
        workers: Workers | None = None,
    ) -> None:
        if not isinstance(pool, ModelPool):
            raise ConfigurationError(
                f"pool is {pool!r}; give a ModelPool, for instance ModelPool.from_yaml('pool.yaml')"
            )
        if isinstance(max_turns, bool) or not isinstance(max_turns, int) or max_turns < 1:
            raise ConfigurationError(
                f"max_turns is {max_turns!r}; it must be a whole number, 1 or more"
            )
        self.exploration = as_exploration(exploration)
        if budget is None and pool.budget is not None:
            budget = Budget.from_dict(pool.budget)
        if budget is not None and not isinstance(budget, Budget):
            raise ConfigurationError(
                f"budget is {budget!r}; give a Budget, such as Budget(per_request_usd={budget!r})"
            )
        self._pool = pool
        self.policy = resolve_policy(policy, pool)
        self.cost_weight = check_cost_weight(cost_weight, "cost_weight", ConfigurationError)
        self.max_turns, self.budget = max_turns, budget
        self.workers = workers or Workers()
        self.workers.prepare(pool)
        self.spending: Spending | None = None
        """The limits that requests share, with the store that counts for them."""
        if (spending := Spending.of(budget)) is not None:
            self.count_in(spending)
        self._random = random.Random()
        self.explorer = Explorer(self.exploration, self._random)
        self._versions: dict[str, ModelPool] = {}

    def count_in(self, spending: Spending) -> None:
        """Keep limits there, and the cards' state in step with that of other processes on the same
        database."""
        self.spending = spending
        self.workers.replicas = Replicas(spending.store.engine, self.workers.cards)

    @property
    def pool(self) -> ModelPool:
        """The newest version of the pool."""
        pool = self._pool.current()
        if pool.fingerprint not in self._versions:
            if len(self._versions) >= _POOLS_KEPT:
                self._versions.pop(next(iter(self._versions)), None)
            self._versions[pool.fingerprint] = pool
        return pool

    @property
    def card_names(self) -> tuple[str, ...]:
        """Cards of the pool as it is now, and of the versions that requests may still refer to."""
        names = dict.fromkeys(self.pool.names)
        for version in list(self._versions.values()):
            names |= dict.fromkeys(version.names)
        return tuple(names)

    def pool_of(self, fingerprint: str) -> ModelPool:
        """The version of the pool that a request began with; the newest one where that is gone
        (a request resumed by another process)."""
        return self._versions.get(fingerprint) or self.pool

    async def decide(self, request: RouteRequest, pool: ModelPool) -> Decision:
        """One decision on ``request.remaining_usd``; each call comes with the sum set aside for
        it, and all of them together fit.

        Raises:
            NoCandidateError: no card can take the request.
            BudgetExceededError: none can be afforded, not even with a short answer.
        """
        policy = self.policy
        if isinstance(policy, BasePolicy):
            policy = policy.chosen_for(request)
        found = constraints.apply(pool, request, self.circuit_open)
        if not found.cards:
            return self._over_budget(policy, request, pool, found.removed)
        cards, stalled = found.cards, ""
        if request.per_step and request.turn == 1:
            cards, stalled = above_stalled(steps_of(request.messages), cards, pool)
        plan = self._in_loop(request, cards) or self._forced(request, cards)
        if plan is None:
            plan = await ask(policy, request, cards, self.spending)
        if stalled:
            reason = f"{stalled}; {plan.proposal.reason}"
            plan = replace(
                plan,
                proposal=replace(plan.proposal, reason=reason),
                raised=frozenset(card.name for card in cards),
            )
        return self._settle(plan, policy, request, pool, found)

    def _in_loop(self, request: RouteRequest, cards: Sequence[ModelCard]) -> Proposed | None:
        """Inside a tool loop the model that asked for the tools goes on."""
        if request.turn > 1 or request.per_step:
            return None
        name = caller_in_loop(request.messages, request.tools)
        if name is None or all(card.name != name for card in cards):
            return None
        reason = "same model in a tool loop"
        return Proposed(Proposal(one_hot(name, cards), propensity=1.0, reason=reason), sticky=True)

    def _forced(self, request: RouteRequest, cards: Sequence[ModelCard]) -> Proposed | None:
        """With one card left and no further turn there is nothing to ask a policy about."""
        if len(cards) > 1 or request.max_turns > 1:
            return None
        return Proposed(
            Proposal(one_hot(cards[0].name, cards), propensity=1.0, reason="the only card that can")
        )

    def _settle(
        self,
        plan: Proposed,
        policy: Policy,
        request: RouteRequest,
        pool: ModelPool,
        found: constraints.Candidates,
    ) -> Decision:
        """From a proposal to a decision: draw, reserve, order for failover."""
        proposal = plan.proposal
        actions, propensity = proposal.actions, proposal.propensity
        order = _order(proposal.probabilities, found.cards, request)
        if plan.raised:
            order = tuple(sorted(order, key=lambda name: name not in plan.raised))
        account = RequestAccount(request.remaining_usd, request.attempt.charges)
        left = request
        if account.remaining != request.remaining_usd:
            left = replace(request, remaining_usd=account.remaining)
        drawn = Drawn(order[0])
        if not actions:
            drawn = self._draw(order, plan, left, pool)
            actions, propensity = (Action("call", card=drawn.card),), drawn.propensity
        reason = f"{proposal.reason} (explored)" if drawn.explored else proposal.reason
        if not drawn.explored and drawn.card != order[0]:
            reason += f"; next in order: {constraints.over_budget(pool[order[0]], left)}"
        decided = partial(
            Decision,
            turn=request.turn,
            order=order,
            policy=policy.name,
            policy_version=policy.version,
            scores=dict(proposal.probabilities),
            policy_error=plan.error,
            explored=drawn.explored,
            final=plan.error is not None
            or plan.sticky
            or request.turn >= request.max_turns
            or not getattr(policy, "orchestrates", False),
            prompt_hash=proposal.prompt_hash,
            removed=constraints.texts(found.removed),
            charges=tuple(request.attempt.charges),
            message=proposal.message,
            token_ids=proposal.token_ids,
            quality=proposal.quality,
            notes=dict(request.attempt.notes),
            explore=drawn.probabilities,
        )
        told = propensity
        first = actions[0]
        if first.kind == "select":
            return decided(calls=(), reason=reason, propensity=told, select=first.call_id)
        if first.kind == "answer":
            return decided(calls=(), reason=reason, propensity=told, text=first.text)
        calls, skipped = reserve(actions, left, pool, account)
        for name in order:  # asking the policy may have used up what its favourite needed
            if calls:
                break
            instead = replace(first, card=name, hint=None)
            calls, _ = reserve((instead,), left, pool, account)
            if calls:
                why = skipped.pop(calls[0].id)
                reason = f"{reason}; next in order: {why}"
                # What was drawn is not what is called, and with what probability it would have
                # been nobody knows; unless nothing was left to chance.
                told = 1.0 if told == 1.0 else None
        if not calls:
            late = constraints.apply(pool, left, self.circuit_open)
            return self._over_budget(policy, left, pool, {**late.removed, **found.removed})
        return decided(calls=calls, reason=reason, propensity=told, skipped=skipped)

    def _draw(
        self, order: Sequence[str], plan: Proposed, left: RouteRequest, pool: ModelPool
    ) -> Drawn:
        """The policy's favourite, or an explored card, of those that what is left can pay."""
        if plan.error or plan.sticky or plan.raised or not self.exploration.rate:
            return Drawn(order[0])
        # A card that can't be reserved would be drawn and not called: it has no share.
        able = [name for name in order if not constraints.over_budget(pool[name], left)]
        if not able:
            return Drawn(order[0])
        costs: dict[str, float | None] = {}
        if self.exploration.share_of_spend is not None:
            told = plan.proposal.cost_usd or {}
            costs = {n: told[n] if n in told else estimate_usd(pool[n], left) for n in able}
        return self.explorer.draw(able, plan.proposal, costs)

    def _over_budget(
        self,
        policy: Policy,
        request: RouteRequest,
        pool: ModelPool,
        removed: Mapping[str, constraints.Removal],
    ) -> Decision:
        """No candidate fits into what is left: the best answer so far, a short answer by a card
        that can still be paid, or an error, as the budget says."""
        base = Decision(
            turn=request.turn,
            calls=(),
            order=(),
            reason="budget",
            policy=policy.name,
            policy_version=policy.version,
            scores={},
            propensity=1.0,
            removed=constraints.texts(removed),
            charges=tuple(request.attempt.charges),
            notes=dict(request.attempt.notes),
        )
        best = best_answer(request.answers)
        if best is not None:
            return replace(
                base, select=best.call_id, reason="budget used up; the best answer so far"
            )
        mode = "cheapest" if self.budget is None else self.budget.on_exceeded
        if mode == "cheapest":
            fit = constraints.cheapest_that_can(pool, removed, request)
            if fit is not None:
                card, tokens = fit
                amount = constraints.reserved_usd_for(card, request, tokens)
                assert amount is not None
                call = PlannedCall(
                    str(CallId(request.turn, 1)), card.name, None, None, tokens, amount
                )
                reason = f"budget: only a short answer fits (max_tokens {tokens})"
                return replace(base, calls=(call,), order=(card.name,), reason=reason)
        lines = "; ".join(f"{name}: {why}" for name, why in removed.items())
        left = f"${request.remaining_usd or Decimal(0):f} is left of"
        shorten = "shorten the prompt, or lower a card's max_output_tokens"
        if request.short_of is None:
            raise BudgetExceededError(
                f"{left} the request's limit and no card fits. {lines}. Raise max_cost_usd (or "
                f"Budget.per_request_usd), {shorten}."
            )
        error = BudgetExceededError(
            f"{left} the limit of {request.short_of} and no card fits. {lines}. Wait for its next "
            f"period, raise it, {shorten}."
        )
        error.per = request.short_of.per
        raise error

    def undecided(self, request: RouteRequest, error: BaseException) -> Decision:
        """What is recorded of a turn that ended before anything was decided."""
        policy = self.policy
        return Decision(
            turn=request.turn,
            calls=(),
            order=(),
            reason=type(error).__name__,
            policy=policy.name,
            policy_version=policy.version,
            scores={},
            propensity=None,
            removed=getattr(error, "removed", {}),
            charges=tuple(request.attempt.charges),
            notes=dict(request.attempt.notes),
        )

    def circuit_open(self, card: str) -> bool:
        """Whether a card has failed so often that it is left alone for now."""
        return self.workers.cards.breaker(f"worker:{card}").open


def as_router(router: Router | ModelPool, **options: Any) -> Router:
    """The router itself, or one for a bare pool. An option that is None was not given.

    Raises:
        ConfigurationError: options beside a router, which has its own.
    """
    given = {name: value for name, value in options.items() if value is not None}
    if not isinstance(router, Router):
        return Router(router, **given)
    if given:
        names = ", ".join(given)
        raise ConfigurationError(
            f"{names} beside a Router, which has its own; give {names} to the Router instead"
        )
    return router


def check_cost_weight(value: Any, where: str, error: type[ValueError]) -> float:
    """λ as a float.

    Raises:
        ValueError: (as ``error``) it is no finite number, or below zero.
    """
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not math.isfinite(value)
        or value < 0
    ):
        raise error(f"{where} is {value!r}; it must be a finite number, 0 or more")
    return float(value)


def _order(
    probabilities: Mapping[str, float], cards: Sequence[ModelCard], request: RouteRequest
) -> tuple[str, ...]:
    """Candidates by the policy's probability; ties go to the cheaper."""
    ranked = sorted(by_price(cards, request), key=lambda card: -probabilities.get(card.name, 0.0))
    return tuple(card.name for card in ranked)
