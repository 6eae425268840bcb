from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from xrouter_lg.tracing import Recorder, TraceStore


@pytest.fixture
def db(tmp_path: Path) -> Path:
    return tmp_path / "traces.db"


@pytest.fixture
def store(db: Path) -> Iterator[TraceStore]:
    with TraceStore(db) as opened:
        yield opened


@pytest.fixture
def recorder(store: TraceStore) -> Iterator[Recorder]:
    with Recorder(store) as running:
        yield running
