"""A provider that notes what it is sent."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.providers import Loopback, keys, loopback


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Loopback]:
    with loopback() as running:
        keys(monkeypatch, running.url)
        yield running
