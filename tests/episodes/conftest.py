"""Fixtures of the tests of episodes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from langsmith import Client

from tests.episodes.captured import Captured
from tests.support.langsmith_server import LangSmithServer


@pytest.fixture
def captured(tmp_path: Path) -> Iterator[Captured]:
    with LangSmithServer() as server:
        client = Client(api_url=server.url, api_key="lsv2_pt_test")
        made = Captured(tmp_path, server, client)
        yield made
        made.recorder.close()
        client.cleanup()
