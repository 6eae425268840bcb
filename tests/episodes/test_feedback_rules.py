"""What users say, whenever and however they say it, in the outcome table."""

from __future__ import annotations

import dataclasses
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from langgraph.graph import START, MessagesState, StateGraph
from typer.testing import CliRunner

from tests.episodes.captured import Captured
from tests.episodes.made import call, episode, said
from tests.episodes.test_to_table import LIKED, outcomes_of, rows
from tests.support.apps import app, ask, card, pool
from xrouter_lg import ModelPool, Recorder, TraceStore, XRouterNode
from xrouter_lg.cli import app as cli
from xrouter_lg.episodes.build_report import BuildReport
from xrouter_lg.episodes.extract import ExtractReport, episodes
from xrouter_lg.episodes.feedback import OF_NONE, OF_SEVERAL, STRAY
from xrouter_lg.episodes.to_table import outcomes_from_store
from xrouter_lg.langsmith.connection import LangSmith
from xrouter_lg.langsmith.options import PullOptions
from xrouter_lg.langsmith.polite import Patience
from xrouter_lg.langsmith.pull import pull
from xrouter_lg.outcomes import OutcomeTable
from xrouter_lg.testing import FakeModel, FakeOpenAIServer, FaultPlan, Reply, server_error
from xrouter_lg.verifiers import Suite
from xrouter_lg.verifiers.grading import Scoring, Verdicts

EXACT = Suite.from_specs(["exact"])
HELLO = "small says hello to you"
"""What the fake provider's small model says."""


class Log:
    """A store with requests routed by a real graph, and the table that is built of it."""

    def __init__(self, folder: Path, fake: FakeOpenAIServer) -> None:
        self.folder, self.fake, self.report = folder, fake, BuildReport()
        self.path = folder / "t.db"

    def run(self, *questions: str, project: str = "p", **node: Any) -> list[str]:
        """Trace ids, in the order of the questions."""
        before = set(self.traces())
        with Recorder(self.path, project=project) as recorder:
            cards = node.pop("pool", None) or pool(self.fake)
            graph = app(XRouterNode(cards, traces=recorder, **{"policy": "fixed:small", **node}))
            for question in questions:
                graph.invoke(ask(question))
        return [trace for trace in self.traces() if trace not in before]

    def traces(self) -> list[str]:
        if not self.path.exists():
            return []
        with TraceStore(self.path) as store:
            return [trace.id for trace in store.iter_traces()]

    def say(self, trace_id: str, score: float | None, **more: Any) -> None:
        with TraceStore(self.path) as store:
            store.record_feedback(trace_id, more.pop("key", "liked"), score, **more)

    def build(self, scoring: Scoring = LIKED) -> list[dict[str, Any]]:
        self.report = outcomes_from_store(self.path, self.folder / "o", scoring=scoring)
        return rows(OutcomeTable.load(self.folder / "o"))


@pytest.fixture
def log(tmp_path: Path, fake: FakeOpenAIServer) -> Log:
    return Log(tmp_path, fake)


# --- by id, however late -----------------------------------------------------------------------


def test_feedback_that_comes_after_a_build_is_in_the_next_one(log: Log) -> None:
    first, _ = log.run("one", "two")
    assert [row["feedback"] for row in log.build()] == [None, None]
    log.say(first, 1.0)
    assert sorted((r["score"] or 0, r["feedback"] or 0) for r in log.build()) == [(0, 0), (1, 1)]
    assert (log.report.feedback, log.report.scored) == (1, 1)


def test_late_feedback_judges_nothing_anew_but_itself(log: Log, tmp_path: Path) -> None:
    (trace,) = log.run("one")
    with Verdicts(tmp_path / "v.jsonl") as kept:
        both = Scoring(
            suite=EXACT, references={"one": HELLO}, feedback=LIKED.feedback, verdicts=kept
        )
        log.build(both)
        log.say(trace, 0.0)
        (row,) = log.build(both)
    assert (row["score"], row["scored_by"], row["feedback"]) == (1.0, "exact", 0.0)
    assert (log.report.scores.reused, log.report.judged_twice) == (1, 1)


