"""LangSmith's bulk export as a second way in."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from typer.testing import CliRunner

from integrations.langsmith import is_bulk_export, read_bulk_export
from tests.langsmith.conftest import PROJECT, add_trace, days_ago, pulled, stored
from tests.support.langsmith_server import LangSmithServer
from xrouter_lg import cli
from xrouter_lg.langsmith.connection import LangSmith
from xrouter_lg.langsmith.errors import BulkExportError
from xrouter_lg.tracing.store.trace_store import TraceStore


def export(server: LangSmithServer, folder: Path, **changes: Any) -> Path:
    """What LangSmith would write of a project, one file per day."""
    project = server.session(PROJECT)["id"]
    by_day: dict[str, list[dict[str, Any]]] = {}
    for run in server.query({"session": [project]}):
        start = datetime.fromisoformat(run["start_time"]).replace(tzinfo=None)
        end = run.get("end_time")
        row = {
            "id": run["id"],
            "tenant_id": "00000000-0000-0000-0000-000000000001",
            "session_id": project,
            "trace_id": run["trace_id"],
            "parent_run_id": run.get("parent_run_id"),
            "is_root": run.get("parent_run_id") is None,
            "name": run["name"],
            "run_type": run["run_type"],
            "start_time": start,
            "end_time": end and datetime.fromisoformat(end).replace(tzinfo=None),
            "status": run["status"],
            "dotted_order": run["dotted_order"],
            "inputs": json.dumps(run["inputs"]),
            "outputs": json.dumps(run["outputs"]),
            "error": run.get("error"),
            "extra": json.dumps(run["extra"]),
            "events": "[]",
            "tags": run["tags"],
            "feedback_stats": "{}",
            "total_tokens": run.get("total_tokens"),
            "prompt_tokens": run.get("prompt_tokens"),
            "completion_tokens": run.get("completion_tokens"),
            "total_cost": 0.5 if run["run_type"] == "llm" else None,
        }
        by_day.setdefault(f"{start:%d}", []).append({**row, **changes})
    root = folder / "export_id=1" / "tenant_id=2" / f"session_id={project}" / "runs"
    for day, rows in by_day.items():
        place = root / "year=2026" / "month=11" / f"day={day}"
        place.mkdir(parents=True)
        kept = [{k: v for k, v in row.items() if v != "drop"} for row in rows]
        pl.DataFrame(kept, infer_schema_length=None).write_parquet(place / "part-0.parquet")
    return folder


@pytest.fixture
def exported(server: LangSmithServer, tmp_path: Path) -> Path:
    for number in range(12):
        add_trace(server, number, days_ago(3 - number / 5), tags=("a", "b"))
    return export(server, tmp_path / "export")


def test_an_export_gives_what_a_pull_gives(
    server: LangSmithServer, langsmith: LangSmith, store: TraceStore, exported: Path, tmp_path: Path
) -> None:
    pulled(langsmith, store)
    with TraceStore(tmp_path / "second.db") as second:
        second.import_runs(read_bulk_export([exported], project=PROJECT))
        assert stored(second) == stored(store)
        names = (
            *("parent_run_id", "dotted_order", "run_type", "start_time", "end_time", "status"),
            *("tags", "inputs", "outputs", "extra", "session_name", "total_tokens"),
        )
        for trace in store.iter_traces():
            for ours, theirs in zip(trace.runs, second.runs(trace.id), strict=True):
                assert {n: ours[n] for n in names} == {n: theirs[n] for n in names}
        assert [r.record for r in store.routes()] == [r.record for r in second.routes()]


def test_the_command_imports_an_export_once(exported: Path, tmp_path: Path) -> None:
    db = tmp_path / "cli.db"
    for new in (60, 0):
        result = CliRunner().invoke(
            cli.app, ["traces", "import", str(exported), "--store", str(db)]
        )
        assert result.exit_code == 0, result.output
        assert f"{new} new" in result.output
    with TraceStore(db) as store:
        assert store.counts()["runs"] == 60


def test_an_export_is_told_from_our_own_files(exported: Path, store: TraceStore) -> None:
    file = next(exported.rglob("*.parquet"))
    ours = exported.parent / "ours"
    ours.mkdir()
    columns = ("id", "trace_id", "start_time", "session_name", "session_id")
    pl.DataFrame({name: ["x"] for name in columns}).write_parquet(ours / "runs.parquet")
    (exported.parent / "text.parquet").write_text("no parquet")
    assert is_bulk_export(exported) and is_bulk_export(file)
    assert not is_bulk_export(ours)
    assert not is_bulk_export(exported.parent / "text.parquet")
    assert not is_bulk_export(exported.parent / "nothing")


def test_without_a_name_the_project_is_its_id(server: LangSmithServer, exported: Path) -> None:
    names = {run["session_name"] for run in read_bulk_export([exported])}
    assert names == {server.session(PROJECT)["id"]}


def test_missing_columns_say_how_to_export_again(server: LangSmithServer, tmp_path: Path) -> None:
    add_trace(server, 1, days_ago(1))
    folder = export(server, tmp_path / "export", inputs="drop", outputs="drop")
    with pytest.raises(BulkExportError, match=r"lacks the column\(s\) inputs, outputs"):
        list(read_bulk_export([folder]))


def test_a_damaged_file_is_named(exported: Path) -> None:
    file = next(exported.rglob("*.parquet"))
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(BulkExportError, match=r"part-0\.parquet"):
        list(read_bulk_export([exported]))
    with pytest.raises(BulkExportError, match="no Parquet file"):
        list(read_bulk_export([exported / "nowhere"]))
