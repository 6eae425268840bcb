"""What fails at a worker, and what the request makes of it, over real HTTP."""

from __future__ import annotations

import asyncio
import socket
import time
from decimal import Decimal
from typing import Any

import pytest

from tests.support.apps import (
    PRICES,
    answer,
    app,
    ask,
    calls,
    card,
    pool,
    prefers,
    record,
    scripted,
    usd,
)
from xrouter_lg import ModelPool, Router, XRouterNode
from xrouter_lg.calls.breaker import Breaker
from xrouter_lg.errors import AllCandidatesFailedError
from xrouter_lg.testing import (
    FakeModel,
    FakeOpenAIServer,
    Fault,
    FaultPlan,
    auth_error,
    bad_request,
    content_filter,
    cut_stream,
    empty,
    first,
    hang,
    html_page,
    malformed_json,
    missing_usage,
    rate_limit,
    reset,
    server_error,
    stream_error,
    truncated,
    wrong_model,
)

LARGE = "large says many more words than the others do"

FAILS: dict[str, tuple[Fault, str]] = {
    "429": (rate_limit(0.05), "rate_limit"),
    "quota": (rate_limit(insufficient_quota=True), "quota"),
    "500": (server_error(), "server"),
    "503": (server_error(503), "server"),
    "529": (server_error(529), "server"),
    "reset": (reset(), "connection"),
    "closed": (hang(0.05), "connection"),
    "hang": (hang(), "timeout"),
    "empty": (empty(), "empty"),
    "malformed": (malformed_json(), "malformed"),
    "html 200": (html_page(), "malformed"),
    "html 502": (html_page(502), "server"),
    "cut body": (cut_stream(2), "connection"),
    "error event": (stream_error(2), "server"),
    "auth": (auth_error(), "auth"),
    "bad request": (bad_request(), "bad_request"),
    "context length": (bad_request("context_length_exceeded"), "context_length"),
    "filtered whole": (content_filter(0), "content_filter"),
}
EACH = pytest.mark.parametrize(("fault", "error_class"), FAILS.values(), ids=FAILS)


def patience(error_class: str) -> float:
    """Seconds: short only where the timeout is what is tested, lest a busy machine be the fault."""
    return 0.5 if error_class == "timeout" else 30.0


def quick(fake: FakeOpenAIServer, error_class: str = "timeout", **options: Any) -> ModelPool:
    return pool(fake, timeout_s=patience(error_class), **options)


@EACH
async def test_the_next_card_answers(
    fake: FakeOpenAIServer, fault: Fault, error_class: str
) -> None:
    fake.faults = FaultPlan({"small": fault})
    state = await app(XRouterNode(quick(fake, error_class))).ainvoke(ask())
    assert answer(state).content == LARGE


@EACH
async def test_the_record_names_the_card_and_the_class_of_failure(
    fake: FakeOpenAIServer, fault: Fault, error_class: str
) -> None:
    fake.faults = FaultPlan({"small": fault})
    found = record(await app(XRouterNode(quick(fake, error_class))).ainvoke(ask()))
    assert [(f["card"], f["error"]) for f in found["fallbacks"]] == [("small", error_class)]


@EACH
async def test_every_request_the_server_saw_has_a_charge(
    fake: FakeOpenAIServer, fault: Fault, error_class: str
) -> None:
    fake.faults = FaultPlan({"small": fault})
    found = record(await app(XRouterNode(quick(fake, error_class, max_retries=1))).ainvoke(ask()))
    charged = [charge["model"] for charge in found["charges"]]
    assert charged == [request.model for request in fake.requests]


@EACH
async def test_a_charge_is_what_was_billed_or_unknown_and_never_a_false_zero(
    fake: FakeOpenAIServer, fault: Fault, error_class: str
) -> None:
    fake.faults = FaultPlan({"small": fault})
    found = record(await app(XRouterNode(quick(fake, error_class))).ainvoke(ask()))
    billed = {line.number: usd(line.usage, PRICES[line.model]) for line in fake.bill}
    for request, charge in zip(fake.requests, found["charges"], strict=True):
        if charge["cost_usd"] is not None:
            assert Decimal(charge["cost_usd"]) == billed.get(request.number, Decimal(0))


@EACH
async def test_a_sync_app_takes_the_same_way_out(
    fake: FakeOpenAIServer, fault: Fault, error_class: str
) -> None:
    fake.faults = FaultPlan({"small": fault})
    graph = app(XRouterNode(quick(fake, error_class)))
    state = await asyncio.to_thread(graph.invoke, ask())
    assert answer(state).content == LARGE


