"""Documents are counted and listed over HTTP, by brute force over what was written."""

from __future__ import annotations

import base64
import contextlib
import random
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from bitsift.errors import Overloaded, Unavailable
from bitsift.listing import LIMIT_MAX
from bitsift.options import CURSOR_CHARACTERS_MAX
from bitsift.router import listing
from bitsift.router.admission import Admission
from bitsift.router.http.listing_routes import CALLS_MAX
from bitsift.router.shards.fanout import FanOut
from bitsift.router.shards.local import LocalLink
from tests.fakes import BrokenLink
from tests.filters.brute_force import passes, random_filter
from tests.router.http.test_filtered_search import IDS, served, some_documents
from tests.served_documents import SHARDS, Served

__all__ = ["served"]  # a fixture


def ask(served: Served, path: str, **body: Any) -> httpx.Response:
    return httpx.post(f"{served.running.url}/v1/documents/{path}", json=body, timeout=60)


def count(served: Served, written: Any = None) -> int:
    found: int = ask(served, "count", filter=written).raise_for_status().json()["count"]
    return found


def pages(served: Served, **body: Any) -> Iterator[dict[str, Any]]:
    cursor = None
    while True:
        page = ask(served, "list", cursor=cursor, **body).raise_for_status().json()
        yield page
        cursor = page["cursor"]
        if cursor is None:
            return


def matching(served: Served, written: dict[str, Any]) -> set[str]:
    return {key for key, held in served.documents.items() if passes(written, key, held)}


def test_pages_hold_all_that_passes_once_and_count_says_how_many(served: Served) -> None:
    chance = random.Random(3)
    for _ in range(3):
        served.write(some_documents(chance, 80))
        served.delete(chance.sample(sorted(served.documents), 10))
        for written in ({}, random_filter(chance), random_filter(chance), {"number": {"$lt": 120}}):
            expected = matching(served, written)
            assert count(served, written) == len(expected)
            limit = chance.choice([7, 50, 1_000])
            found = list(pages(served, filter=written, limit=limit))
            listed = [document for page in found for document in page["documents"]]
            assert len(listed) == len(expected)
            assert {document["id"] for document in listed} == expected
            assert all(len(page["documents"]) <= limit for page in found)
            assert {page["count"] for page in found} == {len(expected)}
            for document in listed:
                assert document["metadata"] == served.documents[document["id"]]
                assert document["text"] == f"text {document['id']}"


def test_what_stays_is_listed_once_while_others_come_and_go(served: Served) -> None:
    served.write({str(key): {"number": key} for key in range(IDS)})
    chance, seen = random.Random(5), list[str]()
    for page in pages(served, filter={"number": {"$exists": True}}, limit=20):
        seen += [document["id"] for document in page["documents"]]
        served.write({str(key): {"number": -key} for key in chance.sample(range(100, IDS), 20)})
        served.delete([str(key) for key in chance.sample(range(100, IDS), 5)])
    assert len(seen) == len(set(seen))
    assert {str(key) for key in range(100)} <= set(seen)


def test_only_the_fields_that_are_asked_for_are_listed(served: Served) -> None:
    served.write({"1": {"number": 1}})
    (page,) = pages(served, filter="number = 1", include=["metadata"])
    assert page["documents"] == [
        {"id": "1", "title": "", "text": "", "metadata": {"number": 1},
         "shard": page["documents"][0]["shard"], "vector": None,
         "version": page["documents"][0]["version"]}
    ]  # fmt: skip


def test_no_body_at_all_counts_and_lists_everything(served: Served) -> None:
    headers = {"content-type": "application/json"}
    for path in ("count", "list"):
        url = f"{served.running.url}/v1/documents/{path}"
        found = httpx.post(url, headers=headers, timeout=60).raise_for_status().json()
        assert found["count"] == len(served.documents)


