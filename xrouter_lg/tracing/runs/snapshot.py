"""Copy what a run got and gave, at once, into JSON that nobody else can change.

Graph state is mutable: a node may append to a list or edit a message after the recorder saw it.
So the copy is made on the request's thread, and it is JSON at once: orjson walks the value several
times as fast as Python could, and one string per run instead of dozens of dicts is nothing for the
garbage collector to walk. What plain JSON has no place for is copied part by part instead.
"""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import uuid
from collections import deque
from collections.abc import Callable, Mapping
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
_AS_OURS = orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_SUBCLASS
"""What :func:`_opened` takes apart is not for orjson to read in its own way."""


def freeze(value: Any, key: str) -> Frozen:
    """A copy of ``value`` that stays as it is, under ``key`` where it is no dict. JSON, or a
    snapshot where plain JSON has no place for it: a key that is no string, a value that is no
    JSON. The writer finds a form for those. Never raises."""
    whole = isinstance(value, dict)
    frozen = _dumped(value if whole else {key: value})
    if frozen is not None:
        return frozen
    copied = snapshot(value)
    return _plainly(copied if whole and isinstance(copied, dict) else {key: copied})


def snapshot(value: Any) -> Any:
    """Plain, independent copy of ``value``: dicts, lists and immutable leaves.

    Never raises: what can't be copied becomes a string that says so.
    """
    try:
        return _copy(value)
    except Exception as error:  # a user's object may raise anything when it is looked at
        return f"<not recordable: {type(value).__name__}: {type(error).__name__}>"


def snapshot_messages(batches: list[list[BaseMessage]]) -> Frozen:
    """Inputs of a chat model run, in the layout that LangSmith stores."""
    return _dumped(_messages(batches, _itself)) or _plainly(_messages(batches, snapshot))


def snapshot_result(result: LLMResult) -> Frozen:
    """Outputs of a language model run, in the layout that LangSmith stores."""
    return _dumped(_result(result, _itself)) or _plainly(_result(result, snapshot))


def _itself(value: Any) -> Any:
    return value


def _messages(batches: list[list[BaseMessage]], copy: Callable[[Any], Any]) -> dict[str, Any]:
    return {"messages": [[_lc(message, copy) for message in batch] for batch in batches]}


def _result(result: LLMResult, copy: Callable[[Any], Any]) -> dict[str, Any]:
    generations: list[list[dict[str, Any]]] = []
    for batch in result.generations:
        rows: list[dict[str, Any]] = []
        for generation in batch:
            row = {
                "text": generation.text,
                "generation_info": copy(generation.generation_info),
                "type": generation.type,
            }
            message = getattr(generation, "message", None)
            if message is not None:
                row["message"] = _lc(message, copy)
            rows.append(row)
        generations.append(rows)
    return {
        "generations": generations,
        "llm_output": copy(result.llm_output),
        "run": None,
        "type": "LLMResult",
    }


def _lc(message: BaseMessage, copy: Callable[[Any], Any]) -> dict[str, Any]:
    """LangChain's constructor form, which ``langchain_core.load.load`` reads back."""
    kind = type(message)
    lc_id = _LC_IDS.get(kind)
    if lc_id is None:
        lc_id = _LC_IDS[kind] = kind.lc_id()
    return {"lc": 1, "type": "constructor", "id": lc_id, "kwargs": copy(message)}


def _dumped(value: dict[str, Any]) -> bytes | None:
    """The JSON of a value whose parts are all JSON, or can be taken apart into it; else None."""
    try:
        return orjson.dumps(value, default=_part, option=_AS_OURS)
    except TypeError:
        return None


def _plainly(copied: dict[str, Any]) -> Frozen:
    try:
        return orjson.dumps(copied)
    except TypeError:
        return copied


def _part(value: Any) -> Any:
    """What orjson puts in the place of a value that it does not know.

    Raises:
        TypeError: it is none of JSON's.
    """
    if isinstance(value, BaseModel):
        return _json_model(value)
    if isinstance(value, str):
        return str.__str__(value)
    opened = value if type(value) in _IMMUTABLE else _opened(value)
    if opened is value:
        raise TypeError(f"{type(value).__name__} is none of JSON's types")
    return opened


def _json_model(value: BaseModel) -> Any:
    kind = type(value)
    if kind.model_dump is not BaseModel.model_dump or "ser_json_inf_nan" in kind.model_config:
        return _copy_model(value)
    try:
        return orjson.Fragment(value.model_dump_json(exclude_none=True, warnings=False))
    except Exception:  # a field that pydantic can't turn into JSON
        return {name: item for name, item in value.__dict__.items() if item is not None}


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
    opened = _opened(value)
    return value if opened is value else _copy(opened)


def _copy_model(value: BaseModel) -> Any:
    try:
        return value.model_dump(mode="json", exclude_none=True, warnings=False)
    except Exception:  # a field that pydantic can't turn into JSON
        return {name: _copy(item) for name, item in value.__dict__.items() if item is not None}


def _opened(value: Any) -> Any:
    """One level of a rarer value in dicts, lists and leaves; a leaf is given back as it is."""
    if isinstance(value, Send):
        return {"node": value.node}  # its argument is the input of the run that it starts
    if isinstance(value, type):
        return str(value)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, (str, int, float)):
        return value
    if isinstance(value, Mapping):
        return dict(value.items())
    if isinstance(value, (list, tuple, set, frozenset, deque)):
        fields = getattr(value, "_asdict", None)
        return fields() if callable(fields) else list(value)
    if dataclasses.is_dataclass(value):
        return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    if isinstance(value, BaseException):
        return {"error": type(value).__name__, "message": str(value)}
    return str(value)
