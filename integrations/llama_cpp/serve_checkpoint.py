"""A trained checkpoint behind llama.cpp: the router model on a CPU, without torch while it serves.

    python -m integrations.llama_cpp.serve_checkpoint CHECKPOINT --base FOLDER [--type q8_0]

The checkpoint is written as GGUF once, into the cache; ``--type`` trades exactness for memory and
speed (docs/serving.md has what each costs). Several checkpoints of one base share a server as
adapters, each request with its own: beside each other for a comparison, or one after the other when
an alias moves on.

    python -m integrations.llama_cpp.serve_checkpoint ONE TWO --base FOLDER --base-gguf FILE
"""

from __future__ import annotations

import argparse
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from integrations.command import status_of
from xrouter_lg.checkpoints.aliases import resolve_checkpoint
from xrouter_lg.checkpoints.bases import cache_root
from xrouter_lg.checkpoints.folder import verify
from xrouter_lg.checkpoints.manifest import CheckpointError
from xrouter_lg.policies.slots.remote import model_name
from xrouter_lg.policies.slots.remote_servers import ADAPTER_FILE

from .export_gguf import WeightType, export_adapter, export_merged
from .server import LlamaCppServer

_CONTEXT = 2048
"""Tokens: sixteen cards, and the longest question that the renderer lets through."""


def gguf_of(
    checkpoint: Path,
    *,
    base: str | Path | None = None,
    type: WeightType = "f32",
    folder: Path | None = None,
) -> Path:
    """The checkpoint merged, as GGUF: in ``folder`` (default the cache), written once per version.

    Raises:
        CheckpointError: the checkpoint is damaged, or its base is missing or another one.
        ExportError: an architecture or tokenizer that can't be written.
    """
    where = (folder or cache_root() / "gguf") / f"{model_name(verify(checkpoint))}-{type}.gguf"
    return where if where.is_file() else export_merged(checkpoint, where, base=base, type=type)


def checkpoint_server(
    *checkpoints: str | Path,
    base: str | Path | None = None,
    type: WeightType = "f32",
    base_gguf: Path | None = None,
    folder: Path | None = None,
    n_parallel: int = 4,
    threads: int | None = None,
    port: int = 0,
) -> LlamaCppServer:
    """A server for one checkpoint or several, not started yet; use it inside ``with``.

    With ``base_gguf`` (a GGUF file of the base) adapters alone are written and loaded beside it:
    several checkpoints then share a base, and ``type`` is the base file's own.
    ``n_parallel`` requests are computed at once; each has its own copy of the candidate block's
    keys and values. ``threads`` is for generating and for reading prompts; default all cores.

    Raises:
        CheckpointError, ExportError: see :func:`gguf_of`.
    """
    if not checkpoints or (len(checkpoints) > 1 and base_gguf is None):
        raise CheckpointError(
            f"{len(checkpoints)} checkpoints for one server; give one, or several adapters of one "
            "base with base_gguf (--base-gguf), the base as a GGUF file"
        )
    folders = [resolve_checkpoint(checkpoint) for checkpoint in checkpoints]
    names = [_name_of(where) for where in folders]
    adapters: list[Path] = []
    for where, name in zip(folders, names, strict=True):
        if base_gguf is not None:
            adapters.append((folder or cache_root() / "gguf") / f"{name}{ADAPTER_FILE}")
            if not adapters[-1].is_file():
                export_adapter(where, adapters[-1], base=base)
    return LlamaCppServer(
        base_gguf or gguf_of(folders[0], base=base, type=type, folder=folder),
        name=names[0] if len(names) == 1 else "base",
        n_ctx=_CONTEXT,
        n_parallel=n_parallel,
        threads=threads,
        batch_threads=threads,
        port=port,
        adapters=adapters,
        exact=type == "f32",
    )


def _name_of(folder: Path) -> str:
    manifest = verify(folder)
    if manifest.language_model is not None and manifest.kind != "slots":
        raise CheckpointError(
            f"checkpoint {str(folder)!r} is of kind {manifest.kind!r}, whose chat template this "
            "server is not given; serve it in process or with vLLM (docs/serving.md)"
        )
    return model_name(manifest)


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until Ctrl-C; exit code 0, or 1 when it can't."""
    parser = argparse.ArgumentParser(
        prog="python -m integrations.llama_cpp.serve_checkpoint",
        description="Serve trained checkpoints with llama.cpp.",
    )
    parser.add_argument(
        "checkpoints", type=Path, nargs="+", help="a checkpoint's folder, or an alias"
    )
    parser.add_argument("--base", help="the adapter's base model; default XROUTER_BASE")
    parser.add_argument("--type", choices=get_args(WeightType), default="f32")
    parser.add_argument("--base-gguf", type=Path, help="serve adapters beside this file")
    parser.add_argument("--port", type=int, default=8080)
    options = parser.parse_args(arguments)
    return status_of(lambda: _serve(**vars(options)))


def _serve(checkpoints: Sequence[Path], **options: Any) -> None:
    with checkpoint_server(*checkpoints, **options) as server:
        for checkpoint in checkpoints:
            print(f"policy='llama_cpp:{server.base_url}?checkpoint={checkpoint}'")
        print("serving; Ctrl-C stops", file=sys.stderr, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    raise SystemExit(main())
