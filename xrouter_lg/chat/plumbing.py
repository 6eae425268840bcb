"""What LangChain calls of a chat model beside ``invoke`` and ``stream``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

from langchain_core.callbacks import (
    AsyncCallbackManagerForLLMRun,
    CallbackManagerForLLMRun,
    Callbacks,
)
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import BaseMessage, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult, LLMResult
from langchain_core.runnables import RunnableConfig

from xrouter_lg.calls.tokens import TOKENS_PER_MESSAGE, prompt_size
from xrouter_lg.graph.bound import shown_tools
from xrouter_lg.graph.calling.run_ending import endings_of
from xrouter_lg.portal import run_sync
from xrouter_lg.tracing.record.recorder import Recorder


class AskedByInvoke(BaseChatModel):
    """A chat model that is asked through its own ``invoke``, ``ainvoke``, ``stream`` and
    ``astream``. LangChain's base class has those four begin a model's run and call ``_generate``;
    here it is the other way round, since the runs to be seen are the workers'."""

    def get_num_tokens(self, text: str) -> int:
        """An estimate in tokens, the same for every card; no provider is asked."""
        return prompt_size([HumanMessage(text)]).likely - TOKENS_PER_MESSAGE

    def get_num_tokens_from_messages(
        self, messages: list[BaseMessage], tools: Sequence[Any] | None = None
    ) -> int:
        """As :meth:`get_num_tokens`, of messages and tools: what the router itself compares with
        the cards' windows."""
        return prompt_size(messages, shown_tools(tools or ())).likely

    def generate(
        self,
        messages: list[list[BaseMessage]],
        stop: list[str] | None = None,
        callbacks: Callbacks = None,
        **kwargs: Any,
    ) -> LLMResult:
        return run_sync(self.agenerate(messages, stop, callbacks, **kwargs), endings_of(None))

    async def agenerate(
        self,
        messages: list[list[BaseMessage]],
        stop: list[str] | None = None,
        callbacks: Callbacks = None,
        *,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        run_name: str | None = None,
        run_id: Any = None,
        **kwargs: Any,
    ) -> LLMResult:
        config: RunnableConfig = {
            "callbacks": callbacks,
            "tags": tags or [],
            "metadata": metadata or {},
        }
        if run_name is not None:
            config["run_name"] = run_name
        if run_id is not None and len(messages) == 1:
            config["run_id"] = run_id
        answers = await asyncio.gather(
            *(self.ainvoke(asked, config.copy(), stop=stop, **kwargs) for asked in messages)
        )
        return LLMResult(generations=[[ChatGeneration(message=answer)] for answer in answers])

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        answer = self.invoke(messages, self._hidden(run_manager), stop=stop, **kwargs)
        return ChatResult(generations=[ChatGeneration(message=answer)])

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        answer = await self.ainvoke(messages, self._hidden(run_manager), stop=stop, **kwargs)
        return ChatResult(generations=[ChatGeneration(message=answer)])

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        for chunk in self.stream(messages, self._hidden(run_manager), stop=stop, **kwargs):
            yield ChatGenerationChunk(message=chunk)

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        hidden = self._hidden(run_manager)
        async for chunk in self.astream(messages, hidden, stop=stop, **kwargs):
            yield ChatGenerationChunk(message=chunk)

    def _hidden(self, run_manager: Any) -> RunnableConfig:
        """For a caller who has begun a model's run for us (``stream_events`` of version v3): of the
        worker's run below it only the recorder hears, or the tokens would be counted twice."""
        handlers = [] if run_manager is None else run_manager.inheritable_handlers
        kept: Callbacks = [handler for handler in handlers if isinstance(handler, Recorder)]
        return {"callbacks": kept, "tags": [], "metadata": {}}
