"""Planted keys, looked for in every output that a request leaves."""

from __future__ import annotations

import io
import json
import logging
import traceback
from pathlib import Path
from typing import Any

import pytest

from tests.support.apps import app, ask, card, prefers
from tests.tracing.on_disk import readable
from xrouter_lg import ModelPool, Recorder, XRouterNode
from xrouter_lg.errors import AllCandidatesFailedError
from xrouter_lg.testing import FakeOpenAIServer, FaultPlan, auth_error, server_error

CARD_KEY = "plain-w0rd-of-a-variable"
IN_PROMPT = "sk-planted-0123456789abcdefghij"
IN_HEADER = "Bearer planted0123456789"
PLANTED = (CARD_KEY, IN_PROMPT, IN_HEADER.split()[1])


class Echo(logging.Handler):
    def __init__(self) -> None:
        super().__init__(level=0)
        self.text = io.StringIO()
        self.setFormatter(logging.Formatter("%(name)s %(message)s %(args)s"))

    def emit(self, record: logging.LogRecord) -> None:
        if record.name.startswith("xrouter_lg"):
            self.text.write(self.format(record) + "\n")


@pytest.mark.parametrize("fails", [False, True])
async def test_no_planted_key_is_in_any_output(
    fails: bool, fake: FakeOpenAIServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLANTED_KEY", CARD_KEY)
    headers = {"default_headers": {"X-Other": IN_HEADER}}
    echo = Echo()
    logging.getLogger().addHandler(echo)
    said: list[str] = []
    try:
        cards = [
            card(fake, name, api_key_env="PLANTED_KEY", params=headers)
            for name in ("small", "large")
        ]
        pool = ModelPool(cards)
        if fails:
            fake.faults = FaultPlan({"small": auth_error(), "large": server_error()})
        with Recorder(tmp_path / "traces.db") as recorder:
            node = XRouterNode(pool, policy=prefers("small", "large"), traces=recorder)
            said += [repr(pool), repr(cards), repr(node), repr(recorder.store), pool.fingerprint]
            question = ask(f"my key:\n{IN_PROMPT} and {CARD_KEY}, {IN_HEADER}")
            try:
                state: Any = await app(node).ainvoke(question)
                said.append(json.dumps(state["messages"][-1].response_metadata, default=repr))
            except AllCandidatesFailedError as error:
                said += [str(error), repr(error), json.dumps(error.record)]
                said.append("".join(traceback.format_exception_only(error)))
            assert recorder.flush(20)
            said += [json.dumps(row.record.to_dict()) for row in recorder.store.routes()]
            said.append(json.dumps(list(_runs(recorder)), default=str))
        said.append(readable(tmp_path / "traces.db").decode("utf-8", "replace"))
    finally:
        logging.getLogger().removeHandler(echo)
    said.append(echo.text.getvalue())
    assert len(said) > 8 and any("[redacted]" in text for text in said)
    for text in said:
        for key in PLANTED:
            assert key not in text


def _runs(recorder: Recorder) -> Any:
    for trace in recorder.store.iter_traces():
        yield from trace.runs
