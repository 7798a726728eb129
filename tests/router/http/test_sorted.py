"""Listings and hits in the order of fields: by brute force over what was written."""

from __future__ import annotations

import functools
import random
from collections.abc import Iterator, Sequence
from typing import Any

import httpx
import pytest

from bitsift.checked import LIST, checked_search
from bitsift.client import Client
from bitsift.errors import InvalidRequest
from bitsift.option_types import SORT_KEYS_MAX
from bitsift.router import listing
from bitsift.shard_worker.fields import segment
from bitsift.shard_worker.search import listing as in_shard
from bitsift.shard_worker.search import sorting
from bitsift.sorting import STRING_BYTES, place_of, sort_key_of
from bitsift.sorting import in_order as sorted_by
from tests.filters.brute_force import moment, passes, random_filter, random_metadata, scalars_at
from tests.served_documents import EVERY_CODE, Served, serving

IDS = [f"d{number}" for number in range(300)]
FIELDS = ["a", "b", "a.b", "metadata.id", "ä x", "year", "label", "absent"]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("sorted")) as running:
        running.write({key: labelled(random.Random(key)) for key in IDS})
        yield running


def labelled(chance: random.Random) -> dict[str, Any]:
    long = ["x" * 128, "x" * 127 + "ä", "x" * 200]
    label = chance.choice(["en", "en", "de", ["fr", "de"], 7, True, *long])
    year = chance.choice([{}, {"year": chance.randrange(2_000, 2_010)}])
    return random_metadata(chance) | {"label": label} | year


def place(value: Any) -> tuple[int, Any]:
    if isinstance(value, dict) or moment(value) is not None:
        return 4, moment(value)
    if isinstance(value, str):
        return 3, value.encode()[:128]
    return (1, value) if isinstance(value, bool) else (2, float(value))


def compared(one: dict[str, Any], other: dict[str, Any], sort: Sequence[str]) -> int:
    for text in sort:
        field, _, way = text.partition(":")
        keys = field.removeprefix("metadata.").split(".")
        best = max if way == "desc" else min
        a, b = (best(map(place, scalars_at(it, keys)), default=None) for it in (one, other))
        if a != b:
            if a is None or b is None:
                return 1 if a is None else -1
            return (1 if a > b else -1) * (-1 if way == "desc" else 1)
    return 0


def pages(served: Served, **body: Any) -> Iterator[dict[str, Any]]:
    cursor = None
    while True:
        asked = {**body, "cursor": cursor}
        answer = httpx.post(f"{served.running.url}/v1/documents/list", json=asked, timeout=60)
        assert answer.status_code == 200, answer.text
        page = answer.json()
        yield page
        cursor = page["cursor"]
        if cursor is None:
            return


def listed(served: Served, **body: Any) -> list[str]:
    return [document["id"] for page in pages(served, **body) for document in page["documents"]]


def random_order(chance: random.Random) -> list[str]:
    ways = ["", ":asc", ":desc"]
    fields = chance.sample(FIELDS, chance.choice([1, 1, 2, 3]))
    return [field + chance.choice(ways) for field in fields]


def check(served: Served, chance: random.Random, orders: int) -> None:
    """Each page is the next part of what brute force has, in one order of those that are equal."""
    unsorted = listed(served, limit=1_000)
    for _ in range(orders):
        sort = random_order(chance)
        written = chance.choice([{}, random_filter(chance), {"year": {"$gte": 2_003}}])
        order = functools.cmp_to_key(
            lambda one, other, sort=sort: compared(  # type: ignore[misc]
                served.documents[one], served.documents[other], sort
            )
        )
        rows = [key for key in unsorted if passes(written, key, served.documents[key])]
        expected = sorted(rows, key=order)
        limit = chance.choice([1, 7, 50, 1_000]) if len(rows) < 60 else chance.choice([23, 1_000])
        found = list(pages(served, filter=written, sort=sort, limit=limit))
        ids = [document["id"] for page in found for document in page["documents"]]
        assert ids == expected, (sort, written, limit)
        assert all(len(page["documents"]) <= limit for page in found)
        assert {page["count"] for page in found} == {len(expected)}


