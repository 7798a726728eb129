"""How many documents pass the filter of a search, over HTTP and several shards: by brute force."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
from typer.testing import CliRunner

from bitsift.client import Client
from bitsift.cluster.cli import main as cli
from bitsift.errors import ShardUnavailable
from bitsift.filters.forms import PASSES_ALL, canonical
from bitsift.shard_worker.search import filtered
from bitsift.shard_worker.shard import Shard
from tests.filters.brute_force import passes, random_filter, random_metadata
from tests.served_documents import Served, serving

IDS = [f"d{number}" for number in range(300)]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("totals")) as running:
        running.write({key: random_metadata(random.Random(key)) for key in IDS})
        yield running


def passing(served: Served, written: dict[str, Any]) -> int:
    return sum(passes(written, key, metadata) for key, metadata in served.documents.items())


def test_the_total_is_that_of_brute_force_whatever_is_asked_for(served: Served) -> None:
    chance = random.Random(1)
    for _ in range(3):
        for mode in ("auto", "exact", "approximate", "exhaustive"):
            written = random_filter(chance)
            if canonical(written) == PASSES_ALL:  # that is no filter
                written = {"none": None}
            expected = {"value": passing(served, written), "relation": "eq"}
            assert served.search(written, mode=mode)["total"] == expected, written
            options = {"exclude": IDS[:50], "min_score": 0.5, "top_k": 1, "offset": 3}
            assert served.search(written, mode=mode, **options)["total"] == expected
            grouped = served.search({"n": {"$exists": False}}, group_by="tags", mode=mode)
            assert grouped["total"]["value"] == passing(served, {"n": {"$exists": False}})
        served.write({key: random_metadata(chance) for key in chance.sample(IDS, 50)})
        served.delete(chance.sample(sorted(served.documents), 20))
        for shard in served.shards:
            shard.save_bits()
    assert served.search()["total"] is None
    assert served.search(group_by="tags")["total"] is None
    assert served.search({"none": 1})["total"] == {"value": 0, "relation": "eq"}


def test_it_is_a_lower_bound_where_documents_in_doubt_were_not_read(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A string that is too long for the index: the nearest documents are read, and no others."""
    long = {key: {"long": "x" * 200 + str(place % 2)} for place, key in enumerate(IDS)}
    served.write(long)
    for shard in served.shards:
        shard.save_bits()
    monkeypatch.setattr(filtered, "SETTLED_MAX", 0)
    written = {"long": "x" * 200 + "1"}
    total = served.search(written, candidates=1, top_k=1)["total"]
    assert total["relation"] == "gte"
    assert 1 <= total["value"] < 150
    whole = {"value": 150, "relation": "eq"}
    assert served.search(written, mode="exhaustive")["total"] == whole
    assert served.search(written, candidates=1, top_k=1)["total"] == whole  # it is known now


def test_it_is_a_lower_bound_where_a_shard_does_not_answer(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = served.search({"none": None})["total"]
    assert whole == {"value": len(served.documents), "relation": "eq"}
    answers = Shard.answers

    def two_of_three(shard: Shard, queries: Any) -> Any:
        if shard.identity.shard == 1:
            raise ShardUnavailable("gone")
        return answers(shard, queries)

    monkeypatch.setattr(Shard, "answers", two_of_three)
    with Client(served.running.url) as client:
        total = client.search("a", filter={"none": None}).total
    assert total is not None
    assert total.relation == "gte"
    assert 0 < total.value < whole["value"]
    monkeypatch.undo()
    arguments = ["search", "a", "--filter", "not none exists", "--url", served.running.url]
    run = CliRunner().invoke(cli.app, arguments)
    assert f"{len(served.documents):,} pass the filter" in run.output
