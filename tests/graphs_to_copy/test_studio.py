"""``langgraph.json``: every graph to copy, as LangGraph's server and its Studio take it."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import httpx
import pytest
from langgraph.graph.state import CompiledStateGraph
from langgraph_sdk import get_client

ROOT = Path(__file__).resolve().parents[2]
ENTRIES: dict[str, str] = json.loads((ROOT / "langgraph.json").read_text())["graphs"]
WITH_FIELDS = (
    "rag_app",
    "supervisor_team",
    "parallel_answers",
    "verified_cascade",
    "price_approval",
    "tool_agent",
)
"""Graphs that take a request's options by their context."""
DRAWN = (*WITH_FIELDS[:-1], "support_app_routed")
"""Graphs with a router among their nodes; in the others it is a model."""
LANGGRAPH = shutil.which("langgraph")


def compiled(entry: str) -> Any:
    file, name = entry.removeprefix("./").split(":")
    return getattr(import_module(file.removesuffix(".py").replace("/", ".")), name)


def called(nodes: Any) -> set[str]:
    return {node.rpartition("call_")[2] for node in nodes if "call_" in node}


def test_every_graph_of_the_folder_is_an_entry() -> None:
    built = {p.stem for p in (ROOT / "graphs").glob("*.py") if "def build(" in p.read_text()}
    assert set(ENTRIES) == built


@pytest.mark.parametrize("name", ENTRIES)
def test_an_entry_is_a_compiled_graph(name: str) -> None:
    assert isinstance(compiled(ENTRIES[name]), CompiledStateGraph)


@pytest.mark.parametrize("name", DRAWN)
def test_a_graph_is_drawn_to_its_cards(name: str) -> None:
    cards = called(compiled(ENTRIES[name]).get_graph(xray=True).nodes)
    assert cards == ({"large"} if name == "price_approval" else {"small", "large"})


@pytest.mark.parametrize("name", WITH_FIELDS)
def test_the_options_of_a_request_are_fields(name: str) -> None:
    fields = compiled(ENTRIES[name]).get_context_jsonschema()["properties"]
    assert set(fields) == {"cost_weight", "max_cost_usd", "timeout_s", "allow", "deny"}


async def test_an_option_in_the_context_is_obeyed() -> None:
    graph = compiled(ENTRIES["rag_app"])
    asked = {"messages": [("user", "Until when are returns taken?")]}
    state = await graph.ainvoke(asked, context={"deny": ["small"]})
    assert state["messages"][-1].response_metadata["xrouter"]["route"] == "large"


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of ``langgraph dev`` in a folder with copies of what it needs."""
    if LANGGRAPH is None:
        pytest.skip("no langgraph on the path: make test-clients installs it elsewhere")
    folder = tmp_path_factory.mktemp("studio")
    shutil.copy(ROOT / "langgraph.json", folder)
    shutil.copytree(ROOT / "graphs", folder / "graphs")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [LANGGRAPH, "dev", "--no-browser", "--no-reload", "--host", "127.0.0.1"]
    unset = {"XROUTER_POOL", "LANGSMITH_API_KEY", "LANGSMITH_TRACING"}
    env = {key: value for key, value in os.environ.items() if key not in unset}
    log = folder / "log"
    with log.open("w") as out:
        server = subprocess.Popen(
            [*command, "--port", str(port)],
            cwd=folder,
            env={**env, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"},
            stdout=out,
            stderr=out,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        asyncio.run(_answers(url, server, log))
        yield url
    finally:
        server.terminate()
        server.wait(30)


async def _answers(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    async with httpx.AsyncClient() as client, asyncio.timeout(90):
        while True:
            assert server.poll() is None, log.read_text()
            with suppress(httpx.HTTPError):
                if (await client.get(f"{url}/ok")).is_success:
                    return
            await asyncio.sleep(0.2)


async def test_langgraph_dev_serves_every_entry_drawn_and_with_fields(dev: str) -> None:
    client = get_client(url=dev)
    served = {a["graph_id"]: a["assistant_id"] for a in await client.assistants.search(limit=50)}
    assert set(served) == set(ENTRIES)
    for name in DRAWN:
        drawn = await client.assistants.get_graph(served[name], xray=True)
        assert "large" in called(node["id"] for node in drawn["nodes"])
    for name in WITH_FIELDS:
        schemas = await client.assistants.get_schemas(served[name])
        assert "cost_weight" in (schemas["context_schema"] or {})["properties"]


@pytest.mark.parametrize("name", [n for n in ENTRIES if n != "price_approval"])
async def test_langgraph_dev_answers(dev: str, name: str) -> None:
    asked = {"messages": [{"role": "user", "content": "Until when are returns taken?"}]}
    state: Any = await get_client(url=dev).runs.wait(None, name, input=asked)
    assert state["messages"][-1]["response_metadata"]["xrouter"]["route"] in ("small", "large")


async def test_langgraph_dev_asks_the_human_and_goes_on(dev: str) -> None:
    client = get_client(url=dev)
    thread = (await client.threads.create())["thread_id"]
    asked = {"messages": [{"role": "user", "content": "Plan a house."}]}
    paused: Any = await client.runs.wait(thread, "price_approval", input=asked)
    assert paused["__interrupt__"][0]["value"]["limit_usd"] == "0.001"
    state: Any = await client.runs.wait(thread, "price_approval", command={"resume": "0.01"})
    assert state["messages"][-1]["content"] == "Here is the plan of your house."
