"""A stream that stops half-way is never taken as a whole answer."""

from __future__ import annotations

import pytest

from tests.support.provider_matrix import Provider, answered, cells, record_of, routed
from xrouter_lg.errors import StreamInterruptedError
from xrouter_lg.testing import (
    FakeModel,
    FakeProviders,
    Fault,
    FaultPlan,
    cut_stream,
    stream_error,
)


@cells("cut stream", "the connection breaks: an error, once tokens have been seen")
def test_a_lost_connection_is_an_error(provider: Provider, server: FakeProviders) -> None:
    with pytest.raises(StreamInterruptedError):
        _route(provider, server, cut_stream(2), streamed=True)


@cells("cut stream", "the stream ends in good order, but before its end")
def test_a_stream_without_its_end_is_an_error(provider: Provider, server: FakeProviders) -> None:
    with pytest.raises(StreamInterruptedError):
        _route(provider, server, cut_stream(2, clean=True), streamed=True)


@cells("cut stream", "an error event in the middle of a stream")
def test_an_error_event_is_an_error(provider: Provider, server: FakeProviders) -> None:
    with pytest.raises(StreamInterruptedError):
        _route(provider, server, stream_error(2), streamed=True)


@cells("cut stream", "nobody saw a token: another card answers")
def test_an_unseen_break_falls_over(provider: Provider, server: FakeProviders) -> None:
    assert _route(provider, server, cut_stream(2), streamed=False) == "other"


def _route(provider: Provider, server: FakeProviders, fault: Fault, *, streamed: bool) -> str:
    server.add_model(FakeModel(name="m", reply="one two three four five"))
    server.add_model(FakeModel(name="other", reply="The whole answer."))
    server.faults = FaultPlan({"m": fault})
    graph = routed(provider.card(server), provider.card(server, "other"))
    route: str = record_of(answered(graph, streamed=streamed))["route"]
    return route
