"""A loopback server that speaks enough of LangSmith's protocol for the real client.

It takes runs as zstd or plain multipart, as JSON batches and one by one; it answers projects, run
queries of both APIs with their page limits and cursors, feedback, datasets, examples and
experiments. It can demand a key, fail, be slow and limit rates. What it received is in
``runs``, ``feedback`` and ``requests``.

Run it alone with ``python -m integrations.langsmith serve``.
"""

from __future__ import annotations

import contextlib
import math
import re
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.parser import BytesHeaderParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import orjson
import zstandard

from xrouter_lg.testing.langsmith.filter import FilterError
from xrouter_lg.testing.langsmith.records import DEFAULT_WINDOW, Json, Records, as_v2

INFO: Json = {
    "version": "0.99.0",
    "batch_ingest_config": {
        "use_multipart_endpoint": True,
        "size_limit": 100,
        "size_limit_bytes": 20_971_520,
        "scale_up_qsize_trigger": 1000,
        "scale_up_nthreads_limit": 16,
        "scale_down_nempty_trigger": 4,
    },
    "instance_flags": {"zstd_compression_enabled": True, "ch_query_enabled": True},
}

Answer = tuple[Any, int]


class LangSmithServer(Records):
    """Start with ``with``; point a client at ``url``. Thread-safe.

    ``multipart=False`` makes the client fall back to JSON batches, ``zstd=False`` to plain
    multipart; ``v2=False`` is an installation without the second API. With ``key`` every request
    but ``/info`` must bring it.
    """

    def __init__(
        self,
        *,
        multipart: bool = True,
        zstd: bool = True,
        v2: bool = True,
        key: str | None = None,
        port: int = 0,
    ) -> None:
        super().__init__()
        self.requests: list[tuple[str, str, bytes]] = []
        """Method, path and decoded body of each request, oldest first."""
        self.status: int | None = None
        """Answers every write with this HTTP status."""
        self.v2, self.key = v2, key
        self.takes_any_feedback = True
        """False answers 404 to feedback on a run that is not there, as LangSmith does."""
        self.latency_s = 0.0
        self.limit: tuple[int, float] | None = None
        """So many requests per so many seconds; more are answered 429 with Retry-After."""
        self.clock: Callable[[], float] = time.monotonic
        """What ``limit`` counts seconds by."""
        self.retry_after: str | None = None
        """The Retry-After that 429 sends instead of the true one; "" sends none."""
        self.limited = 0
        """How many requests were answered 429 by ``limit``."""
        self.in_flight = self.most_in_flight = 0
        self._planned: deque[tuple[str, int, dict[str, str]]] = deque()
        self._served: deque[float] = deque()
        self.info: Json = orjson.loads(orjson.dumps(INFO))
        self.info["batch_ingest_config"]["use_multipart_endpoint"] = multipart
        self.info["instance_flags"]["zstd_compression_enabled"] = zstd
        handler = type("Handler", (_Handler,), {"app": self})
        self._http = _QuietServer(("127.0.0.1", port), handler)
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"

    def __enter__(self) -> LangSmithServer:
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    def serve_forever(self) -> None:
        self._http.serve_forever()

    def fail_next(
        self, status: int, times: int = 1, *, path: str = ".*", headers: Mapping[str, str] = {}
    ) -> None:
        """Answer the next requests whose path matches with ``status``; 0 cuts the connection."""
        self._planned.extend([(path, status, dict(headers))] * times)

    def paths(self, method: str = "") -> list[str]:
        """Paths of the requests so far, of one method or of all."""
        return [path for verb, path, _ in self.requests if not method or verb == method]

    def bodies(self, path: str) -> list[Json]:
        """JSON bodies of the requests whose path ends so."""
        return [orjson.loads(body) for _, p, body in self.requests if p.endswith(path) and body]

    def refusal(self, path: str, key: str | None) -> tuple[int, dict[str, str]] | None:
        """Status and headers of what must not be answered."""
        with self.lock:
            for planned in list(self._planned):
                pattern, status, headers = planned
                if re.fullmatch(pattern, path):
                    self._planned.remove(planned)
                    return status, headers
            if path == "/info":
                return None
            if self.key is not None and key != self.key:
                return 401, {}
            return self._over_limit()

    def _over_limit(self) -> tuple[int, dict[str, str]] | None:
        if self.limit is None:
            return None
        requests, seconds = self.limit
        now = self.clock()
        while self._served and self._served[0] <= now - seconds:
            self._served.popleft()
        if len(self._served) < requests:
            self._served.append(now)
            return None
        self.limited += 1
        left = self._served[0] + seconds - now
        asked = str(math.ceil(left)) if self.retry_after is None else self.retry_after
        return 429, {"Retry-After": asked} if asked else {}


