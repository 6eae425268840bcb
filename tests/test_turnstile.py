"""Many that are ready at once pass a few in each round of the loop, in order."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from xrouter_lg.turnstile import take_turns


async def test_a_thousand_at_once_leave_the_loop_a_turn_between_any_few() -> None:
    passed: list[int] = []
    beats: list[int] = []

    async def one(number: int) -> None:
        await take_turns()
        passed.append(number)

    async def beat() -> None:
        while len(passed) < 1000:
            beats.append(len(passed))
            await asyncio.sleep(0)

    await asyncio.gather(beat(), *(one(number) for number in range(1000)))
    assert passed == list(range(1000))
    assert max(after - before for before, after in itertools.pairwise(beats)) <= 8


@pytest.mark.parametrize("number", range(1, 14))
async def test_whoever_comes_later_passes_however_many_came_before(number: int) -> None:
    async with asyncio.timeout(20):
        await asyncio.gather(*(take_turns() for _ in range(number)))
        for _ in range(9):
            await take_turns()
            await asyncio.sleep(0)
        await asyncio.gather(*(take_turns() for _ in range(number)))


async def test_whoever_is_cancelled_at_the_turnstile_keeps_nobody_up() -> None:
    passed: list[int] = []

    async def one(number: int) -> None:
        await take_turns()
        passed.append(number)

    tasks = [asyncio.create_task(one(number)) for number in range(40)]
    await asyncio.sleep(0)
    for task in tasks[8:30]:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert passed == [*range(8), *range(30, 40)]


def test_each_loop_has_its_own() -> None:
    async def many() -> int:
        await asyncio.gather(*(take_turns() for _ in range(50)))
        return 50

    assert [asyncio.run(many()) for _ in range(3)] == [50, 50, 50]
