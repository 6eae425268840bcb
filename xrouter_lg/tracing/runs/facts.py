"""What a trace is looked for by, read out of its run rows after redaction."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from xrouter_lg.json_text import from_json
from xrouter_lg.said import asked_model

THREAD_KEYS = ("thread_id", "session_id", "conversation_id")
"""Metadata that names a conversation: LangGraph's key, and the others that LangSmith takes."""

USER_KEYS = ("user_id", "langgraph_auth_user_id")
"""Metadata that names the person behind a request: LangSmith's convention, and what a LangGraph
server with authentication puts in."""

SAMPLE_RATE_KEY = "ls_tracing_sample_rate"
"""Metadata with the share of traces that were kept; LangSmith's client writes the same."""

PROMPTS_KEY = "xrouter_prompts"
"""Metadata that says ``hashed`` where texts were replaced by hashes."""

_TELLING = tuple(f'"{key}"' for key in (*THREAD_KEYS, *USER_KEYS, SAMPLE_RATE_KEY, PROMPTS_KEY))
"""Keys of metadata that say something of a run that is no model's."""

_OWN_TAGS = re.compile(r"(?:graph:step|seq:step|map:key|condition|branch)(?::|\Z)")
"""Tags that LangChain and LangGraph put on every run."""


def trace_facts(
    run_rows: Iterable[Mapping[str, Any]],
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of ``traces`` and of ``labels`` as these runs tell them."""
    traces: dict[str, dict[str, Any]] = {}
    labels: dict[tuple[str, str, str], None] = {}
    for row in run_rows:
        extra = from_json(row["extra"]) if _tells(row) else {}
        metadata = extra.get("metadata") if isinstance(extra, dict) else None
        said = metadata if isinstance(metadata, dict) else {}
        trace_id = row["trace_id"]
        _gather(traces, row, said)
        for kind, value in _labels(row, extra, said):
            labels[trace_id, kind, value] = None
    made = [{"trace_id": t, "kind": kind, "value": value} for t, kind, value in labels]
    return list(traces.values()), made


def _tells(row: Mapping[str, Any]) -> bool:
    """Whether a run's ``extra`` may hold a fact. Most hold none, and to look for the keys in the
    text is quicker than to parse it."""
    text = row["extra"]
    if not text or row["run_type"] == "llm":
        return bool(text)
    return any(key in text for key in _TELLING)


def _gather(
    traces: dict[str, dict[str, Any]], row: Mapping[str, Any], said: Mapping[str, Any]
) -> None:
    trace = traces.get(row["trace_id"])
    if trace is None:
        trace = traces[row["trace_id"]] = {
            "id": row["trace_id"],
            "started_at": row["start_time"],
            "project": row["session_name"],
            "failed": False,
            "sample_rate": None,
            "hashed": False,
        }
    trace["started_at"] = min(trace["started_at"], row["start_time"])
    trace["failed"] |= row["status"] == "error"
    trace["hashed"] |= said.get(PROMPTS_KEY) == "hashed"
    rate = said.get(SAMPLE_RATE_KEY)
    if isinstance(rate, (int, float)):
        trace["sample_rate"] = float(rate)


def _labels(
    row: Mapping[str, Any], extra: Mapping[str, Any], said: Mapping[str, Any]
) -> Iterable[tuple[str, str]]:
    for kind, keys in (("thread", THREAD_KEYS), ("user", USER_KEYS)):
        for key in keys:
            value = said.get(key)
            if isinstance(value, (str, int)) and value != "":
                yield kind, str(value)
    if row["run_type"] == "llm":
        model = asked_model({"extra": extra})
        if model is not None:
            yield "model", model
    if row["tags"]:
        for tag in _user_tags(row["tags"]):
            yield "tag", tag


@lru_cache(maxsize=256)
def _user_tags(text: str) -> tuple[str, ...]:
    """The tags, out of their JSON, that are not a framework's own; most runs have the same."""
    tags = from_json(text)
    listed = tags if isinstance(tags, list) else ()
    return tuple(tag for tag in listed if isinstance(tag, str) and not _OWN_TAGS.match(tag))
