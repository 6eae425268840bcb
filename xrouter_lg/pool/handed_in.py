"""A chat model that the app made itself, out of what it was wrapped in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from langchain_core.language_models import BaseChatModel

from xrouter_lg.errors import PoolError


@dataclass(frozen=True, slots=True)
class HandedIn:
    """The chat model inside, the keywords of each of its calls, and how often it is asked again
    after a failure (0 where nothing says so)."""

    model: BaseChatModel
    options: Mapping[str, Any]
    retries: int = 0


def unwrapped(where: str, model: object) -> HandedIn | None:
    """What ``model.bind(...)`` and ``.with_retry()`` were called on, with what they add; None for
    what is neither a chat model nor made of one. The retries become the card's: made by us, each of
    them is charged.

    Raises:
        PoolError: several models in one (``with_fallbacks``), a config is bound, or what is wrapped
            is no chat model.
    """
    if isinstance(model, BaseChatModel):
        return HandedIn(model, {})
    from langchain_core.runnables.base import RunnableBindingBase
    from langchain_core.runnables.fallbacks import RunnableWithFallbacks
    from langchain_core.runnables.retry import RunnableRetry

    if isinstance(model, RunnableWithFallbacks):
        names = ", ".join(type(one).__name__ for one in model.runnables)
        raise PoolError(
            f"{where}: model has fallbacks ({names}), and a card is one model; give each of them a "
            "card of its own: the pool falls over from one to the next, and charges each"
        )
    if not isinstance(model, RunnableBindingBase):
        return None
    if any(model.config.values()):
        raise PoolError(
            f"{where}: its model has a config bound ({', '.join(model.config)}); give tags, "
            "metadata and callbacks to the app or to the chat model itself"
        )
    inner = unwrapped(where, model.bound)
    if inner is None:
        kind = type(model.bound).__name__
        raise PoolError(f"{where}: what is bound is a {kind}, not a chat model")
    retries = model.max_attempt_number - 1 if isinstance(model, RunnableRetry) else 0
    return HandedIn(inner.model, {**inner.options, **model.kwargs}, max(inner.retries, retries))
