"""A loopback LangSmith, and traces in it of any age, shape and number."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from tests.support.langsmith_server import LangSmithServer
from tests.tracing.routed import a_record
from xrouter_lg.langsmith.connection import LangSmith
from xrouter_lg.langsmith.options import PullOptions
from xrouter_lg.langsmith.polite import Patience
from xrouter_lg.langsmith.progress import PullSummary
from xrouter_lg.langsmith.pull import pull
from xrouter_lg.tracing.store.trace_store import TraceStore

PROJECT = "support-bot"
KEY = "lsv2_pt_0123456789abcdef0123456789abcdef"
NOW = datetime.now(UTC)


@pytest.fixture
def server() -> Iterator[LangSmithServer]:
    with LangSmithServer() as running:
        running.session(PROJECT)
        yield running


@pytest.fixture
def store(tmp_path: Path) -> Iterator[TraceStore]:
    with TraceStore(tmp_path / "traces.db") as opened:
        yield opened


@pytest.fixture
def waits() -> list[float]:
    """Seconds that were slept, instead of sleeping them."""
    return []


@pytest.fixture
def langsmith(server: LangSmithServer, waits: list[float]) -> Iterator[LangSmith]:
    with LangSmith(endpoint=server.url, patience=Patience(sleep=waits.append)) as made:
        yield made


def run_id(number: int, part: int = 0) -> str:
    return str(UUID(int=(0x0192 << 112) | (7 << 76) | (2 << 62) | (number << 8) | part))


def add_trace(
    server: LangSmithServer,
    number: int,
    start: datetime,
    *,
    seconds: float = 2.0,
    children: int = 4,
    open_: bool = False,
    hidden: bool = False,
    tags: tuple[str, ...] = (),
    session: str = PROJECT,
    **fields: Any,
) -> str:
    """A routed request as LangSmith holds it: root, router, steps, a model call. Its trace id."""
    trace_id = run_id(number)
    order = f"{start:%Y%m%dT%H%M%S%fZ}{trace_id}"
    charge = {"kind": "worker", "card": "small", "cost_usd": "0.00000052"}
    record = a_record(trace_id=trace_id, run_id=run_id(number, 1), charges=[charge])
    answer = {
        "type": "ai",
        "content": f"answer {number}",
        "response_metadata": {"xrouter": record.to_dict()},
    }
    question = {"messages": [{"type": "human", "content": f"question {number}"}]}
    step = timedelta(seconds=seconds / (children + 1))
    for part in range(children + 1):
        is_llm = part == 3
        begun = start + part * step
        # Children of the router; the router, of the root.
        above = [] if part == 0 else [trace_id] if part == 1 else [trace_id, run_id(number, 1)]
        steps = [order, *(f"{start + step:%Y%m%dT%H%M%S%fZ}{router}" for router in above[1:])]
        own = f"{begun:%Y%m%dT%H%M%S%fZ}{run_id(number, part)}"
        run: dict[str, Any] = {
            "id": run_id(number, part),
            "trace_id": trace_id,
            "parent_run_id": above[-1] if above else None,
            "dotted_order": order if part == 0 else ".".join([*steps, own]),
            "name": ("app", "xrouter", "route", "ChatOpenAI", "collect")[min(part, 4)],
            "run_type": "llm" if is_llm else "chain",
            "start_time": begun.isoformat(),
            "end_time": (begun + timedelta(seconds=seconds if part == 0 else 0.1)).isoformat(),
            "session_name": session,
            "tags": list(tags) if part == 2 else [],
            "inputs": {} if hidden else question,
            "outputs": {} if hidden else {"messages": [answer]},
            "extra": {"metadata": {"xrouter_role": "collect"} if part == 4 else {}},
            **(fields if is_llm else {}),
        }
        if is_llm:
            usage = {"input_tokens": 20, "output_tokens": 2, "total_tokens": 22}
            run["extra"] = {
                "metadata": {
                    "ls_model_name": "small",
                    "usage_metadata": usage,
                    "xrouter_card": "small",
                }
            }
        if open_ and part in (0, children):
            run["end_time"] = run["outputs"] = None
        server.merge(run["id"], run)
    return trace_id


def finish(server: LangSmithServer, number: int, children: int = 4) -> None:
    for part in (0, children):
        run = server.runs[run_id(number, part)]
        end = datetime.fromisoformat(run["start_time"]) + timedelta(seconds=1)
        server.merge(run["id"], {"end_time": end.isoformat(), "outputs": {"messages": ["done"]}})


def days_ago(days: float) -> datetime:
    return NOW - timedelta(days=days)


def pulled(
    langsmith: LangSmith, store: TraceStore, *, days: float = 7, project: str = PROJECT, **more: Any
) -> PullSummary:
    options = PullOptions(since=datetime.now(UTC) - timedelta(days=days), **more)
    return pull(project, store, options, langsmith=langsmith)


def stored(store: TraceStore) -> dict[str, set[str]]:
    """Run ids of each trace in the store."""
    return {trace.id: {run["id"] for run in trace.runs} for trace in store.iter_traces()}


def there(server: LangSmithServer) -> dict[str, set[str]]:
    """Run ids of each trace in LangSmith."""
    found: dict[str, set[str]] = {}
    for run in server.runs.values():
        found.setdefault(run["trace_id"], set()).add(run["id"])
    return found
