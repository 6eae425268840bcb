"""What can go wrong between LangSmith and the local store.

Every message names the value, the place and the fix, and never a key. The tree is drawn in
:mod:`xrouter_lg.errors`.
"""

from __future__ import annotations

from xrouter_lg.errors import MissingKeyError, StoreError, XRouterError


class LangSmithIntegrationError(XRouterError, RuntimeError):
    """Root of everything this integration raises on purpose."""


class NoKeyError(LangSmithIntegrationError, MissingKeyError):
    """The endpoint needs an API key and none is set."""


class AccessDeniedError(LangSmithIntegrationError):
    """LangSmith answered 401 (who are you?) or 403 (you may not)."""


class ProjectNotFoundError(LangSmithIntegrationError, LookupError):
    """There is no project, or dataset, of that name in the workspace."""


class UnreachableError(LangSmithIntegrationError):
    """LangSmith did not answer, or answered "later" until patience ran out."""


class LangSmithRefusedError(LangSmithIntegrationError):
    """LangSmith does not take this request; ``status`` is the HTTP status."""

    def __init__(self, message: str, status: int | None = None) -> None:
        self.status = status
        super().__init__(message)


class UnreadableAnswerError(LangSmithIntegrationError, ValueError):
    """What came with status 200 is no answer to the question, or its pages never end."""


class HiddenInputsError(LangSmithIntegrationError):
    """The runs hold no inputs or no outputs: there is nothing to train on."""


class RetentionError(LangSmithIntegrationError):
    """The window asked for is older than what LangSmith keeps, and nothing was there."""


class FeedbackNotSentError(LangSmithIntegrationError):
    """Feedback is in the local store, but LangSmith did not take it; ``feedback_id`` is its id."""

    def __init__(self, message: str, feedback_id: str) -> None:
        self.feedback_id = feedback_id
        super().__init__(message)


class BulkExportError(LangSmithIntegrationError, StoreError):
    """A Parquet file can't be read as LangSmith's bulk export."""
