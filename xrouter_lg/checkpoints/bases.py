"""Where the base model of an adapter is: a folder of safetensors on this machine."""

from __future__ import annotations

import hashlib
import importlib
import os
from pathlib import Path
from typing import Any

from xrouter_lg.checkpoints.manifest import CheckpointError, Manifest
from xrouter_lg.errors import MissingExtraError

BASE_VARIABLE = "XROUTER_BASE"
"""Environment variable that names the base model where nothing else does."""


def find_base(manifest: Manifest, checkpoint: Path, base: str | Path | None) -> Path | None:
    """The folder of an adapter's base model; None for a merged checkpoint, which needs none.

    Tried in this order: ``base``, the variable ``XROUTER_BASE``, a folder ``base`` inside or
    beside the checkpoint, and the name that training recorded where it is a hub id
    (``owner/name``). Each may be a folder, a GGUF file (turned into a folder once, by the
    checkout's ``training``), or a hub id (downloaded once). Whatever is found, its weights are
    compared with the digest in the manifest when they are loaded.

    Raises:
        CheckpointError: none is given, or what is given is not there.
        MissingExtraError: a hub id, and huggingface_hub is not installed.
    """
    if manifest.model.weights == "merged":
        return None
    given = base if base is not None else os.environ.get(BASE_VARIABLE) or None
    if given is not None:
        what = "base" if base is not None else BASE_VARIABLE
        return _folder_of(str(given), f"{what} of checkpoint {str(checkpoint)!r}")
    for near in (checkpoint / "base", checkpoint.parent / "base"):
        if near.joinpath("config.json").is_file():
            return near
    name = manifest.model.base.model_id
    if name.count("/") == 1 and not name.startswith((".", "/", "~")):
        return _folder_of(name, f"base model of checkpoint {str(checkpoint)!r}")
    raise CheckpointError(
        f"checkpoint {str(checkpoint)!r} is an adapter for {name!r}; give base=FOLDER of that "
        f"model (or a GGUF file, or a hub id), set {BASE_VARIABLE}, put the model into "
        f"{str(checkpoint.parent / 'base')!r}, or export the checkpoint merged"
    )


def _folder_of(given: str, where: str) -> Path:
    path = Path(given).expanduser()
    if path.is_dir():
        if not path.joinpath("config.json").is_file():
            raise CheckpointError(
                f"{where}: {given!r} holds no config.json, so no model; name the folder that does"
            )
        return path
    if path.suffix == ".gguf":
        if not path.is_file():
            raise CheckpointError(f"{where}: {given!r} does not exist")
        return _from_gguf(path, where)
    if given.count("/") == 1 and not given.startswith((".", "/", "~")):
        return _from_hub(given, where)
    raise CheckpointError(
        f"{where}: {given!r} is neither a folder, nor a .gguf file, nor a hub id (owner/name)"
    )


def _from_gguf(path: Path, where: str) -> Path:
    """GGUF weights as a folder in the cache, written once: reading GGUF takes a minute."""
    try:
        module: Any = importlib.import_module("training.model.base")
    except ImportError as error:
        raise CheckpointError(
            f"{where}: {str(path)!r} is a GGUF file, which only a checkout of the repository can "
            "turn into a folder of safetensors; name such a folder, or run from the checkout with "
            f'pip install "xrouter_lg[train]" ({error})'
        ) from error
    stat = path.stat()
    key = hashlib.sha256(f"{path.resolve()} {stat.st_size} {stat.st_mtime_ns}".encode()).hexdigest()
    folder: Path = module.materialise(path, _cache() / "bases" / f"{path.stem}-{key[:12]}")
    return folder


def _from_hub(model_id: str, where: str) -> Path:
    try:
        hub: Any = importlib.import_module("huggingface_hub")
    except ImportError as error:
        raise MissingExtraError("huggingface_hub", "train", f"the base model {model_id}") from error
    wanted = ["*.safetensors", "*.json"]
    try:
        try:
            # Whoever has it already needs no network.
            return Path(
                hub.snapshot_download(model_id, allow_patterns=wanted, local_files_only=True)
            )
        except hub.errors.LocalEntryNotFoundError:
            return Path(hub.snapshot_download(model_id, allow_patterns=wanted))
    except Exception as error:
        raise CheckpointError(
            f"{where}: {model_id!r} is neither in the hub's cache nor can it be downloaded "
            f"({type(error).__name__}); give base=FOLDER or set {BASE_VARIABLE}"
        ) from error


def _cache() -> Path:
    if root := os.environ.get("XROUTER_CACHE"):
        return Path(root)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "xrouter_lg"
