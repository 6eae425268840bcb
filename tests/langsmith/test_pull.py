"""Pulling: whole traces, only what is new, through either API."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.langsmith.conftest import (
    PROJECT,
    add_trace,
    days_ago,
    finish,
    pulled,
    run_id,
    stored,
    there,
)
from tests.support.langsmith_server import LangSmithServer
from xrouter_lg.langsmith.connection import LangSmith
from xrouter_lg.langsmith.options import PullOptions
from xrouter_lg.langsmith.polite import Patience
from xrouter_lg.langsmith.pull import pull
from xrouter_lg.tracing import redact_patterns
from xrouter_lg.tracing.store.trace_store import TraceStore


@pytest.fixture(params=["v2", "v1"])
def either(request: pytest.FixtureRequest) -> Iterator[tuple[LangSmithServer, LangSmith]]:
    """A server with both APIs, and one that has the first only."""
    with LangSmithServer(v2=request.param == "v2") as server:
        server.session(PROJECT)
        patience = Patience(sleep=lambda seconds: None)
        with LangSmith(endpoint=server.url, patience=patience, page_size=40) as made:
            yield server, made


def queries(server: LangSmithServer) -> list[dict[str, Any]]:
    return server.bodies("/runs/query")


def test_whole_traces_arrive_through_either_api(
    either: tuple[LangSmithServer, LangSmith], store: TraceStore
) -> None:
    server, langsmith = either
    for number in range(30):
        add_trace(server, number, days_ago(5) + timedelta(minutes=number))
    summary = pulled(langsmith, store)
    assert stored(store) == there(server)
    assert (summary.traces, summary.runs, summary.new_runs, summary.routes) == (30, 150, 150, 30)
    assert summary.api == ("v2" if server.v2 else "v1")
    assert {row.record.route for row in store.routes()} == {"small"}


def test_runs_are_stored_as_the_first_api_has_them(
    server: LangSmithServer, langsmith: LangSmith, store: TraceStore
) -> None:
    trace_id = add_trace(server, 1, days_ago(1), total_cost="0.5", error="boom")
    pulled(langsmith, store)
    root, router, _, model, _ = store.runs(trace_id)
    assert (root["parent_run_id"], router["parent_run_id"]) == (None, trace_id)
    assert (model["run_type"], model["status"], model["total_tokens"]) == ("llm", "error", 22)
    assert model["total_cost"] == "0.5"
    assert root["inputs"] == server.runs[trace_id]["inputs"]
    assert root["session_name"] == PROJECT


def test_the_second_api_is_asked_with_ids_upper_case_fields_and_an_explicit_start(
    server: LangSmithServer, langsmith: LangSmith, store: TraceStore
) -> None:
    add_trace(server, 1, days_ago(1))
    pulled(langsmith, store)
    assert set(server.paths("POST")) == {"/api/v2/runs/query"}
    for query in queries(server):
        assert query["project_ids"] == [server.session(PROJECT)["id"]]
        assert query["min_start_time"] and query["page_size"] <= 1000
        assert all(name == name.upper() for name in query["selects"])


def test_the_first_api_is_never_asked_for_more_than_a_hundred(store: TraceStore) -> None:
    with LangSmithServer(v2=False) as server:
        for number in range(60):
            add_trace(server, number, days_ago(1) + timedelta(seconds=number))
        with LangSmith(endpoint=server.url, page_size=1000) as langsmith:
            summary = pulled(langsmith, store)
        assert summary.traces == 60
        asked = [json.loads(b) for _, path, b in server.requests if path == "/runs/query"]
        assert {query["limit"] for query in asked} == {100}


def test_a_second_pull_reads_only_the_last_hour_again(
    server: LangSmithServer, langsmith: LangSmith, store: TraceStore
) -> None:
    for number in range(20):
        add_trace(server, number, days_ago(3) + timedelta(hours=number))
    pulled(langsmith, store)
    fresh = add_trace(server, 99, datetime.now(UTC) - timedelta(minutes=30))
    asked = len(queries(server))
    again = pulled(langsmith, store)
    assert (again.traces, again.new_runs) == (1, 5)
    assert fresh in stored(store)
    starts = [query["min_start_time"] for query in queries(server)[asked:]]
    assert min(starts) > (datetime.now(UTC) - timedelta(hours=1, minutes=5)).isoformat()


def test_nothing_new_is_no_error_and_changes_nothing(
    server: LangSmithServer, langsmith: LangSmith, store: TraceStore
) -> None:
    add_trace(server, 1, days_ago(20))
    pulled(langsmith, store, days=30)
    before = store.counts()
    again = pulled(langsmith, store, days=30)
    assert (again.traces, again.up_to_date, store.counts()) == (0, True, before)


def test_a_run_that_arrives_late_is_found_within_the_overlap(
    server: LangSmithServer, langsmith: LangSmith, store: TraceStore
) -> None:
    trace_id = add_trace(server, 1, datetime.now(UTC) - timedelta(minutes=20))
    late = server.runs.pop(run_id(1, 3))
    pulled(langsmith, store)
    assert run_id(1, 3) not in stored(store)[trace_id]
    server.runs[late["id"]] = late
    again = pulled(langsmith, store)
    assert (again.new_runs, stored(store)) == (1, there(server))


def test_an_open_trace_is_read_again_until_it_is_finished(
    server: LangSmithServer, langsmith: LangSmith, store: TraceStore
) -> None:
    trace_id = add_trace(server, 1, days_ago(1.5), open_=True)
    first = pulled(langsmith, store)
    assert (first.open_traces, store.runs(trace_id)[0]["status"]) == (1, "pending")
    assert pulled(langsmith, store).open_traces == 1
    finish(server, 1)
    last = pulled(langsmith, store)
    assert (last.open_traces, store.runs(trace_id)[0]["status"]) == (0, "success")
    assert pulled(langsmith, store).traces == 0


def test_a_trace_that_never_finishes_is_given_up(
    server: LangSmithServer,
    langsmith: LangSmith,
    store: TraceStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    add_trace(server, 1, days_ago(1.5), open_=True)
    assert pulled(langsmith, store).open_traces == 1
    monkeypatch.setattr("xrouter_lg.langsmith.pull._GIVE_UP", timedelta(days=1))
    again = pulled(langsmith, store)
    assert (again.given_up, again.open_traces) == (1, 0)
    assert "never finished" in again.notes[0]
    assert pulled(langsmith, store).traces == 0


def test_a_long_trace_is_whole_though_its_runs_are_hours_apart(
    server: LangSmithServer, langsmith: LangSmith, store: TraceStore
) -> None:
    add_trace(server, 1, days_ago(5), seconds=20 * 3600)
    for number in range(2, 80):
        add_trace(server, number, days_ago(5) + timedelta(minutes=10 * number))
    pulled(langsmith, store)
    assert stored(store) == there(server)


def test_a_trace_across_the_windows_edges_is_whole_or_absent(
    server: LangSmithServer, langsmith: LangSmith, store: TraceStore
) -> None:
    within = add_trace(server, 1, days_ago(2) - timedelta(seconds=30), seconds=60)
    add_trace(server, 2, days_ago(2) + timedelta(seconds=1))
    options = PullOptions(since=days_ago(3), until=days_ago(2))
    pull(PROJECT, store, options, langsmith=langsmith)
    assert stored(store) == {within: there(server)[within]}
    pulled(langsmith, store)
    assert stored(store) == there(server)


def test_a_trace_that_began_before_the_window_and_is_unknown_is_fetched_whole(
    server: LangSmithServer, langsmith: LangSmith, store: TraceStore
) -> None:
    trace_id = add_trace(server, 1, days_ago(3.01), seconds=3600)
    options = PullOptions(since=days_ago(3))
    pull(PROJECT, store, options, langsmith=langsmith)
    assert stored(store)[trace_id] == there(server)[trace_id]


def test_a_burst_is_cut_into_slices_that_fit_in_memory(
    server: LangSmithServer, store: TraceStore
) -> None:
    for number in range(80):
        add_trace(server, number, days_ago(2) + timedelta(milliseconds=200 * number))
    kept: list[int] = []
    with LangSmith(endpoint=server.url, page_size=20) as langsmith:
        options = PullOptions(since=days_ago(3))
        pull(
            PROJECT,
            store,
            options,
            langsmith=langsmith,
            on_progress=lambda now: kept.append(now.runs),
        )
    assert stored(store) == there(server)
    assert max(b - a for a, b in itertools.pairwise(kept)) <= 4 * 20 + 20


@pytest.mark.parametrize("skew_s", [-3.0, 3.0])
def test_clocks_that_differ_lose_no_run(
    server: LangSmithServer, langsmith: LangSmith, store: TraceStore, skew_s: float
) -> None:
    until = days_ago(2)
    add_trace(server, 1, until - timedelta(seconds=2.5), seconds=2)
    child = server.runs[run_id(1, 3)]
    shifted = datetime.fromisoformat(child["start_time"]) + timedelta(seconds=skew_s)
    server.merge(child["id"], {"start_time": shifted.isoformat()})
    pull(PROJECT, store, PullOptions(since=days_ago(3), until=until), langsmith=langsmith)
    assert stored(store) == there(server)


def test_older_time_is_filled_in_without_reading_the_rest_again(
    server: LangSmithServer, langsmith: LangSmith, store: TraceStore
) -> None:
    add_trace(server, 1, days_ago(6))
    add_trace(server, 2, days_ago(2))
    assert pulled(langsmith, store, days=3).traces == 1
    older = pulled(langsmith, store, days=7)
    assert (older.traces, older.new_runs) == (1, 5)
    assert stored(store) == there(server)


def test_full_reads_everything_again_and_doubles_nothing(
    server: LangSmithServer, langsmith: LangSmith, store: TraceStore
) -> None:
    for number in range(5):
        add_trace(server, number, days_ago(number + 1))
    pulled(langsmith, store)
    before = store.counts()
    again = pulled(langsmith, store, full=True)
    assert (again.traces, again.new_runs, store.counts()) == (5, 0, before)


def test_tags_choose_whole_traces_by_any_run_in_them(
    either: tuple[LangSmithServer, LangSmith], store: TraceStore
) -> None:
    server, langsmith = either
    wanted = {
        add_trace(server, 1, days_ago(1), tags=("xrouter",)),
        add_trace(server, 2, days_ago(2), tags=("other", "canary")),
    }
    add_trace(server, 3, days_ago(1.5), tags=("other",))
    summary = pulled(langsmith, store, tags=("xrouter", "canary"))
    assert (set(stored(store)), summary.runs) == (wanted, 10)
    assert pulled(langsmith, store).new_runs == 5  # another filter is another pull


def test_routed_leaves_out_what_never_met_a_router(
    server: LangSmithServer, langsmith: LangSmith, store: TraceStore
) -> None:
    wanted = add_trace(server, 1, days_ago(1))
    add_trace(server, 2, days_ago(1), children=0)
    pulled(langsmith, store, routed=True)
    assert set(stored(store)) == {wanted}


def test_another_projects_runs_stay_out(
    server: LangSmithServer, langsmith: LangSmith, store: TraceStore
) -> None:
    wanted = add_trace(server, 1, days_ago(1))
    add_trace(server, 2, days_ago(1), session="elsewhere")
    pulled(langsmith, store)
    assert set(stored(store)) == {wanted}


def test_a_project_may_be_named_by_its_id(
    server: LangSmithServer, langsmith: LangSmith, store: TraceStore
) -> None:
    add_trace(server, 1, days_ago(1))
    summary = pulled(langsmith, store, project=server.session(PROJECT)["id"])
    assert (summary.project, summary.traces) == (PROJECT, 1)


def test_what_is_stored_goes_through_the_redactor(
    server: LangSmithServer, langsmith: LangSmith, store: TraceStore, tmp_path: Any
) -> None:
    add_trace(server, 1, days_ago(1))
    secret, mail = "sk-" + "a1" * 20, "jane@example.com"
    run = server.runs[run_id(1, 2)]
    server.merge(run["id"], {"inputs": {"text": f"{mail} says {secret}"}})
    entry = {"id": run_id(9), "run_id": run["id"], "key": "k", "score": 1, "comment": f"by {mail}"}
    server.add_feedback(entry)
    pulled(langsmith, store, redact=redact_patterns(r"[\w.]+@[\w.]+"))
    text = json.dumps([trace._asdict() for trace in store.iter_traces()])
    assert mail not in text and "[redacted]" in text
    store.close()
    bytes_on_disk = b"".join(f.read_bytes() for f in tmp_path.iterdir())
    assert mail.encode() not in bytes_on_disk


def test_pulling_inside_a_running_event_loop_works(
    server: LangSmithServer, langsmith: LangSmith, store: TraceStore
) -> None:
    import asyncio

    add_trace(server, 1, days_ago(1))

    async def notebook() -> int:
        return pulled(langsmith, store).traces

    assert asyncio.run(notebook()) == 1
