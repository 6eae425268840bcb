"""What all ways of serving a trained checkpoint share.

In process, behind vLLM or behind llama.cpp, a decision is the same three steps: the request becomes
token ids (:class:`SlotPrompts`), something returns log probabilities of the slots' tokens, and
:func:`~xrouter_lg.policies.slots.utility.utilities` makes a proposal of them. Only the second step
differs; :class:`SlotPolicy` holds the others, so that no server can render, tokenise or weigh in a
way of its own.

A prompt names up to 16 cards, a block. A checkpoint of more cards has several blocks, and a request
is read behind those only that hold one of its candidates: where pools differ from request to
request, each pays for its own pool's block.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from xrouter_lg.checkpoints.manifest import (
    CardStats,
    CheckpointError,
    Manifest,
    slot_token_ids,
    tokenizer_hash,
)
from xrouter_lg.extras import need
from xrouter_lg.policies.base import BasePolicy
from xrouter_lg.policies.slots.utility import Utilities, load_head, utilities
from xrouter_lg.pool.pool import ModelCard
from xrouter_lg.prompts import slots
from xrouter_lg.types import Proposal, RouteRequest

TOKENIZER_FILE = "tokenizer.json"


@dataclass(frozen=True, slots=True)
class Block:
    """The candidate block that opens a prompt: up to 16 cards."""

    prefix_ids: tuple[int, ...]
    letters: tuple[str, ...]
    """Letters of the block's cards, then the anchor."""
    slot_ids: tuple[int, ...]
    """Token id of each letter."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What the language model said of one request: a prompt per block that was read."""

    blocks: tuple[int, ...]
    """Numbers of the blocks that were read, rising."""
    prompts: tuple[list[int], ...]
    """Token ids of each prompt."""
    logprobs: tuple[dict[str, float], ...]
    """Log probability by letter of each prompt, over its slots and the anchor alone."""

    @property
    def tokens(self) -> int:
        """Prompt and completion tokens of the router model."""
        return sum(len(ids) + 1 for ids in self.prompts)


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a decision would be made on."""

    expected: Utilities
    router_tokens: int
    """Prompt and completion tokens of the router model for this decision."""


def card_blocks(manifest: Manifest) -> list[tuple[CardStats, ...]]:
    """The cards of each block."""
    width = len(slots.CARD_SLOTS)
    found: list[tuple[CardStats, ...]] = []
    start = 0
    while start < len(manifest.cards):
        size = manifest.blocks[len(found)] if manifest.blocks else width
        found.append(manifest.cards[start : start + size])
        start += size
    return found


def blocks_of(manifest: Manifest, names: Iterable[str]) -> tuple[int, ...]:
    """Numbers of the blocks that a request with these candidates is read behind. Where none of
    them has a slot it is the first block: a decision keeps a prompt on record. None at all where
    the language model has no say."""
    if not manifest.reads_model:
        return ()
    wanted = set(names)
    found = tuple(
        at
        for at, cards in enumerate(card_blocks(manifest))
        if any(card.name in wanted for card in cards)
    )
    return found or (0,)


NOTHING_READ = Reading((), (), ())
"""The reading of a checkpoint whose language model has no say."""


class SlotPrompts:
    """The prompts of one checkpoint, as token ids.

    The checkpoint's own ``tokenizer.json`` is read by the tokenizers library, whoever runs the
    model: neither a server's tokenizer nor a version of transformers can change the ids.

    Raises:
        CheckpointError: no tokenizer there, or not the one that the manifest names.
        MissingExtraError: the tokenizers library is not installed.
    """

    def __init__(self, manifest: Manifest, folder: Path) -> None:
        self._tokenizer = _Tokenizer(folder)
        found = tokenizer_hash(self._tokenizer)
        if found != manifest.base.tokenizer_sha256:
            raise CheckpointError(
                f"the tokenizer of checkpoint {str(folder)!r} has hash {found[:12]}..., the "
                f"manifest says {manifest.base.tokenizer_sha256[:12]}...: its files were changed, "
                "or this version of tokenizers reads them otherwise; copy it again or train again"
            )
        ids = slot_token_ids(self._tokenizer)
        blocks = []
        for cards in card_blocks(manifest):
            letters = (*slots.CARD_SLOTS[: len(cards)], slots.ANCHOR_SLOT)
            prefix = self._tokenizer.encode(slots.render_prefix([card.line for card in cards]))
            blocks.append(Block(tuple(prefix), letters, tuple(ids[letter] for letter in letters)))
        self.blocks = tuple(blocks)

    def question_ids(self, question: str) -> list[int]:
        """Token ids of a rendered question. It is encoded apart from the block before it, so that
        a block is the same tokens whatever follows."""
        return self._tokenizer.encode(question)

    def reading(
        self,
        question_ids: Sequence[int],
        blocks: Sequence[int],
        values: Sequence[Sequence[float]],
    ) -> Reading:
        """A reading behind ``blocks`` out of logits or log probabilities of the ``slot_ids`` of
        each, in order."""
        prompts, logprobs = [], []
        for at, row in zip(blocks, values, strict=True):
            block = self.blocks[at]
            prompts.append([*block.prefix_ids, *question_ids])
            top = max(row)
            mass = top + math.log(sum(math.exp(value - top) for value in row))
            logprobs.append({x: value - mass for x, value in zip(block.letters, row, strict=True)})
        return Reading(tuple(blocks), tuple(prompts), tuple(logprobs))


class SlotPolicy(BasePolicy):
    """A checkpoint's policy but for the language model, which a subclass runs or asks."""

    name = "checkpoint"

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path, self.manifest = path, manifest
        self.version = manifest.version
        self._head = load_head(manifest, path)

    @property
    @abstractmethod
    def prompts(self) -> SlotPrompts:
        """The checkpoint's prompts; may load the tokenizer."""

    @abstractmethod
    async def read(self, question: str, blocks: Sequence[int]) -> Reading:
        """What the language model says of a rendered question behind these blocks."""

    @abstractmethod
    def read_many(self, questions: Sequence[str], blocks: Sequence[Sequence[int]]) -> list[Reading]:
        """The same for many questions, in order, each with its blocks. Blocks the caller."""

    async def propose(self, request: RouteRequest, candidates: Sequence[ModelCard]) -> Proposal:
        """Success probability and expected cost of each candidate; the highest utility first."""
        blocks = blocks_of(self.manifest, [card.name for card in candidates])
        reading = NOTHING_READ
        if blocks:
            reading = await self.read(slots.render_question(request.messages), blocks)
        weight = self.cost_weight(request)
        found = self._weighed(reading, request, candidates)
        if not blocks:
            reason = _reason(found, weight)
            return Proposal(found.probabilities, reason=reason, quality=found.quality)
        at, letter = _favourite(reading)
        block = self.prompts.blocks[reading.blocks[at]]
        return Proposal(
            found.probabilities,
            reason=_reason(found, weight),
            quality=found.quality,
            prompt_hash=self.manifest.prompt_hash,
            token_ids={
                "prompt_token_ids": reading.prompts[at],
                "completion_token_ids": [block.slot_ids[block.letters.index(letter)]],
                "logprobs": reading.logprobs[at],
            },
        )

    def estimate(
        self,
        requests: Sequence[RouteRequest],
        candidates: Sequence[ModelCard],
        readings: Sequence[Reading] | None = None,
    ) -> list[Estimate]:
        """What :meth:`propose` expects of each candidate, for many requests at once, in order.

        Blocks. For whoever judges a checkpoint offline: the decision at any cost weight follows
        from expected score and cost. ``readings`` are what :meth:`read_many` gave for these
        requests' questions, now or earlier; a card of a block that was not read has no estimate of
        its own, and is expected to do what it does on average.
        """
        if readings is None:
            blocks = blocks_of(self.manifest, [card.name for card in candidates])
            if blocks:
                questions = [slots.render_question(r.messages) for r in requests]
                readings = self.read_many(questions, [blocks] * len(questions))
            else:
                readings = [NOTHING_READ] * len(requests)
        return [
            Estimate(self._weighed(reading, request, candidates), reading.tokens)
            for reading, request in zip(readings, requests, strict=True)
        ]

    def contrasts(self, reading: Reading) -> dict[str, float]:
        """``logprob(slot) - logprob(anchor)`` of each card of the blocks that were read."""
        found: dict[str, float] = {}
        for at, logprobs in zip(reading.blocks, reading.logprobs, strict=True):
            letters = self.prompts.blocks[at].letters[:-1]
            odds = slots.log_odds(logprobs, letters)
            for card, letter in zip(card_blocks(self.manifest)[at], letters, strict=True):
                found[card.name] = odds[letter]
        return found

    def cost_weight(self, request: RouteRequest) -> float:
        """λ of a request: what the dial says for its quality target, else its own weight."""
        if request.quality_target is not None and self.manifest.dial:
            return self.manifest.weight_for_quality(request.quality_target)
        return request.cost_weight

    def _weighed(
        self, reading: Reading, request: RouteRequest, candidates: Sequence[ModelCard]
    ) -> Utilities:
        weight = self.cost_weight(request)
        contrasts = self.contrasts(reading)
        return utilities(self.manifest, contrasts, request, candidates, weight, self._head)


