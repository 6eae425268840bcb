"""RouterBench's wide table and LLMRouterBench's records, as their publishers write them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from xrouter_lg.outcomes import OutcomeError, OutcomeTable

WIDE = [
    {
        "sample_id": "mmlu-law.val.1",
        "prompt": "['Answer the question.', 'What is law?']",
        "eval_name": "mmlu-law",
        "gpt-4-1106-preview": 1.0,
        "gpt-4-1106-preview|model_response": "['A']",
        "gpt-4-1106-preview|total_cost": 0.002,
        "meta/llama-2-70b-chat": 0.0,
        "meta/llama-2-70b-chat|model_response": "B",
        "meta/llama-2-70b-chat|total_cost": 0.0001,
        "oracle_model_to_route_to": "gpt-4-1106-preview",
    }
]


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_the_wide_table_becomes_one_outcome_per_model(tmp_path: Path, suffix: str) -> None:
    path, frame = tmp_path / f"wide.{suffix}", pl.DataFrame(WIDE)
    frame.write_parquet(path) if suffix == "parquet" else frame.write_csv(path)
    table = OutcomeTable.load(path, format="routerbench")
    assert table.validate().ok
    columns = "model", "score", "cost_usd", "response"
    assert table.outcomes.sort("model").select(columns).collect().rows() == [
        ("gpt-4-1106-preview", 1.0, 0.002, "A"),
        ("meta/llama-2-70b-chat", 0.0, 0.0001, "B"),
    ]
    assert table.prompts.collect()["prompt"].to_list() == ["Answer the question.\nWhat is law?"]


def test_the_wide_table_is_recognised_when_its_format_is_not_named(tmp_path: Path) -> None:
    pl.DataFrame(WIDE).write_csv(tmp_path / "wide.csv")
    with pytest.raises(OutcomeError, match="format='routerbench'"):
        OutcomeTable.load(tmp_path / "wide.csv")


def test_a_pickle_is_never_opened(tmp_path: Path) -> None:
    path = tmp_path / "routerbench_0shot.pkl"
    path.write_bytes(b"cos\nsystem\n(S'touch " + str(tmp_path / "owned").encode() + b"'\ntR.")
    with pytest.raises(OutcomeError, match="read_pickle"):
        OutcomeTable.load(path, format="routerbench")
    assert not (tmp_path / "owned").exists()


def record(index: int, **fields: Any) -> dict[str, Any]:
    return {
        "index": index,
        "origin_query": f"What is {index}+{index}?",
        "prompt": f"Question: What is {index}+{index}?\nAnswer:",
        "prediction": str(2 * index),
        "ground_truth": str(2 * index),
        "score": 1.0,
        "prompt_tokens": 15,
        "completion_tokens": 5,
        "cost": 0.0001,
        "raw_output": "it is that",
        **fields,
    }


def write(root: Path, model: str, stamp: str, records: list[Any], **fields: Any) -> None:
    folder = root / "bench" / "aime" / "test" / model
    folder.mkdir(parents=True, exist_ok=True)
    data = {
        "performance": 1.0,
        "counts": len(records),
        "model_name": model,
        "dataset_name": "aime",
        "split": "test",
        "demo": False,
        "records": records,
        **fields,
    }
    (folder / f"aime-test-{model}-{stamp}.json").write_text(json.dumps(data))


def test_records_become_outcomes(tmp_path: Path) -> None:
    for model in ("gpt-5", "qwen3"):
        write(tmp_path, model, "20250101_000000", [record(1), record(2, score=0.0)])
    table = OutcomeTable.load(tmp_path, format="llmrouterbench")
    assert table.validate().ok
    prompts = table.prompts.collect()
    assert prompts["prompt"].to_list() == ["What is 1+1?", "What is 2+2?"]
    assert prompts["reference"].to_list() == ["2", "4"]
    scored = table.outcomes.join(table.prompts, on=["source", "task", "prompt_id"])
    columns = "model", "reference", "score"
    assert scored.select(columns).sort("model", "reference").collect().rows() == [
        ("gpt-5", "2", 1.0),
        ("gpt-5", "4", 0.0),
        ("qwen3", "2", 1.0),
        ("qwen3", "4", 0.0),
    ]


def test_only_the_newest_run_counts(tmp_path: Path) -> None:
    write(tmp_path, "gpt-5", "20250101_000000", [record(1, score=0.0)])
    write(tmp_path, "gpt-5", "20250601_000000", [record(1, score=1.0)])
    write(tmp_path, "gpt-5", "20250701_000000", [record(1, score=0.5)], demo=True)
    table = OutcomeTable.load(tmp_path, format="llmrouterbench")
    assert table.outcomes.collect()["score"].to_list() == [1.0]


def test_a_cost_of_zero_with_tokens_is_unknown(tmp_path: Path) -> None:
    write(tmp_path, "local", "20250101_000000", [record(1, cost=0.0)])
    table = OutcomeTable.load(tmp_path, format="llmrouterbench")
    assert table.outcomes.collect()["cost_usd"].to_list() == [None]


def test_an_unscored_record_stays_without_a_score(tmp_path: Path) -> None:
    write(tmp_path, "m", "20250101_000000", [record(1, score=None)])
    table = OutcomeTable.load(tmp_path, format="llmrouterbench")
    assert table.outcomes.collect()["score"].to_list() == [None]


def test_names_are_read_off_the_path_where_the_file_lacks_them(tmp_path: Path) -> None:
    write(tmp_path, "m", "20250101_000000", [record(1)], model_name=None, dataset_name=None)
    path = next(tmp_path.rglob("*.json"))
    data = json.loads(path.read_text())
    del data["model_name"], data["dataset_name"]
    path.write_text(json.dumps(data))
    row = OutcomeTable.load(tmp_path, format="llmrouterbench").outcomes.collect().row(0, named=True)
    assert (row["task"], row["model"]) == ("aime", "m")


def test_a_record_without_its_index_is_named(tmp_path: Path) -> None:
    bad = record(1)
    del bad["index"]
    write(tmp_path, "m", "20250101_000000", [record(2), bad])
    with pytest.raises(OutcomeError, match=r"\.json, record 2: KeyError\('index'\)"):
        OutcomeTable.load(tmp_path, format="llmrouterbench")


@pytest.mark.parametrize("text", ["[]", "{}", "not json"])
def test_a_file_of_another_kind_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(OutcomeError, match=r"x\.json"):
        OutcomeTable.load(tmp_path, format="llmrouterbench")
