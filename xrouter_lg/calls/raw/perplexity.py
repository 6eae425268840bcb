"""Perplexity's chat model, with what its class drops: the cost, how an answer ended, errors inside
an answer."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

from pydantic import SecretStr

from xrouter_lg.calls.raw.watching import (
    Around,
    ErrorInAnswerError,
    Watcher,
    error_in,
    watching,
)
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
    ``response_metadata``, of chat completions and of the Responses API."""
    return watching(kind, _Watched, whole=_told, chunk=_marked, place="async_client")


class _Watched(Watcher):
    """A client of Perplexity's that notes what its answers say. It is asked once."""

    def __init__(self, client: Any) -> None:
        super().__init__(client)
        self.chat = SimpleNamespace(completions=_Watch(client.chat.completions, self))
        self.responses = _Watch(client.responses, self)
        self.usage: dict[str, Any] | None = None
        self.finish: str | None = None

    def noted(self, answer: Any) -> Any:
        """Of an answer, a chunk of one, or an event whose response has ended."""
        error = getattr(answer, "error", None)
        if not str(getattr(answer, "type", "")).startswith("response."):
            if error is None and not getattr(answer, "choices", None):
                error = error_in(_plain(answer), "output")
            if error is not None:
                raise ErrorInAnswerError(_plain(error))
        usage = getattr(getattr(answer, "response", None) or answer, "usage", None)
        self.usage = None if usage is None else _plain(usage)
        if choices := getattr(answer, "choices", None):
            self.finish = choices[0].finish_reason
        return answer


class _Watch(Around):
    """What answers are asked of: ``chat.completions``, or ``responses``."""

    def __init__(self, asked: Any, watched: _Watched) -> None:
        super().__init__(asked)
        self._watched = watched

    async def create(self, **options: Any) -> Any:
        answer = await self._inner.create(**options)
        return self._each(answer) if options.get("stream") else self._watched.noted(answer)

    async def _each(self, stream: Any) -> AsyncIterator[Any]:
        async for chunk in stream:
            yield self._watched.noted(chunk)


def _plain(value: Any) -> Any:
    """What the package has parsed, and does not check."""
    if not hasattr(value, "model_dump"):
        return value
    return value.model_dump(exclude_none=True, warnings=False)


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
