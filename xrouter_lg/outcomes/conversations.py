"""What was asked, as the router reads it: the whole conversation of a prompt."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import polars as pl
from langchain_core.messages import BaseMessage, HumanMessage

from xrouter_lg.judge.table import KEY
from xrouter_lg.outcomes.conversation import UnaskableError, conversation_of


def read_conversations(
    prompts: str | Path, prompt_ids: Sequence[str], texts: Sequence[str]
) -> tuple[tuple[BaseMessage, ...], ...]:
    """The messages of each prompt (``source|task|prompt_id``), from a file of prompts.

    Traces keep the whole conversation beside the last message's text; a router that serves sees
    it, so one that trains or is judged must too. Without it the text is the only message.
    """
    rows = pl.scan_parquet(prompts)
    metas: dict[str, str] = {}
    if "meta" in rows.collect_schema().names():
        frame = rows.select(pl.concat_str(KEY, separator="|").alias("key"), "meta")
        known = frame.filter(pl.col("meta").is_not_null()).collect()
        metas = dict(zip(known["key"], known["meta"].cast(pl.String), strict=True))
    found = []
    for key, text in zip(prompt_ids, texts, strict=True):
        try:
            meta = json.loads(metas.get(key) or "{}")
            messages = conversation_of(text, meta if isinstance(meta, dict) else {}).messages
        except (json.JSONDecodeError, UnaskableError):
            # It can't be asked again, but what is read of it is its last message.
            messages = (HumanMessage(text),)
        found.append(messages)
    return tuple(found)