def test_feedback_pulled_from_langsmith_days_later_is_in_the_next_build(
    fake: FakeOpenAIServer, captured: Captured
) -> None:
    captured.ask(app(XRouterNode(pool(fake), policy="mix:small=1")))
    (trace,) = captured.store.iter_traces()
    waits: list[float] = []
    here = captured.folder / "pulled.db"

    def built() -> dict[str, Any]:
        with (
            TraceStore(here) as store,
            LangSmith(
                endpoint=captured.server.url, patience=Patience(sleep=waits.append)
            ) as langsmith,
        ):
            since = datetime.now(UTC) - timedelta(days=7)
            pull("p", store, PullOptions(since=since), langsmith=langsmith)
            outcomes_from_store(store, captured.folder / "o", scoring=LIKED)
        (row,) = rows(OutcomeTable.load(captured.folder / "o"))
        return row

    before = built()
    session = captured.server.session("p")["id"]
    captured.client.create_feedback(
        run_id=trace.id, trace_id=trace.id, session_id=session, key="liked", score=1.0
    )
    captured.flush()
    after = built()
    assert (before["score"], before["feedback"], before["propensity"]) == (None, None, 1.0)
    assert (after["score"], after["feedback"], after["propensity"]) == (1.0, 1.0, 1.0)


def test_feedback_on_unknown_ids_changes_nothing_and_is_counted_until_its_trace_comes(
    log: Log, tmp_path: Path, fake: FakeOpenAIServer
) -> None:
    elsewhere = Log(tmp_path / "elsewhere", fake)
    elsewhere.folder.mkdir()
    (late,) = elsewhere.run("late")
    log.run("one")
    log.say(late, 1.0)
    log.say("nobody", 1.0)
    (row,) = log.build()
    assert (row["score"], row["feedback"]) == (None, None)
    assert log.report.extracted.lost_feedback == {STRAY: 2}
    with TraceStore(elsewhere.path) as there, TraceStore(log.path) as here:
        here.import_runs(there.runs(late))
    assert sorted(row["feedback"] or 0.0 for row in log.build()) == [0.0, 1.0]
    assert log.report.extracted.lost_feedback == {STRAY: 1}


def test_feedback_that_is_handed_over_with_other_runs_is_counted_too(captured: Captured) -> None:
    report = ExtractReport()
    entry = {"id": "f", "run_id": "gone", "key": "liked", "score": 1.0}
    assert list(episodes([], [entry], report=report)) == []
    assert report.lost_feedback == {STRAY: 1}


def test_feedback_on_several_requests_together_scores_none_and_is_counted(
    log: Log, fake: FakeOpenAIServer
) -> None:
    node = XRouterNode(pool(fake), policy="fixed:small")
    other = XRouterNode(pool(fake), policy="fixed:large")
    builder = StateGraph(MessagesState)
    builder.add_node("one", node)
    builder.add_node("two", other)
    builder.add_node("end", lambda state: {"messages": [("ai", "both are done")]})
    builder.add_edge(START, "one")
    builder.add_edge("one", "two")
    builder.add_edge("two", "end")
    with Recorder(log.path) as recorder:
        builder.compile().invoke(ask(), {"callbacks": [recorder]})
    (trace,) = log.traces()
    log.say(trace, 1.0)
    assert {row["feedback"] for row in log.build()} == {None}
    assert log.report.extracted.lost_feedback == {OF_SEVERAL: 1}


def test_feedback_on_a_request_that_failed_is_counted(log: Log, fake: FakeOpenAIServer) -> None:
    log.run("one")
    fake.faults = FaultPlan(default=server_error())
    with pytest.raises(Exception, match="candidate"):
        log.run("two")
    failed = next(t for t in log.traces() if t != log.traces()[0])
    log.say(failed, 0.0)
    assert [row["feedback"] for row in log.build()] == [None]
    assert log.report.extracted.lost_feedback == {OF_NONE: 1}


# --- said twice, and said otherwise ------------------------------------------------------------


def test_who_says_it_twice_has_changed_their_mind(log: Log) -> None:
    (trace,) = log.run("one")
    log.say(trace, 0.0)
    log.say(trace, 1.0)
    (row,) = log.build()
    assert (row["score"], row["feedback"]) == (1.0, 1.0)


