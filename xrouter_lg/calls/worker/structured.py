"""Structured output as each card's own class makes it: what it is asked with, and what reads it."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any, NamedTuple

from langchain_core.language_models import BaseChatModel
from langchain_core.runnables import Runnable, RunnableBinding, RunnableSequence

from xrouter_lg.errors import RequestError

_KEPT = 64


class StructuredParts(NamedTuple):
    """The two halves of a model's ``with_structured_output``."""

    kwargs: Mapping[str, Any]
    """What the model is called with."""
    parser: Runnable[Any, Any]
    """What makes an object of its message."""


class Structured:
    """A schema that an answer shall follow, with the options of ``with_structured_output``
    (``method``, ``strict`` ...), which reach the model's own method as they are."""

    def __init__(self, schema: Any, options: Mapping[str, Any]) -> None:
        self.schema, self.options = schema, dict(options)
        self._made: dict[int, tuple[BaseChatModel, StructuredParts]] = {}
        self._lock = threading.Lock()

    @property
    def needs(self) -> frozenset[str]:
        """The capability that a card must have for the method, where one was named."""
        method = self.options.get("method")
        if method == "json_schema":
            return frozenset({"structured_output"})
        return frozenset({"tools"}) if method == "function_calling" else frozenset()

    def parts_for(self, model: BaseChatModel) -> StructuredParts:
        """The halves for one model, made once.

        Raises:
            RequestError: the model's class can't, or not with these options.
        """
        found = self._made.get(id(model))
        if found is None:
            parts = self._parts(model)
            with self._lock:
                if len(self._made) >= _KEPT:
                    self._made.pop(next(iter(self._made)))
                # The model is kept so that its id is not given again.
                found = self._made[id(model)] = model, parts
        return found[1]

    def _parts(self, model: BaseChatModel) -> StructuredParts:
        kind = type(model).__name__
        try:
            chain = model.with_structured_output(self.schema, **self.options)
        except Exception as error:  # what a provider's package raises is its affair
            raise RequestError(
                f"{kind} takes no structured output of this kind "
                f"({', '.join(f'{k}={v!r}' for k, v in self.options.items()) or 'its default'}): "
                f"{type(error).__name__}: {error}"
            ) from error
        if not isinstance(chain, RunnableSequence) or not isinstance(chain.first, RunnableBinding):
            raise RequestError(
                f"{kind}.with_structured_output gives a {type(chain).__name__}, of which the call "
                "can't be told from the parser; use bind_tools and a parser of your own"
            )
        rest = chain.steps[1:]
        parser = rest[0] if len(rest) == 1 else RunnableSequence(*rest)
        return StructuredParts(chain.first.kwargs, parser)
