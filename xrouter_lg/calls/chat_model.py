"""From a card to a chat model that can be called."""

from __future__ import annotations

import ipaddress
import os
import re
import ssl
from functools import lru_cache
from importlib import import_module
from typing import Any
from urllib.parse import urlsplit

from langchain_core.language_models import BaseChatModel
from pydantic import SecretStr

from xrouter_lg.calls.failures import describe
from xrouter_lg.calls.raw.perplexity import perplexity_clients
from xrouter_lg.errors import MissingKeyError, PoolError
from xrouter_lg.pool.card import ModelCard


def build_chat_model(card: ModelCard) -> BaseChatModel:
    """The chat model of a card. Its own retries are switched off: every attempt is ours, so that
    every attempt is charged. A chat model that was handed in is used as it is.

    Raises:
        MissingKeyError: the key's variable is not set, or the provider finds no key.
        PoolError: unknown provider, provider package not installed, or bad parameters.
    """
    if isinstance(card.model, BaseChatModel):
        return card.model
    kwargs: dict[str, Any] = dict(card.params)
    if card.api_key_env is not None:
        kwargs["api_key"] = _key_of(card, card.api_key_env)
    try:
        if card.base_url is not None and card.provider in (None, "openai"):
            return _openai_compatible(card, kwargs)
        return _by_provider(card, kwargs)
    except (PoolError, MissingKeyError):
        raise
    except ImportError as error:
        raise PoolError(f"card {card.name!r}: {describe(error)}") from error
    except Exception as error:
        # What a provider's constructor raises is its own affair; what we know is the card.
        raise _build_error(card, error, has_key="api_key" in kwargs) from error


def _key_of(card: ModelCard, variable: str) -> SecretStr:
    key = os.environ.get(variable)
    if not key:
        raise MissingKeyError(
            f"card {card.name!r}: the environment variable {variable} is not set; put the API "
            "key into it, or remove api_key_env from the card"
        )
    return SecretStr(key)


def _openai_compatible(card: ModelCard, kwargs: dict[str, Any]) -> BaseChatModel:
    from langchain_openai import ChatOpenAI

    assert card.base_url is not None
    if "api_key" not in kwargs:
        if is_local(card.base_url):
            # A server on this machine needs none, but the client insists on one.
            kwargs["api_key"] = "not-needed"
        elif card.provider is None:
            # The client would send OPENAI_API_KEY to whoever runs that server.
            raise MissingKeyError(
                f"card {card.name!r}: no API key for {card.base_url!r}; put it into an "
                "environment variable and the variable's name into api_key_env"
            )
    kwargs.setdefault("stream_usage", True)
    # A client of its own: the library's default one is shared by every event loop of the
    # process, and a pooled connection of a closed loop can't be used by the next.
    kwargs.setdefault("http_async_client", _http_client())
    return ChatOpenAI(model=card.model_name, base_url=card.base_url, **{"max_retries": 0, **kwargs})


def _http_client() -> Any:
    from openai import DefaultAsyncHttpxClient

    return DefaultAsyncHttpxClient(verify=_ssl_context())


@lru_cache(maxsize=1)
def _ssl_context() -> ssl.SSLContext:
    """One for all clients: reading the certificates takes most of the time to build a card. It
    is made by the HTTP library that openai's client is built on (httpx, later httpx2)."""
    from openai import DefaultAsyncHttpxClient

    library = import_module(DefaultAsyncHttpxClient.__mro__[1].__module__.partition(".")[0])
    context: ssl.SSLContext = library.create_ssl_context()
    return context


def _by_provider(card: ModelCard, kwargs: dict[str, Any]) -> BaseChatModel:
    from langchain.chat_models import init_chat_model

    assert isinstance(card.model, str)
    if card.base_url is not None and card.provider == "perplexity":
        kwargs = perplexity_clients(card.base_url, kwargs.get("api_key")) | kwargs
    elif card.base_url is not None:
        kwargs["base_url"] = card.base_url
    if card.provider == "openai":
        kwargs.setdefault("stream_usage", True)
        kwargs.setdefault("http_async_client", _http_client())
    # model_provider is given apart: init_chat_model would otherwise guess a provider for a
    # prefix that it does not know, and a model name may hold a colon itself.
    model: BaseChatModel = init_chat_model(card.model_name, model_provider=card.provider, **kwargs)
    if "max_retries" in type(model).model_fields and "max_retries" not in kwargs:
        model = init_chat_model(
            card.model_name, model_provider=card.provider, **{**kwargs, "max_retries": 0}
        )
    return model


def _build_error(
    card: ModelCard, error: Exception, *, has_key: bool
) -> PoolError | MissingKeyError:
    text = describe(error)
    if "Unsupported provider" in text or "Unsupported model provider" in text:
        known = str(error).partition("are:")[2].strip(" .")
        return PoolError(
            f"card {card.name!r}: unknown provider {card.provider!r} in model {card.model!r}; "
            f"init_chat_model knows {known or 'others'}"
        )
    lowered = text.lower()
    if not has_key and re.search("api[_ ]key|credentials", lowered):
        named = re.search(r"\b[A-Z][A-Z0-9_]{0,60}_(API_KEY|TOKEN|KEY)\b", text)
        variable = named[0] if named else f"{(card.provider or 'openai').upper()}_API_KEY"
        return MissingKeyError(
            f"card {card.name!r}: no API key for {card.provider or card.base_url!r}; set "
            f"{variable}, or name another variable in api_key_env ({text})"
        )
    return PoolError(f"card {card.name!r}: can't build its chat model: {text}")


def is_local(base_url: str) -> bool:
    """Whether a server is on this machine."""
    return is_loopback(urlsplit(base_url).hostname or "")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
