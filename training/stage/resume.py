"""A stage of a run: done once, and done again only when what it depends on has changed."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from training.model.slots import SlotModel
from training.processes import is_main, main_first
from training.stage.callbacks import last_checkpoint
from xrouter_lg.files import whole, write_json


@dataclass(frozen=True)
class Stage:
    """Where a training stage keeps its results, and the key of what it depends on."""

    run_folder: Path
    name: str
    key: str

    @property
    def mark(self) -> Path:
        """Says that the stage is done, with which key, and how it went."""
        return self.run_folder / f"{self.name}.json"

    @property
    def weights(self) -> Path:
        """The best state; the stage's result once it is done."""
        return self.run_folder / f"{self.name}.safetensors"

    @property
    def folder(self) -> Path:
        """The trainer's own folder; gone when the stage is done."""
        return self.run_folder / self.name

    @property
    def done(self) -> bool:
        if not self.mark.is_file() or not self.weights.is_file():
            return False
        return bool(json.loads(self.mark.read_text())["key"] == self.key)

    @property
    def begun_at(self) -> int | None:
        """The step that an interrupted stage with this key can go on from."""
        key = self.folder / "key"
        found = last_checkpoint(self.folder)
        if found is None or not key.is_file() or key.read_text() != self.key:
            return None
        return int(found.name.rpartition("-")[2])

    def open(self, *, resume: bool) -> bool:
        """Prepare the trainer's folder; True when training goes on from a checkpoint in it."""
        if resume and self.begun_at is not None:
            return True
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        self.folder.joinpath("key").write_text(self.key)
        return False

    def open_in_all(self, use_cpu: bool, *, resume: bool) -> bool:
        """The same in a run of several processes: the main one prepares, all of them agree."""
        with main_first(use_cpu):
            return self.open(resume=resume) if is_main() else resume and bool(self.begun_at)

    def close(self, facts: Mapping[str, Any]) -> None:
        """Mark the stage done; the trainer's checkpoints are no longer needed."""
        write_json(self.mark, {"key": self.key, **facts})
        shutil.rmtree(self.folder, ignore_errors=True)


def save_state(slot: SlotModel, path: Path) -> None:
    """What training changes: the trained weights, and the centre they were trained around."""
    save_weights(slot.model, path, centre=slot.centre_M)


def restore_state(slot: SlotModel, path: Path) -> None:
    """The inverse of :func:`save_state`."""
    slot.centre_M.copy_(restore_weights(slot.model, path)["centre"])


def save_weights(model: Any, path: Path, **more: torch.Tensor) -> None:
    """The trained weights of a model, as safetensors."""
    trained = {n: p.detach().cpu() for n, p in model.named_parameters() if p.requires_grad}
    with whole(path) as temporary:
        save_file({**trained, **more}, temporary)


def restore_weights(model: Any, path: Path) -> dict[str, torch.Tensor]:
    """The inverse of :func:`save_weights`; everything in the file."""
    state: dict[str, torch.Tensor] = load_file(path)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(state[name])
    return state


def digest_of(parts: Sequence[Any]) -> str:
    """A short digest of JSON-like parts; dataclasses count by their fields."""

    def plain(value: Any) -> Any:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return dataclasses.asdict(value)
        raise TypeError(f"{value!r} has no digest")

    text = json.dumps(parts, sort_keys=True, default=plain)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
