"""From recorded requests to the outcome table."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl
import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langgraph.graph import START, MessagesState, StateGraph
from typer.testing import CliRunner

from tests.episodes.made import call, episode, said
from tests.support.grids import content_of
from xrouter_lg import ModelCard, ModelPool, TraceStore, XRouterNode
from xrouter_lg.cli import app as cli
from xrouter_lg.episodes.build_report import BuildReport
from xrouter_lg.episodes.episode import Episode
from xrouter_lg.episodes.extract import ExtractReport
from xrouter_lg.episodes.rows import prompt_id
from xrouter_lg.episodes.scoring import read_references
from xrouter_lg.episodes.to_table import build_outcomes, outcomes_from_store
from xrouter_lg.outcomes import OutcomeError, OutcomeTable
from xrouter_lg.testing import FakeModel, FakeOpenAIServer
from xrouter_lg.verifiers import Suite
from xrouter_lg.verifiers.feedback import Feedback
from xrouter_lg.verifiers.grading import Scoring
from xrouter_lg.verifiers.score_table import score_table

EXACT = Scoring(suite=Suite.from_specs(["exact"]), references={"capital of france?": "Paris"})
LIKED = Scoring(feedback=(Feedback(keys="liked"),))


def outcomes_of(
    found: Iterable[Episode], *, scoring: Scoring | None = None, report: BuildReport | None = None
) -> OutcomeTable:
    """Their table, in memory."""
    with TemporaryDirectory() as folder:
        table = build_outcomes(
            found, Path(folder), scoring or Scoring(), report or BuildReport(), None
        )
        return OutcomeTable.from_frames(table.outcomes.collect(), table.prompts.collect())


def rows(table: OutcomeTable) -> list[dict[str, Any]]:
    return list(table.outcomes.collect().sort("model").iter_rows(named=True))


def prompts(table: OutcomeTable) -> list[dict[str, Any]]:
    return list(table.prompts.collect().iter_rows(named=True))


# --- outcomes of one request -------------------------------------------------------------------


def test_every_card_that_answered_has_an_outcome_at_its_own_cost() -> None:
    asked = episode(call("small", "Lyon", "0.001"), call("large", "Paris", "0.02"))
    table = outcomes_of([asked], scoring=EXACT)
    large, small = rows(table)
    assert (large["score"], small["score"]) == (1.0, 0.0)
    assert (large["cost_usd"], small["cost_usd"]) == (0.02, 0.001)
    assert large["scored_by"] == "exact"
    assert (large["source"], large["task"]) == ("app", "geo")
    assert table.validate().ok


def test_the_routers_own_answer_is_no_cards_outcome() -> None:
    asked = episode(
        call("small", "Lyon"), answer="Paris", route="router", feedback=said("liked", 1)
    )
    (row,) = rows(outcomes_of([asked], scoring=LIKED))
    assert (row["model"], row["score"]) == ("small", None)


def test_a_failed_call_is_no_outcome_but_counted() -> None:
    report = BuildReport()
    asked = episode(call("gone", None), call("small", "Paris"))
    assert [row["model"] for row in rows(outcomes_of([asked], report=report))] == ["small"]
    assert report.failed_calls == 1


def test_a_loop_is_one_outcome_at_the_cost_of_all_its_calls() -> None:
    loop = episode(
        call("small", "[look up]", "0.001"), call("small", "Paris", "0.002"), routed=False
    )
    table = outcomes_of([loop], scoring=EXACT)
    (row,) = rows(table)
    assert (row["response"], row["score"], row["cost_usd"]) == ("Paris", 1.0, 0.003)
    assert (row["input_tokens"], row["output_tokens"], row["latency_s"]) == (20, 8, 1.0)
    # One call of another card could not be compared with it.
    assert json.loads(prompts(table)[0]["meta"])["model_calls"] == 2


def test_feedback_scores_the_returned_answer_only() -> None:
    asked = episode(call("small", "Lyon"), call("large", "Paris"), feedback=said("liked", 1.0))
    large, small = rows(outcomes_of([asked], scoring=LIKED))
    assert (large["score"], small["score"]) == (1.0, None)


def test_feedback_on_one_call_scores_that_call() -> None:
    asked = episode(
        call("small", "Lyon", call_id="c1"),
        call("large", "Paris", call_id="c2"),
        feedback=said("liked", 0.0, about="call", call_id="c1"),
    )
    large, small = rows(outcomes_of([asked], scoring=LIKED))
    assert (large["score"], small["score"]) == (None, 0.0)


def test_feedback_on_a_trace_of_several_requests_scores_none_of_them() -> None:
    asked = episode(call("small", "Lyon"), feedback=said("liked", 1.0, about="trace"))
    assert rows(outcomes_of([asked], scoring=LIKED))[0]["score"] is None


def test_feedback_stands_in_where_a_verifier_has_no_verdict() -> None:
    both = Scoring(suite=EXACT.suite, feedback=LIKED.feedback)
    (row,) = rows(
        outcomes_of([episode(call("small", "Lyon"), feedback=said("liked", 1))], scoring=both)
    )
    assert (row["score"], row["scored_by"]) == (1.0, "feedback")


# --- references --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "correction", ["Paris", {"answer": "Paris"}, {"output": "Paris", "by": "me"}]
)
def test_a_correction_is_the_reference(correction: Any) -> None:
    asked = episode(call("small", "Lyon"), feedback=said("fix", None, correction=correction))
    table = outcomes_of([asked], scoring=Scoring(suite=EXACT.suite))
    assert rows(table)[0]["score"] == 0.0
    assert prompts(table)[0]["reference"] == "Paris"


def test_a_corrected_route_is_no_right_answer() -> None:
    feedback = said("fix", None, correction={"route": "large"})
    table = outcomes_of([episode(call("small", "Lyon"), feedback=feedback)])
    assert prompts(table)[0]["reference"] is None


def test_a_later_correction_judges_the_earlier_answers_too() -> None:
    found = [
        episode(call("small", "Lyon"), started_at=1.0),
        episode(
            call("large", "Paris"), started_at=2.0, feedback=said("fix", None, correction="Lyon")
        ),
        episode(
            call("tiny", "Paris"), started_at=3.0, feedback=said("fix", None, correction="Paris")
        ),
    ]
    table = outcomes_of(found, scoring=Scoring(suite=EXACT.suite))
    assert {row["model"]: row["score"] for row in rows(table)} == {
        "small": 0.0,
        "large": 1.0,
        "tiny": 1.0,
    }


def test_a_given_reference_wins_over_a_correction() -> None:
    asked = episode(call("small", "Paris"), feedback=said("fix", None, correction="Lyon"))
    assert rows(outcomes_of([asked], scoring=EXACT))[0]["score"] == 1.0


def test_references_are_found_by_id_and_by_text_however_it_is_spaced(tmp_path: Path) -> None:
    found = [
        episode(call("small", "Paris"), text="Capital  of FRANCE?"),
        episode(call("small", "Rome"), text="and Italy?"),
    ]
    path = tmp_path / "r.jsonl"
    lines = [
        {"prompt": "capital of France?", "reference": "Paris"},
        {"prompt_id": prompt_id(found[1]), "reference": ["Rome", "Roma"]},
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    scoring = Scoring(suite=EXACT.suite, references=read_references(path))
    table = outcomes_of(found, scoring=scoring)
    assert [row["score"] for row in rows(table)] == [1.0, 1.0]
    # The list is still one when the table is scored again.
    unscored = OutcomeTable.from_frames(
        table.outcomes.with_columns(pl.lit(None, pl.Float64).alias("score")), table.prompts
    )
    again, _ = score_table(unscored, Scoring(suite=EXACT.suite))
    assert [row["score"] for row in rows(again)] == [1.0, 1.0]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("nonsense", "line 2 is 'nonsense'; it must be JSON with `prompt_id` or `prompt`, and"),
        ("{}", "line 2 is '{}'; it must be JSON"),
        ('{"prompt": "x"}', "line 2 is .*, and `reference`"),
        ("[1]", "line 2 is "),
        ('{"prompt": "A", "reference": "c"}', "line 2: another line has another"),
    ],
)
def test_a_bad_reference_names_its_line(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text('{"prompt": "a", "reference": "b"}\n' + line + "\n")
    with pytest.raises(OutcomeError, match=message):
        read_references(path)


# --- prompts -----------------------------------------------------------------------------------


def test_the_same_prompt_again_is_averaged_and_the_newest_answer_kept() -> None:
    found = [
        episode(call("small", "Paris", "0.001"), started_at=2.0),
        episode(call("small", "Lyon", "0.003"), started_at=1.0, text="capital of  France?"),
    ]
    (row,) = rows(outcomes_of(found, scoring=EXACT))
    assert (row["score"], row["cost_usd"], row["response"]) == (0.5, 0.002, "Paris")


def test_an_unjudged_repeat_leaves_the_score_to_the_judged_one() -> None:
    found = [
        episode(call("small", "a"), feedback=said("liked", 1.0)),
        episode(call("small", "b"), started_at=9.0),
    ]
    (row,) = rows(outcomes_of(found, scoring=LIKED))
    assert (row["score"], row["response"], row["scored_by"]) == (1.0, "b", "feedback")


def test_one_unknown_cost_makes_the_mean_unknown() -> None:
    found = [episode(call("small", "a", "0.001")), episode(call("small", "a", None))]
    report = BuildReport()
    (row,) = rows(outcomes_of(found, report=report))
    assert row["cost_usd"] is None
    assert report.unpriced == 1


def test_a_conversation_can_be_asked_again_as_it_was() -> None:
    messages = (
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "and of Spain?"},
    )
    (prompt,) = prompts(outcomes_of([episode(call("small", "Madrid"), messages=messages)]))
    assert prompt["prompt"] == "and of Spain?"
    assert json.loads(prompt["meta"])["messages"] == list(messages)


def with_tool_result(number: int, city: str = "Rome") -> tuple[dict[str, Any], ...]:
    called = {"name": "weather", "args": {"city": city}, "id": f"call_{number}"}
    return (
        {"role": "user", "content": "weather?"},
        {"role": "assistant", "content": "", "tool_calls": [called]},
        {"role": "tool", "content": "sunny", "tool_call_id": f"call_{number}"},
    )


def test_a_conversation_is_the_same_whatever_ids_its_calls_had() -> None:
    one, two, other = (
        episode(call("small", "x"), messages=messages)
        for messages in (with_tool_result(1), with_tool_result(2), with_tool_result(1, "Oslo"))
    )
    assert prompt_id(one) == prompt_id(two) != prompt_id(other)


@pytest.mark.parametrize(
    "changes",
    [
        {"messages": ({"role": "system", "content": "s"}, {"role": "user", "content": "go on"})},
        {"messages": ({"role": "assistant", "content": "go on"},)},
        {"messages": ({"role": "user", "content": [{"type": "image_url", "image_url": "x"}]},)},
        {"tools": ({"type": "function", "function": {"name": "f"}},)},
    ],
)
def test_what_else_was_said_or_bound_makes_another_prompt(changes: dict[str, Any]) -> None:
    asked = episode(call("small", "x"), text="go on")
    other = episode(call("small", "x"), **{"text": "go on", **changes})
    assert prompt_id(asked) != prompt_id(other)
    assert len(prompts(outcomes_of([asked, other]))) == 2


def test_a_question_that_is_only_a_picture_has_a_text_too() -> None:
    messages = ({"role": "user", "content": [{"type": "image_url", "image_url": "x"}]},)
    table = outcomes_of([episode(call("small", "a cat"), messages=messages)])
    assert prompts(table)[0]["prompt"] == "[1 attachment(s)]"
    assert table.validate().ok


# --- reports -----------------------------------------------------------------------------------


def test_a_verifier_that_fails_leaves_none_with_a_reason() -> None:
    report = BuildReport()
    asked = episode(call("small", "x"), text="unheard of")
    table = outcomes_of([asked], scoring=EXACT, report=report)
    assert (rows(table)[0]["score"], rows(table)[0]["scored_by"]) == (None, None)
    ((reason, count),) = report.scores.unscored.items()
    assert count == 1
    assert "reference" in reason


def test_nothing_to_build_from_says_why() -> None:
    report = BuildReport(extracted=ExtractReport(traces=3))
    report.extracted.skipped["hidden inputs"] = 3
    with pytest.raises(OutcomeError, match=r"no outcome in 3 traces \(3 × hidden inputs\)"):
        outcomes_of([], report=report)


# --- from a store ------------------------------------------------------------------------------


@pytest.fixture
def traces(tmp_path: Path) -> Path:
    """Twelve real requests through a real graph, with feedback on each."""
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
            store.record_feedback(
                row.trace_id, "stars", 5.0 if row.record.route == "large" else 3.0
            )
    return path


def test_a_store_is_given_open_or_by_path_or_url(traces: Path, tmp_path: Path) -> None:
    with TraceStore(traces) as store:
        outcomes_from_store(store, tmp_path / "a", scoring=LIKED)
    outcomes_from_store(traces, tmp_path / "b", scoring=LIKED)
    report = outcomes_from_store(f"sqlite:///{traces}", tmp_path / "c", scoring=LIKED)
    tables = [content_of(OutcomeTable.load(tmp_path / name)) for name in "abc"]
    assert len(set(tables)) == 1
    assert (report.outcomes, report.scored, report.extracted.routed) == (12, 12, 12)
    # Nothing of the building is left beside the tables.
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_dir()) == ["a", "b", "c"]


def test_what_a_killed_build_left_is_cleared_away(traces: Path, tmp_path: Path) -> None:
    left = tmp_path / ".o-build-999999999-x"
    left.mkdir()
    outcomes_from_store(traces, tmp_path / "o")
    assert not left.exists()


def test_a_failed_build_keeps_the_table_that_was_there(traces: Path, tmp_path: Path) -> None:
    outcomes_from_store(traces, tmp_path / "o")
    before = (tmp_path / "o" / "outcomes.parquet").read_bytes()
    with pytest.raises(OutcomeError):
        outcomes_from_store(traces, tmp_path / "o", project="other")
    assert (tmp_path / "o" / "outcomes.parquet").read_bytes() == before


def test_progress_is_told_of_both_passes(traces: Path, tmp_path: Path) -> None:
    told: list[tuple[str, int, int | None]] = []
    outcomes_from_store(
        traces, tmp_path / "o", scoring=LIKED, progress=lambda *step: told.append(step)
    )
    assert told[11] == ("traces", 12, 12)
    assert told[-1] == ("answers", 12, 12)


# --- the command -------------------------------------------------------------------------------


def run(*arguments: Any) -> Any:
    return CliRunner().invoke(cli, ["outcomes", *map(str, arguments)])


def test_the_command_builds_a_table_that_validates(traces: Path, tmp_path: Path) -> None:
    done = run("build", "--store", traces, "--to", tmp_path / "o", "--feedback", "liked", "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert (told["traces"], told["episodes"], told["routed"], told["outcomes"]) == (12, 12, 12, 12)
    assert (told["scored"], told["unpriced"]) == (12, 0)
    frame = pl.read_parquet(tmp_path / "o" / "outcomes.parquet")
    assert set(frame.filter(pl.col("model") == "large")["score"]) == {1.0}
    assert set(frame["task"]) == {"geo"}
    shown = run("summary", tmp_path / "o")
    assert shown.exit_code == 0, shown.output
    assert "12 outcomes of 12 prompts" in shown.output
    assert " s" in shown.output.splitlines()[-1]


def test_the_command_takes_a_scale_for_feedback(traces: Path, tmp_path: Path) -> None:
    done = run("build", "--store", traces, "--to", tmp_path / "o", "--feedback", "stars=1..5")
    assert done.exit_code == 0, done.output
    frame = pl.read_parquet(tmp_path / "o" / "outcomes.parquet")
    assert set(frame.filter(pl.col("model") == "small")["score"]) == {0.5}
    off = run("build", "--store", traces, "--to", tmp_path / "p", "--feedback", "stars")
    assert "outside scale" in off.output


def test_the_command_scores_by_verifiers_and_references(traces: Path, tmp_path: Path) -> None:
    (tmp_path / "v.yaml").write_text("- exact\n")
    lines = [
        json.dumps({"prompt": f"capital of France, {n}?", "reference": "Paris"}) for n in range(11)
    ]
    (tmp_path / "r.jsonl").write_text("\n".join(lines))
    options = ("--verifiers", tmp_path / "v.yaml", "--references", tmp_path / "r.jsonl", "--json")
    done = run("build", "--store", traces, "--to", tmp_path / "o", *options)
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert (told["scored"], told["reused_verdicts"]) == (11, 0)
    assert sum(told["unscored"].values()) == 1
    again = json.loads(run("build", "--store", traces, "--to", tmp_path / "o", *options).stdout)
    assert (again["scored"], again["reused_verdicts"]) == (11, 11)


def test_the_command_fills_the_empty_scores_of_a_table(traces: Path, tmp_path: Path) -> None:
    assert run("build", "--store", traces, "--to", tmp_path / "o").exit_code == 0
    cases = "good: [{answer: Paris}], bad: [{answer: Lyon}]"
    (tmp_path / "v.yaml").write_text(f"- {{verifier: regex, pattern: Paris, {cases}}}\n")
    done = run("score", tmp_path / "o", "--verifiers", tmp_path / "v.yaml", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["scored"] == 12
    frame = pl.read_parquet(tmp_path / "o" / "outcomes.parquet")
    assert dict(frame.group_by("model").agg(pl.col("score").mean()).iter_rows()) == {
        "large": 1.0,
        "small": 0.0,
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--store", "nowhere.db"), "there is no trace store"),
        (("--project", "other"), "no outcome in 0 traces"),
        (("--verifiers", "nowhere.yaml"), "nowhere.yaml"),
        (("--references", "nowhere.jsonl"), "nowhere.jsonl"),
        (("--pool", "nowhere.yaml"), "nowhere.yaml"),
        (("--feedback", "stars=1-5"), "stars=1..5"),
        (("--since", "yesterday"), "--since"),
    ],
)
def test_what_can_not_work_is_said(
    traces: Path, tmp_path: Path, arguments: tuple[str, str], message: str
) -> None:
    done = run("build", "--store", traces, "--to", tmp_path / "o", *arguments)
    assert done.exit_code == 2
    assert message in done.output
    assert not (tmp_path / "o").exists()


def test_a_broken_table_is_told_with_its_rows(tmp_path: Path) -> None:
    path = tmp_path / "outcomes.csv"
    path.write_text("source,task,prompt_id,model,score,prompt\ns,t,1,small,7,hi\n")
    done = run("summary", path, "--json")
    assert done.exit_code == 1
    problems = json.loads(done.stdout)["problems"]
    assert any("row 2" in text and "score is outside [0, 1]" in text for text in problems)


def askable(asked: Episode) -> Any:
    from xrouter_lg.outcomes.conversation import conversation_of

    (prompt,) = prompts(outcomes_of([asked]))
    return conversation_of(prompt["prompt"], json.loads(prompt["meta"]))


def test_what_the_table_keeps_of_a_conversation_can_be_asked_again() -> None:
    tools = ({"type": "function", "function": {"name": "weather", "parameters": {}}},)
    asked = askable(episode(call("small", "x"), messages=with_tool_result(1), tools=tools))
    assert isinstance(asked.messages[-1], ToolMessage)
    assert [t["function"]["name"] for t in asked.tools] == ["weather"]


def test_a_loops_answer_is_not_asked_of_others_by_a_single_call() -> None:
    from xrouter_lg.outcomes.conversation import UnaskableError

    with pytest.raises(UnaskableError, match="loop of 2 calls"):
        askable(episode(call("small", "x"), call("small", "y"), routed=False))
