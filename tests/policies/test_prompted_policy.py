"""A chat model as the router, in the paper's form, over real HTTP."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from langchain_core.messages import HumanMessage, SystemMessage

from tests.support.apps import PRICES, answer, app, ask, card, pool, record, scripted, usd
from xrouter_lg import ModelPool, PromptedPolicy, XRouterNode
from xrouter_lg.errors import PolicyConfigError
from xrouter_lg.testing import (
    FakeModel,
    FakeOpenAIServer,
    FaultPlan,
    Reply,
    ScriptedChatModel,
    ToolCall,
    server_error,
)

LARGE = "large says many more words than the others do"
Turn = str | Reply


def calls(*names: str, **args: Any) -> Reply:
    return Reply(tool_calls=[ToolCall(name, args) for name in names])


def select(call_id: str) -> Reply:
    return Reply(tool_calls=[ToolCall("select_response", {"call_id": call_id})])


@pytest.fixture
def guided(fake: FakeOpenAIServer) -> Callable[..., Any]:
    """A node whose router model says these things, turn by turn."""

    def build(*turns: Turn, names: tuple[str, ...] = ("small", "large"), **options: Any) -> Any:
        script = list(turns)
        fake.add_model(FakeModel(name="guide", reply=lambda body: script.pop(0)))
        policy = {key: options.pop(key) for key in ("direct_answers",) if key in options}
        return app(
            XRouterNode(
                pool(fake, *names),
                policy=PromptedPolicy(card(fake, "guide"), **policy),
                max_turns=len(turns),
                **options,
            )
        )

    return build


def of(fake: FakeOpenAIServer, model: str) -> list[dict[str, Any]]:
    return [request.body for request in fake.requests if request.model == model]


async def test_one_call_one_answer(fake: FakeOpenAIServer, guided: Any) -> None:
    state = await guided(calls("call_large")).ainvoke(ask())
    assert answer(state).content == LARGE


async def test_hint_temperature_and_length_reach_the_worker(
    fake: FakeOpenAIServer, guided: Any
) -> None:
    await guided(calls("call_large", hint="Be brief.", temperature=0.3, max_tokens=50)).ainvoke(
        ask()
    )
    (body,) = of(fake, "large")
    assert (body["temperature"], body["max_completion_tokens"]) == (0.3, 50)
    assert "Be brief." in body["messages"][0]["content"]


async def test_parallel_calls_are_made_and_shown(fake: FakeOpenAIServer, guided: Any) -> None:
    await guided(calls("call_small", "call_large"), select("c2")).ainvoke(ask())
    shown = of(fake, "guide")[1]["messages"][-2:]
    assert [m["role"] for m in shown] == ["tool", "tool"]
    assert shown[0]["content"] == "c1:\nsmall says hello to you"
    assert shown[1]["content"] == f"c2:\n{LARGE}"


async def test_parallel_calls_run_in_parallel(fake: FakeOpenAIServer, guided: Any) -> None:
    answered: list[int] = []

    def reply(body: Any) -> str:
        answered.append(len(fake.bill))
        return "Yes."

    for name in ("small", "large"):
        fake.add_model(FakeModel(name=name, latency_s=1.0, reply=reply))
    await guided(calls("call_small", "call_large"), select("c2")).ainvoke(ask())
    assert answered == [1, 1]  # the guide alone had answered when either was asked


async def test_the_same_card_can_be_called_twice_in_parallel(
    fake: FakeOpenAIServer, guided: Any
) -> None:
    state = await guided(calls("call_small", "call_small"), select("c2")).ainvoke(ask())
    assert fake.calls == {"guide": 2, "small": 2}
    assert len(record(state)["charges"]) == 4


async def test_a_selected_answer_is_verbatim_and_costs_no_worker_token(
    fake: FakeOpenAIServer, guided: Any
) -> None:
    state = await guided(calls("call_small", "call_large"), select("c1")).ainvoke(ask())
    assert answer(state).content == "small says hello to you"
    assert record(state)["route"] == "small"
    assert fake.calls == {"guide": 2, "small": 1, "large": 1}


async def test_a_direct_answer_calls_nobody(fake: FakeOpenAIServer, guided: Any) -> None:
    state = await guided("Hello yourself").ainvoke(ask("Hello"))
    assert answer(state).content == "Hello yourself"
    assert fake.calls == {"guide": 1}
    assert record(state)["route"] == "router"


async def test_a_direct_answers_tokens_are_the_routers(fake: FakeOpenAIServer, guided: Any) -> None:
    found = record(await guided("Hello yourself").ainvoke(ask("Hello")))
    assert Decimal(found["router_cost_usd"]) == usd(fake.bill[0].usage, PRICES["guide"])
    assert Decimal(found["worker_cost_usd"]) == 0


async def test_the_router_can_write_the_answer_from_what_it_saw(
    fake: FakeOpenAIServer, guided: Any
) -> None:
    state = await guided(calls("call_small", "call_large"), "Both greet you.").ainvoke(ask())
    assert answer(state).content == "Both greet you."
    assert record(state)["route"] == "router"


async def test_a_further_turn_may_call_another_model(fake: FakeOpenAIServer, guided: Any) -> None:
    graph = guided(calls("call_small"), calls("call_large"), select("c2_1"))
    state = await graph.ainvoke(ask())
    assert (answer(state).content, record(state)["turns"]) == (LARGE, 3)


async def test_the_last_turn_offers_no_call(fake: FakeOpenAIServer, guided: Any) -> None:
    await guided(calls("call_small"), select("c1")).ainvoke(ask())
    first, last = of(fake, "guide")
    assert [t["function"]["name"] for t in first["tools"]] == ["call_small", "call_large"]
    assert [t["function"]["name"] for t in last["tools"]] == ["select_response"]


async def test_a_call_on_the_last_turn_leaves_the_best_answer(
    fake: FakeOpenAIServer, guided: Any
) -> None:
    state = await guided(calls("call_small"), calls("call_large")).ainvoke(ask())
    assert answer(state).content == "small says hello to you"
    assert "large" not in fake.calls


async def test_one_turn_does_not_ask_the_router_again(fake: FakeOpenAIServer, guided: Any) -> None:
    await guided(calls("call_small")).ainvoke(ask())
    assert fake.calls == {"guide": 1, "small": 1}


async def test_every_turns_router_tokens_are_charged(fake: FakeOpenAIServer, guided: Any) -> None:
    found = record(await guided(calls("call_small"), select("c1")).ainvoke(ask()))
    billed = sum((usd(line.usage, PRICES["guide"]) for line in fake.bill.of("guide")), Decimal(0))
    assert Decimal(found["router_cost_usd"]) == billed
    assert [c["kind"] for c in found["charges"]].count("router") == 2


async def test_the_router_is_told_of_a_call_that_failed(
    fake: FakeOpenAIServer, guided: Any
) -> None:
    fake.faults = FaultPlan({"small": server_error()})
    await guided(calls("call_small", "call_large"), select("c2")).ainvoke(ask())
    shown = of(fake, "guide")[1]["messages"][-2:]
    assert shown[0]["content"] == "c1 failed: server"


async def test_tool_calls_and_their_results_are_paired_on_every_turn(
    fake: FakeOpenAIServer, guided: Any
) -> None:
    """A provider refuses a conversation in which they are not."""
    fake.faults = FaultPlan({"small": server_error()})
    graph = guided(
        calls("call_small", "call_large"),
        calls("call_medium"),
        select("c1"),
        names=("small", "large", "medium"),
    )
    await graph.ainvoke(ask())
    messages = of(fake, "guide")[2]["messages"]
    asked = [c["id"] for m in messages for c in m.get("tool_calls") or ()]
    told = [m["tool_call_id"] for m in messages if m["role"] == "tool"]
    assert asked == told
    assert len(asked) == 3


async def test_the_conversation_of_a_further_turn_begins_as_the_first_did(
    fake: FakeOpenAIServer, guided: Any
) -> None:
    await guided(calls("call_small"), calls("call_large"), select("c1")).ainvoke(ask())
    first, second, _ = of(fake, "guide")
    assert second["messages"][: len(first["messages"])] == first["messages"]


async def test_without_direct_answers_a_call_is_demanded(
    fake: FakeOpenAIServer, guided: Any
) -> None:
    await guided(calls("call_small"), direct_answers=False).ainvoke(ask())
    assert of(fake, "guide")[0]["tool_choice"] == "required"


async def test_the_propensity_of_a_chat_model_is_unknown(
    fake: FakeOpenAIServer, guided: Any
) -> None:
    assert record(await guided(calls("call_small")).ainvoke(ask()))["propensity"] is None


async def test_the_record_names_the_prompt(fake: FakeOpenAIServer, guided: Any) -> None:
    from xrouter_lg.prompts.tools import prompt_hash

    found = record(await guided(calls("call_small")).ainvoke(ask()))
    assert found["prompt_hash"] == prompt_hash()
    assert found["policy_version"] == f"guide@{prompt_hash()[:8]}"


async def test_the_users_system_prompt_is_context_not_command(
    fake: FakeOpenAIServer, guided: Any
) -> None:
    await guided(calls("call_small")).ainvoke(
        {"messages": [SystemMessage("You are a pirate."), HumanMessage("Ahoy")]}
    )
    system, question = of(fake, "guide")[0]["messages"]
    assert "pirate" not in system["content"]
    assert "<context>\nsystem: You are a pirate.\n</context>" in question["content"]


async def test_the_failover_of_a_chosen_card_is_cheapest_first(
    fake: FakeOpenAIServer, guided: Any
) -> None:
    fake.faults = FaultPlan({"large": server_error()})
    graph = guided(calls("call_large"), names=("large", "medium", "small"))
    assert record(await graph.ainvoke(ask()))["route"] == "small"


async def test_any_chat_model_is_a_policy(fake: FakeOpenAIServer) -> None:
    from langchain_core.messages import AIMessage

    chosen = AIMessage("", tool_calls=[{"name": "call_large", "args": {}, "id": "t"}])
    model = ScriptedChatModel(lambda messages: chosen)
    found = record(await app(XRouterNode(pool(fake), policy=model)).ainvoke(ask()))
    assert found["route"] == "large"


async def test_a_card_of_the_pool_can_route(fake: FakeOpenAIServer) -> None:
    fake.add_model(FakeModel(name="small", reply=calls("call_large")))
    found = record(await app(XRouterNode(pool(fake), policy="prompted:small")).ainvoke(ask()))
    assert found["route"] == "large"
    assert [c["kind"] for c in found["charges"]] == ["router", "worker"]


async def test_a_router_model_without_a_price_makes_the_total_unknown(
    fake: FakeOpenAIServer,
) -> None:
    fake.add_model(FakeModel(name="guide", reply=calls("call_small")))
    node = XRouterNode(pool(fake), policy=card(fake, "guide", price=None))
    found = record(await app(node).ainvoke(ask()))
    assert (found["cost_usd"], found["router_cost_usd"]) == (None, None)
    assert found["worker_cost_usd"] is not None


async def test_a_router_model_without_a_price_is_not_asked_under_a_budget(
    fake: FakeOpenAIServer,
) -> None:
    node = XRouterNode(pool(fake), policy=card(fake, "guide", price=None))
    found = record(await app(node).ainvoke(ask(), {"configurable": {"max_cost_usd": 1}}))
    assert "guide" not in fake.calls
    assert "unknown sum" in found["fallbacks"][0]["detail"]


async def test_one_card_and_one_turn_ask_nobody(fake: FakeOpenAIServer) -> None:
    node = XRouterNode(pool(fake, "small"), policy=card(fake, "guide"))
    await app(node).ainvoke(ask())
    assert fake.calls == {"small": 1}


@pytest.mark.parametrize("nonsense", [None, 7, object()])
def test_a_policy_of_nothing_usable_is_refused(nonsense: Any) -> None:
    with pytest.raises(PolicyConfigError, match="give a chat model"):
        PromptedPolicy(nonsense)


async def test_several_turns_with_one_card_ask_the_router(fake: FakeOpenAIServer) -> None:
    fake.add_model(FakeModel(name="guide", reply="I answer"))
    node = XRouterNode(ModelPool([scripted("small")]), policy=card(fake, "guide"), max_turns=2)
    assert record(await app(node).ainvoke(ask()))["route"] == "router"