@EACH
async def test_when_every_card_fails_so_the_error_lists_each_with_its_cause(
    fake: FakeOpenAIServer, fault: Fault, error_class: str
) -> None:
    fake.faults = FaultPlan(default=fault)
    cards = [card(fake, name, timeout_s=patience(error_class)) for name in ("small", "large")]
    with pytest.raises(AllCandidatesFailedError) as caught:
        await app(XRouterNode(ModelPool(cards))).ainvoke(ask())
    assert [(a["card"], a["error"]) for a in caught.value.attempts] == [
        ("small", error_class),
        ("large", error_class),
    ]


@pytest.mark.parametrize(
    ("fault", "tries"),
    [
        (rate_limit(0.01), 3),
        (server_error(), 3),
        (reset(), 3),
        (empty(), 3),
        (malformed_json(), 3),
        (hang(), 1),
        (auth_error(), 1),
        (bad_request(), 1),
        (rate_limit(60), 1),
        (rate_limit(insufficient_quota=True), 1),
        (content_filter(0), 1),
    ],
    ids=lambda value: value.kind if isinstance(value, Fault) else None,
)
async def test_what_may_pass_is_tried_again_and_what_may_not_is_not(
    fake: FakeOpenAIServer, fault: Fault, tries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xrouter_lg.calls.attempt._BACKOFF_S", 0.01)
    fake.faults = FaultPlan({"small": fault})
    kind = "timeout" if fault.kind == "hang" else fault.kind
    await app(XRouterNode(quick(fake, kind, max_retries=2))).ainvoke(ask())
    assert fake.calls == {"small": tries, "large": 1}


async def test_a_failure_that_passes_is_answered_by_the_same_card(fake: FakeOpenAIServer) -> None:
    fake.faults = FaultPlan({"small": first(1, server_error())})
    found = record(await app(XRouterNode(pool(fake, max_retries=1))).ainvoke(ask()))
    assert (found["route"], [c["attempt"] for c in found["charges"]]) == ("small", [1, 2])


async def test_retry_after_is_waited_for(fake: FakeOpenAIServer) -> None:
    fake.faults = FaultPlan({"small": first(1, rate_limit(0.4))})
    started = time.perf_counter()
    await app(XRouterNode(pool(fake, max_retries=1))).ainvoke(ask())
    assert time.perf_counter() - started >= 0.4


async def test_a_hanging_worker_costs_its_timeout_not_more(fake: FakeOpenAIServer) -> None:
    fake.faults = FaultPlan({"small": hang()})
    found = record(await app(XRouterNode(quick(fake, max_retries=2))).ainvoke(ask()))
    assert [(c["card"], c["error"]) for c in found["charges"]] == [
        ("small", "timeout"),
        ("large", None),
    ]


async def test_failover_follows_the_policys_order(fake: FakeOpenAIServer) -> None:
    fake.faults = FaultPlan(default=server_error())
    node = XRouterNode(
        pool(fake, "small", "medium", "large"), policy=prefers("medium", "large", "small")
    )
    with pytest.raises(AllCandidatesFailedError):
        await app(node).ainvoke(ask())
    assert [request.model for request in fake.requests] == ["medium", "large", "small"]


async def test_cards_the_policy_holds_equal_are_tried_cheapest_first(
    fake: FakeOpenAIServer,
) -> None:
    fake.faults = FaultPlan(default=server_error())
    node = XRouterNode(pool(fake, "large", "medium", "small"), policy="fixed:medium")
    with pytest.raises(AllCandidatesFailedError):
        await app(node).ainvoke(ask())
    assert [request.model for request in fake.requests] == ["medium", "small", "large"]


async def test_each_card_is_asked_once_in_a_failover(fake: FakeOpenAIServer) -> None:
    fake.faults = FaultPlan(default=auth_error())
    with pytest.raises(AllCandidatesFailedError):
        await app(XRouterNode(pool(fake, "small", "medium", "large"))).ainvoke(ask())
    assert fake.calls == {"small": 1, "medium": 1, "large": 1}


async def test_a_fan_out_in_which_one_call_fails_takes_the_other(fake: FakeOpenAIServer) -> None:
    fake.faults = FaultPlan({"small": server_error()})
    found = record(
        await app(XRouterNode(pool(fake), policy=calls("small", "large"))).ainvoke(ask())
    )
    assert found["route"] == "large"
    assert len(found["charges"]) == 2


async def test_a_fan_out_in_which_all_fail_goes_on_to_a_card_not_yet_asked(
    fake: FakeOpenAIServer,
) -> None:
    fake.faults = FaultPlan({"small": server_error(), "large": server_error()})
    node = XRouterNode(pool(fake, "small", "medium", "large"), policy=calls("small", "large"))
    found = record(await app(node).ainvoke(ask()))
    assert found["route"] == "medium"
    assert fake.calls == {"small": 1, "large": 1, "medium": 1}


async def test_a_prompt_too_long_for_a_card_goes_to_one_with_a_larger_window(
    fake: FakeOpenAIServer,
) -> None:
    fake.add_model(FakeModel(name="small", context_window=5))
    cards = [
        card(fake, "small", context_window=1000),
        card(fake, "medium", context_window=1000),
        card(fake, "large", context_window=9000),
    ]
    found = record(await app(XRouterNode(ModelPool(cards))).ainvoke(ask("a b c d e f g h i j")))
    assert found["route"] == "large"
    assert "medium" not in fake.calls


async def test_a_truncated_answer_is_handed_on_marked(fake: FakeOpenAIServer) -> None:
    fake.faults = FaultPlan({"small": truncated(2)})
    state = await app(XRouterNode(pool(fake))).ainvoke(ask())
    assert (answer(state).content, record(state)["truncated"]) == ("small says", True)


async def test_a_truncated_answer_escalates_where_the_pool_says_so(fake: FakeOpenAIServer) -> None:
    fake.faults = FaultPlan({"small": truncated(2)})
    state = await app(XRouterNode(pool(fake, on_truncated="escalate"))).ainvoke(ask())
    assert (answer(state).content, record(state)["truncated"]) == (LARGE, False)


async def test_a_truncated_answer_is_better_than_none(fake: FakeOpenAIServer) -> None:
    fake.faults = FaultPlan({"small": truncated(2), "large": server_error()})
    state = await app(XRouterNode(pool(fake, on_truncated="escalate"))).ainvoke(ask())
    assert (answer(state).content, record(state)["truncated"]) == ("small says", True)


async def test_an_answer_cut_by_a_content_filter_is_never_passed_off_as_complete(
    fake: FakeOpenAIServer,
) -> None:
    fake.faults = FaultPlan({"small": content_filter(2)})
    state = await app(XRouterNode(pool(fake))).ainvoke(ask())
    assert record(state)["truncated"] is True
    assert record(state)["charges"][0]["error"] == "content_filter"


async def test_a_complete_answer_is_not_marked(fake: FakeOpenAIServer) -> None:
    assert record(await app(XRouterNode(pool(fake))).ainvoke(ask()))["truncated"] is False


async def test_a_model_served_in_anothers_place_is_recorded(fake: FakeOpenAIServer) -> None:
    fake.faults = FaultPlan({"small": wrong_model("large")})
    found = record(await app(XRouterNode(pool(fake))).ainvoke(ask()))
    assert (found["route"], found["served_model"]) == ("small", "large")


async def test_a_model_served_in_anothers_place_is_priced_as_served(fake: FakeOpenAIServer) -> None:
    fake.faults = FaultPlan({"small": wrong_model("large")})
    found = record(await app(XRouterNode(pool(fake))).ainvoke(ask()))
    assert Decimal(found["cost_usd"]) == usd(fake.bill[0].usage, PRICES["large"])


async def test_a_missing_usage_makes_the_cost_unknown_not_zero(fake: FakeOpenAIServer) -> None:
    fake.faults = FaultPlan({"small": missing_usage()})
    found = record(await app(XRouterNode(pool(fake))).ainvoke(ask()))
    assert found["cost_usd"] is None
    assert found["charges"][0]["cost_usd"] is None


async def test_cached_and_reasoning_tokens_are_priced_apart(fake: FakeOpenAIServer) -> None:
    found = record(await app(XRouterNode(pool(fake), policy="fixed:large")).ainvoke(ask()))
    usage = found["charges"][0]["usage"]
    assert (usage["cached_input_tokens"], usage["reasoning_tokens"]) == (2, 3)
    assert Decimal(found["cost_usd"]) == usd(fake.bill[0].usage, PRICES["large"])


async def test_a_cost_that_the_provider_reports_wins(fake: FakeOpenAIServer) -> None:
    fake.add_model(FakeModel(name="small", cost_usd=Decimal("0.0123")))
    found = record(await app(XRouterNode(pool(fake))).ainvoke(ask()))
    assert (Decimal(found["cost_usd"]), found["charges"][0]["price_source"]) == (
        Decimal("0.0123"),
        "provider",
    )


async def test_the_error_of_all_lists_what_each_card_has_cost(fake: FakeOpenAIServer) -> None:
    fake.faults = FaultPlan({"small": empty(), "large": auth_error()})
    with pytest.raises(AllCandidatesFailedError) as caught:
        await app(XRouterNode(pool(fake))).ainvoke(ask())
    small, large = caught.value.attempts
    assert Decimal(str(small["cost_usd"])) == usd(fake.bill[0].usage, PRICES["small"])
    assert Decimal(str(large["cost_usd"])) == 0


async def test_the_error_of_all_says_unknown_for_a_cost_nobody_knows(
    fake: FakeOpenAIServer,
) -> None:
    fake.faults = FaultPlan(default=server_error())
    with pytest.raises(AllCandidatesFailedError, match="cost unknown"):
        await app(XRouterNode(pool(fake))).ainvoke(ask())


async def test_a_server_that_is_down_is_known_to_have_cost_nothing(fake: FakeOpenAIServer) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    down = card(fake, "small", base_url=f"http://127.0.0.1:{port}/v1")
    found = record(await app(XRouterNode(ModelPool([down, card(fake, "large")]))).ainvoke(ask()))
    assert found["charges"][0]["cost_usd"] == "0"
    assert found["route"] == "large"


async def test_a_worker_that_raises_anything_costs_a_fallback(fake: FakeOpenAIServer) -> None:
    class StrangeError(Exception):
        pass

    broken = scripted("small", [StrangeError("no idea")])
    found = record(await app(XRouterNode(ModelPool([broken, card(fake, "large")]))).ainvoke(ask()))
    assert (found["route"], found["fallbacks"][0]["error"]) == ("large", "unknown")


def with_breaker(fake: FakeOpenAIServer, clock: list[float]) -> XRouterNode:
    router = Router(pool(fake))
    router.workers.cards._breakers["worker:small"] = Breaker(
        threshold=2, cooldown_s=30, clock=lambda: clock[0]
    )
    return XRouterNode(router)


async def test_a_card_that_keeps_failing_is_left_alone(fake: FakeOpenAIServer) -> None:
    fake.faults = FaultPlan({"small": server_error()})
    graph = app(with_breaker(fake, [0.0]))
    for _ in range(5):
        state = await graph.ainvoke(ask())
    assert fake.calls["small"] == 2
    assert record(state)["removed"] == {"small": "circuit open after repeated failures"}


async def test_a_card_comes_back_when_its_probe_succeeds(fake: FakeOpenAIServer) -> None:
    clock = [0.0]
    fake.faults = FaultPlan({"small": first(2, server_error())})
    graph = app(with_breaker(fake, clock))
    for _ in range(3):
        await graph.ainvoke(ask())
    clock[0] = 31.0
    routes = [record(await graph.ainvoke(ask()))["route"] for _ in range(2)]
    assert routes == ["small", "small"]


async def test_a_probe_that_fails_opens_the_circuit_again(fake: FakeOpenAIServer) -> None:
    clock = [0.0]
    fake.faults = FaultPlan({"small": server_error()})
    graph = app(with_breaker(fake, clock))
    for _ in range(3):
        await graph.ainvoke(ask())
    clock[0] = 31.0
    for _ in range(3):
        await graph.ainvoke(ask())
    assert fake.calls["small"] == 3


async def test_the_only_card_is_tried_even_with_its_circuit_open(fake: FakeOpenAIServer) -> None:
    fake.faults = FaultPlan({"small": first(2, server_error())})
    router = Router(pool(fake, "small"))
    router.workers.cards._breakers["worker:small"] = Breaker(threshold=2, cooldown_s=30)
    graph = app(XRouterNode(router))
    for _ in range(2):
        with pytest.raises(AllCandidatesFailedError):
            await graph.ainvoke(ask())
    assert record(await graph.ainvoke(ask()))["route"] == "small"


async def test_bad_requests_do_not_speak_against_a_card(fake: FakeOpenAIServer) -> None:
    fake.faults = FaultPlan({"small": bad_request()})
    graph = app(with_breaker(fake, [0.0]))
    for _ in range(4):
        await graph.ainvoke(ask())
    assert fake.calls["small"] == 4


async def test_cancelling_a_request_cancels_its_calls(fake: FakeOpenAIServer) -> None:
    fake.faults = FaultPlan({"small": hang()})
    task = asyncio.create_task(app(XRouterNode(pool(fake))).ainvoke(ask()))
    while not fake.requests:
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(0.05)
    assert fake.calls == {"small": 1}


async def test_under_a_storm_of_faults_every_request_is_answered_and_charged(
    fake: FakeOpenAIServer,
) -> None:
    from xrouter_lg.testing import sometimes

    fake.faults = FaultPlan(
        {
            "small": sometimes(0.5, server_error(), seed=1),
            "medium": sometimes(0.5, empty(), seed=2),
        }
    )
    graph = app(XRouterNode(pool(fake, "small", "medium", "large"), policy="random"))
    states = await asyncio.gather(*(graph.ainvoke(ask(f"{i}")) for i in range(60)))
    charges = [charge for state in states for charge in record(state)["charges"]]
    assert len(charges) == len(fake.requests)
    known = sum(c["usage"]["output_tokens"] for c in charges if c["usage"])
    assert known == fake.bill.totals.completion_tokens
