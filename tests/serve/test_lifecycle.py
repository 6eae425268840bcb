"""A client that leaves, a server that stops, and what can be watched meanwhile."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import OpenAI

from tests.serve.conftest import Serve
from tests.support.apps import card
from tests.support.waiting import wait_until
from xrouter_lg import ModelPool, Recorder
from xrouter_lg.pool.plain import pool_data
from xrouter_lg.serve.settings import ServerSettings
from xrouter_lg.testing import (
    FakeModel,
    FakeOpenAIServer,
    FaultPlan,
    always,
    auth_error,
    hang,
    slow_stream,
)

HI: Any = [{"role": "user", "content": "Hi"}]
LONG = " ".join(["word"] * 12)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_ends_the_call_to_the_worker(
    serve: Serve, fake: FakeOpenAIServer, stream: bool
) -> None:
    """The worker's connection is closed long before its answer would come."""
    fake.faults = FaultPlan(default=always(hang(60)))
    with serve() as url:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(
                f"{url}/v1/chat/completions",
                json={"model": "small", "messages": HI, "stream": stream},
                timeout=0.5,
            )
        wait_until(lambda: 'status="499"' in httpx.get(f"{url}/metrics").text)
        assert "xrouter_open_requests 0.0" in httpx.get(f"{url}/metrics").text
        assert 'xrouter_fallbacks_total{card="small",error="cancelled"} 1.0' in (
            httpx.get(f"{url}/metrics").text
        )


def test_a_client_that_never_reads_is_cut_off(serve: Serve, fake: FakeOpenAIServer) -> None:
    """The answer is larger than what the two ends of a connection hold between them."""
    fake.add_model(FakeModel(name="small", reply=" ".join(["w" * 1_000_000] * 20)))
    body = json.dumps({"model": "small", "messages": HI, "stream": True}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    with serve(settings=ServerSettings(read_timeout_s=0.2)) as url, socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", int(url.rpartition(":")[2])))
        client.sendall(head.encode() + body)
        wait_until(lambda: 'status="499"' in httpx.get(f"{url}/metrics").text)
        assert "xrouter_open_requests 0.0" in httpx.get(f"{url}/metrics").text


@pytest.mark.parametrize("how", ["closed", "half-closed"])
def test_a_client_that_leaves_amid_a_stream_leaves_its_charge(
    serve: Serve, fake: FakeOpenAIServer, tmp_path: Path, how: str
) -> None:
    fake.add_model(FakeModel(name="small", reply=LONG))
    fake.faults = FaultPlan(default=always(slow_stream(0.3)))
    asked = json.dumps({"model": "small", "messages": HI, "stream": True}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(asked)}"
    with Recorder(tmp_path / "t.db") as recorder, serve(traces=recorder) as url:
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=20) as client:
            client.sendall(head.encode() + b"\r\n\r\n" + asked)
            answer = b""
            while b"word" not in answer:
                answer += client.recv(65536)
            if how == "half-closed":
                client.shutdown(socket.SHUT_WR)
                while client.recv(65536):  # it is closed from the other side
                    pass
        wait_until(lambda: 'status="499"' in httpx.get(f"{url}/metrics").text)
        recorder.flush(20)
        [row] = recorder.store.routes()
        assert row.record.error == "cancelled"
        [charge] = row.record.charges
        assert charge["card"] == "small"
        assert float(row.record.estimated_cost_usd or 0) > 0


def test_a_stream_is_finished_when_the_server_is_told_to_stop(fake: FakeOpenAIServer) -> None:
    from xrouter_lg import ChatXRouter
    from xrouter_lg.serve.app import create_app
    from xrouter_lg.serve.engine import routed
    from xrouter_lg.serve.run import server_for
    from xrouter_lg.serve.settings import ServerSettings

    fake.add_model(FakeModel(name="small", reply=LONG))
    fake.faults = FaultPlan(default=always(slow_stream(0.05)))
    settings = ServerSettings()
    app = create_app(ChatXRouter(routed(ModelPool([card(fake, "small")]))), settings=settings)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        server = server_for(app, "127.0.0.1", 0, settings)
        thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
        thread.start()
        wait_until(lambda: server.started)
        client = OpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0)
        stream = client.chat.completions.create(model="small", messages=HI, stream=True)
        text = next(stream).choices[0].delta.content or ""
        server.should_exit = True
        text += "".join(chunk.choices[0].delta.content or "" for chunk in stream)
        thread.join()
    assert text == LONG
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/healthz")


