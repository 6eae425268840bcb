"""Requests that end in an error, or whose caller leaves, are on the bill too."""

from __future__ import annotations

import asyncio
import pickle
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from langgraph.graph import START, MessagesState, StateGraph

from tests.faults.surfaces import SURFACES
from tests.support.apps import app, ask, options, pool, prefers
from tests.support.waiting import wait_until
from xrouter_lg import Budget, ChatXRouter, Recorder, XRouterNode
from xrouter_lg.errors import (
    AllCandidatesFailedError,
    BudgetExceededError,
    NoCandidateError,
    RequestOptionError,
    RequestTimeoutError,
    StreamInterruptedError,
)
from xrouter_lg.testing import (
    FakeOpenAIServer,
    FaultPlan,
    auth_error,
    bad_request,
    empty,
    hang,
    server_error,
    slow_stream,
    stream_error,
)


@pytest.fixture
def recorder(tmp_path: Path) -> Iterator[Recorder]:
    with Recorder(tmp_path / "traces.db") as opened:
        yield opened


def node(fake: FakeOpenAIServer, recorder: Recorder, **more: object) -> XRouterNode:
    return XRouterNode(
        pool(fake, "small", "large"),
        policy=prefers("small", "large"),
        traces=recorder,
        **more,  # type: ignore[arg-type]
    )


async def test_when_nobody_answers_the_error_and_the_store_hold_every_charge(
    fake: FakeOpenAIServer, recorder: Recorder
) -> None:
    fake.faults = FaultPlan({"small": empty(), "large": server_error()})
    with pytest.raises(AllCandidatesFailedError) as failed:
        await app(node(fake, recorder)).ainvoke(ask())
    record = pickle.loads(pickle.dumps(failed.value)).record
    assert record["route"] is None and record["error"] == "AllCandidatesFailedError"
    assert [charge["card"] for charge in record["charges"]] == ["small", "large"]
    # An empty answer reports its prompt; an error of the server's own most probably costs nothing.
    assert record["charges"][0]["cost_usd"] is not None
    assert record["charges"][1]["cost_usd"] is None
    assert record["charges"][1]["estimate_usd"] == "0"
    assert record["estimated_cost_usd"] == record["known_cost_usd"] != "0"
    assert recorder.flush(20)
    [row] = recorder.store.routes()
    assert row.record.to_dict() == record


ASKED = ["invoke", "ainvoke", "stream", "fan-out", "chat model", "chat model stream", "agent"]


@pytest.mark.parametrize("surface", ASKED)
def test_the_cause_is_the_exception_of_the_providers_own_package(
    surface: str, fake: FakeOpenAIServer, recorder: Recorder
) -> None:
    fake.faults = FaultPlan({"small": auth_error(), "large": bad_request()})
    with pytest.raises(AllCandidatesFailedError) as failed:
        SURFACES[surface](fake, recorder)
    cause = failed.value.__cause__
    assert isinstance(cause, openai.AuthenticationError | openai.BadRequestError)
    assert cause.status_code == (400 if isinstance(cause, openai.BadRequestError) else 401)
    if surface != "fan-out":  # where both are asked at once, either may be the last
        assert isinstance(cause, openai.BadRequestError)


def test_a_stream_that_breaks_off_has_its_cause_too(
    fake: FakeOpenAIServer, recorder: Recorder
) -> None:
    fake.faults = FaultPlan({"small": stream_error(3)})
    with pytest.raises(StreamInterruptedError) as failed:
        SURFACES["chat model stream"](fake, recorder)
    assert isinstance(failed.value.__cause__, openai.APIError)


def test_an_answer_that_is_no_good_has_no_cause(fake: FakeOpenAIServer, recorder: Recorder) -> None:
    fake.faults = FaultPlan({"small": empty(), "large": empty()})
    with pytest.raises(AllCandidatesFailedError) as failed:
        SURFACES["invoke"](fake, recorder)
    assert failed.value.__cause__ is None


