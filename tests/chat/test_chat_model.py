"""``ChatXRouter`` where a chat model is used by hand: one bill, one run, every token."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler, get_usage_metadata_callback
from langchain_core.language_models import BaseChatModel
from langchain_core.load import dumps, loads
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, trim_messages
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import (
    ChatPromptTemplate,
    HumanMessagePromptTemplate,
    PromptTemplate,
)
from langchain_core.rate_limiters import InMemoryRateLimiter
from langchain_core.runnables import ConfigurableField, RunnableSequence
from langchain_core.tools import tool

from tests.support.apps import calls, card, pool, prefers, scripted
from tests.support.obliging import obliging
from xrouter_lg import Action, Budget, ChatXRouter, ModelPool, Proposal, Router
from xrouter_lg.errors import (
    AllCandidatesFailedError,
    BudgetExceededError,
    ConfigurationError,
    EmptyMessagesError,
    RequestOptionError,
    StreamInterruptedError,
)
from xrouter_lg.testing import (
    FakeModel,
    FakeOpenAIServer,
    FaultPlan,
    content_filter,
    cut_stream,
    empty,
    hang,
    server_error,
)

SMALL = "small says hello to you"


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def route_of(message: Any) -> str:
    return str(message.response_metadata["xrouter"]["route"])


def whole(chunks: list[AIMessageChunk]) -> AIMessageChunk:
    return sum(chunks[1:], chunks[0])  # type: ignore[return-value]


class Listener(BaseCallbackHandler):
    """Counts what a usage counter or a UI would hear."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def on_chat_model_start(self, *args: Any, **kwargs: Any) -> None:
        self.heard.append("model")

    def on_chain_start(self, *args: Any, **kwargs: Any) -> None:
        self.heard.append(f"chain {kwargs.get('name')}")

    def on_llm_end(self, *args: Any, **kwargs: Any) -> None:
        self.heard.append("end")

    def on_llm_error(self, *args: Any, **kwargs: Any) -> None:
        self.heard.append("error")


async def test_the_answer_is_the_workers_with_a_record(fake: FakeOpenAIServer) -> None:
    message = await ChatXRouter(pool(fake), policy="cheapest").ainvoke("Hi")
    assert (message.content, route_of(message)) == (SMALL, "small")
    assert type(message) is AIMessage


def test_a_sync_call_gives_the_same(fake: FakeOpenAIServer) -> None:
    assert ChatXRouter(pool(fake), policy="fixed:large").invoke("Hi").text.startswith("large says")


async def test_a_sync_stream_inside_a_running_loop_ends(fake: FakeOpenAIServer) -> None:
    model = ChatXRouter(pool(fake), policy="cheapest")
    assert "".join(chunk.text for chunk in model.stream("Hi")) == SMALL


def test_a_policy_may_stream_from_a_routed_model_of_its_own(fake: FakeOpenAIServer) -> None:
    """It runs on the loop that serves sync callers: waiting for itself would never end."""
    inner = ChatXRouter(pool(fake, "guide"))

    def propose(request: Any, candidates: Any) -> Proposal:
        assert "".join(chunk.text for chunk in inner.stream("which?")) == "I route"
        return Proposal({"large": 1.0})

    outer = ChatXRouter(pool(fake), policy=calls().__class__(propose))
    assert route_of(outer.invoke("Hi")) == "large"


async def test_tokens_come_one_by_one_and_the_last_chunk_has_the_record(
    fake: FakeOpenAIServer,
) -> None:
    chunks = [chunk async for chunk in ChatXRouter(pool(fake), policy="cheapest").astream("Hi")]
    assert [chunk.text for chunk in chunks if chunk.text] == [
        f" {word}" if place else word for place, word in enumerate(SMALL.split())
    ]
    assert [chunk.chunk_position for chunk in chunks].index("last") == len(chunks) - 1
    assert chunks[0].response_metadata["xrouter"] == {"route": "small"}
    assert len({chunk.id for chunk in chunks}) == 1


async def test_a_stream_adds_up_to_the_record_of_an_invocation(fake: FakeOpenAIServer) -> None:
    model = ChatXRouter(pool(fake), policy="cheapest")
    invoked = (await model.ainvoke("Hi")).response_metadata["xrouter"]
    streamed = whole([chunk async for chunk in model.astream("Hi")]).response_metadata["xrouter"]
    assert set(streamed) == set(invoked)
    for name in ("route", "cost_usd", "policy", "scores", "propensity", "candidates", "turns"):
        assert streamed[name] == invoked[name], name


