"""Perplexity's chat model, with what its class drops: the cost, and how an answer ended."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from functools import lru_cache
from typing import Any

from pydantic import SecretStr

from xrouter_lg.calls.raw.watching import watching
from xrouter_lg.said import RAW_USAGE_KEY


def perplexity_clients(base_url: str, api_key: SecretStr | None) -> dict[str, Any]:
    """The clients that ask ``base_url``, for which Perplexity's chat model has no field."""
    from perplexity import AsyncPerplexity, Perplexity

    key = os.environ.get("PPLX_API_KEY") if api_key is None else api_key.get_secret_value()
    options: dict[str, Any] = {"base_url": base_url, "api_key": key, "max_retries": 0}
    return {"client": Perplexity(**options), "async_client": AsyncPerplexity(**options)}


@lru_cache(maxsize=8)
def keeping_perplexity(kind: Any) -> type[Any]:
    """A class that keeps the provider's own counts, its mark and its finish reason in
    ``response_metadata``."""

    return watching(
        kind,
        _Watched,
        whole=_told,
        chunk=_marked,
        async_place="async_client",
        async_watch=_AsyncWatched,
    )


class _Watched:
    """A client of Perplexity's that notes what its chat completions say. It is asked once."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.chat = self.completions = self
        self.usage: dict[str, Any] | None = None
        self.finish: str | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def create(self, **options: Any) -> Any:
        answer = self._client.chat.completions.create(**options)
        return self._each(answer) if options.get("stream") else self._noted(answer)

    def _each(self, stream: Any) -> Iterator[Any]:
        return map(self._noted, stream)

    def _noted(self, answer: Any) -> Any:
        usage = answer.usage
        self.usage = None if usage is None else usage.model_dump(exclude_none=True)
        if answer.choices:
            self.finish = answer.choices[0].finish_reason
        return answer


class _AsyncWatched(_Watched):
    async def create(self, **options: Any) -> Any:
        answer = await self._client.chat.completions.create(**options)
        return self._aeach(answer) if options.get("stream") else self._noted(answer)

    async def _aeach(self, stream: Any) -> AsyncIterator[Any]:
        async for chunk in stream:
            yield self._noted(chunk)


def _marked(generation: Any, client: _Watched) -> Any:
    """A chunk, or an answer, with the count that came with it."""
    meta = generation.message.response_metadata
    meta["model_provider"] = "perplexity"
    if client.usage:
        meta[RAW_USAGE_KEY] = [client.usage]
        client.usage = None  # of one chunk
    return generation


def _told(result: Any, client: _Watched) -> Any:
    for generation in result.generations:
        _marked(generation, client)
        if client.finish is not None:  # a stream says it by itself
            generation.message.response_metadata["finish_reason"] = client.finish
    return result
