"""The local trace store: runs, route records and feedback in SQLite or Postgres."""

from __future__ import annotations

import json
import logging
import math
import os
import secrets
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal, Unpack, get_args

from sqlalchemy import Connection, select

from xrouter_lg.errors import StoreError
from xrouter_lg.json_text import from_json, to_json
from xrouter_lg.tracing.runs.importing import plain_feedback, plain_run, utc_text
from xrouter_lg.tracing.store import connect, erase, intake, schema, transfer
from xrouter_lg.tracing.store import trace_files as files
from xrouter_lg.tracing.store.query import RouteFilters, as_written
from xrouter_lg.tracing.store.read import snapshot
from xrouter_lg.tracing.store.reader import StoreReader
from xrouter_lg.tracing.store.rows import RowMaker
from xrouter_lg.tracing.store.write import RunWriter

_log = logging.getLogger(__name__)


class TraceStore(StoreReader):
    """Runs, routes and feedback of one database.

    ``url`` is a path, a ``sqlite:///`` URL or a ``postgresql://`` URL (extra ``postgres``).
    SQLite runs in WAL mode: readers never wait for the recorder. Safe to use from several
    threads, and from several processes. What is committed survives the end of the process, however
    it ends; with ``synchronous="full"`` a power failure too, which costs SQLite a flush to disk a
    commit (Postgres is told so by its own ``synchronous_commit``).

    Raises:
        StoreError: the store can't be opened; names the path, the cause and the fix.
    """

    def __init__(
        self,
        url: str | os.PathLike[str] = connect.DEFAULT_STORE,
        *,
        create: bool = True,
        busy_timeout_s: float = 5.0,
        synchronous: Literal["normal", "full"] = "normal",
    ) -> None:
        self.url = connect.resolve_url(url)
        if synchronous not in ("normal", "full"):
            raise StoreError(f"synchronous must be 'normal' or 'full', got {synchronous!r}")
        self._open = partial(
            connect.open_engine, self.url, busy_timeout_s=busy_timeout_s, synchronous=synchronous
        )
        self._engine = self._open(create=create)
        self._file = connect.file_of(self.url)

    def __enter__(self) -> TraceStore:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"TraceStore({connect.shown(self.url)!r})"

    def close(self) -> None:
        """Close the connections; the store can't be used afterwards."""
        self._engine.dispose()

    # --- writing ---------------------------------------------------------------------------

    def write(
        self, runs: Sequence[Mapping[str, Any]], routes: Sequence[Mapping[str, Any]] = ()
    ) -> None:
        """Insert or replace rows by id, all in one transaction. A file that was deleted or replaced
        under way is opened anew: an open connection would write on into nothing.

        Raises:
            StoreError: the database does not take them, or its folder is gone.
        """
        if connect.file_of(self.url) != self._file:
            self._open_anew()
        with self._writing("write to") as connection:
            writer = RunWriter(connection)
            writer.runs(runs)
            writer.routes(routes)

    def record_feedback(
        self,
        trace_id: str,
        key: str,
        score: float | None,
        *,
        value: Any = None,
        correction: Mapping[str, Any] | None = None,
        comment: str | None = None,
        run_id: str | None = None,
        feedback_id: str | None = None,
        source: str = "api",
    ) -> str:
        """Attach a score to a request, or to one run of it; returns the feedback's id.

        The trace need not be stored yet. ``feedback_id`` makes it idempotent: the same id again
        replaces. ``value`` is any JSON value, ``correction`` e.g. ``{"route": "large"}``.

        Raises:
            StoreError: empty key, a score that is not finite, or a value that is not JSON.
        """
        if not key or not trace_id:
            raise StoreError(f"feedback needs a trace id and a key, got {trace_id!r} and {key!r}")
        if score is not None and not _is_finite(score):
            raise StoreError(
                f"feedback {key!r} of trace {trace_id!r}: score {score!r} is not a finite number. "
                "Leave it None when there is no score."
            )
        new_id = feedback_id or str(uuid.uuid4())
        row = {
            "id": new_id,
            "run_id": str(run_id or trace_id),
            "trace_id": str(trace_id),
            "key": key,
            "score": None if score is None else float(score),
            "value": self._json(value, key),
            "correction": self._json(correction, key),
            "comment": comment,
            "source": source,
            "created_at": utc_text(datetime.now(UTC)),
        }
        with self._writing("write feedback to") as connection:
            RunWriter(connection).feedback([row])
        return new_id

    def import_runs(
        self,
        runs: Iterable[Any],
        *,
        project: str | None = None,
        cursor: intake.Cursor | None = None,
        redact: Callable[[Any], Any] | None = None,
    ) -> dict[str, int]:
        """Take runs in LangSmith's schema: dicts as :meth:`runs` gives, or what its client gives.

        Idempotent by run id. A run that is not finished never replaces a finished one. Routes are
        derived by the recorder's own extractor; credentials are removed, and ``redact`` is
        applied as the recorder's. ``project`` replaces the runs' own. ``cursor`` is a name and a
        JSON value, stored in the same transaction: both or neither. One call is one transaction
        and is held in memory: give a page or some thousands of runs at a time.

        Returns counts: ``runs`` given, ``new_runs`` among them, ``traces``, ``routes``.

        Raises:
            StoreError: a run has no id or no start time, or holds text that is no JSON.
        """
        maker = RowMaker(project or "default", redact)
        rows, routes = maker.imported(plain_run(run, project) for run in runs)
        with self._writing("import into") as connection:
            counts = intake.take_runs(connection, rows, routes)
            intake.set_cursor(connection, cursor)
        return counts

    def import_feedback(
        self,
        rows: Iterable[Any],
        *,
        cursor: intake.Cursor | None = None,
        redact: Callable[[Any], Any] | None = None,
    ) -> dict[str, int]:
        """Take feedback as :meth:`feedback` gives it, or LangSmith's client; idempotent by id.

        Without a trace id it is looked up by the run. Returns ``feedback`` and ``new_feedback``.

        Raises:
            StoreError: an entry has no id, key or run, or a score that is no finite number.
        """
        maker = RowMaker("default", redact)
        entries = {entry["id"]: entry for entry in map(plain_feedback, rows)}
        with self._writing("import feedback into") as connection:
            counts = intake.take_feedback(connection, entries, maker)
            intake.set_cursor(connection, cursor)
        return counts

    def cursor(self, name: str) -> dict[str, Any] | None:
        """The value stored with an import under that name; None before the first."""
        table = schema.cursors
        statement = select(table.c.value).where(table.c.name == name)
        for row in self.rows(statement):
            with as_written(f"cursor {name!r}"):
                value: dict[str, Any] = from_json(row["value"])
            return value
        return None

    # --- taking out ------------------------------------------------------------------------

    def delete(
        self, by: erase.By, value: str, *, dry_run: bool = False, compact: bool = True
    ) -> dict[str, int]:
        """Delete the traces of a ``thread``, a ``user`` or a ``tenant``, or one ``trace``, with
        their feedback.

        The user is whom ``user_id`` or ``langgraph_auth_user_id`` in the metadata names. Returns
        how many ``traces``, ``runs``, ``routes`` and ``feedback`` there were; ``dry_run`` only
        counts. Deleted text is overwritten; ``compact`` rewrites the file besides, so that no
        older copy is left in its free space or log. That needs as much free disk as the store
        has, and keeps writers waiting meanwhile.

        Raises:
            StoreError: unknown ``by``; or another process has the store open, so that its log
                could not be emptied (what was asked for is deleted all the same).
        """
        if by not in get_args(erase.By):
            raise StoreError(f"delete by one of {', '.join(get_args(erase.By))}, not {by!r}")
        with connect.store_errors(self.url, "delete from"):
            with snapshot(self._engine) as connection:
                ids = erase.chosen_ids(connection, by, value)
                if dry_run:
                    return erase.count(connection, ids)
            counts = erase.delete(self._engine, ids)
        if compact and any(counts.values()):
            self.compact()
        return counts

    def prune(
        self,
        *,
        before: datetime | None = None,
        max_bytes: int | None = None,
        limit: int | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> dict[str, int]:
        """Delete the oldest traces: those that started ``before``, and then as many as it takes
        for the store to use at most ``max_bytes`` (SQLite only). A hundred at a time, so that
        writers are not held up; ``limit`` bounds how many. Returns counts as :meth:`delete`.
        """
        with connect.store_errors(self.url, "prune"):
            return erase.prune(
                self._engine, before=before, max_bytes=max_bytes, limit=limit, progress=progress
            )

    def compact(self) -> None:
        """Rewrite the file without free space and empty its log.

        Raises:
            StoreError: another process holds the store; nothing is lost, try again later.
        """
        with connect.store_errors(self.url, "compact"):
            done = connect.compact(self._engine)
        if not done:
            raise StoreError(
                f"the log of {connect.shown(self.url)!r} could not be emptied: another process "
                "reads the store. What was deleted is gone from it, but copies may be left in the "
                "log file. Compact again when that process has closed it."
            )

    def prompt_salt(self) -> str:
        """The key of this store's text hashes: ``XROUTER_PROMPT_SALT``, else a random one that is
        kept in the store."""
        if given := os.environ.get("XROUTER_PROMPT_SALT"):
            return given
        meta = schema.meta
        wanted = select(meta.c.value).where(meta.c.key == "prompt_salt")
        for row in self.rows(wanted):
            return str(row["value"])
        with self._writing("write to") as connection:
            salt = connection.scalar(wanted)
            if salt is None:
                salt = secrets.token_hex(32)
                connection.execute(meta.insert().values(key="prompt_salt", value=salt))
        return str(salt)

    def used_bytes(self) -> int:
        """Bytes on disk that the content takes (SQLite only)."""
        with connect.store_errors(self.url, "read"), self._engine.connect() as connection:
            return erase.used_bytes(connection)

    @contextmanager
    def _writing(self, verb: str) -> Iterator[Connection]:
        with (
            connect.store_errors(self.url, verb),
            connect.write_transaction(self._engine) as connection,
        ):
            yield connection

    def _open_anew(self) -> None:
        _log.warning("%r was deleted or replaced under way; it is opened anew", self)
        self._engine.dispose()
        self._engine = self._open(create=True)
        self._file = connect.file_of(self.url)

    def _json(self, value: Any, key: str) -> str | None:
        if value is None:
            return None
        try:
            json.dumps(value)  # refuses what is no JSON, where to_json finds a form for it
            return to_json(value)
        except (TypeError, ValueError) as error:
            raise StoreError(
                f"feedback {key!r}: {value!r} can't be stored as JSON ({error}). "
                "Use numbers, strings, lists and dicts."
            ) from error

    # --- files -----------------------------------------------------------------------------

    def export(
        self,
        path: str | os.PathLike[str],
        *,
        format: files.Format = "jsonl",
        routes_only: bool = False,
        **filters: Unpack[RouteFilters],
    ) -> dict[str, int]:
        """Write whole traces to a file of JSON lines, or to a folder of Parquet files.

        With ``routes_only`` route records alone, in JSON lines. Filters choose traces by their
        routes; without any, everything is exported. The target appears complete or not at all.
        Returns how many ``runs``, ``feedback`` and ``routes`` were written.

        Raises:
            StoreError: it can't be written there.
            MissingExtraError: Parquet without polars (extra ``data``).
        """
        return transfer.export(self, Path(path), format, routes_only, filters)

    def import_files(
        self,
        paths: Iterable[str | os.PathLike[str]],
        *,
        project: str | None = None,
        redact: Callable[[Any], Any] | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> dict[str, int]:
        """Take what :meth:`export` wrote: JSON lines, or Parquet files or folders.

        Idempotent, so that an import which was interrupted is simply repeated. ``progress`` is
        told how many runs each step has stored. Returns counts as :meth:`import_runs`, with
        ``feedback`` and ``new_feedback``.
        """
        parts = files.read_files([Path(path) for path in paths])
        return self._take_in(parts, project, redact, progress)

    def import_batches(
        self,
        runs: Iterable[Any],
        *,
        project: str | None = None,
        redact: Callable[[Any], Any] | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> dict[str, int]:
        """:meth:`import_runs` for any number of runs: some thousands to a transaction."""
        parts: Iterator[files.Part] = (("runs", run) for run in runs)
        return self._take_in(parts, project, redact, progress)

    def _take_in(
        self,
        parts: Iterator[files.Part],
        project: str | None,
        redact: Callable[[Any], Any] | None,
        progress: Callable[[int], None] | None,
    ) -> dict[str, int]:
        return transfer.take_in(
            parts,
            lambda runs: self.import_runs(runs, project=project, redact=redact),
            lambda said: self.import_feedback(said, redact=redact),
            progress,
        )


def _is_finite(score: Any) -> bool:
    try:
        return math.isfinite(score)
    except (TypeError, ValueError, OverflowError):  # a text, an integer beyond all floats
        return False