def test_two_users_who_contradict_each_other_count_half_each(log: Log) -> None:
    (trace,) = log.run("one")
    for user, score in (("ann", 0.0), ("bob", 1.0), ("ann", 1.0), ("ann", 0.0)):
        log.say(trace, score, source=user)
    (row,) = log.build()
    assert (row["score"], row["feedback"]) == (0.5, 0.5)


def test_a_later_comment_takes_no_score_back(log: Log) -> None:
    (trace,) = log.run("one")
    log.say(trace, 1.0)
    log.say(trace, None, comment="thanks")
    assert log.build()[0]["feedback"] == 1.0


def test_another_key_says_something_else(log: Log) -> None:
    (trace,) = log.run("one")
    log.say(trace, 1.0)
    log.say(trace, 0.0, key="polite")
    assert log.build()[0]["feedback"] == 1.0


def test_users_of_langsmith_are_told_apart(captured: Captured, fake: FakeOpenAIServer) -> None:
    captured.ask(app(XRouterNode(pool(fake), policy="fixed:small")))
    (trace,) = captured.store.iter_traces()
    given = [
        {"id": str(n), "run_id": trace.id, "key": "liked", "score": score}
        | {"feedback_source": {"type": "app", "user_id": user}}
        | {"created_at": f"2026-11-0{n + 1}T00:00:00Z"}
        for n, (user, score) in enumerate([("a", 0.0), ("b", 1.0), ("a", 1.0), ("b", 0.0)])
    ]
    captured.store.import_feedback(given[:3])
    stored = captured.store.feedback(trace.id)
    assert [entry["source"] for entry in stored] == ["app:a", "app:b", "app:a"]
    assert rows(outcomes_of(captured.ours(), scoring=LIKED))[0]["feedback"] == 1.0
    captured.store.import_feedback(given[3:])
    assert rows(outcomes_of(captured.ours(), scoring=LIKED))[0]["feedback"] == 0.5


# --- beside a verdict, and on a cut answer -----------------------------------------------------


def test_a_thumb_is_kept_where_a_verifier_gives_the_score(log: Log) -> None:
    right, wrong = log.run("one", "two")
    log.say(right, 1.0)
    log.say(wrong, 1.0)
    scoring = Scoring(suite=EXACT, references={"one": HELLO, "two": "no"}, feedback=LIKED.feedback)
    found = sorted((row["score"], row["scored_by"], row["feedback"]) for row in log.build(scoring))
    assert found == [(0.0, "exact", 1.0), (1.0, "exact", 1.0)]
    assert (log.report.feedback, log.report.judged_twice) == (2, 2)


def test_what_a_suites_own_feedback_verifier_reads_is_feedback_too(log: Log) -> None:
    (trace,) = log.run("one")
    log.say(trace, 4.0, key="stars")
    suite = Suite.from_specs([{"verifier": "feedback", "keys": ["stars"], "scale": [0, 5]}])
    (row,) = log.build(Scoring(suite=suite))
    assert (row["score"], row["scored_by"], row["feedback"]) == (0.8, "feedback", 0.8)
    assert log.report.judged_twice == 0


def test_feedback_of_repeats_is_averaged_over_those_that_have_it() -> None:
    found = [
        episode(call("small", "a"), feedback=said("liked", 1.0), started_at=1.0),
        episode(call("small", "b"), feedback=said("liked", 0.0), started_at=2.0),
        episode(call("small", "c"), started_at=3.0),
    ]
    (row,) = rows(outcomes_of(found, scoring=LIKED))
    assert (row["feedback"], row["response"]) == (0.5, "c")


def test_a_thumb_on_a_cut_answer_counts_for_what_was_served(
    log: Log, fake: FakeOpenAIServer
) -> None:
    (whole,) = log.run("one")
    fake.add_model(
        FakeModel(name="small", reply=Reply("a long answer that", finish_reason="length"))
    )
    (cut,) = log.run("two", pool=ModelPool([card(fake, "small")]))
    log.say(cut, 0.0)
    log.say(whole, 1.0)
    found = {row["response"]: (row["score"], row["feedback"]) for row in log.build()}
    assert found == {HELLO: (1.0, 1.0), "a long answer that": (0.0, 0.0)}
    assert log.report.cut == 1


