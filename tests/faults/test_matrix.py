"""Every kind of failure × every surface, over real HTTP, against the server's own bill."""

from __future__ import annotations

import os
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.faults.surfaces import SURFACES
from tests.support.apps import PRICES, usd
from xrouter_lg import Recorder
from xrouter_lg.errors import StreamInterruptedError
from xrouter_lg.testing import (
    FakeOpenAIServer,
    Fault,
    FaultPlan,
    auth_error,
    bad_request,
    content_filter,
    cut_stream,
    empty,
    error_in_answer,
    hang,
    html_page,
    malformed_json,
    missing_usage,
    rate_limit,
    reset,
    server_error,
    slow_stream,
    stream_error,
    truncated,
    wrong_model,
)

LONG = bool(os.environ.get("XROUTER_LONG_TESTS"))
FAULTS: dict[str, Fault] = {
    "429": rate_limit(),
    "429 for a minute": rate_limit(60),
    "429 no quota": rate_limit(insufficient_quota=True),
    **{str(status): server_error(status) for status in (500, 502, 503, 504, 529)},
    "401": auth_error(),
    "400": bad_request(),
    "400 too long": bad_request("context_length_exceeded"),
    "an error in a good answer": error_in_answer(),
    "a page at 200": html_page(),
    "a page at 502": html_page(502),
    "reset": reset(),
    "silence": hang(0.05),
    "empty": empty(),
    "half a JSON": malformed_json(),
    "no usage": missing_usage(),
    "another model": wrong_model("large"),
    "cut at its length": truncated(2),
    "filtered": content_filter(2),
    "slow": slow_stream(0.01),
    "cut before the first token": cut_stream(0),
    "cut after one token": cut_stream(1),
    "ends early as if whole": cut_stream(1, clean=True),
    "an error after one token": stream_error(1),
}
ANSWERED = {"no usage", "another model", "cut at its length", "filtered", "slow"}
"""Kinds with which the faulty card still answers."""
BROKEN_OFF = {"cut after one token", "ends early as if whole", "an error after one token"}
"""Kinds that end a stream whose first token has been shown: an error, never two texts in one."""
REPLIES = {
    "small": "small says hello to you",
    "large": "large says many more words than the others do",
}


CELLS = [
    (kind, surface)
    for row, kind in enumerate(FAULTS)
    for column, surface in enumerate(SURFACES)
    # Every kind and every surface in `make test`, each with each in `make faults`.
    if LONG or (row + column) % 3 == 0
]


@pytest.mark.parametrize(("kind", "surface"), CELLS)
def test_a_failure_costs_a_fallback_and_stands_on_the_bill(
    kind: str, surface: str, fake: FakeOpenAIServer, tmp_path: Path
) -> None:
    fake.faults = FaultPlan({"small": FAULTS[kind]})
    ask = SURFACES[surface]
    with Recorder(tmp_path / "traces.db") as recorder:
        if kind in BROKEN_OFF and "stream" in surface:
            with pytest.raises(StreamInterruptedError):
                ask(fake, recorder)
            found = recorded(recorder)
            assert found["error"] == "StreamInterruptedError"
        else:
            answer = ask(fake, recorder)
            found = recorded(recorder)
            assert answer.record is None or answer.record["charges"] == found["charges"]
            if kind not in ANSWERED:
                assert found["route"] == "large" and answer.text == REPLIES["large"]
                assert [fallback["card"] for fallback in found["fallbacks"]] == ["small"]
            elif "fan-out" not in surface:
                assert found["route"] == "small"
            assert REPLIES[found["route"]].startswith(answer.text)
            assert answer.streamed in ("", answer.text)
    check_bill(fake, found["charges"])


def recorded(recorder: Recorder) -> dict[str, Any]:
    """The one record in the store."""
    assert recorder.flush(20)
    [row] = recorder.store.routes()
    return row.record.to_dict()


def check_bill(fake: FakeOpenAIServer, charges: list[dict[str, object]]) -> None:
    """A charge for each request that the server saw, at its price or marked as unknown."""
    models = [request.model for request in fake.requests]
    assert sorted(str(charge["model"]) for charge in charges) == sorted(models)
    for name in set(models):
        billed = [
            usd(line.usage, PRICES[line.served_model]) for line in fake.bill if line.model == name
        ]
        mine = [charge for charge in charges if charge["model"] == name]
        known = [Decimal(str(c["cost_usd"])) for c in mine if c["cost_usd"] is not None]
        if len(known) == len(mine):
            assert sum(known, Decimal(0)) == sum(billed, Decimal(0))
        for charge in mine:
            assert charge["cost_usd"] is not None or charge["estimate_usd"] is not None


def test_the_matrix_has_every_kind_and_every_surface() -> None:
    assert len(FAULTS) * len(SURFACES) == 297
    assert {kind for kind, _ in CELLS} == set(FAULTS)
    assert {surface for _, surface in CELLS} == set(SURFACES)
