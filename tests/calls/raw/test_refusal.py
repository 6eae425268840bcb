"""A refusal is the same answer whether it was streamed or not."""

from __future__ import annotations

from typing import Any

from langchain_core.messages import AIMessageChunk
from langchain_openai import ChatOpenAI
from pydantic import SecretStr

from xrouter_lg.calls.raw.usage import with_raw_usage
from xrouter_lg.said import flaw_of


def test_a_streamed_refusal_keeps_its_words() -> None:
    model: Any = with_raw_usage(ChatOpenAI(model="m", api_key=SecretStr("k")))
    deltas = [({"role": "assistant", "refusal": "I can"}, None), ({"refusal": "not."}, None)]
    chunks = [
        model._convert_chunk_to_generation_chunk(
            {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]},
            AIMessageChunk,
            None,
        )
        for delta, finish in [*deltas, ({}, "stop")]
    ]
    message = chunks[0].message + chunks[1].message + chunks[2].message
    assert message.additional_kwargs["refusal"] == "I cannot."
    assert flaw_of(message) is None
