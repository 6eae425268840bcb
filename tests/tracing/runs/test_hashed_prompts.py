"""``prompts="hashed"``: what was said is not stored, what was decided and paid is."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.runnables import RunnableLambda
from langgraph.graph import END, START, MessagesState, StateGraph

from tests.tracing.on_disk import readable
from tests.tracing.routed import Worker, question, routed_graph
from xrouter_lg import ModelCard, ModelPool, XRouterNode
from xrouter_lg.errors import ConfigurationError
from xrouter_lg.testing import FakeModel, FakeOpenAIServer
from xrouter_lg.tracing import Recorder, TraceStore
from xrouter_lg.tracing.runs.hashing import TextHasher


def ask(db: Path, *messages: Any, **config: Any) -> dict[str, Any]:
    """A conversation through the real node; the route record that the app got."""
    with (
        FakeOpenAIServer([FakeModel(name="small", reply="Vanilla, surely.")]) as server,
        Recorder(db, prompts="hashed") as recorder,
    ):
        card = ModelCard(
            name="small", model="small", base_url=server.base_url, price={"input": 1, "output": 1}
        )
        builder = StateGraph(MessagesState)
        builder.add_node("model", XRouterNode(ModelPool([card], default="small")))
        builder.add_edge(START, "model")
        builder.add_edge("model", END)
        app = builder.compile()
        state = asyncio.run(
            app.ainvoke({"messages": list(messages)}, {"callbacks": [recorder], **config})
        )
    record: dict[str, Any] = state["messages"][-1].response_metadata["xrouter"]
    return record


CONVERSATION = (
    SystemMessage("You sell ice cream."),
    HumanMessage("Which flavour would you choose?"),
    AIMessage("", tool_calls=[{"name": "look", "args": {"where": "freezer"}, "id": "call_1"}]),
    ToolMessage("chocolate is out", tool_call_id="call_1"),
)


def test_nothing_that_was_said_is_in_the_files(db: Path) -> None:
    ask(db, *CONVERSATION)
    data = readable(db).lower()
    for words in (b"ice cream", b"flavour", b"freezer", b"chocolate", b"vanilla"):
        assert words not in data


def test_decision_usage_and_cost_are_there(db: Path) -> None:
    record = ask(db, *CONVERSATION, configurable={"thread_id": "th"})
    with TraceStore(db) as store:
        [row] = store.routes(thread_id="th")
        assert row.record.to_dict() == record
        assert row.output_tokens > 0
        [trace] = store.iter_traces()
        [call] = [run for run in trace.runs if run["run_type"] == "llm"]
        assert call["total_tokens"] > 0
        assert call["extra"]["metadata"]["xrouter_prompts"] == "hashed"
        types = [m["kwargs"]["type"] for m in call["inputs"]["messages"][0]]
        assert types == ["system", "human", "ai", "tool"]
        assert store.hashed([trace.id]) == 1


def test_the_same_question_has_the_same_hash_in_one_store_and_another_in_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hashes(db: Path) -> list[str]:
        with TraceStore(db) as store:
            return [t.runs[0]["inputs"]["messages"][0]["content"] for t in store.iter_traces()]

    for text in ("Hello  World", "hello world"):
        ask(tmp_path / "a.db", HumanMessage(text))
    ask(tmp_path / "b.db", HumanMessage("hello world"))
    first, second = hashes(tmp_path / "a.db")
    [elsewhere] = hashes(tmp_path / "b.db")
    assert first.split(":")[1] == second.split(":")[1] != elsewhere.split(":")[1]
    assert first.split(":")[2] == "12"
    monkeypatch.setenv("XROUTER_PROMPT_SALT", "kept elsewhere")
    for name in ("c.db", "d.db"):
        ask(tmp_path / name, HumanMessage("hello world"))
    assert hashes(tmp_path / "c.db") == hashes(tmp_path / "d.db") != [elsewhere]
    assert b"kept elsewhere" not in (tmp_path / "c.db").read_bytes()


def test_an_error_keeps_its_class_alone(db: Path) -> None:
    with Recorder(db, prompts="hashed") as recorder:
        graph = routed_graph(Worker(error="cannot answer: who stole the cake"))
        with pytest.raises(RuntimeError):
            asyncio.run(graph.ainvoke(question("who stole the cake"), {"callbacks": [recorder]}))
        recorder.flush(10)
        [trace] = recorder.store.iter_traces()
    assert b"cake" not in readable(db)
    assert trace.runs[0]["error"].startswith("RuntimeError(hashed:")


def test_hints_failures_and_token_ids_are_not_in_the_record(db: Path) -> None:
    decision = {
        "turn": 1,
        "reason": "plan",
        "calls": [{"id": "c1", "card": "small", "hint": "mention the cake"}],
        "token_ids": {"prompt_token_ids": [1, 2], "logprobs": [-0.1]},
        "policy_error": "Timeout: cake",
    }
    failed = {"card": "large", "error": "timeout", "detail": "no cake for you"}
    with Recorder(db, prompts="hashed") as recorder:
        graph = routed_graph(decisions=[decision], fallbacks=[failed])
        asyncio.run(graph.ainvoke(question(), {"callbacks": [recorder]}))
    assert b"cake" not in readable(db)
    with TraceStore(db) as store:
        [row] = store.routes()
    [kept] = row.record.decisions
    assert (kept["calls"][0]["card"], kept["token_ids"]) == ("small", None)
    assert row.record.fallbacks[0]["error"] == "timeout"


def test_a_state_s_own_fields_are_hashed_whatever_they_are_called(db: Path) -> None:
    with Recorder(db, prompts="hashed") as recorder:
        given = {
            "notes": ["secret plum"],
            "status": "secret plum is on its way",  # a protocol's key, but no word of one
            "xrouter": {"reason": "secret plum"},  # no route record
            "deep": {"type": {"x": "secret plum"}},
            "n": 4,
        }
        RunnableLambda(lambda _: "secret plum").invoke(given, {"callbacks": [recorder]})
        recorder.flush(10)
        [trace] = recorder.store.iter_traces()
    assert trace.runs[0]["inputs"]["n"] == 4
    assert b"secret plum" not in readable(db)


@settings(deadline=None)
@given(
    st.recursive(
        st.text() | st.integers() | st.none(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_hashing_keeps_the_shape_and_changes_nothing_the_second_time(value: Any) -> None:
    hasher = TextHasher("salt")
    once = hasher.value(value)
    assert type(once) is type(value)
    assert hasher.value(once) == once


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="prompts must be 'full' or 'hashed'"):
        Recorder(prompts="secret")  # type: ignore[arg-type]
