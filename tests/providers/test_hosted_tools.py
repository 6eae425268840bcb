"""What providers' own tools do is billed as their documents say, by their real classes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import HumanMessage

from tests.support.apps import app
from tests.support.provider_matrix import Provider, answered, cells, except_, record_of
from tests.support.providers import Answer, events, keys, loopback, plain_answer
from xrouter_lg import Budget, ModelPool, Recorder, TraceStore, XRouterNode
from xrouter_lg.errors import BudgetExceededError
from xrouter_lg.testing import FakeModel, FakeProviders, Reply, Usage

TOKENS = Decimal(100 + 10 * 10) / 1_000_000
"""Of 100 tokens in and 10 out, at the card's price."""
_NONE = except_("has none, or not in this API", "openai", "mistralai", "ollama", "deepseek")
_NONE |= except_("whatever stands behind it", "compatible")
NO_SEARCH = _NONE | except_("is a part of its own bill", "openrouter")
NO_CODE = _NONE | except_("has none, or not in this API", "openrouter", "perplexity")
NO_CODE |= except_("a matter of tokens", "google_genai")
NO_PICTURES = _NONE | except_(
    "makes none, or tells no tokens of it", "anthropic", "openrouter", "xai", "perplexity"
)
PICTURE = {"type": "image_generation_call", "id": "ig_1", "status": "completed", "result": "AAAA"}
CODE = {
    "type": "code_interpreter_call",
    "id": "ci_1",
    "code": "1",
    "container_id": "cntr_1",
    "outputs": [],
    "status": "completed",
}
SHELL = {
    "type": "shell_call",
    "id": "sh_1",
    "call_id": "c1",
    "status": "completed",
    "action": {"commands": ["ls"]},
    "environment": {"type": "container_reference", "container_id": "cntr_2"},
}
NO_WEB = {"web_search": {"num_requests": 0}}
MADE = {
    "input_tokens": 1000,
    "input_tokens_details": {"image_tokens": 400, "text_tokens": 600},
    "output_tokens": 5000,
    "total_tokens": 6000,
}


def tool(kind: str, **more: Any) -> dict[str, Any]:
    return {"type": kind, **more}


def cost(
    monkeypatch: pytest.MonkeyPatch,
    model: str,
    said: Any,
    tools: list[dict[str, Any]],
    *,
    traces: Recorder | None = None,
    **card: Any,
) -> dict[str, Any]:
    with loopback(lambda path, body, number: said(path, body)) as server:
        keys(monkeypatch, server.url)
        pool = ModelPool([server.card(model, max_retries=0, **card)])
        node = XRouterNode(pool, traces=traces).bind_tools(tools)
        answer = node.invoke({"messages": [HumanMessage("Hi")]})["messages"][-1]
    record: dict[str, Any] = answer.response_metadata["xrouter"]
    return record


RESPONSES = pytest.mark.parametrize(
    ("items", "tools", "used", "usd"),
    [
        ([CODE, {**CODE, "id": "ci_2"}], [tool("code_interpreter")], None, "0.03"),
        (
            [CODE, {**CODE, "id": "ci_2", "container_id": "cntr_9"}],
            [tool("code_interpreter")],
            None,
            "0.06",
        ),
        (
            [CODE],
            [tool("code_interpreter", container={"type": "auto", "memory_limit": "16g"})],
            None,
            "0.48",
        ),
        (
            [PICTURE],
            [tool("image_generation", model="gpt-image-1.5")],
            MADE,
            "0.1662",  # 600 x 5 + 400 x 8 + 5,000 x 32 a million
        ),
        ([PICTURE], [tool("image_generation", model="gpt-image-9")], MADE, "0.207"),
        (
            [{**PICTURE, "quality": "low", "size": "1024x1024"}],
            [tool("image_generation")],
            None,
            "0.01088",
        ),
        (
            [{**PICTURE, "quality": "medium", "size": "1024x1536"}, {**PICTURE, "id": "ig_2"}],
            [tool("image_generation")],
            None,
            "0.34432",
        ),
        ([{**PICTURE, "status": "failed"}], [tool("image_generation")], None, "0"),
    ],
    ids=["one", "two", "large", "named", "unnamed", "low", "medium", "failed"],
)


def response(items: list[Any], used: Any) -> dict[str, Any]:
    _, said = plain_answer("/responses", {"model": "gpt-x"})[:2]
    said = {**said, "output": [*items, *said["output"]]}
    return said if used is None else {**said, "tool_usage": {"image_gen": used, **NO_WEB}}


@RESPONSES
@pytest.mark.parametrize("version", ["v0", "responses/v1", "v1"])
def test_openais_tools_are_billed(
    monkeypatch: pytest.MonkeyPatch,
    items: list[Any],
    tools: list[Any],
    used: Any,
    usd: str,
    version: str,
) -> None:
    params = {"use_responses_api": True, "output_version": version}
    record = cost(
        monkeypatch, "openai:gpt-x", lambda *_: (200, response(items, used)), tools, params=params
    )
    assert Decimal(record["cost_usd"]) - TOKENS == Decimal(usd)


