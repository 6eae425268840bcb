"""A fake provider, and a folder that a backfill fills."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.backfill.world import World, models
from xrouter_lg.testing import (
    FakeOpenAIServer,
)


@pytest.fixture
def server() -> Iterator[FakeOpenAIServer]:
    with FakeOpenAIServer(models()) as running:
        yield running


@pytest.fixture
def world(tmp_path: Path, server: FakeOpenAIServer) -> World:
    return World(tmp_path, server)
