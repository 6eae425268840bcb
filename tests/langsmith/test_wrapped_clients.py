"""Calls through LangSmith's wrappers of the providers' own clients are history like any other."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import anthropic
import langsmith
import openai
import pytest
from langsmith import Client, tracing_context
from langsmith.wrappers import wrap_anthropic, wrap_openai

from xrouter_lg import ModelCard, ModelPool, TraceStore
from xrouter_lg.episodes.episode import Episode
from xrouter_lg.episodes.extract import episodes
from xrouter_lg.episodes.propensity import UNROUTED
from xrouter_lg.episodes.to_table import outcomes_from_store
from xrouter_lg.langsmith.connection import LangSmith
from xrouter_lg.langsmith.options import PullOptions
from xrouter_lg.langsmith.pull import pull
from xrouter_lg.outcomes import OutcomeTable
from xrouter_lg.outcomes.conversation import conversation_of
from xrouter_lg.testing.langsmith.server import LangSmithServer
from xrouter_lg.verifiers.feedback import Feedback
from xrouter_lg.verifiers.grading import Scoring

QUESTION = "Capital of France?"
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
RIGHT_USD = "0.000164"
"""60 tokens at 1, 40 cached ones at 0.1 and 10 written ones at 10 USD per million."""


def responses(body: dict[str, Any]) -> dict[str, Any]:
    text = {"type": "output_text", "text": "Paris.", "annotations": []}
    message = {"type": "message", "id": "msg_1", "status": "completed", "role": "assistant"}
    call = {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "weather"}
    calls = [{**call, "arguments": '{"city": "Paris"}', "status": "completed"}]
    asked_tools = any(item.get("type") == "function_call_output" for item in _items(body))
    thought = {"type": "reasoning", "id": "rs_1", "summary": []}
    said = [thought, {**message, "content": [text]}]
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 1,
        "status": "completed",
        "model": body["model"],
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "parallel_tool_calls": True,
        "temperature": 1.0,
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "output": calls if body.get("tools") and not asked_tools else said,
        "usage": {
            "input_tokens": 100,
            "input_tokens_details": {"cached_tokens": 40},
            "output_tokens": 10,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": 110,
        },
    }


def _items(body: dict[str, Any]) -> list[dict[str, Any]]:
    return body["input"] if isinstance(body["input"], list) else []


def messages(body: dict[str, Any]) -> dict[str, Any]:
    answered = len(body["messages"]) > 1
    call = {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Paris"}}
    calls = body.get("tools") and not answered
    return {
        "id": "m",
        "type": "message",
        "role": "assistant",
        "model": body["model"],
        "content": [call] if calls else [{"type": "text", "text": "Paris."}],
        "stop_reason": "tool_use" if calls else "end_turn",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 60,
            "cache_read_input_tokens": 40,
            "cache_creation_input_tokens": 0,
            "output_tokens": 10,
        },
    }


USAGE = {
    "prompt_tokens": 100,
    "completion_tokens": 10,
    "total_tokens": 110,
    "prompt_tokens_details": {"cached_tokens": 40},
}


def chat(body: dict[str, Any]) -> Any:
    base = {"id": "c", "created": 1, "model": body["model"]}
    if not body.get("stream"):
        choice = {"index": 0, "finish_reason": "stop"}
        said = {"role": "assistant", "content": "Paris."}
        choices = [{**choice, "index": i, "message": said} for i in range(body.get("n", 1))]
        return {**base, "object": "chat.completion", "choices": choices, "usage": USAGE}
    deltas = [{"index": 0, "delta": {"content": text}} for text in ("Pa", "ris.")]
    deltas.append({"index": 0, "delta": {}, "finish_reason": "stop"})
    chunk = {**base, "object": "chat.completion.chunk"}
    return [*({**chunk, "choices": [d]} for d in deltas), {**chunk, "choices": [], "usage": USAGE}]


@pytest.fixture
def provider() -> Iterator[str]:
    """A server that answers as OpenAI and Anthropic do; its URL."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: Any) -> None:
            pass

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            ends = {"/responses": responses, "/messages": messages, "/completions": chat}
            said = next(make(body) for end, make in ends.items() if self.path.endswith(end))
            self.send_response(200)
            if isinstance(said, list):
                lines = [*(json.dumps(event) for event in said), "[DONE]"]
                data = "".join(f"data: {line}\n\n" for line in lines).encode()
                self.send_header("content-type", "text/event-stream")
            else:
                data = json.dumps(said).encode()
                self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


Ask = Callable[[str], Any]


def ask_chat(url: str) -> None:
    client = wrap_openai(openai.OpenAI(base_url=f"{url}/v1", api_key="k"))
    client.chat.completions.create(model="m-x", messages=[{"role": "user", "content": QUESTION}])


def ask_for_two(url: str) -> None:
    client = wrap_openai(openai.OpenAI(base_url=f"{url}/v1", api_key="k"))
    asked: Any = [{"role": "user", "content": QUESTION}]
    client.chat.completions.create(model="m-x", messages=asked, n=2)


def ask_streamed(url: str) -> None:
    client = wrap_openai(openai.OpenAI(base_url=f"{url}/v1", api_key="k"))
    asked: Any = [{"role": "user", "content": QUESTION}]
    options: Any = {"stream": True, "stream_options": {"include_usage": True}}
    list(client.chat.completions.create(model="m-x", messages=asked, **options))


def ask_responses(url: str) -> None:
    client = wrap_openai(openai.OpenAI(base_url=f"{url}/v1", api_key="k"))
    client.responses.create(model="m-x", input=QUESTION)


