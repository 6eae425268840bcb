"""What a LangSmith workspace holds, in memory, and how it answers queries about it."""

from __future__ import annotations

import base64
import threading
import uuid
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from xrouter_lg.testing.langsmith.filter import FilterError, Predicate, compiled, moment

Json = dict[str, Any]


class Records:
    """Runs, projects, feedback, datasets and examples. Thread-safe."""

    def __init__(self) -> None:
        self.runs: dict[str, Json] = {}
        self.feedback: dict[str, Json] = {}
        self.sessions: dict[str, Json] = {}
        self.datasets: dict[str, Json] = {}
        self.examples: dict[str, Json] = {}
        self.prices: dict[str, tuple[str, str]] = {}
        """USD per million tokens of input and output by model name, as LangSmith's own price map;
        runs of other models have no cost."""
        self.lock = threading.RLock()
        self._feedback_of: dict[str, list[str]] = {}

    # --- projects --------------------------------------------------------------------------

    def session(self, name: str, **fields: Any) -> Json:
        """The project of that name, made on first use."""
        with self.lock:
            for session in self.sessions.values():
                if session["name"] == name:
                    return session
            session = {
                "id": str(uuid.uuid4()),
                "name": name,
                "start_time": datetime.now(UTC).isoformat(),
                "tenant_id": str(uuid.UUID(int=1)),
                "reference_dataset_id": None,
                "extra": None,
                **fields,
            }
            self.sessions[session["id"]] = session
            return session

    def find_sessions(self, wanted: Mapping[str, Sequence[str]]) -> list[Json]:
        with self.lock:
            found = list(self.sessions.values())
        if names := wanted.get("name"):
            found = [s for s in found if s["name"] in names]
        if parts := wanted.get("name_contains"):
            found = [s for s in found if parts[0].lower() in s["name"].lower()]
        if dataset := wanted.get("reference_dataset"):
            found = [s for s in found if s["reference_dataset_id"] in dataset]
        return found

    # --- runs ------------------------------------------------------------------------------

    def merge(self, run_id: str, values: Mapping[str, Any]) -> None:
        """A post or patch of a run: what is given replaces what was there."""
        with self.lock:
            run = self.runs.setdefault(run_id, {"id": run_id})
            run.update({key: value for key, value in values.items() if value is not None})
            if "session_id" not in run and "session_name" in run:
                run["session_id"] = self.session(run["session_name"])["id"]

    def forget(self, before: datetime) -> int:
        """Retention: delete traces that began before; how many runs that were."""
        with self.lock:
            roots = {
                run["trace_id"]
                for run in self.runs.values()
                if run.get("parent_run_id") is None and moment(run["start_time"]) < before
            }
            gone = [i for i, run in self.runs.items() if run.get("trace_id") in roots]
            for run_id in gone:
                del self.runs[run_id]
        return len(gone)

    def query(self, wanted: Mapping[str, Any]) -> list[Json]:
        """Runs by session, trace, root, type, id, time and filters, newest first. Takes the names
        of both APIs.

        Raises:
            FilterError: a filter that can't be read.
        """
        with self.lock:
            found = [run for run in self.runs.values() if "trace_id" in run]
            found = [run for run in found if _matches(run, wanted)]
            found = self._filtered(found, wanted)
            found.sort(key=lambda run: (moment(run["start_time"]), run["id"]), reverse=True)
            return [self._as_read(run) for run in found]

    def page(
        self, wanted: Mapping[str, Any], size: int, cursor: str | None
    ) -> tuple[list[Json], str | None]:
        """A page of a query and the cursor of the next one. The cursor says where the page ended,
        so that what arrives meanwhile shifts nothing."""
        found = self.query(wanted)
        start = 0
        if cursor:
            last = base64.urlsafe_b64decode(cursor).decode()
            keys = [_descending(run) for run in found]
            start = bisect_left(keys, _descending_of(last)) + 1
        page = found[start : start + size]
        if start + size >= len(found):
            return page, None
        ended = f"{page[-1]['start_time']}|{page[-1]['id']}"
        return page, base64.urlsafe_b64encode(ended.encode()).decode()

    def _filtered(self, runs: list[Json], wanted: Mapping[str, Any]) -> list[Json]:
        since = wanted.get("min_feedback_modified_at")

        def holds(predicate: Predicate, run: Json) -> bool:
            said = [self.feedback[i] for i in self._feedback_of.get(run["id"], ())]
            if since is not None:
                at = moment(since)
                said = [f for f in said if moment(f.get("modified_at") or f["created_at"]) >= at]
            return predicate(run, said)

        if expression := wanted.get("filter"):
            predicate = compiled(expression)
            if since is not None and "feedback" not in expression:
                raise FilterError("min_feedback_modified_at needs a feedback condition")
            runs = [run for run in runs if holds(predicate, run)]
        for name in ("tree_filter", "trace_filter"):
            if expression := wanted.get(name):
                predicate = compiled(expression)
                traces = {
                    run["trace_id"]
                    for run in self.runs.values()
                    if "trace_id" in run
                    and (name == "tree_filter" or run.get("parent_run_id") is None)
                    and holds(predicate, run)
                }
                runs = [run for run in runs if run["trace_id"] in traces]
        return runs

    def _as_read(self, run: Json) -> Json:
        status = "error" if run.get("error") else "success" if run.get("end_time") else "pending"
        said = [self.feedback[i] for i in self._feedback_of.get(run["id"], ())]
        read = {"inputs": {}, "outputs": None, "app_path": f"/r/{run['id']}", **run}
        read.update(self._usage(run), status=status, feedback_stats=_stats(said) or None)
        return read

    def _usage(self, run: Json) -> Json:
        """Token columns and costs, which LangSmith derives itself where a run does not bring its
        own."""
        metadata = (run.get("extra") or {}).get("metadata") or {}
        usage = metadata.get("usage_metadata") if run.get("run_type") == "llm" else None
        if not usage:
            return {}
        tokens = {
            "prompt_tokens": usage.get("input_tokens"),
            "completion_tokens": usage.get("output_tokens"),
            "total_tokens": usage.get("total_tokens"),
        }
        own = {"prompt_cost": "input_cost", "completion_cost": "output_cost"}
        own["total_cost"] = "total_cost"
        if any(usage.get(name) is not None for name in own.values()):
            brought = {ours: usage.get(name) for ours, name in own.items()}
            return {**tokens, **{n: str(v) for n, v in brought.items() if v is not None}}
        price = self.prices.get(str(metadata.get("ls_model_name")))
        if price is None:
            return tokens
        costs = [
            Decimal(tokens[name] or 0) * Decimal(rate) / 1_000_000
            for name, rate in zip(("prompt_tokens", "completion_tokens"), price, strict=True)
        ]
        names = ("prompt_cost", "completion_cost", "total_cost")
        return {**tokens, **dict(zip(names, map(str, [*costs, sum(costs)]), strict=True))}

    # --- feedback --------------------------------------------------------------------------

    def add_feedback(self, entry: Mapping[str, Any]) -> Json:
        """Feedback by id: the same id again replaces."""
        now = datetime.now(UTC).isoformat()
        with self.lock:
            made = {"trace_id": None, "created_at": now, "modified_at": now, **entry}
            run = self.runs.get(str(made.get("run_id")), {})
            made.setdefault("session_id", None)
            made["session_id"] = made["session_id"] or run.get("session_id")
            made["trace_id"] = made["trace_id"] or run.get("trace_id")
            if made["id"] not in self.feedback:
                self._feedback_of.setdefault(str(made.get("run_id")), []).append(made["id"])
            self.feedback[made["id"]] = made
            return made

    def change_feedback(self, feedback_id: str, changes: Mapping[str, Any]) -> Json:
        with self.lock:
            entry = self.feedback[feedback_id]
            entry.update(changes, modified_at=datetime.now(UTC).isoformat())
            return entry

    def find_feedback(self, wanted: Mapping[str, Sequence[str]]) -> list[Json]:
        """Feedback by run, project, key and time, newest first."""
        with self.lock:
            found = list(self.feedback.values())
        for parameter, field in (("run", "run_id"), ("session", "session_id"), ("key", "key")):
            if values := wanted.get(parameter):
                found = [f for f in found if f.get(field) in values]
        if since := wanted.get("min_created_at"):
            found = [f for f in found if moment(f["created_at"]) >= moment(since[0])]
        if until := wanted.get("max_created_at"):
            found = [f for f in found if moment(f["created_at"]) < moment(until[0])]
        return sorted(found, key=lambda f: (moment(f["created_at"]), f["id"]), reverse=True)

    # --- datasets --------------------------------------------------------------------------

    def add_dataset(self, fields: Mapping[str, Any]) -> Json:
        with self.lock:
            made = {"id": str(uuid.uuid4()), "created_at": datetime.now(UTC).isoformat(), **fields}
            self.datasets[made["id"]] = made
            return made

    def add_examples(self, rows: Sequence[Mapping[str, Any]]) -> list[Json]:
        """Examples by id.

        Raises:
            KeyError: an id that is taken.
        """
        with self.lock:
            for row in rows:
                if row["id"] in self.examples:
                    raise KeyError(row["id"])
            made = [{"created_at": datetime.now(UTC).isoformat(), **row} for row in rows]
            self.examples.update((row["id"], row) for row in made)
            return made

    def find_examples(self, wanted: Mapping[str, Sequence[str]]) -> list[Json]:
        with self.lock:
            found = list(self.examples.values())
        for parameter, field in (("dataset", "dataset_id"), ("id", "id")):
            if values := wanted.get(parameter):
                found = [e for e in found if str(e[field]) in values]
        return sorted(found, key=lambda example: str(example["id"]))


