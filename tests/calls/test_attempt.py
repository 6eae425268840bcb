"""One call to a card: attempts, charges, clients."""

from __future__ import annotations

import asyncio
import gc
import warnings
from decimal import Decimal
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI

from tests.support.apps import card, scripted
from tests.support.waiting import comes_about
from xrouter_lg import ModelCard, ModelPool
from xrouter_lg.calls.attempt import PLAIN, CallResult, CallTerms, Workers
from xrouter_lg.calls.money import worst_case
from xrouter_lg.calls.worker.asking import with_hint
from xrouter_lg.errors import ErrorClass
from xrouter_lg.testing import (
    FakeModel,
    FakeOpenAIServer,
    FaultPlan,
    first,
    hang,
    rate_limit,
    server_error,
)
from xrouter_lg.types import Charge, PlannedCall

HI = [HumanMessage("Hi")]


async def call(
    chosen: ModelCard, workers: Workers | None = None, terms: CallTerms = PLAIN, **options: Any
) -> CallResult:
    made = PlannedCall("c1", chosen.name, **options.pop("call", {}))
    return await (workers or Workers()).call(chosen, made, HI, {}, terms, **options)


async def test_an_answer_comes_with_its_charge(fake: FakeOpenAIServer) -> None:
    result = await call(card(fake, "small"))
    assert result.message is not None
    (charge,) = result.charges
    assert (charge.card, charge.attempt, charge.call_id, charge.error) == ("small", 1, "c1", None)


async def test_a_failure_is_a_result_not_an_exception(fake: FakeOpenAIServer) -> None:
    fake.faults = FaultPlan(default=server_error())
    result = await call(card(fake, "small"))
    assert (result.message, result.error) == (None, ErrorClass.SERVER)
    assert "The server had an error" in result.detail


