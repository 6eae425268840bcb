"""Everything that was ever paid for: answers kept for good, and the journal of what they cost.

One SQLite file, one process at a time (SQLite's own exclusive lock, which ends with the process,
however it ends). Every write is one transaction, on disk before it counts.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, Self

from langchain_core.messages import AIMessage, message_to_dict
from sqlalchemy import Connection, Select, create_engine, event, func, insert, select
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.pool import StaticPool

from xrouter_lg.backfill.answer import AnswerKey, Stored, stored_of
from xrouter_lg.backfill.errors import BackfillError
from xrouter_lg.backfill.schema import (
    ACCOUNTS,
    ANSWERS,
    CHARGES,
    ENDS,
    INTENTS,
    METADATA,
    PROOFS,
    VERSION,
)
from xrouter_lg.calls.ledger import counted
from xrouter_lg.json_text import encodable_value, to_json
from xrouter_lg.pool.card import ModelCard
from xrouter_lg.said import answer_of
from xrouter_lg.types import Charge, usd, usd_str
from xrouter_lg.verifiers.grading import VERDICTS_FILE, Verdicts

_BUSY_S = 1.0
_LOST = "lost"


@dataclass(frozen=True, slots=True)
class AccountSpending:
    """An account so far (USD)."""

    known: Decimal = Decimal(0)
    counted: Decimal = Decimal(0)
    """What the budget counts: worst cases where the cost is unknown."""
    unknown: int = 0
    """Attempts whose cost is unknown and has no worst case either."""
    lost: int = 0
    """Calls that were in flight when their process died."""
    lost_usd: Decimal = Decimal(0)
    """Their worst case, part of ``counted``."""

    def to_dict(self) -> dict[str, Any]:
        return {
            "known_usd": f"{self.known:f}",
            "counted_usd": f"{self.counted:f}",
            "unknown_cost_calls": self.unknown,
            "lost_calls": self.lost,
            "lost_usd": f"{self.lost_usd:f}",
        }


def unfinished_charge(
    kind: Literal["backfill", "judge"], card: str, model: str, held: Decimal | None, error: str
) -> Charge:
    """What counts for a call whose end nobody saw: its worst case."""
    return Charge(
        kind=kind,
        card=card,
        model=model,
        attempt=1,
        usage=None,
        cost_usd=None,
        price_source=None,
        latency_s=0.0,
        error=error,
        held_usd=held,
    )


class AnswerCache:
    """The cache of one file, or of nothing but memory (``None``, for a dry run).

    Raises:
        BackfillError: in use by another run, no cache, of a newer version, or unwritable.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        database = ":memory:" if path is None else str(path)
        engine = create_engine(
            URL.create("sqlite", database=database),
            poolclass=StaticPool,
            connect_args={"timeout": _BUSY_S, "check_same_thread": False},
        )
        event.listen(engine, "connect", _set_up)
        with self._said("opened"):
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
            self._connection: Connection = engine.connect()
            try:
                self._prepare()
            except BaseException:
                self._disconnect()
                raise
        self.verdicts = Verdicts(None if path is None else path.parent / VERDICTS_FILE)
        """Verdicts on the answers, in a file beside them."""
        self._account: int | None = self._one(select(func.max(ACCOUNTS.c.id)))
        self._index: dict[tuple[str, int], list[AnswerKey]] = {}
        self._answers: dict[AnswerKey, Stored] = {}
        columns = [column for column in ANSWERS.c if column.name not in ("response", "message")]
        for row in self._rows(select(*columns).order_by(ANSWERS.c.id)):
            self._remember(stored_of(row))

    def _prepare(self) -> None:
        with self._connection.begin():
            found = self._connection.exec_driver_sql("PRAGMA user_version").scalar() or 0
            if found > VERSION:
                raise BackfillError(
                    f"{self.path}: this cache has version {found}, known is {VERSION}; update "
                    "the code, or name another file with --cache"
                )
            METADATA.create_all(self._connection)
            self._connection.exec_driver_sql(f"PRAGMA user_version = {VERSION}")

    def close(self) -> None:
        self.verdicts.close()
        self._disconnect()

    def _disconnect(self) -> None:
        self._connection.close()
        self._connection.engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    # Answers

    def find(self, key: AnswerKey) -> Stored | None:
        """The answer to ``key``, or the failure that it ended in.

        An answer that ended by itself under another length limit is the same answer under any
        limit that it fits into.
        """
        exact = self._answers.get(key)
        if exact is not None and exact.error is None:
            return exact
        for other in self._index.get((key.base, key.sample), ()):
            stored = self._answers[other]
            whole = stored.error is None and not stored.truncated
            if whole and (stored.output_tokens or key.max_tokens + 1) <= key.max_tokens:
                return stored
        return exact

    def response_of(self, answer: int) -> str | None:
        """The text of an answer."""
        text: str | None = self._one(select(ANSWERS.c.response).where(ANSWERS.c.id == answer))
        return text

    def _remember(self, stored: Stored) -> None:
        before = self._answers.get(stored.key)
        if before is None:
            self._index.setdefault(stored.key[:2], []).append(stored.key)
        if before is None or before.error is not None:
            self._answers[stored.key] = stored

    def __len__(self) -> int:
        """Answers; failures don't count."""
        return sum(stored.error is None for stored in self._answers.values())

    # The journal

    def open_account(self) -> None:
        """Budgets count from now on; what was spent before no longer does."""
        with self._writing():
            self._account = self._insert(ACCOUNTS, opened_at=time.time())

    def begin(
        self, card: ModelCard, held_usd: Decimal | None, *, kind: str, key: AnswerKey | None = None
    ) -> int:
        """Write down that a call is about to be made; its number. On disk when this returns."""
        if self._account is None:
            self.open_account()
        what = {} if key is None else key._asdict()
        with self._writing():
            return self._insert(
                INTENTS,
                account_id=self._account,
                kind=kind,
                card=card.name,
                model=card.model_name,
                held_usd=usd_str(held_usd),
                began_at=time.time(),
                **what,
            )

    def end(self, intent: int, how: str, charges: Iterable[Charge]) -> None:
        """The call has ended without an answer to keep; its attempts."""
        with self._writing():
            self._end(intent, how, charges)

    def answered(
        self,
        intent: int,
        key: AnswerKey,
        message: AIMessage,
        charges: Sequence[Charge],
        *,
        truncated: bool,
    ) -> Stored:
        """The call was answered: answer, attempts and end in one transaction."""
        last = charges[-1]
        return self._keep(
            intent,
            key,
            charges,
            "answered",
            response=answer_of(message),
            message=to_json(message_to_dict(message)),
            input_tokens=None if last.usage is None else last.usage.input_tokens,
            output_tokens=None if last.usage is None else last.usage.output_tokens,
            cost_usd=usd_str(last.cost_usd),
            latency_s=last.latency_s,
            truncated=truncated,
        )

    def failed(
        self, intent: int, key: AnswerKey, charges: Sequence[Charge], *, error: str, detail: str
    ) -> Stored:
        """The call failed in a way that it would fail again: kept, so that nobody asks again."""
        return self._keep(
            intent, key, charges, "failed", truncated=False, error=error, detail=detail
        )

    def _keep(
        self, intent: int, key: AnswerKey, charges: Sequence[Charge], how: str, **row: Any
    ) -> Stored:
        row |= {**key._asdict(), "intent_id": intent, "at": time.time()}
        with self._writing():
            self._end(intent, how, charges)
            stored = stored_of({**row, "id": self._insert(ANSWERS, **row)})
        self._remember(stored)
        return stored

    def close_lost(self) -> int:
        """End the intents of processes that died; how many. Nobody else can be using the file."""
        with self._writing():
            lost = self._rows(_open_intents())
            for row in lost:
                self._end(row["id"], "lost", [_lost(row)])
        return len(lost)

    def spending(self) -> AccountSpending:
        """What the present account has cost, calls of dead processes at their worst case."""
        open_ones = self._rows(_open_intents().where(INTENTS.c.account_id == self._account))
        charges = [*self.account_charges(), *map(_lost, open_ones)]
        lost = [charge for charge in charges if charge.error == _LOST]
        zero = Decimal(0)
        return AccountSpending(
            known=sum((charge.cost_usd or zero for charge in charges), zero),
            counted=sum(map(counted, charges), zero),
            unknown=sum(c.cost_usd is None and c.held_usd is None for c in charges),
            lost=len(lost),
            lost_usd=sum(map(counted, lost), zero),
        )

    def charges(self) -> Iterator[Charge]:
        """Every attempt ever made, in the order in which calls ended."""
        return self._charges(select(CHARGES.c.charge).order_by(CHARGES.c.id))

    def account_charges(self) -> Iterator[Charge]:
        """Those of the present account."""
        mine = select(CHARGES.c.charge).join(INTENTS, INTENTS.c.id == CHARGES.c.intent_id)
        return self._charges(mine.where(INTENTS.c.account_id == self._account))

    def _charges(self, query: Select[Any]) -> Iterator[Charge]:
        for row in self._rows(query):
            yield Charge.from_dict(json.loads(row["charge"]))

    # Verifiers that have proved themselves

    def proved(self, grader: str) -> bool:
        return self._one(select(PROOFS.c.at).where(PROOFS.c.grader == grader)) is not None

    def put_proof(self, grader: str) -> None:
        with self._writing():
            self._insert(PROOFS, grader=grader, at=time.time())

    # SQLite

    def _end(self, intent: int, how: str, charges: Iterable[Charge]) -> None:
        self._insert(ENDS, intent_id=intent, how=how, ended_at=time.time())
        for charge in charges:
            self._insert(
                CHARGES,
                intent_id=intent,
                cost_usd=usd_str(charge.cost_usd),
                held_usd=usd_str(charge.held_usd),
                charge=json.dumps(charge.to_dict(), ensure_ascii=False),
            )

    def _insert(self, table: Any, **values: Any) -> int:
        # A provider may have cut an answer in the middle of an emoji.
        row = encodable_value(values)
        key = self._connection.execute(insert(table).values(**row)).inserted_primary_key
        return 0 if key is None or not isinstance(key[0], int) else key[0]

    def _rows(self, query: Select[Any]) -> list[Mapping[str, Any]]:
        with self._said("read"):
            nested = self._connection.in_transaction()
            rows: list[Mapping[str, Any]] = [
                dict(row) for row in self._connection.execute(query).mappings()
            ]
            if not nested:
                self._connection.rollback()  # a read must not hold a transaction open
            return rows

    def _one(self, query: Select[Any]) -> Any:
        rows = self._rows(query)
        return next(iter(rows[0].values())) if rows else None

    @contextmanager
    def _writing(self) -> Iterator[None]:
        with self._said("written"), self._connection.begin():
            yield

    @contextmanager
    def _said(self, what: str) -> Iterator[None]:
        try:
            yield
        except (SQLAlchemyError, sqlite3.Error, OSError) as error:
            cause = error.orig if isinstance(error, DBAPIError) else error
            if "locked" in str(cause):
                raise BackfillError(
                    f"{self.path}: another run is using this cache; wait for it, or name another "
                    "file with --cache"
                ) from error
            raise BackfillError(
                f"the cache {self.path} can't be {what}: {cause}; free some space, repair or "
                "move the file, or name another with --cache"
            ) from error


def _set_up(connection: Any, record: object) -> None:
    cursor = connection.cursor()
    # Held until the process ends: two runs on one budget would not see each other's spending.
    cursor.execute("PRAGMA locking_mode = EXCLUSIVE")
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _lost(intent: Mapping[str, Any]) -> Charge:
    kind, held = intent["kind"], usd(intent["held_usd"])
    return unfinished_charge(kind, intent["card"], intent["model"], held, _LOST)


def _open_intents() -> Select[Any]:
    ended = select(ENDS.c.intent_id).where(ENDS.c.intent_id == INTENTS.c.id).exists()
    return select(INTENTS).where(~ended).order_by(INTENTS.c.id)