class _QuietServer(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away, or was killed, is no error here."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    app: LangSmithServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_args: object) -> None:
        """Tests read ``requests`` instead."""

    def _handle(self) -> None:
        path, body = urlsplit(self.path).path, self._body()
        with self.app.lock:
            self.app.requests.append((self.command, path, body))
            self.app.in_flight += 1
            self.app.most_in_flight = max(self.app.most_in_flight, self.app.in_flight)
        try:
            if self.app.latency_s:
                time.sleep(self.app.latency_s)
            self._answer(path, body)
        finally:
            with self.app.lock:
                self.app.in_flight -= 1

    do_GET = do_POST = do_PATCH = _handle

    def _answer(self, path: str, body: bytes) -> None:
        refused = self.app.refusal(path, self.headers.get("x-api-key"))
        if refused is not None:
            status, headers = refused
            if status == 0:
                self.close_connection = True
                return None
            return self._reply({"detail": f"refused with {status}"}, status, headers)
        if self.app.status is not None and self.command != "GET":
            return self._reply({"detail": "told to fail"}, self.app.status)
        for method, pattern, answer in _ROUTES:
            match = re.fullmatch(pattern, path)
            if match and method == self.command:
                return self._reply(*answer(self, body, match))
        return self._reply({"detail": f"no route {self.command} {path}"}, 404)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            pieces = []
            while size := int(self.rfile.readline(), 16):
                pieces.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            body = b"".join(pieces)
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Content-Encoding") == "zstd":
            reader = zstandard.ZstdDecompressor().stream_reader(body, read_across_frames=True)
            return reader.read()
        return body

    def _reply(self, value: Any, status: int = 200, headers: Mapping[str, str] = {}) -> None:
        data = orjson.dumps(value)
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        for name, content in headers.items():
            self.send_header(name, content)
        self.end_headers()
        self.wfile.write(data)

    @property
    def _asked(self) -> dict[str, list[str]]:
        return parse_qs(urlsplit(self.path).query)

    def info(self, _body: bytes, _match: re.Match[str]) -> Answer:
        return self.app.info, 200

    # --- runs ------------------------------------------------------------------------------

    def multipart(self, body: bytes, _match: re.Match[str]) -> Answer:
        boundary = str(self.headers.get_param("boundary")).encode()
        for part in body.split(b"--" + boundary)[1:-1]:
            head, _, data = part.lstrip(b"\r\n").partition(b"\r\n\r\n")
            headers = BytesHeaderParser().parsebytes(head)
            name = str(headers.get_param("name", header="content-disposition"))
            kind, key, *fields = name.split(".")
            if kind == "attachment":
                continue
            value: Any = orjson.loads(data.removesuffix(b"\r\n"))
            if kind in ("post", "patch"):
                self.app.merge(key, {fields[0]: value} if fields else value)
            elif kind == "feedback":
                self.app.add_feedback(value)
        return {}, 202

    def batch(self, body: bytes, _match: re.Match[str]) -> Answer:
        for runs in orjson.loads(body).values():
            for run in runs or ():
                self.app.merge(run["id"], run)
        return {}, 202

    def post_run(self, body: bytes, _match: re.Match[str]) -> Answer:
        run = orjson.loads(body)
        self.app.merge(run["id"], run)
        return {}, 202

    def patch_run(self, body: bytes, match: re.Match[str]) -> Answer:
        self.app.merge(match["id"], orjson.loads(body))
        return {}, 202

    def read_run(self, _body: bytes, match: re.Match[str]) -> Answer:
        found = self.app.query({"id": [match["id"]]})
        return (found[0], 200) if found else ({"detail": "not found"}, 404)

    def query_v1(self, body: bytes, _match: re.Match[str]) -> Answer:
        wanted = orjson.loads(body)
        size = wanted.get("limit") or 100
        if size > 100:
            return {"detail": "Limit exceeds maximum allowed value of 100"}, 400
        with contextlib.suppress(FilterError):
            page, following = self.app.page(wanted, size, wanted.get("cursor"))
            if wanted.get("select"):
                page = [{name: run.get(name) for name in wanted["select"]} for run in page]
            return {"runs": page, "cursors": {"next": following}}, 200
        return {"detail": "the filter can't be read"}, 400

    def query_v2(self, body: bytes, _match: re.Match[str]) -> Answer:
        if not self.app.v2:
            return {"detail": "Not Found"}, 404
        wanted = orjson.loads(body)
        size = wanted.get("page_size") or 100
        if not 1 <= size <= 1000:
            return {"detail": "page_size must be between 1 and 1000"}, 422
        if not wanted.get("project_ids"):
            return {"detail": "project_ids or reference_dataset_id is required"}, 422
        yesterday = (datetime.now(UTC) - DEFAULT_WINDOW).isoformat()
        wanted = {"min_start_time": yesterday, **wanted}
        with contextlib.suppress(FilterError):
            page, following = self.app.page(wanted, size, wanted.get("cursor"))
            items = [as_v2(run, wanted.get("selects") or ()) for run in page]
            return {"items": items, "next_cursor": following}, 200
        return {"detail": "the filter can't be read"}, 400

    # --- projects --------------------------------------------------------------------------

    def read_sessions(self, _body: bytes, _match: re.Match[str]) -> Answer:
        return self._cut(self.app.find_sessions(self._asked)), 200

    def read_session(self, _body: bytes, match: re.Match[str]) -> Answer:
        found = self.app.sessions.get(match["id"])
        return (found, 200) if found else ({"detail": "Project not found"}, 404)

    def post_session(self, body: bytes, _match: re.Match[str]) -> Answer:
        fields = orjson.loads(body)
        known = {session["name"] for session in self.app.sessions.values()}
        if fields["name"] in known and self._asked.get("upsert") != ["True"]:
            return {"detail": "a project of that name exists"}, 409
        kept = {k: v for k, v in fields.items() if v is not None and k != "name"}
        return self.app.session(fields["name"], **kept), 200

    def patch_session(self, body: bytes, match: re.Match[str]) -> Answer:
        session = self.app.sessions[match["id"]]
        session.update({k: v for k, v in orjson.loads(body).items() if v is not None})
        return session, 200

    # --- feedback --------------------------------------------------------------------------

    def read_feedback(self, _body: bytes, _match: re.Match[str]) -> Answer:
        return self._cut(self.app.find_feedback(self._asked)), 200

    def post_feedback(self, body: bytes, _match: re.Match[str]) -> Answer:
        entry = orjson.loads(body)
        known = self.app.takes_any_feedback or entry.get("run_id") in (None, *self.app.runs)
        if not known:
            return {"detail": "Run not found"}, 404
        return self.app.add_feedback(entry), 200

    def patch_feedback(self, body: bytes, match: re.Match[str]) -> Answer:
        if match["id"] not in self.app.feedback:
            return {"detail": "Feedback not found"}, 404
        return self.app.change_feedback(match["id"], orjson.loads(body)), 200

    # --- datasets --------------------------------------------------------------------------

    def read_datasets(self, _body: bytes, _match: re.Match[str]) -> Answer:
        names = self._asked.get("name")
        found = [d for d in self.app.datasets.values() if not names or d["name"] in names]
        return self._cut(found), 200

    def post_dataset(self, body: bytes, _match: re.Match[str]) -> Answer:
        return self.app.add_dataset(orjson.loads(body)), 200

    def read_examples(self, _body: bytes, _match: re.Match[str]) -> Answer:
        return self._cut(self.app.find_examples(self._asked)), 200

    def post_examples(self, body: bytes, _match: re.Match[str]) -> Answer:
        try:
            return self.app.add_examples(orjson.loads(body)), 200
        except KeyError as error:
            return {"detail": f"example {error.args[0]} exists"}, 409

    def _cut(self, found: list[Json]) -> list[Json]:
        asked = self._asked
        start = int(asked.get("offset", ["0"])[0])
        return found[start : start + min(100, int(asked.get("limit", ["100"])[0]))]


_ID = "(?P<id>[0-9a-f-]{36})"
_ROUTES: list[tuple[str, str, Callable[..., Answer]]] = [
    ("GET", "/info", _Handler.info),
    ("POST", "/runs/multipart", _Handler.multipart),
    ("POST", "/runs/batch", _Handler.batch),
    ("POST", "/runs", _Handler.post_run),
    ("PATCH", f"/runs/{_ID}", _Handler.patch_run),
    ("GET", f"/runs/{_ID}", _Handler.read_run),
    ("POST", "/runs/query", _Handler.query_v1),
    ("POST", "/api/v2/runs/query", _Handler.query_v2),
    ("GET", "/sessions", _Handler.read_sessions),
    ("GET", f"/sessions/{_ID}", _Handler.read_session),
    ("POST", "/sessions", _Handler.post_session),
    ("PATCH", f"/sessions/{_ID}", _Handler.patch_session),
    ("GET", "/feedback", _Handler.read_feedback),
    ("POST", "/feedback", _Handler.post_feedback),
    ("PATCH", f"/feedback/{_ID}", _Handler.patch_feedback),
    ("GET", "/datasets", _Handler.read_datasets),
    ("POST", "/datasets", _Handler.post_dataset),
    ("GET", "/examples", _Handler.read_examples),
    ("POST", "/examples/bulk", _Handler.post_examples),
]
