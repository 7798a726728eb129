"""Many callers at once go on a few in each turn of the event loop."""

from __future__ import annotations

import asyncio

from bitsift.router.turns import Turns


def test_so_many_go_on_in_each_turn_in_the_order_they_came() -> None:
    async def scenario() -> None:
        turns, went, turn = Turns(3), [], 0

        async def caller(number: int) -> None:
            await turns.take()
            went.append((turn, number))

        tasks = [asyncio.create_task(caller(number)) for number in range(20)]
        tasks[4].cancel()
        while not all(task.done() for task in tasks):
            turn += 1
            await asyncio.sleep(0)
        assert [number for _, number in went] == [n for n in range(20) if n != 4]
        each = [[at for at, _ in went].count(number) for number in range(turn + 1)]
        assert max(each) <= 6, "those of a turn, and those that the one before let go"
        assert sum(bool(count) for count in each) >= 6

    asyncio.run(scenario())


def test_one_caller_alone_goes_on_at_once() -> None:
    async def scenario() -> None:
        turns = Turns(1)
        for _ in range(3):
            await asyncio.wait_for(turns.take(), 10)

    asyncio.run(scenario())
