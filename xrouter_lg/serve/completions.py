"""``/v1/chat/completions``: whole or as a stream of events."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, cast

from langchain_core.messages import AIMessageChunk

from xrouter_lg.serve.engine import ServingEngine, Visit
from xrouter_lg.serve.live import DONE, Out, event
from xrouter_lg.serve.wire.asked import AskedChat
from xrouter_lg.serve.wire.said_back import (
    ChoiceStream,
    Frame,
    completion,
    completion_id,
    record_of,
    shown_record,
    summed,
)

ENDPOINT = "/v1/chat/completions"


async def complete(engine: ServingEngine, asked: AskedChat, visit: Visit, out: Out) -> None:
    """Answer one request."""
    if asked.stream:
        await _stream(engine, asked, visit, out)
        return
    created = int(time.time())
    messages = await engine.answers(asked, visit)
    headers = engine.headers(visit, [record_of(message) for message in messages])
    await out.json(completion(messages, visit.trace_ids, created=created), headers)


async def _stream(engine: ServingEngine, asked: AskedChat, visit: Visit, out: Out) -> None:
    choices = [ChoiceStream(index) for index in range(asked.n)]
    envelope: dict[str, Any] = {}
    chunks = cast("AsyncGenerator[tuple[int, AIMessageChunk]]", engine.chunks(asked, visit))
    calls: list[dict[str, Any]] = []
    async with aclosing(chunks):
        async for index, chunk in chunks:
            choice = choices[index]
            frames = choice.frames(chunk)
            if not envelope:
                envelope = _envelope(engine, visit, choice)
                engine.metrics.first_chunk(time.perf_counter() - visit.started)
                await out.start_events(engine.headers(visit, [choice.record]))
            calls += [dict(call) for call in chunk.tool_call_chunks if call.get("id")]
            if frames:
                await out.events(b"".join(_event(envelope, frame) for frame in frames))
    records = [choice.record for choice in choices]
    for choice in choices:
        engine.noted(visit, choice.record, calls if choice.index == 0 else [])
    shown = [shown_record(r, t) for r, t in zip(records, visit.trace_ids, strict=True)]
    last = b"".join(
        event({**envelope, "choices": [choice.last()], "xrouter": record})
        for choice, record in zip(choices, shown, strict=True)
    )
    if asked.include_usage:
        usage = summed([choice.usage() for choice in choices])
        last += event({**envelope, "choices": [], "usage": usage})
    await out.events(last + DONE)
    await out.end()


def _envelope(engine: ServingEngine, visit: Visit, choice: ChoiceStream) -> dict[str, Any]:
    route, pool = choice.route, engine.pool
    asked = pool[route].model_name if route is not None and route in pool else route
    return {
        "id": completion_id(visit.trace_ids[0]),
        "object": "chat.completion.chunk",
        "created": int(time.time()),
        "model": choice.model or asked,
    }


def _event(envelope: dict[str, Any], frame: Frame) -> bytes:
    return event({**envelope, "choices": [frame]})