async def test_a_stream_left_early_cancels_the_call(fake: FakeOpenAIServer) -> None:
    stream = ChatXRouter(pool(fake), policy="cheapest").astream("Hi")
    async for _ in stream:
        break
    await stream.aclose()  # type: ignore[attr-defined]
    assert fake.calls == {"small": 1}


async def test_failover_before_the_first_token_is_unseen(fake: FakeOpenAIServer) -> None:
    fake.faults = FaultPlan({"small": server_error()})
    model = ChatXRouter(pool(fake), policy="cheapest")
    full = whole([chunk async for chunk in model.astream("Hi")])
    assert full.text.startswith("large says")
    assert route_of(full) == "large"
    assert full.response_metadata["xrouter"]["fallbacks"][0]["card"] == "small"


@pytest.mark.parametrize("fault", [empty(), content_filter(0)], ids=["empty", "filtered"])
async def test_nothing_of_an_answer_without_a_word_is_in_the_one_that_follows(
    fault: Any, fake: FakeOpenAIServer
) -> None:
    fake.faults = FaultPlan({"small": fault})
    model = ChatXRouter(pool(fake), policy="cheapest")
    chunks = [chunk async for chunk in model.astream("Hi")]
    assert chunks[0].response_metadata["xrouter"] == {"route": "large"}
    assert len({chunk.id for chunk in chunks}) == 1
    full, invoked = whole(chunks), await model.ainvoke("Hi")
    assert route_of(full) == route_of(invoked) == "large"
    for name in ("model_name", "finish_reason"):
        assert full.response_metadata[name] == invoked.response_metadata[name]
    assert full.usage_metadata == invoked.usage_metadata


async def test_a_stream_that_breaks_off_is_not_glued_to_another(fake: FakeOpenAIServer) -> None:
    fake.faults = FaultPlan({"small": cut_stream(2)})
    seen: list[str] = []

    async def read() -> None:
        async for chunk in ChatXRouter(pool(fake), policy="cheapest").astream("Hi"):
            seen.extend([chunk.text])

    with pytest.raises(StreamInterruptedError):
        await read()
    assert "".join(seen) == "small says"
    assert fake.calls == {"small": 1}


async def test_the_answer_of_several_calls_is_one_chunk(fake: FakeOpenAIServer) -> None:
    model = ChatXRouter(pool(fake), policy=calls("small", "large"))
    (chunk,) = [chunk async for chunk in model.astream("Hi")]
    assert (chunk.text, chunk.chunk_position) == (SMALL, "last")


async def test_a_policy_that_looks_at_answers_takes_its_turns(fake: FakeOpenAIServer) -> None:
    def propose(request: Any, candidates: Any) -> Proposal:
        if request.answers:
            return Proposal({}, (Action("select", call_id="c2"),))
        return Proposal({}, (Action("call", card="small"), Action("call", card="large")))

    policy = calls().__class__(propose, orchestrates=True)
    message = await ChatXRouter(pool(fake), policy=policy, max_turns=3).ainvoke("Hi")
    record = message.response_metadata["xrouter"]
    assert (record["route"], record["turns"], len(record["charges"])) == ("large", 2, 2)


async def test_usage_is_counted_once_however_it_is_called(fake: FakeOpenAIServer) -> None:
    model = ChatXRouter(pool(fake, "large"))
    with get_usage_metadata_callback() as counted:
        first = await model.ainvoke("Hi")
        _ = [chunk async for chunk in model.astream("Hi")]
        await model.agenerate([[HumanMessage("Hi")]])
        stream = await model.astream_events("Hi", version="v3")
        await stream.output
    assert first.usage_metadata is not None
    total = counted.usage_metadata["large"]["total_tokens"]
    assert total == 4 * first.usage_metadata["total_tokens"]


async def test_a_request_is_one_chain_with_the_workers_run_below_it(
    fake: FakeOpenAIServer,
) -> None:
    fake.faults = FaultPlan({"small": server_error()})
    listener = Listener()
    await ChatXRouter(pool(fake), policy="cheapest").ainvoke("Hi", {"callbacks": [listener]})
    expected = ["chain xrouter", "model", "error", "model", "end", "chain collect"]
    assert listener.heard == expected


