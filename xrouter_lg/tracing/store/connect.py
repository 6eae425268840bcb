"""Open a database: from a path or URL to an engine with its settings and its schema in place."""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, MetaData, create_engine, event, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError

from xrouter_lg.errors import StoreError
from xrouter_lg.extras import missing
from xrouter_lg.plugins import STORES, plugin
from xrouter_lg.tracing.store.migrations import SCHEMA_VERSION, migrate, stored_version

WRITE = {"xrouter_write": True}
"""Execution option of a connection that will write."""

_CONNECT_S = "5"
"""How long a Postgres server may take to answer, in seconds, unless its URL says otherwise."""

DEFAULT_STORE = "xrouter_traces.db"
"""Where traces go unless a path or URL says otherwise: a SQLite file in the working directory."""


def resolve_url(target: str | os.PathLike[str]) -> URL:
    """A path or a SQLAlchemy URL, as a URL. Postgres URLs get the psycopg 3 driver."""
    if not isinstance(target, str | os.PathLike):
        raise StoreError(
            f"the trace store is {target!r}; give a path such as 'xrouter_traces.db', or "
            "a postgresql:// URL"
        )
    text = os.fspath(target)
    if "://" not in text:
        if not text or text == ":memory:":
            raise StoreError(
                f"a trace store needs a file, not {text!r}: the writer's thread and the readers "
                "have connections of their own. Use a path such as 'xrouter_traces.db'."
            )
        return URL.create("sqlite", database=str(Path(text).expanduser()))
    try:
        url = make_url(text)
    except ArgumentError as error:
        raise StoreError(
            f"{text!r} is not a store URL. Use a path, 'sqlite:///FILE' or "
            "'postgresql://USER@HOST/DATABASE'."
        ) from error
    if url.drivername in ("postgres", "postgresql"):
        url = url.set(drivername="postgresql+psycopg")
    if url.get_backend_name() not in ("sqlite", "postgresql"):
        if (brought := plugin(STORES, url.get_backend_name())) is not None:
            return _from_plugin(brought, text)
        raise StoreError(
            f"{shown(url)!r}: the trace store knows SQLite and Postgres, not "
            f"{url.get_backend_name()!r}. Use a path or a postgresql:// URL."
        )
    if url.get_backend_name() == "sqlite" and url.database in (None, "", ":memory:"):
        return resolve_url(url.database or "")
    return url


def _from_plugin(brought: EntryPoint, text: str) -> URL:
    """Where another package says that the store is."""
    try:
        told = brought.load()(text)
    except Exception as error:  # what is in that package is its own affair
        where = f"the store {brought.name!r} of {brought.value}"
        # The URL may hold a password, and what that package raises may repeat it.
        raise StoreError(f"{where} can't be found: {type(error).__name__}") from error
    if not isinstance(told, str | os.PathLike) or str(told).startswith(f"{brought.name}:"):
        raise StoreError(
            f"the store {brought.name!r} of {brought.value} gives a {type(told).__name__}; it must "
            "give a path, or a URL of SQLite or Postgres"
        )
    return resolve_url(told)


def file_of(url: URL) -> tuple[int, int] | None:
    """Which file a SQLite store is, None where there is none or where it is no file."""
    if url.get_backend_name() != "sqlite" or (url.database or "").startswith("file:"):
        return None
    try:
        stat = os.stat(url.database or "")
    except OSError:
        return None
    return stat.st_dev, stat.st_ino


def shown(url: URL) -> str:
    """A URL for people: a path for SQLite, the password hidden for Postgres."""
    if url.get_backend_name() == "sqlite" and url.database is not None:
        return url.database
    return url.render_as_string(hide_password=True)


def open_engine(
    url: URL, *, create: bool, busy_timeout_s: float, synchronous: str = "normal"
) -> Engine:
    """Engine with the schema of traces in place. ``synchronous``: how SQLite flushes what is
    committed.

    Raises:
        StoreError: the file is missing (``create=False``), can't be opened, is no database, or
            was written by a newer version of this package.
        MissingExtraError: Postgres without psycopg.
    """
    engine = database_engine(
        url, create=create, busy_timeout_s=busy_timeout_s, synchronous=synchronous
    )
    try:
        with store_errors(url, "open"):
            _bring_up_to_date(engine, url)
    except BaseException:
        engine.dispose()
        raise
    return engine


def database_engine(
    url: URL, *, create: bool = True, busy_timeout_s: float = 5.0, synchronous: str = "normal"
) -> Engine:
    """Engine with a database's settings, whatever tables are kept there. It survives a fork, and
    a Postgres server that went away and came back.

    Raises:
        StoreError: the file is missing (``create=False``), or its folder is.
        MissingExtraError: Postgres without psycopg.
    """
    sqlite = url.get_backend_name() == "sqlite"
    if sqlite:
        _check_file(url, create)
    elif "connect_timeout" not in url.query:
        url = url.update_query_dict({"connect_timeout": _CONNECT_S})
    try:
        engine = create_engine(url, pool_pre_ping=not sqlite)
    except (ModuleNotFoundError, NoSuchModuleError) as error:
        raise missing("psycopg", "a Postgres store") from error
    if sqlite:
        _set_up_sqlite(engine, busy_timeout_s, synchronous)
    ref = weakref.ref(engine)
    os.register_at_fork(after_in_child=lambda: _forget_connections(ref))
    return engine


