"""What a fake server answers: routes, checks, faults, and the bill as it goes."""

from __future__ import annotations

import asyncio
import hmac
import json
import threading
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from xrouter_lg.errors import XRouterError
from xrouter_lg.testing import payloads
from xrouter_lg.testing.answers import Call, FaultPlan
from xrouter_lg.testing.completion import Completion, FakeModel, FakeRequest, complete
from xrouter_lg.testing.dialects import OPENAI, Dialect, dialect_of
from xrouter_lg.testing.faults import (
    BrokenTransfer,
    ChangedAnswer,
    ErrorAnswer,
    Fault,
    NoAnswer,
)
from xrouter_lg.testing.http import HttpConnection, HttpRequest
from xrouter_lg.testing.journal import (
    BillLine,
    Journal,
    RecordedRequest,
    public_headers,
)


class FakeRefusedError(XRouterError):
    """A request that a real server would refuse as well."""

    def __init__(self, status: int, message: str, code: str | None, param: str | None = None):
        super().__init__(message)
        self.status = status
        kind = "invalid_request_error"
        self.error = {"message": message, "type": kind, "param": param, "code": code}


class ChatService:
    """Answers the requests of all connections; settings may change from any thread."""

    def __init__(
        self,
        models: Iterable[FakeModel],
        *,
        default: FakeModel,
        faults: FaultPlan,
        api_key: str | None,
        journal: Journal,
    ) -> None:
        self._lock = threading.Lock()
        self._models = {model.name: model for model in models}
        self._any_name = not self._models
        self._default = default
        self.faults = faults
        self._calls: Counter[str] = Counter()
        self._api_key = api_key
        self._received = 0
        self.journal = journal

    def set_faults(self, plan: FaultPlan) -> None:
        """Put another plan in force, whose calls are counted from 0."""
        with self._lock:
            self.faults = plan
            self._calls.clear()

    def add_model(self, model: FakeModel) -> None:
        """Add a model, or replace the one of the same name."""
        with self._lock:
            self._models = {**self._models, model.name: model}

    async def answer(self, connection: HttpConnection, request: HttpRequest) -> bool:
        """Answer one request; False if the connection is over."""
        dialect = dialect_of(request.path) if request.method == "POST" else None
        try:
            if dialect is not None:
                return await self._chat(connection, request, dialect)
            body = self._page(request)
        except FakeRefusedError as refused:
            body = (dialect or OPENAI).error(refused.status, refused.error)
            return await self._respond(connection, refused.status, body)
        return await self._respond(connection, 200, body)

    def _page(self, request: HttpRequest) -> bytes:
        if request.method != "GET":
            raise FakeRefusedError(404, f"Unknown route {request.method} {request.path}.", None)
        match request.path:
            case "/health":
                return payloads.encode({"status": "ok"})
            case "/_stats":
                return payloads.encode(self.journal.stats())
            case "/v1/models":
                names = sorted(self._models) or [self._default.name]
                data = [
                    {"id": name, "object": "model", "created": 0, "owned_by": "fake"}
                    for name in names
                ]
                return payloads.encode({"object": "list", "data": data})
        raise FakeRefusedError(404, f"Unknown route GET {request.path}.", None)

    async def _chat(
        self, connection: HttpConnection, request: HttpRequest, dialect: Dialect
    ) -> bool:
        recorded, fault = self._record(request, dialect)
        if self._api_key is not None and not recorded.authenticated:
            raise FakeRefusedError(401, "Incorrect API key provided.", "invalid_api_key")
        if isinstance(fault, ErrorAnswer):
            self.journal.status(fault.status)
            body = fault.body
            if fault.content_type == "application/json":
                body = dialect.error(fault.status, json.loads(body)["error"])
            await connection.respond(
                fault.status, body, content_type=fault.content_type, headers=fault.headers
            )
            return True
        if isinstance(fault, NoAnswer):
            if fault.reset:
                connection.reset()
            else:
                await connection.wait_for_client_to_leave(fault.seconds)
            return False
        model = self._checked(recorded, dialect)
        asked = dialect.asked(request.path, recorded.body, recorded.number)
        completion = self._completion(model, asked)
        if isinstance(fault, ChangedAnswer):
            completion = fault.change(completion)
        if model.latency_s:
            await asyncio.sleep(model.latency_s)
        transfer = fault if isinstance(fault, BrokenTransfer) else _GOOD_TRANSFER
        exchange = _Exchange(connection, recorded, dialect, asked, completion, transfer)
        return await (self._stream if recorded.stream else self._send)(exchange)

    def _record(
        self, request: HttpRequest, dialect: Dialect
    ) -> tuple[RecordedRequest, Fault | None]:
        try:
            body = json.loads(request.body)
        except ValueError:
            body = None
        if not isinstance(body, dict):
            raise FakeRefusedError(400, "The request body is not a JSON object.", None)
        name = dialect.model(request.path, body)
        authenticated = self._authenticated(request)
        with self._lock:
            plan, call_number, number = self.faults, self._calls[name], self._received
            self._received += 1
            if authenticated or self._api_key is None:
                self._calls[name] += 1
        fault = plan.fault_for(Call(name, call_number, body))
        recorded = RecordedRequest(
            number=number,
            model=name,
            path=request.path,
            body=body,
            headers=public_headers(request.headers),
            authenticated=authenticated,
            stream=dialect.streamed(request.path, body),
            fault=None if fault is None else fault.kind,
        )
        self.journal.request(recorded)
        return recorded, fault

    def _authenticated(self, request: HttpRequest) -> bool:
        scheme, _, key = (request.header(b"authorization") or "").partition(" ")
        if scheme.lower() != "bearer":
            key = request.header(b"x-api-key") or request.header(b"x-goog-api-key") or ""
        if not key:
            return False
        return self._api_key is None or hmac.compare_digest(key, self._api_key)

    def _checked(self, request: RecordedRequest, dialect: Dialect) -> FakeModel:
        model = self._models.get(request.model)
        if model is None and self._any_name:
            model = self._default
        if model is None:
            message = f"The model {request.model!r} does not exist."
            raise FakeRefusedError(404, message, "model_not_found", "model")
        if problem := dialect.problem(request.body):
            message, param = problem
            raise FakeRefusedError(400, message, None, param)
        return model

    def _completion(self, model: FakeModel, asked: FakeRequest) -> Completion:
        try:
            completion = complete(model, asked)
        except Exception as error:
            # A broken reply function is the test's own mistake: say so where it will be read.
            message = f"The reply function of fake model {model.name!r} raised {error!r}."
            raise FakeRefusedError(500, message, "fake_reply_failed") from error
        window, prompt = model.context_window, completion.usage.prompt_tokens
        if window is not None and prompt > window:
            message = f"The context window is {window} tokens; the messages have {prompt}."
            raise FakeRefusedError(400, message, "context_length_exceeded", "messages")
        return completion

    async def _send(self, it: _Exchange) -> bool:
        connection, transfer = it.connection, it.transfer
        if transfer.error_event is not None:
            body = it.dialect.error(500, json.loads(transfer.error_event)["error"])
            return await self._respond(connection, 500, body)
        if transfer.pause_s:
            await asyncio.sleep(transfer.pause_s * max(1, len(it.completion.pieces)))
        body = it.dialect.body(it.completion, it.asked)
        if transfer.garbled:
            body = body[: len(body) // 2]
        # Billed before the bytes leave: who has read the answer finds it on the bill.
        self._charge(it)
        if transfer.stop_after is None:
            return await self._respond(connection, 200, body)
        self.journal.status(200)
        await connection.respond(200, body, send_bytes=len(body) // 2)
        return False

    async def _stream(self, it: _Exchange) -> bool:
        connection, dialect, transfer = it.connection, it.dialect, it.transfer
        self.journal.status(200)
        opening = dialect.opening(it.completion, it.asked)
        if transfer.garbled:
            self._charge(it)
            opening = opening or b'{"garbled":'
            first = opening[: len(opening) // 2] + b"\n\n"
            await connection.start_stream(first, dialect.media_type)
            return False
        sent, whole = 0, len(it.completion.pieces)
        stop = whole if transfer.stop_after is None else min(transfer.stop_after, whole)
        try:
            await connection.start_stream(opening, dialect.media_type)
            for chunk in dialect.pieces(it.completion, it.asked):
                if sent == stop and transfer.stop_after is not None:
                    break
                if transfer.pause_s:
                    await asyncio.sleep(transfer.pause_s)
                if connection.client_gone:
                    raise ConnectionResetError
                await connection.send_event(chunk)
                sent += 1
        except (ConnectionError, asyncio.CancelledError):
            self._charge(it, tokens=sent)
            raise
        self._charge(it, tokens=stop)
        if transfer.error_event is not None:
            error = json.loads(transfer.error_event)["error"]
            await connection.send_event(dialect.error_event(error, it.completion, it.asked))
            await connection.end_stream()
            return True
        if transfer.stop_after is not None:
            if transfer.clean:
                await connection.end_stream()
            return transfer.clean
        for chunk in dialect.closing(it.completion, it.asked):
            await connection.send_event(chunk)
        await connection.end_stream()
        return True

    def _charge(self, it: _Exchange, *, tokens: int | None = None) -> None:
        usage = it.completion.usage
        if tokens is not None:
            usage = usage.generated(tokens, len(it.completion.pieces))
        line = BillLine(
            number=it.request.number,
            model=it.request.model,
            served_model=it.completion.served_model,
            stream=it.request.stream,
            fault=it.request.fault,
            usage=usage,
            delivered=not it.connection.client_gone,
        )
        self.journal.charge(line)

    async def _respond(self, connection: HttpConnection, status: int, body: bytes) -> bool:
        self.journal.status(status)
        await connection.respond(status, body)
        return True


_GOOD_TRANSFER = BrokenTransfer(kind="none")


@dataclass(frozen=True)
class _Exchange:
    """A request that is being answered."""

    connection: HttpConnection
    request: RecordedRequest
    dialect: Dialect
    asked: FakeRequest
    completion: Completion
    transfer: BrokenTransfer
