"""Between a run tree and the route record: read it out, and write what matters into metadata.

One code path for the recorder's runs, the store's rows and LangSmith's runs, dicts or objects.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, NamedTuple

from langchain_core.runnables import RunnableConfig
from langchain_core.tracers.base import BaseTracer
from langgraph.types import Command

from xrouter_lg.errors import BriefRecordError
from xrouter_lg.json_text import from_json, shown, to_json
from xrouter_lg.route_record import RouteRecord
from xrouter_lg.said import response_metadata_of
from xrouter_lg.typed import misfit
from xrouter_lg.types import Decision, usd, usd_str

logger = logging.getLogger(__name__)

RECORD_KEY = "xrouter"
"""Key of the record in a message's ``response_metadata``."""

WHOLE_KEY = "xrouter_record"
"""Key in a collecting run's metadata: the whole record, of which the message keeps a part."""

ROLE_KEY = "xrouter_role"
"""Node metadata that says which part of the router a run is: ``route``, ``call``, ``collect``."""

COLLECT = "collect"

FAILED_KEY = "xrouter_failed"
"""Key in a run's metadata: the record of a request that ended in an error below this run."""
DECISIONS_KEY = "xrouter_decisions"
"""Key in a run's metadata: what was decided in it, where another surface makes the call."""

_ROOTS = threading.Lock()


class ExtractedRoute(NamedTuple):
    """A route record and where it was found. ``run_id`` is the router's own run."""

    collect_run_id: str
    run_id: str | None
    trace_id: str
    record: RouteRecord


class RunIds(NamedTuple):
    """Ids of the node that runs now, of the run above it, and of the whole trace."""

    node_run_id: str | None
    parent_run_id: str | None
    trace_id: str | None


def failed_record(run: Any) -> ExtractedRoute | None:
    """The record of a request that ended in an error, which its router's run holds."""
    extra = field_of(run, "extra")
    metadata = extra.get("metadata") if isinstance(extra, Mapping) else None
    data = metadata.get(FAILED_KEY) if isinstance(metadata, Mapping) else None
    if not isinstance(data, Mapping):
        return None
    run_id = str(field_of(run, "id"))
    record = _read(data, run_id)
    if record is None:
        return None
    trace_id = field_of(run, "trace_id") or record.trace_id or run_id
    return ExtractedRoute(f"{run_id}-failed", run_id, str(trace_id), record)


def route_records(runs: Iterable[Any]) -> list[ExtractedRoute]:
    """Route records of answered requests among the given runs, in their order.

    A run holds one if its metadata says ``xrouter_role: collect`` and has it, or, as traces once
    were, its outputs (a dict or a ``Command``, live or read back from JSON) hold a message with
    all of it. Runs below such a run inherit the metadata and are passed over. A record that can't
    be read is logged and left out.
    """
    listed = list(runs)
    collecting = {str(field_of(run, "id")) for run in listed if _role(run) == COLLECT}
    found: list[ExtractedRoute] = []
    for run in listed:
        run_id, parent_id = str(field_of(run, "id")), parent_id_of(run)
        if run_id not in collecting or str(parent_id) in collecting:
            continue
        record = _record_of(run, run_id)
        if record is None:
            continue
        router_run = parent_id or record.run_id
        trace_id = field_of(run, "trace_id") or record.trace_id or run_id
        found.append(
            ExtractedRoute(
                run_id, None if router_run is None else str(router_run), str(trace_id), record
            )
        )
    return found


def annotate(config: RunnableConfig, metadata: Mapping[str, Any]) -> None:
    """Add metadata to the running node's run and to its parent's, in every tracer.

    Called from inside a node with its own config. Both runs are still open, so LangSmith gets
    the addition with their end; the local recorder stores it. Does nothing without a tracer.
    """
    for tracer, run_id in _tracers(config):
        run = tracer.run_map.get(run_id)
        parent_id = None if run is None else run.parent_run_id
        parent = None if parent_id is None else tracer.run_map.get(str(parent_id))
        for target in (run, parent):
            if target is not None:
                _add(target, metadata)


