"""Prices from measured speed, and the pool configuration made of them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import cast

import pytest
import yaml

from integrations.errors import MeasurementError, UnknownWeightsError
from integrations.llama_cpp import __main__ as command
from integrations.llama_cpp import measure as measure_module
from integrations.llama_cpp.catalogue import WEIGHTS, chat_template_path
from integrations.llama_cpp.measure import (
    Throughput,
    measure,
    measured_throughput,
    token_price,
)
from integrations.llama_cpp.pool import local_pool
from integrations.llama_cpp.server import LlamaCppServer

RATES = Throughput(
    input_tps=100.0, cached_input_tps=10_000.0, output_tps=20.0, measured_at="2026-11-24T00:00:00"
)


def test_a_price_is_machine_time_per_token() -> None:
    price = token_price(RATES, usd_per_hour=0.36)
    # 0.36 USD an hour is 0.0001 USD a second, so a million tokens at 100/s cost 1 USD.
    assert price.input == pytest.approx(1.0)
    assert price.cached_input == pytest.approx(0.01)
    assert price.output == pytest.approx(5.0)


def test_a_negative_machine_price_is_refused() -> None:
    with pytest.raises(ValueError, match=r"usd_per_hour must not be negative, got -1"):
        token_price(RATES, usd_per_hour=-1)


def test_measuring_a_dead_server_says_which() -> None:
    with pytest.raises(MeasurementError, match=r"127\.0\.0\.1:9/v1"):
        measure("http://127.0.0.1:9/v1", model="m")


def test_a_wrong_name_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with (
        pytest.raises(UnknownWeightsError, match="'gpt-5'"),
        local_pool({"small": "smollm2-135m", "large": "gpt-5"}, cache_dir=tmp_path),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.local_models
def test_a_pool_of_one_real_model_has_the_shape_of_a_pool_file(smollm2: Path) -> None:
    cache = smollm2.parents[1]
    with local_pool({"tiny": "smollm2-135m"}, n_ctx=1024, cache_dir=cache, progress=False) as pool:
        (card,) = pool.config["models"]
        assert pool.config["default"] == "tiny"
        assert card["model"] == "openai:smollm2-135m"
        assert card["base_url"] == pool.servers["tiny"].base_url
        assert card["context_window"] == 1024
        assert 0 < card["price"]["cached_input"] <= card["price"]["input"]
        assert card["price"]["output"] > 0
        assert yaml.safe_load(pool.to_yaml()) == pool.config


class StubServer:
    """As much of a server as prices need."""

    base_url = "http://127.0.0.1:9/v1"
    name = "m"
    threads = 1


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The models that were really measured, in order."""
    pytest.importorskip("xllamacpp")
    calls: list[str] = []

    def fake(_base_url: str, *, model: str) -> Throughput:
        calls.append(model)
        return RATES

    monkeypatch.setattr(measure_module, "measure", fake)
    return calls


def test_speed_is_measured_once_and_again_on_request(
    measured: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure_module, "_busy_share", lambda: 0.0)
    server = cast(LlamaCppServer, StubServer())
    for refresh in (False, False, True):
        found = measured_throughput(server, sha256="ab", cache_dir=tmp_path, refresh=refresh)
        assert found == RATES
    assert measured == ["m", "m"]
    recorded = json.loads((tmp_path / "weights" / "measurements.json").read_text())
    (key,) = recorded
    assert key.startswith(f"ab/cpus={os.cpu_count()}/threads=1/xllamacpp=")


def test_speed_measured_on_a_busy_machine_is_not_kept(
    measured: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(measure_module, "_busy_share", lambda: 0.9)
    server = cast(LlamaCppServer, StubServer())
    measured_throughput(server, sha256="ab", cache_dir=tmp_path)
    measured_throughput(server, sha256="ab", cache_dir=tmp_path)
    assert measured == ["m", "m"]
    assert "90 % of the processor" in caplog.text
    assert not (tmp_path / "weights" / "measurements.json").exists()


def test_a_typo_on_the_command_line_is_one_line_on_stderr(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert command.main(["fetch", "smollm3"]) == 1
    assert capsys.readouterr().err.startswith("error: no weights called 'smollm3'")


def test_ctrl_c_ends_a_command_with_the_shells_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_arguments: object, **_options: object) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "fetch", interrupted)
    assert command.main(["fetch"]) == 130
    assert "kept" in capsys.readouterr().err


def test_every_chat_template_named_in_the_catalogue_exists() -> None:
    paths = [chat_template_path(weights) for weights in WEIGHTS.values()]
    assert [path.is_file() for path in paths if path is not None] == [True, True]
