"""A search with a filter over HTTP, several shards, live writes: by brute force over documents."""

from __future__ import annotations

import concurrent.futures
import random
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.filters.brute_force import random_filter, random_metadata
from tests.served_documents import ALL, EVERY_CODE, SHARDS, Served, serving

IDS = 240
MODES = ("auto", "exact", "approximate", "exhaustive")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("filtered")) as running:
        yield running


def some_documents(chance: random.Random, count: int) -> dict[str, dict[str, Any]]:
    found = {}
    for key in chance.sample(range(IDS), count):
        found[str(key)] = random_metadata(chance) | {"number": key}
    return found


def check(served: Served, chance: random.Random, filters: int) -> None:
    """Random filters find in each mode, on each page, what brute force finds."""
    for _ in range(filters):
        written = random_filter(chance)
        expected = served.expected(written)
        for mode in MODES:
            options = {"mode": mode, **EVERY_CODE}
            assert served.ids(written, top_k=ALL, **options) == expected, (mode, written)
        page = {"mode": chance.choice(MODES), "offset": 5, "top_k": 7, **EVERY_CODE}
        assert served.ids(written, **page) == expected[5:12], written
        adaptive = served.ids(written, top_k=10)
        assert len(adaptive) == min(10, len(expected)), written
        assert set(adaptive) <= set(expected), written


def test_answers_are_those_of_brute_force_while_documents_come_change_and_go(
    served: Served,
) -> None:
    chance = random.Random(7)
    for step in range(6):
        served.write(some_documents(chance, 60))
        served.delete(chance.sample(sorted(served.documents), 15))
        check(served, chance, 2)
        for shard in served.shards:
            shard.save_bits()  # the field index is sealed: rows that come later are in no segment
            if step == 3:
                shard.train()
            if step == 4:
                shard.compact()
        check(served, chance, 2)
    assert all(shard._current.fields.segments for shard in served.shards)
    assert all(shard.status().lists for shard in served.shards)


def test_explain_names_each_shards_way_and_how_many_pass(served: Served) -> None:
    served.write(some_documents(random.Random(1), 100))
    written = {"number": {"$lt": 60}}
    passing = len(served.expected(written))
    answer = served.search(written, explain=True)
    assert [stage["shard"] for stage in answer["filter"]] == list(range(SHARDS))
    assert sum(stage["matching"] for stage in answer["filter"]) == passing
    assert {stage["plan"] for stage in answer["filter"]} <= {
        "none", "direct", "gather", "test", "scan", "probe",
    }  # fmt: skip
    assert served.search(written)["filter"] is None
    assert served.search(explain=True)["filter"] is None


def test_a_filter_of_a_url_is_a_line_or_json(served: Served) -> None:
    served.write({"5": {"number": 5, "lang": "de"}, "6": {"number": 6, "lang": "en"}})
    for written in ("number in [5, 6] and lang = de", '{"number": {"$in": [5, 6]}, "lang": "de"}'):
        parameters = {"q": "a question", "filter": written}
        answer = httpx.get(f"{served.running.url}/v1/search", params=parameters, timeout=60)
        assert [hit["id"] for hit in answer.json()["hits"]] == ["5"]


def test_queries_with_other_filters_share_no_pass(served: Served) -> None:
    """Sent at once, they may arrive in one call of a shard."""
    served.write({str(key): {"number": key} for key in range(20)})
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda key: served.ids({"number": key % 20}), range(80)))
    assert found == [[str(key % 20)] for key in range(80)]


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ({"year": {"$gtee": 5}}, "year: there is no such operator as '$gtee'; did you mean $gte?"),
        ("year => 5", "filter: character 6: expected =, !=,"),
        ({"year": {"$gt": None}}, "filter: year.$gt: takes a number, a string or a $date"),
        (5, "filter: takes an object or a text, not 5"),
        ([{"a": 1}], "filter: takes an object or a text, not "),
        ({"a": {"$in": list(range(1_001))}}, "filter: a.$in: 1,001 values, at most 1,000"),
    ],
)  # fmt: skip
def test_a_mistake_is_a_422_that_says_where(served: Served, written: Any, said: str) -> None:
    body = {"query": "a", "filter": written}
    answer = httpx.post(f"{served.running.url}/v1/search", json=body, timeout=60)
    assert answer.status_code == 422
    assert said in answer.json()["detail"]
