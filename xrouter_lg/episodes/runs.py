"""What a recorded run says beside its messages: question, last answer, tools, what was hidden."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from xrouter_lg.said import (
    Message,
    Run,
    answer_of,
    asked_model,
    fields_of,
    metadata_of,
    text_of,
)
from xrouter_lg.tracing.runs.facts import PROMPTS_KEY
from xrouter_lg.tracing.runs.redact import MASK

_HASH = re.compile(r"hashed:[0-9a-f]{32}:\d+\Z")


def ancestors_of(run: Run) -> list[str]:
    """Ids of the runs above, the root first: the dotted order spells them out."""
    return [step[-36:] for step in str(run.get("dotted_order") or "").split(".")[:-1]]


def model_of(run: Run) -> str:
    """The model that was asked for, as its provider knows it, else as the run was named."""
    return asked_model(run) or str(run.get("name"))


def last_answer(outputs: Any, key: str = "messages") -> str | None:
    """The answer in the last message among a node's or graph's outputs; None without one."""
    values = update_of(outputs).get(key)
    if isinstance(values, list | tuple):
        values = values[-1] if values else None
    fields = fields_of(values)
    return answer_of(fields) if "content" in fields else None


def update_of(outputs: Any) -> Mapping[str, Any]:
    """The state's update among a node's recorded outputs."""
    update = outputs if isinstance(outputs, Mapping) else {}
    for name in ("output", "update"):  # how tracers wrap what is no dict, and a Command's part
        inner = update.get(name)
        update = inner if isinstance(inner, Mapping) else update
    return update


# --- what was kept from us -----------------------------------------------------------------


def is_hashed(runs: Sequence[Run], messages: Sequence[Message] = ()) -> bool:
    """Whether texts were replaced by digests when this was recorded."""
    if any(metadata_of(run).get(PROMPTS_KEY) == "hashed" for run in runs):
        return True
    return any(_HASH.match(text_of(message["content"])) for message in messages)


def is_redacted(run: Run, messages: Sequence[Message], answer: str | None) -> bool:
    """Whether redaction left nothing of the question or of the answer. A masked name in a whole
    sentence still trains."""
    for side in ("inputs", "outputs"):
        if "redaction_failed" in (run.get(side) or {}):
            return True
    asked = [text_of(m["content"]) for m in messages if m["role"] == "user"][-1:]
    return any(_all_masked(text) for text in [*asked, answer or ""])


def _all_masked(text: str) -> bool:
    return MASK in text and not re.search(r"\w", text.replace(MASK, ""))
