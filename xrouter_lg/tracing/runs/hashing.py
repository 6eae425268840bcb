"""Texts replaced by keyed hashes: what was said can't be read, only recognised.

What is kept is listed, everything else is hashed: a key that nobody thought of is a hash, not a
leak. Equal texts (but for case and spaces) of one store have equal hashes, so that repeated prompts
can be counted.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import unicodedata
from typing import Any

from xrouter_lg.tracing.runs.kept import is_brief

_PROTOCOL = frozenset(
    {
        *("type", "role", "id", "lc", "tool_call_id", "call_id"),
        *("status", "object", "node", "goto"),
        *("finish_reason", "stop_reason", "native_finish_reason", "service_tier", "streamed"),
        *("model", "model_name", "model_provider", "served_model", "system_fingerprint"),
        *("card", "kind", "policy", "policy_version", "prompt_hash", "pool_fingerprint"),
        *("price_source", "cost_usd", "held_usd", "estimate_usd", "allowance_usd"),
    }
)
"""Keys whose values are words of a protocol, where they are single words."""

_RECORD = _PROTOCOL | {
    *("route", "reason", "candidates", "removed", "error", "select"),
    *("router_cost_usd", "worker_cost_usd", "known_cost_usd", "shadow_cost_usd"),
    "estimated_cost_usd",
    *("arm", "unit", "salt"),
    *("trace_id", "run_id", "thread_id", "tenant"),
}
"""Keys whose values are kept in a route record: nothing there comes from the prompt."""

_BRIEF = _PROTOCOL | {"route", "trace_id", "run_id"}
"""The same in what a message keeps of one, where they are single words: it is small enough that
something else may look like it."""

_TELLING = frozenset({"prompt_token_ids", "completion_token_ids", "token_ids", "logprobs", "bytes"})
"""Numbers that can be turned back into text: left out."""

_RECORD_KEY = "xrouter"
_LONGEST_WORD = 128
_ERROR_CLASS = re.compile(r"[A-Za-z_][\w.]*")


class TextHasher:
    """Replaces texts by ``hashed:<32 hex digits>:<characters>``. ``salt`` keys the hash."""

    def __init__(self, salt: str) -> None:
        self._salt = salt.encode()

    def value(self, value: Any) -> Any:
        """Inputs or outputs of a run (JSON values) with hashed texts."""
        return self._walk(value, None, _PROTOCOL)

    def text(self, text: str) -> str:
        """One text; what is a hash already stays."""
        if not text or text.startswith("hashed:"):
            return text
        plain = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
        digest = hmac.new(self._salt, plain.encode("utf-8", "replace"), hashlib.sha256)
        return f"hashed:{digest.hexdigest()[:32]}:{len(text)}"

    def error(self, text: str) -> str:
        """An error's class stays, its message and traceback don't."""
        found = _ERROR_CLASS.match(text)
        return f"{found[0] if found else 'Error'}({self.text(text)})"

    def _walk(self, value: Any, key: str | None, kept: frozenset[str]) -> Any:
        if isinstance(value, str):
            return value if self._stays(value, key, kept) else self.text(value)
        if isinstance(value, list):
            return [self._walk(item, key, kept) for item in value]
        if isinstance(value, dict):
            return {name: self._entry(name, item, key, kept) for name, item in value.items()}
        return value

    def _entry(self, name: str, value: Any, above: str | None, kept: frozenset[str]) -> Any:
        if name in _TELLING:
            return None
        if name == _RECORD_KEY and isinstance(value, dict):
            if "pool_fingerprint" in value:
                kept = _RECORD
            elif is_brief(value):
                kept = _BRIEF
        # What stands below a kept key (the removed cards and why) is kept with it.
        inside = above if kept is _RECORD and above in _RECORD and name not in _RECORD else name
        return self._walk(value, inside, kept)

    def _stays(self, value: str, key: str | None, kept: frozenset[str]) -> bool:
        if key not in kept:
            return False
        return kept is _RECORD or (len(value) <= _LONGEST_WORD and not re.search(r"\s", value))