def as_v2(run: Json, selects: Sequence[str]) -> Json:
    """A run as the second API gives it: upper-case words, all ancestors (the root first) instead
    of the parent, the project by another name, and no field that was not selected."""
    steps = str(run.get("dotted_order") or "").split(".")
    ancestors = [step.partition("Z")[2] for step in steps[:-1]]
    metadata = (run.get("extra") or {}).get("metadata")
    whole = {
        **run,
        "run_type": str(run["run_type"]).upper(),
        "status": str(run["status"]).upper(),
        "parent_run_ids": ancestors,
        "project_id": run["session_id"],
        "is_root": not ancestors,
        "metadata": metadata,
    }
    for name in ("prompt_cost", "completion_cost", "total_cost"):
        if whole.get(name) is not None:
            whole[name] = float(whole[name])
    names = [name.lower() for name in selects] or ["id"]
    return {name: whole.get(name) for name in names if name in whole}


def _matches(run: Json, wanted: Mapping[str, Any]) -> bool:
    return all(
        holds(run, value)
        for name, holds in _TESTS.items()
        if (value := wanted.get(name)) is not None
    )


_TESTS: dict[str, Any] = {
    "session": lambda run, value: run["session_id"] in value,
    "project_ids": lambda run, value: run["session_id"] in value,
    "trace": lambda run, value: run["trace_id"] == value,
    "trace_id": lambda run, value: run["trace_id"] == value,
    "is_root": lambda run, value: (run.get("parent_run_id") is None) == value,
    "run_type": lambda run, value: run["run_type"] == value.lower(),
    "id": lambda run, value: run["id"] in value,
    "ids": lambda run, value: run["id"] in value,
    "start_time": lambda run, value: moment(run["start_time"]) >= moment(value),
    "min_start_time": lambda run, value: moment(run["start_time"]) >= moment(value),
    "max_start_time": lambda run, value: moment(run["start_time"]) < moment(value),
    "reference_example": lambda run, value: run.get("reference_example_id") in value,
}

DEFAULT_WINDOW = timedelta(days=1)
"""How far back the second API looks when it is not told."""


def _stats(said: Sequence[Json]) -> Json:
    stats: Json = {}
    for entry in said:
        stats.setdefault(entry["key"], []).append(entry.get("score"))
    return {key: _averaged(scores) for key, scores in stats.items()}


def _averaged(scores: Sequence[float | None]) -> Json:
    known = [score for score in scores if score is not None]
    return {"n": len(scores), "avg": sum(known) / len(known) if known else None}


def _descending(run: Json) -> tuple[float, tuple[int, ...]]:
    return _descending_of(f"{run['start_time']}|{run['id']}")


def _descending_of(ended: str) -> tuple[float, tuple[int, ...]]:
    start, _, run_id = ended.rpartition("|")
    return -moment(start).timestamp(), tuple(-byte for byte in run_id.encode())
