"""Where an answer's chunks go as they come, for a caller that iterates over them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from langchain_core.messages import AIMessage, AIMessageChunk

from xrouter_lg.calls.told.stream_watch import shows, size_of

Emit = Callable[[str, AIMessageChunk], None]


class TokenSink:
    """Hands chunks on to ``emit(card, chunk)``. Those of an attempt that has shown nothing yet are
    held back, so that another can take its place unseen; and so is the last one of an answer,
    which the record goes out with."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._held: list[AIMessageChunk] = []
        self.shown = False
        """Whether the caller has seen a part of the answer."""
        self.said = 0
        """Characters of this attempt so far."""
        self.last: AIMessageChunk | None = None
        """The chunk that ended the answer."""
        self.on_first: Callable[[], None] | None = None
        """Told when the first part is about to be seen."""

    def twin(self) -> TokenSink:
        """For a call beside this one, of which one alone will be seen."""
        return TokenSink(self._emit)

    def adopt(self, twin: TokenSink) -> None:
        """The twin's answer was the one."""
        self._held, self.last = twin._held, twin.last
        self.shown, self.said = twin.shown, twin.said

    def begin(self) -> None:
        """Another attempt begins; what the one before has not shown is forgotten."""
        self._held.clear()
        self.last = None
        self.said = 0

    def put(self, card: str, chunk: AIMessageChunk) -> None:
        self.said += size_of(chunk.text, chunk)
        if chunk.chunk_position == "last":
            self.last = chunk
            return
        self._held.append(chunk)
        if self.shown or shows(chunk.text, chunk):
            if not self.shown and self.on_first is not None:
                self.on_first()
            self.shown = True
            self._flush(card)

    def accept(self, card: str) -> None:
        """The attempt is the answer: what it holds goes out, though there is nothing to see."""
        if not self.shown and self.on_first is not None:
            self.on_first()
        self.shown = True
        self._flush(card)

    def _flush(self, card: str) -> None:
        for chunk in self._held:
            self._emit(card, chunk)
        self._held.clear()


def as_chunk(message: AIMessage) -> AIMessageChunk:
    """A whole message as the only chunk of its stream."""
    if isinstance(message, AIMessageChunk):
        return message
    fields: dict[str, Any] = {
        name: getattr(message, name)
        for name in type(message).model_fields
        if name not in ("type", "invalid_tool_calls")
    }
    return AIMessageChunk(**fields, chunk_position="last")
