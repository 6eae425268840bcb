"""``/v1/chat/completions`` as OpenAI's own client meets it."""

from __future__ import annotations

import base64
from typing import Any

import httpx
import pytest
from openai import BadRequestError, NotFoundError, OpenAI

from tests.serve.conftest import Serve
from tests.support.apps import card, pool, prefers
from xrouter_lg import ModelCard, ModelPool
from xrouter_lg.testing import (
    FakeModel,
    FakeOpenAIServer,
    FakeProviders,
    FaultPlan,
    Reply,
    ToolCall,
    cut_stream,
    server_error,
)

SMALL = "small says hello to you"
HI: Any = [{"role": "user", "content": "Hi"}]
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a town.",
        "parameters": {"type": "object", "properties": {"town": {"type": "string"}}},
    },
}
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"\0" * 40).decode()


def ask(client: OpenAI, model: str = "xrouter", messages: Any = HI, **more: Any) -> Any:
    return client.chat.completions.create(model=model, messages=messages, **more)


def sent(fake: FakeOpenAIServer) -> dict[str, Any]:
    return fake.requests[-1].body


def test_the_answer_usage_and_ending_are_the_workers(
    client: OpenAI, fake: FakeOpenAIServer
) -> None:
    done = ask(client)
    (choice,) = done.choices
    assert (choice.message.content, choice.finish_reason, done.model) == (SMALL, "stop", "small")
    (line,) = fake.bill
    assert done.usage.prompt_tokens == line.usage.prompt_tokens
    assert done.usage.completion_tokens == line.usage.completion_tokens


def test_cached_and_reasoning_tokens_are_told_apart(client: OpenAI) -> None:
    usage = ask(client, "large").usage
    assert usage.prompt_tokens_details.cached_tokens == 2
    assert usage.completion_tokens_details.reasoning_tokens == 3


def test_headers_tell_route_cost_policy_and_trace(client: OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(model="xrouter", messages=HI)
    assert raw.headers["x-xrouter-route"] == "small"
    assert float(raw.headers["x-xrouter-cost-usd"]) > 0
    assert raw.headers["x-xrouter-policy"] == "cheapest/1"
    done = raw.parse()
    assert done.id == f"chatcmpl-{raw.headers['x-xrouter-trace-id']}"
    assert done.model_extra["xrouter"]["cost_usd"] == raw.headers["x-xrouter-cost-usd"]


def test_a_cards_name_fixes_the_card(client: OpenAI) -> None:
    assert ask(client, "large").choices[0].message.content.startswith("large says")


def test_a_weight_behind_the_routers_name_reaches_the_policy(
    serve: Serve, fake: FakeOpenAIServer
) -> None:
    policy = prefers("small")
    with serve(policy=policy) as url, OpenAI(base_url=f"{url}/v1", api_key="x") as client:
        ask(client, "xrouter:0.3")
    assert policy.asked[0].cost_weight == 0.3


@pytest.mark.parametrize("model", ["gpt-9", "xrouter:dear", "", " "])
def test_an_unknown_model_is_not_found(client: OpenAI, model: str) -> None:
    with pytest.raises((NotFoundError, BadRequestError)) as caught:
        ask(client, model)
    assert caught.value.body["param"] == "model"  # type: ignore[index]


def test_a_stream_has_the_workers_tokens_and_ends_with_the_record(client: OpenAI) -> None:
    chunks = list(ask(client, stream=True))
    text = "".join(c.choices[0].delta.content or "" for c in chunks)
    assert (text, chunks[0].choices[0].delta.role) == (SMALL, "assistant")
    assert [c.choices[0].finish_reason for c in chunks if c.choices[0].finish_reason] == ["stop"]
    assert len({c.id for c in chunks}) == 1
    assert chunks[-1].model_extra["xrouter"]["route"] == "small"
    assert all(c.usage is None for c in chunks)


def test_usage_comes_behind_a_stream_when_it_is_asked_for(
    client: OpenAI, fake: FakeOpenAIServer
) -> None:
    *_, last = ask(client, "large", stream=True, stream_options={"include_usage": True})
    assert last.choices == []
    assert last.usage.completion_tokens == next(iter(fake.bill)).usage.completion_tokens
    assert last.usage.completion_tokens_details.reasoning_tokens == 3


def test_a_stream_on_the_wire_is_events_with_a_done(url: str) -> None:
    body = {"model": "xrouter", "messages": HI, "stream": True}
    with httpx.stream("POST", f"{url}/v1/chat/completions", json=body) as response:
        lines = [line for line in response.iter_lines() if line]
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["x-xrouter-route"] == "small"
    assert all(line.startswith("data: ") for line in lines)
    assert lines[-1] == "data: [DONE]"


def calling(*calls: ToolCall) -> FakeModel:
    return FakeModel(name="small", reply=Reply(tool_calls=calls))


@pytest.mark.parametrize("stream", [False, True])
def test_parallel_tool_calls_come_as_the_worker_made_them(
    client: OpenAI, fake: FakeOpenAIServer, stream: bool
) -> None:
    fake.add_model(
        calling(
            ToolCall("weather", {"town": "Paris"}, id="a"),
            ToolCall("weather", {"town": "Rome"}, id="b"),
        )
    )
    if stream:
        with client.chat.completions.stream(
            model="xrouter", messages=HI, tools=[WEATHER]
        ) as events:
            done: Any = events.get_final_completion()
    else:
        done = ask(client, tools=[WEATHER])
    (choice,) = done.choices
    assert choice.finish_reason == "tool_calls"
    assert [(c.id, c.function.name) for c in choice.message.tool_calls] == [
        ("a", "weather"),
        ("b", "weather"),
    ]
    assert "Rome" in choice.message.tool_calls[1].function.arguments
    assert sent(fake)["tools"] == [WEATHER]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("required", "required"),
        ("none", "none"),
        (
            {"type": "function", "function": {"name": "weather"}},
            {"type": "function", "function": {"name": "weather"}},
        ),
    ],
)
def test_a_tool_choice_reaches_the_worker(
    client: OpenAI, fake: FakeOpenAIServer, given: Any, expected: Any
) -> None:
    ask(client, tools=[WEATHER], tool_choice=given, parallel_tool_calls=False)
    assert sent(fake)["tool_choice"] == expected
    assert sent(fake)["parallel_tool_calls"] is False


