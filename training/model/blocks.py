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
from training.model.reading import Reading, predict
from training.model.slots import SlotModel
from training.warm_start.rows import Samples
from training.warm_start.targets import measure_centre

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


class BlockReading:
    """``parts[k]`` reads the prompts behind block k, in the order of the table's rows. Numbers of
    prompts go through the parts, one after the other."""

    def __init__(self, parts: Sequence[Reading], cut: Cut) -> None:
        sizes = cut.read_N_K.sum(0).tolist()
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

    def numbers(self, block: int, rows: Ints) -> tuple[Ints, Ints]:
        """Which of these rows of the table are read behind a block, as positions in ``rows``, and
        their numbers here."""
        at = np.flatnonzero(self.cut.read_N_K[rows, block])
        return at, self._place_N_K[rows[at], block]

    def ids(self, index: int) -> list[int]:
        part, inside = self._of(np.array([index]))
        return self.parts[part[0]].ids(int(inside[0]))

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
                place = (torch.from_numpy(rows), *(slice(n) for n in tensor.shape[1:2]))
                whole[place] = tensor
            found[name] = whole
        return {**found, "part": torch.from_numpy(part_B)}

    def contrast(self, slot: SlotModel, **inputs: Tensor) -> Tensor:
        part_B = inputs.pop("part")
        rows, found = [], []
        for k in part_B.unique().tolist():
            own = torch.nonzero(part_B == k).flatten()
            rows.append(own)
            taken = {name: tensor[own] for name, tensor in inputs.items()}
            found.append(self.parts[k].contrast(slot, **_trimmed(taken)))
        return torch.cat(found)[torch.cat(rows).argsort()]

    def predict(self, slot: SlotModel, rows: Ints) -> Floats:
        """Success log-odds [n, M] of rows of the table; NaN for cards of blocks not read."""
        z = np.full((len(rows), len(slot.slot_ids)), np.nan)
        for block in range(len(self.parts)):
            at, numbers = self.numbers(block, rows)
            cards = self.cut.cards(block)
            if len(at):
                z[at, cards] = predict(slot, self, numbers)[:, cards]
        return z

    def measure_centre(self, slot: SlotModel, rows: Ints, seed: int) -> None:
        """Set the centre of every card, behind its own block."""
        for block in range(len(self.parts)):
            _, numbers = self.numbers(block, rows)
            measure_centre(slot, self, numbers, seed, self.cut.cards(block))

    def samples(self, slot: SlotModel, rows: Ints, target_N_M: Floats) -> Samples:
        """A row to learn from per prompt and block that it is read behind; the cards of other
        blocks have no target in it."""
        prompts, targets = [], []
        for block in range(len(self.parts)):
            at, numbers = self.numbers(block, rows)
            cards = self.cut.cards(block)
            target = np.full((len(at), target_N_M.shape[1]), np.nan)
            target[:, cards] = target_N_M[at, cards]
            prompts.append(numbers)
            targets.append(target)
        number_N = np.concatenate(prompts)
        prior = np.tile(slot.prior_M.double().numpy(), (len(number_N), 1))
        return Samples(number_N, prior, np.concatenate(targets))

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


def predict_cards(slot: SlotModel, reading: Reading, rows: Ints, cards: int) -> Floats:
    """Success log-odds [n, M] of the first ``cards`` letters on rows of a run's table; NaN where a
    card's block is not read."""
    if isinstance(reading, BlockReading):
        return reading.predict(slot, rows)
    return predict(slot, reading, rows)[:, :cards]
