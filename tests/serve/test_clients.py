"""Clients of other libraries find an OpenAI server here."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, SecretStr

from xrouter_lg.testing import FakeModel, FakeOpenAIServer, Reply, ToolCall

SMALL = "small says hello to you"


@tool
def weather(town: str) -> str:
    """The weather of a town."""
    return f"rain in {town}"


class Town(BaseModel):
    """A town."""

    name: str


@pytest.fixture
def model(url: str) -> ChatOpenAI:
    return ChatOpenAI(model="xrouter", base_url=f"{url}/v1", api_key=SecretStr("any"))


async def test_chat_openai_asks_and_streams(model: ChatOpenAI) -> None:
    done = await model.ainvoke("Hi")
    assert (done.content, done.response_metadata["finish_reason"]) == (SMALL, "stop")
    assert done.usage_metadata is not None
    chunks = [chunk async for chunk in model.astream("Hi", stream_usage=True)]
    whole: Any = sum(chunks[1:], chunks[0])  # type: ignore[call-overload]
    assert whole.text == SMALL
    assert whole.usage_metadata["output_tokens"] == done.usage_metadata["output_tokens"]


async def test_chat_openai_speaks_responses_here_too(url: str) -> None:
    model = ChatOpenAI(
        model="xrouter", base_url=f"{url}/v1", api_key=SecretStr("any"), use_responses_api=True
    )
    assert (await model.ainvoke("Hi")).text == SMALL
    assert "".join([chunk.text async for chunk in model.astream("Hi")]) == SMALL


def test_an_agent_of_chat_openai_runs_its_loop(model: ChatOpenAI, fake: FakeOpenAIServer) -> None:
    fake.add_model(
        FakeModel(
            name="small",
            reply=lambda body: (
                "It rains."
                if body["messages"][-1]["role"] == "tool"
                else Reply(tool_calls=[ToolCall("weather", {"town": "Paris"})])
            ),
        )
    )
    told = create_agent(model, [weather]).invoke(
        {"messages": [{"role": "user", "content": "Weather?"}]}
    )
    assert told["messages"][-1].content == "It rains."
    assert "rain in Paris" in str(fake.requests[-1].body)


@pytest.mark.parametrize("method", ["json_schema", "function_calling", "json_mode"])
def test_structured_output_of_chat_openai_is_read(
    model: ChatOpenAI, fake: FakeOpenAIServer, method: Any
) -> None:
    args = {"name": "Paris"}
    said = Reply(tool_calls=[ToolCall("Town", args)])
    fake.add_model(
        FakeModel(name="small", reply=said if method == "function_calling" else '{"name": "Paris"}')
    )
    asked = model.with_structured_output(Town, method=method)
    assert asked.invoke("A town, as JSON") == Town(name="Paris")


def client(command: list[Any], url: str) -> Any:
    """What a client of another language or environment prints of a server."""
    interpreter, script = command
    words = [interpreter, Path(__file__).with_name(script), url]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_litellms_client_asks_and_streams(url: str) -> None:
    """Where the command ``litellm`` is on the path, by the interpreter beside it: it pins clients
    of its own, and wants an environment to itself."""
    litellm = shutil.which("litellm")
    if litellm is None:
        pytest.skip("no litellm on the path: make test-clients installs one")
    told = client([Path(litellm).resolve().with_name("python"), "client_litellm.py"], url)
    assert (told["text"], told["streamed"], told["tokens"]) == (SMALL, SMALL, 5)
    assert told["status"] == 404


def test_openais_javascript_client_asks_and_streams(url: str) -> None:
    """Where node has the package ``openai``."""
    node = shutil.which("node")
    if (
        node is None
        or subprocess.run([node, "-e", "require('openai')"], capture_output=True).returncode
    ):
        pytest.skip("node has no package openai: make test-clients installs it")
    told = client([node, "client.mjs"], url)
    assert (told["text"], told["streamed"]) == (SMALL, SMALL)
    assert told["response"].startswith("large says")
    assert told["error"] == [404, "model_not_found"]