class _Tokenizer:
    """The tokenizers library with the two methods that hashing and slots need."""

    def __init__(self, folder: Path) -> None:
        path = folder / TOKENIZER_FILE
        if not path.is_file():
            raise CheckpointError(
                f"checkpoint {str(folder)!r} has no {TOKENIZER_FILE}; copy it again or train again"
            )
        library = need("tokenizers", "a trained checkpoint")
        try:
            self._raw = library.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare exceptions for what it can't parse
            raise CheckpointError(f"{str(path)!r} can't be read: {error}") from error
        # Left over from training, either would change what a long prompt becomes.
        self._raw.no_truncation()
        self._raw.no_padding()

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        ids: list[int] = self._raw.encode(text, add_special_tokens=add_special_tokens).ids
        return ids

    def get_vocab(self) -> Mapping[str, int]:
        vocab: dict[str, int] = self._raw.get_vocab(with_added_tokens=True)
        return vocab


def _favourite(reading: Reading) -> tuple[int, str]:
    """Prompt and letter of the card whose slot is the likeliest, measured against the anchor."""
    at, letter, best = 0, "", -math.inf
    for index, logprobs in enumerate(reading.logprobs):
        for name, value in logprobs.items():
            gain = value - logprobs[slots.ANCHOR_SLOT]
            if name != slots.ANCHOR_SLOT and (gain > best or not letter):
                at, letter, best = index, name, gain
    return at, letter


def _reason(found: Utilities, cost_weight: float) -> str:
    best = max(found.utility, key=lambda name: found.utility[name])
    return (
        f"expected score {found.quality[best]:.2f} at ${found.cost_usd[best]:.6f}, "
        f"cost weight {cost_weight:g}"
    )
