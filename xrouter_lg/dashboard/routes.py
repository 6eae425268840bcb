"""The dashboard over HTTP: a page that anybody may load, and figures and moves behind a key.

The page holds nothing of what it shows. The key comes with every request as ``Authorization:
Bearer``, which a page of another origin can't send; that, the check of where a request comes from
and the check of the name it was sent to leave nothing to forged or rebound requests.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

import orjson
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from xrouter_lg.calls.failures import describe
from xrouter_lg.checkpoints.aliases import NotPromotedError
from xrouter_lg.dashboard.keeper import SnapshotKeeper
from xrouter_lg.dashboard.now import LatestDecisions
from xrouter_lg.dashboard.page import page
from xrouter_lg.dashboard.snapshot import take_snapshot
from xrouter_lg.dashboard.source import DashboardSource
from xrouter_lg.dashboard.versions import move, read_versions
from xrouter_lg.errors import XRouterError

PATH = "/dashboard"
_LARGEST_BODY = 10_000
_LOCAL = frozenset({"127.0.0.1", "localhost", "::1"})
_HEADERS = {
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}

Endpoint = Callable[[Request], Awaitable[Response]]


class Dashboard:
    """The endpoints over one source. ``key`` opens them; ``local`` refuses every name but this
    machine's own."""

    def __init__(self, source: DashboardSource, key: str, *, local: bool = True) -> None:
        self._source, self._key, self._local = source, key, local
        self._latest = LatestDecisions(source)
        self.keeper = SnapshotKeeper(lambda: take_snapshot(source))

    def routes(self) -> list[Route]:
        """For a server's router."""
        return [
            Route(PATH, self._page),
            Route(f"{PATH}/data", self._checked(self._data)),
            Route(f"{PATH}/move", self._checked(self._move), methods=["POST"]),
        ]

    def app(self) -> Starlette:
        """The dashboard alone."""

        async def to_page(request: Request) -> Response:
            return RedirectResponse(PATH)

        return Starlette(routes=[Route("/", to_page), *self.routes()])

    async def _page(self, request: Request) -> Response:
        if not self._named_right(request):
            return _told(421, "this dashboard answers to this machine's own names alone")
        html, policy = page()
        headers = {**_HEADERS, "content-security-policy": policy}
        return Response(html, media_type="text/html", headers=headers)

    def _checked(self, endpoint: Endpoint) -> Endpoint:
        async def checked(request: Request) -> Response:
            if not self._named_right(request):
                return _told(421, "this dashboard answers to this machine's own names alone")
            scheme, _, given = request.headers.get("authorization", "").partition(" ")
            fits = hmac.compare_digest(given.strip().encode(), self._key.encode())
            if scheme.lower() != "bearer" or not fits:
                return _told(401, "the key is missing or wrong: open the address that was printed")
            if not _same_origin(request):
                return _told(403, "the request comes from another site")
            try:
                return await endpoint(request)
            except NotPromotedError as error:
                return _told(409, f"not promoted: {error}")
            except (XRouterError, ValueError) as error:
                return _told(400, describe(error))

        return checked

    def _named_right(self, request: Request) -> bool:
        host = urlsplit(f"//{request.headers.get('host', '')}").hostname
        return not self._local or host in _LOCAL

    async def _data(self, request: Request) -> Response:
        """The latest decisions and versions; the snapshot where the page has another one."""
        now = await run_in_threadpool(self._latest.read)
        versions = await run_in_threadpool(read_versions, self._source.checkpoints)
        state = (now["requests"], now["feedback"], json.dumps(versions["aliases"]))
        found = self.keeper.current(state)
        if request.query_params.get("have") == str(found["number"]):
            found["snapshot"] = None
        return _json({"now": now, "versions": versions, **found})

    async def _move(self, request: Request) -> Response:
        body = await request.body() if _length(request) <= _LARGEST_BODY else b""
        try:
            asked = json.loads(body)
            action, alias, checkpoint = (asked.get(k) for k in ("action", "alias", "checkpoint"))
        except (ValueError, AttributeError):
            return _told(400, "the body must be JSON with action, alias and checkpoint")
        done = await run_in_threadpool(
            move, self._source.checkpoints, str(action), str(alias), checkpoint
        )
        return _json({"alias": done.alias, "from": done.from_version, "to": done.to_version})


def _same_origin(request: Request) -> bool:
    """Whether what a browser says of the request's origin is this very page's."""
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return False
    origin = request.headers.get("origin")
    return origin is None or urlsplit(origin).netloc == request.headers.get("host")


def _length(request: Request) -> int:
    text = request.headers.get("content-length", "")
    return int(text) if text.isdigit() else _LARGEST_BODY + 1


def _json(value: Any, status: int = 200) -> Response:
    # NaN is no JSON; orjson writes null.
    return Response(
        orjson.dumps(value, default=str, option=orjson.OPT_NON_STR_KEYS),
        status,
        dict(_HEADERS),
        "application/json",
    )


def _told(status: int, message: str) -> Response:
    return _json({"error": message}, status)
