"""A loopback server that speaks enough of LangSmith's protocol for the real client.

It takes runs as zstd or plain multipart, as JSON batches and one by one; it answers sessions,
run queries (v1 and v2), single runs and feedback. What it received is in ``runs``, ``feedback``
and ``requests``. Run it alone with ``python tests/langsmith_server.py PORT``.
"""

from __future__ import annotations

import re
import sys
import threading
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from email.parser import BytesHeaderParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import orjson
import zstandard

Json = dict[str, Any]
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


class LangSmithServer:
    """Start with ``with``; point a client at ``url``. Thread-safe.

    ``multipart=False`` makes the client fall back to JSON batches, ``zstd=False`` to plain
    multipart. ``status`` other than None answers every write with that HTTP status.
    """

    def __init__(self, *, multipart: bool = True, zstd: bool = True, port: int = 0) -> None:
        self.runs: dict[str, Json] = {}
        self.feedback: dict[str, Json] = {}
        self.sessions: dict[str, Json] = {}
        self.requests: list[tuple[str, str, bytes]] = []
        """Method, path and decoded body of each request, oldest first."""
        self.status: int | None = None
        self.lock = threading.RLock()
        self.info: Json = orjson.loads(orjson.dumps(INFO))
        self.info["batch_ingest_config"]["use_multipart_endpoint"] = multipart
        self.info["instance_flags"]["zstd_compression_enabled"] = zstd
        handler = type("Handler", (_Handler,), {"app": self})
        self._http = ThreadingHTTPServer(("127.0.0.1", port), handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"

    def __enter__(self) -> LangSmithServer:
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    def serve_forever(self) -> None:
        self._http.serve_forever()

    def session(self, name: str) -> Json:
        """The project of that name, made on first use."""
        with self.lock:
            for session in self.sessions.values():
                if session["name"] == name:
                    return session
            session = {
                "id": str(uuid.uuid4()),
                "name": name,
                "start_time": datetime.now(UTC).isoformat(),
                "tenant_id": str(uuid.UUID(int=1)),
                "reference_dataset_id": None,
            }
            self.sessions[session["id"]] = session
            return session

    def merge(self, run_id: str, values: Json) -> None:
        """A post or patch of a run: what is given replaces what was there."""
        with self.lock:
            run = self.runs.setdefault(run_id, {"id": run_id})
            run.update({key: value for key, value in values.items() if value is not None})
            if "session_id" not in run and "session_name" in run:
                run["session_id"] = self.session(run["session_name"])["id"]

    def query(self, wanted: Json) -> list[Json]:
        """Runs by session, trace, root, type and id, newest first."""
        with self.lock:
            found = [_as_read(run) for run in self.runs.values() if "trace_id" in run]
        tests: list[tuple[str, Callable[[Json, Any], bool]]] = [
            ("session", lambda run, value: run["session_id"] in value),
            ("project_ids", lambda run, value: run["session_id"] in value),
            ("trace", lambda run, value: run["trace_id"] == value),
            ("is_root", lambda run, value: (run.get("parent_run_id") is None) == value),
            ("run_type", lambda run, value: run["run_type"] == value.lower()),
            ("id", lambda run, value: run["id"] in value),
        ]
        for name, holds in tests:
            if (value := wanted.get(name)) is not None:
                found = [run for run in found if holds(run, value)]
        return sorted(found, key=lambda run: str(run["start_time"]), reverse=True)


def _as_read(run: Json) -> Json:
    status = "error" if run.get("error") else "success" if run.get("end_time") else "pending"
    return {"inputs": {}, "outputs": None, "app_path": f"/r/{run['id']}", **run, "status": status}


def _as_read_v2(run: Json) -> Json:
    """The second API: upper-case types, all ancestors (the root first) instead of the parent."""
    ancestors = [step.split("Z")[1] for step in run["dotted_order"].split(".")[:-1]]
    run = {key: value for key, value in run.items() if key != "parent_run_id"}
    return {**run, "run_type": run["run_type"].upper(), "parent_run_ids": ancestors}


class _Handler(BaseHTTPRequestHandler):
    app: LangSmithServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_args: object) -> None:
        """Tests read ``requests`` instead."""

    def _handle(self) -> None:
        path, body = urlsplit(self.path).path, self._body()
        with self.app.lock:
            self.app.requests.append((self.command, path, body))
        if self.app.status is not None and self.command != "GET":
            return self._reply({"detail": "told to fail"}, self.app.status)
        for method, pattern, answer in _ROUTES:
            match = re.fullmatch(pattern, path)
            if match and method == self.command:
                return self._reply(*answer(self, body, match))
        return self._reply({"detail": f"no route {self.command} {path}"}, 404)

    do_GET = do_POST = do_PATCH = _handle

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

    def _reply(self, value: Any, status: int = 200) -> None:
        data = orjson.dumps(value)
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def info(self, _body: bytes, _match: re.Match[str]) -> tuple[Any, int]:
        return self.app.info, 200

    def multipart(self, body: bytes, _match: re.Match[str]) -> tuple[Any, int]:
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
                self.app.feedback[key] = value
        return {}, 202

    def batch(self, body: bytes, _match: re.Match[str]) -> tuple[Any, int]:
        for runs in orjson.loads(body).values():
            for run in runs or ():
                self.app.merge(run["id"], run)
        return {}, 202

    def post_run(self, body: bytes, _match: re.Match[str]) -> tuple[Any, int]:
        run = orjson.loads(body)
        self.app.merge(run["id"], run)
        return {}, 202

    def patch_run(self, body: bytes, match: re.Match[str]) -> tuple[Any, int]:
        self.app.merge(match["id"], orjson.loads(body))
        return {}, 202

    def read_run(self, _body: bytes, match: re.Match[str]) -> tuple[Any, int]:
        run = self.app.runs.get(match["id"])
        return (_as_read(run), 200) if run else ({"detail": "not found"}, 404)

    def query(self, body: bytes, _match: re.Match[str]) -> tuple[Any, int]:
        wanted = orjson.loads(body)
        found, start = self.app.query(wanted), int(wanted.get("cursor") or 0)
        size = min(wanted.get("limit") or wanted.get("page_size") or 100, 100)
        page, end = found[start : start + size], start + size
        following = str(end) if end < len(found) else None
        if self.path.startswith("/api/v2"):
            items = [_as_read_v2(run) for run in page]
            return {"items": items, "next_cursor": following}, 200
        return {"runs": page, "cursors": {"next": following}}, 200

    def read_sessions(self, _body: bytes, _match: re.Match[str]) -> tuple[Any, int]:
        names = parse_qs(urlsplit(self.path).query).get("name")
        sessions = self.app.sessions.values()
        return [s for s in sessions if not names or s["name"] in names], 200

    def post_session(self, body: bytes, _match: re.Match[str]) -> tuple[Any, int]:
        return self.app.session(orjson.loads(body)["name"]), 200

    def read_feedback(self, _body: bytes, _match: re.Match[str]) -> tuple[Any, int]:
        wanted = parse_qs(urlsplit(self.path).query)
        runs, start = wanted.get("run"), int(wanted.get("offset", ["0"])[0])
        found = [f for f in self.app.feedback.values() if not runs or f["run_id"] in runs]
        return found[start : start + 100], 200

    def post_feedback(self, body: bytes, _match: re.Match[str]) -> tuple[Any, int]:
        entry = {"trace_id": None, **orjson.loads(body)}
        self.app.feedback[entry["id"]] = entry
        return entry, 200


_ROUTES: list[tuple[str, str, Callable[..., tuple[Any, int]]]] = [
    ("GET", "/info", _Handler.info),
    ("POST", "/runs/multipart", _Handler.multipart),
    ("POST", "/runs/batch", _Handler.batch),
    ("POST", "/runs", _Handler.post_run),
    ("PATCH", "/runs/(?P<id>[0-9a-f-]{36})", _Handler.patch_run),
    ("GET", "/runs/(?P<id>[0-9a-f-]{36})", _Handler.read_run),
    ("POST", "(/api/v2)?/runs/query", _Handler.query),
    ("GET", "/sessions", _Handler.read_sessions),
    ("POST", "/sessions", _Handler.post_session),
    ("GET", "/feedback", _Handler.read_feedback),
    ("POST", "/feedback", _Handler.post_feedback),
]


if __name__ == "__main__":
    with_port = LangSmithServer(port=int(sys.argv[1]))
    print(with_port.url, flush=True)  # noqa: T201
    with_port.serve_forever()
