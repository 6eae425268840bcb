"""Run trees to episodes: what training reads of a request, from whichever source it came.

One extractor reads the local store's runs and those of LangSmith's client, dicts or objects. A
routed request gives an episode with its decisions. A trace of a graph that never used our node
gives one too: all its chat-model calls, when they were calls of one model, or one episode per call
when several models took part; a team's history before it routed is its first training set.

Times of routed requests stand in their record and are the same in every source. Those of other
runs are each recorder's own clock and differ by microseconds.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from xrouter_lg.pool import ModelPool, normalise_name
from xrouter_lg.tracing.extract import ExtractedRoute, field_of, route_records
from xrouter_lg.tracing.facts import PROMPTS_KEY, SAMPLE_RATE_KEY
from xrouter_lg.types import Usage

_ROLES = {"human": "user", "ai": "assistant", "AIMessageChunk": "assistant"}

HIDDEN = "hidden inputs: the messages were not recorded"
HASHED = "hashed: only digests of the messages were recorded"
UNANSWERED = "no answer"


@dataclass(frozen=True, kw_only=True)
class EpisodeCall:
    """One model call of an episode that gave an answer or failed."""

    card: str
    model: str
    answer: str | None
    """Its text; None where it failed."""
    usage: dict[str, int] | None
    cost_usd: str | None
    """Decimal USD of all attempts for this call; None where unknown."""
    latency_s: float
    error: str | None = None
    served_model: str | None = None
    truncated: bool = False
    call_id: str | None = None


@dataclass(frozen=True, kw_only=True)
class Episode:
    """One request as training sees it."""

    trace_id: str
    run_id: str
    """The router's run; of an unrouted trace, its first chat-model run."""
    messages: tuple[dict[str, Any], ...]
    """``role`` and ``content``, and ``tool_calls``, ``tool_call_id`` or ``name`` where given."""
    answer: str | None
    route: str | None
    """The card that answered."""
    calls: tuple[EpisodeCall, ...]
    routed: bool
    """False for a trace that our node was no part of."""
    candidates: tuple[str, ...] = ()
    decisions: tuple[dict[str, Any], ...] = ()
    """Per turn, as in the route record: calls, selection, scores, propensity, and of a language
    model's decision ``token_ids`` with prompt ids, completion ids and logprobs."""
    propensity: float | None = None
    explored: bool = False
    policy: str | None = None
    policy_version: str | None = None
    prompt_hash: str | None = None
    pool_fingerprint: str | None = None
    cost_weight: float | None = None
    cost_usd: str | None = None
    """Decimal USD of everything; None where a part is unknown."""
    router_cost_usd: str | None = None
    feedback: tuple[dict[str, Any], ...] = ()
    sampling_rate: float | None = None
    """Share of traces that was kept; None where all were, or nobody said."""
    tags: tuple[str, ...] = ()
    task: str | None = None
    """``task`` of the trace's metadata."""
    project: str | None = None
    thread_id: str | None = None
    tenant: str | None = None
    started_at: float = 0.0
    """Unix time in seconds."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe form."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Episode:
        """The inverse of :meth:`to_dict`; fields of a newer version are ignored."""
        names = {f.name for f in dataclasses.fields(cls)}
        values = {key: value for key, value in data.items() if key in names}
        for name in ("messages", "candidates", "decisions", "feedback", "tags"):
            values[name] = tuple(values.get(name) or ())
        values["calls"] = tuple(EpisodeCall(**call) for call in data["calls"])
        return cls(**values)


@dataclass
class ExtractReport:
    """What an extraction saw. ``skipped`` counts requests by reason."""

    traces: int = 0
    episodes: int = 0
    skipped: Counter[str] = field(default_factory=Counter)


def episodes(
    runs: Iterable[Any],
    feedback: Iterable[Any] = (),
    *,
    pool: ModelPool | None = None,
    project: str | None = None,
    report: ExtractReport | None = None,
) -> Iterator[Episode]:
    """Episodes of the runs of one or several whole traces, in the order of their start.

    ``feedback`` are dicts or LangSmith's objects. ``project`` is the name to record where runs
    don't carry it (LangSmith's have its id). ``pool`` names and prices the models of graphs
    that never routed: a card whose ``model`` is the run's gives its name and price.
    """
    by_trace: dict[str, list[Any]] = {}
    for run in runs:
        by_trace.setdefault(str(field_of(run, "trace_id") or field_of(run, "id")), []).append(run)
    said: dict[str, list[dict[str, Any]]] = {}
    for entry in feedback:
        plain = _feedback(entry)
        said.setdefault(plain["trace_id"] or plain["run_id"] or "", []).append(plain)
    counted = report or ExtractReport()
    for trace_id, own in by_trace.items():
        counted.traces += 1
        for episode in _trace_episodes(trace_id, own, said.get(trace_id, []), pool, counted):
            counted.episodes += 1
            named = episode.project or project
            yield (
                episode if named == episode.project else dataclasses.replace(episode, project=named)
            )


def _trace_episodes(
    trace_id: str,
    runs: Sequence[Any],
    feedback: Sequence[dict[str, Any]],
    pool: ModelPool | None,
    report: ExtractReport,
) -> Iterator[Episode]:
    runs = sorted(runs, key=lambda run: str(field_of(run, "dotted_order")))
    by_id = {str(field_of(run, "id")): run for run in runs}
    common = _common(trace_id, runs)
    if _metadata(runs[0]).get(PROMPTS_KEY) == "hashed" or common.pop("hashed"):
        report.skipped[HASHED] += 1
        return
    routes = route_records(runs)
    routers = {route.run_id for route in routes if route.run_id is not None}
    for route in routes:
        episode = _routed(route, by_id[route.collect_run_id], common)
        if not episode.messages:
            report.skipped[HIDDEN] += 1
        elif episode.answer is None:
            report.skipped[UNANSWERED] += 1
        else:
            mine = _feedback_of(feedback, episode.run_id, trace_id, by_id, alone=len(routes) == 1)
            yield dataclasses.replace(episode, feedback=mine)
    others = [
        run
        for run in runs
        if field_of(run, "run_type") == "llm" and not routers.intersection(_ancestors(run))
    ]
    if routers:
        # Beside a router, other model calls are steps of the app; the request is the router's.
        return
    groups = [others] if len({_model(run) for run in others}) == 1 else [[run] for run in others]
    for group in groups:
        episode_or_reason = _unrouted(group, common, pool)
        if isinstance(episode_or_reason, str):
            report.skipped[episode_or_reason] += 1
            continue
        mine = _feedback_of(
            feedback, episode_or_reason.run_id, trace_id, by_id, alone=len(groups) == 1
        )
        yield dataclasses.replace(episode_or_reason, feedback=mine)


def _routed(route: ExtractedRoute, collect: Any, common: Mapping[str, Any]) -> Episode:
    record = route.record
    state = field_of(collect, "inputs") or {}
    answers = {str(result.get("call_id")): result for result in _results(state)}
    calls = []
    charges: dict[str, list[Mapping[str, Any]]] = {}
    for charge in record.charges:
        if charge.get("kind") == "worker":
            charges.setdefault(str(charge.get("call_id")), []).append(charge)
    for call_id, paid in charges.items():
        last, result = paid[-1], answers.get(call_id, {})
        message = result.get("message")
        calls.append(
            EpisodeCall(
                card=str(last["card"]),
                model=str(last["model"]),
                answer=None if message is None else _text(_unwrapped(message).get("content")),
                usage=_sum_usage([charge.get("usage") for charge in paid]),
                cost_usd=_sum_usd([charge.get("cost_usd") for charge in paid]),
                latency_s=float(sum(charge.get("latency_s") or 0.0 for charge in paid)),
                error=last.get("error"),
                served_model=last.get("served_model"),
                truncated=bool(result.get("truncated")),
                call_id=call_id,
            )
        )
    return Episode(
        **{**common, "thread_id": record.thread_id or common["thread_id"]},
        run_id=str(route.run_id or route.collect_run_id),
        messages=_messages(state.get("messages")),
        answer=_answer(field_of(collect, "outputs")),
        route=record.route,
        calls=tuple(calls),
        routed=True,
        candidates=tuple(record.candidates),
        decisions=tuple(record.decisions),
        propensity=record.propensity,
        explored=any(bool(turn.get("explored")) for turn in record.decisions),
        policy=record.policy,
        policy_version=record.policy_version,
        prompt_hash=record.prompt_hash,
        pool_fingerprint=record.pool_fingerprint,
        cost_weight=record.cost_weight,
        cost_usd=record.cost_usd,
        router_cost_usd=record.router_cost_usd,
        tenant=record.tenant,
        started_at=record.started_at,
    )


def _unrouted(
    group: Sequence[Any], common: Mapping[str, Any], pool: ModelPool | None
) -> Episode | str:
    """The calls of one model in one trace as an episode, or why there is none."""
    model = _model(group[0])
    messages = _messages(_first_batch(field_of(group[0], "inputs")))
    if not messages:
        return HIDDEN
    card = _card_of(pool, model)
    name = normalise_name(model) if card is None else card.name
    calls = []
    for run in group:
        message = _generation(field_of(run, "outputs"))
        usage = _usage(message, run)
        price = None if card is None else card.effective_price
        cost = None if price is None or usage is None else format(price.cost(Usage(**usage)), "f")
        error = field_of(run, "error")
        calls.append(
            EpisodeCall(
                card=name,
                model=model,
                answer=None if message is None else _text(message.get("content")),
                usage=usage,
                cost_usd=cost,
                latency_s=_seconds(run),
                error=None if not error else str(error).splitlines()[0][:200],
                served_model=_served(message),
                truncated=_finish_reason(message) == "length",
            )
        )
    answer = next((call.answer for call in reversed(calls) if call.answer is not None), None)
    if answer is None:
        return UNANSWERED
    return Episode(
        **common,
        run_id=str(field_of(group[0], "id")),
        messages=messages,
        answer=answer,
        route=name,
        calls=tuple(calls),
        routed=False,
        cost_usd=_sum_usd([call.cost_usd for call in calls]),
        started_at=_unix(field_of(group[0], "start_time")),
    )


def _common(trace_id: str, runs: Sequence[Any]) -> dict[str, Any]:
    """What belongs to the whole trace."""
    root = runs[0]
    said = _metadata(root)
    rate = said.get(SAMPLE_RATE_KEY)
    task = said.get("task")
    thread = said.get("thread_id") or said.get("session_id") or said.get("conversation_id")
    return {
        "trace_id": trace_id,
        "tags": tuple(sorted(map(str, field_of(root, "tags") or ()))),
        "task": None if task is None else str(task),
        "project": field_of(root, "session_name"),
        "thread_id": None if thread is None else str(thread),
        "sampling_rate": float(rate) if isinstance(rate, int | float) and rate < 1 else None,
        "hashed": any(_metadata(run).get(PROMPTS_KEY) == "hashed" for run in runs),
    }


def _feedback(entry: Any) -> dict[str, Any]:
    """The part of a feedback that both sources know, in one form."""
    plain = {name: field_of(entry, name) for name in ("key", "score", "value", "comment")}
    plain["correction"] = field_of(entry, "correction")
    for name in ("run_id", "trace_id"):
        value = field_of(entry, name)
        plain[name] = None if value is None else str(value)
    if isinstance(plain["score"], bool):
        plain["score"] = float(plain["score"])
    return plain


def _feedback_of(
    feedback: Sequence[dict[str, Any]],
    run_id: str,
    trace_id: str,
    by_id: Mapping[str, Any],
    *,
    alone: bool,
) -> tuple[dict[str, Any], ...]:
    """Feedback that speaks of an episode: on its run or one below, or on the whole trace; where
    the trace holds a single episode, any."""
    found = []
    for entry in feedback:
        on = entry["run_id"]
        whole = on is None or on == trace_id
        below = on == run_id or (on in by_id and run_id in _ancestors(by_id[on]))
        if alone or whole or below:
            found.append({k: v for k, v in entry.items() if k not in ("run_id", "trace_id")})
    return tuple(found)


def _ancestors(run: Any) -> set[str]:
    """Ids of the runs above this one: the dotted order spells them out."""
    segments = str(field_of(run, "dotted_order") or "").split(".")[:-1]
    return {segment[-36:] for segment in segments}


def _metadata(run: Any) -> Mapping[str, Any]:
    extra = field_of(run, "extra") or {}
    said = extra.get("metadata")
    return said if isinstance(said, Mapping) else {}


def _model(run: Any) -> str:
    extra = field_of(run, "extra") or {}
    params = extra.get("invocation_params") or {}
    said = _metadata(run).get("ls_model_name") or params.get("model") or params.get("model_name")
    return str(said or field_of(run, "name"))


def _card_of(pool: ModelPool | None, model: str) -> Any:
    if pool is None:
        return None
    named = [pool[name] for name in pool.names]
    wanted = model.rpartition("/")[2]
    return next((c for c in named if model in (c.name, c.model_name) or wanted == c.name), None)


def _results(state: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    found = state.get("xrouter_results") or []
    return [result for result in found if isinstance(result, Mapping)]


def _first_batch(inputs: Any) -> Any:
    messages = (inputs or {}).get("messages")
    if isinstance(messages, Sequence) and messages and isinstance(messages[0], list | tuple):
        return messages[0]
    return messages


def _messages(values: Any) -> tuple[dict[str, Any], ...]:
    """Messages of any recorded form as role and content."""
    if not isinstance(values, list | tuple):
        return ()
    found = []
    for value in values:
        message = _unwrapped(value)
        kind = message.get("type") or message.get("role")
        if kind is None or "content" not in message:
            continue
        plain = {"role": _ROLES.get(str(kind), str(kind)), "content": message["content"]}
        for name in ("tool_calls", "tool_call_id", "name"):
            if message.get(name):
                plain[name] = message[name]
        found.append(plain)
    return tuple(found)


def _unwrapped(message: Any) -> Mapping[str, Any]:
    """A message's fields; LangChain's serialised form has them under ``kwargs``."""
    if hasattr(message, "model_dump"):
        dumped: dict[str, Any] = message.model_dump()
        return dumped
    if not isinstance(message, Mapping):
        return {}
    kwargs = message.get("kwargs")
    return kwargs if isinstance(kwargs, Mapping) else message


def _text(content: Any) -> str:
    """The text of a message's content; other blocks leave none."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list | tuple):
        return ""
    parts = (block if isinstance(block, str) else block.get("text", "") for block in content)
    return "".join(part for part in parts if isinstance(part, str))


