"""LangSmith's bulk export: Parquet files of runs, read in batches.

An export is a folder tree ``export_id=.../tenant_id=.../session_id=.../runs/year=.../month=.../``
of files with one row per run; inputs, outputs, metadata and events are JSON texts. Feedback is in
it as averages only: ``xrouter traces pull`` reads the real one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from xrouter_lg.extras import need
from xrouter_lg.files import reading
from xrouter_lg.langsmith.errors import BulkExportError

_NEEDED = ("id", "trace_id", "name", "run_type", "start_time", "inputs", "outputs", "extra")
"""Without these there is nothing to import, or nothing to train on."""

_WANTED = (
    *_NEEDED,
    "dotted_order",
    "parent_run_id",
    "parent_run_ids",
    "session_id",
    "end_time",
    "status",
    "error",
    "events",
    "tags",
    "reference_example_id",
    "first_token_time",
    "prompt_tokens",
    "completion_tokens",
    "total_tokens",
    "prompt_cost",
    "completion_cost",
    "total_cost",
)
_THEIRS = {"id", "trace_id", "start_time"}
_THEIRS_ALONE = {"tenant_id", "session_id", "is_root", "trace_tier", "feedback_stats"}
_OURS_ALONE = {"session_name"}
_ROWS_AT_A_TIME = 500
_SESSION = re.compile(r"session_id=([0-9a-f-]{36})")


def is_bulk_export(path: str | PathLike[str]) -> bool:
    """Whether a Parquet file, or the first one below a folder, has the columns of an export."""
    files = _files(Path(path))
    if not files:
        return False
    try:
        columns = set(_polars().read_parquet_schema(files[0]))
    except OSError:
        return False
    except Exception:  # polars' own error for what is no Parquet
        return False
    by_place = _SESSION.search(str(files[0])) is not None
    return (
        columns >= _THEIRS
        and not columns & _OURS_ALONE
        and (by_place or bool(columns & _THEIRS_ALONE))
    )


def read_bulk_export(
    paths: Sequence[str | PathLike[str]], *, project: str | None = None
) -> Iterator[dict[str, Any]]:
    """Runs as ``TraceStore.import_runs`` takes them, file by file, a batch in memory at a time.

    The export names the project by its id only; ``project`` is the name to store.

    Raises:
        BulkExportError: nothing there, a damaged file, or one that lacks columns.
        MissingExtraError: polars is not installed.
    """
    for given in paths:
        path = Path(given)
        files = _files(path)
        if not files:
            raise BulkExportError(
                f"there is no Parquet file at {str(path)!r}. Name the folder that the export was "
                "copied to, e.g. with: aws s3 sync s3://BUCKET/PREFIX/export_id=... FOLDER"
            )
        for file in files:
            yield from _read(file, project)


def _read(file: Path, project: str | None) -> Iterator[dict[str, Any]]:
    polars = _polars()
    by_place = _SESSION.search(str(file))
    damaged = f"{str(file)!r} can't be read as Parquet: "
    fix = ". Copy it again from the bucket; is the export COMPLETED?"
    with reading(lambda said: BulkExportError(damaged + said + fix), OSError):
        # The folders' names are no columns here: session_id is in the file as a rule.
        frame = polars.scan_parquet(file, hive_partitioning=False)
        columns = frame.collect_schema().names()
        missing = [name for name in _NEEDED if name not in columns]
        if missing:
            raise BulkExportError(
                f"{str(file)!r} lacks the column(s) {', '.join(missing)}. Export again without "
                f"export_fields, or with at least {', '.join(_NEEDED)}, dotted_order, "
                "parent_run_id, end_time, error and tags."
            )
        chosen = frame.select([name for name in _WANTED if name in columns])
        for batch in chosen.collect_batches(chunk_size=_ROWS_AT_A_TIME, maintain_order=True):
            for row in batch.iter_rows(named=True):
                session = row.get("session_id") or (by_place and by_place[1])
                yield {**row, "session_id": session, "session_name": project or session}


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(path.rglob("*.parquet"))
    return [path] if path.suffix == ".parquet" and path.exists() else []


def _polars() -> Any:
    return need("polars", "LangSmith's bulk export")
