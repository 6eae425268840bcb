"""The route record in a message: whole in the process that made it, brief wherever it is kept.

A checkpointer writes every message of a thread at every step, so what stands in a message is paid
for many times over. The whole record is in the trace, once.
"""

from __future__ import annotations

import copy
from collections.abc import ItemsView, Iterator, KeysView, Mapping, ValuesView
from typing import Any

KEPT = ("route", "cost_usd", "trace_id", "run_id", "ended_at", "model")
"""What a kept record may hold. ``run_id`` is left out where it is the trace's own id. ``ended_at``
(Unix time in whole seconds) and ``model`` (what stood behind the card, beside thoughts that only it
may read) are what later requests of the thread need; the rest is the record's."""

_READ = {*KEPT, "started_at", "latency_s"}
"""What the brief form is made of."""


class KeptRecord(dict[str, Any]):
    """A dict of the whole record whose own storage holds the :data:`KEPT` part alone.

    Whoever reads it in Python sees the whole. Whatever stores it as the dict that it is (the
    serialisers of LangGraph and pydantic, orjson, pickle) writes the brief form, which reads back
    as a plain dict. It equals both.
    """

    __slots__ = ("_whole",)
    __hash__ = None

    def __init__(self, record: Mapping[str, Any]) -> None:
        self._whole = dict(record)
        super().__init__(_brief(self._whole))

    def __getitem__(self, key: str) -> Any:
        return self._whole[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self._whole[key] = value
        if key in _READ:
            self._store()

    def __delitem__(self, key: str) -> None:
        del self._whole[key]
        self._store()

    def __iter__(self) -> Iterator[str]:
        return iter(self._whole)

    def __contains__(self, key: object) -> bool:
        return key in self._whole

    def get(self, key: str, default: Any = None) -> Any:
        return self._whole.get(key, default)

    def keys(self) -> KeysView[str]:  # type: ignore[override]
        return self._whole.keys()

    def values(self) -> ValuesView[Any]:  # type: ignore[override]
        return self._whole.values()

    def items(self) -> ItemsView[str, Any]:  # type: ignore[override]
        return self._whole.items()

    def update(self, *others: Any, **named: Any) -> None:
        self._whole.update(*others, **named)
        self._store()

    def setdefault(self, key: str, default: Any = None) -> Any:
        found = self._whole.setdefault(key, default)
        self._store()
        return found

    def pop(self, key: str, *default: Any) -> Any:
        found = self._whole.pop(key, *default)
        self._store()
        return found

    def popitem(self) -> tuple[str, Any]:
        found = self._whole.popitem()
        self._store()
        return found

    def clear(self) -> None:
        self._whole.clear()
        self._store()

    def __len__(self) -> int:
        return len(self._whole)

    def __repr__(self) -> str:
        return repr(self._whole)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, KeptRecord):
            return self._whole == other._whole
        return self._whole == other or super().__eq__(other) is True

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __reversed__(self) -> Iterator[str]:
        return reversed(self._whole)

    def __or__(self, other: Any) -> Any:
        return self._whole | dict(other) if isinstance(other, dict) else NotImplemented

    def __ror__(self, other: Any) -> Any:
        return dict(other) | self._whole if isinstance(other, dict) else NotImplemented

    def __ior__(self, other: Any) -> Any:
        self.update(other)
        return self

    def copy(self) -> KeptRecord:
        return KeptRecord(self._whole)

    __copy__ = copy

    def __deepcopy__(self, memo: dict[int, Any]) -> KeptRecord:
        return KeptRecord(copy.deepcopy(self._whole, memo))

    def __reduce_ex__(self, protocol: Any) -> Any:
        return dict, (_brief(self._whole),)

    def _store(self) -> None:
        super().clear()
        super().update(_brief(self._whole))


def is_brief(record: Mapping[str, Any]) -> bool:
    """Whether a record, as it was read, is what :class:`KeptRecord` leaves of one."""
    return "route" in record and all(key in KEPT for key in record)


def _brief(record: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: record[key] for key in KEPT if key in record}
    if "started_at" in record and "latency_s" in record:
        kept["ended_at"] = int(record["started_at"] + record["latency_s"])
    if kept.get("run_id") == kept.get("trace_id"):
        kept.pop("run_id", None)
    return kept
