"""What training a language model will take: tokens, disk, memory, time. Nothing is loaded for it.

The arithmetic of a transformer: a forward pass costs two floating-point operations per weight and
token, the backward pass through frozen weights two more, and two more again where weights are
trained in full. The machine's speed is taken from a matrix product of the model's own size, which
real layers reach a share of.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch

from training.data.inputs import Plan
from training.processes import process_count
from training.warm_start.trainer import steps_of

_CHARACTERS_PER_TOKEN = 3.0
"""Of English text and code, on the careful side."""
_REACHED = 0.55
"""Share of a bare matrix product's speed that a model's layers reach; measured on SmolLM2-135M."""
_HELD = 3.0
"""Bytes in use at the peak per byte of activations: gradients, copies, what the allocator keeps.
Measured with the cached recipe, 16 prompts at a time, on ten layers of SmolLM2-135M: 7.7 GB."""
_PROBE_S = 0.15


@dataclass(frozen=True)
class Shape:
    """What counts of a base model's architecture."""

    layers: int
    hidden: int
    layer_weights: int
    other_weights: int
    """Embeddings and head."""
    heads: int

    @property
    def weights(self) -> int:
        return self.layers * self.layer_weights + self.other_weights


@dataclass(frozen=True)
class RunEstimate:
    """What a run will take, roughly; None where the base is not on this machine yet."""

    tokens: int
    """Of all prompts, once for each block they are read behind, which itself is left out."""
    disk_mb: float | None
    memory_gb: float | None
    features_s: float | None
    warm_start_s: float | None
    grpo_s: float | None