def test_ready_is_a_server_with_a_card_that_works(serve: Serve, fake: FakeOpenAIServer) -> None:
    fake.faults = FaultPlan(default=always(auth_error()))
    with serve(cards=ModelPool([card(fake, "small")])) as url:
        told = httpx.get(f"{url}/readyz")
        assert (told.status_code, told.json()["cards"]) == (200, {"small": "ok"})
        wait_until(
            lambda: (
                httpx.post(
                    f"{url}/v1/chat/completions", json={"model": "small", "messages": HI}
                ).status_code
                and httpx.get(f"{url}/readyz").status_code == 503
            )
        )
        assert httpx.get(f"{url}/healthz").json() == {"status": "ok"}


def test_the_figures_are_those_of_the_bill(
    client: OpenAI, url: str, fake: FakeOpenAIServer
) -> None:
    for model in ("small", "large"):
        client.chat.completions.create(model=model, messages=HI)
    list(client.chat.completions.create(model="small", messages=HI, stream=True))
    written = fake.bill.of("small").totals.completion_tokens
    line = f'xrouter_tokens_total{{card="small",direction="output"}} {written}.0'
    wait_until(lambda: line in httpx.get(f"{url}/metrics").text)  # the last word goes out before
    text = httpx.get(f"{url}/metrics").text
    assert 'xrouter_answers_total{route="large"} 1.0' in text
    assert 'xrouter_requests_total{endpoint="/v1/chat/completions",status="200"} 3.0' in text
    assert "xrouter_first_token_seconds_count 1.0" in text


def test_feedback_goes_to_the_trace_of_an_answer(
    serve: Serve, tmp_path: Path, fake: FakeOpenAIServer
) -> None:
    with Recorder(tmp_path / "traces.db") as recorder:
        with serve(traces=recorder) as url:
            client = OpenAI(base_url=f"{url}/v1", api_key="x")
            done = client.chat.completions.create(model="xrouter", messages=HI, user="ann")
            for trace_id, score in ((done.id, 1), (done.id.removeprefix("chatcmpl-"), True)):
                given = {"trace_id": trace_id, "key": "liked", "score": score, "id": "once"}
                told = httpx.post(f"{url}/v1/xrouter/feedback", json=given)
                assert told.json() == {
                    "id": "once",
                    "trace_id": done.id.removeprefix("chatcmpl-"),
                }
            for wrong in ({"key": "liked"}, {"trace_id": "a"}, {"trace_id": "a", "key": 5}):
                assert httpx.post(f"{url}/v1/xrouter/feedback", json=wrong).status_code == 400
        recorder.flush()
        (route,) = recorder.store.routes(feedback_key="liked", user="ann")
    assert route.trace_id == done.id.removeprefix("chatcmpl-")


def test_feedback_without_traces_says_what_is_missing(url: str) -> None:
    told = httpx.post(f"{url}/v1/xrouter/feedback", json={"trace_id": "a", "key": "b"})
    assert told.status_code == 409
    assert "--traces" in told.json()["error"]["message"]


def test_the_command_serves_a_pool_file_until_it_is_told_to_stop(
    tmp_path: Path, fake: FakeOpenAIServer
) -> None:
    import yaml

    cards = pool_data(ModelPool([card(fake, "small"), card(fake, "large")]))
    (tmp_path / "pool.yaml").write_text(yaml.safe_dump(cards))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-c", "from xrouter_lg.cli import main; main()"]
    command += ["serve", "--pool", str(tmp_path / "pool.yaml"), "--policy", "cheapest"]
    with subprocess.Popen(
        [*command, "--port", str(port)], stdout=subprocess.PIPE, text=True
    ) as served:
        try:
            assert served.stdout is not None
            assert "small, large" in served.stdout.readline()
            client = OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="x", max_retries=20)
            done = client.chat.completions.create(model="xrouter", messages=HI)
        finally:
            served.terminate()
        assert served.wait(timeout=60) in (0, -15)
    assert done.model == "small"


def test_the_command_refuses_to_be_open_to_all(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from xrouter_lg.cli import app

    told = CliRunner().invoke(app, ["serve", "--pool", "p.yaml", "--host", "0.0.0.0"])
    assert told.exit_code == 2
    assert "no keys" in told.output


def test_keys_are_added_listed_and_revoked_by_command(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from xrouter_lg.cli import app

    def run(*words: str) -> str:
        told = CliRunner().invoke(app, ["keys", *words, "--keys", str(tmp_path / "keys.db")])
        assert told.exit_code == 0, told.output
        return told.output

    text = run("add", "alice", "--budget-usd", "5", "--per", "day", "--rpm", "60").strip()
    assert text.startswith("xr-")
    run("revoke", "alice")
    listed = run("list", "--json")
    assert '"revoked": true' in listed and '"budget_usd": "5.0"' in listed
    assert text not in listed
    assert "alice" in run("list")
