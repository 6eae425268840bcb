"""A real llama.cpp server with real weights: life, death, answers, prices."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from integrations.errors import ServerStartError
from integrations.llama_cpp.server import LlamaCppServer

ROOT = Path(__file__).parents[3]


def is_running(pid: int) -> bool:
    try:
        # A zombie still has an entry; its command line is empty.
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())
    except FileNotFoundError:
        return False


def wait_until_gone(pid: int, seconds: float = 10) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not is_running(pid):
            return True
        time.sleep(0.05)
    return False


def ask(server: LlamaCppServer, question: str) -> str:
    answer = httpx.post(
        f"{server.base_url}/chat/completions",
        json={
            "model": server.name,
            "messages": [{"role": "user", "content": question}],
            "temperature": 0,
            "max_tokens": 24,
        },
        timeout=120,
        trust_env=False,
    )
    answer.raise_for_status()
    content = answer.json()["choices"][0]["message"]["content"]
    assert isinstance(content, str)
    return content


@pytest.mark.local_models
def test_a_server_answers_sensibly_and_is_gone_afterwards(smollm2: Path) -> None:
    with LlamaCppServer(smollm2, name="smollm2-135m", n_ctx=512) as server:
        pid = server.pid
        assert pid is not None
        assert server.base_url.startswith("http://127.0.0.1:")
        assert "Paris" in ask(server, "What is the capital of France? Answer with one word.")
    assert not is_running(pid)
    with pytest.raises(RuntimeError, match="is not running"):
        _ = server.base_url


@pytest.mark.local_models
def test_two_servers_coexist_on_ports_of_their_own(smollm2: Path) -> None:
    with (
        LlamaCppServer(smollm2, name="one", n_ctx=512, threads=1) as one,
        LlamaCppServer(smollm2, name="two", n_ctx=512, threads=1) as two,
    ):
        assert one.base_url != two.base_url
        assert one.is_healthy()
        assert two.is_healthy()
        assert ask(one, "Say hello.") == ask(two, "Say hello.")


@pytest.mark.local_models
def test_a_killed_parent_leaves_no_server_behind(smollm2: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path\n"
        "from integrations.llama_cpp.server import LlamaCppServer\n"
        "server = LlamaCppServer(Path(sys.argv[1]), name='m', n_ctx=256).start()\n"
        "print(server.pid, flush=True); time.sleep(300)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(smollm2)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert is_running(pid)
        os.kill(parent.pid, signal.SIGKILL)
    assert wait_until_gone(pid)


@pytest.mark.local_models
def test_an_async_block_starts_and_stops_it_too(smollm2: Path) -> None:
    import asyncio

    async def run() -> bool:
        async with LlamaCppServer(smollm2, name="m", n_ctx=256) as server:
            return server.is_healthy()

    assert asyncio.run(run())


@pytest.mark.local_models
def test_a_file_that_is_no_model_fails_with_the_log(smollm2: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(smollm2.read_bytes()[:100_000])
    server = LlamaCppServer(broken, name="broken")
    with pytest.raises(
        ServerStartError, match=r"(?s)'broken'.*exited with status 1.*failed to load"
    ):
        server.start()
    assert server.pid is None


@pytest.mark.local_models
def test_a_start_that_takes_too_long_is_ended(smollm2: Path) -> None:
    server = LlamaCppServer(smollm2, name="slow", start_timeout_s=0.01)
    with pytest.raises(ServerStartError, match=r"not healthy after 0\.01 s"):
        server.start()
    assert server.pid is None


def test_missing_weights_name_the_path_and_the_command(tmp_path: Path) -> None:
    with pytest.raises(ServerStartError, match=r"nowhere\.gguf.*llama_cpp fetch"):
        LlamaCppServer(tmp_path / "nowhere.gguf", name="m").start()


def test_a_senseless_size_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="n_ctx of server 'm' must be at least 1, not 0"):
        LlamaCppServer(tmp_path / "m.gguf", name="m", n_ctx=0)


@pytest.mark.local_models
def test_a_chat_template_file_replaces_the_one_in_the_weights(
    smollm2: Path, tmp_path: Path
) -> None:
    template = tmp_path / "echo.jinja"
    template.write_text("{{ 'MARK ' + messages[0].content }}")
    with LlamaCppServer(smollm2, name="m", n_ctx=256, chat_template=template) as server:
        answer = httpx.post(
            server.base_url.removesuffix("/v1") + "/apply-template",
            json={"messages": [{"role": "user", "content": "hello"}]},
            trust_env=False,
        )
    assert answer.json()["prompt"] == "MARK hello"