async def test_astream_events_tells_of_one_model_and_all_of_its_tokens(
    fake: FakeOpenAIServer,
) -> None:
    model = ChatXRouter(pool(fake), policy="cheapest")
    events = [event async for event in model.astream_events("Hi", version="v2")]
    kinds = [event["event"] for event in events]
    assert (kinds.count("on_chat_model_start"), kinds.count("on_chat_model_end")) == (1, 1)
    text = [e["data"]["chunk"].text for e in events if e["event"] == "on_chat_model_stream"]
    assert "".join(text) == SMALL


async def test_batches_answer_in_their_order(fake: FakeOpenAIServer) -> None:
    model = ChatXRouter(pool(fake), policy="cheapest")
    assert [m.text for m in await model.abatch(["a", "b", "c"])] == [SMALL] * 3
    assert [m.text for m in model.batch(["a", "b"])] == [SMALL] * 2


async def test_options_come_by_constructor_bind_call_and_config(fake: FakeOpenAIServer) -> None:
    model = ChatXRouter(pool(fake), policy="cheapest", deny=["small"])
    assert route_of(await model.ainvoke("Hi")) == "large"
    config: Any = {"configurable": {"deny": ["large"]}}
    assert route_of(await model.ainvoke("Hi", config)) == "small"
    assert route_of(await model.bind(deny=["large"]).ainvoke("Hi")) == "small"
    assert route_of(await model.ainvoke("Hi", config, deny=["small"])) == "large"


async def test_a_card_is_asked_by_name_and_the_dial_is_set_by_the_models_name(
    fake: FakeOpenAIServer,
) -> None:
    model = ChatXRouter(pool(fake), policy="cheapest")
    assert route_of(await model.ainvoke("Hi", model="large")) == "large"
    dialled = await model.ainvoke("Hi", model="xrouter:0.3")
    assert dialled.response_metadata["xrouter"]["cost_weight"] == 0.3
    with pytest.raises(RequestOptionError, match=r"'larg', which is no card .* mean 'large'"):
        await model.ainvoke("Hi", model="larg")
    with pytest.raises(RequestOptionError, match="'xrouter:much'; behind xrouter: stands"):
        await model.ainvoke("Hi", model="xrouter:much")


async def test_keywords_reach_the_worker_and_limits_by_its_own_names(
    fake: FakeOpenAIServer,
) -> None:
    model = ChatXRouter(pool(fake), policy="cheapest", temperature=0.25, max_tokens=3, stop=["to"])
    message = await model.ainvoke("Hi", seed=7)
    body = fake.requests[-1].body
    assert (body["temperature"], body["seed"], body["stop"]) == (0.25, 7, ["to"])
    assert message.text == "small says hello"
    assert message.response_metadata["xrouter"]["truncated"]


async def test_a_budget_holds_without_a_graph(fake: FakeOpenAIServer) -> None:
    for mode in ("error", "interrupt"):  # nobody could resume: no graph is running
        budget = Budget("0.0000001", on_exceeded=mode)  # type: ignore[arg-type]
        with pytest.raises(BudgetExceededError):
            await ChatXRouter(pool(fake), budget=budget).ainvoke("Hi")
    assert not fake.requests


async def test_tools_reach_the_workers_own_bind_tools_as_given() -> None:
    worker = scripted("small")
    model = ChatXRouter(ModelPool([worker]))
    bound = model.bind_tools([add], tool_choice="any", strict=True)
    assert [tool["function"]["name"] for tool in bound.kwargs["tools"]] == ["add"]  # type: ignore[attr-defined]
    await bound.ainvoke("Add 1 and 2")
    (call,) = worker.model.calls  # type: ignore[union-attr]
    assert (call.kwargs["tool_choice"], call.kwargs["strict"]) == ("any", True)
    assert [tool["function"]["name"] for tool in call.tools] == ["add"]


async def test_several_tools_are_called_at_once_and_their_model_goes_on() -> None:
    asked = AIMessage(
        "",
        tool_calls=[
            {"name": "add", "args": {"a": 1, "b": n}, "id": str(n), "type": "tool_call"}
            for n in (1, 2)
        ],
    )
    large = scripted("large", [asked, "done"])
    cards = ModelPool([scripted("small"), large])
    first = ChatXRouter(cards, policy="fixed:large").bind_tools([add])
    message = await first.ainvoke("Add")
    results = [add.invoke(call) for call in message.tool_calls]
    history = [HumanMessage("Add"), message, *results]
    router = Router(cards, "fixed:small")
    assert route_of(await ChatXRouter(router).bind_tools([add]).ainvoke(history)) == "large"
    # Without that tool bound it is another agent's loop: the policy is asked.
    assert route_of(await ChatXRouter(router).ainvoke(history)) == "small"