def ask_anthropic(url: str) -> None:
    client = wrap_anthropic(anthropic.Anthropic(base_url=url, api_key="k"))
    asked: Any = [{"role": "user", "content": QUESTION}]
    client.messages.create(model="m-x", max_tokens=50, messages=asked)


def recorded(url: str, ask: Ask, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[Episode]:
    """What is made of the runs that a wrapper sent to LangSmith."""
    price = {"input": 1, "output": 10, "cached_input": 0.1}
    card = ModelCard(name="m", model="m-x", base_url=url, price=price)
    with LangSmithServer() as server, TraceStore(folder / "t.db") as store:
        monkeypatch.setitem(os.environ, "LANGSMITH_API_KEY", "any")
        client = Client(api_url=server.url, api_key="any")
        langsmith.configure(client=client)
        try:
            with tracing_context(enabled=True, client=client, project_name="app"):
                ask(url)
            client.flush()
        finally:
            langsmith.configure(client=None)
        connection = LangSmith(endpoint=server.url)
        since = datetime.now(UTC) - timedelta(days=1)
        pull("app", store, PullOptions(since=since), langsmith=connection)
        connection.close()
        runs = [run for trace in store.iter_traces() for run in trace.runs]
        return list(episodes(runs, pool=ModelPool([card])))


@pytest.mark.parametrize("ask", [ask_chat, ask_for_two, ask_streamed, ask_responses, ask_anthropic])
def test_a_wrapped_clients_call_is_an_episode(
    ask: Ask, provider: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (episode,) = recorded(provider, ask, tmp_path, monkeypatch)
    assert episode.messages == ({"role": "user", "content": QUESTION},)
    assert (episode.answer, episode.route, episode.cost_usd) == ("Paris.", "m", RIGHT_USD)
    assert not episode.calls[0].truncated


@pytest.mark.parametrize("ask", [ask_chat, ask_streamed, ask_responses, ask_anthropic])
def test_late_feedback_on_a_wrapped_clients_call_is_in_the_next_table(
    ask: Ask, provider: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded(provider, ask, tmp_path, monkeypatch)
    liked = Scoring(feedback=(Feedback(keys="liked"),))
    seen = []
    with TraceStore(tmp_path / "t.db") as store:
        (trace,) = store.iter_traces()
        given = {"run_id": trace.id, "key": "liked", "created_at": datetime.now(UTC).isoformat()}
        user = {"type": "app", "user_id": "u1"}
        for score in (None, 0.0, 1.0):
            if score is not None:
                entry = {**given, "id": f"f{score}", "score": score, "feedback_source": user}
                store.import_feedback([entry])
            report = outcomes_from_store(store, tmp_path / "o", scoring=liked)
            seen.append(OutcomeTable.load(tmp_path / "o").outcomes.collect().row(0, named=True))
    assert [row["feedback"] for row in seen] == [None, 0.0, 1.0]
    assert {row["propensity"] for row in seen} == {None}
    assert dict(report.unknown_propensity) == {UNROUTED: 1}


def loop_anthropic(url: str) -> None:
    client = wrap_anthropic(anthropic.Anthropic(base_url=url, api_key="k"))
    talk: Any = [{"role": "user", "content": QUESTION}]
    given: Any = {
        "model": "m-x",
        "max_tokens": 50,
        "system": "Be brief.",
        "tools": [{"name": "weather", "description": "Weather.", "input_schema": SCHEMA}],
    }
    first = client.messages.create(messages=talk, **given)
    call = [block.model_dump() for block in first.content]
    result = {"type": "tool_result", "tool_use_id": "t1", "content": "sunny"}
    talk += [{"role": "assistant", "content": call}, {"role": "user", "content": [result]}]
    client.messages.create(messages=talk, **given)


def loop_responses(url: str) -> None:
    client = wrap_openai(openai.OpenAI(base_url=f"{url}/v1", api_key="k"))
    talk: Any = [{"role": "user", "content": [{"type": "input_text", "text": QUESTION}]}]
    tool = {"type": "function", "name": "weather", "parameters": SCHEMA, "description": "Weather."}
    given: Any = {"model": "m-x", "instructions": "Be brief.", "tools": [tool]}
    first = client.responses.create(input=talk, **given)
    talk += [item.model_dump() for item in first.output]
    talk.append({"type": "function_call_output", "call_id": "c1", "output": "sunny"})
    client.responses.create(input=talk, **given)


@pytest.mark.parametrize("loop", [loop_anthropic, loop_responses])
def test_a_wrapped_clients_tool_loop_is_one_episode(
    loop: Ask, provider: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def one_trace(url: str) -> None:
        langsmith.traceable(name="agent")(lambda: loop(url))()

    (episode,) = recorded(provider, one_trace, tmp_path, monkeypatch)
    assert [message["role"] for message in episode.messages] == ["system", "user"]
    assert episode.messages[1]["content"] == QUESTION
    assert [call.answer for call in episode.calls] == [
        '[{"name": "weather", "args": {"city": "Paris"}}]',
        "Paris.",
    ]
    function = {"name": "weather", "parameters": SCHEMA, "description": "Weather."}
    assert episode.tools == ({"type": "function", "function": function},)


@pytest.mark.parametrize("loop", [loop_anthropic, loop_responses])
def test_its_tool_results_can_be_asked_of_any_model_again(
    loop: Ask, provider: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two traces: each call is an episode of its own."""
    found = recorded(provider, loop, tmp_path, monkeypatch)
    meta = {"messages": list(found[-1].messages), "tools": list(found[-1].tools)}
    asked = conversation_of("", meta)
    assert [message.type for message in asked.messages] == ["system", "human", "ai", "tool"]
    assert asked.messages[-1].content == "sunny"
