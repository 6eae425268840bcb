"""Planted keys, looked for in what a server, a backfill, a checkpoint and its report leave."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.backfill.world import World, models
from tests.faults.test_planted_keys import CARD_KEY, IN_HEADER, IN_PROMPT, PLANTED, Echo
from tests.support.apps import card
from tests.tracing.on_disk import readable
from xrouter_lg import ChatXRouter, ModelPool, Recorder
from xrouter_lg.serve.access.keys import KeyStore
from xrouter_lg.serve.app import create_app
from xrouter_lg.serve.engine import routed
from xrouter_lg.serve.run import running
from xrouter_lg.testing import FakeOpenAIServer, Fault, FaultPlan, always
from xrouter_lg.testing.faults import ErrorAnswer
from xrouter_lg.testing.payloads import error_body

ASKED = "/v1/chat/completions"


@pytest.fixture
def echo(monkeypatch: pytest.MonkeyPatch) -> Iterator[Echo]:
    monkeypatch.setenv("PLANTED_KEY", CARD_KEY)
    handler = Echo()
    logging.getLogger().addHandler(handler)
    yield handler
    logging.getLogger().removeHandler(handler)


def telling() -> Fault:
    """A provider's refusal that repeats the key, as some do."""
    words = f"Incorrect API key provided: {CARD_KEY}. Your header: {IN_HEADER}"
    body = error_body(words, "invalid_request_error", "invalid_api_key")
    return ErrorAnswer(kind="auth_error", status=401, body=body)


@pytest.mark.parametrize("fails", [False, True])
def test_no_planted_key_is_in_any_output_of_the_server(
    fails: bool,
    fake: FakeOpenAIServer,
    tmp_path: Path,
    echo: Echo,
    capfd: pytest.CaptureFixture[str],
) -> None:
    headers = {"default_headers": {"X-Other": IN_HEADER}}
    cards = [
        card(fake, name, api_key_env="PLANTED_KEY", params=headers) for name in ("small", "large")
    ]
    if fails:
        fake.faults = FaultPlan({"small": always(telling()), "large": always(telling())})
    keys = KeyStore(tmp_path / "keys.db")
    own = keys.add("alice")
    said: list[str] = []
    with Recorder(tmp_path / "traces.db") as recorder:
        chat = ChatXRouter(routed(ModelPool(cards), policy="cheapest"), traces=recorder)
        with running(create_app(chat, keys=keys)) as url:
            question = {"role": "user", "content": f"my key: {CARD_KEY} {IN_HEADER}"}
            body: dict[str, Any] = {"model": "xrouter", "messages": [question]}
            for key, more in ((own, {}), (own, {"stream": True}), (own, {"n": IN_PROMPT})):
                bearer = {"Authorization": f"Bearer {key}"}
                said.append(_all_of(httpx.post(url + ASKED, json=body | more, headers=bearer)))
            for wrong in (IN_PROMPT, CARD_KEY, own[:-1] + "x"):
                told = httpx.post(
                    url + ASKED, json=body, headers={"Authorization": f"Bearer {wrong}"}
                )
                assert told.status_code == 401
                said.append(_all_of(told))
            bearer = {"Authorization": f"Bearer {own}"}
            paths = ("/metrics", "/v1/models", "/openapi.json", "/healthz", "/readyz", "/no")
            said += [_all_of(httpx.get(url + path, headers=bearer)) for path in paths]
        assert recorder.flush(20)
    said.append(readable(tmp_path / "traces.db").decode("utf-8", "replace"))
    said += [path.read_bytes().decode("utf-8", "replace") for path in tmp_path.glob("keys.db*")]
    said += [echo.text.getvalue(), *capfd.readouterr()]
    assert len(said) > 12 and any("xrouter_" in text for text in said)
    for text in said:
        for key in (*PLANTED, own):
            assert key not in text


async def test_no_planted_key_is_in_the_files_of_a_backfill(
    tmp_path: Path, echo: Echo, capfd: pytest.CaptureFixture[str]
) -> None:
    with FakeOpenAIServer(models(), faults=FaultPlan({"small": always(telling())})) as server:
        world = World(tmp_path, server)
        own = {"api_key_env": "PLANTED_KEY", "params": {"default_headers": {"X-Other": IN_HEADER}}}
        world.write_pool(small=own, medium={"api_key_env": "PLANTED_KEY"})
        tally = await world.run()
    assert tally.answered
    left = [path for path in tmp_path.rglob("*") if path.is_file() and path != world.pool_file]
    assert world.cache in left
    said = [path.read_bytes().decode("utf-8", "replace") for path in left]
    said += [repr(tally), echo.text.getvalue(), *capfd.readouterr()]
    for text in said:
        assert CARD_KEY not in text and IN_HEADER.split()[1] not in text


def _all_of(response: httpx.Response) -> str:
    return f"{response.status_code} {response.headers} {response.text}"