async def test_an_image_reaches_only_cards_that_can_see(fake: FakeOpenAIServer) -> None:
    cards = ModelPool(
        [
            card(fake, "small", capabilities=["tools"]),
            card(fake, "large", capabilities=["tools", "vision"]),
        ]
    )
    picture = {
        "type": "image",
        "base64": base64.b64encode(b"\x89PNG").decode(),
        "mime_type": "image/png",
    }
    question = HumanMessage([{"type": "text", "text": "What is it?"}, picture])  # type: ignore[list-item]
    assert route_of(await ChatXRouter(cards, policy="cheapest").ainvoke([question])) == "large"


async def test_an_answer_out_of_the_cache_is_free_and_the_policy_was_asked(
    fake: FakeOpenAIServer,
) -> None:
    model = ChatXRouter(pool(fake), policy="cheapest", cache=InMemoryCache())
    first, second = await model.ainvoke("Hi"), await model.ainvoke("Hi")
    assert fake.calls == {"small": 1}
    assert (first.content, route_of(second)) == (second.content, "small")
    assert float(second.response_metadata["xrouter"]["cost_usd"]) == 0.0


async def test_output_version_is_the_workers(fake: FakeOpenAIServer) -> None:
    model = ChatXRouter(pool(fake), policy="cheapest", output_version="v1")
    message = await model.ainvoke("Hi")
    assert [block["type"] for block in message.content] == ["text"]  # type: ignore[index]


async def test_a_rate_limiter_is_asked_before_anybody_else(fake: FakeOpenAIServer) -> None:
    limiter = InMemoryRateLimiter(requests_per_second=1000)
    await ChatXRouter(pool(fake), rate_limiter=limiter).ainvoke("Hi")
    assert limiter.last is not None


async def test_the_timeout_is_for_the_whole_request(fake: FakeOpenAIServer) -> None:
    fake.faults = FaultPlan({"small": hang(), "large": hang()})
    with pytest.raises(TimeoutError):
        await ChatXRouter(pool(fake), timeout=0.2).ainvoke("Hi")


async def test_all_failed_is_the_nodes_error(fake: FakeOpenAIServer) -> None:
    fake.faults = FaultPlan({"small": server_error(), "large": server_error()})
    with pytest.raises(AllCandidatesFailedError):
        await ChatXRouter(pool(fake)).ainvoke("Hi")


def test_the_profile_has_the_widest_window_and_what_is_known(fake: FakeOpenAIServer) -> None:
    cards = ModelPool(
        [
            card(fake, "small", context_window=4096, capabilities=["tools"]),
            card(fake, "large", context_window=32768, capabilities=["tools", "vision"]),
        ]
    )
    profile = ChatXRouter(cards).profile
    assert profile is not None
    assert profile["max_input_tokens"] == 32768
    assert (profile["image_inputs"], profile["tool_calling"]) == (True, True)
    assert profile["audio_inputs"] is False
    assert "image_inputs" not in (ChatXRouter(pool(fake)).profile or {})


