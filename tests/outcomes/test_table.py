"""Outcome tables: reading, checking, deduplicating, selecting, writing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

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
    assert read.fingerprint() == made.fingerprint()


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
    assert made.validate().ok
    assert made.prompts.collect()["prompt"].to_list() == ["What is a?", "What is b?"]


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


def test_prompts_that_differ_in_case_and_blanks_are_merged() -> None:
    prompts = [prompt("a", prompt="What  is it?"), prompt("b", prompt="what is\nIT?")]
    merged, moved = table(PAIRS, prompts).deduplicated()
    assert moved["kept_prompt_id"].to_list() == ["a"]
    assert merged.prompts.collect()["prompt_id"].to_list() == ["a"] and merged.validate().ok


def test_a_merged_prompt_keeps_its_own_outcomes_first() -> None:
    rows = [
        outcome("b", "x", score=0.0),
        outcome("a", "x", score=1.0),
        outcome("b", "y", score=0.5),
    ]
    prompts = [prompt("a", prompt="same"), prompt("b", prompt="Same")]
    merged, _ = table(rows, prompts).deduplicated()
    kept = merged.outcomes.sort("model").select("prompt_id", "model", "score").collect()
    assert kept.rows() == [("a", "x", 1.0), ("a", "y", 0.5)]


def test_prompts_of_two_sources_are_never_merged() -> None:
    prompts = [prompt("a", prompt="same"), prompt("b", source="o", prompt="same")]
    rows = [outcome("a", "x"), outcome("b", "x", source="o")]
    assert table(rows, prompts).deduplicated()[1].height == 0


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
    assert OutcomeTable.load(tmp_path / "out").fingerprint() == made.fingerprint()


def test_a_failed_write_leaves_the_old_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table(PAIRS, PROMPTS).write(tmp_path)
    before = OutcomeTable.load(tmp_path).fingerprint()

    def fail(*paths: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        table(PAIRS[:2], PROMPTS).write(tmp_path)
    assert OutcomeTable.load(tmp_path).fingerprint() == before
    assert {path.name for path in tmp_path.iterdir()} == {"outcomes.parquet", "prompts.parquet"}


def test_the_fingerprint_ignores_order_and_sees_scores() -> None:
    one, two = table(PAIRS, PROMPTS), table(PAIRS[::-1], PROMPTS[::-1])
    changed = table([outcome("a", "x", score=0.5), *PAIRS[1:]], PROMPTS)
    assert one.fingerprint() == two.fingerprint() != changed.fingerprint()