async def test_each_attempt_has_a_number_and_a_charge(
    fake: FakeOpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xrouter_lg.calls.attempt._BACKOFF_S", 0.001)
    fake.faults = FaultPlan(default=first(2, server_error()))
    result = await call(card(fake, "small", max_retries=2))
    assert [(c.attempt, c.error) for c in result.charges] == [
        (1, "server"),
        (2, "server"),
        (3, None),
    ]


async def test_a_refused_attempt_is_known_to_be_free(fake: FakeOpenAIServer) -> None:
    fake.faults = FaultPlan(default=rate_limit())
    (charge,) = (await call(card(fake, "small"))).charges
    assert (charge.cost_usd, charge.price_source, charge.held_usd) == (Decimal(0), "rejected", None)


async def test_an_attempt_of_unknown_cost_holds_its_worst_case(fake: FakeOpenAIServer) -> None:
    fake.faults = FaultPlan(default=hang())
    chosen = card(fake, "small", timeout_s=0.1, max_output_tokens=100)
    (charge,) = (await call(chosen, terms=CallTerms(prompt_tokens_max=50))).charges
    assert (charge.cost_usd, charge.held_usd) == (None, worst_case(chosen, 50, None))


async def test_a_cancelled_attempt_is_charged_as_unknown(fake: FakeOpenAIServer) -> None:
    fake.faults = FaultPlan(default=hang())
    charges: list[Charge] = []
    task = asyncio.create_task(call(card(fake, "small"), charges=charges))
    while not fake.requests:
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [(c.error, c.cost_usd) for c in charges] == [("cancelled", None)]


async def test_an_allowance_is_not_spent_twice(fake: FakeOpenAIServer) -> None:
    fake.faults = FaultPlan(default=server_error())
    chosen = card(fake, "small", max_retries=3, max_output_tokens=100)
    result = await call(
        chosen,
        terms=CallTerms(prompt_tokens_max=10),
        call={"allowance_usd": worst_case(chosen, 10, None)},
    )
    assert len(result.charges) == 1


async def test_a_client_is_shared_by_the_calls_of_one_loop(fake: FakeOpenAIServer) -> None:
    workers, chosen = Workers(), card(fake, "small")
    assert workers.model(chosen) is workers.model(chosen)


def test_each_event_loop_has_a_client_of_its_own(fake: FakeOpenAIServer) -> None:
    workers, chosen = Workers(), card(fake, "small")

    async def model() -> Any:
        return workers.model(chosen)

    assert asyncio.run(model()) is not asyncio.run(model())


def test_the_model_that_was_built_on_construction_is_the_first_one_used(
    fake: FakeOpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers, chosen = Workers(), card(fake, "small")
    workers.prepare(ModelPool([chosen]))
    monkeypatch.setattr(
        "xrouter_lg.calls.worker.loop_models.build_chat_model", lambda card: pytest.fail("again")
    )
    assert asyncio.run(call(chosen, workers)).message is not None


def test_connections_are_closed_with_their_event_loop(fake: FakeOpenAIServer) -> None:
    async def main() -> None:
        assert (await call(card(fake, "small"))).message is not None

    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        asyncio.run(main())
        gc.collect()


def test_event_loops_that_are_gone_are_not_kept(fake: FakeOpenAIServer) -> None:
    workers, chosen = Workers(), card(fake, "small")
    for _ in range(3):
        asyncio.run(call(chosen, workers))
    gc.collect()
    assert len(workers._models._by_loop) == 0


async def test_connections_are_closed_when_nobody_needs_the_workers(
    fake: FakeOpenAIServer,
) -> None:
    workers = Workers()
    chosen = card(fake, "small")
    await call(chosen, workers)
    client = workers.model(chosen).http_async_client  # type: ignore[attr-defined]
    del workers
    gc.collect()
    await comes_about(lambda: client.is_closed)


async def test_a_handed_in_model_is_copied_once_a_loop(fake: FakeOpenAIServer) -> None:
    model = ChatOpenAI(model="small", base_url=fake.base_url, api_key="x", max_retries=0)  # type: ignore[arg-type]
    chosen = ModelCard(name="mine", model=model)
    workers = Workers()
    assert workers.model(chosen) is workers.model(chosen)
    assert workers.model(chosen) is not model


async def test_temperature_and_length_are_sent(fake: FakeOpenAIServer) -> None:
    await call(card(fake, "small"), call={"temperature": 0.4, "max_tokens": 9})
    body = fake.requests[0].body
    assert (body["temperature"], body["max_completion_tokens"]) == (0.4, 9)


async def test_an_answer_that_is_no_message_of_the_model_is_malformed() -> None:
    chosen = scripted("small")

    async def ainvoke(*args: Any, **kwargs: Any) -> Any:
        return HumanMessage("what?")

    object.__setattr__(chosen.model, "ainvoke", ainvoke)
    assert (await call(chosen)).error is ErrorClass.MALFORMED


async def test_a_refusal_is_an_answer() -> None:
    refusal = AIMessage("", additional_kwargs={"refusal": "I won't"})
    assert (await call(scripted("small", [refusal]))).message is not None


async def test_a_reasoning_model_that_never_came_to_its_answer_has_failed(
    fake: FakeOpenAIServer,
) -> None:
    fake.add_model(FakeModel(name="small", reasoning_tokens=50))
    result = await call(card(fake, "small"), call={"max_tokens": 20})
    assert (result.message, result.error) == (None, ErrorClass.TRUNCATED)
    assert result.charges[0].usage is not None
    assert result.charges[0].usage.reasoning_tokens == 20


def test_without_a_hint_the_messages_are_the_same_object() -> None:
    assert with_hint(HI, None) is HI
    assert with_hint(HI, "") is HI


def test_a_hint_leaves_the_users_messages_as_they_were() -> None:
    system = SystemMessage("Be kind.")
    with_hint([system, *HI], "Be brief.")
    assert system.content == "Be kind."


def test_a_hint_joins_a_system_prompt_of_blocks() -> None:
    system = SystemMessage([{"type": "text", "text": "Be kind."}])
    noted = with_hint([system, *HI], "Be brief.")[0]
    assert [block["text"] for block in noted.content] == [  # type: ignore[index]
        "Be kind.",
        "<routing_note>\nBe brief.\n</routing_note>",
    ]


async def test_a_key_that_a_provider_echoes_is_not_repeated() -> None:
    error = RuntimeError("bad key sk-abcdefghijklmnop1234 given")
    result = await call(scripted("small", [error]))
    assert "abcdefghijklmnop" not in result.detail
