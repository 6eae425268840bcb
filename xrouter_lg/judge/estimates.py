"""What a checkpoint expects of every card on many prompts: serving's own code, kept on disk.

The language model reads each prompt once; every cost weight follows from expected score and cost.
Its readings are kept in a SQLite file per checkpoint and library version, written in small batches:
a run that was interrupted, or repeated with other prompts, reads only what is new. All the rest
(statistics, head, costs) is computed anew each time.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import sqlite3
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from langchain_core.messages import BaseMessage

from xrouter_lg.arrays import Floats
from xrouter_lg.calls.tokens import prompt_size
from xrouter_lg.checkpoints.manifest import Manifest
from xrouter_lg.policies.head import HeadPolicy
from xrouter_lg.policies.slots.prompts import SlotPolicy, SlotReading, blocks_of
from xrouter_lg.policies.trained import Estimate
from xrouter_lg.pool.card import ModelCard
from xrouter_lg.prompts import slots
from xrouter_lg.types import RouteRequest

_BATCH = 64
"""Prompts between two commits."""

_Key = tuple[str, tuple[int, ...]]
"""A prompt, by its digest, and the blocks that it is read behind."""

Progress = Callable[[int, int, str], None]
"""Called with characters done, characters in all, and a word on how it goes."""


@dataclass(frozen=True)
class Estimates:
    """N prompts × M cards, in the order of `cards`."""

    cards: tuple[str, ...]
    quality: Floats
    """[N, M] expected score."""
    cost: Floats
    """[N, M] expected USD, from the checkpoint's own statistics."""
    tokens: Floats
    """[N] tokens of the router model for the decision."""

    def of(self, cards: Sequence[str]) -> Estimates:
        """The same with these cards, in this order. One that the checkpoint does not know can't be
        routed to by it, and is out of its reach."""
        shape = len(self.tokens), len(cards)
        quality, cost = np.full(shape, -1e9), np.full(shape, 1e9)
        for m, card in enumerate(cards):
            if card in self.cards:
                at = self.cards.index(card)
                quality[:, m], cost[:, m] = self.quality[:, at], self.cost[:, at]
        return Estimates(tuple(cards), quality, cost, self.tokens)


def all_cards(manifest: Manifest) -> tuple[ModelCard, ...]:
    """The checkpoint's cards as candidates.

    They have no price: expected costs are then what was paid in training, the only thing that may
    be known of a table of recorded costs.
    """
    # A server of one's own has no list price, whatever its model is called; nobody calls it.
    return tuple(
        ModelCard(name=card.name, model="recorded", base_url="http://127.0.0.1:9/v1")
        for card in manifest.every_card
    )


