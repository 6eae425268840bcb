"""Gemini's chat model, with what its class drops: tokens by modality, of which sound and pictures
have rates of their own, and errors in the place of an answer."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from copy import copy
from functools import lru_cache
from typing import Any

from xrouter_lg.calls.raw.watching import (
    Around,
    ErrorInAnswerError,
    Watcher,
    error_in,
    watching,
)
from xrouter_lg.said import RAW_USAGE_KEY
from xrouter_lg.said.message import mapping

_APART = ("audio", "image", "video")
_TOLD = ('"error"', '"message"', '"msg"', '"detail"')
"""What stands in an error."""


@lru_cache(maxsize=8)
def keeping_gemini(kind: Any) -> type[Any]:
    """A class that keeps the provider's own count in ``response_metadata``."""

    return watching(kind, _Watched, whole=_told, chunk=_last)


class _Watched(Watcher):
    """A client of Gemini's that notes what its answers count. It is asked once."""

    def __init__(self, client: Any) -> None:
        super().__init__(client)
        self.aio = _Async(client.aio, self)
        self.usage: dict[str, Any] | None = None

    def noted(self, answer: Any) -> Any:
        count = getattr(answer, "usage_metadata", None)
        self.usage = None if count is None else _count(count)
        return answer


class _Async(Around):
    def __init__(self, client: Any, watched: _Watched) -> None:
        super().__init__(client)
        self.models = _Models(client.models, watched)


class _Models(Around):
    """``client.aio.models``. An error in the place of an answer stands in what was received alone:
    its package reads of it an answer that has nothing."""

    def __init__(self, models: Any, watched: _Watched) -> None:
        asked = copy(models)
        if hasattr(asked, "_api_client"):
            asked._api_client = _Received(asked._api_client)
        super().__init__(asked)
        self._watched = watched

    async def generate_content(self, **request: Any) -> Any:
        return self._watched.noted(await self._inner.generate_content(**request))

    async def generate_content_stream(self, **request: Any) -> Any:
        return self._each(await self._inner.generate_content_stream(**request))

    async def _each(self, stream: Any) -> AsyncIterator[Any]:
        async for chunk in stream:
            yield self._watched.noted(chunk)


class _Received(Around):
    """What sends the package's requests, and looks at what comes back."""

    async def async_request(self, *args: Any, **options: Any) -> Any:
        response = await self._inner.async_request(*args, **options)
        body = response.body or ""
        if '"candidates"' not in body and any(word in body for word in _TOLD):
            error = error_in(json.loads(body), "candidates")
            if error is not None:
                raise _raised(error)
        return response


def _raised(error: Any) -> Exception:
    """The error as the package raises one that came with its own status."""
    from google.genai.errors import ClientError, ServerError

    code = mapping(error).get("code")
    if not isinstance(code, int) or not 400 <= code < 600:
        return ErrorInAnswerError(error)
    kind = ClientError if code < 500 else ServerError
    return kind(code, {"error": error})


def _count(count: Any) -> dict[str, Any]:
    """The parts of a count that LangChain's lacks; the totals are in its own."""
    return {
        "prompt_tokens": (count.prompt_token_count or 0) + (count.tool_use_prompt_token_count or 0),
        "completion_tokens": (count.candidates_token_count or 0)
        + (count.thoughts_token_count or 0),
        "total_tokens": count.total_token_count or 0,
        "prompt_tokens_details": {
            "cached_tokens": count.cached_content_token_count or 0,
            **_by_modality(count.prompt_tokens_details),
        },
        "completion_tokens_details": {
            "reasoning_tokens": count.thoughts_token_count or 0,
            **_by_modality(count.candidates_tokens_details),
        },
    }


def _by_modality(details: Any) -> dict[str, int]:
    found = {str(getattr(d.modality, "value", d.modality)).lower(): d for d in details or ()}
    return {name: found[name].token_count or 0 for name in _APART if name in found}


def _told(result: Any, client: _Watched) -> Any:
    for generation in result.generations:
        if client.usage is not None:
            generation.message.response_metadata[RAW_USAGE_KEY] = [client.usage]
    return result


def _last(chunk: Any, client: _Watched) -> Any:
    """A chunk with its count, where it is the last one: each repeats what was said before."""
    meta = chunk.message.response_metadata
    if client.usage is not None and (
        meta.get("finish_reason") or (chunk.generation_info or {}).get("finish_reason")
    ):
        meta[RAW_USAGE_KEY] = [client.usage]
    return chunk