def annotate_failed(config: RunnableConfig, record: RouteRecord) -> None:
    """Put the record of a request that ends in an error onto the run above the running node, in
    every tracer; a later record of the same request replaces it."""
    for tracer, run_id in _tracers(config):
        run = tracer.run_map.get(run_id)
        above = None if run is None else tracer.run_map.get(str(run.parent_run_id))
        target = above or run
        if target is not None:
            _add(target, {FAILED_KEY: record.to_dict(), "xrouter_error": record.error})


def annotate_request(
    config: RunnableConfig,
    record: RouteRecord,
    told: Mapping[str, Any],
    metadata: Mapping[str, Any],
) -> None:
    """:func:`annotate`, the whole record to the running node's run, and route and cost to the root
    run of the trace. ``told`` is the record as a dict.

    Of several requests in one trace the route is the latest one's and the costs are sums, in USD
    as decimal strings: ``xrouter_cost_usd`` is None as soon as one is unknown, while
    ``xrouter_known_cost_usd`` adds up what is known. ``xrouter_requests`` counts them.
    """
    with _ROOTS:  # requests of one trace may end at the same time
        # Read first: where the router's steps are the app's own, the parent is the root.
        roots = [(root, _with_request(root, record)) for root in _roots(config)]
        annotate(config, metadata)
        whole: dict[str, Any] | None = None
        for tracer, run_id in _tracers(config):
            if (run := tracer.run_map.get(run_id)) is not None:
                # As JSON, once for all of them: the app has the record's own lists in hand.
                whole = whole or from_json(to_json(told))
                _add(run, {WHOLE_KEY: whole})
        for root, sums in roots:
            _add(root, sums)


def annotate_decision(
    config: RunnableConfig, decision_id: str, decisions: Iterable[Decision]
) -> None:
    """What a run that decides and calls nobody is learned from: each decision's policy, chosen
    card, scores and propensity, under :data:`DECISIONS_KEY` in its metadata."""
    told = [
        {
            "id": decision_id,
            "policy": decision.policy,
            "policy_version": decision.policy_version,
            "route": decision.calls[0].card if decision.calls else None,
            "scores": dict(decision.scores),
            "propensity": decision.propensity,
            "explored": decision.explored,
            "reason": decision.reason,
        }
        for decision in decisions
    ]
    for tracer, run_id in _tracers(config):
        if (run := tracer.run_map.get(run_id)) is not None:
            _add(run, {DECISIONS_KEY: told})


def decided_in(run: Any) -> list[dict[str, Any]]:
    """The decisions that :func:`annotate_decision` left in a run; none in any other run."""
    metadata = (field_of(run, "extra") or {}).get("metadata") or {}
    found = metadata.get(DECISIONS_KEY)
    return [dict(one) for one in found] if isinstance(found, list) else []


def run_ids(config: RunnableConfig) -> RunIds:
    """Ids of the run that a node's config belongs to; None for what no tracer knows.

    Where tracers see different roots (the recorder on one node, LangSmith on the whole app),
    the trace is the one with the outermost root: the id by which LangSmith knows the request.
    """
    node_run_id = node_run_id_of(config)
    parent_run_id = trace_id = None
    depth = -1
    for tracer, run_id in _tracers(config):
        run = tracer.run_map.get(run_id)
        if run is None:
            continue
        if run.parent_run_id is not None:
            parent_run_id = str(run.parent_run_id)
        if (run_depth := run.dotted_order.count(".")) > depth:
            depth, trace_id = run_depth, str(run.trace_id)
    return RunIds(node_run_id, parent_run_id, trace_id)


def field_of(run: Any, name: str) -> Any:
    """A field of a run that may be a dict or an object."""
    return run.get(name) if isinstance(run, Mapping) else getattr(run, name, None)


def role_of(extra: Mapping[str, Any] | None) -> str | None:
    """The router's part that a run's ``extra`` declares."""
    metadata = (extra or {}).get("metadata")
    return metadata.get(ROLE_KEY) if isinstance(metadata, Mapping) else None


def parent_id_of(run: Any) -> Any:
    """LangSmith's second API names all ancestors, the root first, instead of the parent."""
    ancestors = field_of(run, "parent_run_ids")
    return field_of(run, "parent_run_id") or (ancestors[-1] if ancestors else None)