def shape_of(folder: Path) -> Shape | None:
    """The architecture of the base in a folder, None for anything else."""
    file = folder / "config.json"
    if not file.is_file():
        return None
    data = json.loads(file.read_text())
    hidden, layers = int(data["hidden_size"]), int(data["num_hidden_layers"])
    heads = int(data["num_attention_heads"])
    head = int(data.get("head_dim") or hidden // heads)
    keys = int(data.get("num_key_value_heads") or heads)
    attention = 2 * hidden * heads * head + 2 * hidden * keys * head
    feed_forward = 3 * hidden * int(data["intermediate_size"])
    tied = bool(data.get("tie_word_embeddings", False))
    embeddings = int(data["vocab_size"]) * hidden * (1 if tied else 2)
    return Shape(layers, hidden, attention + feed_forward, embeddings, heads)


def estimate(work: Plan) -> RunEstimate:
    """Sizes and times of a plan on this machine."""
    config, warm = work.config, work.config.warm_start
    read = work.cut.read_N_K
    characters = np.array([len(question) for question in work.questions])
    tokens = round(int((characters * read.sum(1)).sum()) / _CHARACTERS_PER_TOKEN)
    shape = shape_of(Path(config.base.path))
    if shape is None:
        return RunEstimate(tokens, None, None, None, None, None)
    lengths = [len(prefix) / _CHARACTERS_PER_TOKEN for prefix in work.prefixes]
    block = float(np.average(lengths, weights=read.sum(0)))
    mean = tokens / int(read.sum())
    cached = warm.recipe == "cached"
    upper = shape.layers - warm.frozen_layers
    # A batch of the CPU recipe runs each candidate block once, the plain one once a prompt.
    per_prompt = mean + (sum(lengths) / warm.batch_size if cached else block)
    forward_layers = upper if cached else shape.layers
    backward = 2.0 if warm.method == "lora" else 4.0
    prompt_flop = per_prompt * shape.layer_weights * (2.0 * forward_layers + backward * upper)
    speed = speed_of(shape.hidden, config.base.dtype) * _REACHED * process_count()
    _, steps = steps_of(int(read[work.fit].sum()), warm)
    grpo = config.grpo
    # Sampling reads each prompt too, without a backward pass.
    grpo_flop = grpo.prompts_per_step * (
        prompt_flop + per_prompt * shape.layer_weights * 2.0 * forward_layers
    )
    element = 4 if config.base.dtype == "float32" else 2
    width = 12.0 * shape.hidden + 2.0 * shape.layer_weights / shape.hidden
    rows = warm.batch_size * per_prompt * (forward_layers if not cached else upper)
    # Keys and values of the block stand before each question; scores are kept for every head.
    kept = rows * (width + 5.0 * shape.heads * (mean + block))
    trained = _trained_weights(work, shape)
    memory = shape.weights * element + trained * 16.0 + kept * element * _HELD
    return RunEstimate(
        tokens=tokens,
        disk_mb=tokens * shape.hidden * 2 / 1e6 if cached else None,
        memory_gb=(memory + 6e8) / 1e9,
        features_s=(tokens * 2.0 * warm.frozen_layers * shape.layer_weights / speed)
        if cached
        else None,
        warm_start_s=steps * warm.batch_size * prompt_flop / speed,
        grpo_s=grpo.steps * grpo_flop / speed if grpo.steps else None,
    )


def describe_model(work: Plan) -> list[str]:
    """What training the language model will take."""
    config, warm, grpo = work.config, work.config.warm_start, work.config.grpo
    how = "full" if warm.method == "full" else f"LoRA rank {warm.lora_rank}"
    where = "CPU" if config.trainer.use_cpu else "CUDA"
    processes = process_count()
    lines = [
        f"base         {config.base.path} ({config.base.dtype}, {where}"
        + (f", {processes} processes)" if processes > 1 else ")"),
    ]
    found = estimate(work)
    per_epoch, _ = steps_of(int(work.cut.read_N_K[work.fit].sum()), warm)
    if warm.recipe == "cached":
        lines.append(
            f"features     about {found.tokens:,} tokens through {warm.frozen_layers} layers"
            + _size(found.disk_mb)
            + _time(found.features_s)
        )
    lines.append(
        f"warm start   {warm.recipe}, {how}, lower {warm.frozen_layers} layers frozen; "
        f"{warm.epochs} epochs of {per_epoch} steps" + _time(found.warm_start_s)
    )
    if grpo.steps:
        lines.append(
            f"grpo         {grpo.steps} steps of {grpo.prompts_per_step} prompts × "
            f"{grpo.generations} samples, scale_rewards={grpo.scale_rewards}" + _time(found.grpo_s)
        )
    if found.memory_gb is not None:
        lines.append(f"memory       about {found.memory_gb:.1f} GB")
    return lines


@cache
def speed_of(hidden: int, dtype: str) -> float:
    """Floating-point operations per second of a matrix product of this width here, as measured the
    first time that it is asked for: two plans compare by one speed."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    kind = getattr(torch, dtype)
    left = torch.randn(1024, hidden, device=device).to(kind)
    right = torch.randn(hidden, 2 * hidden, device=device).to(kind)
    done, started = 0, time.perf_counter()
    while time.perf_counter() - started < _PROBE_S:
        left @ right
        if device == "cuda":
            torch.cuda.synchronize()
        done += 1
    return done * 2.0 * left.numel() * right.shape[1] / (time.perf_counter() - started)


def _trained_weights(work: Plan, shape: Shape) -> float:
    warm = work.config.warm_start
    upper = shape.layers - warm.frozen_layers
    if warm.method == "full":
        return float(upper * shape.layer_weights)
    # Rank × (inputs + outputs), for maps that are about as wide as the model.
    maps = shape.layer_weights / shape.hidden
    return upper * warm.lora_rank * (7 * shape.hidden + maps)


def _time(seconds: float | None) -> str:
    if seconds is None:
        return ""
    if seconds < 90:
        return f", about {max(1.0, seconds):.0f} s"
    if seconds < 90 * 60:
        return f", about {seconds / 60:.0f} min"
    return f", about {seconds / 3600:.1f} h"


def _size(megabytes: float | None) -> str:
    return "" if megabytes is None else f", {megabytes:,.0f} MB on disk"
