"""The pool: which models can be called."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

from langchain_core.language_models import BaseChatModel
from langchain_core.runnables.base import RunnableBindingBase

from xrouter_lg.errors import PoolError
from xrouter_lg.json_text import shown
from xrouter_lg.pool.bare import free_name, short
from xrouter_lg.pool.card import ModelCard, normalise_name
from xrouter_lg.pool.checks import check_values, hedge_after, refuse_unknown
from xrouter_lg.pool.file import PoolFile

_OPTIONS = ("default", "on_truncated", "budget", "hedge_after_s")

MOST_CARDS = 1_000


class ModelPool:
    """The models that can be called, in the order given. Immutable; a pool read from a file with
    :meth:`from_yaml` hands out its newest version by :meth:`current`.

    Raises:
        PoolError: no card, two cards of one name, or a default that is no card.
    """

    def __init__(
        self,
        cards: Iterable[ModelCard],
        *,
        default: str | None = None,
        on_truncated: Literal["mark", "escalate"] = "mark",
        budget: Mapping[str, Any] | None = None,
        hedge_after_s: float | str | None = None,
        source: PoolFile[ModelPool] | None = None,
    ) -> None:
        self.cards: tuple[ModelCard, ...] = tuple(cards)
        if not self.cards:
            raise PoolError("the pool has no card; add at least one model")
        if len(self.cards) > MOST_CARDS:
            raise PoolError(
                f"the pool has {len(self.cards):,} cards; at most {MOST_CARDS:,} can be"
            )
        self._by_name: dict[str, ModelCard] = {}
        for card in self.cards:
            if not isinstance(card, ModelCard):
                raise PoolError(
                    f"the pool holds {short(card)}; it takes ModelCard objects, and "
                    "ModelPool.of takes bare models"
                )
            if card.name in self._by_name:
                raise PoolError(
                    f"two cards are named {card.name!r} (after normalisation to a tool name); "
                    "rename one"
                )
            self._by_name[card.name] = card
        default = self.cards[0].name if default is None else normalise_name(default)
        if default not in self._by_name:
            raise PoolError(
                f"default is {shown(default)}, which is no card; cards: {', '.join(self._by_name)}"
            )
        if on_truncated not in ("mark", "escalate"):
            raise PoolError(
                f"on_truncated is {shown(on_truncated)}; it must be 'mark' (hand the cut answer "
                "on, marked) or 'escalate' (ask the next card)"
            )
        self.default: str = default
        """Where a failed policy falls to; the first card unless said otherwise."""
        self.on_truncated: Literal["mark", "escalate"] = on_truncated
        try:
            self.hedge_after_s = hedge_after(hedge_after_s)
            """After how long without a first token another card is asked beside; None for never. A
            request may say otherwise."""
        except ValueError as error:
            raise PoolError(
                f"hedge_after_s is {shown(hedge_after_s)}; it must be {error}"
            ) from error
        if budget is not None and not isinstance(budget, Mapping):
            raise PoolError(f"budget is {shown(budget)}; it must be a mapping, as Budget's fields")
        self.budget = budget
        """What a pool file says under ``budget``: that of a router which is given none. A router
        reads it once, when it is made."""
        self._source = source
        data = [card.fingerprint_data() for card in self.cards]
        # An object among the params stands for its type: its repr would hold an address.
        blob = json.dumps([data, default], sort_keys=True, default=lambda it: str(type(it)))
        self.fingerprint: str = hashlib.sha256(blob.encode()).hexdigest()[:16]
        """Changes whenever a card, its price or the default does."""

    @classmethod
    def of(
        cls,
        *models: str | BaseChatModel | RunnableBindingBase[Any, Any] | ModelCard,
        default: str | None = None,
    ) -> ModelPool:
        """A pool in one line: ``ModelPool.of("openai:gpt-5-nano", "anthropic:claude-haiku-4-5")``.

        Each is an ``init_chat_model`` string, a chat model, one with keywords bound or with retries
        (``model.bind(...)``, ``.with_retry()``), or a card. A
        card's name is its model's (``gpt_5_nano``); of two with one name the second has its
        provider's in front, or a number behind. Prices, windows and capabilities are those that are
        published.

        Raises:
            PoolError: none of these, or nothing at all.
        """
        cards: list[ModelCard] = []
        for place, given in enumerate(models, start=1):
            if isinstance(given, ModelCard):
                cards.append(given)
                continue
            if not isinstance(given, str | BaseChatModel | RunnableBindingBase):
                raise PoolError(
                    f"model {place} is {short(given)}; give a string such as "
                    "'openai:gpt-5-nano', a chat model, or a ModelCard"
                )
            model: Any = given  # with keywords bound it becomes a chat model and params
            unnamed = ModelCard(name="model", model=model)
            taken = {card.name for card in cards}
            name = free_name(unnamed.model_name, unnamed.maker, taken, place)
            cards.append(ModelCard(name=name, model=model))
        return cls(cards, default=default)

    @classmethod
    def from_yaml(cls, path: str | Path, *, reload: bool = True) -> ModelPool:
        """Read a pool file; see the README for its shape.

        With ``reload`` the file is looked at again at most once a second, when a request starts.
        A changed file is taken over by the next request; requests under way keep the pool that
        they began with; a broken file keeps the old pool and logs why.

        Raises:
            PoolError: the file is missing, is no YAML, or holds a bad value.
        """
        file = PoolFile(Path(path), lambda data, it: cls.from_dict(data, source=it), reload=reload)
        return file.current()

    @classmethod
    def from_dict(
        cls, data: Mapping[str, Any], *, source: PoolFile[ModelPool] | None = None
    ) -> ModelPool:
        """A pool from the mapping that a pool file holds.

        Raises:
            PoolError: an unknown key or a bad value.
        """
        cards, options = _cards_from(data)
        return cls(cards, source=source, **options)

    def current(self) -> ModelPool:
        """This pool, or its newest good version when it came from a file that changed."""
        return self if self._source is None else self._source.current()

    def __getitem__(self, name: str) -> ModelCard:
        try:
            return self._by_name[name]
        except KeyError:
            raise PoolError(
                f"no card is named {shown(name)}; cards: {', '.join(self._by_name)}"
            ) from None

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    def __iter__(self) -> Iterator[ModelCard]:
        return iter(self.cards)

    def __len__(self) -> int:
        return len(self.cards)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._by_name)

    def __repr__(self) -> str:
        return f"ModelPool({', '.join(self.names)}; default {self.default})"


def _cards_from(data: object) -> tuple[list[ModelCard], dict[str, Any]]:
    """The cards and the pool's options out of a pool file's mapping.

    Raises:
        PoolError: an unknown key (with the nearest known one), a missing one, or a bad value.
    """
    if not isinstance(data, Mapping):
        raise PoolError(f"a pool is a mapping with `models:`, not {type(data).__name__}")
    check_values("the pool", data)
    refuse_unknown(data, ("models", *_OPTIONS), "the pool")
    models = data.get("models")
    if not isinstance(models, list) or not models:
        given = "[]" if models == [] else f"of type {type(models).__name__}"
        raise PoolError(f"`models` is {given}; it must be a list with at least one card")
    if len(models) > MOST_CARDS:
        raise PoolError(f"`models` lists {len(models):,} cards; at most {MOST_CARDS:,} can be")
    cards = []
    for index, entry in enumerate(models):
        where = f"models[{index}]"
        if not isinstance(entry, Mapping):
            raise PoolError(f"{where} is {shown(entry)}; it must be a mapping with name and model")
        refuse_unknown(entry, tuple(f.name for f in fields(ModelCard)), where)
        for key in ("name", "model"):
            if entry.get(key) is None:
                raise PoolError(f"{where} has no `{key}`")
        values = {key: value for key, value in entry.items() if value is not None}
        cards.append(ModelCard(**values))
    return cards, {key: data[key] for key in _OPTIONS if data.get(key) is not None}