def test_a_page_has_so_many_bytes_at_most_but_one_document_of_each_shard(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    served.write({str(key): {"number": key} for key in range(40)})
    monkeypatch.setattr(listing, "PAGE_BYTES_MAX", 200)
    found = list(pages(served, filter="number >= 0 and number < 40"))
    listed = [document["id"] for page in found for document in page["documents"]]
    assert sorted(listed, key=int) == [str(key) for key in range(40)]
    assert max(len(page["documents"]) for page in found) <= 4
    monkeypatch.setattr(listing, "PAGE_BYTES_MAX", 0)
    for page in pages(served, filter="number >= 0 and number < 40"):
        assert len(page["documents"]) <= SHARDS


def test_what_passes_is_deleted_a_part_in_each_call(served: Served) -> None:
    served.write({str(key): {"number": key} for key in range(IDS)})
    asked: dict[str, Any] = {"filter": "number >= 100", "limit": 30}
    deleted, cursor = list[str](), None
    while True:
        part = ask(served, "delete", **asked, cursor=cursor).raise_for_status().json()
        assert part["deleted"] == len(part["results"]) <= 30
        assert part["token"] is None or isinstance(part["token"], str)
        deleted += [result["id"] for result in part["results"]]
        cursor = part["cursor"]
        if cursor is None:
            break
    assert sorted(deleted, key=int) == [str(key) for key in range(100, IDS)]
    for key in deleted:
        del served.documents[key]
    assert count(served) == len(served.documents)
    assert count(served, "number >= 100") == 0


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"filter": {}}, "this filter has no condition on a field"),
        ({"filter": None}, "this filter has no condition on a field"),
        ({"filter": {"$not": {"$or": []}}}, "this filter has no condition on a field"),
        ({"filter": {"$and": [{"$or": [{}]}, {}]}}, "this filter has no condition on a field"),
        ({"filter": "a = 1", "ids": ["x"]}, "ids: there is no such field"),
        ({"filter": "a = 1", "limit": LIMIT_MAX + 1}, "limit: Input should be less than or equal"),
        ({"filter": {"a": {"$gtee": 1}}}, "did you mean $gte?"),
        ({"ids": [], "nofilter": 1}, "nofilter"),
    ],
)
def test_a_deletion_that_is_wrong_deletes_nothing(served: Served, body: Any, said: str) -> None:
    before = count(served)
    answer = ask(served, "delete", **body)
    assert answer.status_code == 422
    assert said in answer.json()["detail"]
    assert count(served) == before


def test_ids_that_speak_of_a_filter_are_ids(served: Served) -> None:
    served.write({"filter": {}, "5": {}})
    for ids in (["filter"], ['"filter"']):
        answer = ask(served, "delete", ids=ids).raise_for_status().json()
        assert answer["cursor"] is None
    served.documents.pop("filter")
    assert count(served) == len(served.documents)


def cursor_of(served: Served, written: Any) -> str:
    served.write({str(key): {"number": key} for key in range(20)})
    found: str = ask(served, "list", filter=written, limit=1).json()["cursor"]
    return found


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"limit": LIMIT_MAX + 1}, "limit: Input should be less than or equal to 1000"),
        ({"limit": 0}, "limit: Input should be greater than or equal to 1"),
        ({"cursor": "x" * CURSOR_CHARACTERS_MAX}, "this is no cursor of an earlier page"),
        ({"cursor": "x" * (CURSOR_CHARACTERS_MAX + 1)}, "cursor: String should have at most 8192"),
        ({"cursor": "ä"}, "this is no cursor of an earlier page"),
        ({"cursor": ""}, "this is no cursor of an earlier page"),
        ({"cursor": base64.b64encode(b"\x02" + bytes(16)).decode()}, "this is no cursor"),
        ({"filter": {"a": {"$gtee": 1}}}, "did you mean $gte?"),
        ({"top_k": 5}, "there is no such field"),
        ({"include": ["vector"]}, "include.0: Input should be 'title', 'text' or 'metadata'"),
    ],
)
def test_a_mistake_is_a_422_that_says_where(served: Served, body: Any, said: str) -> None:
    answer = ask(served, "list", **body)
    assert answer.status_code == 422
    assert said in answer.json()["detail"]


def test_a_cursor_is_of_its_filter(served: Served) -> None:
    cursor = cursor_of(served, "number < 15")
    same = ask(served, "list", filter={"number": {"$lt": 15.0}}, cursor=cursor)
    assert same.status_code == 200
    for other in ("number < 16", None):
        answer = ask(served, "list", filter=other, cursor=cursor)
        assert answer.status_code == 422
        assert "it is of another filter" in answer.json()["detail"]


def test_a_count_and_a_page_have_no_gaps_a_shard_that_is_missing_is_a_503(served: Served) -> None:
    service = served.running.service
    whole, links = service.shards, [LocalLink(shard) for shard in served.shards]
    broken: Any = BrokenLink(Unavailable("shard 1 is away"))
    service.shards = FanOut([links[0], broken, links[2]])
    try:
        for path in ("count", "list"):
            answer = ask(served, path)
            assert answer.status_code == 503
            assert "2 of 3 shards answered completely (shard 1: " in answer.json()["detail"]
            assert answer.json()["outcome"] == "not_done"
    finally:
        service.shards = whole


def test_so_many_counts_and_listings_run_at_once() -> None:
    admission = Admission("counts and listings", CALLS_MAX, 0)
    with contextlib.ExitStack() as calls:
        for _ in range(CALLS_MAX):
            calls.enter_context(admission.call())
        with pytest.raises(Overloaded, match="16 counts and listings are already in progress"):
            calls.enter_context(admission.call())
