"""The chat models of cards, each with connections of its own in every event loop."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import weakref
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from langchain_core.language_models import BaseChatModel

from xrouter_lg.calls.chat_model import build_chat_model
from xrouter_lg.calls.raw.usage import with_raw_usage
from xrouter_lg.calls.worker.clients import OwnModel, with_own_clients
from xrouter_lg.pool.card import ModelCard

_KEPT = 256
"""Models that are kept at most, of cards that may have been reloaded away."""


@dataclass(frozen=True, slots=True)
class LoopModel:
    """A card's chat model in one event loop. The card keeps its id from being given again.
    ``retries`` is how often the model's own client would have asked again: one that was handed in,
    or that ``params`` ask it of."""

    card: ModelCard
    model: BaseChatModel
    retries: int = 0
    variants: dict[tuple[tuple[str, Any], ...], BaseChatModel] = field(default_factory=dict)
    """The model with other settings, by these."""

    def having(self, settings: Mapping[str, Any]) -> BaseChatModel:
        """The model with fields of its class set otherwise (``cache``, ``output_version``)."""
        if not settings:
            return self.model
        key = tuple(settings.items())
        found = self.variants.get(key)
        if found is None:
            found = self.variants[key] = self.model.model_copy(update=dict(settings))
            found.__dict__.pop("_serialized", None)  # it tells a cache's key
        return found


class LoopModels:
    """Builds a card's model once, and copies it once per event loop. Thread-safe."""

    def __init__(self) -> None:
        self._built: dict[int, tuple[ModelCard, BaseChatModel]] = {}
        self._by_loop: weakref.WeakKeyDictionary[
            asyncio.AbstractEventLoop, dict[int, LoopModel]
        ] = weakref.WeakKeyDictionary()
        self._lock = threading.Lock()

    def prepare(self, card: ModelCard) -> BaseChatModel:
        """The model that those of all loops are copies of.

        Raises:
            PoolError, MissingKeyError: as :func:`build_chat_model`.
        """
        with self._lock:
            _, model = self._built.get(id(card), (card, None))
            if model is None:
                model = build_chat_model(card)
                if len(self._built) >= _KEPT:
                    self._built.pop(next(iter(self._built)))
                self._built[id(card)] = card, model
            return model

    def of(self, card: ModelCard) -> LoopModel:
        """The card's model for the running event loop.

        Raises:
            PoolError, MissingKeyError: as :func:`build_chat_model`.
        """
        loop = asyncio.get_running_loop()
        mine = self._by_loop.get(loop)
        if mine is None:
            with self._lock:
                for old in [old for old in self._by_loop if old.is_closed()]:
                    del self._by_loop[old]
                mine = self._by_loop.setdefault(loop, {})
        entry = mine.get(id(card))
        if entry is None:
            own = with_own_clients(self.prepare(card))
            own = replace(own, model=with_raw_usage(own.model))
            entry = LoopModel(card, own.model, own.retries)
            _close_with_loop(loop, card, own, weakref.ref(self))
            if len(mine) >= _KEPT:
                mine.pop(next(iter(mine)))
            mine[id(card)] = entry
        return entry


def _close_with_loop(
    loop: asyncio.AbstractEventLoop,
    card: ModelCard,
    own: OwnModel,
    models: weakref.ref[LoopModels],
) -> None:
    """Close the clients that were made for this loop when the loop shuts down (``asyncio.run``,
    uvicorn) or the model goes. A loop has one hook for this: it closes its async generators."""
    closers = own.closers
    if not closers:
        return
    key = id(card)

    async def keep() -> AsyncGenerator[None, None]:
        # Neither model nor models may be reached from here: that would keep them for ever.
        try:
            yield
        finally:
            finalizer.detach()
            owner = models()
            if owner is not None:
                owner._by_loop.get(loop, {}).pop(key, None)
            for close in closers:
                with contextlib.suppress(Exception):  # closed by its package already
                    await close()

    keeper = keep()
    # finalize keeps the generator, and with it the clients, until the model goes.
    finalizer = weakref.finalize(own.model, _let_go, keeper)
    finalizer.atexit = False
    with contextlib.suppress(StopIteration):  # runs to the yield, and so registers with the loop
        keeper.__anext__().send(None)


def _let_go(keeper: AsyncGenerator[None, None]) -> None:
    """With its last reference a loop closes an async generator of its own, in the loop."""
