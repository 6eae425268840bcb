"""Models as an app hands them in, before they are cards."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.runnables import RunnableBinding

from xrouter_lg.errors import PoolError


def short(value: object) -> str:
    """A value for an error message: a text as it is, of anything else its type alone, since a
    model's repr is long and may hold what nobody should read."""
    return (
        repr(value) if isinstance(value, str | int | float | None) else f"a {type(value).__name__}"
    )


def unbound(where: str, binding: RunnableBinding[Any, Any]) -> tuple[BaseChatModel, dict[str, Any]]:
    """The chat model below its bindings, and the keywords that they add.

    Raises:
        PoolError: a config is bound too, or what is bound is no chat model.
    """
    kwargs: dict[str, Any] = {}
    below: Any = binding
    while isinstance(below, RunnableBinding):
        if any(below.config.values()):
            raise PoolError(
                f"{where}: its model has a config bound ({', '.join(below.config)}); give tags, "
                "metadata and callbacks to the app or to the chat model itself"
            )
        kwargs = {**below.kwargs, **kwargs}
        below = below.bound
    if not isinstance(below, BaseChatModel):
        raise PoolError(f"{where}: what is bound is a {type(below).__name__}, not a chat model")
    return below, kwargs


_NO_NAME = re.compile(r"[^a-z0-9]+")


def free_name(model: str, maker: str | None, taken: Collection[str], place: int) -> str:
    """A card's name after its model's, that no other card has."""
    bare = _NO_NAME.sub("_", model.lower()).strip("_")[:50] or f"model_{place}"
    made_by = _NO_NAME.sub("_", maker or "")
    names = [bare, f"{made_by}_{bare}"[:59]] if made_by else [bare]
    return next((name for name in names if name not in taken), f"{bare}_{place}")
