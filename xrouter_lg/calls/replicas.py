"""What replicas tell each other of cards: which are failing, what they refuse, what they cost
above their bounds. Read and written by a thread of its own, never on a request's path."""

from __future__ import annotations

import json
import logging
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any, Protocol

from sqlalchemy import Column, Engine, Float, MetaData, String, Table, Text, select
from sqlalchemy.dialects import postgresql, sqlite

from xrouter_lg.calls.failures import describe
from xrouter_lg.tracing.store.connect import create_once, write_transaction

if TYPE_CHECKING:
    from collections.abc import Mapping

logger = logging.getLogger(__name__)

_EVERY_S = 1.0
_IDLE_S = 30.0
"""After so long without a call the thread ends; the next call starts it again."""
_LOCK_NUMBER = 7_203_117

_metadata = MetaData()
_health = Table(
    "xrouter_health",
    _metadata,
    Column("card", String(80), primary_key=True),
    Column("changed_at", Float, nullable=False),
    Column("opened_at", Float),
    Column("learned", Text, nullable=False),
)
"""One row per card, by the kind of its calls and its name. ``opened_at``: since when it is left
alone (Unix time), NULL while it is well."""


class Shares(Protocol):
    """What has cards whose state can be told and taken over."""

    def told(self) -> Mapping[str, tuple[float | None, Mapping[str, Any]]]:
        """For each card how long ago (seconds) its circuit has opened, None where it is closed, and
        what is learned of its limits, JSON-safe."""

    def heard(
        self, card: str, opened_s_ago: float | None, changed: bool, learned: Mapping[str, Any]
    ) -> None:
        """What another replica says of a card; ``changed``: it has opened or closed since."""


class Replicas:
    """Keeps one process' cards in step with those of others on the same database. Replicas are of
    one app: a card's name means the same model to all of them."""

    def __init__(self, engine: Engine, shares: Shares) -> None:
        self._engine, self._shares = engine, weakref.ref(shares)
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._called_at = 0.0
        self._seen: dict[str, tuple[bool, str]] = {}
        """What was last told or heard of each card: whether it is open, and what is learned."""
        self._changed_at: dict[str, float] = {}
        self._ready = False

    def called(self) -> None:
        """A card is called: see to it that this process is in step."""
        self._called_at = time.monotonic()
        if self._thread is None or not self._thread.is_alive():
            with self._lock:
                if self._thread is None or not self._thread.is_alive():
                    self._thread = threading.Thread(
                        target=self._run, name="xrouter-replicas", daemon=True
                    )
                    self._thread.start()

    def _run(self) -> None:
        warned = False
        while time.monotonic() - self._called_at < _IDLE_S and self._shares() is not None:
            try:
                self.step()
                warned = False
            except Exception as error:
                if not warned:
                    logger.warning("replicas don't hear of each other: %s", describe(error))
                warned = True
            time.sleep(_EVERY_S)

    def step(self) -> None:
        """Take over what others have said, and say what has changed here."""
        shares = self._shares()
        if shares is None:
            return
        if not self._ready:
            create_once(self._engine, _metadata, _LOCK_NUMBER)
            self._ready = True
        with self._engine.connect() as connection, connection.begin():
            rows = connection.execute(select(_health)).all()
        now = time.time()
        for row in rows:
            if row.changed_at == self._changed_at.get(row.card):
                continue
            was = self._seen.get(row.card, (False, ""))[0]
            ago = None if row.opened_at is None else max(0.0, now - row.opened_at)
            shares.heard(row.card, ago, was != (ago is not None), json.loads(row.learned))
            self._changed_at[row.card] = row.changed_at
            self._seen[row.card] = (ago is not None, row.learned)
        news = []
        for card, (ago, learned) in shares.told().items():
            state = (ago is not None, json.dumps(learned, sort_keys=True))
            if state == self._seen.get(card, (False, "{}")):
                continue
            opened = None if ago is None else now - ago
            news.append({"card": card, "changed_at": now, "opened_at": opened, "learned": state[1]})
            self._seen[card], self._changed_at[card] = state, now
        if news:
            self._write(news)

    def _write(self, news: list[dict[str, Any]]) -> None:
        kind: Any = sqlite if self._engine.dialect.name == "sqlite" else postgresql
        statement = kind.insert(_health)
        changed = {
            name: statement.excluded[name] for name in ("changed_at", "opened_at", "learned")
        }
        upsert = statement.on_conflict_do_update(index_elements=["card"], set_=changed)
        with write_transaction(self._engine) as connection:
            connection.execute(upsert, sorted(news, key=lambda row: row["card"]))