@RESPONSES
def test_openais_tools_are_billed_of_a_stream(
    monkeypatch: pytest.MonkeyPatch, items: list[Any], tools: list[Any], used: Any, usd: str
) -> None:
    whole = response(items, used)
    begun = {**whole, "status": "in_progress", "output": [], "usage": None}
    begun.pop("tool_usage", None)
    told: list[Mapping[str, Any]] = [{"type": "response.created", "response": begun}]
    for place, item in enumerate(whole["output"]):
        which = {"output_index": place, "item": item}
        told.append({"type": "response.output_item.added", **which})
        if item["type"] == "message":
            where = {"output_index": place, "content_index": 0, "item_id": item["id"]}
            part = {"type": "output_text", "text": "", "annotations": []}
            told.append({"type": "response.content_part.added", **where, "part": part})
            told.append({"type": "response.output_text.delta", **where, "delta": "Paris."})
        told.append({"type": "response.output_item.done", **which})
    told.append({"type": "response.completed", "response": whole})
    numbered = [{**each, "sequence_number": n} for n, each in enumerate(told)]
    params = {"use_responses_api": True, "streaming": True}
    record = cost(
        monkeypatch, "openai:gpt-x", lambda *_: (200, events(*numbered)), tools, params=params
    )
    assert Decimal(record["cost_usd"]) - TOKENS == Decimal(usd)


def test_a_hosted_shell_is_billed_which_langchain_drops(monkeypatch: pytest.MonkeyPatch) -> None:
    shell = tool("shell", environment={"type": "container_auto", "memory_limit": "4g"})
    params = {"use_responses_api": True, "model_kwargs": {"tools": [shell]}}
    record = cost(
        monkeypatch, "openai:gpt-x", lambda *_: (200, response([SHELL], None)), [], params=params
    )
    assert Decimal(record["cost_usd"]) - TOKENS == Decimal("0.12")


def claude(usage: Mapping[str, Any], *blocks: Mapping[str, Any]) -> Any:
    def said(path: str, body: dict[str, Any]) -> Answer:
        _, plain = plain_answer("/messages", body)[:2]
        counted = {"input_tokens": 100, "output_tokens": 10, **usage}
        return 200, {**plain, "content": [*blocks, *plain["content"]], "usage": counted}

    return said


RUN = {"type": "server_tool_use", "id": "s1", "name": "bash_code_execution", "input": {}}
COMPACTED = {
    "type": "compaction",
    "input_tokens": 50_000,
    "output_tokens": 2_000,
    "cache_read_input_tokens": 0,
    "cache_creation_input_tokens": 0,
}
ADVISED = {
    "type": "advisor_message",
    "model": "claude-opus-4-5",
    "input_tokens": 1_000,
    "output_tokens": 100,
    "cache_read_input_tokens": 200,
    "cache_creation_input_tokens": 0,
}


@pytest.mark.parametrize(
    ("usage", "blocks", "tools", "usd"),
    [
        ({}, [RUN, RUN], [tool("code_execution_20250825", name="code_execution")], "0.0041667"),
        ({}, [RUN], [tool("web_search_20260209", name="web_search")], "0"),
        ({"iterations": [COMPACTED]}, [], [], "0.07"),
        ({"iterations": [ADVISED]}, [], [], "0.0076"),
        ({"iterations": [{**ADVISED, "model": "nobody-knows"}]}, [], [], "0.0022"),
    ],
    ids=["code", "code of a search", "compaction", "advisor", "unknown advisor"],
)
def test_anthropics_tools_and_second_models_are_billed(
    monkeypatch: pytest.MonkeyPatch, usage: Any, blocks: Any, tools: Any, usd: str
) -> None:
    record = cost(monkeypatch, "anthropic:claude-x", claude(usage, *blocks), tools)
    assert round(Decimal(record["cost_usd"]) - TOKENS, 7) == Decimal(usd)


def hop(kind: str, model: str, inputs: int, outputs: int) -> dict[str, Any]:
    count = {"input_tokens": inputs, "output_tokens": outputs}
    cached = {"cache_read_input_tokens": 0, "cache_creation_input_tokens": 0}
    return {"type": kind, "model": model, **count, **cached}


