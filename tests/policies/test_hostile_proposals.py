"""Proposals of any shape: each costs at most a fallback, and leaves a record that is JSON."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessage

from tests.support.apps import Says, app, ask, options, record, scripted
from xrouter_lg import Action, ModelCard, ModelPool, Proposal, RouteRequest, XRouterNode

POOL = ModelPool([scripted("small"), scripted("large")])


class Evil:
    """Raises whatever it is asked."""

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        raise RuntimeError("repr")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("eq")


def circle() -> dict[str, Any]:
    round_: dict[str, Any] = {}
    round_["again"] = [round_, round_]
    return round_


def laughs() -> Any:
    value: Any = ["l"] * 10
    for _ in range(12):
        value = [value] * 10
    return value


ODD = st.sampled_from(
    [
        *(None, True, 0, -1, 0.5, float("nan"), float("inf"), 1e308, 10**400, "", "small", "large"),
        *("nope", "\x00", "\ud800", "x" * 100_000, b"small", [], {}, (), set(), object(), 1j),
        *(Evil(), Decimal("NaN"), lambda: 1, [1], {"a": 1}, {"small": {"small": 1}}),
        *(circle(), laughs()),
    ]
)


def maybe(*good: Any) -> st.SearchStrategy[Any]:
    return st.one_of(*map(st.just, good), ODD)


ACTIONS = st.one_of(
    ODD,
    st.builds(
        Action,
        maybe("call", "select", "answer"),
        card=maybe("small", "large"),
        hint=maybe(None),
        temperature=maybe(None, 0.2),
        max_tokens=maybe(None, 9),
        call_id=maybe(None, "c1"),
        text=maybe(None, "text"),
    ),
)
PROPOSALS = st.one_of(
    ODD,
    st.builds(
        Proposal,
        maybe({"small": 0.5, "large": 0.5}, {"small": 10**400}, {1: 0.5}, {"small": Evil()}),
        actions=st.one_of(ODD, st.lists(ACTIONS, max_size=3).map(tuple)),
        propensity=maybe(None, 0.5),
        reason=maybe("why"),
        quality=maybe(None, {"small": 0.5}, {"small": None}),
        message=maybe(None, AIMessage("x")),
        prompt_hash=maybe(None, "abc"),
        token_ids=maybe(None, {"a": [1, 10**30, float("nan")]}, {"a": Evil()}),
        explore=maybe(None, {"small": 1.0}),
        cost_usd=maybe(None, {"small": 1e-6}),
    ),
)


@settings(max_examples=150)
@given(PROPOSALS, ODD, st.booleans(), st.booleans())
def test_any_proposal_is_answered(proposal: Any, left: Any, turns: bool, budget: bool) -> None:
    def propose(request: RouteRequest, candidates: Sequence[ModelCard]) -> Any:
        request.attempt.charges.append(left)
        request.attempt.notes["arm"] = left
        return proposal

    policy = Says(propose, orchestrates=turns)
    node = XRouterNode(POOL, policy=policy, max_turns=3 if turns else 1)
    limits = options(max_cost_usd="1") if budget else None
    found = record(asyncio.run(app(node).ainvoke(ask(), limits)))
    assert len(json.dumps(found, allow_nan=False)) < 1_000_000


@pytest.mark.parametrize(
    "error",
    [
        *(RuntimeError, MemoryError, StopIteration, StopAsyncIteration, GeneratorExit),
        *(asyncio.CancelledError, TimeoutError, RecursionError, BaseException),
    ],
)
async def test_whatever_a_policy_raises_costs_a_fallback(error: type[BaseException]) -> None:
    def propose(request: RouteRequest, candidates: Sequence[ModelCard]) -> Any:
        raise error

    found = record(await app(XRouterNode(POOL, policy=Says(propose))).ainvoke(ask()))
    assert found["route"] == "small"
    assert found["fallbacks"][0]["error"] == "policy"
