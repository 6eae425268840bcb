"""What all ways of serving a trained checkpoint share.

In process, behind vLLM or behind llama.cpp, a decision is the same three steps: the request becomes
token ids (:class:`SlotPrompts`), something returns log probabilities of the slots' tokens, and
:class:`~xrouter_lg.policies.utility.Predictor` makes a proposal of them. Only the second step
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
from dataclasses import dataclass, replace
from pathlib import Path

from xrouter_lg.checkpoints.identity import slot_token_ids, tokenizer_hash
from xrouter_lg.checkpoints.manifest import CheckpointError, Manifest
from xrouter_lg.checkpoints.parts import CardStats
from xrouter_lg.errors import PolicyError
from xrouter_lg.extras import need
from xrouter_lg.policies.trained import Estimate, EstimatingPolicy, by_head, proposed, reason_of
from xrouter_lg.pool.card import ModelCard
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
class SlotReading:
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


def card_blocks(manifest: Manifest) -> list[tuple[CardStats, ...]]:
    """The cards of each block."""
    width = len(slots.CARD_SLOTS)
    found: list[tuple[CardStats, ...]] = []
    start = 0
    while start < len(manifest.cards):
        size = manifest.model.blocks[len(found)] if manifest.model.blocks else width
        found.append(manifest.cards[start : start + size])
        start += size
    return found


def blocks_of(manifest: Manifest, names: Iterable[str]) -> tuple[int, ...]:
    """Numbers of the blocks that a request with these candidates is read behind. Where none of
    them has a slot it is the first block: a decision keeps a prompt on record."""
    wanted = set(names)
    found = tuple(
        at
        for at, cards in enumerate(card_blocks(manifest))
        if any(card.name in wanted for card in cards)
    )
    return found or (0,)


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
        expected = manifest.model.base.tokenizer_sha256
        if found != expected:
            raise CheckpointError(
                f"the tokenizer of checkpoint {str(folder)!r} has hash {found[:12]}..., the "
                f"manifest says {expected[:12]}...: its files were changed, "
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
    ) -> SlotReading:
        """A reading behind ``blocks`` out of logits or log probabilities of the ``slot_ids`` of
        each, in order."""
        prompts, logprobs = [], []
        for at, row in zip(blocks, values, strict=True):
            block = self.blocks[at]
            prompts.append([*block.prefix_ids, *question_ids])
            top = max(row)
            mass = top + math.log(sum(math.exp(value - top) for value in row))
            logprobs.append({x: value - mass for x, value in zip(block.letters, row, strict=True)})
        return SlotReading(tuple(blocks), tuple(prompts), tuple(logprobs))


class SlotPolicy(EstimatingPolicy):
    """The policy of a checkpoint of kind ``slots`` but for the language model, which a subclass
    runs or asks."""

    @property
    @abstractmethod
    def prompts(self) -> SlotPrompts:
        """The checkpoint's prompts; may load the tokenizer."""

    @abstractmethod
    async def read(self, question: str, blocks: Sequence[int]) -> SlotReading:
        """What the language model says of a rendered question behind these blocks."""

    @abstractmethod
    def read_many(
        self, questions: Sequence[str], blocks: Sequence[Sequence[int]]
    ) -> list[SlotReading]:
        """The same for many questions, in order, each with its blocks. Blocks the caller."""

    async def propose(self, request: RouteRequest, candidates: Sequence[ModelCard]) -> Proposal:
        """Success probability and expected cost of each candidate; the highest utility first."""
        blocks = blocks_of(self.manifest, [card.name for card in candidates])
        try:
            reading = await self.read(slots.render_question(request.messages), blocks)
        except PolicyError as problem:
            return by_head(self, self._predictor, request, candidates, problem)
        found = self.weigh(request, candidates, self.contrasts(reading))
        at, letter = _favourite(reading)
        block = self.prompts.blocks[reading.blocks[at]]
        decided = proposed(found, reason_of(found, self.cost_weight(request)))
        return replace(
            decided,
            prompt_hash=self.manifest.model.prompt_hash,
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
        readings: Sequence[SlotReading] | None = None,
    ) -> list[Estimate]:
        """What :meth:`propose` expects of each candidate, for many requests at once, in order.

        Blocks. For whoever judges a checkpoint offline: the decision at any cost weight follows
        from expected score and cost. ``readings`` are what :meth:`read_many` gave for these
        requests' questions, now or earlier; a card of a block that was not read has no estimate of
        its own, and is expected to do what it does on average.
        """
        if readings is None:
            blocks = blocks_of(self.manifest, [card.name for card in candidates])
            questions = [slots.render_question(r.messages) for r in requests]
            readings = self.read_many(questions, [blocks] * len(questions))
        return [
            Estimate(self.weigh(request, candidates, self.contrasts(reading)), reading.tokens)
            for reading, request in zip(readings, requests, strict=True)
        ]

    def contrasts(self, reading: SlotReading) -> dict[str, float]:
        """``logprob(slot) - logprob(anchor)`` of each card of the blocks that were read."""
        found: dict[str, float] = {}
        for at, logprobs in zip(reading.blocks, reading.logprobs, strict=True):
            letters = self.prompts.blocks[at].letters[:-1]
            odds = slots.log_odds(logprobs, letters)
            for card, letter in zip(card_blocks(self.manifest)[at], letters, strict=True):
                found[card.name] = odds[letter]
        return found


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


def _favourite(reading: SlotReading) -> tuple[int, str]:
    """Prompt and letter of the card whose slot is the likeliest, measured against the anchor."""
    at, letter, best = 0, "", -math.inf
    for index, logprobs in enumerate(reading.logprobs):
        for name, value in logprobs.items():
            gain = value - logprobs[slots.ANCHOR_SLOT]
            if name != slots.ANCHOR_SLOT and (gain > best or not letter):
                at, letter, best = index, name, gain
    return at, letter
