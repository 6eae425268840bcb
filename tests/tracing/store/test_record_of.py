"""The whole record of a message that was stored somewhere."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, messages_from_dict, messages_to_dict
from langchain_core.runnables import RunnableMap
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph

from tests.support.apps import pool
from xrouter_lg import ChatXRouter, Recorder, RouteRecord, XRouterNode
from xrouter_lg.errors import BriefRecordError
from xrouter_lg.testing import FakeOpenAIServer
from xrouter_lg.tracing import TraceStore


def checkpointed(node: XRouterNode) -> tuple[list[AIMessage], list[AIMessage]]:
    """The answers of a thread of two requests, as the app had them and as they came back."""
    builder = StateGraph(MessagesState)
    builder.add_node("model", node)
    builder.add_edge(START, "model")
    app: Any = builder.compile(checkpointer=InMemorySaver())
    thread = {"configurable": {"thread_id": "t"}}
    made = [app.invoke({"messages": [HumanMessage(q)]}, thread)["messages"][-1] for q in "ab"]
    kept = app.get_state(thread).values["messages"]
    return made, [message for message in kept if isinstance(message, AIMessage)]


def test_a_message_of_a_checkpointer_leads_to_its_whole_record(
    fake: FakeOpenAIServer, recorder: Recorder, store: TraceStore
) -> None:
    made, kept = checkpointed(XRouterNode(pool(fake), policy="cheapest", traces=recorder))
    assert recorder.flush(20)
    for whole, brief in zip(made, kept, strict=True):
        told = whole.response_metadata["xrouter"]
        stored = AIMessage.model_validate_json(brief.model_dump_json())
        assert "charges" not in stored.response_metadata["xrouter"]
        assert store.record_of(stored).to_dict() == dict(told)
        assert store.record_of(whole) == RouteRecord.from_dict(told)


def test_of_two_requests_in_one_trace_each_has_its_own(
    fake: FakeOpenAIServer, recorder: Recorder, store: TraceStore
) -> None:
    model = ChatXRouter(pool(fake), policy="cheapest")
    both: Any = {"one": model.bind(model="small"), "two": model.bind(model="large")}
    said = RunnableMap(both).invoke("Hi", {"callbacks": [recorder]})
    assert recorder.flush(20)
    for name, card in (("one", "small"), ("two", "large")):
        [stored] = messages_from_dict(messages_to_dict([said[name]]))
        assert store.record_of(stored).route == card


def test_where_the_whole_is_not_the_error_says_where_to_look(store: TraceStore) -> None:
    brief = {"route": "small", "cost_usd": "0", "trace_id": "gone"}
    with pytest.raises(BriefRecordError, match="open the store that the recorder wrote to"):
        store.record_of(AIMessage("Hi", response_metadata={"xrouter": brief}))
    with pytest.raises(BriefRecordError, match="no routed answer"):
        store.record_of(AIMessage("Hi"))
    with pytest.raises(BriefRecordError, match=r"record_of\(message\) gives the whole"):
        RouteRecord.from_dict(brief)
