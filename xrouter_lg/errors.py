"""The error model: who raises what, where it surfaces, and what it costs the user.

    XRouterError
    ├── ConfigurationError (ValueError)      found before the first request
    │   ├── PoolError                        a pool or a card is wrong
    │   ├── MissingKeyError                  an API key's variable is not set
    │   ├── PolicyConfigError                a policy can't be built from what was given
    │   │   └── CheckpointError              a checkpoint is missing, damaged, or for something else
    │   ├── AliasError                       an alias can't be read, moved or rolled back
    │   │   └── NotPromotedError             no verdict says that this checkpoint may serve
    │   └── VerifierConfigError              a verifier can't be built from its arguments
    ├── RequestError (ValueError)            this request can't be routed as it stands
    │   ├── EmptyMessagesError               no message at all
    │   ├── RequestOptionError               a bad value in ``config["configurable"]``
    │   └── NoCandidateError                 every card was removed; says which rule removed which
    ├── BudgetExceededError (RuntimeError)   the call would cost more than is left
    ├── PolicyError (RuntimeError)           a policy failed: caught by the router, costs a fallback
    │   ├── PolicyTimeoutError               no proposal within its deadline
    │   └── InvalidProposalError             unknown card, NaN probability, nonsense
    ├── WorkerError (RuntimeError)           one attempt failed: caught by failover
    │   └── StreamInterruptedError           a worker failed after its tokens began to stream
    ├── ErrorInAnswerError                   a provider's error in a response of status 200
    ├── AllCandidatesFailedError (RuntimeError)   nobody answered; lists each attempt and its cost
    ├── RequestTimeoutError (TimeoutError)   no answer within the request's own timeout_s
    ├── BriefRecordError (LookupError)       what a checkpointer keeps of a record is not the whole
    ├── StoreError (RuntimeError)            the local trace store can't be opened or read
    │   └── BudgetStoreError                 what is spent can't be looked up; no call is made
    ├── MissingExtraError (ImportError)      an optional dependency is not installed
    │
    │   outcomes, verifiers, training
    ├── OutcomeError (ValueError)            a table can't be used; names file, row and value
    ├── UnaskableError (ValueError)          a recorded conversation can't be asked again
    ├── BackfillError (RuntimeError)         a backfill can't start or go on
    ├── Unverifiable                         no verdict is possible: a None with this reason
    ├── UnprovenVerifierError (RuntimeError)      misjudged an answer whose verdict is known
    ├── SandboxError (RuntimeError)          the sandbox failed, not the program in it
    │   └── NoProcessorError                 the machine was too busy to run the program
    ├── TrainingInterruptedError (RuntimeError)   asked to stop; what is done is saved
    │
    │   LangSmith
    ├── LangSmithIntegrationError (RuntimeError)
    │   ├── NoKeyError (MissingKeyError)     no API key for an endpoint that needs one
    │   ├── AccessDeniedError                401 or 403
    │   ├── ProjectNotFoundError (LookupError)    no project or dataset of that name
    │   ├── UnreachableError                 down, or still busy after every retry
    │   ├── LangSmithRefusedError            a request that LangSmith does not take
    │   ├── UnreadableAnswerError (ValueError)    an answer that is none, or that never ends
    │   ├── HiddenInputsError                runs came without inputs or outputs
    │   ├── RetentionError                   asked for what LangSmith has deleted
    │   ├── FeedbackNotSentError             kept in the local store, not in LangSmith
    │   └── BulkExportError (StoreError)     a Parquet file that is no usable export
    │
    │   servers of models
    ├── LocalModelError (RuntimeError)
    │   ├── UnknownWeightsError (ValueError)      a name that is not in the catalogue
    │   ├── WeightsUnavailableError          no source delivers the file
    │   ├── WeightsCorruptError              the bytes differ from the pinned sha256, twice
    │   ├── ServerStartError                 a server did not come up; carries the log's end
    │   ├── VllmMissingError                 no Python that has vLLM
    │   ├── AdapterError                     a checkpoint that a server can't load, or refused
    │   ├── MeasurementError                 a running server gave no usable timings
    │   └── ExportError                      a checkpoint that can't be written as GGUF
    │
    │   the server
    ├── ApiError                             an answer that is an error, with its HTTP status
    │   └── ClientLeftError                  nobody waits for the answer any more
    │
    │   fakes and the demo
    ├── NotHttpError                         what came over the socket is not HTTP
    ├── FakeRefusedError                     a request that a real server would refuse as well
    ├── ScriptExhaustedError (RuntimeError)  a scripted model was called once too often
    ├── FilterError (ValueError)             a LangSmith filter that the loopback can't read
    ├── NotRecordedError (LookupError)       nobody asked this model that question
    └── CommandFailedError (RuntimeError)    a command of the demo's loop ended with an error

Beside the tree stand ``NotPlainError`` of the verifiers' wire, which lives in a sandbox, without
this package, and ``NotYamlError``, of which each reader of a file makes the error of its own kind.

Configuration and request errors reach the caller as they are. Policy and worker errors are
classified at the boundary where they happen, recorded in the route record, and reach the caller
only as the ``__cause__`` of :class:`AllCandidatesFailedError`, :class:`StreamInterruptedError` or
:class:`RequestTimeoutError`. What a failed request has cost stands in
``record`` of the error that it ends in. Every message names the value, the place
and the fix. All of them pickle.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from functools import partial
from typing import Any, Self


class ErrorClass(StrEnum):
    """Why an attempt failed; decides retry, failover and what the attempt may have cost."""

    RATE_LIMIT = "rate_limit"
    SERVER = "server"
    TIMEOUT = "timeout"
    CONNECTION = "connection"
    AUTH = "auth"
    BAD_REQUEST = "bad_request"
    CONTEXT_LENGTH = "context_length"
    QUOTA = "quota"
    NOT_FOUND = "not_found"
    EMPTY = "empty"
    MALFORMED = "malformed"
    CONTENT_FILTER = "content_filter"
    TRUNCATED = "truncated"
    STREAM_CUT = "stream_cut"
    CIRCUIT_OPEN = "circuit_open"
    BUDGET = "budget"
    SLOW = "slow"
    UNKNOWN = "unknown"


class XRouterError(Exception):
    """Root of everything that is raised on purpose."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        error = super().__new__(cls, *args, **kwargs)
        error._made_of = args, kwargs
        return error

    _made_of: tuple[tuple[Any, ...], dict[str, Any]]

    record: Mapping[str, Any] | None = None
    """Of an error that ended a request: its route record as a plain dict, charges included."""

    def __reduce__(self) -> tuple[Any, ...]:
        # An exception's own way calls the class with the finished text alone.
        args, kwargs = self._made_of
        return partial(type(self), **kwargs), args, self.__dict__


