"""Several indexes behind one gateway: each answers below its own name, as if it were alone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from typer.testing import CliRunner

from bitsift.client import AsyncClient, Client, calls
from bitsift.cluster.cli import indexes as commands
from bitsift.cluster.serving.key_store import editing
from bitsift.errors import InvalidRequest
from bitsift.router.http.access import AccessSettings
from bitsift.router.http.keys import Scope, new_key
from bitsift.router.http.routes import ROUTE_SCOPES, split_index
from bitsift.router.indexes import Indexes, Served
from bitsift.router.shards.local import LocalLink
from tests.fakes import BrokenLink, HashEncoder, make_service, make_shards, make_writer
from tests.gateways import Running

DIMENSION = 64
NDJSON = {"content-type": "application/x-ndjson"}


@dataclass(frozen=True)
class Keyed:
    """A gateway, and the texts of the keys that it knows."""

    running: Running
    texts: dict[str, str]


def texts_of(name: str) -> list[str]:
    return [f"{name} number {place}" for place in range(10)]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The indexes `first`, by default, `second`, alias `other`; `dark`, whose only shard does not
    answer, and `damaged`, which could not be opened.
    """
    opened, served = [], []
    for name in ("first", "second"):
        texts = texts_of(name)
        units = HashEncoder(DIMENSION).encode_documents(texts)
        folder = tmp_path_factory.mktemp(name)
        shards, calibration = make_shards(folder, units, DIMENSION, 2, texts)
        links = [LocalLink(shard) for shard in shards]
        writer = make_writer(links, calibration)
        served.append(Served(name, make_service(links, calibration), writer))
        opened += shards
    broken = BrokenLink(OSError("the cable"))
    dark = Served("dark", make_service([broken], calibration), make_writer([broken], calibration))
    first, second = served
    indexes = Indexes(first)
    indexes.place([second, dark], {"damaged": "its manifest cannot be read"}, {"other": "second"})
    running = Running(first.service, first.writer, indexes=indexes)
    yield running
    running.stop()
    for shard in opened:
        shard.close()


def ask(gateway: Running, method: str, path: str, body: Any = None) -> httpx.Response:
    return httpx.request(method, f"{gateway.url}{path}", json=body, timeout=60)


@pytest.mark.parametrize(
    ("prefix", "name"),
    [("/v1", "first"), ("/v1/indexes/first", "first"), ("/v1/indexes/second", "second"),
     ("/v1/indexes/other", "second"), ("/v1/indexes/secon%64", "second")],
)  # fmt: skip
def test_a_search_asks_the_index_that_its_path_names(
    gateway: Running, prefix: str, name: str
) -> None:
    asked = {"query": f"{name} number 3", "top_k": 1}
    for found in (
        ask(gateway, "POST", f"{prefix}/search", asked).json(),
        httpx.get(f"{gateway.url}{prefix}/search", params={"q": f"{name} number 3"}).json(),
        *ask(gateway, "POST", f"{prefix}/search/batch", {"searches": [asked]}).json()["results"],
    ):
        assert found["hits"][0]["text"] == f"{name} number 3"
    assert ask(gateway, "GET", f"{prefix}/documents/3").json()["text"] == f"{name} number 3"


def test_documents_are_written_to_the_index_that_the_path_names(gateway: Running) -> None:
    path = "/v1/indexes/second/documents"
    ask(gateway, "POST", path, {"documents": [{"id": "a/b", "text": "one"}]}).raise_for_status()
    lines = json.dumps({"id": "c", "text": "two"}) + "\n"
    sent = httpx.post(f"{gateway.url}{path}", content=lines, headers=NDJSON, timeout=60)
    assert json.loads(sent.text.splitlines()[-1])["totals"]["created"] == 1
    assert ask(gateway, "GET", f"{path}/a/b").json()["text"] == "one"
    assert ask(gateway, "GET", "/v1/documents/a/b").status_code == 404
    for prefix, count in (("/v1", 10), ("/v1/indexes/second", 12)):
        counted = ask(gateway, "POST", f"{prefix}/documents/count", {})
        assert counted.json()["count"] == count
        page = ask(gateway, "POST", f"{prefix}/documents/list", {"limit": 100}).json()
        assert len(page["documents"]) == count
    assert ask(gateway, "DELETE", f"{path}/a/b").json()["status"] == "deleted"
    gone = ask(gateway, "POST", f"{path}/delete", {"ids": ["c"]}).json()
    assert gone["deleted"] == 1


def test_each_route_of_an_index_is_one_below_its_name(gateway: Running) -> None:
    """Also those that are added later: none has to be named again."""
    for route in ROUTE_SCOPES:
        method, path = route.split()
        rest = path.removeprefix("/v1/")
        if rest == path or rest.startswith(("indexes", "aliases")):
            continue
        assert split_index(method, f"/v1/indexes/a/{rest}") == ("a", path)
        body: dict[str, Any] | None = {} if method == "POST" else None
        alone = ask(gateway, method, path, body)
        named = ask(gateway, method, f"/v1/indexes/first/{rest}", body)
        assert named.status_code == alone.status_code, route


