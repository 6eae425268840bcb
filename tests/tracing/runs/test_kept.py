"""The record in a message: whole in this process, brief in whatever stores it."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, messages_from_dict, messages_to_dict
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from tests.tracing.routed import a_record
from xrouter_lg.route_record import RouteRecord
from xrouter_lg.tracing.runs.kept import KeptRecord

RECORD = a_record(trace_id="t", run_id="r")
BRIEF = {
    "route": "small",
    "cost_usd": "0.0000012",
    "trace_id": "t",
    "run_id": "r",
    "ended_at": 1_790_000_000,
}


def kept() -> KeptRecord:
    return KeptRecord(RECORD.to_dict())


def message() -> AIMessage:
    return AIMessage("fine", response_metadata={"xrouter": kept()})


def _checkpointed(value: AIMessage) -> Any:
    serde = JsonPlusSerializer()
    return serde.loads_typed(serde.dumps_typed(value))


STORED: dict[str, Callable[[AIMessage], Any]] = {
    "a checkpointer": _checkpointed,
    "a chat history": lambda m: messages_from_dict(messages_to_dict([m]))[0],
    "pickle": lambda m: pickle.loads(pickle.dumps(m)),
    "pydantic": lambda m: AIMessage.model_validate(m.model_dump()),
    "pydantic's JSON": lambda m: AIMessage.model_validate_json(m.model_dump_json()),
}


@pytest.mark.parametrize("way", list(STORED))
def test_what_is_stored_is_brief(way: str) -> None:
    found = STORED[way](message()).response_metadata["xrouter"]
    assert type(found) is dict
    assert found == BRIEF


def test_a_record_that_is_a_state_s_own_is_stored_briefly_too() -> None:
    serde = JsonPlusSerializer()
    assert serde.loads_typed(serde.dumps_typed({"xrouter": kept()})) == {"xrouter": BRIEF}
    assert orjson.loads(orjson.dumps(kept())) == BRIEF


@pytest.mark.parametrize(
    "copied",
    [
        message,
        lambda: message().model_copy(deep=True),
        lambda: copy.deepcopy(message()),
        lambda: AIMessage(**vars(message())),
        lambda: (
            AIMessageChunk(
                content="", response_metadata={"xrouter": KeptRecord({"route": "small"})}
            )
            + AIMessageChunk(content="fine", response_metadata={"xrouter": _without_route()})
        ),
    ],
    ids=["given", "copied", "deep-copied", "built anew", "added up from chunks"],
)
def test_in_this_process_the_whole_is_there(copied: Callable[[], AIMessage]) -> None:
    found = copied().response_metadata["xrouter"]
    assert RouteRecord.from_dict(found) == RECORD
    assert found["charges"][0]["card"] == found.get("route") == "small"
    assert dict(found) == {**found} == json.loads(json.dumps(found)) == found
    assert RECORD.to_dict() == found
    assert _checkpointed(copied()).response_metadata["xrouter"] == BRIEF


def _without_route() -> KeptRecord:
    return KeptRecord({name: value for name, value in kept().items() if name != "route"})


def test_a_change_is_seen_in_both_forms() -> None:
    record = kept()
    record["cost_usd"] = None
    record.update(run_id="t", reason="changed")
    del record["tenant"]
    assert (record.pop("turns"), record.setdefault("more", 1), "turns" in record) == (1, 1, False)
    assert (record["reason"], record.get("tenant", "gone")) == ("changed", "gone")
    brief = {**BRIEF, "cost_usd": None}
    del brief["run_id"]  # it is the trace's
    assert pickle.loads(pickle.dumps(record)) == brief
    assert (record | {"a": 1})["a"] == 1 and ({"a": 1} | record)["reason"] == "changed"


def test_it_can_be_emptied_as_any_dict() -> None:
    record = kept()
    name, _ = record.popitem()
    assert name not in record and len(record) == len(kept()) - 1
    record.clear()
    assert not record
    assert pickle.loads(pickle.dumps(record)) == {}


def test_it_equals_its_stored_form() -> None:
    brief: Any = dict(BRIEF)
    assert kept() == brief
    assert brief == kept()
    assert kept() != {**BRIEF, "route": "large"}
    assert repr(kept()) == repr(dict(kept()))
