"""Ids of ``exclude`` over HTTP, several shards, live writes: by brute force."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from bitsift.checked import checked_search
from bitsift.errors import BitsiftError, InvalidRequest
from bitsift.options import EXCLUDE_MAX, HITS_MAX, ID_CHARACTERS_MAX, SearchOptions
from bitsift.router.shards.local import LocalLink
from bitsift.shard_worker.types import Candidates, Query
from tests.fakes import HashEncoder, make_service, make_shards
from tests.served_documents import ALL, DIMENSION, EVERY_CODE, Served, serving

MODES = ("auto", "exact", "approximate", "exhaustive")
IDS = [f"d{number}" for number in range(300)]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("excluded")) as running:
        running.write({key: {"number": place} for place, key in enumerate(IDS)})
        yield running


def check(served: Served, chance: random.Random) -> None:
    """All but what is excluded, in the order of all documents, in each mode and on a page."""
    ranking = served.ids(mode="exhaustive", top_k=ALL)
    for count in (1, 30, len(ranking)):
        nearest = ranking[: count // 2]
        exclude = [*nearest, *chance.sample(ranking, count - len(nearest)), "none"]
        written = chance.choice([None, {"number": {"$lt": 200}}])
        passing = set(served.documents if written is None else served.expected(written))
        expected = [key for key in ranking if key in passing - set(exclude)]
        for mode in MODES:
            options = {"mode": mode, "exclude": exclude, **EVERY_CODE}
            assert served.ids(written, top_k=ALL, **options) == expected, (mode, count)
            assert served.ids(written, offset=3, top_k=5, **options) == expected[3:8]
        adaptive = served.ids(written, exclude=exclude, top_k=10)
        assert len(adaptive) == min(10, len(expected))
        assert set(adaptive) <= set(expected)


def test_all_but_what_is_excluded_is_found_while_documents_change_and_go(served: Served) -> None:
    chance = random.Random(3)
    check(served, chance)
    for step in range(3):
        served.write({key: {"number": step} for key in chance.sample(IDS, 40)})
        served.delete(chance.sample(sorted(served.documents), 10))
        for shard in served.shards:
            shard.save_bits()  # ids that waited are merged into the id map
            if step == 1:
                shard.train()
            if step == 2:
                shard.compact()
        check(served, chance)


class Racing(LocalLink):
    """A shard whose id map does not lead to a row any more that its bits still show."""

    async def search(
        self, queries: Sequence[Query], timeout_s: float
    ) -> Sequence[Candidates | BitsiftError]:
        unaware = [replace(it, options=replace(it.options, exclude=())) for it in queries]
        return await super().search(unaware, timeout_s)


def test_a_row_that_was_replaced_during_the_search_is_no_hit_either(tmp_path: Path) -> None:
    units = HashEncoder(DIMENSION).encode_documents([f"text {number}" for number in range(40)])
    shards, calibration = make_shards(tmp_path, units, DIMENSION, 2)
    service = make_service([Racing(shard) for shard in shards], calibration)

    def ids(*exclude: str) -> list[str]:
        found = asyncio.run(service.search(SearchOptions("a", top_k=5, exclude=exclude)))
        return [hit.id for hit in found.hits]

    first, second, *others = ids()
    assert first not in ids(first)
    assert ids(second)[:4] == [first, *others]
    for shard in shards:
        shard.close()


def test_exclude_may_be_said_in_a_url(served: Served) -> None:
    first, second, third = served.ids(top_k=3, **EVERY_CODE)
    parameters: Any = {
        "q": "a question",
        "exclude": [first, third],
        "candidates": 1_000,
        "top_k": 1,
    }
    answer = httpx.get(f"{served.running.url}/v1/search", params=parameters, timeout=60)
    assert [hit["id"] for hit in answer.json()["hits"]] == [second]


def test_so_many_ids_of_such_length_are_excluded_at_most() -> None:
    ids = [str(number) for number in range(EXCLUDE_MAX)]
    checked_search({"query": "a", "exclude": ids})
    checked_search({"query": "a", "exclude": ["x" * ID_CHARACTERS_MAX]})
    checked_search({"queries": ["a"] * (HITS_MAX // EXCLUDE_MAX), "exclude": ids})
    for beyond, said in (
        ({"query": "a", "exclude": [*ids, "one"]}, "exclude: .*1000"),
        ({"query": "a", "exclude": ["x" * (ID_CHARACTERS_MAX + 1)]}, "exclude.0: .*8192"),
        ({"query": "a", "exclude": [""]}, "exclude.0: "),
        ({"queries": ["a"] * (HITS_MAX // EXCLUDE_MAX + 1), "exclude": ids}, "exclude 1,000 ids"),
    ):
        with pytest.raises(InvalidRequest, match=said):
            checked_search(beyond)
