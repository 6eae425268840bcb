"""Rate limits: kept beforehand, and obeyed when told."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.langsmith.conftest import add_trace, days_ago, pulled, run_id, stored, there
from tests.support.langsmith_server import LangSmithServer
from xrouter_lg.calls.pauses import retry_after_s
from xrouter_lg.langsmith.connection import LangSmith
from xrouter_lg.langsmith.errors import UnreachableError
from xrouter_lg.langsmith.options import PullOptions
from xrouter_lg.langsmith.polite import FailedRequest, Patience, RateLimit
from xrouter_lg.langsmith.pull import pull
from xrouter_lg.langsmith.runs import RunQuery
from xrouter_lg.langsmith.state import Interval, PullState, missing, with_interval, without
from xrouter_lg.tracing.store.trace_store import TraceStore


class Clock:
    """Time that passes only by sleeping."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@given(st.integers(1, 20), st.lists(st.floats(0, 3), max_size=60))
def test_no_window_of_time_ever_holds_more_requests_than_allowed(
    allowed: int, pauses: list[float]
) -> None:
    clock = Clock()
    limit = RateLimit(allowed, 10.0, clock=clock, sleep=clock.sleep)
    sent = []
    for pause in pauses:
        clock.now += pause
        limit.wait()
        sent.append(clock.now)
    for first, later in zip(sent, sent[allowed:], strict=False):
        assert later - first >= 10.0 - 1e-6


def test_each_api_has_the_pace_that_langsmith_allows(
    store: TraceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RateLimit, "wait", lambda self: paces.add((self.requests, self.seconds)))
    paces: set[tuple[int, float]] = set()
    for v2, allowed in ((True, 300), (False, 15)):
        with LangSmithServer(v2=v2) as server:
            add_trace(server, 1, days_ago(1))
            with LangSmith(endpoint=server.url) as langsmith:
                pulled(langsmith, store)
                paces.clear()
                list(langsmith.pages(RunQuery(project_id=run_id(0), start=days_ago(1))))
        assert [seconds for _, seconds in paces] == [10.0]
        assert max(requests for requests, _ in paces) <= allowed


@pytest.mark.parametrize("v2", [True, False])
def test_a_429_is_waited_out_as_long_as_it_asks(store: TraceStore, v2: bool) -> None:
    waits: list[float] = []
    told: list[str] = []
    with LangSmithServer(v2=v2) as server:
        add_trace(server, 1, days_ago(1))
        patience = Patience(sleep=waits.append)
        with LangSmith(endpoint=server.url, patience=patience) as langsmith:
            path = "/api/v2/runs/query" if v2 else "/runs/query"
            server.fail_next(429, path=path, headers={"Retry-After": "7"})
            soon = datetime.now(UTC) + timedelta(seconds=30)
            server.fail_next(429, path=path, headers={"Retry-After": format_datetime(soon, True)})
            server.fail_next(429, path=path)
            options = PullOptions(since=days_ago(2))
            pull(
                "support-bot",
                store,
                options,
                langsmith=langsmith,
                on_progress=lambda now: told.append(now.note),
            )
        assert stored(store) == there(server)
    first, second, third = waits
    assert 7 <= first < 7.5
    assert 20 < second <= 30.5
    assert third <= 2.0  # not told: backoff with jitter
    assert "rate limit: waiting 7 s" in told


def test_a_busy_server_is_asked_slower_until_everything_is_here(
    server: LangSmithServer, store: TraceStore
) -> None:
    for number in range(40):
        add_trace(server, number, days_ago(2) + timedelta(minutes=number))
    clock = Clock()
    server.limit, server.clock = (2, 10.0), clock
    patience = Patience(sleep=clock.sleep)
    with LangSmith(endpoint=server.url, page_size=20, patience=patience) as langsmith:
        summary = pulled(langsmith, store)
    assert stored(store) == there(server)
    assert 0 < server.limited <= summary.requests / 2  # once per stretch, then it keeps away
    assert summary.waited_s == pytest.approx(clock.now)
    assert server.most_in_flight == 1  # one request at a time


def test_patience_ends_with_what_the_server_asked(
    server: LangSmithServer, langsmith: LangSmith, store: TraceStore, waits: list[float]
) -> None:
    server.fail_next(429, path="/api/v2/runs/query", headers={"Retry-After": "3600"})
    with pytest.raises(UnreachableError, match=r"429.*come back in 3600 s"):
        pulled(langsmith, store)
    assert waits == []
    server.fail_next(429, 50, path="/api/v2/runs/query")
    with pytest.raises(UnreachableError, match="after 8 attempt"):
        pulled(langsmith, store)
    assert len(waits) == 7 and waits == sorted(waits, key=lambda w: round(w, -2))


def test_backoff_doubles_with_jitter_and_has_a_ceiling() -> None:
    patience = Patience(attempts=12, first_wait_s=1, longest_wait_s=20)
    patience._answered = True
    waits = [
        patience._wait_s(FailedRequest(503, None, ""), attempt) or 0 for attempt in range(1, 12)
    ]
    for attempt, wait in enumerate(waits):
        assert min(20, 2**attempt) / 2 <= wait <= min(20, 2**attempt)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        *[("12", 12.0), ("0.5", 0.5), ("-3", 0.0), ("soon", None), ("", None)],
        ("Wed, 21 Oct 2015 07:28:00", 0.0),  # a date without its zone
    ],
)
def test_retry_after_is_read_in_every_form(header: str, seconds: float | None) -> None:
    assert retry_after_s({"Retry-After": header}) == seconds


moments = st.integers(0, 50).map(lambda n: datetime(2026, 1, 1, tzinfo=UTC) + timedelta(hours=n))
stretches = st.tuples(moments, moments).map(lambda pair: (min(pair), max(pair)))


@given(st.lists(stretches, max_size=8), stretches)
def test_what_is_missing_and_what_is_done_make_the_wish(
    parts: list[Interval], wanted: Interval
) -> None:
    done: list[Interval] = []
    for part in parts:
        done = with_interval(done, part)

    def hours(listed: list[Interval]) -> set[datetime]:
        every = [wanted[0] + timedelta(hours=n) for n in range(51)]
        return {h for h in every for start, end in listed if start <= h < end}

    gaps = missing(wanted, done)
    assert hours(gaps) == hours([wanted]) - hours(done)
    assert all(a[1] < b[0] for a, b in itertools.pairwise(done))
    assert hours(without(done, wanted)) == hours(done) - hours([wanted])
    assert PullState.from_dict(PullState(done=done).to_dict()).done == done
