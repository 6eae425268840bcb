"""The cache's tables. Rows are only ever added: what was paid for stays on the books.

A call is two rows: an *intent*, committed before a byte is sent, and an *end*. An intent without
an end belongs to a process that died: its cost counts with its worst case, because the provider
may have answered, and billed, nobody.
"""

from __future__ import annotations

from sqlalchemy import (
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    text,
)

VERSION = 1
"""Kept in SQLite's ``user_version``; raised when a column changes its meaning."""

METADATA = MetaData()

ACCOUNTS = Table(
    "accounts",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("opened_at", Float, nullable=False),
)
"""What one ``--budget-usd`` is counted on. Runs go on with the newest until a new one is opened."""

INTENTS = Table(
    "intents",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("account_id", ForeignKey("accounts.id"), nullable=False, index=True),
    Column("kind", String, nullable=False),  # backfill, judge
    Column("base", String),
    Column("sample", Integer),
    Column("max_tokens", Integer),
    Column("card", String, nullable=False),
    Column("model", String, nullable=False),
    Column("held_usd", Text),  # worst case; empty where the price is unknown
    Column("began_at", Float, nullable=False),
)

ENDS = Table(
    "ends",
    METADATA,
    Column("intent_id", ForeignKey("intents.id"), primary_key=True),
    Column("how", String, nullable=False),  # answered, failed, cancelled, lost
    Column("ended_at", Float, nullable=False),
)

CHARGES = Table(
    "charges",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("intent_id", ForeignKey("intents.id"), nullable=False, index=True),
    Column("cost_usd", Text),
    Column("held_usd", Text),
    Column("charge", Text, nullable=False),  # Charge.to_dict() as JSON
)

ANSWERS = Table(
    "answers",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("base", String, nullable=False),
    Column("sample", Integer, nullable=False),
    Column("max_tokens", Integer, nullable=False),
    Column("intent_id", ForeignKey("intents.id"), nullable=False),
    Column("response", Text),  # empty where the call failed for good
    Column("message", Text),  # LangChain's message_to_dict as JSON
    Column("input_tokens", Integer),
    Column("output_tokens", Integer),
    Column("cost_usd", Text),
    Column("latency_s", Float),
    Column("truncated", Boolean, nullable=False),
    Column("error", String),
    Column("detail", Text),
    Column("at", Float, nullable=False),
    # The database itself refuses a second answer to what was answered.
    Index(
        "one_answer",
        "base",
        "sample",
        "max_tokens",
        unique=True,
        sqlite_where=text("error IS NULL"),
    ),
)

PROOFS = Table(
    "proofs",
    METADATA,
    Column("grader", String, primary_key=True),
    Column("at", Float, nullable=False),
)
"""Paid verifiers that have proved themselves: a resumed run does not pay for the proof again."""
