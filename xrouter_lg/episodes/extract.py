"""Run trees to episodes: what training reads of a request, from whichever source it came.

One extractor reads the local store's runs and those of LangSmith's client, dicts or objects of
either API. A routed request gives an episode with its decisions. A trace of a graph that never
used our node gives the episodes of its models (:mod:`xrouter_lg.episodes.plain_calls`).

What a routed request's record holds is the same in every source. Times of other runs are each
recorder's own clock and differ by microseconds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

from xrouter_lg import said
from xrouter_lg.episodes import runs as read
from xrouter_lg.episodes.episode import Episode, EpisodeCall, sum_usage
from xrouter_lg.episodes.feedback import STRAY, with_feedback
from xrouter_lg.episodes.plain_calls import (
    PlainCall,
    innermost_models,
    loops,
    names_of,
    seconds_of,
    unix,
    usd_of,
)
from xrouter_lg.pool.pool import ModelPool
from xrouter_lg.said import Run
from xrouter_lg.tracing.runs.extract import (
    COLLECT,
    RECORD_KEY,
    ExtractedRoute,
    decided_in,
    field_of,
    role_of,
    route_records,
)
from xrouter_lg.tracing.runs.facts import SAMPLE_RATE_KEY, THREAD_KEYS
from xrouter_lg.tracing.runs.importing import feedback_said, plain_run

HIDDEN = "hidden inputs: the messages were not recorded"
HIDDEN_ANSWER = "hidden outputs: the answer was not recorded"
HASHED = "hashed: only digests of the messages were recorded"
REDACTED = "redacted: nothing of the question or the answer is left"
UNANSWERED = "no answer: the call failed or never ended"
NO_RECORD = "no route record: the routed request failed or never ended"
BESIDE = "a fixed model's call beside a routed request"
NO_MODEL = "no chat model was called"


@dataclass
class ExtractReport:
    """What an extraction saw. ``skipped`` counts requests by reason."""

    traces: int = 0
    episodes: int = 0
    routed: int = 0
    """Episodes among them that our node routed."""
    skipped: Counter[str] = field(default_factory=Counter)
    lost_feedback: Counter[str] = field(default_factory=Counter)
    """Feedback that speaks of no answer, by reason."""
    newest: float | None = None
    """When the newest trace began, by its recorder's clock; Unix seconds."""


def episodes(
    runs: Iterable[Any],
    feedback: Iterable[Any] = (),
    *,
    pool: ModelPool | None = None,
    project: str | None = None,
    report: ExtractReport | None = None,
) -> Iterator[Episode]:
    """Episodes of the runs of one or several whole traces, in the order of their start.

    ``feedback`` are dicts or LangSmith's objects. ``project`` is recorded where runs don't name
    theirs (LangSmith's have its id). ``pool`` names and prices the models of unrouted requests.

    Raises:
        StoreError: a run without id or start time (LangSmith's second API gives what is selected).
    """
    by_trace: dict[str, list[Run]] = {}
    for given in runs:
        run = plain_run(given, None if field_of(given, "session_name") else project)
        by_trace.setdefault(run["trace_id"], []).append(run)
    told: dict[str, list[dict[str, Any]]] = {}
    trace_of = {run["id"]: trace_id for trace_id, own in by_trace.items() for run in own}
    for entry in sorted(map(feedback_said, feedback), key=lambda entry: str(entry["created_at"])):
        trace_id = entry["trace_id"] or trace_of.get(entry["run_id"]) or entry["run_id"]
        told.setdefault(str(trace_id), []).append(entry)
    counted = report or ExtractReport()
    for trace_id, own in sorted(by_trace.items(), key=lambda item: min(map(_start, item[1]))):
        counted.traces += 1
        counted.newest = max(counted.newest or 0.0, unix(min(map(_start, own))))
        found = _Trace(trace_id, own, counted, pool).episodes()
        for episode in with_feedback(found, told.get(trace_id, []), own, counted.lost_feedback):
            counted.episodes += 1
            counted.routed += episode.routed
            yield episode
    if stray := sum(len(said) for trace_id, said in told.items() if trace_id not in by_trace):
        counted.lost_feedback[STRAY] += stray


