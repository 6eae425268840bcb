"""``/v1/responses`` as OpenAI's own client meets it."""

from __future__ import annotations

from typing import Any

import pytest
from openai import BadRequestError, OpenAI

from xrouter_lg.testing import FakeModel, FakeOpenAIServer, Reply, ToolCall

SMALL = "small says hello to you"
WEATHER: Any = {
    "type": "function",
    "name": "weather",
    "description": "The weather of a town.",
    "parameters": {"type": "object", "properties": {"town": {"type": "string"}}},
    "strict": False,
}


def test_a_response_has_text_usage_and_route(client: OpenAI, fake: FakeOpenAIServer) -> None:
    done = client.responses.create(
        model="xrouter", input="Hi", instructions="Be kind.", max_output_tokens=50
    )
    assert (done.output_text, done.status, done.model) == (SMALL, "completed", "small")
    assert done.usage is not None
    assert done.usage.output_tokens == fake.bill.totals.completion_tokens
    assert (done.model_extra or {})["xrouter"]["route"] == "small"
    body = fake.requests[-1].body
    assert [m["role"] for m in body["messages"]] == ["system", "user"]
    assert 50 in (body.get("max_tokens"), body.get("max_completion_tokens"))


def test_a_cut_response_is_incomplete(client: OpenAI) -> None:
    done = client.responses.create(model="small", input="Hi", max_output_tokens=2)
    assert done.status == "incomplete"
    assert done.incomplete_details is not None
    assert done.incomplete_details.reason == "max_output_tokens"


def test_events_are_numbered_and_add_up(client: OpenAI) -> None:
    events = list(client.responses.create(model="xrouter", input="Hi", stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    last = events[-1]
    assert last.type == "response.completed"
    assert ("".join(deltas), last.response.output_text) == (SMALL, SMALL)


@pytest.mark.parametrize("stream", [False, True])
def test_tools_are_called_and_their_results_read(
    client: OpenAI, fake: FakeOpenAIServer, stream: bool
) -> None:
    calls = [ToolCall("weather", {"town": t}, id=t) for t in ("Paris", "Rome")]
    fake.add_model(
        FakeModel(
            name="small",
            reply=lambda body: (
                "It rains." if body["messages"][-1]["role"] == "tool" else Reply(tool_calls=calls)
            ),
        )
    )
    given: Any = {"model": "xrouter", "tools": [WEATHER], "tool_choice": "required"}
    if stream:
        with client.responses.stream(input="Weather?", **given) as events:
            for _ in events:
                pass
            first: Any = events.get_final_response()
    else:
        first = client.responses.create(input="Weather?", **given)
    assert [(item.type, item.call_id, item.name) for item in first.output] == [
        ("function_call", "Paris", "weather"),
        ("function_call", "Rome", "weather"),
    ]
    history: Any = [{"role": "user", "content": "Weather?"}]
    history += [item.model_dump(exclude_none=True) for item in first.output]
    history += [
        {"type": "function_call_output", "call_id": t, "output": "rain"} for t in ("Paris", "Rome")
    ]
    done = client.responses.create(input=history, model="xrouter", tools=[WEATHER])
    assert done.output_text == "It rains."
    sent = fake.requests[-1].body["messages"]
    assert [m["role"] for m in sent] == ["user", "assistant", "tool", "tool"]
    assert len(sent[1]["tool_calls"]) == 2


def test_a_schema_reaches_the_worker_by_its_other_name(
    client: OpenAI, fake: FakeOpenAIServer
) -> None:
    form: Any = {"type": "json_schema", "name": "a", "schema": {"type": "object"}, "strict": True}
    client.responses.create(model="small", input="Hi", text={"format": form})
    told = fake.requests[-1].body["response_format"]
    assert told["json_schema"] == {"name": "a", "schema": {"type": "object"}, "strict": True}


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"input": "Hi", "previous_response_id": "resp_1"}, "previous_response_id"),
        ({"input": []}, "input"),
        ({"input": [{"type": "computer_call"}]}, "input[0]"),
        ({"input": "Hi", "tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"input": "Hi", "background": True}, "background"),
    ],
)
def test_what_the_server_can_not_do_is_refused_by_name(
    client: OpenAI, given: dict[str, Any], param: str
) -> None:
    with pytest.raises(BadRequestError) as caught:
        client.responses.create(model="xrouter", **given)
    assert caught.value.param == param
