"""Shadow proposals under way, on an event loop of their own, and what came of each.

A request leaves a note with its decision, JSON-safe so that a checkpointer can keep it:

    {"ticket": ..., "policy": ..., "policy_version": ..., "may_cost": ...}

and :func:`settled` puts the outcome in its place when the request ends. ``status`` is ``proposed``,
``failed``, ``timeout`` (its own deadline), ``late`` (the answer was there first), ``skipped`` (too
many under way) or ``lost`` (another process has it). Nothing here raises into a request.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
import copy
import logging
import os
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

from xrouter_lg.calls.failures import describe
from xrouter_lg.policies.base import BasePolicy, Policy, by_price, expected_usd
from xrouter_lg.policies.proposals import read_proposal
from xrouter_lg.pool.card import ModelCard
from xrouter_lg.portal import LoopThread
from xrouter_lg.types import Attempt, Charge, Decision, Proposal, RouteRequest, usd_str

_log = logging.getLogger(__name__)

MAX_UNDER_WAY = 256
"""Shadow proposals at once; more are skipped."""
_MAX_KEPT = 4096
"""Outcomes that wait for their request's end; the oldest are forgotten (their requests failed)."""


@dataclass(slots=True)
class _Run:
    note: dict[str, Any]
    wait_s: float
    charges: list[Charge] = field(default_factory=list)
    done: concurrent.futures.Future[dict[str, Any]] = field(init=False)
    task: asyncio.Task[None] | None = None
    claimed: bool = False

    def __post_init__(self) -> None:
        self.done = concurrent.futures.Future()
        self.done.set_running_or_notify_cancel()  # who stops waiting for it does not cancel it


class _Desk:
    """The runs by ticket. One per process."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.runs: OrderedDict[str, _Run] = OrderedDict()
        self.under_way = 0


_desk = _Desk()
_thread = LoopThread("xrouter-shadow")  # of its own: a shadow may hold it up, and no request

if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork

    def _after_fork() -> None:
        global _desk
        _desk = _Desk()  # nobody runs the parent's runs here, and its lock may have been held

    os.register_at_fork(after_in_child=_after_fork)


def start(
    policy: Policy,
    request: RouteRequest,
    candidates: Sequence[ModelCard],
    *,
    deadline_s: float,
    wait_s: float,
    unless: tuple[str, str],
) -> dict[str, Any] | None:
    """Let a shadow propose, and come back at once with the note for the decision. None where the
    shadow is ``unless``, the name and version of the policy that decides."""
    try:
        if (policy.name, policy.version) == unless:
            return None
        note = {
            "policy": policy.name,
            "policy_version": policy.version,
            "may_cost": _may_cost(policy),
        }
    except Exception as error:
        return _unmade("failed", detail=describe(error))
    try:
        desk, loop = _desk, _thread.loop
        with desk.lock:
            if desk.under_way >= MAX_UNDER_WAY:
                busy = f"{MAX_UNDER_WAY} shadow proposals are under way already"
                return _unmade("skipped", note, detail=busy)
            desk.under_way += 1
            ticket = uuid.uuid4().hex
            run = desk.runs[ticket] = _Run({**note, "ticket": ticket}, wait_s)
            while len(desk.runs) > _MAX_KEPT:
                desk.runs.popitem(last=False)
        begun = time.monotonic()
        # Copied in the shadow's own thread: whatever it does to a message stays there.
        work = _propose(desk, run, policy, request, tuple(candidates), begun, deadline_s)

        def begin() -> None:
            run.task = loop.create_task(work)
            if run.claimed:  # the loop was held up, and the answer is out
                run.task.cancel()

        # An empty context: no callbacks, so none of the shadow's runs or tokens is the request's.
        loop.call_soon_threadsafe(begin, context=contextvars.Context())
    except Exception as error:
        return _unmade("failed", note, detail=describe(error))
    return dict(run.note)


async def settled(turn: Decision) -> Decision:
    """The decision with its shadow's outcome in the place of the note; unchanged without one."""
    note = turn.notes.get("shadow")
    if note is None or "ticket" not in note:
        return turn
    return replace(turn, notes={**turn.notes, "shadow": await _claim(note)})


async def _claim(note: Mapping[str, Any]) -> dict[str, Any]:
    with _desk.lock:
        run = _desk.runs.pop(str(note["ticket"]), None)
    if run is None:
        return _unmade("lost", note, detail="the request was resumed elsewhere, or much later")
    if not run.done.done() and run.wait_s > 0:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.wrap_future(run.done), run.wait_s)
    if run.done.done():
        return run.done.result()
    run.claimed = True
    task = run.task
    if task is not None:  # what nobody will read need not be paid for
        task.get_loop().call_soon_threadsafe(task.cancel)
    return _unmade("late", note, run.charges, detail="the answer was there first")


