"""Several documents are read by their ids over HTTP, each as it is alone."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from bitsift.client import Client
from bitsift.errors import InvalidRequest, NotFound
from bitsift.listing import GET_IDS_MAX
from bitsift.router import multi_get
from bitsift.router.answer_bytes import ANSWER_BYTES_MAX
from tests.router.http.test_filtered_search import served
from tests.served_documents import Served

__all__ = ["served"]  # a fixture


def ask(served: Served, **body: Any) -> httpx.Response:
    return httpx.post(f"{served.running.url}/v1/documents/get", json=body, timeout=60)


def test_documents_come_in_the_order_of_their_ids_and_as_they_are_alone(served: Served) -> None:
    served.write({str(key): {"number": key} for key in range(60)})
    ids = ["7", "none", "3", "59", "7", "nobody", "0"]
    found = ask(served, ids=ids).raise_for_status().json()
    assert [it["id"] for it in found["documents"]] == ["7", "3", "59", "0"]
    assert found["missing"] == ["none", "nobody"]
    with Client(served.running.url) as client:
        answer = client.get_many(ids, include=["text", "vector"])
        assert answer.missing == ("none", "nobody")
        for one, stored in zip(answer.documents, found["documents"], strict=True):
            alone = client.get(one.id, include=["vector"])
            assert (one.text, one.version, one.shard) == (alone.text, alone.version, alone.shard)
            assert one.vector == alone.vector
            assert one.metadata == {}, "it was not asked for"
            assert stored["metadata"] == alone.metadata
            assert stored["version"] == alone.version


def test_a_version_changes_with_each_write_and_is_in_the_etag(served: Served) -> None:
    url = f"{served.running.url}/v1/documents/"
    versions = []
    for number in (1, 2, 2):
        served.write({"a": {"number": number}})
        answer = httpx.get(url + "a")
        versions.append(int(answer.json()["version"]))
        assert answer.headers["etag"] == f'W/"{versions[-1]}"'
    assert versions[0] < versions[1] == versions[2], "the same content is not written again"
    other = httpx.get(url + "a", params={"include": "vector"}).headers["etag"]
    assert other == f'W/"{versions[-1]}.vector"', "another answer has another tag"


def test_large_documents_are_read_in_a_second_call_and_counted_before(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    served.write({str(key): {"number": key} for key in range(30)})
    monkeypatch.setattr(multi_get, "first_bytes", lambda _: 50)
    ids = [str(key) for key in range(30)]
    found = ask(served, ids=ids).raise_for_status().json()
    assert [it["id"] for it in found["documents"]] == ids
    assert served.running.service.memory.held_bytes == 0


def test_so_many_ids_are_taken_and_so_many_bytes_are_answered(served: Served) -> None:
    most = [f"none {n}" for n in range(GET_IDS_MAX)]
    assert len(ask(served, ids=most).raise_for_status().json()["missing"]) == GET_IDS_MAX
    refused = ask(served, ids=[*most, "one more"])
    assert (refused.status_code, "at most 1000" in refused.text) == (422, True)
    with Client(served.running.url) as client:
        half = "x" * (ANSWER_BYTES_MAX // 5)
        client.add([{"id": f"large {n}", "text": f"{n} {half}"} for n in range(5)], batch=1)
        ids = [f"large {n}" for n in range(5)]
        with pytest.raises(InvalidRequest, match="leave .* out of include, or ask for fewer ids"):
            client.get_many(ids)
        assert len(client.get_many(ids[:4]).documents) == 4
        assert len(client.get_many(ids, include=[]).documents) == 5
        client.delete(ids)
        with pytest.raises(NotFound):
            client.get("large 0")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "ids: "),
        ({"ids": []}, "at least 1"),
        ({"ids": "a"}, "ids: "),
        ({"ids": ["a"], "includes": []}, "did you mean include?"),
        ({"ids": ["a"], "include": ["score"]}, "include.0"),
    ],
)
def test_a_mistake_is_a_422_that_says_where(served: Served, body: Any, said: str) -> None:
    refused = ask(served, **body)
    assert refused.status_code == 422
    assert said in refused.json()["detail"]
