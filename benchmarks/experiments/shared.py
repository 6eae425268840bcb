"""What experiments on a recorded outcome table share: their arguments, and a base whose upper
layers are trained anew for every arm."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from training.model.base import Base, load_base
from training.model.features import build_cache
from training.model.reading import CachedReading
from training.stage.progress import Progress
from xrouter_lg.checkpoints.bases import materialise
from xrouter_lg.errors import ConfigurationError
from xrouter_lg.judge.table import Paired, read_paired
from xrouter_lg.prompts import slots


def experiment_parser(doc: str | None, output: str) -> argparse.ArgumentParser:
    """The arguments that every experiment takes; ``doc`` is its module's."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0] if doc else None)
    parser.add_argument("--outcomes", type=Path, required=True, help="folder of the two tables")
    parser.add_argument("--base", required=True, help="base model: folder, .gguf or model id")
    parser.add_argument("--output", type=Path, default=Path(output))
    parser.add_argument("--models", nargs="*", help="models of the pool; all when left out")
    parser.add_argument("--prompts-per-step", type=int, default=8)
    parser.add_argument("--trained-layers", type=int, default=4)
    parser.add_argument("--threads", type=int)
    return parser


def read_inputs(options: argparse.Namespace, *, least: int = 1) -> tuple[Paired, Path]:
    """The table and the base's folder that the arguments name; the output folder is made.

    Raises:
        ConfigurationError: fewer than ``least`` models, or more than slots.
        ValueError, OSError: no table there, or no base.
    """
    table = read_paired(
        options.outcomes / "outcomes.parquet",
        options.outcomes / "prompts.parquet",
        models=options.models or None,
    )
    if not least <= len(table.models) <= len(slots.CARD_SLOTS):
        raise ConfigurationError(
            f"{len(table.models)} models; {least} to {len(slots.CARD_SLOTS)} are needed: name them "
            "with --models"
        )
    options.output.mkdir(parents=True, exist_ok=True)
    return table, materialise(options.base, options.output / "base")


def load_upper(
    base_folder: Path,
    lines: Sequence[str],
    questions: Sequence[str],
    *,
    trained_layers: int,
    run_folder: Path,
    dtype: str,
    progress: Progress | None,
) -> tuple[Base, CachedReading]:
    """A fresh base, and the questions behind a block of these card lines, read from the trained
    layers on. What the layers below give is kept in the run folder."""
    base = load_base(base_folder, dtype=getattr(torch, dtype))
    prefix = slots.render_prefix(lines)
    cache = build_cache(
        base,
        prefix,
        questions,
        layers=base.identity.layers - trained_layers,
        folder=run_folder / "features",
        progress=None
        if progress is None
        else lambda done, whole: progress("features", done, whole, ""),
    )
    return base, CachedReading(base, cache, prefix, questions)
