"""LangSmith's client with the recorder's redaction: nothing leaves the process before it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from langsmith import Client

from xrouter_lg.json_text import from_json, to_json
from xrouter_lg.tracing.runs.redact import known_secrets, scrub_value

_DESCRIBING = ("name", "tags", "events", "extra", "serialized")
"""Fields of a run that LangSmith's own anonymizer leaves as they are."""

_SAID = ("value", "correction", "comment")
"""Fields of feedback that hold what people wrote."""


def langsmith_client(redact: Callable[[Any], Any] | None = None, **options: Any) -> Client:
    """A LangSmith client that sends only what ``redact`` lets through.

    ``redact`` is what a :class:`Recorder` takes: it gets JSON values and returns what may be
    sent; when it raises, the value is left out. Credentials are removed regardless. It sees
    inputs, outputs, errors, metadata, tags, names, call parameters, events, and what feedback
    says; attachments are sent as they are. ``options`` go to ``langsmith.Client``.

    Use it with ``tracing_context(client=...)`` or ``langsmith.configure(client=...)``; the
    latter covers graphs that trace because of ``LANGSMITH_TRACING=true``.
    """
    if options.get("anonymizer") is not None:
        raise ValueError("langsmith_client: pass redact= instead of anonymizer=, not both")
    return _RedactingClient(redact, options)


class _RedactingClient(Client):
    """Cleans the fields that the anonymizer does not reach, in the public methods that every
    tracer calls."""

    def __init__(self, redact: Callable[[Any], Any] | None, options: dict[str, Any]) -> None:
        self._redact = redact
        super().__init__(**{**options, "anonymizer": self._cleaned_dict})

    def create_run(self, name: str, inputs: Any, run_type: Any, **kwargs: Any) -> None:
        self._clean_fields(kwargs)
        super().create_run(self._cleaned(name), inputs, run_type, **kwargs)

    def update_run(self, run_id: Any, **kwargs: Any) -> None:
        self._clean_fields(kwargs)
        super().update_run(run_id, **kwargs)

    def create_feedback(self, *args: Any, **kwargs: Any) -> Any:
        self._clean_said(kwargs)
        return super().create_feedback(*args, **kwargs)

    def update_feedback(self, *args: Any, **kwargs: Any) -> None:
        self._clean_said(kwargs)
        super().update_feedback(*args, **kwargs)

    def _clean_fields(self, fields: dict[str, Any]) -> None:
        for name in _DESCRIBING:
            if fields.get(name):
                fields[name] = self._cleaned(fields[name])

    def _clean_said(self, fields: dict[str, Any]) -> None:
        for name in _SAID:
            if isinstance(fields.get(name), (str, dict, list)):
                fields[name] = self._cleaned(fields[name])

    def _cleaned_dict(self, value: Any) -> Any:
        cleaned = self._cleaned(value)
        return cleaned if isinstance(cleaned, dict) else {"redacted": cleaned}

    def _cleaned(self, value: Any) -> Any:
        plain = from_json(to_json(value))
        if self._redact is not None:
            try:
                plain = self._redact(plain)
            except Exception as error:
                return (
                    type(plain)()
                    if not isinstance(plain, dict)
                    else {"redaction_failed": type(error).__name__}
                )
        return scrub_value(plain, known_secrets())
