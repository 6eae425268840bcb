"""A request's own fields as the class of the card that answers takes them.

A server that speaks OpenAI gets them in the body as they were given, known or not. Another
provider's class gets those that it has a field for: its client would refuse the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from langchain_core.language_models import BaseChatModel

from xrouter_lg.calls.worker.clients import is_a
from xrouter_lg.calls.worker.parameters import LIMITS

BODY = "extra_body"
"""Keyword under which clients take what they know no name for."""

_OWN = frozenset({"stop", *LIMITS})
"""Handled by name in every class."""
_ANYWHERE = frozenset({"stop", "top_p", "top_k", "response_format", *LIMITS})


def worker_options(model: BaseChatModel, given: Mapping[str, Any]) -> dict[str, Any]:
    """The keywords of one call to ``model``."""
    if is_a(model, "BaseChatOpenAI"):
        responses = getattr(model, "_use_responses_api", None)
        if responses is not None and responses(dict(given)):
            return dict(given)
        kept = {name: value for name, value in given.items() if name in _OWN}
        body = {name: value for name, value in given.items() if name not in _OWN and name != BODY}
        body |= given.get(BODY) or {}
        return {**kept, BODY: {**(getattr(model, "extra_body", None) or {}), **body}}
    known = type(model).model_fields
    kept = {n: value for n, value in given.items() if n in _ANYWHERE or n in known}
    kept.pop(BODY, None)
    if given.get(BODY) and is_a(model, "ChatAnthropic"):
        kept[BODY] = given[BODY]
    return kept
