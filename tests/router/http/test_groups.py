"""group_by over HTTP, several shards, live writes: by brute force over the whole ranking."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from bitsift.checked import checked_search
from bitsift.errors import InvalidRequest
from bitsift.filters.tree import sort_key
from bitsift.filters.values import values_at
from bitsift.option_types import FIELD_CHARACTERS_MAX
from bitsift.options import GROUP_SIZE_MAX, GROUPED_DEPTH_MAX
from bitsift.router.service import SearchService
from tests.served_documents import ALL, EVERY_CODE, Served, serving

VALUES = ["a", "b", "b", "b", "b", "c", 1, 1.0, True, "1", "2026-01-31", {"$date": "2026-01-31"}]
IDS = [f"d{number}" for number in range(400)]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("groups")) as running:
        running.write({key: labelled(random.Random(key)) for key in IDS})
        yield running


def labelled(chance: random.Random) -> dict[str, Any]:
    """Few values, one of which most documents have; some have none, some several."""
    if (kind := chance.random()) < 0.02:
        return {"other": 1}
    if kind < 0.15:
        return {"by": {"name": chance.sample(VALUES, 2)}, "number": chance.randrange(9)}
    return {"by": {"name": chance.choice(VALUES)}, "number": chance.randrange(9)}


def expected(served: Served, ranking: list[str], path: str, size: int) -> list[str]:
    counts: Counter[Any] = Counter()
    found = []
    for key in ranking:
        values = {sort_key(value) for value in values_at(served.documents[key], path) or ()}
        if all(counts[value] < size for value in values):
            counts.update(values)
            found.append(key)
    return found


def test_the_best_of_each_value_are_those_of_brute_force(served: Served) -> None:
    chance = random.Random(2)
    for turn in range(4):
        for mode in ("exhaustive", "exact", "auto"):
            written = chance.choice([None, {"number": {"$lt": 7}}])
            ranking = served.ids(mode="exhaustive", top_k=ALL)
            if written is not None:
                ranking = served.expected(written)
            exclude = chance.sample(ranking, 3)
            ranking = [key for key in ranking if key not in exclude]
            for size in (1, 2, 7):
                best = expected(served, ranking, "by.name", size)
                options: dict[str, Any] = {
                    "group_by": "by.name",
                    "group_size": size,
                    "mode": mode,
                    **EVERY_CODE,
                }
                options["exclude"] = exclude
                assert served.ids(written, top_k=100, **options) == best[:100]
                assert served.ids(written, top_k=4, **options) == best[:4]
                assert served.ids(written, top_k=5, offset=3, **options) == best[3:8]
        served.write({key: labelled(chance) for key in chance.sample(IDS, 60)})
        served.delete(chance.sample(sorted(served.documents), 20))
        for shard in served.shards:
            shard.save_bits()
            if turn == 1:
                shard.compact()


def test_a_value_that_all_near_documents_have_hides_no_other(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whose hits come in rounds: each leaves out the values that are full."""
    ranking = served.ids(mode="exhaustive", top_k=ALL)
    near = {key: {"by": {"name": f"v{place // 120}"}} for place, key in enumerate(ranking)}
    served.write(near)
    rounds = list[int]()
    find = SearchService._find

    async def noted(service: SearchService, options: Any, *rest: Any, **more: Any) -> Any:
        rounds.append(options.top_k)
        return await find(service, options, *rest, **more)

    monkeypatch.setattr(SearchService, "_find", noted)
    ranking = served.ids(mode="exhaustive", top_k=ALL)
    best = expected(served, ranking, "by.name", 1)
    rounds.clear()
    assert served.ids(group_by="by.name", **EVERY_CODE) == best
    assert len(best) == len({metadata["by"]["name"] for metadata in near.values()})
    assert len(rounds) > 1


def test_hits_are_whole_whatever_is_included(served: Served) -> None:
    for include in ([], ["title"], ["text", "vector"], ["metadata"]):
        hits = served.search(group_by="number", include=include)["hits"]
        for hit in hits:
            assert (hit["metadata"] is not None) is ("metadata" in include)
            assert (hit["vector"] is not None) is ("vector" in include)
            assert hit["text"] == (f"text {hit['id']}" if "text" in include else None)
    assert served.running.service.memory.held_bytes == 0
    parameters: Any = {"q": "a question", "group_by": "number", "candidates": 1_000}
    answer = httpx.get(f"{served.running.url}/v1/search", params=parameters, timeout=60)
    found = [hit["id"] for hit in answer.json()["hits"]]
    assert found == served.ids(group_by="number", **EVERY_CODE)


def test_so_many_hits_and_groups_of_such_a_size_at_most() -> None:
    base = {"query": "a", "group_by": "x"}
    checked_search({**base, "top_k": GROUPED_DEPTH_MAX, "group_size": GROUP_SIZE_MAX})
    checked_search({"query": "a", "group_by": "x" * FIELD_CHARACTERS_MAX})
    for beyond, said in (
        ({**base, "top_k": GROUPED_DEPTH_MAX, "offset": 1}, "with group_by at most 100"),
        ({**base, "group_size": GROUP_SIZE_MAX + 1}, "group_size: "),
        ({**base, "group_size": 0}, "group_size: "),
        ({"query": "a", "group_by": "x" * (FIELD_CHARACTERS_MAX + 1)}, "group_by: "),
        ({"query": "a", "group_by": "$x"}, "group_by: .*operators"),
        ({"query": "a", "group_by": ""}, "group_by: "),
    ):
        with pytest.raises(InvalidRequest, match=said):
            checked_search(beyond)
