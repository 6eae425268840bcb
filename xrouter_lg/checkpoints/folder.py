"""A checkpoint's folder: manifest, safetensors, and nothing that is ever unpickled.

    manifest.json            what it is, what it was trained on, how it did, how to read it
    family_head.safetensors  the family head, where it has one
    answers.safetensors      what a cascade knows of answers
    adapter_model.safetensors + adapter_config.json       a plain PEFT adapter for the base model,
    or model.safetensors + config.json                    the whole model, merged
    tokenizer files          with a language model: prompts are rendered without the base

It is written to a temporary folder and renamed: a reader sees all of it or none. Everything is
verified at load; what differs is named, with what to do about it.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

from xrouter_lg.checkpoints.identity import sha256_of
from xrouter_lg.checkpoints.manifest import CheckpointError, Kind, Manifest
from xrouter_lg.files import whole
from xrouter_lg.json_text import shown
from xrouter_lg.prompts import slots, tools

MANIFEST_FILE = "manifest.json"

_MOST_BYTES = 20_000_000
"""Size of the largest manifest that is read."""
_HASHED_SUFFIXES = (".safetensors", ".json", ".jinja", ".txt", ".model")
_MODEL_FILES = ("model", "adapter_model")
"""How files of a language model's weights begin."""


def write_checkpoint(
    folder: Path, manifest: Manifest, write_files: Callable[[Path], None]
) -> Manifest:
    """Write weights and manifest to ``folder`` in one rename; the manifest with its digests.

    ``write_files`` puts weights and tokenizer files into the folder it is given. A checkpoint
    that is there already is replaced, and never half.

    Raises:
        CheckpointError: something else is there.
    """
    check_target(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with whole(folder) as temporary:
        temporary.mkdir()
        write_files(temporary)
        complete = dataclasses.replace(manifest, files=_digests(temporary))
        text = json.dumps(complete.to_dict(), indent=1, sort_keys=True, allow_nan=False)
        temporary.joinpath(MANIFEST_FILE).write_text(text, encoding="utf-8")
    return complete


def check_target(folder: Path) -> None:
    """Whether a checkpoint may be written there: one takes the place of all that a folder holds.

    Raises:
        CheckpointError: a file, or a folder with something that is no checkpoint.
    """
    if folder.is_dir():
        if not any(folder.iterdir()) or _is_checkpoint(folder):
            return
        what = "holds something that is no checkpoint"
    elif folder.exists():
        what = "is a file"
    else:
        return
    raise CheckpointError(f"{str(folder)!r} {what}; name a folder of its own")


def _is_checkpoint(folder: Path) -> bool:
    """Of any version, and also a damaged one. Others have a file named manifest.json too."""
    path = folder / MANIFEST_FILE
    if not path.is_file():
        return False
    if any(folder.glob("*.safetensors")):
        return True
    try:
        data = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(data, dict) and {"schema_version", "cards"} <= data.keys()


def read_manifest(folder: str | Path) -> Manifest:
    """The manifest of a checkpoint, its fields checked; weights are not looked at.

    Raises:
        CheckpointError: no checkpoint there, no JSON, another schema, or a field is wrong.
    """
    path = Path(folder) / MANIFEST_FILE
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise CheckpointError(f"{str(path)!r} has more than {_MOST_BYTES:,} bytes")
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"no checkpoint in {str(folder)!r}: it has no {MANIFEST_FILE}. Give the folder that "
            "training wrote (its `checkpoint` folder)"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{str(path)!r} can't be read: {error}; copy it again") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{str(path)!r} holds no JSON object; copy it again")
    try:
        return Manifest.from_dict(data)
    except CheckpointError as error:
        raise CheckpointError(f"checkpoint {str(folder)!r}: {error}") from error


def verify(folder: str | Path, *, kind: Kind | None = None, weights: bool = True) -> Manifest:
    """Read a checkpoint and check it against this version of the package: the prompts that its
    language model was trained with, and the digest of every file. ``kind`` is the only one that
    will do. ``weights=False`` lets the language model's weights be absent, where a server has them.

    Raises:
        CheckpointError: names each difference and the way out.
    """
    root = Path(folder)
    manifest = read_manifest(root)
    where = f"checkpoint {str(folder)!r}"
    if kind is not None and manifest.kind != kind:
        raise CheckpointError(
            f"{where} is of kind {manifest.kind!r}, and {kind!r} is served here; give its folder "
            "as the policy (policy='FOLDER'), which knows how each kind is served"
        )
    if manifest.language_model is not None:
        rendered = (tools if manifest.kind == "tools" else slots).prompt_hash()
        if manifest.language_model.prompt_hash != rendered:
            raise CheckpointError(
                f"{where} was trained with prompts of hash {manifest.language_model.prompt_hash}; "
                f"this xrouter_lg renders {rendered}. Train again, or install the version that "
                f"trained it ({manifest.versions.get('xrouter_lg', 'unknown')})"
            )
    for part in (manifest.family_head, manifest.cascade):
        if part is not None and part.file not in manifest.files:
            raise CheckpointError(
                f"{where} reads {shown(part.file)}, of which its manifest has no digest; copy it "
                "again"
            )
    for name, expected in manifest.files.items():
        path = root / name
        model = name.endswith(".safetensors") and name.startswith(_MODEL_FILES)
        if model and not weights and path.parent == root and not path.exists():
            continue
        if path.parent != root or not path.is_file():
            raise CheckpointError(f"{where} lacks its file {name!r}; copy it again")
        if (found := sha256_of(path)) != expected:
            raise CheckpointError(
                f"{where}: {name!r} has sha256 {found[:12]}..., the manifest says "
                f"{expected[:12]}...: it is damaged or was changed; copy it again"
            )
    if weights and not any(name.endswith(".safetensors") for name in manifest.files):
        raise CheckpointError(f"{where} has no safetensors file; train again")
    return manifest


def _digests(folder: Path) -> dict[str, str]:
    return {
        path.name: sha256_of(path)
        for path in sorted(folder.iterdir())
        if path.suffix in _HASHED_SUFFIXES and path.name != MANIFEST_FILE
    }
