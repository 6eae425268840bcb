"""Whole traces to files and back: JSON lines, or a folder of Parquet files.

Both hold everything: what is exported and imported into an empty store is there as it was. Route
records stand in the Parquet folder for whoever reads it; an import derives them from the runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from xrouter_lg.errors import StoreError
from xrouter_lg.extras import need
from xrouter_lg.files import reading, whole
from xrouter_lg.json_text import from_json, to_json
from xrouter_lg.tracing.runs.importing import MORE_FIELDS

Format = Literal["jsonl", "parquet"]

Part = tuple[Literal["runs", "feedback", "routes"], dict[str, Any]]
"""What a file holds, one by one: its kind and its fields."""

_TEXT, _INTEGER, _NUMBER, _TIME, _JSON, _FLAG = "text", "integer", "number", "time", "json", "flag"

COLUMNS: dict[str, dict[str, str]] = {
    "runs": {
        **dict.fromkeys(("id", "trace_id", "parent_run_id", "dotted_order"), _TEXT),
        **dict.fromkeys(("name", "run_type"), _TEXT),
        **dict.fromkeys(("start_time", "end_time"), _TIME),
        **dict.fromkeys(("status", "error"), _TEXT),
        **dict.fromkeys(("tags", "inputs", "outputs", "extra", "events"), _JSON),
        "session_name": _TEXT,
        **dict.fromkeys(("prompt_tokens", "completion_tokens", "total_tokens"), _INTEGER),
        **dict.fromkeys(MORE_FIELDS, _TEXT),
    },
    "feedback": {
        **dict.fromkeys(("id", "run_id", "trace_id", "key"), _TEXT),
        "score": _NUMBER,
        **dict.fromkeys(("value", "correction"), _JSON),
        **dict.fromkeys(("comment", "source"), _TEXT),
        "created_at": _TIME,
    },
    "routes": {
        **dict.fromkeys(("id", "run_id", "trace_id"), _TEXT),
        "created_at": _TIME,
        **dict.fromkeys(("project", "route", "policy", "policy_version"), _TEXT),
        **dict.fromkeys(("cost_weight", "propensity"), _NUMBER),
        "cost_usd": _TEXT,
        **dict.fromkeys(("input_tokens", "output_tokens"), _INTEGER),
        "latency_s": _NUMBER,
        "turns": _INTEGER,
        "truncated": _FLAG,
        **dict.fromkeys(("thread_id", "tenant"), _TEXT),
        "record": _JSON,
    },
}
"""Columns of the Parquet files. JSON is text; times are UTC with microseconds."""

_ROWS_AT_A_TIME = 2000


def write_jsonl(path: Path, parts: Iterable[Part]) -> dict[str, int]:
    """One line per run; feedback as ``{"feedback": {...}}``. Returns how many of each."""
    counts: dict[str, int] = {}
    with _completed(path) as temporary, temporary.open("wb") as file:
        for kind, fields in parts:
            line = {"feedback": fields} if kind == "feedback" else fields
            file.write(f"{to_json(line)}\n".encode())
            counts[kind] = counts.get(kind, 0) + 1
    return counts


def write_parquet(
    folder: Path, sources: Mapping[str, Callable[[], Iterator[dict[str, Any]]]]
) -> dict[str, int]:
    """A folder with one file per source (``runs``, ``feedback``, ``routes``). An earlier export
    in its place is replaced; any other folder is not.

    Raises:
        MissingExtraError: polars is not installed.
        StoreError: the place is taken.
    """
    _polars()
    if folder.exists() and not _is_our_folder(folder):
        raise StoreError(
            f"{str(folder)!r} is there already and is no earlier export. Name another folder."
        )
    counts: dict[str, int] = {}
    with _completed(folder) as temporary:
        temporary.mkdir()
        for name, rows in sources.items():
            counts[name] = _sink(temporary / f"{name}.parquet", name, rows)
    return counts


def read_files(paths: Sequence[Path]) -> Iterator[Part]:
    """What exports hold, in their order; routes are left out.

    Raises:
        StoreError: a file is missing, of another kind, or damaged; names the line.
        MissingExtraError: a Parquet file, and polars is not installed.
    """
    for path in paths:
        if path.is_dir():
            yield from _read_folder(path)
        elif path.suffix == ".parquet":
            yield from _read_parquet(path, _kind_of(path))
        elif path.exists():
            yield from _read_jsonl(path)
        else:
            raise StoreError(f"there is no file {str(path)!r} to import")


def parquet_columns(path: Path) -> list[str]:
    """The names of a Parquet file's columns.

    Raises:
        StoreError: it can't be read.
        MissingExtraError: polars is not installed.
    """
    polars = _polars()
    with _parquet(path):
        return list(polars.read_parquet_schema(path))


@contextmanager
def _completed(target: Path) -> Iterator[Path]:
    """A temporary name beside ``target`` that takes its place when all went well."""
    try:
        with whole(target) as temporary:
            yield temporary
    except OSError as error:
        raise StoreError(
            f"can't export to {str(target)!r}: {error.strerror or error}. "
            "Check that its folder exists, is writable and has space."
        ) from error


def _sink(path: Path, name: str, rows: Callable[[], Iterator[dict[str, Any]]]) -> int:
    """Rows into a Parquet file as they come; their number."""
    polars = _polars()
    columns = COLUMNS[name]
    schema = {column: _dtype(polars, kind) for column, kind in columns.items()}
    written = 0

    def frames(with_columns: Any, predicate: Any, n_rows: Any, batch_size: Any) -> Iterator[Any]:
        nonlocal written
        held: list[dict[str, Any]] = []
        for row in rows():
            held.append({c: _cell(row.get(c), kind) for c, kind in columns.items()})
            if len(held) == _ROWS_AT_A_TIME:
                written += len(held)
                yield polars.DataFrame(held, schema=schema)
                held = []
        written += len(held)
        yield polars.DataFrame(held, schema=schema)

    source = polars.io.plugins.register_io_source(io_source=frames, schema=schema)
    source.sink_parquet(path, compression="zstd", row_group_size=_ROWS_AT_A_TIME)
    return written


def _dtype(polars: Any, kind: str) -> Any:
    return {
        _INTEGER: polars.Int64,
        _NUMBER: polars.Float64,
        _TIME: polars.Datetime("us", "UTC"),
        _FLAG: polars.Boolean,
    }.get(kind, polars.String)


def _cell(value: Any, kind: str) -> Any:
    if value is None:
        return None
    if kind == _JSON:
        return to_json(value)
    if kind == _TIME:
        return value if isinstance(value, datetime) else datetime.fromisoformat(value)
    return value


def _is_our_folder(path: Path) -> bool:
    names = {file.name for file in path.iterdir()} if path.is_dir() else {""}
    return names <= {f"{name}.parquet" for name in COLUMNS}


def _read_folder(path: Path) -> Iterator[Part]:
    if not (path / "runs.parquet").exists():
        raise StoreError(
            f"the folder {str(path)!r} holds no runs.parquet, so it is no export of traces"
        )
    for name in ("runs", "feedback"):
        if (file := path / f"{name}.parquet").exists():
            yield from _read_parquet(file, name)


def _kind_of(path: Path) -> str:
    columns = set(parquet_columns(path))
    for name in ("runs", "feedback"):
        if set(COLUMNS[name]) <= columns:
            return name
    raise StoreError(
        f"{str(path)!r} is no export of runs or feedback; its columns are "
        f"{', '.join(sorted(columns)[:12])}"
    )


def _read_parquet(path: Path, name: str) -> Iterator[Part]:
    polars = _polars()
    json_columns = [column for column, kind in COLUMNS[name].items() if kind == _JSON]
    missing = set(COLUMNS[name]) - set(parquet_columns(path))
    if missing:
        raise StoreError(f"{str(path)!r} lacks the columns {', '.join(sorted(missing))}")
    with _parquet(path):
        frame = polars.scan_parquet(path).select(list(COLUMNS[name]))
        for batch in frame.collect_batches(chunk_size=_ROWS_AT_A_TIME, maintain_order=True):
            for row in batch.iter_rows(named=True):
                for column in json_columns:
                    row[column] = None if row[column] is None else _parsed(row[column], path)
                yield ("feedback" if name == "feedback" else "runs"), row


def _parquet(path: Path) -> AbstractContextManager[None]:
    damaged = f"{str(path)!r} can't be read as Parquet: "
    return reading(lambda said: StoreError(damaged + said), OSError)


def _read_jsonl(path: Path) -> Iterator[Part]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            value = _parsed(line, path, f", line {number}")
            if isinstance(value, dict) and isinstance(value.get("feedback"), dict):
                yield "feedback", value["feedback"]
            elif isinstance(value, dict) and value.get("id") and value.get("start_time"):
                yield "runs", value
            else:
                raise StoreError(
                    f"{str(path)!r}, line {number}: neither a run (id, start_time, ...) nor "
                    'feedback ({"feedback": {...}}). Lines of --routes-only can\'t be imported.'
                )


def _parsed(text: str | bytes, path: Path, where: str = "") -> Any:
    try:
        return from_json(text)
    except ValueError as error:
        raise StoreError(f"{str(path)!r}{where} holds no JSON: {error}") from error


def _polars() -> Any:
    return need("polars", "a Parquet file of traces")
