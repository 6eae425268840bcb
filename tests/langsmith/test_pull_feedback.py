"""Feedback: with its runs, after them, and changed later."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from tests.langsmith.conftest import PROJECT, add_trace, days_ago, pulled, run_id
from tests.support.langsmith_server import LangSmithServer
from xrouter_lg.langsmith.connection import LangSmith
from xrouter_lg.tracing.store.trace_store import TraceStore


def say(server: LangSmithServer, number: int, on: str, at: datetime, **fields: Any) -> None:
    server.add_feedback(
        {
            "id": run_id(number + 5000),
            "run_id": on,
            "trace_id": None,
            "key": "liked",
            "score": 1.0,
            "created_at": at.isoformat(),
            "modified_at": at.isoformat(),
            **fields,
        }
    )


def test_feedback_comes_with_its_trace_whichever_run_it_is_on(
    server: LangSmithServer, langsmith: LangSmith, store: TraceStore
) -> None:
    trace_id = add_trace(server, 1, days_ago(2))
    say(server, 1, trace_id, days_ago(2))
    say(server, 2, run_id(1, 3), days_ago(1.9), key="step", score=0.25, value={"why": "slow"})
    summary = pulled(langsmith, store)
    found = {entry["key"]: entry for entry in store.feedback(trace_id)}
    assert (summary.feedback, summary.new_feedback) == (2, 2)
    assert found["step"]["value"] == {"why": "slow"}
    assert found["step"]["run_id"] == run_id(1, 3)
    assert found["liked"]["trace_id"] == trace_id


def test_feedback_on_an_old_run_arrives_without_reading_the_run_again(
    server: LangSmithServer, langsmith: LangSmith, store: TraceStore
) -> None:
    trace_id = add_trace(server, 1, days_ago(5))
    pulled(langsmith, store)
    say(server, 1, trace_id, datetime.now(UTC))
    again = pulled(langsmith, store)
    assert (again.traces, again.new_feedback) == (0, 1)
    assert [entry["score"] for entry in store.feedback(trace_id)] == [1.0]
    assert pulled(langsmith, store).new_feedback == 0


def test_more_than_a_page_of_feedback_arrives_once_each(
    server: LangSmithServer, langsmith: LangSmith, store: TraceStore
) -> None:
    for number in range(130):
        trace_id = add_trace(server, number, days_ago(3) + timedelta(minutes=number), children=0)
        say(server, number, trace_id, days_ago(2) + timedelta(seconds=number))
    assert pulled(langsmith, store).new_feedback == 130
    assert store.counts()["feedback"] == 130


def test_a_score_that_was_changed_later_is_read_again(
    server: LangSmithServer, langsmith: LangSmith, store: TraceStore
) -> None:
    trace_id = add_trace(server, 1, days_ago(5))
    say(server, 1, trace_id, days_ago(5))
    pulled(langsmith, store)
    server.change_feedback(run_id(5001), {"score": 0.0, "comment": "an annotator's"})
    again = pulled(langsmith, store)
    [entry] = store.feedback(trace_id)
    assert (again.traces, entry["score"], entry["comment"]) == (0, 0.0, "an annotator's")


def test_with_tags_feedback_on_other_traces_is_left_out(
    server: LangSmithServer, langsmith: LangSmith, store: TraceStore
) -> None:
    wanted = add_trace(server, 1, days_ago(2), tags=("xrouter",))
    other = add_trace(server, 2, days_ago(2))
    say(server, 1, wanted, days_ago(1))
    say(server, 2, other, days_ago(1))
    assert pulled(langsmith, store, tags=("xrouter",)).feedback == 1
    assert (len(store.feedback(wanted)), store.feedback(other)) == (1, [])


def test_feedback_on_a_project_as_a_whole_is_about_no_request(
    server: LangSmithServer, langsmith: LangSmith, store: TraceStore
) -> None:
    add_trace(server, 1, days_ago(2))
    project = server.session(PROJECT)["id"]
    say(server, 1, run_id(1), days_ago(1), run_id=None, session_id=project)
    assert pulled(langsmith, store).feedback == 0


def test_rounding_is_undone_where_the_exact_score_is_in_the_value(
    server: LangSmithServer, langsmith: LangSmith, store: TraceStore
) -> None:
    trace_id = add_trace(server, 1, days_ago(2))
    say(server, 1, trace_id, days_ago(1), key="a", score=0.1235, value=0.123456789)
    exact = {"xrouter_score": 0.987654321, "value": "said so"}
    say(server, 2, trace_id, days_ago(1), key="b", score=0.9877, value=exact)
    say(server, 3, trace_id, days_ago(1), key="c", score=0.5, value=4)
    pulled(langsmith, store)
    found = {e["key"]: (e["score"], e["value"]) for e in store.feedback(trace_id)}
    assert found == {"a": (0.123456789, None), "b": (0.987654321, "said so"), "c": (0.5, 4)}
