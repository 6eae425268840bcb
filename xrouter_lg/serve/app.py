"""The FastAPI app: endpoints, and what surrounds them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from xrouter_lg import __version__
from xrouter_lg.chat.model import ChatXRouter
from xrouter_lg.errors import StoreError
from xrouter_lg.routing.spending import spending_beside
from xrouter_lg.serve import completions, responses
from xrouter_lg.serve.access.callers import Callers
from xrouter_lg.serve.access.keys import KeyStore
from xrouter_lg.serve.access.metering import MeteredWorkers
from xrouter_lg.serve.api_errors import ApiError, as_api_error, bad_request
from xrouter_lg.serve.engine import ServingEngine, Visit, model_list
from xrouter_lg.serve.limits import HeaderLimit, read_json
from xrouter_lg.serve.live import LiveResponse, Out
from xrouter_lg.serve.metrics import ServerMetrics
from xrouter_lg.serve.openapi import described
from xrouter_lg.serve.settings import ServerSettings
from xrouter_lg.serve.wire.asked import AskedChat, json_object, read_chat, text_field

Answer = Callable[[ServingEngine, AskedChat, Visit, Out], Any]
Read = Callable[[Any], AskedChat]

FEEDBACK = "/v1/xrouter/feedback"


def create_app(
    chat: ChatXRouter,
    *,
    keys: KeyStore | None = None,
    settings: ServerSettings | None = None,
) -> FastAPI:
    """The server as an ASGI app. ``chat`` answers; its router is best made by
    :func:`~xrouter_lg.serve.engine.routed`, which meters what a key spends. Without ``keys``
    anybody may ask. Feedback goes where ``chat.traces`` is a :class:`Recorder`.

    Raises:
        StoreError: the keys can't be read.
        ConfigurationError: the router's limits are counted in another database than the keys'.
    """
    settings = settings or ServerSettings()
    callers = None
    if keys is not None:
        callers = Callers(keys)
        chat.router.count_in(spending_beside(chat.router.spending, keys.spend))
    engine = ServingEngine(chat, callers, ServerMetrics())

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        keeping = None if callers is None else asyncio.create_task(callers.keep())
        app.state.ready = True
        try:
            yield
        finally:
            app.state.ready = False
            if keeping is not None:
                keeping.cancel()
                await asyncio.wait([keeping])
            elif (spending := chat.router.spending) is not None:
                await run_in_threadpool(spending.store.flush, 10.0)
            if isinstance(workers := chat.router.workers, MeteredWorkers):
                await workers.aclose()
            if (recorder := engine.recorder) is not None:
                await run_in_threadpool(recorder.flush, 10.0)

    app = FastAPI(
        title="xrouter", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None
    )
    app.state.ready = False
    app.state.engine = engine
    app.add_middleware(HeaderLimit, most=settings.max_header_bytes)
    app.add_exception_handler(Exception, _told)
    app.add_exception_handler(ApiError, _told)
    app.add_exception_handler(HTTPException, _told)
    _add_asking(app, engine, settings)
    _add_watching(app, engine, settings)
    app.openapi = lambda: described(app)  # type: ignore[method-assign]
    return app


async def _told(request: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException):
        told = ApiError(error.status_code, _WORDS.get(error.status_code, str(error.detail)))
        told.headers = dict(error.headers or {})
    else:
        told = as_api_error(error)
    return _Json(told.body(), told.status, told.headers)


_WORDS = {404: "there is no such endpoint", 405: "this endpoint does not take that method"}


class _Json(Response):
    """JSON as the live answers write it."""

    def __init__(self, body: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        super().__init__(orjson.dumps(body, default=str), status, headers, "application/json")


def _add_asking(app: FastAPI, engine: ServingEngine, settings: ServerSettings) -> None:
    async def asking(request: Request, endpoint: str, read: Read, answer: Answer) -> Response:
        visit = engine.begin(endpoint, request.headers.get("authorization"))
        try:
            asked = read(await read_json(request, settings))
        except BaseException as error:
            told = engine.explained(visit, error)
            engine.end(visit, told.status)
            if isinstance(error, Exception):
                return _Json(told.body(), told.status, told.headers)
            raise
        return LiveResponse(
            lambda out: answer(engine, asked, visit, out),
            ended=lambda status, _: engine.end(visit, status),
            explained=lambda error: engine.explained(visit, error),
        )

    most = settings.max_choices

    @app.post(completions.ENDPOINT)
    async def chat_completions(request: Request) -> Response:
        return await asking(
            request,
            completions.ENDPOINT,
            lambda body: read_chat(body, max_choices=most),
            completions.complete,
        )

    @app.post(responses.ENDPOINT)
    async def create_response(request: Request) -> Response:
        return await asking(request, responses.ENDPOINT, responses.read_response, responses.respond)

    @app.get("/v1/models")
    async def list_models(request: Request) -> Response:
        engine.admit(request.headers.get("authorization"))
        return _Json({"object": "list", "data": model_list(engine.pool)})

    @app.get("/v1/models/{name:path}")
    async def get_model(request: Request, name: str) -> Response:
        engine.admit(request.headers.get("authorization"))
        for model in model_list(engine.pool):
            if model["id"] == name:
                return _Json(model)
        raise ApiError(404, f"there is no model {name!r}", code="model_not_found", param="model")


def _add_watching(app: FastAPI, engine: ServingEngine, settings: ServerSettings) -> None:
    @app.get("/healthz")
    async def healthz() -> Response:
        return _Json({"status": "ok"})

    @app.get("/readyz")
    async def readyz() -> Response:
        cards = {n: "open" if engine.breaker(n).open else "ok" for n in engine.pool.names}
        ready = app.state.ready and "ok" in cards.values()
        status = "ready" if ready else "not ready"
        return _Json({"status": status, "cards": cards}, 200 if ready else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(engine.metrics.text(), media_type=engine.metrics.media_type)

    @app.post(FEEDBACK)
    async def feedback(request: Request) -> Response:
        engine.admit(request.headers.get("authorization"))
        body = json_object(await read_json(request, settings))
        return _Json(await _record(engine, body))


async def _record(engine: ServingEngine, body: dict[str, Any]) -> dict[str, Any]:
    recorder = engine.recorder
    if recorder is None:
        raise ApiError(
            409,
            "this server keeps no traces, so that there is nothing to give feedback on; start it "
            "with --traces",
            code="no_traces",
        )
    trace_id, key, comment = (text_field(body, name) for name in ("trace_id", "key", "comment"))
    if not trace_id or not key:
        raise bad_request("feedback needs trace_id and key", "key" if trace_id else "trace_id")
    score = body.get("score")
    if isinstance(score, bool):
        score = float(score)
    if score is not None and not isinstance(score, int | float):
        raise bad_request("score must be a number, true or false", "score")
    for prefix in ("chatcmpl-", "resp_"):
        trace_id = trace_id.removeprefix(prefix)
    write: Callable[[], Awaitable[str]] = lambda: run_in_threadpool(  # noqa: E731
        recorder.store.record_feedback,
        trace_id,
        key,
        score,
        value=body.get("value"),
        comment=comment,
        feedback_id=text_field(body, "id"),
    )
    try:
        return {"id": await write(), "trace_id": trace_id}
    except StoreError as error:
        raise bad_request(str(error)) from None
