"""Feedback and experiments: in both places, under one id, once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tests.langsmith.conftest import PROJECT, add_trace, days_ago, pulled, run_id
from tests.support.langsmith_server import LangSmithServer
from xrouter_lg.errors import ConfigurationError, StoreError
from xrouter_lg.langsmith.connection import LangSmith
from xrouter_lg.langsmith.errors import FeedbackNotSentError, LangSmithRefusedError
from xrouter_lg.langsmith.experiment import Result, push_experiment, results_of_choices
from xrouter_lg.langsmith.push import FeedbackWriter, push_feedback
from xrouter_lg.tracing.store.trace_store import TraceStore


@pytest.fixture
def writer(store: TraceStore, langsmith: LangSmith) -> FeedbackWriter:
    return FeedbackWriter(store, langsmith, PROJECT)


def sent(server: LangSmithServer) -> list[dict[str, Any]]:
    return server.bodies("/feedback")


def test_feedback_is_in_both_places_under_one_id(
    server: LangSmithServer, store: TraceStore, writer: FeedbackWriter
) -> None:
    trace_id = add_trace(server, 1, days_ago(0.1))
    made = writer.record_feedback(
        trace_id, "liked", 0.5, comment="fine", correction={"route": "large"}
    )
    [here], [there] = store.feedback(trace_id), sent(server)
    assert here["id"] == there["id"] == made
    assert there["trace_id"] == there["run_id"] == trace_id
    assert there["session_id"] == server.session(PROJECT)["id"]
    assert (there["score"], there["comment"]) == (0.5, "fine")
    assert there["correction"] == here["correction"] == {"route": "large"}


@pytest.mark.parametrize("value", [None, "said so", {"a": 1}])
def test_a_score_comes_back_exactly_though_langsmith_rounds_it(
    server: LangSmithServer,
    store: TraceStore,
    langsmith: LangSmith,
    writer: FeedbackWriter,
    tmp_path: Path,
    value: Any,
) -> None:
    trace_id = add_trace(server, 1, days_ago(0.1))
    writer.record_feedback(trace_id, "reward", 0.123456789, value=value)
    [there] = sent(server)
    assert there["score"] == 0.1235 and "0.123456789" in str(there["value"])
    with TraceStore(tmp_path / "second.db") as second:
        pulled(langsmith, second)
        [again] = second.feedback(trace_id)
    assert (again["score"], again["value"]) == (0.123456789, value)


def test_retention_is_extended_only_when_asked(
    server: LangSmithServer, store: TraceStore, langsmith: LangSmith
) -> None:
    trace_id = add_trace(server, 1, days_ago(0.1))
    FeedbackWriter(store, langsmith, PROJECT).record_feedback(trace_id, "a", 1.0)
    FeedbackWriter(store, langsmith, PROJECT, extend_retention=True).record_feedback(
        trace_id, "b", 1.0
    )
    assert [entry["extend_trace_retention"] for entry in sent(server)] == [False, True]


def test_the_same_id_again_replaces_in_both_places(
    server: LangSmithServer, store: TraceStore, writer: FeedbackWriter
) -> None:
    trace_id = add_trace(server, 1, days_ago(0.1))
    for score in (0.0, 1.0):
        writer.record_feedback(trace_id, "liked", score, feedback_id="user-7 on this")
    assert [entry["score"] for entry in store.feedback(trace_id)] == [1.0]
    assert [entry["score"] for entry in server.feedback.values()] == [1.0]


def test_feedback_on_one_run_names_run_and_trace(
    server: LangSmithServer, writer: FeedbackWriter
) -> None:
    trace_id = add_trace(server, 1, days_ago(0.1))
    writer.record_feedback(trace_id, "step", 1.0, run_id=run_id(1, 3))
    [there] = sent(server)
    assert (there["run_id"], there["trace_id"]) == (run_id(1, 3), trace_id)


def test_a_bad_score_is_sent_nowhere(
    server: LangSmithServer, store: TraceStore, writer: FeedbackWriter
) -> None:
    with pytest.raises(StoreError):
        writer.record_feedback(run_id(1), "liked", float("nan"))
    assert sent(server) == [] and store.counts()["feedback"] == 0


def test_what_langsmith_did_not_take_is_kept_and_sent_later(
    server: LangSmithServer, store: TraceStore, langsmith: LangSmith, writer: FeedbackWriter
) -> None:
    trace_id = add_trace(server, 1, days_ago(0.1))
    server.fail_next(403, path="/feedback")
    with pytest.raises(FeedbackNotSentError, match="xrouter traces push") as caught:
        writer.record_feedback(trace_id, "liked", 0.987654321)
    assert [e["id"] for e in store.feedback(trace_id)] == [caught.value.feedback_id]
    pulled(langsmith, store)
    summary = push_feedback(PROJECT, store, langsmith=langsmith)
    assert (summary.sent, summary.there, summary.no_run) == (1, 0, 0)
    [there] = server.feedback.values()
    assert (there["id"], there["value"]) == (caught.value.feedback_id, 0.987654321)


def test_a_push_never_overwrites_what_is_there(
    server: LangSmithServer, store: TraceStore, langsmith: LangSmith, writer: FeedbackWriter
) -> None:
    trace_id = add_trace(server, 1, days_ago(0.1))
    made = writer.record_feedback(trace_id, "liked", 1.0)
    pulled(langsmith, store)
    server.change_feedback(made, {"score": 0.0})
    again = push_feedback(PROJECT, store, langsmith=langsmith)
    assert (again.sent, again.there) == (0, 1)
    assert server.feedback[made]["score"] == 0.0


def test_feedback_on_runs_that_langsmith_lacks_is_counted(
    server: LangSmithServer, store: TraceStore, langsmith: LangSmith
) -> None:
    trace_id = add_trace(server, 1, days_ago(0.1))
    pulled(langsmith, store)
    store.record_feedback(trace_id, "liked", 1.0)
    server.runs.clear()
    server.takes_any_feedback = False
    summary = push_feedback(PROJECT, store, langsmith=langsmith)
    assert (summary.sent, summary.no_run) == (0, 1)


RESULTS = [
    Result(
        key=f"p{n}",
        prompt=f"question {n}",
        model="small",
        scores={"score": n / 300} if n != 7 else {"score": n / 300, "cost_usd": 1.23456e-6},
        reference=f"answer {n}",
    )
    for n in range(105)
]
"""More than a request takes at once, fewer than a test has to be paced for."""


def pushed(langsmith: LangSmith, results: list[Result] = RESULTS) -> Any:
    return push_experiment(results, dataset="d", experiment="e", langsmith=langsmith)


def test_results_become_an_experiment_on_a_dataset(
    server: LangSmithServer, langsmith: LangSmith
) -> None:
    summary = pushed(langsmith)
    assert (summary.new_examples, summary.new_runs, summary.new_scores) == (105, 105, 106)
    [dataset] = server.datasets.values()
    session = server.session("e")
    assert (session["reference_dataset_id"], session["num_examples"]) == (dataset["id"], 105)
    run = next(r for r in server.runs.values() if r["inputs"]["prompt"] == "question 7")
    example = server.examples[run["reference_example_id"]]
    assert (example["inputs"], example["outputs"]) == (run["inputs"], {"answer": "answer 7"})
    scores = {f["key"]: f for f in server.feedback.values() if f["run_id"] == run["id"]}
    assert scores["score"]["score"] == 0.0233
    assert scores["cost_usd"]["value"] == 1.23456e-6


def test_pushing_again_or_after_a_failure_doubles_nothing(
    server: LangSmithServer, langsmith: LangSmith
) -> None:
    server.fail_next(400, path="/feedback")
    with pytest.raises(LangSmithRefusedError):
        pushed(langsmith)
    summary = pushed(langsmith)
    assert (summary.new_examples, summary.new_runs, summary.new_scores) == (0, 0, 106)
    again = pushed(langsmith)
    assert (again.new_examples, again.new_runs, again.new_scores) == (0, 0, 0)
    held = (len(server.examples), len(server.runs), len(server.feedback))
    assert held == (105, 105, 106)


def test_an_experiment_of_that_name_elsewhere_is_refused(
    server: LangSmithServer, langsmith: LangSmith
) -> None:
    server.session("e")
    with pytest.raises(
        LangSmithRefusedError, match="already, and it is no experiment on dataset 'd'"
    ):
        pushed(langsmith)


def test_two_results_for_one_prompt_are_refused(langsmith: LangSmith) -> None:
    with pytest.raises(ConfigurationError, match="2 results with 1 keys"):
        pushed(langsmith, [RESULTS[0], RESULTS[0]])


def test_choices_of_a_judge_become_results_at_one_cost_weight() -> None:
    key = {"source": ["s", "s"], "task": ["t", "t"], "prompt_id": ["1", "1"]}
    choices = pl.DataFrame(
        {
            **key,
            "cost_weight": [0.0, 0.5],
            "model": ["large", "small"],
            "score": [1.0, 0.5],
            "cost_usd": [1e-3, 1e-5],
            "router_cost_usd": [1e-7, 1e-7],
        }
    )
    prompts = pl.DataFrame({**key, "prompt": ["ask"] * 2, "reference": ["gold"] * 2}).head(1)
    [best] = results_of_choices(choices, prompts)
    [cheap] = results_of_choices(choices, prompts, cost_weight=0.4)
    assert (best.model, cheap.model, cheap.prompt) == ("large", "small", "ask")
    assert (cheap.key, cheap.reference) == ("s|t|1", "gold")
    assert cheap.scores == {"score": 0.5, "cost_usd": 1e-5, "router_cost_usd": 1e-7}
