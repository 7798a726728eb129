"""What callers order of the set of indexes is done one by one by another process."""

from __future__ import annotations

import asyncio

import pytest

from bitsift.errors import DeadlineExceeded, NotFound, Overloaded, Unavailable
from bitsift.router import orders as module
from bitsift.router.indexes import Indexes, Served
from bitsift.router.orders import Orders


def test_orders_are_fetched_in_order_and_each_is_told_what_came_of_it() -> None:
    async def scenario() -> None:
        orders = Orders()
        asked = [asyncio.create_task(orders.ask("create", name=name)) for name in "ab"]
        first, second = await orders.next(1), await orders.next(1)
        assert first is not None
        assert second is not None
        assert (first.what, first.arguments, second.arguments["name"]) == (
            "create", {"name": "a"}, "b",
        )  # fmt: skip
        orders.done(second.number, None, NotFound("no"))
        orders.done(first.number, {"name": "a"}, None)
        orders.done(first.number, {"name": "twice"}, None)
        assert await asked[0] == {"name": "a"}
        with pytest.raises(NotFound, match="no"):
            await asked[1]

    asyncio.run(scenario())


def test_whoever_fetches_waits_for_an_order_and_not_for_ever() -> None:
    async def scenario() -> None:
        orders = Orders()
        assert await orders.next(0.01) is None
        fetching = asyncio.create_task(orders.next(60))
        await asyncio.sleep(0)
        asked = asyncio.create_task(orders.ask("drop_alias", alias="x"))
        order = await fetching
        assert order is not None
        asked.cancel()
        await asyncio.wait({asked})
        orders.done(order.number, None, None)  # nobody waits any more

    asyncio.run(scenario())


def test_one_that_its_caller_gave_up_before_it_was_fetched_is_not_done() -> None:
    async def scenario() -> None:
        orders = Orders()
        asked = asyncio.create_task(orders.ask("delete", name="a"))
        await asyncio.sleep(0)
        asked.cancel()
        await asyncio.wait({asked})
        assert await orders.next(0.01) is None

    asyncio.run(scenario())


def test_so_many_orders_wait_and_each_for_so_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAITING_MAX", 2)
    monkeypatch.setattr(module, "ORDER_TIMEOUT_S", 0.05)

    async def scenario() -> None:
        orders = Orders()
        asked = [asyncio.create_task(orders.ask("create", name=name)) for name in "abc"]
        said = await asyncio.gather(*asked, return_exceptions=True)
        assert [type(one) for one in said] == [DeadlineExceeded, DeadlineExceeded, Overloaded]

    asyncio.run(scenario())


def test_a_router_that_has_not_been_told_of_the_others_says_so() -> None:
    indexes = Indexes(Served("a", object(), object()))  # type: ignore[arg-type]
    indexes.is_whole = False
    with pytest.raises(Unavailable, match="just started"):
        indexes.find("b")
    assert indexes.find("a") is indexes.find(None)
    indexes.place([], {}, {})
    with pytest.raises(NotFound):
        indexes.find("b")