async def test_a_cancelled_request_leaves_a_record_with_what_it_may_have_cost(
    fake: FakeOpenAIServer, recorder: Recorder
) -> None:
    fake.faults = FaultPlan({"small": hang()})
    asked = asyncio.ensure_future(app(node(fake, recorder)).ainvoke(ask()))
    while not fake.requests:
        await asyncio.sleep(0.01)
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    assert await asyncio.to_thread(recorder.flush, 20)
    [row] = recorder.store.routes()
    assert row.record.error == "cancelled" and row.record.route is None
    [charge] = row.record.charges
    assert (charge["card"], charge["error"], charge["cost_usd"]) == ("small", "cancelled", None)
    assert charge["estimate_usd"] is not None


async def test_a_request_that_no_card_can_take_leaves_a_record(
    fake: FakeOpenAIServer, recorder: Recorder
) -> None:
    with pytest.raises(NoCandidateError) as failed:
        await app(node(fake, recorder)).ainvoke(ask(), options(deny=["small", "large"]))
    assert failed.value.record is not None
    assert set(failed.value.record["removed"]) == {"small", "large"}
    budget = Budget("0.000001", on_exceeded="error")
    with pytest.raises(BudgetExceededError) as dear:
        await app(node(fake, recorder, budget=budget)).ainvoke(ask())
    assert dear.value.record is not None and dear.value.record["charges"] == []
    assert recorder.flush(20)
    errors = {row.record.error for row in recorder.store.routes()}
    assert errors == {"NoCandidateError", "BudgetExceededError"}


@pytest.mark.parametrize("value", [0, -1, "5", True, float("nan"), float("inf"), 10**400])
async def test_a_timeout_that_is_none_is_refused(
    value: object, fake: FakeOpenAIServer, recorder: Recorder
) -> None:
    with pytest.raises(RequestOptionError, match="timeout_s"):
        await app(node(fake, recorder)).ainvoke(ask(), options(timeout_s=value))


async def test_a_requests_timeout_bounds_failover_too(
    fake: FakeOpenAIServer, recorder: Recorder
) -> None:
    fake.faults = FaultPlan({"small": hang(), "large": hang()})
    with pytest.raises(RequestTimeoutError, match="timeout_s is over") as late:
        await app(node(fake, recorder)).ainvoke(ask(), options(timeout_s=0.4))
    assert late.value.record is not None
    [charge] = late.value.record["charges"]
    assert (charge["card"], charge["error"]) == ("small", "timeout")
    assert [request.model for request in fake.requests] == ["small"]


async def test_a_requests_timeout_does_not_count_against_the_card(
    fake: FakeOpenAIServer, recorder: Recorder
) -> None:
    fake.faults = FaultPlan({"small": hang()})
    routed = node(fake, recorder)
    for _ in range(6):
        with pytest.raises(RequestTimeoutError):
            await app(routed).ainvoke(ask(), options(timeout_s=0.1))
    assert not routed.router.circuit_open("small")


async def test_an_answer_within_the_timeout_is_an_answer(
    fake: FakeOpenAIServer, recorder: Recorder
) -> None:
    state = await app(node(fake, recorder)).ainvoke(ask(), options(timeout_s=30))
    assert state["messages"][-1].text == "small says hello to you"


