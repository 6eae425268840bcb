"""Reads an answer as the class of the card that gave it would."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from itertools import chain
from typing import Any

from langchain_core.messages import AIMessage
from langchain_core.runnables import Runnable, RunnableConfig

from xrouter_lg.calls.worker.structured import Structured
from xrouter_lg.errors import RequestError
from xrouter_lg.pool.pool import ModelPool
from xrouter_lg.routing.router import Router
from xrouter_lg.tracing.runs.extract import RECORD_KEY


class CardParser(Runnable[AIMessage, Any]):
    """The parser that belongs to the card which answered. Partial answers are read as they come,
    where that parser can."""

    def __init__(self, router: Router, structured: Structured) -> None:
        self._router, self._structured = router, structured

    def check(self, pool: ModelPool) -> None:
        """Find now what no card can do.

        Raises:
            RequestError: none of the pool's classes takes this schema with these options.
        """
        problem: RequestError | None = None
        for card in pool:
            try:
                self._of(card.name, pool)
            except RequestError as error:
                problem = error
            else:
                return
        assert problem is not None
        raise problem

    def invoke(self, input: AIMessage, config: RunnableConfig | None = None, **_: Any) -> Any:
        return self._for(input).invoke(input, config)

    async def ainvoke(
        self, input: AIMessage, config: RunnableConfig | None = None, **_: Any
    ) -> Any:
        return await self._for(input).ainvoke(input, config)

    def transform(
        self, input: Iterator[AIMessage], config: RunnableConfig | None = None, **_: Any
    ) -> Iterator[Any]:
        for first in input:  # it says which card the others come from too
            yield from self._for(first).transform(chain((first,), input), config)

    async def atransform(
        self, input: AsyncIterator[AIMessage], config: RunnableConfig | None = None, **_: Any
    ) -> AsyncIterator[Any]:
        async for first in input:

            async def whole(first: AIMessage = first) -> AsyncIterator[AIMessage]:
                yield first
                async for chunk in input:
                    yield chunk

            async for part in self._for(first).atransform(whole(), config):
                yield part

    def _for(self, message: AIMessage) -> Runnable[Any, Any]:
        pool = self._router.pool
        route = (message.response_metadata.get(RECORD_KEY) or {}).get("route")
        return self._of(str(route) if route in pool else pool.default, pool)

    def _of(self, card: str, pool: ModelPool) -> Runnable[Any, Any]:
        model = self._router.workers.prepared(pool[card])
        return self._structured.parts_for(model).parser
