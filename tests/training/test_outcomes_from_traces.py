"""From recorded requests to the outcome table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langgraph.graph import START, MessagesState, StateGraph
from typer.testing import CliRunner

from training.episodes import Episode, EpisodeCall, ExtractReport
from training.from_traces import BuildReport, build_outcomes, read_references, score_table
from training.outcomes import OutcomeError, OutcomeTable
from training.verifiers import Suite
from xrouter_lg import ModelCard, ModelPool, TraceStore, XRouterNode
from xrouter_lg.cli import app as cli
from xrouter_lg.testing import FakeModel, FakeOpenAIServer

EXACT = Suite.from_specs(["exact"])


def call(card: str, answer: str | None, usd: str | None = "0.001") -> EpisodeCall:
    usage = {"input_tokens": 10, "output_tokens": 4}
    return EpisodeCall(
        card=card, model=card, answer=answer, usage=usage, cost_usd=usd, latency_s=0.5
    )


def episode(*calls: EpisodeCall, text: str = "capital of France?", **changes: Any) -> Episode:
    last = next(c for c in reversed(calls) if c.answer is not None)
    values: dict[str, Any] = {
        "trace_id": "t",
        "run_id": "r",
        "messages": ({"role": "user", "content": text},),
        "answer": last.answer,
        "route": last.card,
        "calls": calls,
        "routed": True,
        "project": "app",
        "task": "geo",
    }
    return Episode(**{**values, **changes})


def rows(table: OutcomeTable) -> list[dict[str, Any]]:
    return list(table.outcomes.collect().sort("model").iter_rows(named=True))


def test_every_card_that_answered_has_an_outcome_at_its_own_cost() -> None:
    table = build_outcomes(
        [episode(call("small", "Lyon", "0.001"), call("large", "Paris", "0.02"))],
        suite=EXACT,
        references={"capital of France?": "Paris"},
    )
    large, small = rows(table)
    assert (large["score"], small["score"]) == (1.0, 0.0)
    assert (large["cost_usd"], small["cost_usd"]) == (0.02, 0.001)
    assert large["scored_by"] == "exact"
    assert table.validate().ok


def test_feedback_scores_the_returned_answer_only() -> None:
    liked = ({"key": "liked", "score": 1.0, "value": None, "comment": None, "correction": None},)
    table = build_outcomes(
        [episode(call("small", "Lyon"), call("large", "Paris"), feedback=liked)],
        feedback_keys=["liked"],
    )
    large, small = rows(table)
    assert (large["score"], small["score"]) == (1.0, None)


def test_a_correction_is_the_reference() -> None:
    said = ({"key": "fix", "score": None, "value": None, "comment": None, "correction": "Paris"},)
    table = build_outcomes([episode(call("small", "Lyon"), feedback=said)], suite=EXACT)
    assert rows(table)[0]["score"] == 0.0
    assert table.prompts.collect()["reference"].to_list() == ["Paris"]


def test_the_same_prompt_again_is_averaged_and_the_newest_answer_kept() -> None:
    found = [
        episode(call("small", "Paris", "0.001"), started_at=2.0),
        episode(call("small", "Lyon", "0.003"), started_at=1.0),
    ]
    (row,) = rows(build_outcomes(found, suite=EXACT, references={"capital of France?": "Paris"}))
    assert (row["score"], row["cost_usd"], row["response"]) == (0.5, 0.002, "Paris")


def test_one_unknown_cost_makes_the_mean_unknown() -> None:
    found = [episode(call("small", "a", "0.001")), episode(call("small", "a", None))]
    report = BuildReport()
    (row,) = rows(build_outcomes(found, report=report))
    assert row["cost_usd"] is None
    assert report.unpriced == 1


def test_a_conversation_can_be_asked_again_as_it_was() -> None:
    messages = (
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "and of Spain?"},
    )
    table = build_outcomes([episode(call("small", "Madrid"), messages=messages)])
    (prompt,) = table.prompts.collect().iter_rows(named=True)
    assert prompt["prompt"] == "and of Spain?"
    assert json.loads(prompt["meta"])["messages"] == list(messages)


def test_conversations_that_differ_before_the_last_message_are_different_prompts() -> None:
    one, two = (
        ({"role": "system", "content": text}, {"role": "user", "content": "go on"})
        for text in ("be brief", "be long")
    )
    found = [episode(call("small", "x"), messages=messages) for messages in (one, two)]
    assert len(build_outcomes(found).prompts.collect()) == 2


def test_a_verifier_that_fails_leaves_none_with_a_reason() -> None:
    report = BuildReport()
    table = build_outcomes([episode(call("small", "x"))], suite=EXACT, report=report)
    assert rows(table)[0]["score"] is None
    ((reason, count),) = report.unscored.items()
    assert count == 1
    assert "reference" in reason


def test_nothing_to_build_from_says_why() -> None:
    report = BuildReport(extracted=ExtractReport(traces=3))
    report.extracted.skipped["hidden inputs"] = 3
    with pytest.raises(OutcomeError, match=r"no outcome in 3 traces \(3 × hidden inputs\)"):
        build_outcomes([], report=report)


def test_empty_scores_are_filled_and_others_kept() -> None:
    key = {"source": "s", "task": "t"}
    table = OutcomeTable.from_rows(
        [
            {**key, "prompt_id": "1", "model": "a", "score": None, "response": "Paris"},
            {**key, "prompt_id": "1", "model": "b", "score": 0.25, "response": "Paris"},
            {**key, "prompt_id": "1", "model": "c", "score": None, "response": None},
        ],
        [{**key, "prompt_id": "1", "prompt": "capital?", "reference": "Paris"}],
    )
    filled, reasons = score_table(table, EXACT)
    assert [row["score"] for row in rows(filled)] == [1.0, 0.25, None]
    assert dict(reasons) == {"no answer was recorded": 1}


@pytest.mark.parametrize("line", ["nonsense", "{}", '{"prompt": "x"}', "[1]"])
def test_a_bad_reference_names_its_line(tmp_path: Path, line: str) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text('{"prompt": "a", "reference": "b"}\n' + line + "\n")
    with pytest.raises(OutcomeError, match="line 2"):
        read_references(path)


@pytest.fixture
def traces(tmp_path: Path) -> Path:
    """Twelve real requests through a real graph, with feedback on some."""
    path = tmp_path / "t.db"
    models = [FakeModel(name="small", reply="Lyon"), FakeModel(name="large", reply="Paris")]
    with FakeOpenAIServer(models) as server:
        cards = [
            ModelCard(name=n, model=n, base_url=server.base_url, price={"input": 1, "output": 1})
            for n in ("small", "large")
        ]
        builder = StateGraph(MessagesState)
        node = XRouterNode(ModelPool(cards), policy="mix:small=0.5,large=0.5", traces=path)
        builder.add_node("model", node)
        builder.add_edge(START, "model")
        graph = builder.compile()
        for number in range(12):
            messages = [SystemMessage("brief"), HumanMessage(f"capital of France, {number}?")]
            state = graph.invoke({"messages": messages}, {"metadata": {"task": "geo"}})
            assert isinstance(state["messages"][-1], AIMessage)
        assert node.recorder is not None
        node.recorder.close()
    with TraceStore(path) as store:
        for row in store.routes():
            store.record_feedback(row.trace_id, "liked", float(row.record.route == "large"))
    return path


def run(*arguments: str) -> Any:
    return CliRunner().invoke(cli, ["outcomes", *arguments])


def test_the_command_builds_a_table_that_validates(traces: Path, tmp_path: Path) -> None:
    done = run(
        "build",
        "--store",
        str(traces),
        "--to",
        str(tmp_path / "o"),
        "--feedback",
        "liked",
        "--json",
    )
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert (said["traces"], said["episodes"], said["outcomes"]) == (12, 12, 12)
    assert (said["scored"], said["unpriced"]) == (12, 0)
    frame = pl.read_parquet(tmp_path / "o" / "outcomes.parquet")
    assert set(frame.filter(pl.col("model") == "large")["score"]) == {1.0}
    assert set(frame["task"]) == {"geo"}
    shown = run("summary", str(tmp_path / "o"))
    assert shown.exit_code == 0, shown.output
    assert "12 outcomes of 12 prompts" in shown.output


def test_the_command_scores_by_verifiers_and_references(traces: Path, tmp_path: Path) -> None:
    (tmp_path / "v.yaml").write_text("- exact\n")
    lines = [
        json.dumps({"prompt": f"capital of France, {n}?", "reference": "Paris"}) for n in range(11)
    ]
    (tmp_path / "r.jsonl").write_text("\n".join(lines))
    done = run(
        *("build", "--store", str(traces), "--to", str(tmp_path / "o"), "--json"),
        *("--verifiers", str(tmp_path / "v.yaml"), "--references", str(tmp_path / "r.jsonl")),
    )
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert said["scored"] == 11
    assert sum(said["unscored"].values()) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--store", "nowhere.db"), "there is no trace store"),
        (("--project", "other"), "no outcome in 0 traces"),
        (("--verifiers", "nowhere.yaml"), "nowhere.yaml"),
    ],
)
def test_what_can_not_work_is_said(
    traces: Path, tmp_path: Path, arguments: tuple[str, str], message: str
) -> None:
    done = run("build", "--store", str(traces), "--to", str(tmp_path / "o"), *arguments)
    assert done.exit_code == 2
    assert message in done.output
    assert not (tmp_path / "o").exists()
