"""The ways in which an app asks. A surface that is added here meets every kind of failure."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import openai
from langchain.agents import create_agent
from langchain_core.messages import AIMessage

from tests.support.apps import app, ask, calls, pool, prefers
from xrouter_lg import Action, ChatXRouter, Policy, Recorder, XRouterMiddleware, XRouterNode
from xrouter_lg.errors import ErrorClass, StreamInterruptedError
from xrouter_lg.serve.app import create_app
from xrouter_lg.serve.engine import routed
from xrouter_lg.serve.run import running
from xrouter_lg.testing import FakeOpenAIServer


@dataclass(frozen=True)
class Answer:
    text: str
    streamed: str = ""
    """What had come on the way; empty without a stream."""
    record: dict[str, Any] | None = None
    """As the caller has it; None over HTTP."""


Surface = Callable[[FakeOpenAIServer, Recorder], Answer]


def one_call() -> Policy:
    return prefers("small", "large")


def fan_out() -> Policy:
    """The card that fails and the healthy one at once."""
    return calls(Action("call", card="small"), Action("call", card="large"))


def graph(fake: FakeOpenAIServer, recorder: Recorder, policy: Policy | None = None) -> Any:
    cards = pool(fake, "small", "large")
    return app(XRouterNode(cards, policy=policy or one_call(), traces=recorder))


def chat(fake: FakeOpenAIServer, recorder: Recorder) -> ChatXRouter:
    return ChatXRouter(pool(fake, "small", "large"), policy=one_call(), traces=recorder)


def of(message: AIMessage, streamed: str = "") -> Answer:
    return Answer(str(message.text), streamed, message.response_metadata["xrouter"])


def taken(parts: list[Any]) -> Answer:
    said = [part[0] for mode, part in parts if mode == "messages"]
    # What comes whole at the end is the node's own message, and was streamed before.
    text = "".join(str(chunk.text) for chunk in said if type(chunk).__name__ == "AIMessageChunk")
    return of(parts[-1][1]["messages"][-1], text)


def invoke(fake: FakeOpenAIServer, recorder: Recorder) -> Answer:
    return of(graph(fake, recorder).invoke(ask())["messages"][-1])


def ainvoke(fake: FakeOpenAIServer, recorder: Recorder) -> Answer:
    return of(asyncio.run(graph(fake, recorder).ainvoke(ask()))["messages"][-1])


def stream(fake: FakeOpenAIServer, recorder: Recorder) -> Answer:
    return taken(list(graph(fake, recorder).stream(ask(), stream_mode=["messages", "values"])))


def astream(fake: FakeOpenAIServer, recorder: Recorder) -> Answer:
    async def take() -> list[Any]:
        parts = graph(fake, recorder).astream(ask(), stream_mode=["messages", "values"])
        return [part async for part in parts]

    return taken(asyncio.run(take()))


def fanned(fake: FakeOpenAIServer, recorder: Recorder) -> Answer:
    return of(graph(fake, recorder, fan_out()).invoke(ask())["messages"][-1])


def afanned(fake: FakeOpenAIServer, recorder: Recorder) -> Answer:
    return of(asyncio.run(graph(fake, recorder, fan_out()).ainvoke(ask()))["messages"][-1])


def chat_model(fake: FakeOpenAIServer, recorder: Recorder) -> Answer:
    return of(chat(fake, recorder).invoke(ask()["messages"]))


def chat_model_stream(fake: FakeOpenAIServer, recorder: Recorder) -> Answer:
    whole: Any = None
    for chunk in chat(fake, recorder).stream(ask()["messages"]):
        whole = chunk if whole is None else whole + chunk
    return of(whole, str(whole.text))


def agent(fake: FakeOpenAIServer, recorder: Recorder) -> Answer:
    model = chat(fake, recorder)
    built: Any = create_agent(model, middleware=[XRouterMiddleware(model)])
    return of(asyncio.run(built.ainvoke(ask()))["messages"][-1])


def server(fake: FakeOpenAIServer, recorder: Recorder) -> Answer:
    with asking(fake, recorder) as client:
        answer = client.chat.completions.create(
            model="xrouter", messages=[{"role": "user", "content": ask()["messages"][0].text}]
        )
    return Answer(answer.choices[0].message.content or "")


def server_stream(fake: FakeOpenAIServer, recorder: Recorder) -> Answer:
    said = ""
    with asking(fake, recorder) as client:
        try:
            for chunk in client.chat.completions.create(
                model="xrouter",
                messages=[{"role": "user", "content": ask()["messages"][0].text}],
                stream=True,
            ):
                said += (chunk.choices[0].delta.content or "") if chunk.choices else ""
        except openai.APIError as error:
            raise StreamInterruptedError("small", ErrorClass.STREAM_CUT, str(error)) from error
    return Answer(said, said)


@contextmanager
def asking(fake: FakeOpenAIServer, recorder: Recorder) -> Iterator[openai.OpenAI]:
    """OpenAI's client before a server before the fake provider."""
    router = routed(pool(fake, "small", "large"), policy=one_call())
    with (
        running(create_app(ChatXRouter(router, traces=recorder))) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as client,
    ):
        yield client


SURFACES: dict[str, Surface] = {
    "invoke": invoke,
    "ainvoke": ainvoke,
    "stream": stream,
    "astream": astream,
    "fan-out": fanned,
    "async fan-out": afanned,
    "chat model": chat_model,
    "chat model stream": chat_model_stream,
    "agent": agent,
    "server": server,
    "server stream": server_stream,
}
