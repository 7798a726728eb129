"""Both clients count and list documents, page by page."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from bitsift.client import AsyncClient, Client
from bitsift.errors import InvalidRequest
from tests.gateways import Running, running_empty

DOCUMENTS = [
    {"id": str(key), "text": f"text {key}", "metadata": {"n": key, "day": f"2026-01-{key + 1:02}"}}
    for key in range(25)
]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder: Path = tmp_path_factory.mktemp("listing")
    with running_empty(folder, 64) as running:
        with Client(running.url) as client:
            client.add(DOCUMENTS)
        yield running


FILTERS: list[tuple[Any, int]] = [
    (None, 25),
    ("n < 5", 5),
    ({"n": {"$gte": 20}}, 5),
    ({"day": {"$gt": date(2026, 1, 10)}}, 15),
]


@pytest.mark.parametrize(("written", "expected"), FILTERS)
def test_all_that_passes_is_counted_and_listed_once(
    gateway: Running, written: Any, expected: int
) -> None:
    with Client(gateway.url) as client:
        assert client.count(written) == expected
        found = list(client.documents(written, limit=4))
        page = client.page(written, limit=3, include=["metadata"])
    ids = [document.id for document in found]
    assert len(set(ids)) == len(ids) == expected
    assert {d.id: d.metadata["n"] for d in found} == {key: int(key) for key in ids}
    assert (len(page.documents), page.count) == (3, expected)
    assert page.documents[0].text == ""

    async def ask() -> None:
        async with AsyncClient(gateway.url) as client:
            assert await client.count(written) == expected
            assert [document async for document in client.documents(written, limit=4)] == found
            following = await client.page(written, limit=3, cursor=page.cursor)
            assert [one.id for one in following.documents] == ids[3:6]

    asyncio.run(ask())


def test_a_filter_is_checked_before_anything_is_sent() -> None:
    with Client("http://127.0.0.1:9") as client:
        for call in (client.count, client.page, lambda written: list(client.documents(written))):
            with pytest.raises(InvalidRequest, match=r"did you mean \$gte"):
                call({"n": {"$gtee": 1}})


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_number_that_json_cannot_say_is_not_sent_as_null(number: float) -> None:
    """Null means missing: a deletion would take all documents without the field."""
    with Client("http://127.0.0.1:9") as client:
        for written in ({"n": number}, {"n": {"$in": [1.5, number]}}, {"$or": [{"n": number}]}):
            with pytest.raises(InvalidRequest, match="nan or an infinity"):
                client.delete_matching(written)
        with pytest.raises(InvalidRequest, match="nan or an infinity"):
            client.search("x", min_score=number)


def test_a_client_that_remembers_its_writes_counts_them(gateway: Running) -> None:
    with Client(gateway.url, read_your_writes=True) as client:
        client.add({"id": "new", "text": "new", "metadata": {"n": -1}})
        assert client.count("n < 0") == 1
        assert [document.id for document in client.documents("n < 0")] == ["new"]
        client.delete("new")
        assert client.count("n < 0") == 0


def test_what_passes_is_deleted_some_at_a_time(gateway: Running) -> None:
    some = [{"id": f"x{n}", "text": "x", "metadata": {"x": n}} for n in range(30)]
    with Client(gateway.url) as client:
        client.add(some)
        gone = client.delete_matching({"x": {"$gte": 20}})
        assert (gone.deleted, gone.missing, gone.failed) == (10, 0, 0)
        assert {result.id for result in gone.results} == {f"x{n}" for n in range(20, 30)}
        assert client.count("x exists") == 20
        with pytest.raises(InvalidRequest, match="no condition on a field"):
            client.delete_matching({})

    async def ask() -> None:
        async with AsyncClient(gateway.url, read_your_writes=True) as client:
            assert (await client.delete_matching("x exists")).deleted == 20
            assert await client.count("x exists") == 0

    asyncio.run(ask())
    with Client(gateway.url) as client:
        assert client.count() == len(DOCUMENTS)
