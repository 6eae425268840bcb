"""Tables of what is spent and held, in SQLite or Postgres."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    Index,
    MetaData,
    String,
    Table,
    Text,
)

metadata = MetaData()

counters = Table(
    "xrouter_spend",
    metadata,
    Column("per", String(8), primary_key=True),
    Column("who", String(128), primary_key=True),
    Column("period", String(80), primary_key=True),
    Column("spent", BigInteger, nullable=False),
    Column("held", BigInteger, nullable=False),
)
"""One row per counter, in billionths of a USD: what is paid, and what is set aside for calls that
are under way."""

holds = Table(
    "xrouter_holds",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("holder", String(32), nullable=False),
    Column("nano", BigInteger, nullable=False),
    Column("places", Text, nullable=False),
    Column("expires_at", Float, nullable=False),
    Column("lapsed", Boolean, nullable=False),
    Column("counted", Boolean, nullable=False),
    Index("ix_xrouter_holds_expires", "lapsed", "expires_at"),
    Index("ix_xrouter_holds_holder", "holder"),
)
"""One row per call under way: what it has set aside, in which counters, and until when its holder
has said that it is alive. A row that has lapsed stays for a while, so that a holder who was only
slow finds it; ``counted`` says that its whole sum was counted as spent when it did."""

LOCK_NUMBER = 7_203_115
