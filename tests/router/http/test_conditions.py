"""Writes with conditions, over HTTP and by the clients."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from bitsift.client import AsyncClient, Client
from bitsift.errors import InvalidRequest
from bitsift.results import Vector
from bitsift.write_results import WriteResult
from bitsift.write_status import WriteStatus
from tests.router.http.test_filtered_search import served
from tests.served_documents import Served

__all__ = ["served"]  # a fixture
CREATED, UPDATED, CONFLICT = WriteStatus.CREATED, WriteStatus.UPDATED, WriteStatus.CONFLICT


def add(served: Served, **document: Any) -> WriteResult:
    with Client(served.running.url) as client:
        (result,) = client.add({"id": "a", "text": "some text"} | document).results
        return result


def remove(served: Served) -> None:
    with Client(served.running.url) as client:
        client.delete("a")


def test_only_the_first_of_two_that_create_a_document_does(served: Served) -> None:
    remove(served)
    first = add(served, text="one", if_absent=True)
    assert first.status is CREATED
    second = add(served, text="two", if_absent=True)
    assert (second.status, second.version) == (CONFLICT, first.version)
    assert second.error is not None
    assert (second.error.type, second.error.outcome) == ("Conflict", "not_done")
    assert f"the document has version {first.version}" in second.error.detail
    remove(served)
    gone = add(served, text="three", if_version=first.version)
    assert (gone.status, gone.version) == (CONFLICT, None)
    assert add(served, text="four", if_absent=True).status is CREATED


def test_a_version_is_replaced_once_and_results_say_the_next(served: Served) -> None:
    version = add(served, text="start").version
    with Client(served.running.url) as client:
        version = client.get("a").version
        for number in range(3):
            done = add(served, text=f"text {number}", if_version=version)
            assert (done.status, done.version) == (UPDATED, client.get("a").version)
            late = add(served, text="late", if_version=version)
            assert (late.status, late.version) == (CONFLICT, done.version)
            version = done.version
        assert client.get("a").text == "text 2"
        same = add(served, text="text 2", if_version=version)
        assert (same.status, same.version) == (WriteStatus.UNCHANGED, version)


def test_in_a_batch_each_document_has_its_own_condition(served: Served) -> None:
    with Client(served.running.url) as client:
        client.delete(["a", "b", "c"])
        client.add({"id": "b", "text": "there"})
        answer = client.add(
            [
                {"id": "a", "text": "new", "if_absent": True},
                {"id": "b", "text": "new", "if_absent": True},
                {"id": "c", "text": "new", "if_absent": False},
                {"id": "d", "text": "new", "if_absent": 1},
            ]
        )
        assert [it.status for it in answer.results] == [CREATED, CONFLICT, CREATED, "rejected"]
        assert (answer.created, answer.conflict, answer.rejected) == (2, 1, 1)
        assert client.get("b").text == "there"


def test_what_is_refused_is_not_encoded(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    add(served)
    encoded = list[str]()
    from tests.fakes import HashEncoder

    of = HashEncoder.encode_documents

    def encode(self: HashEncoder, texts: list[str]) -> Vector:
        encoded.extend(texts)
        return of(self, texts)

    monkeypatch.setattr(HashEncoder, "encode_documents", encode)
    assert add(served, text="not encoded", if_absent=True).status is CONFLICT
    assert encoded == []
    add(served, text="encoded", if_version=add(served, text="other").version)
    assert encoded == ["other", "encoded"]


def test_a_deletion_by_version_and_by_etag(served: Served) -> None:
    url = f"{served.running.url}/v1/documents/a"
    version = add(served, text="one").version or ""
    tag = httpx.get(url).headers["etag"]
    add(served, text="two")
    late = httpx.delete(url, params={"if_version": version})
    assert (late.status_code, late.json()["outcome"]) == (409, "not_done")
    assert "has version" in late.json()["detail"]
    assert httpx.delete(url, headers={"If-Match": tag}).status_code == 412
    with Client(served.running.url) as client:
        (refused,) = client.delete("a", if_version=version).results
        assert refused.status is CONFLICT
        now = client.get("a").version
        assert refused.version == now
        with pytest.raises(InvalidRequest, match="there are 2 ids"):
            client.delete(["a", "b"], if_version=version)
    assert httpx.get(url).json()["text"] == "two"
    tag = httpx.get(url).headers["etag"]
    assert httpx.delete(url, headers={"If-Match": tag}).status_code == 200
    assert httpx.delete(url, headers={"If-Match": tag}).status_code == 412, "it is gone"

    async def again() -> None:
        async with AsyncClient(served.running.url) as client:
            made = (await client.add({"id": "a", "text": "x"})).results[0].version
            assert made is not None
            assert (await client.delete("a", if_version=made)).deleted == 1

    asyncio.run(again())


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"if_version": 17}, "if_version is no version"),
        ({"if_version": "x"}, "if_version is no version"),
        ({"if_version": "0"}, "if_version is no version"),
        ({"if_version": str(1 << 64)}, "if_version is no version"),
        ({"if_version": "7", "if_absent": True}, "exclude each other"),
        ({"if_absent": "yes"}, "not true or false"),
        ({"if_versio": "7"}, "did you mean if_version?"),
    ],
)
def test_a_condition_that_is_none_is_rejected(served: Served, given: Any, said: str) -> None:
    result = add(served, **given)
    assert result.status is WriteStatus.REJECTED
    assert result.error is not None
    assert said in result.error.detail


def test_a_header_or_parameter_that_is_no_version_is_a_422(served: Served) -> None:
    url = f"{served.running.url}/v1/documents/a"
    for tag in ("*", '"x"', 'W/"1", W/"2"', "1"):
        refused = httpx.delete(url, headers={"If-Match": tag})
        assert (refused.status_code, "send the ETag" in refused.text) == (422, True), tag
    assert httpx.delete(url, params={"if_version": "x"}).status_code == 422
    both = httpx.delete(url, params={"if_version": "7"}, headers={"If-Match": '"7"'})
    assert (both.status_code, "exclude" in both.text) == (422, True)