class ConfigurationError(XRouterError, ValueError):
    """Something is set up wrongly; raised before the first request."""


class PoolError(ConfigurationError):
    """A pool file or a model card is wrong."""


class MissingKeyError(ConfigurationError):
    """The environment variable that should hold an API key is not set."""


class PolicyConfigError(ConfigurationError):
    """A policy can't be built from what was given."""


class RequestError(XRouterError, ValueError):
    """This request can't be routed as it stands."""


class EmptyMessagesError(RequestError):
    """There is no message to answer."""


class RequestOptionError(RequestError):
    """A per-request option in ``config["configurable"]`` has a bad value."""


class NoCandidateError(RequestError):
    """No card is left after the constraints; ``removed`` maps card name to the rule that fired."""

    def __init__(self, removed: Mapping[str, str]) -> None:
        self.removed = dict(removed)
        lines = "; ".join(f"{card!r}: {why}" for card, why in self.removed.items())
        super().__init__(
            f"no card of the pool can take this request. Removed: {lines}. "
            "Loosen the rule named beside a card, or add a card that fits."
        )


class BudgetExceededError(XRouterError, RuntimeError):
    """A call's worst case is dearer than what is left of the budget (USD)."""

    per: str | None = None
    """Whose limit it is, of those that many requests share; None for the request's own."""


class PolicyError(XRouterError, RuntimeError):
    """A policy failed. The router catches it and falls to the pool's default card."""


class PolicyTimeoutError(PolicyError):
    """A policy did not propose within its deadline (seconds)."""


class InvalidProposalError(PolicyError):
    """A policy proposed something that is not an action on the candidates."""


class WorkerError(XRouterError, RuntimeError):
    """One call to a card failed after its retries; ``error_class`` says how."""

    def __init__(self, card: str, error_class: ErrorClass, detail: str) -> None:
        self.card, self.error_class, self.detail = card, error_class, detail
        super().__init__(f"card {card!r} failed ({error_class}): {detail}")


class StreamInterruptedError(WorkerError):
    """A worker failed after tokens had reached the caller: no other card is asked, because its
    text would be glued to the first one's."""


class AllCandidatesFailedError(XRouterError, RuntimeError):
    """Every candidate was tried and none answered; ``attempts`` lists each with cost and cause.
    ``__cause__`` is the last one's exception as its provider's package raised it (None after an
    answer that was no good, and in another process than the one that asked)."""

    def __init__(self, attempts: Sequence[Mapping[str, object]]) -> None:
        self.attempts = [dict(attempt) for attempt in attempts]
        lines = "; ".join(
            f"{a.get('card')!r} {a.get('error')} "
            f"(cost {'unknown' if a.get('cost_usd') is None else '$' + str(a.get('cost_usd'))})"
            f"{': ' + str(a['detail']) if a.get('detail') else ''}"
            for a in self.attempts
        )
        super().__init__(
            f"every candidate failed: {lines or 'none could be tried'}. "
            "Check the cards with `xrouter pool check --live`."
        )


class RequestTimeoutError(XRouterError, TimeoutError):
    """A request's own ``timeout_s`` was over before anybody had answered."""


class BriefRecordError(XRouterError, LookupError):
    """A stored message holds a part of its route record, and the whole was asked for."""


class StoreError(XRouterError, RuntimeError):
    """The local trace store can't be opened, read or written."""


class BudgetStoreError(StoreError):
    """The database that counts spending does not answer, so that no call is known to be within its
    limits. Refused unless ``Budget(when_down="allow")``."""


class MissingExtraError(XRouterError, ImportError):
    """An optional dependency is missing; the message names the pip command."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        self.package, self.extra, self.purpose = package, extra, purpose
        super().__init__(
            f"{purpose} needs {package!r}, which is not installed: "
            f'pip install "xrouter_lg[{extra}]"'
        )
