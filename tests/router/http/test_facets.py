"""Facets over HTTP, several shards, live writes: by brute force over what was written."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from bitsift.checked import COUNT, checked_search
from bitsift.client import AsyncClient, Client
from bitsift.cluster.cli import main as cli
from bitsift.errors import InvalidRequest, ShardUnavailable
from bitsift.option_types import FACET_LIMIT_MAX, FACETS_MAX
from bitsift.router import facets as module
from bitsift.shard_worker.fields import segment
from bitsift.shard_worker.search import facets
from bitsift.shard_worker.shard import Shard
from tests.filters.brute_force import (
    moment,
    passes,
    random_filter,
    random_metadata,
    scalars_at,
)
from tests.served_documents import Served, serving

IDS = [f"d{number}" for number in range(300)]
FIELDS = ["a", "b", "a.b", "metadata.id", "ä x", "label", "absent"]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("facets")) as running:
        running.write({key: labelled(random.Random(key)) for key in IDS})
        yield running


def labelled(chance: random.Random) -> dict[str, Any]:
    label = chance.choice(["en", "en", "de", ["fr", "de", "fr"], 7, "x" * 200])
    return random_metadata(chance) | {"label": label}


def key_of(value: Any) -> tuple[int, Any]:
    """Types are apart, in this order; instants are equal however they are written."""
    if isinstance(value, dict):
        found = moment(value)
        assert found is not None
        return 4, found
    kinds = {bool: 1, int: 2, float: 2, str: 3}
    return kinds[type(value)], value


def counted(served: Served, field: str, written: Any) -> list[tuple[tuple[int, Any], int]]:
    """Of all values, most frequent first, equal counts by value."""
    counts: Counter[tuple[int, Any]] = Counter()
    for key, held in served.documents.items():
        if written is None or passes(written, key, held):
            values = list(scalars_at(held, field.removeprefix("metadata.").split(".")))
            said = {moment(value) for value in values if isinstance(value, str)}
            alone = (v for v in values if not isinstance(v, dict) or moment(v) not in said)
            counts.update({key_of(value) for value in alone})
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def plain(found: list[dict[str, Any]]) -> list[tuple[tuple[int, Any], int]]:
    assert all(facet["relation"] == "eq" for facet in found)
    return [(key_of(facet["value"]), facet["count"]) for facet in found]


def count(served: Served, **body: Any) -> dict[str, Any]:
    answer = httpx.post(f"{served.running.url}/v1/documents/count", json=body, timeout=60)
    found: dict[str, Any] = answer.raise_for_status().json()
    return found


def test_values_are_counted_as_by_brute_force(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(4)
    for turn in range(5):
        for written in (None, random_filter(chance), random_filter(chance)):
            found = count(served, filter=written, facets=FIELDS, facet_limit=1_000)["facets"]
            assert found.keys() == set(FIELDS)
            options = {"facets": FIELDS, "facet_limit": 3, "top_k": 1}
            searched = served.search(written, **options)["facets"]
            for field in FIELDS:
                expected = counted(served, field, written)
                assert plain(found[field]) == expected, (field, written)
                assert plain(searched[field]) == expected[:3]
        served.write({key: labelled(chance) for key in chance.sample(IDS, 50)})
        served.delete(chance.sample(sorted(served.documents), 10))
        if turn == 2:  # fields of more values than this have no column from now on
            monkeypatch.setattr(segment, "COLUMN_BYTES_MIN", 40)
            monkeypatch.setattr(segment, "COLUMN_BYTES_PER_ROW_MAX", 0)
        for shard in served.shards:
            if turn != 1:
                shard.save_bits()  # else what was written is in no segment
            if turn == 3:
                shard.compact()


def test_options_that_choose_among_what_passes_change_no_facet(served: Served) -> None:
    whole = served.search(facets=["label"])["facets"]
    for options in (
        {"min_score": 0.9}, {"top_k": 1, "offset": 5}, {"exclude": IDS[:9]},
        {"group_by": "label"}, {"like": [IDS[0]]},
    ):  # fmt: skip
        like = {"like": [next(iter(served.documents))]} if "like" in options else {}
        assert served.search(facets=["label"], **{**options, **like})["facets"] == whole
    assert served.search()["facets"] is None
    assert count(served) == {"count": len(served.documents), "facets": None}


def test_a_value_that_is_rare_in_a_shard_is_counted_there_too(served: Served) -> None:
    """Of 100 values one document has each in a shard; one of them is frequent in another."""
    written = {}
    for place in range(len(served.shards)):
        ids = [f"s{n}" for n in range(2_000) if owner(served, f"s{n}") == place][:120]
        for at, key in enumerate(ids):
            often = place == 0 and at % 2
            written[key] = {"rare": "zz" if often or at == 50 else f"{place} {at}"}
        assert len(ids) == 120
    served.write(written)
    best = count(served, facets=["rare"], facet_limit=1)["facets"]["rare"]
    served.delete(list(written))
    expected = sum(metadata["rare"] == "zz" for metadata in written.values())
    assert best == [{"value": "zz", "count": expected, "relation": "eq"}]


def owner(served: Served, key: str) -> int:
    (found,) = served.running.service.shards._placement.owners(key)
    return found


def test_more_values_than_a_shard_counts_are_at_least_so_many(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = dict(counted(served, "label", None))
    for limit, constant in ((facets, "VALUES_MAX"), (facets, "READ_MAX")):
        with monkeypatch.context() as patched:
            patched.setattr(limit, constant, 1)
            found = count(served, facets=["label"])["facets"]["label"]
        assert found
        for facet in found:
            assert facet["relation"] == "gte"
            assert 0 < facet["count"] <= exact[key_of(facet["value"])]
    monkeypatch.setattr(module, "MERGED_MAX", 0)  # in a thread
    assert plain(count(served, facets=["label"])["facets"]["label"]) == list(exact.items())


def test_a_shard_that_does_not_count_makes_it_at_least(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = Shard.listed

    def two_of_three(shard: Shard, listing: Any) -> Any:
        if shard.identity.shard == 1:
            raise ShardUnavailable("gone")
        return listed(shard, listing)

    monkeypatch.setattr(Shard, "listed", two_of_three)
    with Client(served.running.url) as client:
        answer = client.search("a", facets=["label"])
        assert answer.partial
        assert [failure.shard for failure in answer.coverage.failures] == [1]
        assert answer.facets is not None
        assert {facet.relation for facet in answer.facets["label"]} == {"gte"}
        with pytest.raises(ShardUnavailable, match="2 of 3 shards answered completely"):
            client.facets(["label"])


def test_both_clients_and_the_command_line_have_them(served: Served) -> None:
    expected = [count for _, count in counted(served, "label", None)]
    with Client(served.running.url) as client:
        found = client.facets(["label"])
        assert [facet.count for facet in found["label"]] == expected
        assert len(client.facets(["label"], {"label": "de"}, limit=2)["label"]) == 2

    async def ask() -> None:
        async with AsyncClient(served.running.url) as client:
            assert await client.facets(["label"]) == found

    asyncio.run(ask())
    run = CliRunner().invoke(
        cli.app, ["search", "a", "--facets", "label", "--url", served.running.url]
    )
    first = found["label"][0]
    assert f"label: {first.value} ({first.count})" in run.output


def test_so_many_facets_of_so_many_values_are_asked_for_at_most() -> None:
    names = [f"f{number}" for number in range(FACETS_MAX)]
    for checked, base in ((checked_search, {"query": "a"}), (COUNT.by_values, {})):
        checked({**base, "facets": names, "facet_limit": FACET_LIMIT_MAX})
        for beyond, said in (
            ({"facets": [*names, "more"]}, "facets: "),
            ({"facets": ["x" * 513]}, "facets.0: "),
            ({"facets": ["$x"]}, "facets.0: .*operators"),
            ({"facets": ["id"]}, "facets.0: id is another in each document"),
            ({"facet_limit": FACET_LIMIT_MAX + 1}, "facet_limit: "),
            ({"facet_limit": 0}, "facet_limit: "),
        ):
            with pytest.raises(InvalidRequest, match=said):
                checked({**base, **beyond})
    with pytest.raises(InvalidRequest, match="2 queries with 6 facets each"):
        checked_search({"queries": ["a", "b"], "facets": names[:6]})


def test_the_facets_of_a_batch_are_counted_together(served: Served) -> None:
    searches = [{"query": "a", "facets": [f"f{n}" for n in range(6)]}] * 2
    url = f"{served.running.url}/v1/search/batch"
    answer = httpx.post(url, json={"searches": searches}, timeout=60)
    assert answer.status_code == 422
    assert "12 facets of all searches together are more than 10" in answer.json()["detail"]