def test_a_tool_loop_stays_with_its_card(serve: Serve, fake: FakeOpenAIServer) -> None:
    """The cheapest card would answer, were it not for who asked for the tool."""
    fake.add_model(
        FakeModel(
            name="large",
            reply=lambda body: (
                "It rains."
                if body["messages"][-1]["role"] == "tool"
                else Reply(tool_calls=[ToolCall("weather", {"town": "Paris"})])
            ),
        )
    )
    with serve() as url, OpenAI(base_url=f"{url}/v1", api_key="x") as client:
        first = ask(client, "large", tools=[WEATHER]).choices[0].message
        history = [*HI, first.model_dump(exclude_none=True)]
        call_id = first.tool_calls[0].id
        history.append({"role": "tool", "tool_call_id": call_id, "content": "rain"})
        done = ask(client, messages=history, tools=[WEATHER])
    assert done.choices[0].message.content == "It rains."
    assert sent(fake)["messages"][1]["tool_calls"][0]["id"] == call_id


def test_an_image_reaches_the_worker_as_it_was_given(serve: Serve, fake: FakeOpenAIServer) -> None:
    part = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}
    content: Any = [{"type": "text", "text": "What is it?"}, part]
    ask_with = [{"role": "user", "content": content}]
    with serve() as url, OpenAI(base_url=f"{url}/v1", api_key="x") as client:
        ask(client, "large", ask_with)
    assert sent(fake)["messages"] == ask_with


def test_unknown_and_known_fields_reach_the_worker_untouched(
    client: OpenAI, fake: FakeOpenAIServer
) -> None:
    form: Any = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}}
    ask(
        client,
        seed=7,
        top_p=0.5,
        logit_bias={"5": 1},
        metadata={"a": "b"},
        response_format=form,
        extra_body={"chat_template_kwargs": {"thinking": False}, "tenant": "nobody", "deny": 3},
    )
    body = sent(fake)
    assert (body["seed"], body["top_p"], body["logit_bias"]) == (7, 0.5, {"5": 1})
    assert (body["metadata"], body["response_format"]) == ({"a": "b"}, form)
    assert body["chat_template_kwargs"] == {"thinking": False}
    assert (body["tenant"], body["deny"]) == ("nobody", 3)


@pytest.mark.parametrize(
    ("kind", "answers"), [("json_schema", "large"), ("json_object", "small"), ("text", "small")]
)
def test_a_schema_is_answered_by_a_card_that_can_keep_to_it(
    serve: Serve, fake: FakeOpenAIServer, kind: str, answers: str
) -> None:
    form: Any = {"type": kind}
    if kind == "json_schema":
        form["json_schema"] = {"name": "a", "schema": {"type": "object"}}
    cards = ModelPool([card(fake, "small", capabilities=["tools"]), card(fake, "large")])
    with serve(cards=cards) as url, OpenAI(base_url=f"{url}/v1", api_key="x") as client:
        ask(client, response_format=form)
    assert fake.calls == {answers: 1}


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_limit_cuts_and_says_so(client: OpenAI, name: str, stream: bool) -> None:
    given: Any = {name: 2}
    if stream:
        *_, last = ask(client, stream=True, **given)
        assert last.choices[0].finish_reason == "length"
    else:
        (choice,) = ask(client, **given).choices
        assert (choice.message.content, choice.finish_reason) == ("small says", "length")


@pytest.mark.parametrize("stop", ["hello", ["hello", "nothing"]])
def test_stop_stops(client: OpenAI, stop: Any) -> None:
    assert ask(client, stop=stop).choices[0].message.content == "small says "