@pytest.mark.parametrize(("outputs", "beside"), [(50, "0.00195"), (1, "0")])
@pytest.mark.parametrize("streaming", [False, True])
def test_whoever_declined_amid_an_answer_is_billed_beside_who_gave_it(
    monkeypatch: pytest.MonkeyPatch, outputs: int, beside: str, streaming: bool
) -> None:
    asked, answered = "claude-sonnet-4-5", "claude-opus-4-5"
    hops = [hop("message", asked, 400, outputs), hop("fallback_message", answered, 100, 10)]
    count = {"input_tokens": 100, "output_tokens": 10, "iterations": hops}

    def said(path: str, body: dict[str, Any], number: int) -> Answer:
        if not streaming:
            return claude(count)(path, body)  # type: ignore[no-any-return]
        message = {"id": "m1", "type": "message", "role": "assistant", "model": asked}
        begun = {
            **message,
            "content": [],
            "stop_reason": None,
            "usage": {**count, "iterations": []},
        }
        ended = {"stop_reason": "end_turn", "stop_sequence": None}
        text = {"type": "text_delta", "text": "Paris."}
        block = {"type": "text", "text": ""}
        return 200, events(
            {"type": "message_start", "message": begun},
            {"type": "content_block_start", "index": 0, "content_block": block},
            {"type": "content_block_delta", "index": 0, "delta": text},
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": ended, "usage": count},
            {"type": "message_stop"},
        )

    with loopback(said) as server:
        keys(monkeypatch, server.url)
        params = {"streaming": True} if streaming else {}
        first = server.card(f"anthropic:{asked}", max_retries=0, params=params)
        other = server.card(f"anthropic:{answered}", price={"input": 5, "output": 25})
        pool = ModelPool([first, dataclasses.replace(other, name="other")])
        node = XRouterNode(pool, policy="fixed:one")
        message = node.invoke({"messages": [HumanMessage("Hi")]})["messages"][-1]
    (charge,) = message.response_metadata["xrouter"]["charges"]
    assert charge["served_model"] == answered
    # 100 x 5 + 10 x 25, and 400 x 3 + 50 x 15 a million of the one that declined
    assert Decimal(charge["cost_usd"]) == Decimal("0.00075") + Decimal(beside)


@pytest.mark.parametrize(("content", "usd"), [([], "0"), ([{"type": "text", "text": "I"}], None)])
def test_a_refusal_before_any_output_costs_nothing(
    monkeypatch: pytest.MonkeyPatch, content: list[Any], usd: str | None
) -> None:
    def said(path: str, body: dict[str, Any]) -> Answer:
        _, plain = plain_answer(path, body)[:2]
        return 200, {**plain, "content": content, "stop_reason": "refusal"}

    def node(path: str, body: dict[str, Any], number: int) -> Answer:
        return said(path, body) if number == 1 else plain_answer(path, body)

    with loopback(node) as server:
        keys(monkeypatch, server.url)
        first = server.card("anthropic:claude-x", max_retries=0)
        pool = ModelPool([first, dataclasses.replace(first, name="other")])
        routed_one = XRouterNode(pool, policy="fixed:one")
        message = routed_one.invoke({"messages": [HumanMessage("Hi")]})["messages"][-1]
    charge = message.response_metadata["xrouter"]["charges"][0]
    assert charge["error"] == "content_filter"
    assert Decimal(charge["cost_usd"]) == (TOKENS if usd is None else Decimal(usd))


@pytest.mark.parametrize(("region", "times"), [("us", "1.1"), ("global", "1"), (None, "1")])
def test_inference_that_stays_in_a_country_costs_more(
    monkeypatch: pytest.MonkeyPatch, region: str | None, times: str
) -> None:
    said = claude({} if region is None else {"inference_geo": region})
    served = {"price": None, "serves": "anthropic:claude-sonnet-4-6"}
    record = cost(monkeypatch, "anthropic:claude-sonnet-4-6", said, [], **served)
    assert Decimal(record["cost_usd"]) == Decimal("0.00045") * Decimal(times)


def completion(**usage: Any) -> Any:
    def said(path: str, body: dict[str, Any]) -> Answer:
        _, plain = plain_answer(path, body)[:2]
        return 200, {**plain, "usage": {**plain["usage"], **usage}}

    return said


def test_xais_tools_are_billed_where_no_cost_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    used = {"web_search_calls": 2, "x_search_calls": 1, "code_interpreter_calls": 3}
    said = completion(server_side_tool_usage_details=used)
    price = {"input": 1, "output": 10, "web_search": "0.005", "code_execution": "0.005"}
    record = cost(monkeypatch, "xai:grok-x", said, [], price=price)
    assert Decimal(record["cost_usd"]) - TOKENS == Decimal("0.03")


def test_sound_is_billed_by_its_length(monkeypatch: pytest.MonkeyPatch) -> None:
    said = completion(prompt_audio_seconds=300)
    record = cost(monkeypatch, "mistralai:voxtral-x", said, [])
    assert Decimal(record["cost_usd"]) - TOKENS == Decimal("0.04")
    own = {"input": 1, "output": 10, "input_audio_hour": "0.24"}
    record = cost(monkeypatch, "mistralai:voxtral-x", said, [], price=own)
    assert Decimal(record["cost_usd"]) - TOKENS == Decimal("0.02")


