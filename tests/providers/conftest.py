"""One fake server for the whole matrix, and a key that opens nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import certifi
import pytest

from tests.support.provider_matrix import point_at
from xrouter_lg.testing import FakeProviders


@pytest.fixture(scope="session")
def _running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeProviders]:
    # Nothing here speaks TLS, and every client reads all certificates: most of the matrix's time.
    end = "-----END CERTIFICATE-----\n"
    one = tmp_path_factory.mktemp("tls") / "one.pem"
    one.write_text(Path(certifi.where()).read_text(encoding="utf-8").partition(end)[0] + end)
    with pytest.MonkeyPatch.context() as patch, FakeProviders() as server:
        patch.setenv("SSL_CERT_FILE", str(one))
        yield server


@pytest.fixture
def server(_running: FakeProviders, monkeypatch: pytest.MonkeyPatch) -> FakeProviders:
    """A running server without requests and faults; tests give it the models they need."""
    point_at(_running, monkeypatch)
    _running.clear()
    _running.faults = None  # type: ignore[assignment]
    return _running