def _role(run: Any) -> str | None:
    return role_of(field_of(run, "extra"))


def node_run_id_of(config: RunnableConfig) -> str | None:
    """Id of the run that a node's config belongs to."""
    run_id = getattr(config.get("callbacks"), "parent_run_id", None)
    return None if run_id is None else str(run_id)


def _tracers(config: RunnableConfig) -> Iterator[tuple[BaseTracer, str]]:
    run_id = node_run_id_of(config)
    if run_id is not None:
        for handler in getattr(config.get("callbacks"), "handlers", ()):
            if isinstance(handler, BaseTracer):
                yield handler, run_id


def _roots(config: RunnableConfig) -> Iterator[Any]:
    """The outermost open run above the node, in every tracer; the app's own where it traces."""
    for tracer, run_id in _tracers(config):
        run = tracer.run_map.get(run_id)
        while run is not None and run.parent_run_id is not None:
            above = tracer.run_map.get(str(run.parent_run_id)) or getattr(run, "parent_run", None)
            if above is None:
                break
            run = above
        if run is not None:
            yield run


def _with_request(root: Any, record: RouteRecord) -> dict[str, Any]:
    old = root.extra.get("metadata") or {}
    before = int(old.get("xrouter_requests") or 0)
    cost = usd(old.get("xrouter_cost_usd")) if before else Decimal(0)
    known = (usd(old.get("xrouter_known_cost_usd")) if before else None) or Decimal(0)
    own = usd(record.cost_usd)
    return {
        "xrouter_requests": before + 1,
        "xrouter_route": record.route,
        "xrouter_cost_usd": None if cost is None or own is None else usd_str(cost + own),
        "xrouter_known_cost_usd": usd_str(known + (usd(record.known_cost_usd) or Decimal(0))),
    }


def _add(run: Any, metadata: Mapping[str, Any]) -> None:
    # A new dict: the old one is shared with other handlers and the run's children.
    run.extra["metadata"] = {**(run.extra.get("metadata") or {}), **metadata}


def _record_of(run: Any, run_id: str) -> RouteRecord | None:
    extra = field_of(run, "extra")
    metadata = extra.get("metadata") if isinstance(extra, Mapping) else None
    whole = metadata.get(WHOLE_KEY) if isinstance(metadata, Mapping) else None
    if isinstance(whole, Mapping) and not field_of(run, "error"):
        return _read(whole, run_id)
    return _record_in(field_of(run, "outputs"), run_id)


def _record_in(outputs: Any, run_id: str) -> RouteRecord | None:
    for values in _updates(outputs):
        for value in values.values():
            for message in value if isinstance(value, (list, tuple)) else (value,):
                data = response_metadata_of(message).get(RECORD_KEY)
                if isinstance(data, Mapping):
                    return _read(data, run_id)
    return None


def _updates(outputs: Any) -> Iterator[Mapping[str, Any]]:
    """State updates among a node's outputs, whichever way they were returned or stored."""
    if isinstance(outputs, Command):
        outputs = outputs.update
    if isinstance(outputs, (list, tuple)):
        for item in outputs:
            yield from _updates(item)
    if not isinstance(outputs, Mapping):
        return
    yield outputs
    for key in ("output", "update"):  # how tracers wrap what is not a dict, and a Command's part
        if isinstance(outputs.get(key), (Mapping, Command, list)):
            yield from _updates(outputs[key])


def _read(data: Mapping[str, Any], run_id: str) -> RouteRecord | None:
    try:
        record = RouteRecord.from_dict(data)
        wrong = misfit(record)
        for cost in (record.cost_usd, record.known_cost_usd, record.estimated_cost_usd):
            if cost is not None and not Decimal(cost).is_finite():
                wrong = f"a cost is {shown(cost)}"
        datetime.fromtimestamp(record.started_at, UTC)
    except (BriefRecordError, TypeError, ValueError, ArithmeticError, OSError) as error:
        wrong = str(error) or type(error).__name__
    if wrong is not None:
        logger.warning("the route record of run %s can't be read: %s", run_id, wrong)
        return None
    return record
