"""Replayed answers are what was recorded, tokens and price included, through the real app."""

from __future__ import annotations

from pathlib import Path

import pytest
from langchain_core.messages import HumanMessage

from graphs import support_app_routed
from integrations.demo import workers
from integrations.demo.app import DAY_ONE, serve
from integrations.demo.questions import HELD_OUT, History, load
from integrations.demo.workers import CARDS
from xrouter_lg import ModelPool, Recorder
from xrouter_lg.errors import AllCandidatesFailedError
from xrouter_lg.tracing.store.trace_store import TraceStore

PER_FAMILY = 3


@pytest.fixture(scope="module")
def history() -> History:
    return load(per_family=PER_FAMILY)


@pytest.fixture
def pool(history: History, tmp_path: Path) -> ModelPool:
    with workers.replayed(history, tmp_path / "pool.yaml") as pool:
        yield pool


def test_an_answer_costs_in_the_app_what_the_table_says(history: History, pool: ModelPool) -> None:
    from integrations.demo.questions import DATA
    from xrouter_lg.outcomes import OutcomeTable

    rows = OutcomeTable.load(DATA).outcomes.select("prompt_id", "model", "response", "cost_usd")
    recorded = {(p, m): (text, usd) for p, m, text, usd in rows.collect().iter_rows()}
    for card, model in CARDS.items():
        served, _ = serve(pool, f"fixed:{card}", history.questions)
        assert [one.card for one in served] == [card] * len(history.questions)
        for one in served:
            text, usd = recorded[one.question.prompt_id, model]
            assert one.answer == text
            assert one.cost_usd == pytest.approx(usd, rel=1e-9)


def test_an_answer_that_was_cut_is_marked(history: History, pool: ModelPool) -> None:
    cut = {
        prompt for (prompt, model), a in history.answers.items() if a.truncated and "135m" in model
    }
    app = support_app_routed.build(pool, policy="fixed:tiny")
    for question in history.questions[:20]:
        message = app.invoke({"messages": [HumanMessage(question.prompt)]})["messages"][-1]
        record = message.response_metadata["xrouter"]
        assert record["truncated"] is (question.prompt in cut)


def test_a_question_that_nobody_asked_is_refused(pool: ModelPool) -> None:
    app = support_app_routed.build(pool, policy="fixed:large")
    with pytest.raises(AllCandidatesFailedError, match="never asked"):
        app.invoke({"messages": [HumanMessage("Who are you?")]})


def test_another_system_prompt_has_no_recorded_answer(
    history: History, pool: ModelPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(support_app_routed, "SYSTEM", "You are a pirate.")
    app = support_app_routed.build(pool, policy="fixed:large")
    with pytest.raises(AllCandidatesFailedError, match="recorded are conversations"):
        app.invoke({"messages": [HumanMessage(history.questions[0].prompt)]})


def test_every_request_leaves_a_trace_with_its_task(
    history: History, pool: ModelPool, tmp_path: Path
) -> None:
    with Recorder(tmp_path / "traces.db", project="p") as traces:
        served, _ = serve(pool, DAY_ONE, history.seen, traces=traces)
    assert {one.card for one in served} == {"small", "large"}
    assert {one.router_tokens for one in served} == {0}
    with TraceStore(tmp_path / "traces.db", create=False) as store:
        assert store.count_traces() == len(history.seen)


def test_the_split_holds_out_the_same_questions_whatever_is_selected(history: History) -> None:
    whole = load()
    held_out = {question.prompt_id for question in whole.held_out}
    share = len(held_out) / len(whole.questions)
    assert abs(share - HELD_OUT) < 0.05
    assert {q.prompt_id for q in history.held_out} <= held_out
    assert not {q.prompt_id for q in whole.seen} & held_out
    counts = [[q.task for q in history.questions].count(q.task) for q in history.questions]
    assert set(counts) == {PER_FAMILY}
