"""A chat model that the app made itself, out of what it was wrapped in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from langchain_core.language_models import BaseChatModel

from xrouter_lg.errors import PoolError

_OF_THE_NODE = ("tools", "functions", "tool_choice", "function_call")


@dataclass(frozen=True, slots=True)
class HandedIn:
    """The chat model inside, the keywords of each of its calls, and how often it is asked again
    after a failure (0 where nothing says so)."""

    model: BaseChatModel
    options: Mapping[str, Any]
    retries: int = 0


def unwrapped(where: str, model: object) -> HandedIn | None:
    """What ``model.bind(...)``, ``.with_config(...)`` and ``.with_retry()`` were called on, with
    what they add; None for what holds no chat model. The retries become the card's: made by us,
    each of them is charged.

    Raises:
        PoolError: several models in one (``with_fallbacks``), or tools that belong to the node.
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
    inner = unwrapped(where, model.bound)
    if inner is None:
        return None
    if bound := [name for name in _OF_THE_NODE if name in model.kwargs]:
        raise PoolError(
            f"{where}: model has {bound[0]} bound to it; bind them to the node, which has them for "
            "whichever model answers: XRouterNode(...).bind_tools(tools)"
        )
    retries = model.max_attempt_number - 1 if isinstance(model, RunnableRetry) else 0
    return HandedIn(
        _configured(inner.model, model.config),
        {**inner.options, **model.kwargs},
        max(inner.retries, retries),
    )


def _configured(model: BaseChatModel, config: Mapping[str, Any]) -> BaseChatModel:
    """The model with what a config has that a chat model can have itself."""
    changes: dict[str, Any] = {}
    if tags := config.get("tags"):
        changes["tags"] = [*(model.tags or ()), *tags]
    if metadata := config.get("metadata"):
        changes["metadata"] = {**(model.metadata or {}), **metadata}
    if isinstance(callbacks := config.get("callbacks"), list):
        own = model.callbacks if isinstance(model.callbacks, list) else []
        changes["callbacks"] = [*own, *callbacks]
    return model.model_copy(update=changes) if changes else model
