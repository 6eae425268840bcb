"""Whether tokens of a call have gone to whoever is streaming: then nobody else may answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.runnables import RunnableConfig


class StreamWatch(BaseCallbackHandler):
    """Notices that a token has gone to whoever is streaming."""

    run_inline = True

    def __init__(self) -> None:
        self.seen = False

    def on_llm_new_token(self, token: Any, **kwargs: Any) -> None:
        message = getattr(kwargs.get("chunk"), "message", None)
        if token or getattr(message, "tool_call_chunks", None):
            self.seen = True


def handlers_of(config: RunnableConfig) -> Sequence[Any]:
    """The callback handlers of a config, in whichever of LangChain's two shapes it has them."""
    callbacks = config.get("callbacks")
    if callbacks is None:
        return ()
    return callbacks if isinstance(callbacks, list) else callbacks.handlers


def stream_watch(config: RunnableConfig) -> StreamWatch | None:
    """A watch when somebody takes the tokens as they come, and this call is not hidden from it.

    LangChain marks such handlers by a method pair of their own (``tap_output_iter``); plain
    callbacks that only look on do not count, since nothing of a failed attempt reaches a user.
    """
    if "nostream" in (config.get("tags") or ()):
        return None
    taking = any(hasattr(handler, "tap_output_iter") for handler in handlers_of(config))
    return StreamWatch() if taking else None


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