def cache_folder() -> Path:
    """Where estimates are kept unless the caller says otherwise."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "xrouter" / "judge"


def estimate_prompts(
    policy: SlotPolicy,
    conversations: Sequence[Sequence[BaseMessage]],
    *,
    candidates: Sequence[Sequence[str]] | None = None,
    cache: Path | None = None,
    dtype: str = "float32",
    progress: Progress | None = None,
) -> Estimates:
    """Estimates for what was asked, in its order.

    `candidates` are the cards that each prompt may go to (left out: all): as in serving, the
    language model reads the blocks of those only. What is in `cache` (a folder; None: nothing is
    kept) is not read again. An interrupt loses at most one batch. `dtype` is what the policy
    computes in.
    """
    cards = all_cards(policy.manifest)
    names = tuple(card.name for card in cards)
    of_each = [names] * len(conversations) if candidates is None else candidates
    keys = [
        (_key(messages), blocks_of(policy.manifest, allowed))
        for messages, allowed in zip(conversations, of_each, strict=True)
    ]
    requests = {key: request_of(said) for key, said in zip(keys, conversations, strict=True)}
    stored = _Names(blocks_of(policy.manifest, names))
    with closing(_open(policy, cache, dtype)) as store:
        known = _known(store, {stored(key): key for key in requests})
        # Of one length together: a pass costs what its longest prompt costs.
        pending = sorted(
            requests.keys() - known.keys(), key=lambda key: (_size(requests[key]), key)
        )
        whole = sum(map(_size, requests.values()))
        done = whole - sum(_size(requests[key]) for key in pending)
        for start in range(0, len(pending), _BATCH):
            if progress is not None:
                progress(done, whole, f"{len(known)} of {len(requests)} prompts")
            batch = pending[start : start + _BATCH]
            questions = [slots.render_question(requests[key].messages) for key in batch]
            blocks = [read for _, read in batch]
            for key, reading in zip(batch, policy.read_many(questions, blocks), strict=True):
                known[key] = reading
                row = zlib.compress(json.dumps([reading.prompts, reading.logprobs]).encode())
                store.execute("INSERT OR REPLACE INTO readings VALUES (?, ?)", (stored(key), row))
                done += _size(requests[key])
            store.commit()
        if progress is not None:
            progress(whole, whole, f"{len(known)} of {len(requests)} prompts")
    unique = dict(
        zip(
            requests,
            policy.estimate(list(requests.values()), cards, [known[key] for key in requests]),
            strict=True,
        )
    )
    return _arrays(names, [unique[key] for key in keys])


def estimate_head(policy: HeadPolicy, conversations: Sequence[Sequence[BaseMessage]]) -> Estimates:
    """Estimates of a head, in the order of what was asked: a millisecond each, so none is kept."""
    cards = all_cards(policy.manifest)
    found = policy.estimate([request_of(said) for said in conversations], cards)
    return _arrays(tuple(card.name for card in cards), found)


def _arrays(names: tuple[str, ...], found: Sequence[Estimate]) -> Estimates:
    return Estimates(
        names,
        np.array([[e.expected.quality[name] for name in names] for e in found]),
        np.array([[e.expected.cost_usd[name] for name in names] for e in found]),
        np.array([float(e.router_tokens) for e in found]),
    )


def _key(messages: Sequence[BaseMessage]) -> str:
    said = json.dumps([[message.type, message.text] for message in messages])
    return hashlib.sha256(said.encode()).hexdigest()


@dataclass(frozen=True)
class _Names:
    """Names of readings in the store: the prompt, and the blocks unless all of them were read."""

    every: tuple[int, ...]

    def __call__(self, key: _Key) -> str:
        prompt, blocks = key
        return prompt if blocks == self.every else f"{prompt}/{','.join(map(str, blocks))}"


def request_of(messages: Sequence[BaseMessage]) -> RouteRequest:
    """A recorded conversation as a request, at cost weight 0."""
    size = prompt_size(messages)
    return RouteRequest(
        messages=list(messages), prompt_tokens=size.likely, prompt_tokens_max=size.at_most
    )


def _size(request: RouteRequest) -> int:
    return sum(len(message.text) for message in request.messages)


def _open(policy: SlotPolicy, cache: Path | None, dtype: str) -> sqlite3.Connection:
    if cache is None:
        store = sqlite3.connect(":memory:")
    else:
        cache.mkdir(parents=True, exist_ok=True)
        store = sqlite3.connect(cache / f"{_reading_key(policy.manifest, dtype)}.db", timeout=60)
    store.execute("CREATE TABLE IF NOT EXISTS readings (prompt TEXT PRIMARY KEY, row BLOB)")
    return store


def _known(store: sqlite3.Connection, wanted: Mapping[str, _Key]) -> dict[_Key, SlotReading]:
    found = {}
    for name, row in store.execute("SELECT prompt, row FROM readings"):
        if (key := wanted.get(name)) is not None:
            prompts, logprobs = json.loads(zlib.decompress(row))
            found[key] = SlotReading(key[1], tuple(prompts), tuple(logprobs))
    return found


def _reading_key(manifest: Manifest, dtype: str) -> str:
    """Digest of all that a reading depends on but its prompt."""
    parts = [
        dict(manifest.files),
        manifest.model.base.sha256,
        slots.prompt_hash(),
        [card.line for card in manifest.cards],
        dtype,
        # With a server neither need be here.
        [_version(name) for name in ("torch", "transformers")],
        *manifest.model.blocks,
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
