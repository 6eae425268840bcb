"""A trained model as a checkpoint: adapter or merged weights, tokenizer, manifest."""

from __future__ import annotations

import copy
import dataclasses
import importlib.metadata
import json
import math
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

import xrouter_lg
from training.model.base import Base
from training.warm_start.targets import SlotModel
from xrouter_lg.checkpoints.family_head import FamilyHead
from xrouter_lg.checkpoints.manifest import (
    CardStats,
    CostModel,
    DialPoint,
    Manifest,
    write_checkpoint,
)
from xrouter_lg.figures.curve import choose
from xrouter_lg.fitting.family_head import HEAD_FILE
from xrouter_lg.policies.slots.probe import write_probe
from xrouter_lg.policies.slots.utility import expectations
from xrouter_lg.tracing.record.redact import known_secrets, scrub_text

Floats = npt.NDArray[np.float64]

_RIDGE = 30.0
"""Prompts' worth of pull towards "this prompt costs what the average one does"."""
_PACKAGES = ("torch", "transformers", "trl", "peft", "datasets", "safetensors", "numpy")


def export(
    folder: Path,
    slot: SlotModel,
    base: Base,
    manifest: Manifest,
    *,
    weights: Literal["adapter", "merged"] = "adapter",
    head: FamilyHead | None = None,
) -> Manifest:
    """Write a checkpoint; the manifest as written. ``slot`` is left as it is.

    ``adapter`` is a plain PEFT adapter (a few MB) that any server with the same base loads;
    ``merged`` is the whole model and needs no base.
    """

    def write_files(target: Path) -> None:
        if weights == "adapter":
            slot.model.save_pretrained(target, safe_serialization=True)
            # PEFT writes the folder that the base was read from into both.
            target.joinpath("README.md").unlink(missing_ok=True)
            config_file = target / "adapter_config.json"
            adapter = json.loads(config_file.read_text())
            adapter["base_model_name_or_path"] = base.identity.model_id
            config_file.write_text(json.dumps(adapter, indent=1, sort_keys=True))
        else:
            merged = copy.deepcopy(slot.model)
            # Without an adapter the weights themselves were trained.
            whole = merged.merge_and_unload() if hasattr(merged, "peft_config") else merged
            whole.save_pretrained(target)
        base.tokenizer.save_pretrained(target)
        if head is not None:
            save_file(head.arrays, target / HEAD_FILE)
        # By serving's own code, from what was just written: a server must give the same.
        write_probe(target, dataclasses.replace(manifest, weights=weights), base=base.folder)

    versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
    complete = {
        **manifest.to_dict(),
        "weights": weights,
        "versions": {"xrouter_lg": xrouter_lg.__version__, **versions},
        "git_revision": git_revision(),
        # A store's URL among the arguments may hold a password.
        "command": scrub_text(" ".join(["python", *sys.argv]), known_secrets()),
        "created_at": time.time(),
    }
    return write_checkpoint(folder, Manifest.from_dict(complete), write_files)


def card_stats(
    names: Sequence[str],
    lines: Sequence[str],
    slot: SlotModel,
    mean_cost_usd_M: Floats,
    mean_output_tokens_M: Floats,
    prices: Sequence[Mapping[str, str] | None],
) -> tuple[CardStats, ...]:
    """The manifest's cards, in slot order."""
    return tuple(
        CardStats(
            name=name,
            line=lines[m],
            prior=float(slot.prior_M[m]),
            centre=float(slot.centre_M[m]),
            output_tokens=float(mean_output_tokens_M[m]),
            cost_usd=float(mean_cost_usd_M[m]),
            price=prices[m],
        )
        for m, name in enumerate(names)
    )


def fit_cost_model(
    z_N_M: Floats, prompt_tokens_N: Floats, cost_usd_N_M: Floats, prior_M: Floats
) -> CostModel:
    """Ridge regression of log(cost / mean cost) on log-odds and prompt length.

    A logarithm's mean lies below the mean's logarithm: the bias is set so that the fitted ratios
    average to 1 over the training prompts, and expected costs add up to what was paid.

    A cost that is NaN is no outcome: each card is fitted on the prompts where it has one. A card
    whose log-odds were not read on a prompt (NaN) stands at its ``prior_M`` there, as in serving.
    """
    z_N_M = np.where(np.isfinite(z_N_M), z_N_M, prior_M)
    known_N_M = np.isfinite(cost_usd_N_M)
    parts: dict[int, tuple[CostModel, int]] = {}
    for pattern in np.unique(known_N_M, axis=1).T:
        rows = np.flatnonzero(pattern)
        own = np.flatnonzero((known_N_M == pattern[:, None]).all(0))
        fitted = _fit_costs(z_N_M[rows], prompt_tokens_N[rows], cost_usd_N_M[np.ix_(rows, own)])
        parts.update({int(m): (fitted, place) for place, m in enumerate(own)})
    of_each = [parts[m] for m in range(cost_usd_N_M.shape[1])]
    return CostModel(
        **{
            name: tuple(getattr(model, name)[place] for model, place in of_each)
            for name in ("bias", "weight", "tokens", "low", "high")
        }
    )


