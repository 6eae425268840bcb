"""Prompts behind several blocks of candidates as one reading.

Each block has a reading of its own, over the prompts that are read behind it. A pass may hold
prompts of several blocks: it is split by block inside, so that each part has one prefix.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from training.data.pools import Cut
from training.model.reading import Reading
from training.model.slots import SlotModel

Ints = npt.NDArray[np.int64]


class BlockReading:
    """``parts[k]`` reads the prompts behind block k, in the order of the table's rows. Numbers of
    prompts go through the parts, one after the other."""

    def __init__(self, parts: Sequence[Reading], cut: Cut) -> None:
        sizes: list[int] = cut.read_N_K.sum(0).tolist()
        if [len(part) for part in parts] != sizes:
            raise ValueError(f"{[len(p) for p in parts]} prompts in the parts, not {sizes}")
        self.parts, self.cut = tuple(parts), cut
        self.fields = (*parts[0].fields, "part")
        self._starts = np.cumsum([0, *sizes])
        self._place_N_K = np.cumsum(cut.read_N_K, axis=0) - 1 + self._starts[:-1]

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def lengths(self) -> Ints:
        return np.concatenate([part.lengths for part in self.parts])

    def find(self, questions: Sequence[str], prefixes: Sequence[str] | None = None) -> list[int]:
        raise ValueError("several blocks are read for recorded prompts only; use data.pools=same")

    def blocks(self, rows: Ints) -> list[tuple[Ints, Ints, slice]]:
        found = []
        for block in range(len(self.parts)):
            at = np.flatnonzero(self.cut.read_N_K[rows, block])
            found.append((at, self._place_N_K[rows[at], block], self.cut.cards(block)))
        return found

    def ids(self, index: int) -> list[int]:
        part, inside = self._of(np.array([index]))
        found: list[int] = self.parts[int(part[0])].ids(int(inside[0]))
        return found

    def inputs(self, index: Sequence[int] | Ints) -> dict[str, Tensor]:
        part_B, inside_B = self._of(np.asarray(index, dtype=np.int64))
        found: dict[str, Tensor] = {}
        own = {k: np.flatnonzero(part_B == k) for k in np.unique(part_B)}
        made = {k: self.parts[k].inputs(inside_B[rows]) for k, rows in own.items()}
        for name in self.fields[:-1]:
            tensors = [tensors[name] for tensors in made.values()]
            whole = torch.zeros((len(part_B), *_wide(tensors)), dtype=tensors[0].dtype)
            for rows, tensor in zip(own.values(), tensors, strict=True):
                # Rows of one part are narrower than the widest of all.
                if tensor.ndim > 1:
                    whole[torch.from_numpy(rows), : tensor.shape[1]] = tensor
                else:
                    whole[torch.from_numpy(rows)] = tensor
            found[name] = whole
        return {**found, "part": torch.from_numpy(part_B)}

    def contrast(self, slot: SlotModel, **inputs: Tensor) -> Tensor:
        part_B = inputs.pop("part")
        rows, found = [], []
        for k in np.unique(part_B.cpu().numpy()).tolist():
            own = torch.nonzero(part_B == k).flatten()
            rows.append(own)
            taken = {name: tensor[own] for name, tensor in inputs.items()}
            found.append(self.parts[k].contrast(slot, **_trimmed(taken)))
        return torch.cat(found)[torch.cat(rows).argsort()]

    def _of(self, index: Ints) -> tuple[Ints, Ints]:
        """Part, and number in it, of each number."""
        part = np.searchsorted(self._starts, index, side="right") - 1
        return part, index - self._starts[part]


def _trimmed(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors as wide as the longest of their own prompts."""
    mask = inputs.get("attention_mask")
    lengths_B = inputs["lengths"] if mask is None else mask.sum(1)
    width = int(lengths_B.max())
    return {name: t[:, :width] if t.ndim > 1 else t for name, t in inputs.items()}


def _wide(tensors: Sequence[Tensor]) -> list[int]:
    """The shape of a row that each tensor's rows fit into."""
    return [max(sizes) for sizes in zip(*(tensor.shape[1:] for tensor in tensors), strict=True)]
