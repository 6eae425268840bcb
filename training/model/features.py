"""Activations of the frozen lower layers, computed once and kept on disk.

The CPU recipe trains the upper layers only. What the lower ones give for a prompt never changes,
so it is computed once: for the prefix (the candidate block, the same for every prompt) and, behind
it, for each question. An epoch then costs the upper layers alone, and the prefix once a batch.

The price: the candidate block stands in front, so it is part of every cached activation. One cache
holds one order and one wording of the candidates. Training for pools that change needs a cache per
variant (disk and one forward pass each), or the plain recipe, which caches nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from training.model.base import Base, decoder_of, part_of, run_prefix, run_questions

Progress = Callable[[int, int], None]
"""Called with prompts done and prompts in all."""


@dataclass(frozen=True)
class ActivationCache:
    """Hidden states behind layer ``layers`` for one prefix and N questions."""

    folder: Path
    layers: int
    prefix_1_P_D: Tensor
    offsets: npt.NDArray[np.int64]
    """[N + 1] first row of each question in ``rows``."""
    rows: npt.NDArray[np.float16]
    """[tokens, D], memory-mapped."""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """[N] tokens of each question."""
        lengths: npt.NDArray[np.int64] = np.diff(self.offsets)
        return lengths

    def batch(self, index: Sequence[int] | npt.NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """``hidden [B, T, D]`` (float32, zeros behind each end) and ``lengths [B]``."""
        lengths_B = torch.from_numpy(self.lengths[np.asarray(index)])
        hidden = torch.zeros(len(lengths_B), int(lengths_B.max()), self.rows.shape[1])
        for row, i in enumerate(index):
            own = self.rows[self.offsets[i] : self.offsets[i + 1]]
            hidden[row, : len(own)] = torch.from_numpy(own.astype(np.float32))
        return hidden, lengths_B


def build_cache(
    base: Base,
    prefix: str,
    questions: Sequence[str],
    *,
    layers: int,
    folder: Path,
    batch_tokens: int = 4096,
    progress: Progress | None = None,
) -> ActivationCache:
    """Run the lower ``layers`` over every question behind ``prefix``, or reuse what is there.

    The folder's key covers base, prefix, questions and layers: another input is another folder.
    float16 on disk: 1,152 bytes a token at 576 dimensions.
    """
    key = _key(base, prefix, questions, layers)
    target = folder / key
    if target.joinpath("done").is_file():
        return load_cache(target)
    target.mkdir(parents=True, exist_ok=True)
    ids = [encode(base.tokenizer, question) for question in questions]
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in ids])]).astype(np.int64)
    rows = np.lib.format.open_memmap(
        target / "rows.npy",
        mode="w+",
        dtype=np.float16,
        shape=(int(offsets[-1]), base.identity.hidden_size),
    )
    decoder = decoder_of(base.model)
    lower = part_of(decoder, 0, layers, with_norm=False)
    dtype = next(base.model.parameters()).dtype
    done = 0
    with torch.inference_mode():
        prefix_ids = torch.tensor([encode(base.tokenizer, prefix)])
        hidden_1_P_D, cache = run_prefix(lower, decoder.embed_tokens(prefix_ids))
        for index in batches_by_length(offsets, batch_tokens):
            width = max(len(ids[i]) for i in index)
            tokens_B_T = torch.zeros(len(index), width, dtype=torch.long)
            for row, i in enumerate(index):
                tokens_B_T[row, : len(ids[i])] = torch.tensor(ids[i])
            lengths_B = torch.tensor([len(ids[i]) for i in index])
            embeds = decoder.embed_tokens(tokens_B_T).to(dtype)
            hidden = run_questions(lower, embeds, lengths_B, cache).float().numpy()
            for row, i in enumerate(index):
                rows[offsets[i] : offsets[i + 1]] = hidden[row, : len(ids[i])]
            done += len(index)
            if progress is not None:
                progress(done, len(ids))
    rows.flush()
    np.save(target / "prefix.npy", hidden_1_P_D.float().numpy())
    np.save(target / "offsets.npy", offsets)
    target.joinpath("done").write_text(json.dumps({"layers": layers}))
    return load_cache(target)


def load_cache(folder: Path) -> ActivationCache:
    """A cache written by :func:`build_cache`."""
    meta: dict[str, Any] = json.loads(folder.joinpath("done").read_text())
    return ActivationCache(
        folder=folder,
        layers=int(meta["layers"]),
        prefix_1_P_D=torch.from_numpy(np.load(folder / "prefix.npy")),
        offsets=np.load(folder / "offsets.npy"),
        rows=np.load(folder / "rows.npy", mmap_mode="r"),
    )


def encode(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a part of a prompt: no special tokens added."""
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
    return ids


def batches_by_length(offsets: npt.NDArray[np.int64], batch_tokens: int) -> Iterator[list[int]]:
    """Indices of questions of about the same length, at most ``batch_tokens`` padded tokens."""
    lengths = np.diff(offsets)
    batch: list[int] = []
    for i in np.argsort(lengths, kind="stable"):
        # Sorted upwards: the newcomer is the widest row.
        if batch and (len(batch) + 1) * int(lengths[i]) > batch_tokens:
            yield batch
            batch = []
        batch.append(int(i))
    if batch:
        yield batch


def _key(base: Base, prefix: str, questions: Sequence[str], layers: int) -> str:
    digest = hashlib.sha256()
    dtype = str(next(base.model.parameters()).dtype)
    for part in (base.identity.sha256, str(layers), dtype, prefix, *questions):
        digest.update(part.encode())
        digest.update(b"\0")
    return digest.hexdigest()[:16]