def test_pages_are_in_order_while_documents_come_and_go(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(6)
    for turn in range(4):
        check(served, chance, 5)
        served.write({key: labelled(chance) for key in chance.sample(IDS, 40)})
        served.delete(chance.sample(sorted(served.documents), 10))
        if turn == 2:  # fields of more values than this have no column from now on
            monkeypatch.setattr(segment, "COLUMN_BYTES_MIN", 40)
            monkeypatch.setattr(segment, "COLUMN_BYTES_PER_ROW_MAX", 0)
        for shard in served.shards:
            if turn != 1:
                shard.save_bits()
            if turn == 2:
                shard.compact()
        monkeypatch.setattr(in_shard, "WALKED_PER_ID", [20, 0, 1_000_000][turn % 3])


def test_a_page_has_so_many_bytes_at_most(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = listed(served, sort=["label:desc", "year"], limit=1_000)
    monkeypatch.setattr(listing, "PAGE_BYTES_MAX", 900)
    few = list(pages(served, sort=["label:desc", "year"], limit=1_000))
    assert len(few) > 20
    assert [document["id"] for page in few for document in page["documents"]] == whole


def test_what_is_not_changed_comes_once_while_others_are_written(served: Served) -> None:
    chance, seen = random.Random(2), list[str]()
    fixed = {f"f{number}": {"year": number % 7} for number in range(60)}
    served.write(fixed)
    for page in pages(served, sort=["year"], limit=15):
        seen += [document["id"] for document in page["documents"]]
        served.write({key: labelled(chance) for key in chance.sample(IDS, 20)})
        served.delete([key for key in chance.sample(IDS, 5) if key in served.documents])
    assert [key for key in seen if key in fixed] == sorted(
        [key for key in seen if key in fixed], key=lambda key: fixed[key]["year"]
    )
    assert sorted(key for key in seen if key in fixed) == sorted(fixed)
    served.delete(list(fixed))


def test_more_documents_than_a_shard_reads_are_not_sorted(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    for shard in served.shards:
        shard.save_bits()
    monkeypatch.setattr(sorting, "READ_MAX", 3)
    url = f"{served.running.url}/v1/documents/list"
    assert httpx.post(url, json={"sort": ["year"]}, timeout=60).status_code == 200
    answer = httpx.post(url, json={"sort": ["label"]}, timeout=60)
    assert answer.status_code == 422
    assert "documents of a shard would be read for label, at most 3 are" in answer.json()["detail"]


def test_hits_are_put_in_order_and_which_there_are_the_score_says(served: Served) -> None:
    chance = random.Random(8)
    best = served.search(top_k=40, **EVERY_CODE)["hits"]
    for _ in range(6):
        sort = random_order(chance)
        hits = served.search(top_k=40, sort=sort, include=["title"], **EVERY_CODE)["hits"]
        expected = sorted(
            (hit["id"] for hit in best),
            key=functools.cmp_to_key(
                lambda one, other, sort=sort: compared(  # type: ignore[misc]
                    served.documents[one], served.documents[other], sort
                )
            ),
        )
        assert [hit["id"] for hit in hits] == expected, sort
        assert all(hit["metadata"] is None and hit["text"] is None for hit in hits)
    for options in ({"group_by": "label"}, {"offset": 3}, {"explain": True, "include": ["vector"]}):
        some = served.search(top_k=10, **options)["hits"]
        ordered = served.search(top_k=10, sort=["year:desc"], **options)["hits"]
        assert {hit["id"] for hit in some} == {hit["id"] for hit in ordered}


def test_clients_list_in_order(served: Served) -> None:
    with Client(served.running.url) as client:
        years = [
            document.metadata.get("year")
            for document in client.documents(limit=40, sort=["year:desc"], include=["metadata"])
        ]
        page = client.page("year exists", limit=3, sort=["year"])
    there = [year for year in years if year is not None]
    assert there == sorted(there, reverse=True)
    assert years[len(there) :] == [None] * (len(years) - len(there))
    assert [document.metadata["year"] for document in page.documents] == sorted(there)[:3]


def test_a_cursor_is_of_its_order(served: Served) -> None:
    url = f"{served.running.url}/v1/documents/list"
    cursor = httpx.post(url, json={"sort": ["year"], "limit": 1}, timeout=60).json()["cursor"]
    for sort in ([], ["year:desc"], ["year", "label"]):
        answer = httpx.post(url, json={"sort": sort, "cursor": cursor}, timeout=60)
        assert answer.status_code == 422
        assert "it is of another filter or sort" in answer.json()["detail"]


def test_a_bad_order_is_refused_with_what_is_meant() -> None:
    for checked, base in ((checked_search, {"query": "a"}), (LIST.by_values, {})):
        checked({**base, "sort": ["a:b", "a:desc:asc", "year:desc"]})
        for sort, said in (
            (["a"] * (SORT_KEYS_MAX + 1), "sort: "),
            (["year:DESC"], "sort.0: .*write year, year:asc or year:desc"),
            (["id"], "sort.0: id is no field"),
            (["$x"], "sort.0: .*operators"),
            ([":desc"], "sort.0: a field has a name"),
            ([""], "sort.0: "),
            ("year", "sort: "),
        ):
            with pytest.raises(InvalidRequest, match=said):
                checked({**base, "sort": sort})


def test_strings_are_sorted_by_so_many_bytes() -> None:
    same = ["x" * STRING_BYTES + end for end in ("b", "a", "")]
    assert len({place_of(it) for it in same}) == 1
    assert place_of("x" * (STRING_BYTES - 1)) < place_of(same[0])
    for way in ("asc", "desc"):
        assert sorted_by(same, [sort_key_of(f"a:{way}")], lambda it: {"a": it}) == same