def test_it_is_saved_without_keys_and_loaded_as_the_same(
    fake: FakeOpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_KEY", "sk-very-secret-0123456789")
    cards = ModelPool([card(fake, "small", api_key_env="SOME_KEY"), card(fake, "large")])
    model = ChatXRouter(cards, policy="cheapest", deny=["large"], cost_weight=0.5)
    text = dumps(model)
    assert "sk-very-secret" not in text
    again = loads(text, allowed_objects=[ChatXRouter], valid_namespaces=["xrouter_lg"])
    assert again.asdict() == model.asdict()
    assert again.router.pool.fingerprint == cards.fingerprint
    assert route_of(again.invoke("Hi")) == "small"


def test_fields_may_be_made_configurable(fake: FakeOpenAIServer) -> None:
    model = ChatXRouter(pool(fake), policy="cheapest").configurable_fields(
        policy=ConfigurableField(id="by"), temperature=ConfigurableField(id="heat")
    )
    assert model.invoke("Hi").response_metadata["xrouter"]["route"] == "small"  # type: ignore[union-attr]
    other = model.with_config(configurable={"by": "fixed:large", "heat": 0.5})
    assert other.invoke("Hi").response_metadata["xrouter"]["route"] == "large"  # type: ignore[union-attr]
    assert fake.requests[-1].body["temperature"] == 0.5
    either = ChatXRouter(pool(fake), policy="cheapest").configurable_alternatives(
        ConfigurableField(id="which"),
        default_key="a",
        b=ChatXRouter(pool(fake), policy="fixed:large"),
    )
    chosen = either.invoke("Hi", config={"configurable": {"which": "b"}})
    assert chosen.response_metadata["xrouter"]["route"] == "large"  # type: ignore[union-attr]


def test_a_chain_with_it_is_saved_and_loaded(
    fake: FakeOpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    cards = {"models": [{"name": "small", "model": "small", "base_url": fake.base_url}]}
    prompt = ChatPromptTemplate.from_template("Capital of {country}?")
    chain = prompt | ChatXRouter(cards) | StrOutputParser()
    known: list[Any] = [RunnableSequence, ChatPromptTemplate, HumanMessagePromptTemplate]
    known += [PromptTemplate, StrOutputParser, ChatXRouter]
    again = loads(dumps(chain), allowed_objects=known, valid_namespaces=["xrouter_lg"])
    assert again.invoke({"country": "France"}) == chain.invoke({"country": "France"})
    with pytest.raises(ValueError, match="ChatXRouter"):
        loads(dumps(chain), allowed_objects=known[:-1], valid_namespaces=["xrouter_lg"])


def test_a_policy_object_can_not_be_saved(fake: FakeOpenAIServer) -> None:
    assert '"not_implemented"' in dumps(ChatXRouter(pool(fake), policy=prefers("small")))


def test_messages_are_trimmed_by_its_own_count(fake: FakeOpenAIServer) -> None:
    model = ChatXRouter(pool(fake))
    history = [HumanMessage(f"{n} {'word ' * 40}") for n in range(10)]
    kept = trim_messages(history, max_tokens=150, token_counter=model)
    assert 0 < len(kept) < 10
    assert model.get_num_tokens_from_messages(kept) <= 150


def test_a_model_without_a_pool_reads_the_environment(
    fake: FakeOpenAIServer, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XROUTER_POOL", raising=False)
    with pytest.raises(ConfigurationError, match=r"no pool; give one, .* XROUTER_POOL"):
        ChatXRouter()
    file = tmp_path / "pool.yaml"
    entry = f"{{name: small, model: small, base_url: '{fake.base_url}'}}"
    file.write_text(f"models: [{entry}]")
    monkeypatch.setenv("XROUTER_POOL", str(file))
    monkeypatch.setenv("XROUTER_POLICY", "cheapest")
    assert route_of(ChatXRouter().invoke("Hi")) == "small"


@pytest.mark.parametrize(
    ("option", "fix"),
    [
        ("polcy", "did you mean 'policy'"),
        ("max_retries", "on the pool's cards"),
        ("model", "on the pool's cards"),
    ],
)
def test_an_option_that_it_does_not_take_is_named(
    option: str, fix: str, fake: FakeOpenAIServer
) -> None:
    with pytest.raises(ConfigurationError, match=f"no option '{option}'; .*{fix}"):
        ChatXRouter(pool(fake), **{option: 1})


def test_no_message_is_an_error(fake: FakeOpenAIServer) -> None:
    with pytest.raises(EmptyMessagesError, match="no message to answer"):
        ChatXRouter(pool(fake)).invoke([])


def test_it_is_a_chat_model_to_everybody(fake: FakeOpenAIServer) -> None:
    model = ChatXRouter(pool(fake))
    assert isinstance(model, BaseChatModel)
    assert model._llm_type == "xrouter"


async def test_what_bound_tools_need_is_measured_once(fake: FakeOpenAIServer) -> None:
    fake.add_model(FakeModel(name="obliging", reply=obliging))
    bound = ChatXRouter(ModelPool([card(fake, "obliging")])).bind_tools([add])
    for _ in range(3):
        message = await bound.ainvoke("Add 4 and 4")
    assert message.tool_calls[0]["args"] == {"a": 4, "b": 4}
    assert len(bound.bound._askings) == 1  # type: ignore[attr-defined]
