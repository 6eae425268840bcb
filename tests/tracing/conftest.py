from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from xrouter_lg.tracing import Recorder, TraceStore


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test of the store runs on SQLite and on Postgres, unless it looks at the file."""
    if "store" in metafunc.fixturenames:
        both = "db" not in metafunc.fixturenames
        metafunc.parametrize("store", ["sqlite", "postgres"][: 1 + both], indirect=True)


@pytest.fixture
def db(tmp_path: Path) -> Path:
    return tmp_path / "traces.db"


@pytest.fixture
def store(request: pytest.FixtureRequest) -> Iterator[TraceStore]:
    postgres = getattr(request, "param", "sqlite") == "postgres"
    with TraceStore(request.getfixturevalue("postgres_url" if postgres else "db")) as opened:
        yield opened


@pytest.fixture
def recorder(store: TraceStore) -> Iterator[Recorder]:
    with Recorder(store) as running:
        yield running
