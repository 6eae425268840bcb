"""Published layouts of routing data, read into our table.

RouterBench (Hu et al. 2024, arXiv 2403.12031): one wide row per prompt; for each model a column of
its name with the score, ``MODEL|total_cost`` in USD, and ``MODEL|model_response``. It is published
as pickles, which run code when opened and are never opened here; the error shows the one-line
conversion to Parquet.

LLMRouterBench (arXiv 2601.07206): ``bench/DATASET/SPLIT/MODEL/*.json``, one file per model with a
list of records.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl

from xrouter_lg.outcomes.schema import (
    OUTCOME_COLUMNS,
    PROMPT_COLUMNS,
    OutcomeError,
    Part,
    parts_of,
)

_COST, _RESPONSE = "|total_cost", "|model_response"
_STAMP = re.compile(r"(\d{8}_\d{6})\.json$")


def routerbench(path: str | Path, *, source: str = "routerbench") -> list[Part]:
    """RouterBench's wide table from Parquet or CSV. Tokens are not published: they stay null.

    Raises:
        OutcomeError: a pickle, or not this layout.
    """
    path = Path(path)
    if path.suffix in (".pkl", ".pickle"):
        raise OutcomeError(
            f"{path}: opening a pickle runs whatever code is in it. If you trust its source: "
            f"python -c \"import pandas; pandas.read_pickle('{path}')"
            f".to_parquet('{path.with_suffix('.parquet')}')\""
        )
    if path.suffix == ".parquet":
        wide = pl.scan_parquet(path)
    elif path.suffix == ".csv":
        wide = pl.scan_csv(path, infer_schema=False)
    else:
        raise OutcomeError(f"{path}: RouterBench's table is read from .parquet or .csv")
    have = wide.collect_schema().names()
    models = [name.removesuffix(_COST) for name in have if name.endswith(_COST)]
    lacking = [n for n in ("sample_id", "prompt", "eval_name", *models) if n not in have]
    if lacking or not models:
        raise OutcomeError(
            f"{path}: not RouterBench's wide table: it lacks {', '.join(lacking) or '*|total_cost'}"
        )
    keys = (
        pl.lit(source).alias("source"),
        pl.col("eval_name").cast(pl.String).alias("task"),
        pl.col("sample_id").cast(pl.String).alias("prompt_id"),
    )
    outcomes: list[pl.LazyFrame] = []
    for model in models:
        columns = [
            *keys,
            pl.lit(model).alias("model"),
            pl.col(model).cast(pl.Float64, strict=False).alias("score"),
            pl.col(model + _COST).cast(pl.Float64, strict=False).alias("cost_usd"),
        ]
        if model + _RESPONSE in have:
            columns.append(_unwrapped(model + _RESPONSE).alias("response"))
        outcomes.append(wide.select(columns))
    prompts = wide.select(*keys, _unwrapped("prompt").alias("prompt"))
    return parts_of(pl.concat(outcomes), prompts, str(path))


def _unwrapped(column: str) -> pl.Expr:
    """Texts that were written as the repr of a list of strings, joined by line breaks."""
    text = pl.col(column).cast(pl.String)
    boxed = text.str.starts_with("[") & text.str.ends_with("]")
    return (
        pl.when(boxed)
        .then(text.map_elements(_joined, return_dtype=pl.String, skip_nulls=True))
        .otherwise(text)
    )


def _joined(text: str) -> str:
    if not text.startswith("["):
        return text
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return "\n".join(value)
    return text


def llmrouterbench(
    path: str | Path, *, source: str = "llmrouterbench", responses: bool = False
) -> list[Part]:
    """LLMRouterBench's result files below ``path``; the newest file of each dataset, split and
    model counts, trial runs (``demo``) never. ``responses`` keeps the answers' texts, which are
    most of its gigabytes. A cost of 0 for an answer with tokens means a model without a price
    there: unknown, so null.

    Raises:
        OutcomeError: no result file, or a file that is none.
    """
    outcomes: list[pl.DataFrame] = []
    prompts: dict[tuple[str, str], dict[str, Any]] = {}
    for name, data in _newest(Path(path)):
        rows: list[dict[str, Any]] = []
        for number, record in enumerate(data["records"], 1):
            try:
                row, prompt = _record(source, data, record, responses)
            except (KeyError, TypeError, ValueError) as error:
                raise OutcomeError(f"{name}, record {number}: {error!r} in {record!r:.200}") from (
                    error
                )
            rows.append(row)
            prompts.setdefault((prompt["task"], prompt["prompt_id"]), prompt)
        outcomes.append(pl.DataFrame(rows, OUTCOME_COLUMNS))
    return parts_of(
        pl.concat(outcomes), pl.DataFrame(list(prompts.values()), PROMPT_COLUMNS), str(path)
    )


def _newest(path: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    files = [path] if path.is_file() else sorted(path.rglob("*.json"))
    if not files:
        raise OutcomeError(f"{path}: no *.json below it")
    # Newest first: the first real run of each (dataset, split, model) is the one that counts.
    files.sort(key=lambda file: _stamp(file), reverse=True)
    done: set[tuple[str, str, str]] = set()
    chosen: list[Path] = []
    for file in files:
        data = _read(file)
        place = (data["dataset_name"], data["split"], data["model_name"])
        if not data.get("demo") and place not in done:
            done.add(place)
            chosen.append(file)
    if not chosen:
        raise OutcomeError(f"{path}: only trial runs (demo: true) below it")
    # Read again rather than kept: all files together may be larger than memory.
    for file in sorted(chosen):
        yield file, _read(file)


def _stamp(file: Path) -> str:
    found = _STAMP.search(file.name)
    return found.group(1) if found else ""


def _read(file: Path) -> dict[str, Any]:
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise OutcomeError(f"{file}: can't be read as JSON: {error}") from error
    if not isinstance(data, dict) or not isinstance(data.get("records"), list):
        raise OutcomeError(f"{file}: no LLMRouterBench result: it has no list of records")
    # Older files leave out what their path says: .../DATASET/SPLIT/MODEL/file.json
    folders = [*file.parts[-4:-1]]
    names = ("dataset_name", "split", "model_name")
    for name, folder in zip(names, folders, strict=False):
        data.setdefault(name, folder)
    missing = [name for name in names if not data.get(name)]
    if missing:
        raise OutcomeError(f"{file}: no {missing[0]}, neither inside nor as a folder's name")
    return data


def _record(
    source: str, data: dict[str, Any], record: dict[str, Any], responses: bool
) -> tuple[dict[str, Any], dict[str, Any]]:
    key = {
        "source": source,
        "task": str(data["dataset_name"]),
        "prompt_id": f"{data['split']}-{record['index']}",
    }
    cost, tokens = record.get("cost"), record.get("completion_tokens")
    score = record.get("score")
    row = {
        **dict.fromkeys(OUTCOME_COLUMNS),
        **key,
        "model": str(data["model_name"]),
        "score": None if score is None else float(score),
        "input_tokens": record.get("prompt_tokens"),
        "output_tokens": tokens,
        "cost_usd": None if cost is None or (cost == 0 and tokens) else float(cost),
        "response": _text(record.get("raw_output")) if responses else None,
        "scored_by": "llmrouterbench",
    }
    prompt = {
        **dict.fromkeys(PROMPT_COLUMNS),
        **key,
        # What the dataset asks, without the benchmark's own template: what a router would see.
        "prompt": str(record.get("origin_query") or record["prompt"]),
        "reference": _text(record.get("ground_truth")),
    }
    return row, prompt


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)
