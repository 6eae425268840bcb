"""What a checkpoint is judged on, and how."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from xrouter_lg.judge.choices import ROUTER_USD_PER_MILLION
from xrouter_lg.judge.gate.assess import AssessSettings


@dataclass(frozen=True, kw_only=True)
class JudgeSettings(AssessSettings):
    """Which checkpoint is judged, on what, and how."""

    checkpoint: Path
    outcomes: Path
    prompts: Path
    base: str | Path | None = None
    """Base model of an adapter: a folder, GGUF file or hub id; left out: where serving looks."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """What the language model computes in; serving's own is float32."""
    server: str | None = None
    """``vllm:URL`` or ``llama_cpp:URL`` where a server runs the language models."""
    train_outcomes: Path | None = None
    """What the checkpoint was trained on: names the references and fits the baselines."""
    train_prompts: Path | None = None
    split: Literal["auto", "recorded", "all"] = "auto"
    """`recorded`: the manifest's split is applied to the table and the held-out side judged.
    `all`: every prompt is judged. `auto`: recorded if this is the table of the training run."""
    cost_weight: float = 0.3
    """λ at which the gate judges."""
    sources: tuple[str, ...] | None = None
    models: tuple[str, ...] | None = None
    rename: Mapping[str, str] = field(default_factory=dict)
    """Table name → card name, on top of the manifest's."""
    router_usd_per_million: float = ROUTER_USD_PER_MILLION
    choices: Path | None = None
    production: Path | None = None
    """The checkpoint that now serves: one more comparator of the gate."""
    unseen: tuple[Path, ...] = ()
    """Checkpoints of the same recipe, each trained without the families it is judged on."""
    cache: Path | None = None
