"""An episode as rows: its prompt, and what it shows of each card that answered."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from xrouter_lg.episodes.episode import Episode, EpisodeCall, sum_usage
from xrouter_lg.episodes.plain_calls import message_key
from xrouter_lg.episodes.propensity import logged_propensity
from xrouter_lg.outcomes.schema import KEY
from xrouter_lg.said import other_blocks, question_of, text_of
from xrouter_lg.verifiers.feedback import is_number
from xrouter_lg.verifiers.grading import reference_of

OBSERVED: dict[str, pl.DataType] = {
    **{name: pl.String() for name in (*KEY, "model", "response", "served_model")},
    **{name: pl.String() for name in ("correction", "said")},
    **{name: pl.Int64() for name in ("input_tokens", "output_tokens")},
    **{name: pl.Float64() for name in ("at", "cost_usd", "latency_s", "propensity")},
    "truncated": pl.Boolean(),
}
"""Columns of an answer: the outcome's, when it was given (Unix seconds), whether it was cut, the
right answer that its feedback told, and its feedback as JSON."""

_CORRECTED = ("answer", "reference", "output", "response", "content", "text")
"""Keys of a correction that hold the right answer. Others (``route``) correct something else."""


def prompt_id(episode: Episode) -> str:
    """Sixteen hex digits of the conversation (roles, normalised texts, other content, tool calls)
    and of the tools that were bound. Ids, spacing and case don't count."""
    data: list[Any] = [message_key(message) for message in episode.messages]
    if episode.tools:
        data.append([list(episode.tools), episode.tool_options])
    text = json.dumps(data, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def prompt_row(
    key: tuple[str, str, str], episode: Episode, references: Mapping[str, Any]
) -> dict[str, Any]:
    """A row of the prompts table. A lone question is its text; anything more keeps the whole
    conversation in ``meta``, so that it can be asked again as it was. Within a tool loop the
    prompt is what the user asked, which is what policies read of it too."""
    *before, last = episode.messages
    text = text_of(question_of(episode.messages))
    meta: dict[str, Any] = {}
    if before or last["role"] != "user" or not isinstance(last["content"], str):
        meta["messages"] = list(episode.messages)
    if episode.tools:
        meta["tools"] = list(episode.tools)
        if episode.tool_options:
            meta["tool_options"] = episode.tool_options
    if not episode.routed and len(episode.calls) > 1:
        meta["model_calls"] = len(episode.calls)
    if not text.strip():
        attached = len(other_blocks(last["content"]))
        text = f"[{attached} attachment(s)]" if attached else f"[{last['role']}]"
        meta["messages"] = list(episode.messages)
    reference = reference_of(references, key[2], text)
    if reference is not None and not isinstance(reference, str):
        meta["reference"] = reference
        reference = _json(reference)
    return {
        **dict(zip(KEY, key, strict=True)),
        "prompt": text,
        "category": key[1],
        "reference": reference,
        "meta": _json(meta) if meta else None,
    }


def observations(episode: Episode, key: tuple[str, str, str]) -> list[dict[str, Any]]:
    """A row per answer in the episode."""
    correction, (propensity, _) = _correction(episode), logged_propensity(episode)
    rows = []
    for number, call in enumerate(_answered(episode)):
        said = _said_of(episode, call)
        rows.append(
            {
                **dict(zip(KEY, key, strict=True)),
                "model": call.card,
                "response": call.answer,
                "served_model": call.served_model,
                # Two calls of one card in one request: the later counts as the newer.
                "at": episode.started_at + number * 1e-6,
                "input_tokens": None if call.usage is None else call.usage["input_tokens"],
                "output_tokens": None if call.usage is None else call.usage["output_tokens"],
                "cost_usd": None if call.cost_usd is None else float(call.cost_usd),
                "latency_s": call.latency_s,
                "propensity": propensity,
                "truncated": call.truncated,
                "correction": correction,
                "said": _json(said) if said else None,
            }
        )
    return rows


def _answered(episode: Episode) -> Sequence[EpisodeCall]:
    """The calls that outcomes are made of. A loop of one model is a single one, at the cost of
    all its calls."""
    calls = episode.calls
    if episode.routed or len(calls) == 1:
        return [call for call in calls if call.answer is not None]
    usages = [call.usage for call in calls]
    return [
        EpisodeCall(
            card=calls[-1].card,
            model=calls[-1].model,
            answer=episode.answer,
            usage=None if None in usages else sum_usage(usages),
            cost_usd=episode.cost_usd,
            latency_s=sum(call.latency_s for call in calls),
            served_model=calls[-1].served_model,
            truncated=calls[-1].truncated,
        )
    ]


def _said_of(episode: Episode, call: EpisodeCall) -> list[Mapping[str, Any]]:
    """The feedback on this call's answer: given to that call, or to what the request returned.
    Who scores twice under one key has changed their mind: the newer counts."""
    returned = not episode.routed or (call.card == episode.route and call.answer == episode.answer)
    kept: dict[Any, Mapping[str, Any]] = {}
    for number, entry in enumerate(episode.feedback):
        if (returned and entry.get("about", "answer") == "answer") or (
            entry.get("about") == "call" and entry.get("call_id") == call.call_id
        ):
            # A comment alone takes no score back.
            scores = entry.get("score") is not None or is_number(entry.get("value"))
            name = (entry.get("key"), entry.get("source")) if scores else number
            kept.pop(name, None)
            kept[name] = entry
    return list(kept.values())


def _correction(episode: Episode) -> str | None:
    """The newest right answer that a feedback told; a corrected route is none."""
    for entry in reversed(episode.feedback):
        said = entry.get("correction")
        if entry.get("about") == "trace":
            continue
        if isinstance(said, Mapping):
            said = next((said[name] for name in _CORRECTED if said.get(name) is not None), None)
        if said is not None:
            return said if isinstance(said, str) else _json(said)
    return None


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)