def _answer(outputs: Any) -> str | None:
    """Text of the last message among a collect run's outputs."""
    update = outputs if isinstance(outputs, Mapping) else {}
    for key in ("output", "update"):
        inner = update.get(key)
        if isinstance(inner, Mapping):
            update = inner
    values = update.get("messages")
    messages = values if isinstance(values, list | tuple) else [values]
    last = _unwrapped(messages[-1]) if messages else {}
    return _text(last["content"]) if "content" in last else None


def _generation(outputs: Any) -> Mapping[str, Any] | None:
    try:
        return _unwrapped(outputs["generations"][0][0]["message"]) or None
    except (KeyError, IndexError, TypeError):
        return None


def _usage(message: Mapping[str, Any] | None, run: Any) -> dict[str, int] | None:
    meta = (message or {}).get("usage_metadata")
    if isinstance(meta, Mapping):
        inputs, outputs = meta.get("input_token_details") or {}, meta.get("output_token_details")
        return Usage(
            input_tokens=int(meta.get("input_tokens") or 0),
            output_tokens=int(meta.get("output_tokens") or 0),
            cached_input_tokens=int(inputs.get("cache_read") or 0),
            cache_write_tokens=int(inputs.get("cache_creation") or 0),
            reasoning_tokens=int((outputs or {}).get("reasoning") or 0),
        ).to_dict()
    prompt, completion = field_of(run, "prompt_tokens"), field_of(run, "completion_tokens")
    if prompt or completion:
        return Usage(int(prompt or 0), int(completion or 0)).to_dict()
    return None


