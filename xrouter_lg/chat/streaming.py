"""An answer chunk by chunk, with its record on the last."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from langchain_core.messages import AIMessage, AIMessageChunk

from xrouter_lg.calls.told.token_sink import TokenSink, as_chunk
from xrouter_lg.tracing.runs.extract import RECORD_KEY
from xrouter_lg.tracing.runs.kept import KeptRecord

_ROUTE = "route"


async def chunks_of(
    answered: Callable[[TokenSink], Awaitable[AIMessage]],
) -> AsyncIterator[AIMessageChunk]:
    """The chunks of the answer that ``answered`` gives as a whole. The first says which card it
    comes from, the last has the rest of the record: added up, their metadata is the answer's.

    Raises:
        XRouterError: what ``answered`` raises, after the chunks that came before.
    """
    ready: asyncio.Queue[tuple[str, AIMessageChunk] | None] = asyncio.Queue()
    sink = TokenSink(lambda card, chunk: ready.put_nowait((card, chunk)))
    task = asyncio.ensure_future(answered(sink))
    task.add_done_callback(lambda _: ready.put_nowait(None))
    said: str | None = None
    try:
        while (item := await ready.get()) is not None:
            card, chunk = item
            if said is None:
                said, chunk = card, _noting(chunk, {_ROUTE: card})
            yield chunk
        message = task.result()
        record = dict(message.response_metadata[RECORD_KEY])
        if said is None and sink.last is None:
            yield as_chunk(message)  # several were asked, or the router answered itself
            return
        if said is not None:
            record.pop(_ROUTE)
        last = sink.last or AIMessageChunk(content="", id=message.id, chunk_position="last")
        yield _noting(last, record)
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait([task])


def _noting(chunk: AIMessageChunk, part: Mapping[str, Any]) -> AIMessageChunk:
    metadata = {**chunk.response_metadata, RECORD_KEY: KeptRecord(part)}
    return chunk.model_copy(update={"response_metadata": metadata})
