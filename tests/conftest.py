"""What every test may ask for."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from xrouter_lg.testing import FakeModel, FakeOpenAIServer

TRAIN_TESTS = (
    "ablation",
    "checkpoint_policy",
    "checkpoint_served",
    "collect_traces",
    "demo_loop",
    "feedback",
    "gpu_dry_run",
    "grpo",
    "judge_run",
    "multi_process",
    "pools",
    "runs",
    "sequential",
    "serve_parity",
    "shadow_checkpoint",
    "tools_codec",
    "train_config",
    "vllm_served",
    "warm_start",
)
"""Tests of what the train extra brings: `make test-train` installs it and runs them."""

if find_spec("torch") is None:
    here = Path(__file__).parent
    collect_ignore = [
        str(path.relative_to(here))
        for name in TRAIN_TESTS
        for path in here.rglob(f"test_{name}.py")
    ]


@pytest.fixture
def fake() -> Iterator[FakeOpenAIServer]:
    """A running fake provider with models that say who they are."""
    models = [
        FakeModel(name="small", reply="small says hello to you"),
        FakeModel(name="medium", reply="medium says a few more words to you"),
        FakeModel(
            name="large",
            reply="large says many more words than the others do",
            cached_tokens=2,
            reasoning_tokens=3,
        ),
        FakeModel(name="guide", reply="I route"),
    ]
    with FakeOpenAIServer(models) as running:
        yield running