@pytest.mark.parametrize(("model", "fees"), [("gemini-2.5-flash", 1), ("gemini-3-pro", 3)])
def test_a_grounded_prompt_or_each_of_its_searches_is_billed(
    monkeypatch: pytest.MonkeyPatch, model: str, fees: int
) -> None:
    def said(path: str, body: dict[str, Any]) -> Answer:
        _, plain = plain_answer(path, body)[:2]
        found = {**plain["candidates"][0], "groundingMetadata": {"webSearchQueries": list("abc")}}
        return 200, {**plain, "candidates": [found], "modelVersion": model}

    record = cost(monkeypatch, f"google_genai:{model}", said, [{"google_search": {}}])
    assert Decimal(record["cost_usd"]) - TOKENS == fees * Decimal("0.01")


def test_the_trace_tells_the_same_cost(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with Recorder(tmp_path / "t.db") as recorder:
        record = cost(
            monkeypatch,
            "openai:gpt-x",
            lambda *_: (200, response([PICTURE], MADE)),
            [tool("image_generation", model="gpt-image-1.5")],
            params={"use_responses_api": True},
            traces=recorder,
        )
    with TraceStore(tmp_path / "t.db") as store:
        [trace] = store.iter_traces()
    [run] = [run for run in trace.runs if run["run_type"] == "llm"]
    told = run["extra"]["metadata"]["usage_metadata"]["total_cost"]
    assert told == pytest.approx(float(record["cost_usd"]))


@pytest.mark.parametrize(
    ("kind", "least"), [("code_interpreter", "0.03"), ("image_generation", "0.4")]
)
def test_a_budget_sets_aside_what_a_tool_may_cost(
    monkeypatch: pytest.MonkeyPatch, kind: str, least: str
) -> None:
    with loopback() as server:
        keys(monkeypatch, server.url)
        card = server.card("openai:gpt-x", params={"use_responses_api": True}, context_window=1_000)
        node = XRouterNode(ModelPool([card]), budget=Budget(least)).bind_tools([tool(kind)])
        with pytest.raises(BudgetExceededError):
            node.invoke({"messages": [HumanMessage("Hi")]})
        assert server.requests == []


# --- cells of the matrix: the same by every provider's dialect -------------------------------

FEES = {"web_search": Decimal("0.03"), "code_execution": Decimal("0.04")}
"""USD each."""
PICTURES = {"image_tool_output": Decimal(40), "output_image": Decimal(30)}
"""USD per million tokens: of a tool's model, and of a model that makes them itself."""


@cells("hosted tools", "a search of the provider's own costs its fee", without=NO_SEARCH)
def test_a_search_is_billed(provider: Provider, server: FakeProviders) -> None:
    _billed(provider, server, 2 * FEES["web_search"], searches=2)


@cells("hosted tools", "code that the provider runs costs its container, or run", without=NO_CODE)
def test_code_is_billed(provider: Provider, server: FakeProviders) -> None:
    _billed(provider, server, FEES["code_execution"], code_runs=1)


@cells("hosted tools", "a picture costs what the model that makes it asks", without=NO_PICTURES)
def test_a_picture_is_billed(provider: Provider, server: FakeProviders) -> None:
    if provider.name == "responses":  # a tool makes it, with a model of its own
        right = 5_000 * PICTURES["image_tool_output"]
        asked = [tool("image_generation")]
        _billed(provider, server, right / 1_000_000, tools=asked, picture_tokens=5_000)
    else:  # the model itself, among its own tokens
        right = 1_290 * (PICTURES["output_image"] - Decimal(10))
        _billed(
            provider, server, right / 1_000_000, completion_tokens=1_300, image_output_tokens=1_290
        )


def _billed(
    provider: Provider,
    server: FakeProviders,
    beside: Decimal,
    *,
    completion_tokens: int = 10,
    tools: Sequence[Any] = (),
    **did: int,
) -> None:
    """Whole and streamed, an answer costs its tokens at the card's plain rates, and ``beside``."""
    usage = Usage(prompt_tokens=100, completion_tokens=completion_tokens, **did)
    server.add_model(FakeModel(name="m", reply=Reply("It is Paris.", usage=usage)))
    price = {"input": Decimal(1), "output": Decimal(10), **FEES, **PICTURES}
    node = XRouterNode(ModelPool([provider.card(server, price=price)]))
    graph = app(node.bind_tools(tools) if tools else node)
    tokens = Decimal(100 + 10 * completion_tokens) / 1_000_000
    for streamed in (False, True):
        message = answered(graph, streamed=streamed)
        assert Decimal(record_of(message)["cost_usd"]) == tokens + beside, streamed
