"""What answers in LangSmith's place: no JSON, pages without end, runs that are none, redirects."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from uuid import UUID, uuid4

import pytest

from tests.langsmith.conftest import pulled
from xrouter_lg import TraceStore
from xrouter_lg.errors import XRouterError
from xrouter_lg.langsmith.connection import LangSmith
from xrouter_lg.langsmith.errors import LangSmithIntegrationError, UnreadableAnswerError
from xrouter_lg.langsmith.polite import Patience

KEY = "lsv2_pt_0123456789abcdef0123456789abcdef"
PROJECT = str(uuid4())
BEGAN = datetime.now(UTC) - timedelta(hours=3)

Answer = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    """Projects as LangSmith has them; runs and feedback as the test wants them."""

    protocol_version = "HTTP/1.1"
    on_runs: Answer
    on_feedback: Answer
    v2 = True
    keys: list[str | None]

    def do_GET(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.keys.append(self.headers.get("x-api-key"))
        path = self.path.partition("?")[0]
        if path.endswith("/info"):
            self.reply({"version": "0.99.0"})
        elif "/sessions" in path:
            found = {"id": PROJECT, "name": "p", "start_time": BEGAN.isoformat()}
            project = {**found, "tenant_id": PROJECT, "reference_dataset_id": None}
            self.reply([project] if path.endswith("/sessions") else project)
        elif path.endswith("/runs/query") and (self.v2 or "/v2/" not in path):
            type(self).on_runs(self)
        elif path.endswith("/feedback"):
            type(self).on_feedback(self)
        else:
            self.reply({}, 404)

    do_POST = do_GET

    def reply(self, body: Any, status: int = 200, **headers: str) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def page(self, runs: list[Any], cursor: Any = None) -> None:
        """A page in both APIs' words, of what starts within the time asked for."""
        asked = json.loads(self.body)
        end = str(asked.get("max_start_time") or asked.get("filter", "").rpartition('"')[0][-32:])
        within = end > f"{BEGAN:%Y-%m-%dT%H:%M:%S.%f}"
        shown = runs if within else []
        self.reply(
            {"items": shown, "next_cursor": cursor, "runs": shown, "cursors": {"next": cursor}}
        )

    def log_message(self, *_args: Any) -> None:
        pass


@contextmanager
def answering(
    on_runs: Answer,
    on_feedback: Answer = lambda h: h.reply([]),
    *,
    host: str = "127.0.0.1",
    **more: Any,
) -> Iterator[tuple[LangSmith, list[str | None], str]]:
    """A client of such a server, the keys that the server was sent, and its address."""
    keys: list[str | None] = []
    own = {"on_runs": on_runs, "on_feedback": on_feedback, "keys": keys, **more}
    server = ThreadingHTTPServer((host, 0), type("Own", (Handler,), own))
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    url = f"http://{host}:{server.server_address[1]}"
    try:
        with LangSmith(endpoint=url, patience=Patience(sleep=lambda s: None)) as langsmith:
            yield langsmith, keys, url
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANGSMITH_API_KEY", KEY)


def run(number: int, **fields: Any) -> dict[str, Any]:
    run_id = str(UUID(int=(0x0192 << 112) | (7 << 76) | (2 << 62) | number))
    return {
        "id": run_id,
        "trace_id": run_id,
        "name": "app",
        "run_type": "llm",
        "start_time": BEGAN.isoformat(),
        "end_time": (BEGAN + timedelta(seconds=1)).isoformat(),
        "status": "success",
        "inputs": {"messages": ["q"]},
        "outputs": {"messages": ["a"]},
        **fields,
    }


NO_ANSWERS = [b"<html>log in</html>", b'{"items": [{"id": "x', b"[]", b"null", b'"x"', b"[" * 9_999]


@pytest.mark.parametrize("v2", [True, False])
@pytest.mark.parametrize("body", NO_ANSWERS)
def test_an_answer_that_is_none_is_a_typed_error(body: bytes, v2: bool, store: TraceStore) -> None:
    with (
        answering(lambda h: h.reply(body), v2=v2) as (langsmith, _, _),
        pytest.raises(LangSmithIntegrationError, match=r"Check .*LANGSMITH_ENDPOINT"),
    ):
        pulled(langsmith, store, project="p")


