"""Whether tokens of a call have gone to whoever is streaming: then nobody else may answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from langchain_core.callbacks import AsyncCallbackHandler, BaseCallbackHandler
from langchain_core.runnables import RunnableConfig
from langchain_core.tracers.base import AsyncBaseTracer, BaseTracer

_TOKEN_METHODS = ("on_llm_new_token", "on_stream_event")
_IDLE = tuple(
    getattr(base, name)
    for base in (BaseCallbackHandler, AsyncCallbackHandler)
    for name in _TOKEN_METHODS
    if hasattr(base, name)  # the second is new in langchain-core 1.8
)


class StreamWatch(BaseCallbackHandler):
    """Notices that a token has gone to whoever is streaming."""

    run_inline = True

    def __init__(self) -> None:
        self.seen = False
        self.said = 0
        """Characters so far."""
        self.on_first: Callable[[], None] | None = None
        """Told when the first token comes."""

    def on_llm_new_token(self, token: Any, **kwargs: Any) -> None:
        message = getattr(kwargs.get("chunk"), "message", None)
        self.said += size_of(token, message)
        if shows(token, message):
            self._note()

    def on_stream_event(self, event: Any, **kwargs: Any) -> None:
        if isinstance(event, Mapping) and event.get("event") == "content-block-delta":
            self._note()
            delta = event.get("delta")
            self.said += len(str(delta.get("text") or "")) if isinstance(delta, Mapping) else 0

    def _note(self) -> None:
        if not self.seen and self.on_first is not None:
            self.on_first()
        self.seen = True


def size_of(token: Any, message: Any) -> int:
    """Characters of a chunk: its text, and the arguments of its tool calls."""
    calls = getattr(message, "tool_call_chunks", None) or ()
    text = len(token) if isinstance(token, str) else 0
    return text + sum(len(call.get("args") or "") for call in calls)


def shows(token: Any, message: Any) -> bool:
    """Whether a chunk, with its text, holds something that a user would see."""
    return bool(token or getattr(message, "tool_call_chunks", None)) or _says(message)


def _says(message: Any) -> bool:
    """Whether a chunk holds words that are not its token: thoughts, in any provider's shape."""
    extra = getattr(message, "additional_kwargs", None) or {}
    if extra.get("reasoning_content"):
        return True
    content = getattr(message, "content", None)
    return isinstance(content, list) and any(
        isinstance(block, Mapping) and any(map(block.get, ("text", "thinking", "reasoning")))
        for block in content
    )


def handlers_of(config: RunnableConfig) -> Sequence[Any]:
    """The callback handlers of a config, in whichever of LangChain's two shapes it has them."""
    callbacks = config.get("callbacks")
    if callbacks is None:
        return ()
    return callbacks if isinstance(callbacks, list) else callbacks.handlers


def stream_watch(config: RunnableConfig, own: Any = None) -> StreamWatch | None:
    """A watch when somebody takes the tokens as they come, and this call is not hidden from it.
    ``own`` are the callbacks that the model itself was built with.

    Whoever has a method for tokens may show them to a user, but for those that only write down:
    tracers, whose method LangChain needs for its own records.
    """
    if "nostream" in (config.get("tags") or ()):
        return None
    handlers = [*handlers_of(config), *handlers_of({"callbacks": own})]
    return StreamWatch() if any(map(_takes_tokens, handlers)) else None


def _takes_tokens(handler: Any) -> bool:
    if hasattr(handler, "tap_output_iter"):  # LangGraph's and LangChain's own streams
        return True
    if isinstance(handler, BaseTracer | AsyncBaseTracer | StreamWatch):
        return False
    methods = (getattr(type(handler), name, None) for name in _TOKEN_METHODS)
    return any(method is not None and method not in _IDLE for method in methods)


def with_handler(config: RunnableConfig, handler: BaseCallbackHandler) -> RunnableConfig:
    """A copy of the config with one more handler, which child runs inherit."""
    callbacks = config.get("callbacks")
    if callbacks is None:
        return {**config, "callbacks": [handler]}
    if isinstance(callbacks, list):
        return {**config, "callbacks": [*callbacks, handler]}
    copied = callbacks.copy()
    copied.add_handler(handler, inherit=True)
    return {**config, "callbacks": copied}