def test_an_index_by_its_name_is_what_it_says_of_itself(gateway: Running) -> None:
    whole = ask(gateway, "GET", "/v1/indexes/second").json()
    assert whole == ask(gateway, "GET", "/v1/indexes/second/index").json()
    assert whole["documents"] == 10
    assert httpx.head(f"{gateway.url}/v1/indexes/second/").status_code == 200


def test_all_are_listed_with_their_states_and_whoever_does_not_answer_says_why(
    gateway: Running,
) -> None:
    for path in ("/v1/indexes", "/v1/indexes/"):
        damaged, dark, first, second = ask(gateway, "GET", path).json()["indexes"]
    assert (damaged["name"], damaged["state"]) == ("damaged", "FAILED")
    assert damaged["reason"] == "its manifest cannot be read"
    assert (dark["name"], dark["state"]) == ("dark", "FAILED")
    assert "the cable" in dark["reason"]
    assert first == {
        "name": "first", "state": "READY", "reason": None, "documents": 10, "rows": 10,
        "dimension": DIMENSION, "model": "hash", "aliases": [], "default": True,
    }  # fmt: skip
    assert (second["aliases"], second["default"]) == (["other"], False)


def test_an_index_that_does_not_answer_is_a_503_of_its_own(gateway: Running) -> None:
    for path in ("search", "documents/count"):
        body: dict[str, Any] = {"query": "a"} if path == "search" else {}
        damaged = ask(gateway, "POST", f"/v1/indexes/damaged/{path}", body)
        assert damaged.status_code == 503
        assert "its manifest cannot be read" in damaged.json()["detail"]
        assert ask(gateway, "POST", f"/v1/indexes/dark/{path}", body).status_code == 503
    assert ask(gateway, "GET", "/readyz").status_code == 200


def test_a_name_that_there_is_not_is_a_404_that_says_which_is_meant(gateway: Running) -> None:
    unknown = ask(gateway, "POST", "/v1/indexes/secnd/search", {"query": "a"})
    assert unknown.status_code == 404
    assert "did you mean second?" in unknown.json()["detail"]


@pytest.mark.parametrize(
    "path", ["/v1/indexes/first/indexes", "/v1/indexes/first/indexes/second/search",
             "/v1/indexes/first/nothing"]
)  # fmt: skip
def test_below_an_index_is_nothing_that_is_not_its_own(gateway: Running, path: str) -> None:
    assert ask(gateway, "GET", path).status_code == 404


def test_what_a_path_may_be_asked_with_is_said_below_a_name_too(gateway: Running) -> None:
    alone = httpx.options(f"{gateway.url}/v1/search").headers["allow"]
    assert httpx.options(f"{gateway.url}/v1/indexes/second/search").headers["allow"] == alone
    refused = ask(gateway, "DELETE", "/v1/indexes/second/search")
    assert (refused.status_code, refused.headers["allow"]) == (405, alone)


def test_the_requests_of_all_are_counted_under_the_templates_of_the_routes(
    gateway: Running,
) -> None:
    ask(gateway, "POST", "/v1/indexes/second/search", {"query": "a"})
    text = httpx.get(f"{gateway.url}/metrics").text
    assert 'route="/v1/search"' in text
    assert "/v1/indexes/second" not in text
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert len(families) == text.count("# TYPE ")  # each once
    named = {
        name: {sample.labels.get("index") for sample in family.samples}
        for name, family in families.items()
    }
    assert named["bitsift_shard_documents"] == {None, "second"}  # the dark one does not say
    assert "second" in named["bitsift_searches"]
    for name in ("bitsift_http_requests", "bitsift_build_info", "process_open_fds"):
        assert named[name] == {None}


def test_a_request_goes_on_where_it_began_when_an_alias_is_switched() -> None:
    indexes = Indexes(standing("a"))
    others = [standing("b"), standing("c")]
    indexes.place(others, {}, {"live": "b"})
    with indexes.find("live").asked():
        indexes.place(others, {}, {"live": "c"})
        assert (indexes.service.name, indexes.writer.name) == ("b", "b")  # type: ignore[attr-defined]
        assert indexes.find("live").name == "c"
    assert indexes.service.name == "a"  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def keyed(gateway: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keyed]:
    """The same indexes for callers with keys."""
    path = tmp_path_factory.mktemp("keys") / "keys.json"
    texts: dict[str, str] = {}
    with editing(path) as kept:
        for name, scope, only in (
            ("all", Scope.ADMIN, ()), ("second", Scope.ADMIN, ("second",)),
            ("alias", Scope.READ, ("other",)),
        ):  # fmt: skip
            key, texts[name] = new_key(name, scope, None, only)
            kept.append(key)
    first, second = (gateway.indexes.find(name) for name in ("first", "second"))
    indexes = Indexes(first)
    indexes.place([second], {}, {"other": "second"})
    running = Running(first.service, first.writer, AccessSettings(keys=path), indexes=indexes)
    yield Keyed(running, texts)
    running.stop()


