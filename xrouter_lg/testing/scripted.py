"""A chat model that answers from a script: no network, no thread, no chance.

Use it where the test is about the graph or the router. Where the test is about HTTP, its
errors or the bill, use a real client against `FakeOpenAIServer` instead.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from langchain_core.callbacks import (
    AsyncCallbackManagerForLLMRun,
    CallbackManagerForLLMRun,
)
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import PrivateAttr

from xrouter_lg.errors import XRouterError
from xrouter_lg.testing.tokens import count_tokens, split_tokens

Answer = str | AIMessage | Exception | type[Exception]
"""What one call gives: text, a whole message, or an exception to raise."""

Script = Iterable[Answer] | Callable[..., Answer]
"""Answers in order, or a function of `(messages)` or `(messages, call)` for every call."""


class ScriptExhaustedError(XRouterError, RuntimeError):
    """A scripted model was called more often than its script has answers."""


@dataclass(frozen=True)
class ModelCall:
    """What one call asked of a `ScriptedChatModel`."""

    number: int
    """Position of the call, from 0."""
    messages: list[BaseMessage]
    tools: list[dict[str, Any]] = field(default_factory=list)
    """Bound tools in OpenAI's format; empty without `bind_tools`."""
    temperature: float | None = None
    max_tokens: int | None = None
    stop: list[str] | None = None
    kwargs: dict[str, Any] = field(default_factory=dict)
    """Every keyword argument as it came, the ones above among them."""
    streamed: bool = False