def _fit_costs(z_N_M: Floats, prompt_tokens_N: Floats, cost_usd_N_M: Floats) -> CostModel:
    """The regression for cards whose costs are known on all of these prompts."""
    floor_M = 1e-3 * cost_usd_N_M.mean(0)
    ratio_N_M = np.log(np.maximum(cost_usd_N_M, floor_M) / cost_usd_N_M.mean(0))
    x = np.concatenate([z_N_M, np.log(np.maximum(prompt_tokens_N, 1.0))[:, None]], axis=1)
    mean, scale = x.mean(0), np.maximum(x.std(0), 1e-6)
    standard = (x - mean) / scale
    gram = standard.T @ standard + _RIDGE * np.eye(x.shape[1])
    weight = np.linalg.solve(gram, standard.T @ (ratio_N_M - ratio_N_M.mean(0))) / scale[:, None]
    fitted = x @ weight
    low, high = np.quantile(ratio_N_M, [0.02, 0.98], axis=0)
    bias = ratio_N_M.mean(0) - fitted.mean(0)
    for _ in range(8):  # clipping moves the mean a little; this settles at once
        bias = bias - np.log(np.exp(np.clip(fitted + bias, low, high)).mean(0))
    return CostModel(
        bias=tuple(bias.tolist()),
        weight=tuple(tuple(row) for row in weight[:-1].T.tolist()),
        tokens=tuple(weight[-1].tolist()),
        low=tuple(low.tolist()),
        high=tuple(high.tolist()),
    )


def expected_of(
    manifest: Manifest,
    slot: SlotModel,
    z_N_M: Floats,
    prompts: Sequence[str],
    prompt_tokens_N: Floats,
    head: FamilyHead | None,
) -> tuple[Floats, Floats]:
    """What serving expects of every card on N prompts: score [N, M], and cost over the card's
    mean cost [N, M]. It is serving's own function, prompt by prompt. ``z_N_M`` is NaN for cards
    that were not read on a prompt."""
    contrast_N_M = z_N_M - slot.prior_M.numpy() + slot.centre_M.numpy()
    names = [card.name for card in manifest.cards]
    quality, ratio = np.empty_like(z_N_M), np.empty_like(z_N_M)
    for row, text in enumerate(prompts):
        values = dict(zip(names, contrast_N_M[row].tolist(), strict=True))
        contrasts = {name: value for name, value in values.items() if math.isfinite(value)}
        found = expectations(manifest, contrasts, text, round(prompt_tokens_N[row]), head)
        quality[row], ratio[row] = ([of[name] for name in names] for of in found)
    return quality, ratio


def dial_points(
    quality_N_M: Floats,
    expected_usd_N_M: Floats,
    score_N_M: Floats,
    cost_usd_N_M: Floats,
    c_ref_usd: float,
    cost_weights: Sequence[float],
) -> tuple[DialPoint, ...]:
    """What each cost weight gives on held-out outcomes; a card without one (NaN) is not chosen."""
    points = []
    known_N_M = np.isfinite(score_N_M)
    rows = np.arange(len(score_N_M))
    for weight in cost_weights:
        chosen = choose(quality_N_M, expected_usd_N_M, weight, c_ref_usd, known_N_M)
        counts = np.bincount(chosen, minlength=score_N_M.shape[1])
        points.append(
            DialPoint(
                cost_weight=float(weight),
                quality=float(score_N_M[rows, chosen].mean()),
                cost_usd=float(cost_usd_N_M[rows, chosen].mean()),
                largest_share=float(counts.max() / len(rows)),
            )
        )
    return tuple(points)


def git_revision() -> str | None:
    """The checkout's commit, with ``+`` when files differ from it; None outside a checkout."""
    root = Path(__file__).parent.parent.parent

    def git(*args: str) -> str:
        command = ["git", "-C", str(root), *args]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603

    try:
        dirty = "+" if git("status", "--porcelain", "--untracked-files=no") else ""
        return git("rev-parse", "HEAD") + dirty
    except (OSError, subprocess.CalledProcessError):
        return None