@contextmanager
def store_errors(url: URL, verb: str, what: str = "trace store") -> Iterator[None]:
    """Turn database errors into a StoreError that names the store and what to do."""
    try:
        yield
    except SQLAlchemyError as error:
        cause = str(error.orig) if isinstance(error, DBAPIError) else str(error)
        cause = cause.splitlines()[0] if cause else type(error).__name__
        where = f"the {what} {shown(url)!r}"
        raise StoreError(f"can't {verb} {where}: {cause}. {_fix(cause)}") from error


def _fix(cause: str) -> str:
    lowered = cause.lower()
    if "not a database" in lowered or "malformed" in lowered:
        return "Move the file away and name another; it is not (or no longer) a SQLite database."
    if "locked" in lowered:
        return "Another process holds it; try again, or raise busy_timeout_s."
    if "unable to open" in lowered:
        return "Check that its folder exists and that you may write there."
    if "readonly" in lowered or "read-only" in lowered:
        return "Give yourself write permission on the file and its folder."
    if "full" in lowered:
        return "Free some disk space."
    if "connection" in lowered or "connect" in lowered:
        return "Check host, port, user and password in the URL."
    return "Check the path or URL."


def _check_file(url: URL, create: bool) -> None:
    database = url.database or ""
    if database.startswith("file:"):
        return
    path = Path(database)
    if path.is_dir():
        raise StoreError(f"{database!r} is a folder; name a file in it, e.g. {path / 'traces.db'}")
    if not create and not path.exists():
        raise StoreError(
            f"there is no trace store at {database!r}. Name the right file with --store or "
            "XROUTER_TRACES, or route a request with a Recorder first."
        )
    if not path.parent.exists():
        raise StoreError(
            f"can't create the trace store {database!r}: the folder {str(path.parent)!r} does not "
            "exist. Create it first."
        )


def _bring_up_to_date(engine: Engine, url: URL) -> None:
    with engine.connect() as connection:
        version = stored_version(connection)
    if version > SCHEMA_VERSION:
        raise StoreError(
            f"the trace store {shown(url)!r} has schema version {version}, this xrouter_lg knows "
            f"up to {SCHEMA_VERSION}. Upgrade xrouter_lg, or use another file."
        )
    if version < SCHEMA_VERSION:
        with write_transaction(engine) as connection:
            migrate(connection)
        if version and engine.dialect.name == "sqlite":
            compact(engine)


def compact(engine: Engine) -> bool:
    """Rewrite the database without free space and empty its log, so that nothing of what was
    deleted is left in the files. False when another process had it open and kept the log."""
    if engine.dialect.name != "sqlite":
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("VACUUM")
        return True
    raw = engine.raw_connection()
    try:
        cursor = raw.cursor()
        cursor.execute("VACUUM")
        busy = cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        cursor.close()
    finally:
        raw.close()
    return not busy


@contextmanager
def write_transaction(engine: Engine) -> Iterator[Connection]:
    """A transaction that takes the write lock at its start, so it can't fail half-way for it."""
    with engine.connect().execution_options(**WRITE) as connection, connection.begin():
        yield connection


def create_once(engine: Engine, tables: MetaData, lock: int) -> None:
    """Tables, where they are not there yet. ``lock`` is the number of a Postgres advisory lock: two
    processes that start at once must not both make them."""
    with write_transaction(engine) as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:n)"), {"n": lock})
        tables.create_all(connection)


def _set_up_sqlite(engine: Engine, busy_timeout_s: float, synchronous: str) -> None:
    @event.listens_for(engine, "connect")
    def on_connect(dbapi_connection: Any, _record: Any) -> None:
        dbapi_connection.isolation_level = None  # so that "begin" below is the only BEGIN
        cursor = dbapi_connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout = {int(busy_timeout_s * 1000)}")
        try:
            # Before the first table, or it has no effect: pages that pruning frees go back to the
            # disk a few at a time.
            cursor.execute("PRAGMA auto_vacuum = INCREMENTAL")
            cursor.execute("PRAGMA secure_delete = ON")  # what is deleted is overwritten
            cursor.execute("PRAGMA journal_mode = WAL")
            cursor.execute(f"PRAGMA synchronous = {synchronous.upper()}")
        except dbapi_connection.OperationalError:
            pass  # a read-only file can still be read
        cursor.close()

    @event.listens_for(engine, "begin")
    def on_begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get("xrouter_write")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _forget_connections(ref: weakref.ref[Engine]) -> None:
    """A forked child must not use its parent's connections, nor close them."""
    engine = ref()
    if engine is not None:
        engine.dispose(close=False)
