"""A search with a filter over HTTP, several shards, live writes: by brute force over documents."""

from __future__ import annotations

import concurrent.futures
import random
from collections.abc import Iterator
from dataclasses import dataclass
from dataclasses import field as attribute
from typing import Any

import httpx
import numpy as np
import pytest

from bitsift.router.shards.local import LocalLink
from bitsift.shard_worker.shard import Shard
from tests.fakes import make_service, make_shards, make_writer
from tests.filters.brute_force import passes, random_filter, random_metadata
from tests.gateways import Running

DIMENSION, SHARDS, IDS = 64, 3, 240
ALL = 1_000
MODES = ("auto", "exact", "approximate", "exhaustive")
EVERY_CODE = {"candidates": 1_000}
"""The funnel is told to read so many codes that its ranking is that of all."""


@dataclass
class Served:
    """A gateway over shards, and the metadata of what was written to it, by id."""

    running: Running
    shards: list[Shard]
    documents: dict[str, dict[str, Any]] = attribute(default_factory=dict)

    def write(self, documents: dict[str, dict[str, Any]]) -> None:
        given = [
            {"id": key, "text": f"text {key}", "metadata": metadata}
            for key, metadata in documents.items()
        ]
        self._post("/v1/documents", {"documents": given})
        self.documents |= documents

    def delete(self, ids: list[str]) -> None:
        self._post("/v1/documents/delete", {"ids": ids})
        for key in ids:
            self.documents.pop(key, None)

    def search(self, written: Any = None, **options: Any) -> dict[str, Any]:
        body = {"query": "a question", "filter": written, "require_complete": True, **options}
        answer = self._post("/v1/search", body)
        assert not answer["partial"]
        return answer

    def ids(self, written: Any = None, **options: Any) -> list[str]:
        return [hit["id"] for hit in self.search(written, **options)["hits"]]

    def expected(self, written: dict[str, Any]) -> list[str]:
        """What passes, in the order of all documents' scores."""
        ranking = self.ids(mode="exhaustive", top_k=ALL)
        assert set(ranking) == self.documents.keys()
        return [key for key in ranking if passes(written, key, self.documents[key])]

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        answer = httpx.post(f"{self.running.url}{path}", json=body, timeout=60)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    nothing = np.empty((0, DIMENSION), dtype=np.float32)
    shards, calibration = make_shards(
        tmp_path_factory.mktemp("filtered"), nothing, DIMENSION, SHARDS
    )
    links = [LocalLink(shard) for shard in shards]
    running = Running(make_service(links, calibration), make_writer(links, calibration))
    yield Served(running, shards)
    running.stop()
    for shard in shards:
        shard.close()


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
        (5, "filter: Input should be a valid string"),
        ([{"a": 1}], "filter: Input should be a valid string"),
        ({"a": {"$in": list(range(1_001))}}, "filter: a.$in: 1,001 values, at most 1,000"),
    ],
)  # fmt: skip
def test_a_mistake_is_a_422_that_says_where(served: Served, written: Any, said: str) -> None:
    body = {"query": "a", "filter": written}
    answer = httpx.post(f"{served.running.url}/v1/search", json=body, timeout=60)
    assert answer.status_code == 422
    assert said in answer.json()["detail"]