@pytest.mark.parametrize("stream", [False, True])
def test_logprobs_are_the_workers(client: OpenAI, stream: bool) -> None:
    done = ask(client, logprobs=True, top_logprobs=2, stream=stream)
    found = [c.choices[0].logprobs for c in done] if stream else [done.choices[0].logprobs]
    tokens = [token for probs in found if probs for token in probs.content]
    assert "".join(token.token for token in tokens) == SMALL
    assert len(tokens[0].top_logprobs) == 2


@pytest.mark.parametrize("stream", [False, True])
def test_n_choices_are_n_answers_on_one_bill(
    client: OpenAI, fake: FakeOpenAIServer, stream: bool
) -> None:
    if stream:
        texts = ["", "", ""]
        for chunk in ask(client, n=3, stream=True):
            texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    else:
        done = ask(client, n=3)
        texts = [choice.message.content for choice in done.choices]
        assert done.usage.completion_tokens == fake.bill.totals.completion_tokens
    assert texts == [SMALL] * 3
    assert fake.calls == {"small": 3}


@pytest.mark.parametrize("n", [0, -1, 17, 1.5, True, "2"])
def test_another_n_is_refused_before_anything_is_paid(
    client: OpenAI, fake: FakeOpenAIServer, n: Any
) -> None:
    with pytest.raises(BadRequestError) as caught:
        ask(client, n=n)
    assert caught.value.param == "n"
    assert fake.calls == {}


def test_a_card_that_fails_costs_the_next_one(client: OpenAI, fake: FakeOpenAIServer) -> None:
    fake.faults = FaultPlan({"small": [server_error()]})
    done = ask(client)
    assert done.model == "large"
    assert done.model_extra["xrouter"]["fallbacks"][0]["card"] == "small"


def test_a_stream_that_breaks_ends_with_an_error_and_no_second_answer(
    client: OpenAI, fake: FakeOpenAIServer
) -> None:
    from openai import APIError

    fake.faults = FaultPlan({"small": [cut_stream(3)]})
    stream = ask(client, stream=True)
    text = "".join(next(stream).choices[0].delta.content or "" for _ in range(3))
    with pytest.raises(APIError) as caught:
        list(stream)
    assert SMALL.startswith(text)
    assert caught.value.code == "stream_interrupted"
    assert "large" not in fake.calls


def test_options_of_the_router_ride_in_a_field_of_their_own(
    client: OpenAI, fake: FakeOpenAIServer
) -> None:
    done = ask(client, extra_body={"xrouter": {"deny": ["small"]}})
    assert done.model == "large"
    assert "xrouter" not in sent(fake)


def test_models_lists_the_router_and_each_card(client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["xrouter", "small", "large"]
    assert client.models.retrieve("small").id == "small"
    with pytest.raises(NotFoundError):
        client.models.retrieve("medium")


@pytest.mark.parametrize("stream", [False, True])
def test_a_worker_that_speaks_anthropic_answers_in_openais_words(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "test")
    reply = Reply(content="Let me see.", tool_calls=[ToolCall("weather", {"town": "Paris"})])
    with FakeProviders([FakeModel(name="claude", reply=reply)]) as fake:
        url = fake.base_url_of("anthropic")
        card = ModelCard(name="claude", model="anthropic:claude", base_url=url, price=None)
        with (
            serve(cards=ModelPool([card])) as url,
            OpenAI(base_url=f"{url}/v1", api_key="x") as client,
        ):
            given: Any = {"tools": [WEATHER], "tool_choice": "required", "user": "me", "seed": 1}
            if stream:
                with client.chat.completions.stream(
                    model="xrouter", messages=HI, stream_options={"include_usage": True}, **given
                ) as events:
                    done: Any = events.get_final_completion()
            else:
                done = ask(client, **given)
        (line,) = fake.bill
    (choice,) = done.choices
    assert (choice.message.content, choice.finish_reason) == ("Let me see.", "tool_calls")
    (call,) = choice.message.tool_calls
    assert (call.function.name, call.function.arguments) == ("weather", '{"town":"Paris"}') or (
        call.function.name == "weather" and "Paris" in call.function.arguments
    )
    assert done.usage.completion_tokens == line.usage.completion_tokens


def test_a_pool_of_one_card_has_no_other_to_ask(serve: Serve, fake: FakeOpenAIServer) -> None:
    fake.faults = FaultPlan({"small": [server_error()] * 9})
    with serve(cards=pool(fake, "small")) as url:
        told = httpx.post(f"{url}/v1/chat/completions", json={"model": "small", "messages": HI})
    assert told.status_code == 502
    assert told.json()["error"]["type"] == "server_error"


def test_usage_that_a_worker_repeats_on_every_chunk_is_told_once(serve: Serve) -> None:
    with FakeProviders([FakeModel(name="small", reply="one two three four")]) as server:
        base_url = server.base_url_of("compatible")
        worker = ModelCard(name="small", model="small", base_url=base_url)
        with (
            serve(cards=ModelPool([worker])) as url,
            OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as client,
        ):
            *_, last = ask(client, "small", stream=True, stream_options={"include_usage": True})
        (line,) = server.bill
    assert last.usage.completion_tokens == line.usage.completion_tokens
    assert last.usage.prompt_tokens == line.usage.prompt_tokens
