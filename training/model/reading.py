"""How prompts reach the trained model: whole, or from where the frozen layers left off.

A reading holds prompts by number and turns some of them into the tensors of one pass. Both kinds
give the same contrasts; :class:`CachedReading` spends the upper layers only.

Trainers wrap a model (DistributedDataParallel, DeepSpeed) and must be asked through the wrapper, so
the pass has to be a call of the model itself: within :func:`answering`, ``model(contrast=True,
**reading.inputs(index))`` gives contrasts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from training.model.base import Base, decoder_of, inner_of, part_of, run_prefix, run_questions
from training.model.features import ActivationCache, batches_by_length, encode
from training.model.slots import SlotModel
from xrouter_lg.arrays import Floats, Ints

_BATCH_TOKENS = 4096
"""Padded tokens that go through the frozen layers at once."""


class Reading(Protocol):
    """Prompts by number, and a pass over some of them."""

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the tensors that :meth:`inputs` gives."""
        ...

    def __len__(self) -> int: ...

    @property
    def lengths(self) -> Ints:
        """[N] tokens of each question, without the candidate block."""
        ...

    def blocks(self, rows: Ints) -> list[tuple[Ints, Ints, slice]]:
        """For each block of candidates: which of these rows of a run's table are read behind it, as
        positions in ``rows``; their numbers here; and the letters of its cards."""
        ...

    def find(self, questions: Sequence[str], prefixes: Sequence[str] | None = None) -> list[int]:
        """Numbers of rendered questions; new ones are added. ``prefixes`` are their candidate
        blocks where they differ from the usual one."""
        ...

    def ids(self, index: int) -> list[int]:
        """Token ids of a whole prompt: what serving sends through the model."""
        ...

    def inputs(self, index: Sequence[int] | Ints) -> dict[str, Tensor]:
        """The tensors of one pass over these prompts."""
        ...

    def contrast(self, slot: SlotModel, **inputs: Tensor) -> Tensor:
        """Contrasts [B, L] of one pass; gradients flow."""
        ...


class _Prompts:
    """Prompts, each a candidate block and a question, tokenised once."""

    def __init__(self, tokenizer: Any, prefix: str, questions: Sequence[str]) -> None:
        self.prefix, self._tokenizer = prefix, tokenizer
        self._prefix_ids: dict[str, list[int]] = {}
        self._known: dict[tuple[str, str], int] = {}
        self._prompts: list[tuple[str, str]] = []
        self._question_ids: list[list[int] | None] = []
        for question in questions:
            # Two rows may hold the same question; each keeps its number.
            self._add(prefix, question)

    def __len__(self) -> int:
        return len(self._prompts)

    def blocks(self, rows: Ints) -> list[tuple[Ints, Ints, slice]]:
        return [(np.arange(len(rows)), rows, slice(None))]

    def ids(self, index: int) -> list[int]:
        prefix, _ = self._prompts[index]
        if prefix not in self._prefix_ids:
            self._prefix_ids[prefix] = encode(self._tokenizer, prefix)
        return [*self._prefix_ids[prefix], *self.question_ids(index)]

    def question_ids(self, index: int) -> list[int]:
        found = self._question_ids[index]
        if found is None:
            found = self._question_ids[index] = encode(self._tokenizer, self._prompts[index][1])
        return found

    def _add(self, prefix: str, question: str) -> int:
        self._known.setdefault((prefix, question), len(self._prompts))
        self._prompts.append((prefix, question))
        self._question_ids.append(None)
        return len(self._prompts) - 1


class PlainReading(_Prompts):
    """Every layer, on every pass, over whole prompts: any candidate block will do."""

    fields = ("input_ids", "attention_mask")

    @property
    def lengths(self) -> Ints:
        return np.array([len(self.question_ids(i)) for i in range(len(self))], dtype=np.int64)

    def find(self, questions: Sequence[str], prefixes: Sequence[str] | None = None) -> list[int]:
        blocks = [self.prefix] * len(questions) if prefixes is None else prefixes
        found = []
        for prefix, question in zip(blocks, questions, strict=True):
            number = self._known.get((prefix, question))
            found.append(self._add(prefix, question) if number is None else number)
        return found

    def inputs(self, index: Sequence[int] | Ints) -> dict[str, Tensor]:
        ids = [self.ids(int(i)) for i in index]
        width = max(map(len, ids))
        tokens_B_T = torch.zeros(len(ids), width, dtype=torch.long)
        mask_B_T = torch.zeros(len(ids), width, dtype=torch.long)
        for row, own in enumerate(ids):
            tokens_B_T[row, : len(own)] = torch.tensor(own)
            mask_B_T[row, : len(own)] = 1
        return {"input_ids": tokens_B_T, "attention_mask": mask_B_T}

    def contrast(self, slot: SlotModel, **inputs: Tensor) -> Tensor:
        mask_B_T = inputs["attention_mask"]
        out = decoder_of(slot.model)(
            input_ids=inputs["input_ids"], attention_mask=mask_B_T, use_cache=False
        ).last_hidden_state
        rows = torch.arange(len(out), device=out.device)
        return slot.contrast(out[rows, mask_B_T.sum(1) - 1])


