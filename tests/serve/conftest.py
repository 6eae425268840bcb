"""A server in this process, before fake providers over HTTP."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest
from openai import OpenAI

from tests.support.apps import pool
from xrouter_lg import Budget, ChatXRouter, Recorder
from xrouter_lg.serve.access.keys import KeyStore
from xrouter_lg.serve.app import create_app
from xrouter_lg.serve.engine import routed
from xrouter_lg.serve.run import running
from xrouter_lg.serve.settings import ServerSettings
from xrouter_lg.testing import FakeOpenAIServer

Serve = Callable[..., AbstractContextManager[str]]


@pytest.fixture
def serve(fake: FakeOpenAIServer) -> Serve:
    """Starts a server before the fake provider; gives its URL."""

    @contextlib.contextmanager
    def serve(
        *,
        cards: Any = None,
        policy: Any = "cheapest",
        keys: KeyStore | None = None,
        settings: ServerSettings | None = None,
        traces: Recorder | None = None,
        budget: Budget | None = None,
        **options: Any,
    ) -> Iterator[str]:
        router = routed(cards or pool(fake), policy=policy, budget=budget)
        chat = ChatXRouter(router, traces=traces, **options)
        app = create_app(chat, keys=keys, settings=settings)
        with running(app, settings) as url:
            yield url

    return serve


@pytest.fixture
def url(serve: Serve) -> Iterator[str]:
    """A server that the cheapest card answers, and anybody may ask."""
    with serve() as started:
        yield started


@pytest.fixture
def client(url: str) -> Iterator[OpenAI]:
    """OpenAI's own client before it."""
    with OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as opened:
        yield opened