@pytest.mark.parametrize("v2", [True, False])
@pytest.mark.parametrize("cursor", ["same", 7])
def test_pages_that_repeat_themselves_end_a_pull(cursor: Any, v2: bool, store: TraceStore) -> None:
    with (
        answering(lambda h: h.page([run(1)], cursor), v2=v2) as (langsmith, keys, _),
        pytest.raises(UnreadableAnswerError, match="repeat themselves without an end"),
    ):
        pulled(langsmith, store, project="p")
    assert len(keys) < 10


def test_new_cursors_of_the_same_page_end_a_pull(store: TraceStore) -> None:
    with (
        answering(lambda h: h.page([run(1)], str(uuid4()))) as (langsmith, _, _),
        pytest.raises(UnreadableAnswerError, match="repeat themselves"),
    ):
        pulled(langsmith, store, project="p")


def test_feedback_that_repeats_itself_ends_a_pull(store: TraceStore) -> None:
    when = BEGAN.isoformat()
    page = [
        {
            "id": str(UUID(int=n + 1)),
            "run_id": run(1)["id"],
            "trace_id": run(1)["id"],
            "key": "liked",
            "score": 1,
            "created_at": when,
            "modified_at": when,
        }
        for n in range(100)
    ]
    with (
        answering(lambda h: h.page([run(1)]), lambda h: h.reply(page)) as (langsmith, _, _),
        pytest.raises(UnreadableAnswerError, match=r"feedback.*repeat themselves"),
    ):
        pulled(langsmith, store, project="p")


ODD = [
    *({name: odd} for name in ("start_time", "end_time") for odd in ("x", [1], {"a": 1})),
    *({"id": odd} for odd in (None, "\ud800")),
    *({name: "x"} for name in ("tags", "inputs", "outputs", "extra", "events")),
    {"start_time": None},
    {"end_time": "0001-01-01T00:00:00+14:00"},
    {"trace_id": "\ud800"},
    {"prompt_tokens": ""},
]


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
@pytest.mark.parametrize("v2", [True, False])
@pytest.mark.parametrize("odd", ODD, ids=str)
def test_a_run_that_cant_be_read_is_left_out_and_told_of(
    odd: dict[str, Any], v2: bool, store: TraceStore
) -> None:
    runs = [run(1), run(2, **odd), run(3)]
    with answering(lambda h: h.page(runs), v2=v2) as (langsmith, _, _):
        summary = pulled(langsmith, store, project="p")
    assert summary.left_out == 1
    assert "1 runs can't be read and were left out" in summary.notes[0]
    assert {trace.id for trace in store.iter_traces()} == {run(1)["id"], run(3)["id"]}


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
@pytest.mark.parametrize("odd", [True, -1, 0.5, {"a": 1}, "x"], ids=str)
def test_ancestors_of_another_type_are_none(odd: Any, store: TraceStore) -> None:
    with answering(lambda h: h.page([run(1, parent_run_ids=odd)])) as (langsmith, _, _):
        pulled(langsmith, store, project="p")
    assert [trace.id for trace in store.iter_traces()] == [run(1)["id"]]


def test_where_no_run_can_be_read_the_pull_fails(store: TraceStore) -> None:
    with (
        answering(lambda h: h.page([None, 1, {}])) as (langsmith, _, _),
        pytest.raises(UnreadableAnswerError, match="holds no run that can be read"),
    ):
        pulled(langsmith, store, project="p")


@pytest.mark.parametrize("v2", [True, False])
def test_the_key_follows_no_redirect_to_another_server(v2: bool, store: TraceStore) -> None:
    with answering(lambda h: h.page([])) as (_, elsewhere, url):

        def away(handler: Handler) -> None:
            handler.reply({}, 307, Location=f"{url}{handler.path}")

        with answering(away, v2=v2) as (langsmith, here, _), suppress(XRouterError):
            pulled(langsmith, store, project="p")
    assert here[0] == KEY
    assert elsewhere
    assert KEY not in elsewhere
