"""The server starts, stops and leaves nothing behind."""

from __future__ import annotations

import gc
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator

import httpx
import pytest

from xrouter_lg.testing import FakeOpenAIServer, FaultPlan, hang, server_error

BODY = {"model": "small", "messages": [{"role": "user", "content": "hi"}]}


def test_a_stopped_server_leaves_no_thread() -> None:
    before = threading.active_count()
    with FakeOpenAIServer() as server:
        httpx.get(f"{server.url}/health")
    assert threading.active_count() == before


def test_a_stopped_server_leaves_no_open_resource() -> None:
    gc.collect()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ResourceWarning)
        with FakeOpenAIServer() as server, httpx.Client() as client:
            client.post(f"{server.base_url}/chat/completions", json=BODY)
        del server, client
        gc.collect()
    assert [str(warning.message) for warning in caught] == []


def test_a_hanging_request_does_not_hold_up_the_stop() -> None:
    with FakeOpenAIServer(faults=FaultPlan(default=hang(3600))) as server:
        client = socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2])))
        client.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}"
        )
        while not server.requests:
            time.sleep(0.01)
    client.close()


def test_a_stopped_server_refuses_connections() -> None:
    with FakeOpenAIServer() as server:
        url = server.url
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/health")


def test_a_server_comes_back_on_its_port() -> None:
    server = FakeOpenAIServer()
    with server:
        url = server.url
    with server:
        assert httpx.get(f"{url}/health").status_code == 200


def test_the_bill_outlives_the_server() -> None:
    with FakeOpenAIServer() as server:
        httpx.post(f"{server.base_url}/chat/completions", json=BODY)
    assert server.bill.totals.requests == 1


@pytest.mark.asyncio
async def test_the_async_form_serves_the_same() -> None:
    async with FakeOpenAIServer() as server, httpx.AsyncClient() as client:
        assert (await client.get(f"{server.url}/health")).status_code == 200


def test_a_server_that_is_not_running_has_no_url() -> None:
    with pytest.raises(RuntimeError, match="not running"):
        _ = FakeOpenAIServer().base_url


def test_a_taken_port_is_an_error_at_the_start() -> None:
    with FakeOpenAIServer() as server:
        port = int(server.url.rpartition(":")[2])
        with pytest.raises(OSError, match="in use"):
            FakeOpenAIServer(port=port).start()


def test_a_second_start_is_an_error() -> None:
    with FakeOpenAIServer() as server, pytest.raises(RuntimeError, match="already running"):
        server.start()


def test_the_server_listens_on_loopback_only() -> None:
    with FakeOpenAIServer() as server:
        assert server.url.startswith("http://127.0.0.1:")


def test_what_is_not_http_gets_a_400() -> None:
    with FakeOpenAIServer() as server:
        port = int(server.url.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(b"hello there\r\n\r\n")
            assert client.recv(100).startswith(b"HTTP/1.1 400")


def test_the_plan_can_change_while_requests_run() -> None:
    with FakeOpenAIServer() as server:
        stop = threading.Event()

        def switch() -> None:
            while not stop.is_set():
                server.faults = FaultPlan(default=server_error())
                server.faults = FaultPlan()

        thread = threading.Thread(target=switch)
        thread.start()
        with httpx.Client() as client:
            url = f"{server.base_url}/chat/completions"
            statuses = {client.post(url, json=BODY).status_code for _ in range(200)}
        stop.set()
        thread.join()
    assert statuses <= {200, 500}


@pytest.fixture
def process() -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "xrouter_lg.testing", "--reply", "from afar"]
    command += ["--faults", "small:500,ok", "--latency-ms", "20"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        yield running
        running.kill()


def base_url(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_the_command_prints_its_base_url_first(process: subprocess.Popen[str]) -> None:
    assert httpx.get(f"{base_url(process)}/models").status_code == 200


def test_the_command_follows_its_options(process: subprocess.Popen[str]) -> None:
    url = f"{base_url(process)}/chat/completions"
    failed, answered = httpx.post(url, json=BODY), httpx.post(url, json=BODY)
    content = answered.json()["choices"][0]["message"]["content"]
    assert (failed.status_code, content) == (500, "from afar")


def test_the_command_reports_its_counts(process: subprocess.Popen[str]) -> None:
    url = base_url(process)
    for _ in range(3):
        httpx.post(f"{url}/chat/completions", json=BODY)
    stats = httpx.get(f"{url.removesuffix('/v1')}/_stats").json()
    assert (stats["requests"], stats["bill"]["requests"], stats["faults"]) == (
        3,
        2,
        {"server_error_500": 1},
    )


def test_the_command_ends_cleanly_on_sigterm(process: subprocess.Popen[str]) -> None:
    base_url(process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=10) == 0


def test_the_command_explains_a_wrong_plan() -> None:
    command = [sys.executable, "-m", "xrouter_lg.testing", "--faults", "small:flood"]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "'flood' is not a fault" in finished.stderr