class _Trace:
    """One trace's runs while its episodes are read out."""

    def __init__(
        self, trace_id: str, runs: Sequence[Run], report: ExtractReport, pool: ModelPool | None
    ) -> None:
        self.id, self.report, self.pool = trace_id, report, pool
        self.runs = sorted(runs, key=lambda run: str(run["dotted_order"]))
        self.by_id = {run["id"]: run for run in self.runs}

    def episodes(self) -> list[Episode]:
        routes = route_records(self.runs)
        # The role is inherited by whatever runs below; the router's own steps are the topmost.
        roles = {run["id"]: role_of(run["extra"]) for run in self.runs}
        steps = [r for r in self.runs if roles[r["id"]] and not roles.get(r["parent_run_id"])]
        models = innermost_models(self.runs)
        found: list[Episode | str] = [self._routed(route) for route in routes]
        if steps:
            # Beside a router, other model calls are steps of the app; the request is the router's.
            found += [BESIDE for run in models if not roles[run["id"]]]
            answered = {route.run_id for route in routes}
            # What was sent to a wired router is answered below its first step.
            within = [self.by_id[above] for above in map(self._above, answered) if roles.get(above)]
            answered |= {step["parent_run_id"] for step in within}
            begun = {run["parent_run_id"] or run["id"]: run for run in steps}
            found += [self._lost(run) for above, run in begun.items() if above not in answered]
        else:
            decided = [one for run in self.runs for one in decided_in(run)]
            plain = [self._plain(calls) for calls in loops(models)] or [NO_MODEL]
            found += [_as_decided(episode, decided) for episode in plain]
        for reason in found:
            if isinstance(reason, str):
                self.report.skipped[reason] += 1
        kept = [episode for episode in found if isinstance(episode, Episode)]
        return sorted(kept, key=lambda episode: episode.started_at)

    def _above(self, run_id: str | None) -> str | None:
        run = self.by_id.get(str(run_id))
        return None if run is None else run["parent_run_id"]

    def _routed(self, route: ExtractedRoute) -> Episode | str:
        record, collect = route.record, self.by_id[route.collect_run_id]
        state = collect["inputs"]
        key = _messages_key(collect["outputs"])
        messages = said.plain_messages(state.get(key))
        answer = read.last_answer(collect["outputs"], key)
        if (reason := self._unusable(collect, messages, answer)) is not None:
            return reason
        run_id = route.run_id or route.collect_run_id
        below = [r for r in innermost_models(self.runs) if run_id in read.ancestors_of(r)]
        worked = [r for r in below if said.metadata_of(r).get("xrouter_call_id")]
        tools, options = said.asked_tools(worked[0]) if worked else ((), {})
        return Episode(
            **{**self._common(collect), "thread_id": record.thread_id or self._thread(collect)},
            run_id=run_id,
            messages=messages,
            answer=answer,
            route=record.route,
            calls=_routed_calls(route, state),
            routed=True,
            tools=tools,
            tool_options=options,
            candidates=tuple(record.candidates),
            decisions=tuple(record.decisions),
            scores=dict(record.scores),
            propensity=record.propensity,
            explored=any(bool(turn.get("explored")) for turn in record.decisions),
            reason=record.reason,
            policy=record.policy,
            policy_version=record.policy_version,
            prompt_hash=record.prompt_hash,
            pool_fingerprint=record.pool_fingerprint,
            cost_weight=record.cost_weight,
            cost_usd=record.cost_usd,
            router_cost_usd=record.router_cost_usd,
            arm=record.arm,
            shadow_cost_usd=record.shadow_cost_usd,
            latency_s=record.latency_s,
            tenant=record.tenant,
            started_at=record.started_at,
        )

    def _plain(self, calls: Sequence[PlainCall]) -> Episode | str:
        """The calls of one model as an episode, or why there is none."""
        first, last = calls[0], calls[-1]
        answer = said.answer_of(last.reply)
        if (reason := self._unusable(last.run, first.messages, answer)) is not None:
            return reason
        name, _ = names_of(first, self.pool)
        made = []
        for call in calls:
            usage = said.run_usage(call.run)
            _, price = names_of(call, self.pool)
            error = call.run.get("error")
            made.append(
                EpisodeCall(
                    card=name,
                    model=read.model_of(call.run),
                    answer=said.answer_of(call.reply),
                    usage=None if usage is None else usage.to_dict(),
                    cost_usd=usd_of(call, price, usage),
                    latency_s=seconds_of(call.run),
                    error=str(error).splitlines()[0][:200] if error else None,
                    served_model=said.served_model(call.reply),
                    truncated=said.was_cut(call.reply),
                )
            )
        tools, options = said.asked_tools(first.run)
        return Episode(
            **self._common(first.run),
            thread_id=self._thread(first.run),
            run_id=first.run["id"],
            messages=first.messages,
            answer=answer,
            route=name,
            calls=tuple(made),
            routed=False,
            tools=tools,
            tool_options=options,
            cost_usd=_sum_usd([call.cost_usd for call in made]),
            latency_s=round(sum(call.latency_s for call in made), 6),
            started_at=unix(first.run["start_time"]),
        )

    def _unusable(
        self, run: Run, messages: Sequence[dict[str, Any]], answer: str | None
    ) -> str | None:
        if read.is_hashed(self.runs, messages):
            return HASHED
        if read.is_redacted(run, messages, answer):
            return REDACTED
        if answer is None:
            ended = run.get("end_time") and not run.get("error")
            return HIDDEN_ANSWER if ended and not run.get("outputs") else UNANSWERED
        return None if messages else HIDDEN

    def _lost(self, step: Run) -> str:
        """Why a router's steps have no record."""
        if read.is_hashed(self.runs):
            return HASHED
        collected = [r for r in self.runs if role_of(r["extra"]) == COLLECT and r.get("end_time")]
        mine = [r for r in collected if r["parent_run_id"] == step["parent_run_id"]]
        if any("redaction_failed" in (r.get("outputs") or {}) for r in mine):
            return REDACTED
        silent = any(not r.get("outputs") and not r.get("error") for r in mine)
        return HIDDEN_ANSWER if silent else NO_RECORD

    def _common(self, run: Run) -> dict[str, Any]:
        """What is told of the request by its own run, or by the trace's root."""
        root = self.runs[0]
        told = {**said.metadata_of(root), **said.metadata_of(run)}
        rate = told.get(SAMPLE_RATE_KEY)
        tags = tuple(sorted(map(str, root["tags"])))
        marked = [tag.removeprefix("task:") for tag in tags if tag.startswith("task:")]
        task = told.get("task") or next(iter(marked), None)
        return {
            "trace_id": self.id,
            "tags": tags,
            "task": None if task is None else str(task),
            "project": root["session_name"],
            "sampling_rate": float(rate) if isinstance(rate, int | float) and rate < 1 else None,
        }

    def _thread(self, run: Run) -> str | None:
        told = {**said.metadata_of(run), **said.metadata_of(self.runs[0])}
        named = (told[key] for key in THREAD_KEYS if told.get(key))
        return next((str(value) for value in named), None)