# --- cards, projects, clocks -------------------------------------------------------------------


def test_outcomes_of_a_card_that_left_the_pool_stay_and_are_nobodys(log: Log) -> None:
    log.run("one")
    for trace in log.run("one", policy="fixed:large"):
        log.say(trace, 1.0)
    for trace in log.traces():
        log.say(trace, 1.0)
    assert {row["model"] for row in log.build()} == {"small", "large"}
    grid = OutcomeTable.load(log.folder / "o").grid(cards=["large"])
    assert (grid.models, dict(grid.omitted.strangers)) == (("large",), {"small": 1})


def test_one_prompt_in_two_projects_is_two_prompts(log: Log) -> None:
    (ours,) = log.run("one", project="ours")
    (theirs,) = log.run("one", project="theirs")
    log.say(ours, 1.0)
    log.say(theirs, 0.0)
    found = {row["source"]: (row["prompt_id"], row["score"]) for row in log.build()}
    assert {source: score for source, (_, score) in found.items()} == {"ours": 1.0, "theirs": 0.0}
    assert found["ours"][0] == found["theirs"][0]


def test_the_model_that_was_served_is_told(log: Log, fake: FakeOpenAIServer) -> None:
    fake.add_model(FakeModel(name="small", reply="x", served_name="small-2026-10-01"))
    log.run("one")
    assert log.build()[0]["served_model"] == "small-2026-10-01"


def test_a_time_after_the_newest_trace_is_kept_and_said(log: Log) -> None:
    log.run("one")
    assert log.build()[0]["observed_at"] == pytest.approx(time.time(), abs=60)
    assert log.report.ahead == 0

    newest = time.time() - 30 * 86_400.0
    report = BuildReport(extracted=ExtractReport(newest=newest))
    asked = episode(call("small", "x"))
    times = (newest, newest + 86_000.0, newest + 87_000.0)
    found = [dataclasses.replace(asked, started_at=at, task=str(at)) for at in times]
    table = outcomes_of(found, report=report)
    assert sorted(row["observed_at"] for row in rows(table)) == list(times)
    assert report.ahead == 1
    assert "a clock is wrong" in report.warnings[0]


def test_a_whole_log_from_the_future_is_said() -> None:
    report = BuildReport(extracted=ExtractReport(newest=time.time() + 9 * 86_400.0))
    outcomes_of([episode(call("small", "x"), started_at=time.time() + 3 * 86_400.0)], report=report)
    assert report.ahead == 1


# --- the commands ------------------------------------------------------------------------------


def test_the_commands_tell_what_the_log_knows(log: Log) -> None:
    traces = log.run(*map(str, range(40)), policy="mix:small=0.5,large=0.5")
    log.say(traces[0], 1.0)
    log.say("nobody", 1.0)
    arguments = ["--store", str(log.path), "--to", str(log.folder / "o"), "--feedback", "liked"]
    done = CliRunner().invoke(cli, ["outcomes", "build", *arguments])
    assert done.exit_code == 0, done.output
    assert "40 outcomes have a known propensity, 40 were drawn; 1 have feedback" in done.output
    assert f"lost feedback: 1 × {STRAY}" in done.output
    counts = pl.read_parquet(log.folder / "o" / "outcomes.parquet").group_by("model").len()
    shown = CliRunner().invoke(cli, ["outcomes", "summary", str(log.folder / "o")])
    (line,) = [at for at in shown.output.splitlines() if at.startswith("asked/scored/drawn")]
    liked = rows(OutcomeTable.load(log.folder / "o"))
    for model, asked in counts.iter_rows():
        scored = sum(r["score"] is not None for r in liked if r["model"] == model)
        assert f"{model} {asked}/{scored}/{asked}" in line


def test_the_command_warns_of_a_log_in_which_nothing_was_drawn(log: Log) -> None:
    log.run("one")
    arguments = ["--store", str(log.path), "--to", str(log.folder / "o")]
    done = CliRunner().invoke(cli, ["outcomes", "build", *arguments])
    assert "1 outcomes have a known propensity, 0 were drawn" in done.output
    assert "warning: nothing was drawn" in done.output
