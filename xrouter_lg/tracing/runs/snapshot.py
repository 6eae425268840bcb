"""Copy what a run got and gave, at once, into JSON that nobody else can change.

Graph state is mutable: a node may append to a list or edit a message after the recorder saw it.
So the copy is made on the request's thread. A pydantic dump of a message costs about 2 µs, as much
as a shallow copy of it, and orjson another 0.3 µs (0.1 ms per MB). That last step pays for itself:
one string per run instead of dozens of dicts is nothing for the garbage collector to walk.
"""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import uuid
from collections import deque
from collections.abc import Mapping
from enum import Enum
from typing import Any

import orjson
from langchain_core.messages import BaseMessage
from langchain_core.outputs import LLMResult
from langgraph.types import Send
from pydantic import BaseModel

_IMMUTABLE = frozenset(
    {
        *(str, int, float, bool, type(None), bytes, uuid.UUID, decimal.Decimal),
        *(datetime.datetime, datetime.date, datetime.timedelta),
    }
)
Frozen = bytes | dict[str, Any]
"""Inputs or outputs of a run: JSON as a rule."""

_LC_IDS: dict[type, list[str]] = {}


def freeze(copied: dict[str, Any]) -> Frozen:
    """A snapshot as JSON, or as it is where plain JSON has no place for it: a key that is no
    string, a value that is no JSON. The writer finds a form for those."""
    try:
        return orjson.dumps(copied)
    except TypeError:
        return copied


def snapshot(value: Any) -> Any:
    """Plain, independent copy of ``value``: dicts, lists and immutable leaves.

    Never raises: what can't be copied becomes a string that says so.
    """
    try:
        return _copy(value)
    except Exception as error:  # a user's object may raise anything when it is looked at
        return f"<not recordable: {type(value).__name__}: {type(error).__name__}>"


def snapshot_messages(batches: list[list[BaseMessage]]) -> dict[str, Any]:
    """Inputs of a chat model run, in the layout that LangSmith stores."""
    return {"messages": [[_lc(message) for message in batch] for batch in batches]}


def snapshot_result(result: LLMResult) -> dict[str, Any]:
    """Outputs of a language model run, in the layout that LangSmith stores."""
    generations: list[list[dict[str, Any]]] = []
    for batch in result.generations:
        rows: list[dict[str, Any]] = []
        for generation in batch:
            row = {
                "text": generation.text,
                "generation_info": snapshot(generation.generation_info),
                "type": generation.type,
            }
            message = getattr(generation, "message", None)
            if message is not None:
                row["message"] = _lc(message)
            rows.append(row)
        generations.append(rows)
    return {
        "generations": generations,
        "llm_output": snapshot(result.llm_output),
        "run": None,
        "type": "LLMResult",
    }


def _lc(message: BaseMessage) -> dict[str, Any]:
    """LangChain's constructor form, which ``langchain_core.load.load`` reads back."""
    kind = type(message)
    lc_id = _LC_IDS.get(kind)
    if lc_id is None:
        lc_id = _LC_IDS[kind] = kind.lc_id()
    return {"lc": 1, "type": "constructor", "id": lc_id, "kwargs": snapshot(message)}


def _copy(value: Any) -> Any:
    kind = type(value)
    if kind in _IMMUTABLE:
        return value
    if kind is dict:
        return {key: _copy(item) for key, item in value.items()}
    if kind is list or kind is tuple:
        return [_copy(item) for item in value]
    if isinstance(value, BaseModel):
        return _copy_model(value)
    return _copy_rare(value)


def _copy_model(value: BaseModel) -> Any:
    try:
        return value.model_dump(mode="json", exclude_none=True, warnings=False)
    except Exception:  # a field that pydantic can't turn into JSON
        return {name: _copy(item) for name, item in value.__dict__.items() if item is not None}


def _copy_rare(value: Any) -> Any:
    if isinstance(value, Send):
        return {"node": value.node}  # its argument is the input of the run that it starts
    if isinstance(value, type):
        return str(value)
    if isinstance(value, Enum):
        return _copy(value.value)
    if isinstance(value, (str, int, float)):
        return value
    if isinstance(value, Mapping):
        return {key: _copy(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset, deque)):
        fields = getattr(value, "_asdict", None)
        return _copy(fields()) if callable(fields) else [_copy(item) for item in value]
    if dataclasses.is_dataclass(value):
        return {f.name: _copy(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, BaseException):
        return {"error": type(value).__name__, "message": str(value)}
    return str(value)
