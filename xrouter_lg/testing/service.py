"""What a fake server answers: routes, checks, faults, and the bill as it goes."""

from __future__ import annotations

import asyncio
import hmac
import json
import threading
from collections import Counter
from collections.abc import Iterable

from xrouter_lg.errors import XRouterError
from xrouter_lg.testing import payloads
from xrouter_lg.testing.answers import Call, FaultPlan
from xrouter_lg.testing.completion import Completion, FakeModel, complete
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
        self.body = payloads.error_body(message, "invalid_request_error", code, param)


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
        route = request.method, request.path
        try:
            if route == ("POST", "/v1/chat/completions"):
                return await self._chat(connection, request)
            body = self._page(request)
        except FakeRefusedError as refused:
            return await self._respond(connection, refused.status, refused.body)
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

    async def _chat(self, connection: HttpConnection, request: HttpRequest) -> bool:
        recorded, fault = self._record(request)
        if self._api_key is not None and not recorded.authenticated:
            raise FakeRefusedError(401, "Incorrect API key provided.", "invalid_api_key")
        if isinstance(fault, ErrorAnswer):
            self.journal.status(fault.status)
            await connection.respond(
                fault.status, fault.body, content_type=fault.content_type, headers=fault.headers
            )
            return True
        if isinstance(fault, NoAnswer):
            if fault.reset:
                connection.reset()
            else:
                await connection.wait_for_client_to_leave(fault.seconds)
            return False
        model = self._checked(recorded)
        completion = self._completion(model, recorded)
        if isinstance(fault, ChangedAnswer):
            completion = fault.change(completion)
        if model.latency_s:
            await asyncio.sleep(model.latency_s)
        transfer = fault if isinstance(fault, BrokenTransfer) else _GOOD_TRANSFER
        send = self._stream if recorded.stream else self._send
        return await send(connection, recorded, completion, transfer)

    def _record(self, request: HttpRequest) -> tuple[RecordedRequest, Fault | None]:
        try:
            body = json.loads(request.body)
        except ValueError:
            body = None
        if not isinstance(body, dict):
            raise FakeRefusedError(400, "The request body is not a JSON object.", None)
        name = str(body.get("model"))
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
            body=body,
            headers=public_headers(request.headers),
            authenticated=authenticated,
            stream=bool(body.get("stream")),
            fault=None if fault is None else fault.kind,
        )
        self.journal.request(recorded)
        return recorded, fault

    def _authenticated(self, request: HttpRequest) -> bool:
        scheme, _, key = (request.header(b"authorization") or "").partition(" ")
        if scheme.lower() != "bearer" or not key:
            return False
        return self._api_key is None or hmac.compare_digest(key, self._api_key)

    def _checked(self, request: RecordedRequest) -> FakeModel:
        body = request.body
        model = self._models.get(request.model)
        if model is None and self._any_name:
            model = self._default
        if model is None:
            message = f"The model {request.model!r} does not exist."
            raise FakeRefusedError(404, message, "model_not_found", "model")
        messages = body.get("messages")
        if not isinstance(messages, list) or not all(isinstance(it, dict) for it in messages):
            raise FakeRefusedError(400, "'messages' is not a list of objects.", None, "messages")
        if not messages:
            raise FakeRefusedError(400, "'messages' is empty.", None, "messages")
        if body.get("n") not in (None, 1):
            raise FakeRefusedError(400, "Only n=1 is supported.", None, "n")
        for name in ("max_tokens", "max_completion_tokens"):
            limit = body.get(name)
            if limit is not None and (not isinstance(limit, int) or limit < 1):
                raise FakeRefusedError(400, f"{name!r} is not a positive integer.", None, name)
        return model

    def _completion(self, model: FakeModel, request: RecordedRequest) -> Completion:
        try:
            completion = complete(model, request.body, request.number)
        except Exception as error:
            # A broken reply function is the test's own mistake: say so where it will be read.
            message = f"The reply function of fake model {model.name!r} raised {error!r}."
            raise FakeRefusedError(500, message, "fake_reply_failed") from error
        window, prompt = model.context_window, completion.usage.prompt_tokens
        if window is not None and prompt > window:
            message = f"The context window is {window} tokens; the messages have {prompt}."
            raise FakeRefusedError(400, message, "context_length_exceeded", "messages")
        return completion

    async def _send(
        self,
        connection: HttpConnection,
        request: RecordedRequest,
        completion: Completion,
        transfer: BrokenTransfer,
    ) -> bool:
        if transfer.error_event is not None:
            return await self._respond(connection, 500, transfer.error_event)
        if transfer.pause_s:
            await asyncio.sleep(transfer.pause_s * max(1, len(completion.pieces)))
        body = payloads.response_body(completion, request.number, request.body)
        if transfer.garbled:
            body = body[: len(body) // 2]
        # Billed before the bytes leave: who has read the answer finds it on the bill.
        self._charge(connection, request, completion)
        if transfer.stop_after is None:
            return await self._respond(connection, 200, body)
        self.journal.status(200)
        await connection.respond(200, body, send_bytes=len(body) // 2)
        return False

    async def _stream(
        self,
        connection: HttpConnection,
        request: RecordedRequest,
        completion: Completion,
        transfer: BrokenTransfer,
    ) -> bool:
        self.journal.status(200)
        opening = payloads.first_chunk(completion, request.number)
        if transfer.garbled:
            self._charge(connection, request, completion)
            await connection.start_stream(opening[: len(opening) // 2] + b"\n\n")
            return False
        sent, whole = 0, len(completion.pieces)
        stop = whole if transfer.stop_after is None else min(transfer.stop_after, whole)
        try:
            await connection.start_stream(opening)
            for chunk in payloads.piece_chunks(completion, request.number, request.body):
                if sent == stop:
                    break
                if transfer.pause_s:
                    await asyncio.sleep(transfer.pause_s)
                if connection.client_gone:
                    raise ConnectionResetError
                await connection.send_event(chunk)
                sent += 1
        except (ConnectionError, asyncio.CancelledError):
            self._charge(connection, request, completion, tokens=sent)
            raise
        self._charge(connection, request, completion, tokens=stop)
        if transfer.error_event is not None:
            await connection.send_event(b"data: " + transfer.error_event + b"\n\n")
            return False
        if transfer.stop_after is not None:
            return False
        for chunk in payloads.last_chunks(completion, request.number, request.body):
            await connection.send_event(chunk)
        await connection.end_stream()
        return True

    def _charge(
        self,
        connection: HttpConnection,
        request: RecordedRequest,
        completion: Completion,
        *,
        tokens: int | None = None,
    ) -> None:
        usage = completion.usage
        if tokens is not None:
            usage = usage.generated(tokens, len(completion.pieces))
        line = BillLine(
            number=request.number,
            model=request.model,
            served_model=completion.served_model,
            stream=request.stream,
            fault=request.fault,
            usage=usage,
            delivered=not connection.client_gone,
        )
        self.journal.charge(line)

    async def _respond(self, connection: HttpConnection, status: int, body: bytes) -> bool:
        self.journal.status(status)
        await connection.respond(status, body)
        return True


_GOOD_TRANSFER = BrokenTransfer(kind="none")
