"""The base model of an adapter as a folder of safetensors on this machine: found, or made.

A base may be a folder in Hugging Face's layout, a GGUF file, or a model id.
"""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import os
from pathlib import Path
from typing import Any

from xrouter_lg.checkpoints.manifest import CheckpointError, Manifest
from xrouter_lg.errors import ConfigurationError
from xrouter_lg.extras import need
from xrouter_lg.files import whole

BASE_VARIABLE = "XROUTER_BASE"
"""Environment variable that names the base model where nothing else does."""


IDENTITY_FILE = "xrouter_base.json"
"""The file in a made folder that names the model."""

_log = logging.getLogger(__name__)


def cache_root() -> Path:
    """The folder for what is fetched or written once.

    ``XROUTER_CACHE`` wins; else ``$XDG_CACHE_HOME/xrouter_lg``; else ``~/.cache/xrouter_lg``.
    """
    if root := os.environ.get("XROUTER_CACHE"):
        return Path(root).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "xrouter_lg"


def find_base(manifest: Manifest, checkpoint: Path, base: str | Path | None) -> Path | None:
    """The folder of an adapter's base model; None for a merged checkpoint, which needs none.

    Tried in this order: ``base``, the variable ``XROUTER_BASE``, a folder ``base`` inside or
    beside the checkpoint, and the name that training recorded where it is a hub id
    (``owner/name``). Each may be a folder, a GGUF file (turned into a folder once), or a hub
    id (downloaded once). Whatever is found, its weights are
    compared with the digest in the manifest when they are loaded.

    Raises:
        CheckpointError: none is given, or what is given is not there.
        MissingExtraError: a hub id and huggingface_hub is not installed, or a GGUF file and gguf,
            torch or transformers is not.
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


def materialise(source: str | Path, folder: Path, *, model_id: str | None = None) -> Path:
    """The base as a plain folder of safetensors and tokenizer files, written once, since GGUF
    can't be saved back and takes a minute to read.

    ``source`` is such a folder already (returned as it is), a ``.gguf`` file, or a model id that
    transformers resolves. ``model_id`` is the name to record.

    Raises:
        ConfigurationError: nothing there that transformers can read.
        MissingExtraError: torch, transformers or gguf is not installed.
    """
    path = Path(source)
    if path.is_dir():
        return path
    if folder.joinpath(IDENTITY_FILE).is_file():
        return folder
    if path.suffix == ".gguf" and not path.is_file():
        raise ConfigurationError(
            f"base model {str(path)!r} does not exist; give a model's folder, a .gguf file, or a "
            "model id of the hub"
        )
    purpose = f"the base model {str(source)!r}"
    torch, transformers = need("torch", purpose), need("transformers", purpose)
    where: dict[str, Any] = {"pretrained_model_name_or_path": str(source)}
    if path.suffix == ".gguf":
        need("gguf", purpose)
        where = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(**where)
        model = transformers.AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"base model {str(source)!r} can't be loaded: {error}. Give a folder, a .gguf file, or "
            "a model id that this machine can download"
        ) from error
    # A model that came out of GGUF refuses to be saved; a fresh one of its config does not.
    config = copy.deepcopy(model.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    fresh = type(model)(config)
    fresh.load_state_dict(model.state_dict())
    identity = {"model_id": model_id or (path.stem if path.suffix else str(source))}
    folder.parent.mkdir(parents=True, exist_ok=True)
    with whole(folder) as temporary:
        fresh.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        temporary.joinpath(IDENTITY_FILE).write_text(json.dumps(identity))
    _log.info("base model written to %s", folder)
    return folder


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
            raise CheckpointError(
                f"{where}: {given!r} does not exist; name the file, or a folder with the model"
            )
        return _from_gguf(path, where)
    if given.count("/") == 1 and not given.startswith((".", "/", "~")):
        return _from_hub(given, where)
    raise CheckpointError(
        f"{where}: {given!r} is neither a folder, nor a .gguf file, nor a hub id (owner/name)"
    )


def _from_gguf(path: Path, where: str) -> Path:
    """GGUF weights as a folder in the cache."""
    stat = path.stat()
    key = hashlib.sha256(f"{path.resolve()} {stat.st_size} {stat.st_mtime_ns}".encode()).hexdigest()
    try:
        return materialise(path, cache_root() / "bases" / f"{path.stem}-{key[:12]}")
    except ConfigurationError as error:
        raise CheckpointError(f"{where}: {error}") from error


def _from_hub(model_id: str, where: str) -> Path:
    hub = need("huggingface_hub", f"the base model {model_id}")
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