@pytest.mark.parametrize(
    ("key", "method", "path", "status"),
    [("second", "POST", "/v1/indexes/second/search", 200),
     ("second", "POST", "/v1/indexes/other/search", 200),
     ("second", "POST", "/v1/indexes/second/admin/compact", 200),
     ("second", "GET", "/v1/indexes/second", 200), ("second", "GET", "/openapi.json", 200),
     ("second", "GET", "/livez", 200),
     ("second", "POST", "/v1/search", 403), ("second", "POST", "/v1/indexes/first/search", 403),
     ("second", "GET", "/v1/indexes", 403), ("second", "DELETE", "/v1/indexes/second", 403),
     ("second", "POST", "/v1/indexes", 403), ("second", "PUT", "/v1/aliases/other", 403),
     ("second", "GET", "/metrics", 403), ("second", "GET", "/v1/nothing", 403),
     ("alias", "POST", "/v1/indexes/other/search", 200),
     ("alias", "POST", "/v1/indexes/second/search", 403),
     ("alias", "POST", "/v1/indexes/other/documents", 403),
     ("all", "POST", "/v1/search", 200), ("all", "POST", "/v1/indexes/second/search", 200)],
)  # fmt: skip
def test_a_key_for_an_index_opens_its_routes_and_nothing_else(
    keyed: Keyed, key: str, method: str, path: str, status: int
) -> None:
    headers = {"authorization": f"Bearer {keyed.texts[key]}", "content-type": "application/json"}
    body = b'{"query": "a"}' if path.endswith("search") else b"{}"
    content = body if method in ("POST", "PUT") else None
    answer = httpx.request(
        method, f"{keyed.running.url}{path}", headers=headers, content=content, timeout=60
    )
    assert answer.status_code == status, answer.text
    if status == 403 and "scope" not in answer.text:
        assert f"is for {'other' if key == 'alias' else 'second'} only" in answer.json()["detail"]


def test_both_clients_ask_the_index_that_they_are_given(gateway: Running) -> None:
    of_second = f"{gateway.url}/v1/indexes/second"
    for client in (
        Client(gateway.url, index="second"), Client(gateway.url, index="other"), Client(of_second),
        Client(f"{of_second}/", index="second"),
    ):  # fmt: skip
        with client:
            assert client.search("second number 4", top_k=1).hits[0].text == "second number 4"
            assert client.get("4").text == "second number 4"
            assert len(client.indexes()) == 4
            (call,) = calls.deletes(["a"])
            assert calls.delete_index("x", with_aliases=False).timeout_s == calls.CHANGE_TIMEOUT_S
            assert call.request(client._http, "ü").url.path == "/v1/indexes/ü/documents/delete"
            with pytest.raises(InvalidRequest, match="--indexes-root"):
                client.create_index("x", dimensions=64)

    async def scenario() -> None:
        async with AsyncClient(gateway.url, index="second") as client:
            assert (await client.get("4")).text == "second number 4"
            assert len(await client.indexes()) == 4
            for change in (
                client.create_index("x", dimensions=64), client.set_alias("x", "second"),
                client.delete_index("second", with_aliases=True), client.delete_alias("x"),
            ):  # fmt: skip
                with pytest.raises(InvalidRequest, match="--indexes-root"):
                    await change

    asyncio.run(scenario())
    with pytest.raises(InvalidRequest, match="not of 'first'"):
        Client(of_second, index="first")
    with pytest.raises(InvalidRequest, match="no name of an index"), Client(gateway.url) as client:
        client.delete_index("../a")


def test_the_command_lists_the_indexes_of_a_server_and_says_what_cannot_be(
    gateway: Running,
) -> None:
    listed = CliRunner().invoke(commands.app, ["list", "--url", gateway.url])
    assert listed.exit_code == 0
    assert "first (default)" in listed.stdout
    for arguments in (
        ["create", "x", "--dimensions", "64"], ["delete", "second"], ["alias", "x", "second"],
        ["alias", "x", "--drop"], ["alias", "x"],
    ):  # fmt: skip
        refused = CliRunner().invoke(commands.app, [*arguments, "--url", gateway.url])
        assert isinstance(refused.exception, InvalidRequest), refused


def standing(name: str) -> Any:
    return Served(name, SimpleNamespace(name=name), SimpleNamespace(name=name))  # type: ignore[arg-type]
