"""One fake server for the whole matrix, and a key that opens nothing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.provider_matrix import KEY, PERPLEXITY_URL
from xrouter_lg.testing import FakeProviders


@pytest.fixture(scope="session")
def _running() -> Iterator[FakeProviders]:
    with FakeProviders() as server:
        yield server


@pytest.fixture
def server(_running: FakeProviders, monkeypatch: pytest.MonkeyPatch) -> FakeProviders:
    """A running server without requests and faults; tests give it the models they need."""
    monkeypatch.setenv(KEY, "test")
    monkeypatch.setenv(PERPLEXITY_URL, _running.base_url_of("perplexity"))
    _running.clear()
    _running.faults = None  # type: ignore[assignment]
    return _running