def test_the_clock_that_is_set_back_makes_no_negative_latency(
    fake: FakeOpenAIServer, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [time.time()]

    def backwards() -> float:
        now[0] -= 3600
        return now[0]

    monkeypatch.setattr("xrouter_lg.graph.asking.time.time", backwards)
    state = app(node(fake, recorder)).invoke(ask())
    assert state["messages"][-1].response_metadata["xrouter"]["latency_s"] == 0.0


async def test_a_card_that_comes_back_is_probed_by_one_request_of_fifty(
    fake: FakeOpenAIServer, recorder: Recorder
) -> None:
    routed = node(fake, recorder)
    breaker = routed.router.workers.cards.breaker("worker:small")
    now = [0.0]
    breaker._clock = lambda: now[0]
    for _ in range(breaker.threshold):
        breaker.failure()
    now[0] = breaker.cooldown_s
    fake.faults = FaultPlan({"small": hang(1.0)})
    built = app(routed)
    states = await asyncio.gather(*(built.ainvoke(ask()) for _ in range(50)))
    assert {s["messages"][-1].response_metadata["xrouter"]["route"] for s in states} == {"large"}
    assert [request.model for request in fake.requests].count("small") == 1
    assert routed.router.circuit_open("small")
    now[0] += breaker.cooldown_s
    fake.faults = FaultPlan()
    await built.ainvoke(ask())
    assert not routed.router.circuit_open("small")


async def test_a_cancel_reaches_the_providers_connection(
    fake: FakeOpenAIServer, recorder: Recorder
) -> None:
    fake.faults = FaultPlan({"small": slow_stream(0.05)})
    asked = asyncio.ensure_future(app(node(fake, recorder)).ainvoke(ask()))
    while not fake.requests:
        await asyncio.sleep(0.01)
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    while not fake.bill:
        await asyncio.sleep(0.01)
    assert [line.delivered for line in fake.bill] == [False]


def test_a_request_that_ctrl_c_ends_leaves_a_record(
    fake: FakeOpenAIServer, recorder: Recorder
) -> None:
    fake.faults = FaultPlan({"small": hang()})

    def interrupt() -> None:
        while not fake.requests:
            time.sleep(0.01)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    patient = XRouterNode(pool(fake, "small", timeout_s=120.0), policy="cheapest", traces=recorder)
    with pytest.raises(KeyboardInterrupt):
        app(patient).invoke(ask())
    assert recorder.flush(20)
    [row] = recorder.store.routes()
    assert row.record.error == "cancelled"
    assert [charge["card"] for charge in row.record.charges] == ["small"]


def test_a_chat_models_stream_whose_reader_leaves_ends_at_once(
    fake: FakeOpenAIServer, recorder: Recorder
) -> None:
    fake.faults = FaultPlan({"small": slow_stream(1.0)})
    routed = ChatXRouter(
        pool(fake, "small", "large"), policy=prefers("small", "large"), traces=recorder
    )
    parts: Any = routed.stream(ask()["messages"])
    assert any(part.text for part in parts)
    parts.close()
    while not fake.bill:
        time.sleep(0.01)
    [line] = fake.bill
    assert not line.delivered
    assert line.usage.completion_tokens < 4  # of five words, one a second
    assert recorder.flush(20)
    [row] = recorder.store.routes()
    [charge] = row.record.charges
    # What had come is known, and estimated by.
    assert charge["error"] == "cancelled" and charge["estimate_usd"] is not None


def compiled(builder: Any) -> Any:
    return builder.compile()


def in_a_node(routed: XRouterNode) -> Any:
    return app(routed)


def behind_a_function(routed: XRouterNode) -> Any:
    inner = app(routed)

    def function(state: MessagesState) -> Any:
        return inner.invoke(state)

    return app(function)


def as_a_model_in_a_node(routed: XRouterNode) -> Any:
    model = ChatXRouter(routed.router, traces=routed.recorder)
    return app(lambda state: {"messages": [model.invoke(state["messages"])]})


def as_a_streaming_model_in_a_node(routed: XRouterNode) -> Any:
    model = ChatXRouter(routed.router, traces=routed.recorder)
    return app(lambda state: {"messages": list(model.stream(state["messages"]))})


@pytest.mark.parametrize(
    "built",
    [in_a_node, behind_a_function, as_a_model_in_a_node, as_a_streaming_model_in_a_node],
)
def test_a_sync_graphs_stream_whose_reader_leaves_ends_at_once(
    built: Callable[[XRouterNode], Any], fake: FakeOpenAIServer, recorder: Recorder
) -> None:
    fake.faults = FaultPlan({"small": hang(60)})
    graph = built(node(fake, recorder))
    asked = threading.Event()

    def announce(state: MessagesState) -> Any:
        while not fake.requests:
            time.sleep(0.01)
        asked.set()
        return {"messages": []}

    both = StateGraph(MessagesState).add_node("routed", graph).add_node("beside", announce)
    both.add_edge(START, "routed").add_edge(START, "beside")
    parts = compiled(both).stream(ask(), stream_mode="updates")
    next(parts)  # the other node's
    assert asked.is_set()
    parts.close()
    assert recorder.flush(20)
    [row] = recorder.store.routes()
    assert row.record.error == "cancelled"
    [charge] = row.record.charges
    assert (charge["card"], charge["error"]) == ("small", "cancelled")


def test_a_model_that_is_asked_after_the_reader_has_left_is_not_asked(
    fake: FakeOpenAIServer, recorder: Recorder
) -> None:
    left = threading.Event()
    model = ChatXRouter(node(fake, recorder).router, traces=recorder)

    def late(state: MessagesState) -> Any:
        left.wait()
        wait_until(lambda: parts.gi_running)
        time.sleep(0.5)  # until the stream, which is being closed, has said so
        return {"messages": [model.invoke(state["messages"])]}

    both = StateGraph(MessagesState).add_node("late", late)
    both.add_node("beside", lambda state: {"messages": []})
    both.add_edge(START, "late").add_edge(START, "beside")
    parts: Any = compiled(both).stream(ask(), stream_mode="updates")
    next(parts)
    left.set()
    parts.close()
    assert fake.requests == []


def test_a_reader_of_tokens_who_leaves_pays_for_no_more_of_them(
    fake: FakeOpenAIServer, recorder: Recorder
) -> None:
    fake.faults = FaultPlan({"small": slow_stream(1.0)})
    parts: Any = app(node(fake, recorder)).stream(ask(), stream_mode="messages")
    next(parts)
    parts.close()
    while not fake.bill:
        time.sleep(0.01)
    [line] = fake.bill
    assert not line.delivered and line.usage.completion_tokens < 4  # of five words, one a second


def test_the_step_timeout_of_a_sync_graph_ends_its_calls(
    fake: FakeOpenAIServer, recorder: Recorder
) -> None:
    fake.faults = FaultPlan({"small": hang(60)})
    graph = app(node(fake, recorder))
    graph.step_timeout = 0.5
    with pytest.raises(TimeoutError):
        graph.invoke(ask())
    assert recorder.flush(20)
    assert [row.record.error for row in recorder.store.routes()] == ["cancelled"]


def test_a_node_that_fails_ends_the_calls_of_those_beside_it(
    fake: FakeOpenAIServer, recorder: Recorder
) -> None:
    fake.faults = FaultPlan({"small": hang(60)})

    def fails(state: MessagesState) -> Any:
        while not fake.requests:
            time.sleep(0.01)
        raise LookupError("the app's own")

    both = StateGraph(MessagesState).add_node("routed", node(fake, recorder))
    both.add_node("beside", fails).add_edge(START, "routed").add_edge(START, "beside")
    with pytest.raises(LookupError, match="the app's own"):
        compiled(both).invoke(ask())
    assert recorder.flush(20)
    assert [row.record.error for row in recorder.store.routes()] == ["cancelled"]


def test_ctrl_c_ends_a_sync_graph_that_streams(fake: FakeOpenAIServer, recorder: Recorder) -> None:
    fake.faults = FaultPlan({"small": hang(60)})

    def interrupt() -> None:
        while not fake.requests:
            time.sleep(0.01)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        list(app(node(fake, recorder)).stream(ask(), stream_mode="messages"))
    assert recorder.flush(20)
    assert [row.record.error for row in recorder.store.routes()] == ["cancelled"]
