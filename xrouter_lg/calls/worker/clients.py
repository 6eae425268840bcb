"""A chat model with HTTP connections of its own, so that any number of event loops can ask it."""

from __future__ import annotations

import copy
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from langchain_core.language_models import BaseChatModel

logger = logging.getLogger(__name__)

Closer = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class OwnModel:
    """A chat model for one event loop, and what closes the connections that were made for it.
    ``retries`` is how often its own client would have asked again, which it no longer does."""

    model: BaseChatModel
    closers: tuple[Closer, ...] = ()
    retries: int = 0


def with_own_clients(model: BaseChatModel) -> OwnModel:
    """A copy of a chat model that shares no async connection with it, nor with any other model,
    and that asks once per call: whoever retries counts.

    An open connection belongs to the event loop that opened it. Providers' packages keep one
    client per model, or one per process, and so fail in every further loop. A model in which no
    client is found is given back as it is: it may have a state that others look at.
    """
    try:
        return _own(model)
    except Exception as error:
        # What a package's client is made of may change: a shared connection is better than none.
        logger.warning(
            "the connections of %s can't be told apart, so that it may fail in a second event "
            "loop: %s: %s",
            type(model).__name__,
            type(error).__name__,
            error,
        )
        return OwnModel(model)


def _own(model: BaseChatModel) -> OwnModel:
    retries = _retries(model)
    own = model.model_copy(update={"max_retries": 0} if retries else {})
    if is_a(own, "ChatOpenRouter", "ChatGoogleGenerativeAI"):
        return _rebuilt(own, retries)
    if is_a(own, "ChatAnthropic"):
        for cached in ("_client", "_client_params", "_async_client"):
            own.__dict__.pop(cached, None)  # made with the retries that the model had
        own.__dict__["_async_client"] = own._async_client  # type: ignore[attr-defined]
    renewal = _Renewal(retries)
    for held in (own.__dict__, own.__pydantic_private__ or {}):
        for name, value in list(held.items()):
            held[name] = renewal.of(value)
    if not renewal.done and not retries:
        return OwnModel(model)
    return OwnModel(own, tuple(renewal.closers), renewal.retries)


def _retries(model: BaseChatModel) -> int:
    count = getattr(model, "max_retries", 0) if "max_retries" in type(model).model_fields else 0
    return count if isinstance(count, int) else 0


def _rebuilt(own: Any, retries: int) -> OwnModel:
    """For packages whose client is a tree of objects: the model makes another one itself."""
    own.client = None
    own = own.validate_environment()
    if is_a(own, "ChatGoogleGenerativeAI"):
        return OwnModel(own, (own.client.aio.aclose,), retries)
    settings = own.client.sdk_configuration
    settings.retry_config = None  # where none is set, this SDK asks again for an hour
    return OwnModel(own, (settings.async_client.aclose,), retries)


class _Renewal:
    """Puts clients with an empty connection pool in the place of those that a model holds."""

    def __init__(self, retries: int) -> None:
        self.retries = retries
        self.done: dict[int, Any] = {}
        self.closers: list[Closer] = []

    def of(self, value: Any) -> Any:
        """``value`` itself where it is no async client, else one like it."""
        if value is None or isinstance(value, str | int | float | dict | list | tuple):
            return value
        if (found := self.done.get(id(value))) is None:
            found = self._renewed(value)
            if found is not value:
                self.done[id(value)] = found
        return found

    def _renewed(self, value: Any) -> Any:
        if _is_http(value):
            fresh = _without_connections(value)
            self.closers.append(fresh.aclose)
            return fresh
        if is_a(value, "AsyncAPIClient"):  # the SDKs of OpenAI, Anthropic, Perplexity, Groq ...
            self.retries = max(self.retries, value.max_retries)
            return value.copy(http_client=self.of(value._client), max_retries=0)
        inner = vars(value).get("_client") if hasattr(value, "__dict__") else None
        if inner is None:
            return value
        if is_a(inner, "AsyncAPIClient"):  # one resource of such an SDK, ``chat.completions``
            return type(value)(self.of(inner))
        if _is_http(inner):  # ollama's
            fresh = copy.copy(value)
            fresh._client = self.of(inner)
            return fresh
        return value


def _without_connections(client: Any) -> Any:
    """An ``httpx.AsyncClient`` with the same settings, proxies and certificates, and no open
    connection. A transport of the user's own making is shared: what is in it is theirs."""
    fresh = copy.copy(client)
    if is_a(client, "_AsyncHttpxClientWrapper", "AsyncHttpxClientWrapper"):
        # When one of these is collected it is closed by whatever loop runs then: not its own.
        fresh.__class__ = type(client).__mro__[1]
    fresh._transport = _without_pool(client._transport)
    fresh._mounts = {
        pattern: None if transport is None else _without_pool(transport)
        for pattern, transport in client._mounts.items()
    }
    return fresh


def _without_pool(transport: Any) -> Any:
    pool: Any = getattr(transport, "_pool", None)
    if not is_a(pool, "AsyncConnectionPool"):
        return transport
    fresh, fresh._pool = copy.copy(transport), copy.copy(pool)
    fresh._pool._connections, fresh._pool._requests = [], []
    fresh._pool._optional_thread_lock = type(pool._optional_thread_lock)()
    return fresh


def _is_http(value: Any) -> bool:
    return any(
        kind.__name__ == "AsyncClient" and kind.__module__.partition(".")[0] in ("httpx", "httpx2")
        for kind in type(value).__mro__
    )


def is_a(value: Any, *names: str) -> bool:
    """Whether an object is of a class, or a subclass of one, that is called so. The packages that
    these come from may not be installed, so there is nothing to import."""
    return any(kind.__name__ in names for kind in type(value).__mro__)
