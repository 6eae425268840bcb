"""Which base model it is: digests of weights and tokenizer, and what must agree."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from xrouter_lg.checkpoints.manifest import CheckpointError, Manifest
from xrouter_lg.errors import PolicyConfigError
from xrouter_lg.prompts import slots


def check_base(manifest: Manifest, folder: Path) -> None:
    """Refuse a folder of another base model than the one a checkpoint was trained on. Its weights
    tell: the checkpoint's tokenizer is the one in use, the base's is never read.

    Raises:
        CheckpointError: the weights differ.
    """
    trained, found = manifest.model.base, weights_digest(folder)
    if found != trained.sha256:
        raise CheckpointError(
            f"the base model's weights differ: {str(folder)!r} has {found[:12]}..., the checkpoint "
            f"was trained on {trained.model_id!r} with {trained.sha256[:12]}.... "
            "Point `base` at that model, or export the checkpoint merged"
        )


def slot_token_ids(tokenizer: Any) -> dict[str, int]:
    """Token id by slot letter: card slots, answer slots and the anchor.

    Raises:
        PolicyConfigError: a slot is not one token of this vocabulary.
    """
    ids: dict[str, int] = {}
    for letter in slots.CARD_SLOTS + slots.ANCHOR_SLOT:
        encoded = tokenizer.encode(slots.slot_token(letter), add_special_tokens=False)
        if len(encoded) != 1:
            raise PolicyConfigError(
                f"slot {slots.slot_token(letter)!r} is {len(encoded)} tokens in this vocabulary, "
                "not one; the slots codec can't use this base model"
            )
        ids[letter] = int(encoded[0])
    return ids


def tokenizer_hash(tokenizer: Any) -> str:
    """Digest of what a tokenizer does: its vocabulary, and a few texts encoded."""
    probes = ["Good choice: A", "<request>\n1234 + 5.6\n</request>\n", "naïve café 東京 🙂\t\r\n"]
    parts = [
        sorted(tokenizer.get_vocab().items()),
        [list(tokenizer.encode(text, add_special_tokens=False)) for text in probes],
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def weights_digest(folder: Path) -> str:
    """Digest of a model folder's safetensors, one after the other in the order of their names."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        _feed(digest, path)
    return digest.hexdigest()


def sha256_of(path: Path) -> str:
    """Digest of a file."""
    digest = hashlib.sha256()
    _feed(digest, path)
    return digest.hexdigest()


def _feed(digest: hashlib._Hash, path: Path) -> None:
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
