"""Outcome tables: reading, checking, deduplicating, selecting, writing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.grids import content_of
from xrouter_lg.outcomes import OutcomeError, OutcomeTable, prompt_key
from xrouter_lg.outcomes.schema import normalise_prompt


def outcome(prompt: str, model: str, **fields: Any) -> dict[str, Any]:
    return {
        "source": "s",
        "task": "t",
        "prompt_id": prompt,
        "model": model,
        "score": 1.0,
        "output_tokens": 5,
        "cost_usd": 0.01,
        **fields,
    }


def prompt(name: str, **fields: Any) -> dict[str, Any]:
    return {"source": "s", "task": "t", "prompt_id": name, "prompt": f"What is {name}?", **fields}


def table(outcomes: list[dict[str, Any]], prompts: list[dict[str, Any]]) -> OutcomeTable:
    return OutcomeTable.from_rows(outcomes, prompts)


PAIRS = [outcome(p, m) for p in ("a", "b") for m in ("x", "y")]
PROMPTS = [prompt("a"), prompt("b")]


def write_csv(folder: Path, *, outcomes: str, prompts: str = "s,t,a,Why?") -> Path:
    header = "source,task,prompt_id,model,score,input_tokens,cost_usd\n"
    (folder / "outcomes.csv").write_text(header + outcomes)
    (folder / "prompts.csv").write_text("source,task,prompt_id,prompt\n" + prompts)
    return folder


def test_a_sound_table_has_no_errors() -> None:
    assert table(PAIRS, PROMPTS).validate().errors == []


@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl"])
def test_every_format_gives_the_same_table(tmp_path: Path, suffix: str) -> None:
    made = table(PAIRS, PROMPTS)
    for name, frame in (("outcomes", made.outcomes), ("prompts", made.prompts)):
        data, path = frame.collect(), tmp_path / f"{name}.{suffix}"
        {"parquet": data.write_parquet, "csv": data.write_csv, "jsonl": data.write_ndjson}[suffix](
            path
        )
    read = OutcomeTable.load(tmp_path)
    assert read.validate().ok
    assert content_of(read) == content_of(made)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("s,t,a,m,1.5,3,0.1", "row 3: score is outside [0, 1], got '1.5'"),
        ("s,t,a,m,NaN,3,0.1", "row 3: score is outside [0, 1], got 'NaN'"),
        ("s,t,a,m,good,3,0.1", "row 3: score is no number, got 'good'"),
        ("s,t,a,m,1,2.5,0.1", "row 3: input_tokens is no whole number, got '2.5'"),
        ("s,t,a,m,1,-3,0.1", "row 3: input_tokens is negative or not finite, got '-3'"),
        ("s,t,a,m,1,3,-0.1", "row 3: cost_usd is negative or not finite, got '-0.1'"),
        ("s,t,a,m,1,3,inf", "row 3: cost_usd is negative or not finite, got 'inf'"),
        ("s,t,a,,1,3,0.1", "row 3: model is empty"),
        ("s,t,z,m,1,3,0.1", "row 3: no prompt has this (source, task, prompt_id)"),
        ("s,t,a,first,1,3,0.1", "is there more than once"),
    ],
)
def test_a_bad_row_is_named_with_file_row_and_value(tmp_path: Path, row: str, said: str) -> None:
    folder = write_csv(tmp_path, outcomes=f"s,t,a,first,1,3,0.1\n{row}\n")
    report = OutcomeTable.load(folder).validate()
    assert len(report.errors) == 1
    text = str(report.errors[0])
    assert str(tmp_path / "outcomes.csv") in text and said in text


def test_a_problem_counts_its_rows(tmp_path: Path) -> None:
    rows = "".join(f"s,t,a,m{i},7,3,0.1\n" for i in range(5))
    report = OutcomeTable.load(write_csv(tmp_path, outcomes=rows)).validate()
    assert [problem.count for problem in report.errors] == [5]


def test_every_error_stands_in_the_exception(tmp_path: Path) -> None:
    folder = write_csv(tmp_path, outcomes="s,t,a,m,7,3,-1\n")
    with pytest.raises(OutcomeError, match=r"score is outside[^\n]*\n[^\n]*cost_usd is negative"):
        OutcomeTable.load(folder).validate().raise_if_bad()


def test_duplicates_across_files_are_found(tmp_path: Path) -> None:
    for name in ("outcomes-1", "outcomes-2"):
        pl.DataFrame(PAIRS).write_parquet(tmp_path / f"{name}.parquet")
    pl.DataFrame(PROMPTS).write_parquet(tmp_path / "prompts.parquet")
    problem = OutcomeTable.load(tmp_path).validate().errors[0]
    assert problem.count == 4 and "outcomes-1.parquet row 1" in problem.what


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    pl.DataFrame([{"prompt": "x", "task": "t", "source": "s"}]).write_csv(tmp_path / "p.csv")
    pl.DataFrame(PAIRS).write_csv(tmp_path / "o.csv")
    report = OutcomeTable.load(tmp_path / "o.csv", tmp_path / "p.csv").validate()
    assert "prompts lack the column prompt_id" in str(report.errors[0])


def test_unknown_columns_are_kept_and_reported() -> None:
    frame = pl.DataFrame([{**row, "region": "eu"} for row in PAIRS])
    made = OutcomeTable.from_frames(frame, pl.DataFrame(PROMPTS))
    assert "region" in made.outcomes.collect_schema()
    assert any("region" in problem.what for problem in made.validate().problems)


def test_unknown_cost_is_noted_and_no_error() -> None:
    report = table([outcome("a", "x", cost_usd=None)], [prompt("a")]).validate()
    assert report.ok and any("cost_usd is empty" in p.what for p in report.problems)


def test_a_free_answer_with_tokens_is_noted() -> None:
    report = table([outcome("a", "x", cost_usd=0.0)], [prompt("a")]).validate()
    assert any("cost_usd is 0" in problem.what for problem in report.problems)


def test_prompts_may_stand_in_the_outcomes_file(tmp_path: Path) -> None:
    rows = [{**row, "prompt": f"What is {row['prompt_id']}?"} for row in PAIRS]
    pl.DataFrame(rows).write_ndjson(tmp_path / "all.jsonl")
    made = OutcomeTable.load(tmp_path / "all.jsonl")
    assert made.validate().ok and made.complete_grid().prompts == ("What is a?", "What is b?")


def test_outcomes_without_any_prompt_are_refused(tmp_path: Path) -> None:
    pl.DataFrame(PAIRS).write_csv(tmp_path / "o.csv")
    with pytest.raises(OutcomeError, match="there is no prompts file"):
        OutcomeTable.load(tmp_path / "o.csv")


@pytest.mark.parametrize("name", ["missing.csv", "notes.txt", "broken.parquet", "other.csv"])
def test_what_is_no_table_is_refused_by_name(tmp_path: Path, name: str) -> None:
    if name != "missing.csv":
        (tmp_path / name).write_text("a,b\n1,2\n")
    with pytest.raises(OutcomeError, match=name):
        OutcomeTable.load(tmp_path / name)


def test_a_broken_line_of_json_is_an_error_of_its_file(tmp_path: Path) -> None:
    good = json.dumps(outcome("a", "x") | {"prompt": "Why?"})
    (tmp_path / "o.jsonl").write_text(f"{good}\n{{broken\n")
    with pytest.raises(OutcomeError, match=r"o\.jsonl"):
        OutcomeTable.load(tmp_path / "o.jsonl").validate().raise_if_bad()


def test_a_complete_grid_holds_scores_and_costs_by_prompt_and_model() -> None:
    rows = [outcome("a", "x", score=0.0), *PAIRS[1:]]
    made = table(rows, PROMPTS).complete_grid()
    assert made.models == ("x", "y")
    np.testing.assert_array_equal(made.score, [[0, 1], [1, 1]])
    np.testing.assert_array_equal(made.cost, np.full((2, 2), 0.01))


@pytest.mark.parametrize("hole", [{"score": None}, {"cost_usd": None}])
def test_a_model_with_a_hole_is_left_out(hole: dict[str, Any]) -> None:
    rows = [*PAIRS[:3], {**PAIRS[3], **hole}]
    assert table(rows, PROMPTS).complete_grid().models == ("x",)


def test_a_prompt_with_a_hole_is_left_out_when_the_models_are_given() -> None:
    made = table(PAIRS[:3], PROMPTS).complete_grid(models=["y", "x"])
    assert (made.prompt_ids, made.models) == (("s|t|a",), ("y", "x"))


def test_models_must_cover_every_chosen_source() -> None:
    rows = [*PAIRS, outcome("c", "x", source="other")]
    made = table(rows, [*PROMPTS, prompt("c", source="other")])
    assert made.complete_grid().models == ("x",) and len(made.complete_grid()) == 3
    assert made.complete_grid(sources=["s"]).models == ("x", "y")


def test_no_model_covers_a_prompt_that_nobody_has_a_known_outcome_of() -> None:
    rows = [*PAIRS, outcome("c", "x", score=None)]
    with pytest.raises(OutcomeError, match="no model covers every prompt"):
        table(rows, [*PROMPTS, prompt("c")]).complete_grid()


def test_a_new_name_joins_two_spellings() -> None:
    rows = [*PAIRS, outcome("c", "x-preview", source="o"), outcome("c", "y", source="o")]
    made = table(rows, [*PROMPTS, prompt("c", source="o")])
    grid = made.complete_grid(rename={"x-preview": "x"})
    assert grid.models == ("x", "y") and len(grid) == 3


def test_a_new_name_that_collides_is_refused() -> None:
    with pytest.raises(OutcomeError, match="two outcomes of one model"):
        table(PAIRS, PROMPTS).grid(rename={"x": "y"})


def test_an_unknown_model_is_refused_with_those_there_are() -> None:
    with pytest.raises(OutcomeError, match=r"'z'.*there are x, y"):
        table(PAIRS, PROMPTS).grid(models=["z"])


def test_further_columns_come_when_asked_for() -> None:
    rows = [outcome("a", "x", response="yes", score=None), outcome("a", "y", output_tokens=None)]
    made = table(rows, [prompt("a", meta="{}")])
    told = pl.col("response").is_not_null().alias("told")
    grid = made.grid(more=("response", "output_tokens", told, "colour"), about=("meta", "mood"))
    assert grid.more["response"].tolist() == [["yes", None]]
    assert grid.more["told"].tolist() == [[True, False]]
    np.testing.assert_array_equal(grid.more["output_tokens"], [[5, np.nan]])
    assert grid.about["meta"].tolist() == ["{}"] and set(grid.about) == {"meta"}
    assert set(grid.more) == {"response", "output_tokens", "told"} and not made.grid().more


def test_every_prompt_comes_when_asked_for_as_the_prompts_stand() -> None:
    made = table([outcome("b", "x", cost_usd=None)], [prompt("c"), prompt("b"), prompt("a")])
    grid = made.grid(every=True, more=("score",))
    assert grid.prompt_ids == ("s|t|c", "s|t|b", "s|t|a") and not grid.candidates.any()
    np.testing.assert_array_equal(grid.more["score"], [[np.nan], [1.0], [np.nan]])


@pytest.mark.parametrize("value", [0.0, 1.5, float("nan")])
def test_an_impossible_propensity_is_an_error(value: float) -> None:
    rows = [outcome("a", "x", propensity=1.0), outcome("b", "x", propensity=value)]
    (error,) = table(rows, PROMPTS).validate().errors
    assert (error.row, error.what) == (2, "propensity is outside (0, 1]")
    assert "leave it empty if unknown" in error.fix


@given(st.text(max_size=40))
def test_a_normalised_prompt_is_a_fixed_point(text: str) -> None:
    assert normalise_prompt(normalise_prompt(text)) == normalise_prompt(text)


def test_a_prompts_key_never_changes() -> None:
    assert prompt_key("What is\n2+2?") == prompt_key("what IS 2+2?") == 14200042223405929595


def test_the_summary_counts_and_averages() -> None:
    rows = [outcome("a", "x", score=0.0), *PAIRS[1:3], outcome("b", "y", cost_usd=None)]
    summary = table(rows, [prompt("a", category="c"), prompt("b", category="c")]).summary()
    by_model = {row["model"]: row for row in summary.models.to_dicts()}
    assert by_model["x"]["mean_score"] == 0.5 and by_model["y"]["priced"] == 0.5
    assert by_model["x"]["coverage"] == 1.0
    assert summary.families.to_dicts()[0]["outcomes"] == 4


def test_a_written_table_reads_back_the_same(tmp_path: Path) -> None:
    made = table(PAIRS, PROMPTS)
    made.write(tmp_path / "out")
    assert content_of(OutcomeTable.load(tmp_path / "out")) == content_of(made)


def test_a_failed_write_leaves_the_old_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table(PAIRS, PROMPTS).write(tmp_path)
    before = content_of(OutcomeTable.load(tmp_path))

    def fail(*paths: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        table(PAIRS[:2], PROMPTS).write(tmp_path)
    assert content_of(OutcomeTable.load(tmp_path)) == before
    assert {path.name for path in tmp_path.iterdir()} == {"outcomes.parquet", "prompts.parquet"}


def test_the_summary_tells_how_far_a_log_overlaps_in_one_line() -> None:
    rows = [
        outcome("a", "x", propensity=0.5),
        outcome("b", "x", propensity=1.0, score=None),
        outcome("a", "y", propensity=None),
    ]
    summary = table(rows, PROMPTS).summary()
    assert summary.overlap().to_dicts() == [
        {"model": "x", "asked": 2, "scored": 1, "drawn": 1},
        {"model": "y", "asked": 1, "scored": 1, "drawn": 0},
    ]
    assert str(summary).splitlines()[-1] == "asked/scored/drawn: x 2/1/1, y 1/1/0"


def test_the_summary_of_a_table_that_knows_no_propensity_counts_no_draws(tmp_path: Path) -> None:
    write_csv(tmp_path, outcomes="s,t,a,m,1,3,0.1\n")
    assert str(OutcomeTable.load(tmp_path).summary()).endswith("asked/scored/drawn: m 1/1/0")


def test_the_summary_of_many_models_stays_a_line() -> None:
    rows = [outcome("a", f"m{n:02}") for n in range(15)]
    line = str(table(rows, [prompt("a")]).summary()).splitlines()[-1]
    assert line.endswith("m11 1/1/0, and 3 more")


@pytest.mark.parametrize("value", [-0.1, 1.5, float("nan")])
def test_impossible_feedback_is_an_error(value: float) -> None:
    rows = [outcome("a", "x", feedback=0.5), outcome("b", "x", feedback=value)]
    (error,) = table(rows, PROMPTS).validate().errors
    assert (error.row, error.what) == (2, "feedback is outside [0, 1]")
    assert "leave it empty where nobody said anything" in error.fix