async def _propose(
    desk: _Desk,
    run: _Run,
    policy: Policy,
    request: RouteRequest,
    candidates: Sequence[ModelCard],
    begun: float,
    deadline_s: float,
) -> None:
    # Nothing may leave this task: a SystemExit would end the loop's thread.
    try:
        result = await _outcome(run, policy, request, candidates, begun, deadline_s)
    except BaseException as error:
        status = "late" if isinstance(error, asyncio.CancelledError) and run.claimed else "failed"
        result = _unmade(status, run.note, run.charges, detail=describe(error))
    result["latency_s"] = round(time.monotonic() - begun, 6)
    with desk.lock:
        desk.under_way -= 1
    run.done.set_result(result)


async def _outcome(
    run: _Run,
    policy: Policy,
    request: RouteRequest,
    candidates: Sequence[ModelCard],
    begun: float,
    deadline_s: float,
) -> dict[str, Any]:
    from langsmith import tracing_context

    left = deadline_s - (time.monotonic() - begun)
    if left <= 0:
        return _unmade("timeout", run.note, run.charges, detail="others held the loop up")
    own = replace(
        request,
        messages=copy.deepcopy(list(request.messages)),
        answers=copy.deepcopy(request.answers),
        router_messages=copy.deepcopy(request.router_messages),
        attempt=Attempt(charges=run.charges),
    )
    try:
        # Not a trace of its own either: it would look like a request that nobody routed.
        with tracing_context(enabled=False):
            async with asyncio.timeout(left) as deadline:
                proposed = await policy.propose(own, candidates)
    except TimeoutError as error:
        status = "timeout" if deadline.expired() else "failed"
        said = f"no proposal within {deadline_s:g} s" if deadline.expired() else describe(error)
        return _unmade(status, run.note, run.charges, detail=said)
    proposal = read_proposal(proposed, candidates, own.answers)
    # The policy says now which version it was that answered: an alias may have moved.
    note = {**run.note, "policy": policy.name, "policy_version": policy.version}
    return {**_paid(note, run.charges, known=True), **_told(proposal, own, candidates)}


def _told(
    proposal: Proposal, request: RouteRequest, candidates: Sequence[ModelCard]
) -> dict[str, Any]:
    """What the router would have done with this proposal, without exploring."""
    first = proposal.actions[0] if proposal.actions else None
    calls = [action.card for action in proposal.actions if action.kind == "call"]
    if first is None:
        # As the router orders them: ties go to the cheaper.
        ranked = by_price(candidates, request)
        calls = [max(ranked, key=lambda card: proposal.probabilities.get(card.name, 0.0)).name]
    estimates = {card.name: expected_usd(card, request) for card in candidates}
    return {
        "status": "proposed",
        "route": calls[0] if calls else None,
        "calls": [{"card": card} for card in calls],
        "select": None if first is None else first.call_id,
        "direct": first is not None and first.kind == "answer",
        "scores": dict(proposal.probabilities),
        "quality": proposal.quality,
        "propensity": proposal.propensity,
        "estimates_usd": {n: None if usd is None else float(usd) for n, usd in estimates.items()},
        "reason": proposal.reason,
        "prompt_hash": proposal.prompt_hash,
    }


def _unmade(
    status: str,
    note: Mapping[str, Any] | None = None,
    charges: Sequence[Charge] = (),
    *,
    detail: str,
) -> dict[str, Any]:
    """The outcome of a shadow that proposed nothing, in the same shape."""
    note = note or {"policy": "unknown", "policy_version": "unknown", "may_cost": False}
    # A call that was cut off may have been paid for, and nobody has said what it cost.
    known = status in ("failed", "skipped", "timeout") or not note["may_cost"]
    return {**_paid(note, list(charges), known=known), "status": status, "detail": detail}


def _paid(note: Mapping[str, Any], charges: Sequence[Charge], *, known: bool) -> dict[str, Any]:
    total: Decimal | None = Decimal(0) if known else None
    for charge in charges:
        total = None if total is None or charge.cost_usd is None else total + charge.cost_usd
    return {
        "policy": note["policy"],
        "policy_version": note["policy_version"],
        "cost_usd": usd_str(total),
        "charges": [replace(charge, kind="shadow").to_dict() for charge in charges],
    }


def _may_cost(policy: Policy) -> bool:
    """Whether a proposal may be paid for by the token."""
    policy = getattr(policy, "current", policy)
    if not isinstance(policy, BasePolicy):
        return True
    return type(policy).worst_case_usd is not BasePolicy.worst_case_usd
