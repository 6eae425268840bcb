"""Whoever takes tokens as they come has shown them to a user: then nobody else may answer."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.callbacks import (
    AsyncCallbackHandler,
    BaseCallbackHandler,
    UsageMetadataCallbackHandler,
)
from langchain_core.tracers.base import BaseTracer

from tests.support.apps import answer, app, ask, card
from xrouter_lg import ModelPool, XRouterNode
from xrouter_lg.errors import StreamInterruptedError
from xrouter_lg.testing import FakeOpenAIServer, FaultPlan, cut_stream

LARGE = "large says many more words than the others do"


class Websocket(AsyncCallbackHandler):
    """An app's own way to send tokens on to a user."""

    def __init__(self) -> None:
        self.sent = ""

    async def on_llm_new_token(self, token: Any, **kwargs: Any) -> None:
        self.sent += str(token or "")


class Counting(BaseCallbackHandler):
    """Looks at whole answers only."""

    def on_llm_end(self, response: Any, **kwargs: Any) -> None:
        pass


class Tracing(BaseTracer):
    """Keeps runs, as LangSmith's own tracer does."""

    def _persist_run(self, run: Any) -> None:
        pass


def streaming(fake: FakeOpenAIServer, **params: Any) -> ModelPool:
    params = {"streaming": True, **params}
    return ModelPool([card(fake, name, params=params) for name in ("small", "large")])


async def test_tokens_that_a_callback_handler_sends_on_have_been_seen(
    fake: FakeOpenAIServer,
) -> None:
    fake.faults = FaultPlan({"small": cut_stream(2)})
    user = Websocket()
    with pytest.raises(StreamInterruptedError, match="small"):
        await app(XRouterNode(streaming(fake))).ainvoke(ask(), {"callbacks": [user]})
    assert user.sent == "small says"
    assert fake.calls == {"small": 1}


async def test_a_handler_that_the_model_itself_was_built_with_counts_too(
    fake: FakeOpenAIServer,
) -> None:
    fake.faults = FaultPlan({"small": cut_stream(2)})
    user = Websocket()
    with pytest.raises(StreamInterruptedError):
        await app(XRouterNode(streaming(fake, callbacks=[user]))).ainvoke(ask())
    assert user.sent == "small says"


@pytest.mark.parametrize(
    "handler",
    [Counting(), UsageMetadataCallbackHandler(), Tracing()],
    ids=lambda it: type(it).__name__,
)
async def test_those_who_only_keep_records_take_no_tokens(
    fake: FakeOpenAIServer, handler: BaseCallbackHandler
) -> None:
    fake.faults = FaultPlan({"small": cut_stream(2)})
    state = await app(XRouterNode(streaming(fake))).ainvoke(ask(), {"callbacks": [handler]})
    assert answer(state).content == LARGE


async def test_our_own_recorder_takes_no_tokens(fake: FakeOpenAIServer, tmp_path: Any) -> None:
    fake.faults = FaultPlan({"small": cut_stream(2)})
    node = XRouterNode(streaming(fake), traces=tmp_path / "traces.db")
    assert answer(await app(node).ainvoke(ask())).content == LARGE
