"""What the fake server asks of a dialect: one provider's way to write things."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from xrouter_lg.testing.completion import Completion, FakeRequest
from xrouter_lg.testing.tokens import count_words


class Dialect(ABC):
    """Reads the requests of one API, and writes its answers, streams and errors.

    A stream is `opening`, one of `pieces` per generated token, and `closing`; each is bytes that
    are sent at once.
    """

    media_type: ClassVar[str] = "text/event-stream; charset=utf-8"
    """Of a stream."""
    messages: ClassVar[str] = "messages"
    """The field that holds the conversation."""
    prompt: ClassVar[tuple[str, ...]] = ("system", "messages", "tools")
    """The fields whose text is billed as prompt."""
    limits: ClassVar[tuple[str, ...]] = ("max_tokens",)
    """The names that limit the output. As with the provider, any other is ignored."""
    stops: ClassVar[str] = "stop"
    words: ClassVar[Mapping[str, str]] = {}
    """OpenAI's finish reasons in this provider's words; one left out is the same."""

    def model(self, path: str, body: Mapping[str, Any]) -> str:
        """The model that a request names."""
        return str(body.get("model"))

    def streamed(self, path: str, body: Mapping[str, Any]) -> bool:
        """Whether a request wants a stream."""
        return bool(body.get("stream"))

    def settings(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """Where a request has its limits and stops."""
        return body

    def problem(self, body: Mapping[str, Any]) -> tuple[str, str] | None:
        """Why a request is refused with 400, and the parameter to blame."""
        name, messages = self.messages, body.get(self.messages)
        if not isinstance(messages, list) or not all(isinstance(it, dict) for it in messages):
            return f"{name!r} is not a list of objects.", name
        if not messages:
            return f"{name!r} is empty.", name
        settings = self.settings(body)
        for name in self.limits:
            limit = settings.get(name)
            if limit is not None and (not isinstance(limit, int) or limit < 1):
                return f"{name!r} is not a positive integer.", name
        return None

    def asked(self, path: str, body: dict[str, Any], number: int) -> FakeRequest:
        """What a request without a problem asks for."""
        settings = self.settings(body)
        stop = settings.get(self.stops) or ()
        return FakeRequest(
            number=number,
            model=self.model(path, body),
            body=body,
            prompt_tokens=self.count(body),
            limit=next((settings[name] for name in self.limits if settings.get(name)), None),
            stops=(stop,) if isinstance(stop, str) else stop,
        )

    def count(self, body: Mapping[str, Any]) -> int:
        """The tokens of a prompt."""
        return sum(count_words(body.get(name)) for name in self.prompt)

    def finish(self, completion: Completion) -> str:
        """Why a completion ended, in this provider's words."""
        return self.words.get(completion.finish_reason, completion.finish_reason)

    @abstractmethod
    def body(self, completion: Completion, asked: FakeRequest) -> bytes:
        """The response to a request without a stream."""

    @abstractmethod
    def opening(self, completion: Completion, asked: FakeRequest) -> bytes:
        """What comes before the first token."""

    @abstractmethod
    def pieces(self, completion: Completion, asked: FakeRequest) -> Iterator[bytes]:
        """The tokens."""

    @abstractmethod
    def closing(self, completion: Completion, asked: FakeRequest) -> Iterator[bytes]:
        """What ends a stream: finish reason, usage."""

    @abstractmethod
    def error(self, status: int, error: Mapping[str, Any]) -> bytes:
        """The body of an error, from OpenAI's `message`, `type`, `code` and `param`."""

    @abstractmethod
    def error_event(
        self, error: Mapping[str, Any], completion: Completion, asked: FakeRequest
    ) -> bytes:
        """An error in the middle of a stream."""
