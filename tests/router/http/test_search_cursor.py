"""Pages of a search behind cursors: each hit once, whatever is written meanwhile."""

from __future__ import annotations

import base64
import random
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from bitsift.checked import checked_search
from bitsift.client import Client
from bitsift.errors import InvalidRequest, ShardUnavailable
from bitsift.options import CURSOR_CHARACTERS_MAX, DEPTH_MAX
from bitsift.router import paging
from bitsift.router.paging import digest
from bitsift.shard_worker.shard import Shard
from tests.served_documents import ALL, EVERY_CODE, Served, serving

IDS = [f"d{number}" for number in range(240)]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("cursors")) as running:
        running.write({key: {"n": place} for place, key in enumerate(IDS)})
        yield running


def walk(served: Served, **options: Any) -> Iterator[list[str]]:
    cursor = None
    while True:
        answer = served.search(cursor=cursor, **options)
        yield [hit["id"] for hit in answer["hits"]]
        cursor = answer["cursor"]
        if cursor is None:
            return


@pytest.mark.parametrize("options", [{"mode": "exhaustive"}, EVERY_CODE])
def test_pages_are_the_ranking_cut_into_pieces(served: Served, options: dict[str, Any]) -> None:
    ranking = served.ids(mode="exhaustive", top_k=ALL)
    pages = list(walk(served, top_k=37, **options))
    assert [key for page in pages for key in page] == ranking
    assert {len(page) for page in pages[:-1]} == {37}


def test_where_deeper_pages_read_more_no_hit_comes_twice_and_none_is_left_out(
    served: Served,
) -> None:
    """Of those that the last page's search finds, in its own order."""
    for mode in ("auto", "exact", "approximate"):
        seen = list[str]()
        for page in walk(served, top_k=11, mode=mode, min_score=-0.05):
            deep = served.ids(top_k=len(seen) + 11, mode=mode, min_score=-0.05)
            assert page == [key for key in deep if key not in seen][:11]
            seen += page
        assert len(seen) == len(set(seen)) > 50


def test_a_hit_never_comes_twice_however_much_is_written(served: Served) -> None:
    chance, seen = random.Random(3), list[str]()
    stays = set(IDS[:60])
    for page in walk(served, top_k=9, **EVERY_CODE):
        seen += page
        changed = chance.sample(IDS[60:], 20)
        served.write({key: {"n": -1} for key in changed})
        served.delete(chance.sample(IDS[60:], 5))
    assert len(seen) == len(set(seen))
    assert stays <= set(seen)
    served.write({key: {"n": place} for place, key in enumerate(IDS)})


def test_pages_may_begin_behind_an_offset_and_have_other_sizes(served: Served) -> None:
    ranking = served.ids(mode="exhaustive", top_k=ALL)
    first = served.search(offset=5, top_k=4, **EVERY_CODE)
    assert [hit["id"] for hit in first["hits"]] == ranking[5:9]
    with Client(served.running.url) as client:
        options: dict[str, Any] = {"cursor": first["cursor"], "include": [], "explain": True}
        answer = client.search("a question", top_k=50, **options, **EVERY_CODE)
        assert [hit.id for hit in answer.hits] == ranking[9:59]
        (many,) = client.search_many(["a question"], cursor=answer.cursor, **EVERY_CODE)
        assert [hit.id for hit in many.hits] == ranking[59:69]


def test_the_last_page_has_no_cursor(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    assert served.search(top_k=ALL, **EVERY_CODE)["cursor"] is None
    assert served.search(top_k=3, filter=None, min_score=1.0)["cursor"] is None
    assert served.search(group_by="n", top_k=3)["cursor"] is None
    monkeypatch.setattr(paging, "DEPTH_MAX", 25)
    sizes = [len(page) for page in walk(served, top_k=10, **EVERY_CODE)]
    assert sizes == [10, 10, 5]


def test_a_page_without_a_shard_leads_on(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the shard has comes on a later page."""
    answers = Shard.answers

    def two_of_three(shard: Shard, queries: Any) -> Any:
        if shard.identity.shard == 1:
            raise ShardUnavailable("gone")
        return answers(shard, queries)

    monkeypatch.setattr(Shard, "answers", two_of_three)
    with Client(served.running.url) as client:
        first = client.search("a question", top_k=200, **EVERY_CODE)
        assert first.partial
        assert len(first.hits) < 200
        monkeypatch.undo()
        rest = client.search("a question", top_k=200, cursor=first.cursor, **EVERY_CODE)
    assert not rest.partial
    assert {hit.id for hit in (*first.hits, *rest.hits)} == set(IDS)
    assert len(first.hits) + len(rest.hits) == len(IDS)


def refused(served: Served, **body: Any) -> str:
    url = f"{served.running.url}/v1/search"
    answer = httpx.post(url, json={"query": "a question", **body}, timeout=60)
    assert answer.status_code == 422
    detail: str = answer.json()["detail"]
    return detail


def test_a_cursor_is_of_its_search_and_unchanged(served: Served) -> None:
    cursor = served.search(top_k=4)["cursor"]
    assert served.search(top_k=2, cursor=cursor, facets=["n"], timeout_ms=9_000)["hits"]
    for other in (
        {"query": "another"}, {"filter": {"n": 1}}, {"mode": "exact"}, {"min_score": 0.0},
        {"candidates": 7}, {"exclude": ["d1"]}, {"like": ["d1"]}, {"nprobe": 1},
    ):  # fmt: skip
        assert "it is of another search" in refused(served, **{"cursor": cursor, **other})
    data = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
    for changed in (
        "", "ä", "x" * CURSOR_CHARACTERS_MAX, cursor[:-1], cursor[:-8], cursor + "AAAA",
        *(changed_at(data, place) for place in range(len(data))),
    ):  # fmt: skip
        assert "this is no cursor of an earlier page" in refused(served, cursor=changed)
    url = f"{served.running.url}/v1/documents/list"
    listing = httpx.post(url, json={"limit": 1}, timeout=60).json()["cursor"]
    assert "this is no cursor" in refused(served, cursor=listing)


def changed_at(data: bytes, place: int) -> str:
    changed = bytearray(data)
    changed[place] ^= 1
    return base64.urlsafe_b64encode(changed).decode().rstrip("=")


def test_a_cursor_goes_without_offset_and_groups_and_counts_among_the_hits() -> None:
    for other in ({"offset": 1}, {"group_by": "n"}):
        with pytest.raises(InvalidRequest, match="a cursor says where its page begins"):
            checked_search({"query": "a", "cursor": "x", **other})
    with pytest.raises(InvalidRequest, match="cursor: String should have at most 8192"):
        checked_search({"query": "a", "cursor": "x" * (CURSOR_CHARACTERS_MAX + 1)})
    cursor = "x" * (8 * 990)
    checked_search({"queries": ["a"] * 10, "cursor": cursor})
    with pytest.raises(InvalidRequest, match="more than 10,000 hits"):
        checked_search({"queries": ["a"] * 10, "cursor": cursor, "top_k": 11})
    largest = 1 + len(digest("")) * (DEPTH_MAX - 1) + 8 + 4
    assert len(base64.b64encode(bytes(largest))) <= CURSOR_CHARACTERS_MAX
