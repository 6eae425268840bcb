"""OpenAI's Responses, with what LangChain drops of what the provider's own tools did: their count,
and calls of kinds that it does not know."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

from xrouter_lg.calls.raw.watching import Around, Watcher
from xrouter_lg.said import HOSTED_CALLS_KEY, TOOL_USAGE_KEY

_DROPPED = frozenset({"shell_call"})
_FUNCTIONS = frozenset({"function", "custom"})


def runs_tools(model: Any, given: Mapping[str, Any]) -> bool:
    """Whether a request has tools that OpenAI runs by itself: no other needs to be watched."""
    listed = given.get("tools") or (model.model_kwargs or {}).get("tools")
    return isinstance(listed, list | tuple) and any(
        isinstance(tool, Mapping) and tool.get("type", "function") not in _FUNCTIONS
        for tool in listed
    )


def watched(model: Any) -> tuple[Any, WatchedOpenAI]:
    """A copy of a chat model that notes what its one request is told."""
    client = WatchedOpenAI(model.root_async_client)
    return model.model_copy(update={"root_async_client": client}), client


class WatchedOpenAI(Watcher):
    """A client of OpenAI's that notes what a response says of tools."""

    def __init__(self, client: Any) -> None:
        super().__init__(client)
        self.told: dict[str, Any] = {}

    @property
    def responses(self) -> _Responses:
        return _Responses(self._inner.responses, self)

    @property
    def with_raw_response(self) -> Any:
        return _Raw(self._inner.with_raw_response, self)

    def noted(self, response: Any) -> None:
        usage = getattr(response, "tool_usage", None)
        if usage is not None:
            plain = usage if isinstance(usage, Mapping) else usage.model_dump(warnings=False)
            self.told[TOOL_USAGE_KEY] = dict(plain)
        dropped = [
            item.model_dump(exclude_none=True, warnings=False)
            for item in getattr(response, "output", None) or ()
            if getattr(item, "type", None) in _DROPPED
        ]
        if dropped:
            self.told[HOSTED_CALLS_KEY] = [
                {"type": item["type"], "environment": item.get("environment")} for item in dropped
            ]

    def mark(self, message: Any) -> None:
        """Put what was told onto an answer, or onto the last chunk of one."""
        message.response_metadata.update(self.told)
        self.told = {}


class _Raw(Around):
    """``client.with_raw_response``."""

    def __init__(self, raw: Any, client: WatchedOpenAI) -> None:
        super().__init__(raw)
        self._client = client

    @property
    def responses(self) -> _Whole:
        return _Whole(self._inner.responses, self._client)


class _Responses(Around):
    """``client.responses``: streams, and whole answers by way of ``with_raw_response``."""

    def __init__(self, responses: Any, client: WatchedOpenAI) -> None:
        super().__init__(responses)
        self._client = client

    @property
    def with_raw_response(self) -> _Whole:
        return _Whole(self._inner.with_raw_response, self._client)

    async def create(self, **body: Any) -> _Stream:
        return _Stream(await self._inner.create(**body), self._client)


class _Whole(Around):
    """Whole answers, each as the response that it came in; of a stream nothing is noted there."""

    def __init__(self, asked: Any, client: WatchedOpenAI) -> None:
        super().__init__(asked)
        self._client = client

    async def create(self, **body: Any) -> Any:
        raw = await self._inner.create(**body)
        return _RawStream(raw, self._client) if body.get("stream") else self._noted(raw)

    async def parse(self, **body: Any) -> Any:
        return self._noted(await self._inner.parse(**body))

    def _noted(self, raw: Any) -> Any:
        self._client.noted(raw.parse())
        return raw


class _RawStream(Around):
    """A stream with its response's headers."""

    def __init__(self, raw: Any, client: WatchedOpenAI) -> None:
        super().__init__(raw)
        self._client = client

    def parse(self) -> _Stream:
        return _Stream(self._inner.parse(), self._client)


class _Stream(Around):
    """The events of a streamed response."""

    def __init__(self, stream: Any, client: WatchedOpenAI) -> None:
        super().__init__(stream)
        self._client = client

    async def __aenter__(self) -> _Stream:
        await self._inner.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> Any:
        return await self._inner.__aexit__(*error)

    async def __aiter__(self) -> AsyncIterator[Any]:
        async for event in self._inner:
            if (response := getattr(event, "response", None)) is not None:
                self._client.noted(response)
            yield event