def _as_decided(episode: Episode | str, decided: Sequence[Mapping[str, Any]]) -> Episode | str:
    """An episode of a model that a decision of ours chose, with how it was chosen: the latest
    decision before it for its card."""
    if isinstance(episode, str):
        return episode
    mine = next((one for one in reversed(decided) if one.get("route") == episode.route), None)
    if mine is None:
        return episode
    return replace(
        episode,
        scores=dict(mine.get("scores") or {}),
        propensity=mine.get("propensity"),
        explored=bool(mine.get("explored")),
        reason=str(mine.get("reason") or ""),
        policy=mine.get("policy"),
        policy_version=mine.get("policy_version"),
        candidates=tuple(mine.get("scores") or ()),
    )


def _routed_calls(route: ExtractedRoute, state: Mapping[str, Any]) -> tuple[EpisodeCall, ...]:
    # A second router in one graph keeps its results under a name of its own.
    kept = next((v for k, v in state.items() if str(k).startswith("xrouter_results") and v), ())
    results = [result for result in kept or () if isinstance(result, Mapping)]
    answers = {str(result.get("call_id")): result for result in results}
    charges: dict[str, list[Mapping[str, Any]]] = {}
    for charge in route.record.charges:
        if charge.get("kind") == "worker":
            charges.setdefault(str(charge.get("call_id")), []).append(charge)
    calls = []
    for call_id, paid in charges.items():
        last, result = paid[-1], answers.get(call_id, {})
        message = result.get("message")
        answer = None if message is None else said.answer_of(message)
        calls.append(
            EpisodeCall(
                # A record that somebody else wrote may lack either.
                card=str(last.get("card") or last.get("model") or "unknown"),
                model=str(last.get("model") or last.get("card") or "unknown"),
                answer=answer,
                usage=sum_usage([charge.get("usage") for charge in paid]),
                cost_usd=_sum_usd([charge.get("cost_usd") for charge in paid]),
                latency_s=float(sum(charge.get("latency_s") or 0.0 for charge in paid)),
                error=result.get("error") if answer is None else None,
                served_model=last.get("served_model"),
                truncated=bool(result.get("truncated")),
                call_id=call_id,
            )
        )
    return tuple(calls)


def _messages_key(outputs: Any) -> str:
    """The state's key that a collecting step put the answer under; apps may name their own."""
    for key, value in read.update_of(outputs).items():
        last = value[-1] if isinstance(value, list | tuple) and value else value
        if RECORD_KEY in said.response_metadata_of(last):
            return str(key)
    return "messages"


def _start(run: Run) -> str:
    return str(run["start_time"])


def _sum_usd(values: Sequence[str | None]) -> str | None:
    if any(value is None for value in values):
        return None
    return format(sum((Decimal(value) for value in values if value is not None), Decimal(0)), "f")
