"""Cards for models that are given bare: each needs a name."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.runnables import RunnableBinding

from xrouter_lg.errors import PoolError
from xrouter_lg.pool.pool import ModelCard

_UNNAMED = re.compile(r"[^a-z0-9]+")


def cards_of(models: Iterable[Any]) -> list[ModelCard]:
    """A card for each model, named as its provider names it; of two with one name the second gets
    its provider's in front, or a number behind.

    Raises:
        PoolError: what is neither a model string, a chat model (bare or with keywords bound), nor a
            card; or the pool's ``ModelCard`` refuses it.
    """
    found: dict[str, ModelCard] = {}
    for place, given in enumerate(models):
        if isinstance(given, ModelCard):
            card = given
        elif isinstance(given, str | BaseChatModel | RunnableBinding):
            model: Any = given  # with keywords bound it becomes a chat model and params
            unnamed = ModelCard(name="model", model=model)
            card = ModelCard(name=_name(unnamed, found, place), model=model)
        else:
            raise PoolError(
                f"model {place + 1} is a {type(given).__name__}; give a string such as "
                "'openai:gpt-5-nano', a chat model, or a ModelCard"
            )
        if card.name in found:
            raise PoolError(f"two cards are named {card.name!r}; rename one")
        found[card.name] = card
    return list(found.values())


def _name(card: ModelCard, taken: Iterable[str], place: int) -> str:
    bare = (
        re.sub(r"[^a-z0-9]+", "_", card.model_name.lower()).strip("_")[:50] or f"model_{place + 1}"
    )
    provider = re.sub(r"[^a-z0-9]+", "_", card.maker or "")
    names = [bare, f"{provider}_{bare}"[:59]] if provider else [bare]
    return next((name for name in names if name not in taken), f"{bare}_{place + 1}")
