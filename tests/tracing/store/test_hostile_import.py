"""Runs and feedback of any shape: imported, or a StoreError."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from xrouter_lg import TraceStore
from xrouter_lg.errors import StoreError

GOOD = {
    "id": "6f0b0a3e-0000-4000-8000-000000000001",
    "trace_id": "6f0b0a3e-0000-4000-8000-000000000001",
    "start_time": "2026-11-01T00:00:00Z",
    "end_time": "2026-11-01T00:00:01Z",
    "name": "model",
    "run_type": "llm",
    "inputs": {"messages": []},
    "outputs": {"generations": []},
    "extra": {"metadata": {"xrouter_role": "collect"}},
    "tags": ["a"],
    "events": [],
    "prompt_tokens": 1,
}
FEEDBACK = {"id": "f", "run_id": "r", "key": "liked", "score": 1.0, "value": None, "comment": None}
ODD = st.sampled_from(
    [
        *(None, True, -1, 0.5, float("nan"), 10**400, "", "x", "[", "\x00", "\ud800", b"x", [], {}),
        *(
            [[]],
            {"a": 1},
            {"metadata": []},
            {"metadata": {"xrouter_failed": {"route": 1}}},
            [1],
            1j,
        ),
        *(
            "0001-01-01T00:00:00+14:00",
            "9999-12-31T23:59:59-14:00",
            {"generations": [[{}], 1, "x"]},
        ),
        {"messages": [{"response_metadata": {"xrouter": {"route": 1}}}]},
        {"generations": [[{"message": {"kwargs": {"usage_metadata": {"input_tokens": "x"}}}}]]},
    ]
)


@pytest.fixture
def store(tmp_path: Path) -> TraceStore:
    return TraceStore(tmp_path / "traces.db")


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from(sorted(GOOD)), ODD, max_size=3))
def test_any_run_is_imported_or_refused(store: TraceStore, changes: dict[str, Any]) -> None:
    with contextlib.suppress(StoreError):
        store.import_runs([{**GOOD, **changes}])
        list(store.iter_traces())


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from(sorted(FEEDBACK)), ODD, max_size=3))
def test_any_feedback_is_imported_or_refused(store: TraceStore, changes: dict[str, Any]) -> None:
    with contextlib.suppress(StoreError):
        store.import_feedback([{**FEEDBACK, **changes}])