def _served(message: Mapping[str, Any] | None) -> str | None:
    name = ((message or {}).get("response_metadata") or {}).get("model_name")
    return None if name is None else str(name)


def _finish_reason(message: Mapping[str, Any] | None) -> str | None:
    reason = ((message or {}).get("response_metadata") or {}).get("finish_reason")
    return None if reason is None else str(reason)


def _sum_usage(usages: Sequence[Mapping[str, int] | None]) -> dict[str, int] | None:
    known = [usage for usage in usages if usage is not None]
    if not known:
        return None
    names = [f.name for f in dataclasses.fields(Usage)]
    return {name: sum(int(usage.get(name) or 0) for usage in known) for name in names}


def _sum_usd(values: Sequence[str | None]) -> str | None:
    if any(value is None for value in values):
        return None
    return format(sum((Decimal(value) for value in values if value is not None), Decimal(0)), "f")


def _seconds(run: Any) -> float:
    start, end = field_of(run, "start_time"), field_of(run, "end_time")
    return 0.0 if not start or not end else round(_unix(end) - _unix(start), 6)


def _unix(when: Any) -> float:
    if isinstance(when, str):
        when = datetime.fromisoformat(when.replace("Z", "+00:00"))
    if not isinstance(when, datetime):
        return 0.0
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return float(when.timestamp())
