"""A trained model as a checkpoint: adapter or merged weights, tokenizer, manifest."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Literal

from safetensors.numpy import save_file

from training.model.base import PACKAGES, Base, save_adapter
from training.model.slots import SlotModel
from xrouter_lg.checkpoints.family_head import HEAD_FILE, FamilyHead
from xrouter_lg.checkpoints.folder import write_checkpoint
from xrouter_lg.checkpoints.manifest import Manifest
from xrouter_lg.fitting.provenance import provenance
from xrouter_lg.policies.slots.probe import write_probe


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

    model = dataclasses.replace(manifest.model, weights=weights)
    complete = dataclasses.replace(manifest, language_model=model, **provenance(PACKAGES))

    def write_files(target: Path) -> None:
        if weights == "adapter":
            save_adapter(slot.model, target, base.identity.model_id)
        else:
            merged = copy.deepcopy(slot.model)
            # Without an adapter the weights themselves were trained.
            whole = merged.merge_and_unload() if hasattr(merged, "peft_config") else merged
            whole.save_pretrained(target)
        base.tokenizer.save_pretrained(target)
        if head is not None:
            save_file(head.arrays, target / HEAD_FILE)
        # By serving's own code, from what was just written: a server must give the same.
        write_probe(target, complete, base=base.folder)

    complete.check()
    return write_checkpoint(folder, complete, write_files)
