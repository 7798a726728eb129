"""Metadata are changed over HTTP and by the clients: of one document, of several, by a filter."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from bitsift.client import AsyncClient, Client
from bitsift.errors import Conflict, InvalidRequest, NotFound
from bitsift.write_status import WriteStatus
from tests.router.http.test_filtered_search import served
from tests.served_documents import Served

__all__ = ["served"]  # a fixture


def update(served: Served, **body: Any) -> httpx.Response:
    return httpx.post(f"{served.running.url}/v1/documents/update", json=body, timeout=60)


def test_the_metadata_of_one_document_are_changed_and_found(served: Served) -> None:
    served.write({"a": {"lang": "de", "draft": True}})
    with Client(served.running.url) as client:
        before = client.get("a", include=["vector"])
        done = client.patch("a", {"lang": "fr", "draft": None, "deep": {"x": 1}})
        after = client.get("a", include=["vector"])
        assert (done.status, done.version) == (WriteStatus.UPDATED, after.version)
        assert after.metadata == {"lang": "fr", "deep": {"x": 1}}
        assert (after.text, after.vector) == (before.text, before.vector)
        assert client.count({"lang": "fr"}) == 1
        assert client.count({"lang": "de"}) == 0
        served.documents["a"] = after.metadata
        assert "a" in served.ids({"deep.x": 1})
        assert client.patch("a", {"lang": "fr"}).status is WriteStatus.UNCHANGED
        with pytest.raises(NotFound):
            client.patch("nobody", {"lang": "fr"})
        with pytest.raises(Conflict, match=f"has version {after.version}"):
            client.patch("a", {"lang": "it"}, if_version=before.version)
        assert client.patch("a", {"lang": "it"}, if_version=after.version).status == "updated"


def test_an_etag_is_a_condition_too(served: Served) -> None:
    served.write({"a": {"lang": "de"}})
    url = f"{served.running.url}/v1/documents/a"
    tag = httpx.get(url).headers["etag"]
    change = {"metadata": {"n": 1}}
    assert httpx.patch(url, json=change, headers={"If-Match": tag}).status_code == 200
    late = httpx.patch(url, json=change, headers={"If-Match": tag})
    assert (late.status_code, late.json()["outcome"]) == (412, "not_done")
    version = tag.split('"')[1]
    late = httpx.patch(url, json={**change, "if_version": version})
    assert late.status_code == 409


def test_what_passes_a_filter_is_changed_a_part_in_each_call(served: Served) -> None:
    served.write({str(key): {"number": key} for key in range(90)})
    asked = {"filter": "number >= 30 and number < 90", "metadata": {"number": 7, "seen": True}}
    changed, cursor = list[str](), None
    while True:
        part = update(served, **asked, limit=25, cursor=cursor).raise_for_status().json()
        assert part["updated"] == len(part["results"]) <= 25
        assert part["count"] + len(changed) == 60, "what was changed passes no more"
        changed += [result["id"] for result in part["results"]]
        if (cursor := part["cursor"]) is None:
            break
    assert sorted(changed, key=int) == [str(key) for key in range(30, 90)]
    with Client(served.running.url) as client:
        assert client.count({"seen": True, "number": 7}) == 60
        answer = client.update_matching({"seen": True}, {"seen": None})
        assert (answer.updated, len(answer.results)) == (60, 60)
        assert client.count({"seen": {"$exists": True}}) == 0

    async def again() -> None:
        async with AsyncClient(served.running.url) as client:
            assert (await client.update_matching("number < 7", {"low": True})).updated == 7
            assert (await client.patch("1", {"low": None})).status == "updated"

    asyncio.run(again())


def test_several_are_changed_by_their_ids(served: Served) -> None:
    served.write({str(key): {"number": key} for key in range(5)})
    answer = update(served, ids=["3", "none", "1"], metadata={"x": 1}).json()
    assert [it["status"] for it in answer["results"]] == ["updated", "missing", "updated"]
    assert (answer["updated"], answer["missing"], answer["cursor"]) == (2, 1, None)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"filter": {}, "metadata": {}}, "this filter has no condition on a field"),
        ({"filter": "a = 1"}, "metadata"),
        ({"filter": "a = 1", "metadata": 7}, "metadata"),
        ({"filter": "a = 1", "metadata": {}, "ids": ["x"]}, "ids: there is no such field"),
        ({"ids": ["x"], "metadatas": {}}, "did you mean metadata?"),
        ({"ids": ["x", "y"], "metadata": {}, "if_version": "7"}, "there are 2 ids"),
    ],
)
def test_a_mistake_is_a_422_that_says_where(served: Served, body: Any, said: str) -> None:
    refused = update(served, **body)
    assert refused.status_code == 422
    assert said in refused.json()["detail"]


def test_integers_over_64_bits_are_refused_by_name(served: Served) -> None:
    served.write({"a": {}})
    url = f"{served.running.url}/v1/documents/a"
    body = b'{"metadata": {"large": 123456789012345678901234567890}}'
    answer = httpx.patch(url, content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 422, answer.text
    assert "metadata field 'large': 1234567890" in answer.json()["detail"]
    refused = update(served, filter="id = a", metadata={"large": 1 << 70})
    (result,) = refused.json()["results"]
    assert (result["status"], "over 64 bits" in result["error"]["detail"]) == ("rejected", True)
    assert httpx.get(url).json()["metadata"] == {}


def test_text_cannot_be_changed_without_its_vector(served: Served) -> None:
    served.write({"a": {}})
    url = f"{served.running.url}/v1/documents/a"
    refused = httpx.patch(url, json={"metadata": {}, "text": "new"})
    assert (refused.status_code, "text: there is no such field" in refused.text) == (422, True)
    with Client(served.running.url) as client, pytest.raises(InvalidRequest):
        client.patch("a", {"x": "y" * (5 << 20)})