class ScriptedChatModel(BaseChatModel):
    """Answer each call with the next entry of a script, and remember what was asked.

    `script` is a list or iterator (one entry per call, then `ScriptExhaustedError`) or a
    function called with the messages, or with the messages and the `ModelCall`. An entry is
    text, an `AIMessage` (tool calls, usage and response metadata are kept), or an exception,
    which is raised. Without `usage_metadata` a rough count is added: one token per word.
    The same instance may be used from many threads and event loops at once.
    """

    script: Any
    """See the class; not copied, so a function's own state stays the caller's."""
    model_name: str = "scripted"
    """Shown as `response_metadata["model_name"]`."""
    delay_s: float = 0.0
    """Seconds before each answer or first chunk; does not block the event loop when async."""

    _lock: threading.Lock = PrivateAttr(default_factory=threading.Lock)
    _calls: list[ModelCall] = PrivateAttr(default_factory=list)
    _next: Callable[[ModelCall], Answer] = PrivateAttr()

    def __init__(self, script: Script, **kwargs: Any) -> None:
        fields: dict[str, Any] = {"script": script, **kwargs}
        super().__init__(**fields)

    def model_post_init(self, context: Any, /) -> None:
        """Turn the script into one function, so that a call has no cases to tell apart."""
        super().model_post_init(context)
        if callable(self.script):
            self._next = _from_function(self.script)
        elif isinstance(self.script, str) or not isinstance(self.script, Iterable):
            raise TypeError(
                f"script={self.script!r} is not a list, an iterator or a function of the "
                "messages; for one answer write script=['text']"
            )
        else:
            self._next = _from_iterable(self.script, self._lock, self.model_name)

    @property
    def calls(self) -> list[ModelCall]:
        """Every call so far, in the order they arrived (a copy)."""
        with self._lock:
            return list(self._calls)

    @property
    def _llm_type(self) -> str:
        return "scripted"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"model_name": self.model_name}

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Bind tools in OpenAI's format; the script's function sees them in `call.tools`."""
        if tool_choice is not None:
            kwargs["tool_choice"] = tool_choice
        return self.bind(tools=[convert_to_openai_tool(tool) for tool in tools], **kwargs)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        if self.delay_s:
            time.sleep(self.delay_s)
        return self._result(self._record(messages, stop, kwargs))

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        # Own body rather than the inherited one, which would hop through a thread.
        if self.delay_s:
            await asyncio.sleep(self.delay_s)
        return self._result(self._record(messages, stop, kwargs))

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        if self.delay_s:
            time.sleep(self.delay_s)
        for chunk in _chunks(self._answer(self._record(messages, stop, kwargs, streamed=True))):
            if run_manager is not None:
                run_manager.on_llm_new_token(chunk.text, chunk=chunk)
            yield chunk

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        if self.delay_s:
            await asyncio.sleep(self.delay_s)
        for chunk in _chunks(self._answer(self._record(messages, stop, kwargs, streamed=True))):
            if run_manager is not None:
                await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
            yield chunk

    def _record(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None,
        kwargs: dict[str, Any],
        *,
        streamed: bool = False,
    ) -> ModelCall:
        with self._lock:
            call = ModelCall(
                number=len(self._calls),
                messages=list(messages),
                tools=list(kwargs.get("tools") or ()),
                temperature=kwargs.get("temperature"),
                max_tokens=kwargs.get("max_tokens"),
                stop=stop,
                kwargs=dict(kwargs),
                streamed=streamed,
            )
            self._calls.append(call)
        return call

    def _result(self, call: ModelCall) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=self._answer(call))])

    def _answer(self, call: ModelCall) -> AIMessage:
        answer = self._next(call)
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, type) and issubclass(answer, Exception):
            raise answer()
        if isinstance(answer, str):
            message = AIMessage(content=answer)
        elif isinstance(answer, AIMessage):
            # LangChain writes the run id into the message: the script's own stays untouched.
            message = answer.model_copy()
        else:
            raise TypeError(
                f"the script of ScriptedChatModel {self.model_name!r} gave {answer!r} for call "
                f"{call.number}; give a str, an AIMessage or an Exception"
            )
        message.response_metadata = {
            "model_name": self.model_name,
            "finish_reason": "tool_calls" if message.tool_calls else "stop",
            **message.response_metadata,
        }
        if message.usage_metadata is None:
            message.usage_metadata = _rough_usage(call.messages, message)
        return message


def _from_function(function: Callable[..., Answer]) -> Callable[[ModelCall], Answer]:
    positional = [
        parameter
        for parameter in inspect.signature(function).parameters.values()
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        and parameter.default is parameter.empty
    ]
    if len(positional) >= 2:
        return lambda call: function(call.messages, call)
    return lambda call: function(call.messages)


def _from_iterable(
    script: Iterable[Answer], lock: threading.Lock, name: str
) -> Callable[[ModelCall], Answer]:
    answers = iter(script)
    given = 0

    def following(call: ModelCall) -> Answer:
        nonlocal given
        with lock:
            try:
                answer = next(answers)
            except StopIteration:
                raise ScriptExhaustedError(
                    f"ScriptedChatModel {name!r} was called {call.number + 1} times but its "
                    f"script has {given} answers; add an answer, or pass a function of the "
                    "messages to answer without end"
                ) from None
            given += 1
        return answer

    return following


def _rough_usage(messages: list[BaseMessage], answer: AIMessage) -> UsageMetadata:
    prompt = sum(count_tokens(str(message.text)) for message in messages)
    completion = count_tokens(str(answer.text))
    for call in answer.tool_calls:
        completion += 1 + count_tokens(str(call["args"]))
    return UsageMetadata(
        input_tokens=prompt, output_tokens=completion, total_tokens=prompt + completion
    )


def _chunks(message: AIMessage) -> Iterator[ChatGenerationChunk]:
    """Cut a message into one chunk per word, then one with tool calls, usage and metadata."""
    if isinstance(message.content, str):
        for word in split_tokens(message.content):
            yield ChatGenerationChunk(message=AIMessageChunk(content=word))
    elif message.content:
        yield ChatGenerationChunk(message=AIMessageChunk(content=message.content))
    yield ChatGenerationChunk(
        message=AIMessageChunk(
            content="" if isinstance(message.content, str) else [],
            additional_kwargs=message.additional_kwargs,
            response_metadata=message.response_metadata,
            tool_call_chunks=[
                tool_call_chunk(
                    name=call["name"], args=json.dumps(call["args"]), id=call["id"], index=index
                )
                for index, call in enumerate(message.tool_calls)
            ],
            usage_metadata=message.usage_metadata,
            chunk_position="last",
        )
    )
