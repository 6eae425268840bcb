"""A running fake server, and the real ChatOpenAI that talks to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from langchain_openai import ChatOpenAI

from xrouter_lg.testing import FakeModel, FakeOpenAIServer

ChatFactory = Callable[..., ChatOpenAI]


@pytest.fixture
def server() -> Iterator[FakeOpenAIServer]:
    models = [FakeModel(name="small", reply="one two three four"), FakeModel(name="large")]
    with FakeOpenAIServer(models) as running:
        yield running


@pytest.fixture
def chat(server: FakeOpenAIServer) -> ChatFactory:
    """Build a client without retries; options override."""

    def build(model: str = "small", **options: Any) -> ChatOpenAI:
        return ChatOpenAI(
            **{
                "model": model,
                "base_url": server.base_url,
                "api_key": "test",
                "max_retries": 0,
                "stream_usage": True,
                # Not hashable, so langchain-openai makes a client of its own for this test
                # rather than one that a test on the same port left behind.
                "timeout": httpx.Timeout(10),
                **options,
            }
        )

    return build
