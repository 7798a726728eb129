"""What a caller misspells is refused with what was meant, and ``limit`` means ``top_k``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import httpx
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitsift.client import Client
from bitsift.router.http.parameters import with_top_k
from tests.gateways import Running, running_texts

DIMENSION = 64
TEXTS = [f"a text about number {i}" for i in range(40)]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("names")
    with running_texts(folder, TEXTS, DIMENSION, 1) as running:
        yield running


def post(gateway: Running, body: dict[str, Any], path: str = "/v1/search") -> httpx.Response:
    return httpx.post(f"{gateway.url}{path}", json=body)


@pytest.mark.parametrize(
    ("field", "meant"),
    [("topk", "top_k"), ("querry", "query"), ("min_scores", "min_score"), ("mod", "mode")],
)
def test_a_field_that_is_misspelt_is_refused_with_what_was_meant(
    gateway: Running, field: str, meant: str
) -> None:
    answer = post(gateway, {"query": "a", field: 3})
    assert answer.status_code == 422
    assert f"{field}: there is no such field; did you mean {meant}?" in answer.json()["detail"]
    answer = httpx.get(f"{gateway.url}/v1/search", params={"q": "a", field: 3})
    meant = "q" if meant == "query" else meant
    if meant != "q":
        expected = f"{field}: there is no such parameter; did you mean {meant}?"
        assert (answer.status_code, answer.json()["detail"]) == (422, expected)


@pytest.mark.parametrize("name", ["zzz", "\ud800", "x" * 500])
def test_a_field_that_is_like_no_other_is_refused_with_all_there_are(
    gateway: Running, name: str
) -> None:
    body = orjson.dumps({"query": "a"})[:-1] + b',"' + name.encode("ascii", "backslashreplace")
    body += b'":1}'
    json = {"content-type": "application/json"}
    answer = httpx.post(f"{gateway.url}/v1/search", content=body, headers=json)
    assert answer.status_code == 422
    assert len(answer.json()["detail"]) < 600
    if name != "\ud800":
        assert "there are candidates, " in answer.json()["detail"]


@pytest.mark.parametrize(
    ("method", "path", "body", "said"),
    [
        ("POST", "/v1/search?top_k=3", {"query": "a"}, "options of a POST are in its body"),
        ("POST", "/v1/documents?result=errors", {"documents": []}, "did you mean results?"),
        ("POST", "/v1/documents/delete?ids=3", {"ids": []}, "this route takes none"),
        ("DELETE", "/v1/documents/3?force=1", None, "there is if_version"),
        ("GET", "/v1/documents/3?read_your_write=x", None, "did you mean read_your_writes?"),
    ],
)
def test_a_parameter_that_a_route_does_not_have_is_refused(
    gateway: Running, method: str, path: str, body: object, said: str
) -> None:
    answer = httpx.request(method, f"{gateway.url}{path}", json=body)
    assert answer.status_code == 422
    assert said in answer.json()["detail"]
    assert answer.json()["outcome"] == "not_done"


@pytest.mark.parametrize(
    ("name", "meant"),
    [("q", "query"), ("text", "query"), ("k", "top_k"), ("n_results", "top_k"), ("topK", "top_k"),
     ("where", "filter"), ("page", "offset"), ("embedding", "vector"), ("fields", "include")],
)  # fmt: skip
def test_what_others_call_an_option_names_ours(gateway: Running, name: str, meant: str) -> None:
    batch = {"searches": [{"query": "a"}, {name: 1}]}
    for answer in (post(gateway, {name: "a"}), post(gateway, batch, "/v1/search/batch")):
        assert f"{name}: there is no such field; did you mean {meant}?" in answer.text
    if meant == "vector":  # too long for a URL
        return
    answer = httpx.get(f"{gateway.url}/v1/search", params={"q": "a", name: 3})
    if name != "q":
        said = f"{name}: there is no such parameter; did you mean "
        assert answer.json()["detail"] == f"{said}{'q' if meant == 'query' else meant}?"
    if meant not in ("query",):
        with Client(gateway.url) as client, pytest.raises(TypeError, match=f"did you mean {meant}"):
            client.search("a", **cast("Any", {name: 3}))


@pytest.mark.parametrize(
    ("name", "meant"),
    [("txt", "text"), ("body", "text"), ("page_content", "text"), ("embedding", "vector"),
     ("payload", "metadata"), ("name", "title")],
)  # fmt: skip
def test_a_field_of_a_document_that_is_called_otherwise_is_named(
    gateway: Running, name: str, meant: str
) -> None:
    answer = post(gateway, {"documents": [{"id": "x", name: "a"}]}, "/v1/documents").json()
    said = answer["results"][0]["error"]["detail"]
    assert f"unknown field '{name}': did you mean {meant}?" in said


def test_limit_is_another_name_of_top_k(gateway: Running) -> None:
    def ids(answer: httpx.Response) -> list[str]:
        assert answer.status_code == 200, answer.text
        return [hit["id"] for hit in answer.json()["hits"]]

    expected = ids(post(gateway, {"query": TEXTS[3], "top_k": 4}))
    assert len(expected) == 4
    url = f"{gateway.url}/v1/search"
    assert ids(post(gateway, {"query": TEXTS[3], "limit": 4})) == expected
    assert ids(post(gateway, {"query": TEXTS[3], "limit": 4, "top_k": 4})) == expected
    assert ids(httpx.get(url, params={"q": TEXTS[3], "limit": 4})) == expected
    assert ids(httpx.get(url, params={"q": TEXTS[3], "limit": 4, "top_k": 4})) == expected
    both = {"query": TEXTS[3], "limit": 4, "top_k": 10}  # also where that is the default
    parameters: dict[str, str | int] = {"q": TEXTS[3], "limit": 4, "top_k": 10}
    for answer in (post(gateway, both), httpx.get(url, params=parameters)):
        assert answer.status_code == 422
        assert "two names of one option" in answer.json()["detail"]
    for limit in (0, 1_001):
        assert post(gateway, {"query": "a", "limit": limit}).status_code == 422
        assert httpx.get(url, params={"q": "a", "limit": limit}).status_code == 422


def test_both_names_are_described(gateway: Running) -> None:
    described = httpx.get(f"{gateway.url}/openapi.json").json()["paths"]["/v1/search"]
    body = described["post"]["requestBody"]["content"]["application/json"]["schema"]["properties"]
    assert body["limit"]["maximum"] == body["top_k"]["maximum"] == 1_000
    names = {parameter["name"] for parameter in described["get"]["parameters"]}
    assert {"limit", "top_k"} <= names


@given(st.dictionaries(st.sampled_from(["query", "limitless", "mode"]), st.text() | st.booleans()))
def test_what_has_no_limit_is_left_as_it_is(body: dict[str, Any]) -> None:
    text = orjson.dumps(body)
    assert with_top_k(text) is text or orjson.loads(with_top_k(text)) == body


@given(st.binary())
def test_what_is_no_json_is_left_to_those_who_say_so(body: bytes) -> None:
    assert with_top_k(b'{"limit"' + body) is not None


def test_only_a_list_may_be_given_twice_in_a_url(gateway: Running) -> None:
    """Of two filters, or two limits, one would be left out without a word."""
    twice = {"q": "a", "filter": ["x = 1", "x = 2"]}
    answer = httpx.get(f"{gateway.url}/v1/search", params=twice)
    said = "filter: is given 2 times, and takes one value"
    assert (answer.status_code, answer.json()["detail"]) == (422, said)
    lists = {"q": "a", "include": ["title", "text"], "exclude": ["1", "2"], "like": ["3", "4"]}
    answer = httpx.get(f"{gateway.url}/v1/search", params=lists)
    assert answer.status_code == 200, answer.text
