"""The whole demo with a random base model: every stage runs, and says honestly that nothing won."""

from __future__ import annotations

import io
import json
from pathlib import Path

import polars as pl
import pytest
from rich.console import Console

from integrations.demo import workers
from integrations.demo.loop import Loop, Settings
from integrations.demo.questions import load
from tests.support.tiny_model import write_tiny_base
from xrouter_lg.checkpoints.folder import verify
from xrouter_lg.tracing.store.trace_store import TraceStore

pytestmark = [pytest.mark.train, pytest.mark.timeout(600)]

SMALL = (
    "min_prompts=20",
    "data.train_share=0.8",
    "warm_start.epochs=1",
    "warm_start.frozen_layers=1",
    "base.dtype=float32",
    "base.model_id=tiny",
    "grpo.steps=2",
    "family_head_share=0.9",  # the tiny model is read, and must be paid for
)


def test_the_loop_runs_from_the_app_to_the_app(tmp_path: Path) -> None:
    history = load(per_family=10)
    folder = tmp_path / "demo"
    said = Console(file=io.StringIO(), width=200)
    base = write_tiny_base(tmp_path / "base")
    with workers.replayed(history, folder / "pool.yaml") as pool:
        loop = Loop(Settings(folder=folder, base=str(base), overrides=SMALL), history, pool, said)
        won = loop.run()
    manifest = verify(folder / "train" / "checkpoint")
    assert [card.name for card in manifest.cards] == ["tiny", "small", "large"]
    figures = json.loads((folder / "before_after.json").read_text())
    assert figures["won"] is won and figures["fell_back"] == 0
    assert figures["held_out"] == len(history.held_out)
    names = [arm["name"] for arm in figures["arms"]]
    assert names[-3:] == ["day-one rules", "shuffle of checkpoint", "checkpoint"]
    assert figures["arms"][-1]["router_usd_per_1000"] > 0
    dial = pl.read_parquet(folder / "choices.parquet")["cost_weight"].n_unique()
    assert dial >= 8
    assert "<html" in (folder / "report.html").read_text()
    requests = len(history.seen) + 2 * len(history.held_out)
    with TraceStore(folder / "traces.db", create=False) as store:
        assert store.count_traces() == requests
    text = said.file.getvalue()  # type: ignore[attr-defined]
    assert "$ xrouter outcomes build" in text and "$ python training/train.py" in text
