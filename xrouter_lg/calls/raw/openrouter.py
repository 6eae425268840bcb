"""OpenRouter's chat model, with the count of each chunk, of which its class keeps a sum: a prompt
that a provider behind it repeats counts again there."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import lru_cache
from typing import Any

from xrouter_lg.calls.raw.watching import Around, Watcher, watching
from xrouter_lg.said import RAW_USAGE_KEY


@lru_cache(maxsize=8)
def keeping_openrouter(kind: Any) -> type[Any]:
    """A class that keeps the provider's own counts of a stream in ``response_metadata``."""
    return watching(kind, _Watched, chunk=_marked)


class _Watched(Watcher):
    """A client of OpenRouter's that notes what its chunks count. It is asked once."""

    def __init__(self, client: Any) -> None:
        super().__init__(client)
        self.chat = _Chat(client.chat, self)
        self.usage: dict[str, Any] | None = None


class _Chat(Around):
    def __init__(self, chat: Any, watched: _Watched) -> None:
        super().__init__(chat)
        self._watched = watched

    async def send_async(self, **request: Any) -> Any:
        answer = await self._inner.send_async(**request)
        return self._each(answer) if request.get("stream") else answer

    async def _each(self, stream: Any) -> AsyncIterator[Any]:
        async for chunk in stream:
            usage = getattr(chunk, "usage", None)
            self._watched.usage = None if usage is None else usage.model_dump(by_alias=True)
            yield chunk


def _marked(chunk: Any, client: _Watched) -> Any:
    if client.usage is not None:
        chunk.message.response_metadata[RAW_USAGE_KEY] = [client.usage]
        client.usage = None
    return chunk
