"""Replayed answers are what was recorded, tokens and price included, through the real app."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from langchain_core.messages import HumanMessage

from graphs import support_app_routed
from integrations.demo.app import DAY_ONE, requests, serve
from integrations.demo.questions import DATA, HELD_OUT, History, load
from integrations.demo.replay import RecordedModels, replay_server
from integrations.demo.workers import CARDS, write_pool
from xrouter_lg import ModelPool, Recorder
from xrouter_lg.errors import AllCandidatesFailedError
from xrouter_lg.outcomes import OutcomeTable
from xrouter_lg.tracing.store.trace_store import TraceStore

PER_FAMILY = 3


@pytest.fixture(scope="module")
def history() -> History:
    return load(per_family=PER_FAMILY)


@pytest.fixture
def models(history: History) -> RecordedModels:
    return RecordedModels(history)


@pytest.fixture
def pool(models: RecordedModels, tmp_path: Path) -> Iterator[ModelPool]:
    with replay_server(models) as server:
        yield write_pool(tmp_path / "pool.yaml", server.base_url)


def answer_of(pool: ModelPool, card: str, prompt: str) -> tuple[str, dict[str, object]]:
    app = support_app_routed.build(pool, policy=f"fixed:{card}")
    message = app.invoke({"messages": [HumanMessage(prompt)]})["messages"][-1]
    return message.text, message.response_metadata["xrouter"]


def test_an_answer_costs_in_the_app_what_the_table_says(
    history: History, models: RecordedModels, pool: ModelPool
) -> None:
    rows = OutcomeTable.load(DATA).outcomes.select("prompt_id", "model", "cost_usd")
    recorded = {(prompt, model): usd for prompt, model, usd in rows.collect().iter_rows()}
    asked = requests(history.questions, seed=0, name="all")
    for card, model in CARDS.items():
        served = serve(pool, f"fixed:{card}", asked)
        assert [one.asked for one in served] == asked
        for one in served:
            usd = recorded[one.asked.question.prompt_id, model]
            assert one.card == card
            assert one.cost_usd == pytest.approx(usd, rel=1e-9)
            assert models.usd(model, one.asked.question.prompt) == pytest.approx(usd, rel=1e-9)


def test_a_model_can_be_swapped_behind_its_name(
    history: History, models: RecordedModels, pool: ModelPool
) -> None:
    prompt = history.questions[0].prompt
    before, record = answer_of(pool, "large", prompt)
    models.behind[CARDS["large"]] = CARDS["tiny"]
    after, swapped = answer_of(pool, "large", prompt)
    assert before == history.answers[prompt, CARDS["large"]].text
    assert after == history.answers[prompt, CARDS["tiny"]].text
    assert record["charges"][0]["model"] == swapped["charges"][0]["model"]  # type: ignore[index]
    assert float(str(swapped["cost_usd"])) == pytest.approx(models.usd(CARDS["large"], prompt))


def test_an_answer_that_was_cut_is_marked(history: History, pool: ModelPool) -> None:
    cut = {
        prompt for (prompt, model), a in history.answers.items() if a.truncated and "135m" in model
    }
    whole = {question.prompt for question in history.questions} - cut
    for prompts, marked in ((sorted(cut)[:10], True), (sorted(whole)[:10], False)):
        records = [answer_of(pool, "tiny", prompt)[1] for prompt in prompts]
        assert [record["truncated"] for record in records] == [marked] * 10


def test_a_question_that_nobody_asked_is_refused(pool: ModelPool) -> None:
    with pytest.raises(AllCandidatesFailedError, match="never asked"):
        answer_of(pool, "large", "Who are you?")


def test_another_system_prompt_has_no_recorded_answer(
    history: History, pool: ModelPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(support_app_routed, "SYSTEM", "You are a pirate.")
    with pytest.raises(AllCandidatesFailedError, match="recorded are conversations"):
        answer_of(pool, "large", history.questions[0].prompt)


def test_every_request_leaves_a_trace_under_its_own_id(
    history: History, pool: ModelPool, tmp_path: Path
) -> None:
    asked = requests(history.seen, seed=0, name="week")
    with Recorder(tmp_path / "traces.db", project="p") as traces:
        served = serve(pool, DAY_ONE, asked, traces=traces)
    assert {one.card for one in served} == {"small", "large"}
    with TraceStore(tmp_path / "traces.db", create=False) as store:
        there = {row.trace_id: row.record.route for row in store.routes(project="p")}
    assert there == {one.asked.id: one.card for one in served}


def test_the_split_holds_out_the_same_questions_whatever_is_selected(history: History) -> None:
    whole = load()
    held_out = {question.prompt_id for question in whole.held_out}
    share = len(held_out) / len(whole.questions)
    assert abs(share - HELD_OUT) < 0.05
    assert {q.prompt_id for q in history.held_out} <= held_out
    assert not {q.prompt_id for q in whole.seen} & held_out
    other = load(split="another")
    assert [q.prompt_id for q in other.questions] == [q.prompt_id for q in whole.questions]
    assert {q.prompt_id for q in other.held_out} != held_out
