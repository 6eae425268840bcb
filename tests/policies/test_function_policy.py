"""A plain function is a policy wherever one is taken."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest

from tests.support.apps import ask, pool, record
from xrouter_lg import ChatXRouter, ModelCard, Proposal, Router, RouteRequest, XRouterNode
from xrouter_lg.errors import PolicyConfigError
from xrouter_lg.policies.rollout.shadow import ShadowPolicy
from xrouter_lg.testing import FakeOpenAIServer


def by_length(request: RouteRequest, candidates: Sequence[ModelCard]) -> str:
    return "large" if len(str(request.messages[-1].content)) > 50 else "small"


async def always_large(request: RouteRequest, candidates: Sequence[ModelCard]) -> ModelCard:
    return next(card for card in candidates if card.name == "large")


def drawn(request: RouteRequest, candidates: Sequence[ModelCard]) -> dict[str, float]:
    return {"large": 0.75, "small": 0.25}


def in_full(request: RouteRequest, candidates: Sequence[ModelCard]) -> Proposal:
    return Proposal({"large": 1.0}, reason="in full")


class Asks:
    async def __call__(self, request: RouteRequest, candidates: Sequence[ModelCard]) -> str:
        return "large"


@pytest.mark.parametrize(
    "function",
    [always_large, drawn, in_full, Asks(), partial(always_large), lambda request, cards: "large"],
    ids=["async", "mapping", "proposal", "object", "partial", "lambda"],
)
def test_it_decides_whatever_its_form(function: Callable[..., Any], fake: FakeOpenAIServer) -> None:
    assert record(XRouterNode(pool(fake), policy=function).invoke(ask()))["route"] == "large"


async def test_the_record_has_its_name(fake: FakeOpenAIServer) -> None:
    model = ChatXRouter(pool(fake), policy=by_length)
    told = (await model.ainvoke("Hi")).response_metadata["xrouter"]
    assert (told["route"], told["policy"], told["propensity"]) == ("small", "by_length", 1.0)
    assert (await model.ainvoke("x" * 60)).response_metadata["xrouter"]["route"] == "large"


async def test_it_may_stand_beside_another_policy(fake: FakeOpenAIServer) -> None:
    policy = ShadowPolicy("cheapest", always_large)
    told = record(await XRouterNode(pool(fake), policy=policy).ainvoke(ask()))
    assert told["decisions"][0]["shadow"]["route"] == "large"


async def test_nonsense_costs_a_fallback_and_says_what_is_wanted(fake: FakeOpenAIServer) -> None:
    node = XRouterNode(pool(fake), policy=lambda request, cards: "huge")
    told = record(await node.ainvoke(ask()))
    assert told["route"] == "small"
    assert (
        "returned 'huge'; it must return the name of a candidate" in told["fallbacks"][0]["detail"]
    )


def ended(request: RouteRequest, candidates: Sequence[ModelCard]) -> str:
    return next(iter(()))


def emptying(request: RouteRequest, candidates: Sequence[ModelCard]) -> str:
    request.messages.clear()  # type: ignore[attr-defined]
    return "large"


async def cancelling(request: RouteRequest, candidates: Sequence[ModelCard]) -> str:
    raise asyncio.CancelledError


@pytest.mark.parametrize(
    ("function", "detail"),
    [
        (ended, "RuntimeError: the function raised StopIteration"),
        (emptying, "'tuple' object has no attribute 'clear'"),
        (cancelling, "CancelledError"),
        (lambda request: "large", "takes 1 positional argument but 2 were given"),
        (lambda request, cards: None, "returned None; it must return"),
        (lambda request, cards: {"small": float("nan")}, "its probability of 'small' is nan"),
        (lambda request, cards: {"small": -1.0, "large": 2.0}, "its probability of 'small' is -1"),
        (lambda request, cards: {"other": 1.0}, "'other', which is no candidate"),
        (lambda request, cards: {}, "gives no card a probability above 0"),
    ],
    ids=[
        "ended",
        "emptying",
        "cancelling",
        "one argument",
        "none",
        "nan",
        "negative",
        "stranger",
        "empty",
    ],
)
def test_whatever_goes_wrong_in_it_costs_a_fallback(
    function: Any, detail: str, fake: FakeOpenAIServer
) -> None:
    told = record(XRouterNode(pool(fake), policy=function).invoke(ask()))
    assert told["route"] == "small"
    assert detail in told["fallbacks"][0]["detail"]


def test_a_class_is_no_function(fake: FakeOpenAIServer) -> None:
    with pytest.raises(PolicyConfigError, match="a function of"):
        Router(pool(fake), Asks)  # type: ignore[arg-type]
