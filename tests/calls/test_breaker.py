"""The circuit breaker, by a clock that the test turns."""

from __future__ import annotations

import threading

import pytest

from xrouter_lg.calls.breaker import Breaker


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def opened(clock: Clock) -> Breaker:
    breaker = Breaker(threshold=3, cooldown_s=30.0, clock=clock)
    for _ in range(3):
        breaker.begin()
        breaker.failure()
    return breaker


def test_a_new_breaker_is_closed(clock: Clock) -> None:
    assert not Breaker(clock=clock).open


def test_it_stays_closed_one_failure_below_the_threshold(clock: Clock) -> None:
    breaker = Breaker(threshold=3, clock=clock)
    breaker.failure()
    breaker.failure()
    assert not breaker.open


def test_it_opens_at_the_threshold(clock: Clock) -> None:
    assert opened(clock).open


def test_a_success_starts_the_count_again(clock: Clock) -> None:
    breaker = Breaker(threshold=3, clock=clock)
    for outcome in (breaker.failure, breaker.failure, breaker.success, breaker.failure):
        outcome()
    breaker.failure()
    assert not breaker.open


def test_it_is_open_until_the_cooldown_has_passed(clock: Clock) -> None:
    breaker = opened(clock)
    clock.now += 29.9
    assert breaker.open


def test_it_lets_a_call_through_after_the_cooldown(clock: Clock) -> None:
    breaker = opened(clock)
    clock.now += 30.0
    assert not breaker.open


def test_looking_at_a_half_open_breaker_takes_no_probe(clock: Clock) -> None:
    breaker = opened(clock)
    clock.now += 30.0
    assert [breaker.open for _ in range(5)] == [False] * 5


def test_while_one_probe_runs_everybody_else_goes_elsewhere(clock: Clock) -> None:
    breaker = opened(clock)
    clock.now += 30.0
    breaker.begin()
    assert breaker.open


def test_a_probe_that_succeeds_closes_it(clock: Clock) -> None:
    breaker = opened(clock)
    clock.now += 30.0
    breaker.begin()
    breaker.success()
    assert not breaker.open


def test_after_a_good_probe_the_whole_threshold_is_needed_again(clock: Clock) -> None:
    breaker = opened(clock)
    clock.now += 30.0
    breaker.begin()
    breaker.success()
    breaker.failure()
    breaker.failure()
    assert not breaker.open


def test_a_probe_that_fails_opens_it_for_a_whole_cooldown(clock: Clock) -> None:
    breaker = opened(clock)
    clock.now += 30.0
    breaker.begin()
    breaker.failure()
    clock.now += 29.9
    assert breaker.open
    clock.now += 0.1
    assert not breaker.open


def test_a_cancelled_probe_leaves_room_for_the_next(clock: Clock) -> None:
    breaker = opened(clock)
    clock.now += 30.0
    breaker.begin()
    breaker.cancel()
    assert not breaker.open


def test_a_cancelled_probe_has_not_closed_it(clock: Clock) -> None:
    breaker = opened(clock)
    clock.now += 30.0
    breaker.begin()
    breaker.cancel()
    breaker.begin()
    breaker.failure()
    assert breaker.open


def test_a_call_begun_while_closed_is_no_probe(clock: Clock) -> None:
    breaker = Breaker(threshold=3, clock=clock)
    breaker.begin()
    assert not breaker.open
    breaker.failure()
    assert not breaker.open


def test_failures_of_many_threads_are_all_counted(clock: Clock) -> None:
    threads, each = 16, 500
    breaker = Breaker(threshold=threads * each + 1, clock=clock)
    start = threading.Barrier(threads)

    def fail() -> None:
        start.wait()
        for _ in range(each):
            breaker.failure()

    running = [threading.Thread(target=fail) for _ in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    assert not breaker.open
    breaker.failure()
    assert breaker.open


def test_a_probe_taken_by_one_thread_is_seen_by_all_others(clock: Clock) -> None:
    breaker = opened(clock)
    clock.now += 30.0
    breaker.begin()
    seen: list[bool] = []
    running = [threading.Thread(target=lambda: seen.append(breaker.open)) for _ in range(16)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    assert seen == [True] * 16


def test_another_process_is_not_followed_in_what_is_older_than_an_answer_here(clock: Clock) -> None:
    """It has failed there five seconds ago, and answered here two seconds ago."""
    breaker = Breaker(clock=clock)
    clock.now -= 2.0
    breaker.success()
    clock.now += 2.0
    breaker.follow(5.0)
    assert not breaker.open
    breaker.follow(1.0)
    assert breaker.open
