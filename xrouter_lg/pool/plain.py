"""A pool as the mapping that a pool file holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any

from xrouter_lg.pool.card import ModelCard
from xrouter_lg.pool.pool import ModelPool
from xrouter_lg.pool.pricing import Price


def pool_data(pool: ModelPool) -> dict[str, Any]:
    """What :meth:`ModelPool.from_dict` makes the same pool of. It holds no key, for a card names
    the key's variable only; a chat model that was handed in stands in it as it is."""
    data: dict[str, Any] = {"models": [_card_data(card) for card in pool], "default": pool.default}
    if pool.on_truncated != "mark":
        data["on_truncated"] = pool.on_truncated
    if pool.hedge_after_s is not None:
        data["hedge_after_s"] = pool.hedge_after_s
    if pool.budget is not None:
        data["budget"] = dict(pool.budget)
    return data


def _card_data(card: ModelCard) -> dict[str, Any]:
    data: dict[str, Any] = {}
    for field in fields(ModelCard):
        if not field.init or field.name in card.from_profile:
            continue
        if field.name == "capabilities" and not card.capabilities_told:
            continue  # said here, what is merely assumed would be a reason
        value = getattr(card, field.name)
        usual = field.default if field.default is not MISSING else None
        if value is None or value == usual or (isinstance(value, Mapping) and not value):
            continue
        data[field.name] = _plain(value)
    return data


def _plain(value: Any) -> Any:
    if isinstance(value, Price):
        return value.to_dict()
    if isinstance(value, frozenset):
        return sorted(value)
    return dict(value) if isinstance(value, Mapping) else value
