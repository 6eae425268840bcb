"""The API key stays where it was sent: clients take only ``Authorization`` off what is redirected,
and LangSmith's key has a header of its own."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import requests

_KEYS = ("x-api-key", "x-service-key", "x-service-jwt-token", "authorization")


class KeptKeySession(requests.Session):
    """A session that takes the key along to no other host."""

    def rebuild_auth(self, prepared_request: Any, response: Any) -> None:
        super().rebuild_auth(prepared_request, response)
        if self.should_strip_auth(response.request.url, prepared_request.url):
            for name in _KEYS:
                prepared_request.headers.pop(name, None)


def keep_key_here(api: Any) -> None:
    """The same for the client of the second API, where it has what that takes."""
    http, home = getattr(api, "_client", None), str(getattr(api, "base_url", ""))
    hooks = getattr(http, "event_hooks", None)
    if not isinstance(hooks, dict):
        return
    origin = _origin(home)

    async def kept(request: Any) -> None:
        if _origin(str(request.url)) != origin:
            for name in _KEYS:
                request.headers.pop(name, None)

    # Of httpx's own: it is asked before every request, each step of a redirect among them.
    http.event_hooks = {**hooks, "request": [*hooks.get("request", ()), kept]}  # type: ignore[union-attr]


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    return parts.scheme, parts.hostname, port