class CachedReading(_Prompts):
    """The layers above the frozen ones, over activations that were computed once.

    ``questions`` are those of the cache. A question that is added later (a prompt that is called
    live) goes through the frozen layers at once; what they give stays in memory as float16.
    """

    fields = ("hidden", "lengths")

    def __init__(
        self, base: Base, cache: ActivationCache, prefix: str, questions: Sequence[str]
    ) -> None:
        if len(questions) != len(cache):
            raise ValueError(f"{len(questions)} questions, but the cache holds {len(cache)}")
        super().__init__(base.tokenizer, prefix, questions)
        self.cache = cache
        decoder = decoder_of(base.model)
        self._embed = decoder.embed_tokens
        self._dtype = next(decoder.parameters()).dtype
        self._lower = part_of(decoder, 0, cache.layers, with_norm=False)
        # LoRA is put inside the layers, so a part that was cut out before it is the same part.
        self._upper = part_of(decoder, cache.layers, len(decoder.layers), with_norm=True)
        self._added: list[npt.NDArray[np.float16]] = []
        self._seen: Any = None

    @property
    def lengths(self) -> Ints:
        more = np.array([len(rows) for rows in self._added], dtype=np.int64)
        return np.concatenate([self.cache.lengths, more])

    def find(self, questions: Sequence[str], prefixes: Sequence[str] | None = None) -> list[int]:
        if prefixes is not None and any(prefix != self.prefix for prefix in prefixes):
            raise ValueError("cached activations hold one candidate block; use recipe=plain")
        found: list[int] = []
        new: list[int] = []
        for question in questions:
            number = self._known.get((self.prefix, question))
            if number is None:
                number = self._add(self.prefix, question)
                new.append(number)
            found.append(number)
        if new:
            self._compute(new)
        return found

    def inputs(self, index: Sequence[int] | Ints) -> dict[str, Tensor]:
        rows = [self._rows(int(i)) for i in index]
        lengths_B = torch.tensor([len(own) for own in rows])
        hidden = torch.zeros(len(rows), int(lengths_B.max()), self.cache.rows.shape[1])
        for row, own in enumerate(rows):
            hidden[row, : len(own)] = torch.from_numpy(own.astype(np.float32))
        return {"hidden": hidden, "lengths": lengths_B}

    def contrast(self, slot: SlotModel, **inputs: Tensor) -> Tensor:
        hidden, lengths_B = inputs["hidden"], inputs["lengths"]
        prefix_1_P_D = self.cache.prefix_1_P_D.to(hidden.device, self._dtype)
        _, prefix = run_prefix(self._upper, prefix_1_P_D)
        out = run_questions(self._upper, hidden.to(self._dtype), lengths_B, prefix)
        rows = torch.arange(len(out), device=out.device)
        return slot.contrast(out[rows, lengths_B - 1])

    def _rows(self, index: int) -> npt.NDArray[np.float16]:
        if index >= len(self.cache):
            return self._added[index - len(self.cache)]
        start, stop = self.cache.offsets[index], self.cache.offsets[index + 1]
        rows: npt.NDArray[np.float16] = self.cache.rows[start:stop]
        return rows

    @torch.no_grad()
    def _compute(self, index: Sequence[int]) -> None:
        device = self._embed.weight.device
        if self._seen is None:
            prefix_ids = torch.tensor([encode(self._tokenizer, self.prefix)], device=device)
            _, self._seen = run_prefix(self._lower, self._embed(prefix_ids))
        ids = [self.question_ids(i) for i in index]
        offsets = np.concatenate([[0], np.cumsum([len(own) for own in ids])]).astype(np.int64)
        found: dict[int, npt.NDArray[np.float16]] = {}
        for batch in batches_by_length(offsets, _BATCH_TOKENS):
            lengths_B = torch.tensor([len(ids[i]) for i in batch])
            tokens_B_T = torch.zeros(len(batch), int(lengths_B.max()), dtype=torch.long)
            for row, i in enumerate(batch):
                tokens_B_T[row, : len(ids[i])] = torch.tensor(ids[i])
            embeds = self._embed(tokens_B_T.to(device))
            out = run_questions(self._lower, embeds, lengths_B.to(device), self._seen)
            for row, i in enumerate(batch):
                found[i] = out[row, : len(ids[i])].float().cpu().numpy().astype(np.float16)
        self._added += [found[i] for i in range(len(ids))]


@contextmanager
def answering(slot: SlotModel, reading: Reading) -> Iterator[None]:
    """Within it ``slot.model(contrast=True, **reading.inputs(index))`` gives contrasts [B, L].

    Afterwards the model is itself again: what a trainer put over its forward meanwhile goes too.
    """
    inner = inner_of(slot.model)
    before = inner.__dict__.get("forward")
    plain = inner.forward

    def forward(*args: Any, contrast: bool = False, **kwargs: Any) -> Any:
        if not contrast:
            return plain(*args, **kwargs)
        return reading.contrast(slot, **{name: kwargs[name] for name in reading.fields})

    inner.forward = forward
    try:
        yield
    finally:
        inner.__dict__.pop("forward", None)
        if before is not None:
            inner.forward = before


@torch.no_grad()
def predict(
    slot: SlotModel, reading: Reading, index: Sequence[int] | Ints, *, batch_size: int = 32
) -> Floats:
    """Success log-odds [N, L] of prompts, in the order of ``index``."""
    training = slot.model.training
    slot.model.eval()
    wanted = np.asarray(index, dtype=np.int64)
    order = np.argsort(reading.lengths[wanted], kind="stable")
    found = np.empty((len(wanted), len(slot.slot_ids)))
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        tensors = {k: v.to(slot.device) for k, v in reading.inputs(wanted[rows]).items()}
        found[rows] = slot.z(reading.contrast(slot, **tensors)).float().cpu().numpy()
    slot.model.train(training)
    return found


def predict_rows(slot: SlotModel, reading: Reading, rows: Ints) -> Floats:
    """Success log-odds [N, L] of rows of a run's table; NaN where a card's block is not read."""
    z = np.full((len(rows), len(slot.slot_ids)), np.nan)
    for at, numbers, letters in reading.blocks(rows):
        if len(at):
            z[at, letters] = predict(slot, reading, numbers)[:, letters]
    return z
