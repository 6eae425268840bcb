"""Mistral's chat model, with what its class drops: counts of a stream beyond three sums, and errors
in the place of an answer."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
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

_TOLD = ('"usage"', '"error"')
"""What stands in a line that is worth reading."""


@lru_cache(maxsize=8)
def keeping_mistral(kind: Any) -> type[Any]:
    """A class that keeps the provider's own counts of a stream in ``response_metadata``."""
    return watching(kind, _Watched, chunk=_marked, place="async_client")


class _Watched(Watcher):
    """A client that notes what Mistral's answers say. It is asked once."""

    def __init__(self, client: Any) -> None:
        super().__init__(client)
        self.usages: list[Any] = []
        self.error: Any = None

    async def post(self, *args: Any, **options: Any) -> Any:
        response = await self._inner.post(*args, **options)
        body = response.content
        if response.status_code == 200 and (b'"choices"' not in body or b'"error"' in body):
            self.error = error_in(response.json(), "choices")
            self.ended()
        return response

    def stream(self, *args: Any, **options: Any) -> _Stream:
        return _Stream(self._inner.stream(*args, **options), self)

    def noted(self, line: str) -> None:
        """A line of a stream."""
        if not any(word in line for word in _TOLD):
            return
        try:
            said = mapping(json.loads(line.removeprefix("data:")))
        except ValueError:
            return
        self.error = self.error or error_in(said, "choices")
        if usage := mapping(said.get("usage")):
            self.usages.append(usage)

    def ended(self) -> None:
        if self.error is not None:
            raise ErrorInAnswerError(self.error)


class _Stream:
    """A request whose response is read line by line."""

    def __init__(self, asked: Any, watched: _Watched) -> None:
        self._asked, self._watched = asked, watched

    async def __aenter__(self) -> _Response:
        return _Response(await self._asked.__aenter__(), self._watched)

    async def __aexit__(self, *error: Any) -> Any:
        return await self._asked.__aexit__(*error)


class _Response(Around):
    def __init__(self, response: Any, watched: _Watched) -> None:
        super().__init__(response)
        self._watched = watched

    async def aiter_text(self) -> AsyncIterator[str]:
        rest = ""
        async for text in self._inner.aiter_text():
            *lines, rest = (rest + text).split("\n")
            for line in lines:
                self._watched.noted(line)
            yield text
            self._watched.ended()  # what came before an error has been said by now
        self._watched.noted(rest)

    async def aiter_lines(self) -> AsyncIterator[str]:
        async for line in self._inner.aiter_lines():
            self._watched.noted(line)
            yield line
            self._watched.ended()


def _marked(chunk: Any, client: _Watched) -> Any:
    """A chunk with the counts that came up to it."""
    if client.usages:
        chunk.message.response_metadata[RAW_USAGE_KEY] = client.usages
        client.usages = []
    return chunk
