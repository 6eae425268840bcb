"""Exploring: what is drawn, with which propensity on record, and what it may cost."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from scipy.stats import chisquare

from tests.support.apps import Says, scripted
from xrouter_lg import Action, Exploration, ModelCard, ModelPool, Proposal, Router, RouteRequest
from xrouter_lg.errors import ConfigurationError
from xrouter_lg.routing.exploration import Explorer
from xrouter_lg.types import Charge, Decision

NAMES = ("small", "medium", "large")
POOL = ModelPool([scripted(n, max_output_tokens=1000) for n in NAMES])
REQUEST = RouteRequest(
    [HumanMessage("Why?")], prompt_tokens=50, prompt_tokens_max=100, default="small"
)
PREFERS = {"small": 0.2, "medium": 0.7, "large": 0.1}
CHANCES = {"small": 0.3, "medium": 0.65, "large": 0.05}
USD = {"small": 1.0, "medium": 2.0, "large": 5.0}
DRAWS = 20_000


def says(
    explore: Mapping[str, float] | None = CHANCES, cost_usd: Mapping[str, float] | None = None
) -> Says:
    def propose(request: RouteRequest, candidates: Sequence[ModelCard]) -> Proposal:
        names = [card.name for card in candidates]
        of = {name: PREFERS[name] for name in names}
        known = None if explore is None else {n: p for n, p in explore.items() if n in names}
        return Proposal(of, reason="says", explore=known, cost_usd=cost_usd)

    return Says(propose)


def router(policy: Any, exploration: float | Exploration, seed: int = 1, **options: Any) -> Router:
    made = Router(POOL, policy, exploration=exploration, **options)
    made._random.seed(seed)
    return made


async def many(made: Router, request: RouteRequest = REQUEST, draws: int = DRAWS) -> list[Decision]:
    return [await made.decide(request, POOL) for _ in range(draws)]


def card_of(decision: Decision) -> str:
    return decision.calls[0].card


def check_propensities(decisions: Sequence[Decision]) -> dict[str, float]:
    """The logged propensities by card, after both tests of them: frequencies, and that weights of
    1 / propensity have mean 1 for every card that can be drawn."""
    logged: dict[str, float] = {}
    for decision in decisions:
        assert decision.explore is not None and decision.propensity is not None
        assert decision.explore[card_of(decision)] == decision.propensity
        logged |= decision.explore
    assert sum(logged.values()) == pytest.approx(1.0, abs=1e-12)
    counts = Counter(card_of(decision) for decision in decisions)
    assert set(counts) <= set(logged)
    n = len(decisions)
    expected = {name: p for name, p in logged.items() if p > 0}
    assert (
        chisquare([counts[name] for name in expected], [n * p for p in expected.values()]).pvalue
        > 0.001
    )
    for name, p in expected.items():
        weights = [(card_of(d) == name) / (d.propensity or 1.0) for d in decisions]
        error = ((1 - p) / p / n) ** 0.5
        assert sum(weights) / n == pytest.approx(1.0, abs=4 * error)
    return logged


@pytest.mark.parametrize(("rate", "draws"), [(0.05, 4000), (0.5, DRAWS), (1.0, 4000)])
async def test_propensities_on_record_are_those_that_cards_are_drawn_with(
    rate: float, draws: int
) -> None:
    logged = check_propensities(await many(router(says(), rate), draws=draws))
    for name, chance in CHANCES.items():
        drawn = rate * (0.9 * chance + 0.1 / 3)
        assert logged[name] == pytest.approx(drawn + (1 - rate) * (name == "medium"))


async def test_a_policy_that_does_not_know_its_doubt_is_explored_by_its_probabilities() -> None:
    logged = check_propensities(await many(router(says(None), 0.5), draws=4000))
    for name, probability in PREFERS.items():
        drawn = 0.5 * (0.5 * probability + 0.5 / 3)
        assert logged[name] == pytest.approx(drawn + 0.5 * (name == "medium"))


async def test_every_card_keeps_a_propensity_above_zero() -> None:
    decision = await router(says({"medium": 1.0}), 0.3).decide(REQUEST, POOL)
    assert decision.explore is not None
    assert decision.explore["large"] == pytest.approx(0.3 * 0.1 / 3)


async def test_without_a_floor_only_what_may_be_the_best_is_drawn() -> None:
    made = router(says({"large": 1.0}), Exploration(1.0, share_of_spend=None, floor=0.0))
    decisions = await many(made, draws=200)
    assert {(card_of(d), d.propensity) for d in decisions} == {("large", 1.0)}


async def test_the_floor_is_an_option() -> None:
    made = router(says(), Exploration(0.2, share_of_spend=None, floor=1.0))
    decision = await made.decide(REQUEST, POOL)
    assert decision.explore is not None
    assert decision.explore["large"] == pytest.approx(0.2 / 3)


async def test_without_a_rate_nothing_is_drawn() -> None:
    decision = await router(says(), 0.0).decide(REQUEST, POOL)
    assert (card_of(decision), decision.propensity, decision.explore) == ("medium", 1.0, None)


async def test_what_was_drawn_from_survives_the_stored_form() -> None:
    decision = await router(says(), 0.5).decide(REQUEST, POOL)
    assert Decision.from_dict(decision.to_dict()) == decision
    assert decision.explore is not None


# What is never drawn.


async def test_a_card_that_a_limit_removes_has_no_share() -> None:
    limited = replace(REQUEST, remaining_usd=Decimal("0.02"))  # large may cost 0.041
    logged = check_propensities(await many(router(says(), 1.0), limited, 2000))
    assert set(logged) == {"small", "medium"}


def spending(paid: str) -> Says:
    """A policy that pays for its proposal."""

    def propose(request: RouteRequest, candidates: Sequence[ModelCard]) -> Proposal:
        request.attempt.charges.append(
            Charge("router", "guide", "guide", 1, None, Decimal(paid), "card", 0.0)
        )
        return Proposal(PREFERS, explore=CHANCES)

    return Says(propose)


@pytest.mark.parametrize(
    ("paid", "able"),
    [("0.005", {"small", "medium"}), ("0.04", {"small"})],
    ids=["the dearest no longer fits", "the favourite does not fit either"],
)
async def test_a_card_that_asking_the_policy_has_made_too_dear_is_not_drawn(
    paid: str, able: set[str]
) -> None:
    """The worst cases are 0.0021, 0.0073 and 0.0410; all three were candidates."""
    made, decisions = router(spending(paid), 1.0), []
    for _ in range(1500):
        request = replace(REQUEST, remaining_usd=Decimal("0.0450"))
        request = replace(request, attempt=type(request.attempt)())
        decisions.append(await made.decide(request, POOL))
    assert {card_of(d) for d in decisions} == able
    if len(able) > 1:
        assert set(check_propensities(decisions)) == able
    else:
        assert {d.propensity for d in decisions} == {1.0}
        assert "next in order: budget: may cost" in decisions[0].reason


async def test_a_drawing_policys_propensity_is_unknown_where_another_card_is_called() -> None:
    def propose(request: RouteRequest, candidates: Sequence[ModelCard]) -> Proposal:
        request.attempt.charges.append(
            Charge("router", "guide", "guide", 1, None, Decimal("0.01"), "card", 0.0)
        )
        return Proposal(PREFERS, (Action("call", card="large"),), 0.1)

    request = replace(REQUEST, remaining_usd=Decimal("0.0450"), attempt=type(REQUEST.attempt)())
    decision = await Router(POOL, Says(propose)).decide(request, POOL)
    assert (card_of(decision), decision.propensity) == ("medium", None)


async def test_a_tool_loop_is_never_drawn_for() -> None:
    asked = AIMessage(
        "",
        tool_calls=[{"name": "t", "args": {}, "id": "1"}],
        response_metadata={"xrouter": {"route": "large"}},
    )
    bound = {"type": "function", "function": {"name": "t", "parameters": {}}}
    loop = replace(
        REQUEST,
        messages=[HumanMessage("Why?"), asked, ToolMessage("42", tool_call_id="1")],
        tools=(bound,),
    )
    decisions = await many(router(says(), 1.0), loop, 50)
    assert {(card_of(d), d.propensity, d.explore) for d in decisions} == {("large", 1.0, None)}


async def test_a_failed_policy_is_never_drawn_for() -> None:
    decisions = await many(router(Says(lambda r, c: None), 1.0), draws=50)
    assert {(card_of(d), d.propensity, d.explore) for d in decisions} == {("small", 1.0, None)}


async def test_one_card_left_is_never_drawn_for() -> None:
    alone = replace(REQUEST, allow=frozenset({"large"}))
    decisions = await many(router(says(), 1.0), alone, 20)
    assert {(card_of(d), d.propensity, d.explore) for d in decisions} == {("large", 1.0, None)}


# What it may cost.


def explorer(rate: float = 0.5, share: float | None = 0.1, seed: int = 1) -> Explorer:
    return Explorer(Exploration(rate, share), random.Random(seed))


ORDER = ("medium", "small", "large")
PROPOSAL = Proposal(PREFERS, explore=CHANCES)


def test_before_anything_is_spent_no_dearer_card_is_drawn() -> None:
    made = explorer(1.0)
    drawn = [made.draw(ORDER, PROPOSAL, USD) for _ in range(300)]
    assert {d.card for d in drawn} == {"medium", "small"}
    share = 0.9 * CHANCES["small"] / (CHANCES["small"] + CHANCES["medium"]) + 0.1 / 2
    assert [d.propensity for d in drawn if d.card == "small"] == pytest.approx(
        [share] * sum(d.card == "small" for d in drawn)
    )
    assert all(set(d.probabilities or {}) == {"medium", "small"} for d in drawn)


@given(
    st.lists(st.tuples(st.sampled_from(NAMES), st.floats(0.01, 10.0)), min_size=50, max_size=300),
    st.sampled_from([0.02, 0.1, 0.5]),
    st.integers(0, 99),
)
def test_explored_calls_never_cost_more_than_their_share(
    stream: list[tuple[str, float]], share: float, seed: int
) -> None:
    made = explorer(0.8, share, seed)
    extra = 0.0
    for favourite, scale in stream:
        order = (favourite, *(n for n in NAMES if n != favourite))
        usd = {name: scale * value for name, value in USD.items()}
        drawn = made.draw(order, Proposal(dict.fromkeys(NAMES, 1 / 3)), usd)
        extra += max(usd[drawn.card] - usd[favourite], 0.0)
        assert extra == pytest.approx(made.extra_usd)
        assert extra <= share * made.spent_usd + 1e-9
        made.settle(Decimal(str(usd[drawn.card])))


def test_with_a_bound_the_dearest_card_is_still_drawn_and_much_of_the_share_used() -> None:
    made, counts = explorer(0.5, 0.1), Counter[str]()
    for _ in range(5000):
        drawn = made.draw(ORDER, Proposal(dict.fromkeys(NAMES, 1 / 3)), USD)
        counts[drawn.card] += 1
        made.settle(Decimal(str(USD[drawn.card])))
    assert counts["large"] > 200
    assert 0.08 < made.extra_usd / made.spent_usd <= 0.1


def test_propensities_are_exact_while_a_bound_comes_and_goes() -> None:
    """Weights of 1 / propensity count a card once a request wherever it could be drawn."""
    made = explorer(0.5, 0.1)
    reach: Counter[str] = Counter()
    weight: Counter[str] = Counter()
    variance: Counter[str] = Counter()
    for _ in range(DRAWS):
        drawn = made.draw(ORDER, PROPOSAL, USD)
        made.settle(Decimal(str(USD[drawn.card])))
        assert drawn.probabilities is not None
        assert sum(drawn.probabilities.values()) == pytest.approx(1.0, abs=1e-12)
        weight[drawn.card] += 1 / drawn.propensity  # type: ignore[assignment]
        for name, p in drawn.probabilities.items():
            reach[name] += 1
            variance[name] += 1 / p - 1  # type: ignore[assignment]
    assert reach["medium"] == DRAWS > reach["large"] > 0
    for name in NAMES:
        assert weight[name] == pytest.approx(reach[name], abs=4 * variance[name] ** 0.5)


def test_savings_pay_for_nothing() -> None:
    made = explorer(1.0, 0.1)
    for _ in range(200):
        made.draw(("large", "small"), Proposal({}, explore={"small": 1.0}), USD)
    assert made.extra_usd == 0.0
    assert made.draw(("small", "large"), Proposal({}, explore={"large": 1.0}), USD).card == "small"


def test_a_card_of_unknown_cost_is_drawn_only_without_a_bound() -> None:
    costs = {**USD, "large": None}
    bound, free = explorer(1.0, 0.1), explorer(1.0, None)
    bound.settle("1000")
    assert "large" not in {bound.draw(ORDER, PROPOSAL, costs).card for _ in range(500)}
    assert "large" in {free.draw(ORDER, PROPOSAL, costs).card for _ in range(500)}


def test_a_favourite_of_unknown_cost_is_compared_with_nothing() -> None:
    made = explorer(1.0, 0.1)
    made.settle("1000")
    drawn = [made.draw(ORDER, PROPOSAL, {**USD, "medium": None}) for _ in range(100)]
    assert {(d.card, d.propensity) for d in drawn} == {("medium", 1.0)}


def test_requests_at_the_same_time_see_each_others_draws() -> None:
    made = explorer(1.0, 0.1)
    made.settle("1000")  # $100 to explore with; large costs 3 more than medium

    def draw(_: int) -> str:
        return made.draw(ORDER, Proposal({}, explore={"large": 1.0}), USD).card

    with ThreadPoolExecutor(8) as threads:
        counts = Counter(threads.map(draw, range(2000)))
    assert counts["large"] == 33
    assert made.extra_usd == pytest.approx(99.0)


async def test_a_policys_own_expectation_of_cost_goes_before_the_price() -> None:
    """By its price large is the dearest; the policy knows that it answers in few words."""
    cheap = says(cost_usd={"small": 3.0, "medium": 2.0, "large": 1.0})
    made = router(cheap, Exploration(1.0))
    assert {card_of(d) for d in await many(made, draws=500)} == {"medium", "large"}
    assert {card_of(d) for d in await many(router(says(), Exploration(1.0)), draws=500)} == {
        "small",
        "medium",
    }


def test_decisions_in_many_loops_at_once_keep_their_propensities() -> None:
    made = router(says(), 1.0)

    def decide(_: int) -> list[Decision]:
        return asyncio.run(many(made, draws=500))

    with ThreadPoolExecutor(4) as threads:
        found = [decision for part in threads.map(decide, range(8)) for decision in part]
    check_propensities(found)


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"rate": -0.1}, r"Exploration\.rate is -0.1"),
        ({"rate": True}, r"Exploration\.rate is True"),
        ({"floor": 1.5}, r"Exploration\.floor is 1.5"),
        ({"floor": None}, r"Exploration\.floor is None"),
        ({"share_of_spend": float("nan")}, r"Exploration\.share_of_spend is nan"),
        ({"share_of_spend": "a tenth"}, r"Exploration\.share_of_spend is 'a tenth'"),
    ],
)
def test_a_bad_number_is_refused(options: Any, what: str) -> None:
    with pytest.raises(ConfigurationError, match=what):
        Exploration(**options)


@pytest.mark.parametrize(
    ("more", "what"),
    [
        ({"explore": {"huge": 1.0}}, "'huge', which is no candidate"),
        ({"explore": {"small": float("nan")}}, "it must be a number in"),
        ({"explore": {"small": 0.0}}, "explore gives no card a probability"),
        ({"cost_usd": {"huge": 1.0}}, "expects a cost of 'huge'"),
        ({"cost_usd": {"small": -1.0}}, "it must be USD, 0 or more"),
        ({"cost_usd": {"small": float("inf")}}, "it must be USD, 0 or more"),
    ],
)
async def test_a_proposal_with_nonsense_to_explore_by_costs_a_fallback(
    more: Any, what: str
) -> None:
    policy = Says(lambda r, c: Proposal(PREFERS, **more))
    decision = await router(policy, 1.0).decide(REQUEST, POOL)
    assert what in str(decision.policy_error)
