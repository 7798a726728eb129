"""The routes that write, over HTTP: a real uvicorn on loopback, real shards."""

from __future__ import annotations

import asyncio
import contextlib
import json
import queue
import socket
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlparse

import httpx
import numpy as np
import pytest

from bitsift.errors import ChecksumMismatch, RequestOutcome, ShardUnavailable
from bitsift.router.http import document_routes, document_stream, line_blocks
from bitsift.router.http.bodies import RAM_PER_BYTE
from bitsift.router.http.documents_schema import (
    DOCUMENTS_MAX,
    LINE_BYTES_MAX,
    NDJSON,
    UPSERT_BYTES_MAX,
)
from bitsift.router.http.gateway import BODY_BYTES_MAX
from bitsift.router.shards.local import LocalLink
from bitsift.router.write.service import WriteService
from bitsift.shard_worker.operations import Operation, Outcome
from bitsift.shard_worker.types import Found
from bitsift.write_results import UPSERT_STATUSES
from bitsift.write_token import read_token
from tests.fakes import BrokenLink, make_service, make_shards, make_writer
from tests.gateways import Running
from tests.threads import ended

DIMENSION = 64


class GatedLink(LocalLink):
    """A real shard whose writes wait while ``gate`` is closed; ``entered`` counts them."""

    def __init__(self, shard: Any) -> None:
        super().__init__(shard)
        self.gate = threading.Event()
        self.gate.set()
        self.entered: queue.Queue[int] = queue.Queue()

    async def write(
        self, operations: Sequence[Operation], epoch: int = 0, term: int = 0
    ) -> Sequence[Outcome]:
        self.entered.put(len(operations))
        await asyncio.to_thread(self.gate.wait, 30)
        return await super().write(operations)


class Gateway(Running):
    link: GatedLink

    def post(self, path: str, body: Any, kind: str = "application/json") -> httpx.Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"content-type": kind}
        return httpx.post(f"{self.url}{path}", content=content, headers=headers, timeout=60)

    def upsert(self, *documents: Any) -> httpx.Response:
        return self.post("/v1/documents", {"documents": documents})

    def stream(self, body: Any, results: str = "all") -> list[dict[str, Any]]:
        response = httpx.post(
            f"{self.url}/v1/documents", content=body, headers={"content-type": NDJSON}, timeout=60,
            params={"results": results},
        )  # fmt: skip
        assert response.status_code == 200, response.text
        assert response.headers["content-type"].startswith(NDJSON)
        return [json.loads(line) for line in response.text.splitlines()]

    def document(self, method: str, key: str) -> httpx.Response:
        return httpx.request(method, f"{self.url}/v1/documents/{quoted(key)}")

    def read(self, key: str, token: str) -> httpx.Response:
        parameters = {"read_your_writes": token}
        return httpx.get(f"{self.url}/v1/documents/{quoted(key)}", params=parameters)


def quoted(key: str) -> str:
    return quote(key, safe="").replace(".", "%2E")


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[Gateway]:
    """An empty index of one shard."""
    nothing = np.empty((0, DIMENSION), dtype=np.float32)
    shards, calibration = make_shards(folder, nothing, DIMENSION, 1)
    link = GatedLink(shards[0])
    running = Gateway(make_service([link], calibration), make_writer([link], calibration))
    running.link = link
    try:
        yield running
    finally:
        running.stop()
        shards[0].close()


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with serving(tmp_path_factory.mktemp("routes")) as running:
        yield running


def doc(key: str, text: str = "a text", **more: Any) -> dict[str, Any]:
    return {"id": key, "text": text, **more}


def test_a_document_is_added_found_shown_changed_and_deleted(gateway: Gateway) -> None:
    document = doc("one", "spiders", title="t", metadata={"k": [1, "é"]})
    answer = gateway.upsert(document)
    assert answer.status_code == 200
    said = answer.json()
    assert read_token(said.pop("token")).reached.keys() == {0}
    version = gateway.document("GET", "one").json()["version"]
    assert said == {
        "results": [{"id": "one", "status": "created", "error": None, "version": version}],
        "created": 1, "updated": 0, "unchanged": 0, "conflict": 0, "rejected": 0, "failed": 0,
    }  # fmt: skip
    found = httpx.post(f"{gateway.url}/v1/search", json={"query": "t spiders"}).json()
    assert found["hits"][0]["id"] == "one"
    assert gateway.document("GET", "one").json() == {
        **document,
        "shard": 0,
        "vector": None,
        "version": version,
    }
    assert gateway.upsert(doc("one", "bees")).json()["updated"] == 1
    assert gateway.document("GET", "one").json()["text"] == "bees"
    gone = gateway.document("DELETE", "one").json()
    assert read_token(gone.pop("token")).reached.keys() == {0}
    assert gone == {"id": "one", "status": "deleted"}
    for method in ("GET", "DELETE"):
        missing = gateway.document(method, "one")
        assert missing.status_code == 404
        assert missing.json()["type"] == "bitsift:NotFound"


def test_a_read_that_must_see_a_write_does_and_one_of_no_write_is_a_422(gateway: Gateway) -> None:
    token = gateway.upsert(doc("seen", "gnats")).json()["token"]
    lines = gateway.stream(b'{"id":"line","text":"moths"}\n')
    versions = read_token(token).reached, read_token(lines[-1]["token"]).reached
    assert versions[0][0] < versions[1][0]
    gone = gateway.post("/v1/documents/delete", {"ids": ["line"]}).json()["token"]
    assert gateway.upsert({"id": "bad"}).json()["token"] is None
    for good in (token, lines[-1]["token"], gone):
        asked = {"q": "gnats", "read_your_writes": good}
        assert httpx.get(f"{gateway.url}/v1/search", params=asked).json()["hits"][0]["id"] == "seen"
        assert gateway.read("seen", good).json()["text"] == "gnats"
    for bad in ("", "x", token[:-2], "A" * 70_000):
        refused = gateway.read("seen", bad) if len(bad) < 30_000 else None
        body = {"query": "gnats", "read_your_writes": bad}
        for answer in filter(None, (refused, gateway.post("/v1/search", body))):
            assert answer.status_code == 422
            assert answer.json()["detail"].startswith("read_your_writes: ")


@pytest.mark.parametrize(
    "key",
    ["a/../b", "..", ".", "/", "//x", "delete", "é", "e\u0301", "a b?c#d%2F", "line\nbreak\n",
     "nul\0", "🕷️", "\u202eback", "x" * 5_000, "é" * 4_000, "?", "\\", "+", "\ufeff."],
)  # fmt: skip
def test_any_id_comes_back_exactly_and_is_deleted_by_its_path(gateway: Gateway, key: str) -> None:
    assert gateway.upsert(doc(key, "by path")).json()["results"][0]["id"] == key
    shown = gateway.document("GET", key)
    assert shown.status_code == 200, shown.text
    assert shown.json()["id"] == key
    gone = gateway.document("DELETE", key).json()
    assert (gone["id"], gone["status"]) == (key, "deleted")
    assert gateway.document("GET", key).status_code == 404


def test_many_are_deleted_in_one_call(gateway: Gateway) -> None:
    gateway.upsert(doc("a"), doc("b"))
    answer = gateway.post("/v1/documents/delete", {"ids": ["a", "nobody", "b"]}).json()
    assert [result["status"] for result in answer["results"]] == ["deleted", "missing", "deleted"]
    assert (answer["deleted"], answer["missing"], answer["failed"]) == (2, 1, 0)


@pytest.mark.parametrize("path", ["/v1/documents", "/v1/documents/delete"])
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b"5",
        b'{"documents": 5, "ids": 5}',
        b'{"documents": [], "ids": [], "x": 1}',
        b"[" * 100_000,
    ],
)
def test_a_bad_body_is_a_422_problem(gateway: Gateway, path: str, body: bytes) -> None:
    response = gateway.post(path, body)
    assert response.status_code == 422, response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["type"] == "bitsift:InvalidRequest"


@pytest.mark.parametrize("path", ["/v1/documents", "/v1/documents/delete"])
@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b'{"documents": [], "ids": []}', "text/plain"),
        (b"documents=1", "application/x-www-form-urlencoded"),
    ],
)
def test_another_content_type_is_a_415_problem(
    gateway: Gateway, path: str, body: bytes, kind: str
) -> None:
    response = gateway.post(path, body, kind)
    assert response.status_code == 415, response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["type"] == "bitsift:UnsupportedMediaType"


def test_one_bad_document_among_ten_thousand_is_reported_and_the_others_are_stored(
    gateway: Gateway,
) -> None:
    vector = [1.0] * DIMENSION
    many = [doc(f"m{i}", vector=vector) for i in range(DOCUMENTS_MAX)]
    many[4_711] = {"id": "m4711", "vector": [0.0] * DIMENSION}
    answer = gateway.upsert(*many).json()
    assert (answer["created"], answer["rejected"]) == (DOCUMENTS_MAX - 1, 1)
    assert answer["results"][4_711]["error"]["detail"] == "vector is all zeros"
    ids = [document["id"] for document in many]
    assert gateway.post("/v1/documents/delete", {"ids": ids}).json()["deleted"] == len(ids) - 1


def test_too_many_documents_or_bytes_are_a_413(gateway: Gateway) -> None:
    assert gateway.upsert(*[doc("a")] * (DOCUMENTS_MAX + 1)).status_code == 413
    announced = gateway.post("/v1/documents", b" " * (UPSERT_BYTES_MAX + 1))
    assert announced.status_code == 413

    def chunks() -> Iterator[bytes]:
        for _ in range(UPSERT_BYTES_MAX // 65_536 + 4):
            yield b" " * 65_536

    headers = {"content-type": "application/json"}
    url = f"{gateway.url}/v1/documents"
    assert httpx.post(url, content=chunks(), headers=headers, timeout=60).status_code == 413
    ids = b'{"ids":["' + b"x" * BODY_BYTES_MAX + b'"]}'
    assert gateway.post("/v1/documents/delete", ids).status_code == 413
    large = doc("large", "x" * (BODY_BYTES_MAX + 1))
    assert gateway.upsert(large).json()["created"] == 1
    gateway.document("DELETE", "large")


def test_writes_beyond_what_can_be_held_are_told_to_come_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(document_routes, "RAM_BYTES_MAX", 1_000 * RAM_PER_BYTE)
    with serving(tmp_path) as gateway:
        gateway.link.gate.clear()
        answers: list[httpx.Response] = []
        held = threading.Thread(target=lambda: answers.append(gateway.upsert(doc("a", "x" * 600))))
        held.start()
        gateway.link.entered.get(timeout=30)
        refused = gateway.upsert(doc("b", "x" * 600))
        gateway.link.gate.set()
        ended(held)
        assert refused.status_code == 429
        assert refused.headers["retry-after"]
        assert refused.json()["type"] == "bitsift:Overloaded"
        assert answers[0].json()["created"] == 1
        assert gateway.upsert(doc("b", "x" * 600)).json()["created"] == 1


def test_one_write_more_than_may_go_on_at_once_is_told_to_come_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(document_routes, "CALLS_MAX", 1)
    with serving(tmp_path) as gateway:
        gateway.link.gate.clear()
        answers: list[httpx.Response] = []
        held = threading.Thread(target=lambda: answers.append(gateway.upsert(doc("a"))))
        held.start()
        gateway.link.entered.get(timeout=30)
        for refused in (gateway.upsert(doc("b")), gateway.document("DELETE", "b")):
            assert refused.status_code == 429
            assert "1 writes are already in progress" in refused.json()["detail"]
        gateway.link.gate.set()
        ended(held)
        assert answers[0].json()["created"] == 1


def test_a_damaged_document_is_a_500_that_names_it(tmp_path: Path) -> None:
    class DamagedLink(LocalLink):
        async def stored(self, ids: Sequence[str], *_: Any) -> Sequence[Found]:
            return [ChecksumMismatch(f"document {it!r} in row 3 is damaged") for it in ids]

    nothing = np.empty((0, DIMENSION), dtype=np.float32)
    shards, calibration = make_shards(tmp_path, nothing, DIMENSION, 1)
    link = DamagedLink(shards[0])
    running = Gateway(make_service([link], calibration), make_writer([link], calibration))
    try:
        response = running.document("GET", "x")
        assert response.status_code == 500
        assert response.json()["type"] == "bitsift:ChecksumMismatch"
        assert "'x'" in response.json()["detail"]
    finally:
        running.stop()
        shards[0].close()


def test_a_dead_shard_is_a_503_for_every_route(tmp_path: Path) -> None:
    _, calibration = make_shards(tmp_path, np.empty((0, DIMENSION), dtype=np.float32), DIMENSION, 0)
    failed = ShardUnavailable("shard 0 is failed: no disk")
    dead = BrokenLink(failed.with_outcome(RequestOutcome.NOT_DONE))
    running = Gateway(make_service([dead], calibration), make_writer([dead], calibration))
    try:
        for response in (
            running.upsert(doc("a")),
            running.document("GET", "a"),
            running.document("DELETE", "a"),
            running.post("/v1/documents/delete", {"ids": ["a"]}),
        ):
            assert response.status_code == 503, response.text
            assert response.headers["retry-after"]
            assert "no disk" in response.json()["detail"]
            assert response.json()["outcome"] == "not_done"
        *results, last = running.stream(b'{"id":"a","text":"b"}\n')
        assert results[0]["error"]["type"] == "ShardUnavailable"
        assert results[0]["error"]["outcome"] == "not_done"
        assert last["totals"]["failed"] == 1
    finally:
        running.stop()


def test_every_refusal_says_that_nothing_was_done(gateway: Gateway) -> None:
    for response, status in (
        (gateway.post("/v1/documents", {"documents": 5}), 422),
        (gateway.post("/v1/documents/delete", {"ids": [[5]]}), 422),
        (gateway.post("/v1/documents", {"documents": [{}] * 10_001}), 413),
        (gateway.document("GET", "nobody"), 404),
        (httpx.put(f"{gateway.url}/v1/documents"), 405),
        (httpx.post(f"{gateway.url}/v1/documents", content=b"x"), 415),
        (httpx.get(f"{gateway.url}/nothing"), 404),
    ):
        assert response.status_code == status, response.text
        assert response.json()["outcome"] == "not_done", response.text
        assert ("allow" in response.headers) == (status == 405)


def test_the_outcome_is_described(gateway: Gateway) -> None:
    schemas = httpx.get(f"{gateway.url}/openapi.json").json()["components"]["schemas"]
    assert schemas["RequestOutcome"]["enum"] == ["not_done", "unknown", "done"]
    assert "outcome" in schemas["Problem"]["required"]
    assert "outcome" in schemas["WriteError"]["properties"]


# --- streams -------------------------------------------------------------------------------


def test_a_stream_of_any_number_is_answered_line_by_line_and_with_totals(gateway: Gateway) -> None:
    def lines() -> Iterator[bytes]:
        for i in range(3_000):
            yield json.dumps(doc(f"s{i}", f"text {i}")).encode() + b"\n"
        yield b'{"id": "broken\n'
        yield b'{"id": "last", "text": "no newline at the end"}'

    *results, last = gateway.stream(lines())
    assert [result["line"] for result in results] == list(range(1, 3_003))
    assert results[3_000]["status"] == "rejected"
    assert results[3_001]["id"] == "last"
    assert read_token(last.pop("token")).reached.keys() == {0}
    assert last == {
        "totals": dict.fromkeys(UPSERT_STATUSES, 0) | {"created": 3_001, "rejected": 1},
        "error": None,
    }


@pytest.mark.slow
def test_who_sends_all_before_it_reads_asks_for_errors_only(gateway: Gateway) -> None:
    """60,000 answers would not fit between the two: neither side would go on."""
    vector = json.dumps([1.0] * DIMENSION)
    line = '{"id":"h%d","text":"x","vector":' + vector + "}\n"
    body = "".join(line % (i % 100) for i in range(60_000)) + '{"id":""}\n'
    result, last = gateway.stream(body.encode(), "errors")
    assert result["line"] == 60_001
    assert sum(last["totals"].values()) == 60_001
    assert last["totals"]["rejected"] == 1


def test_an_empty_stream_has_totals(gateway: Gateway) -> None:
    nothing = dict.fromkeys(UPSERT_STATUSES, 0)
    assert gateway.stream(b"") == [{"totals": nothing, "error": None, "token": None}]


def test_a_line_that_is_too_long_is_one_rejected_result(gateway: Gateway) -> None:
    def chunks() -> Iterator[bytes]:
        yield b'{"id":"before","text":"x"}\n{"id":"long","text":"'
        for _ in range(LINE_BYTES_MAX // (1 << 20) + 2):
            yield b"x" * (1 << 20)
        yield b'"}\n{"id":"after","text":"x"}\n'

    *results, last = gateway.stream(chunks())
    assert [(r["line"], r["status"]) for r in results] == [
        (1, "created"), (2, "rejected"), (3, "created")
    ]  # fmt: skip
    assert "16,777,216 bytes" in results[1]["error"]["detail"]
    assert last["totals"]["rejected"] == 1


@pytest.mark.parametrize("error", [MemoryError(), ShardUnavailable("the writer died")], ids=repr)
def test_a_block_that_fails_is_told_line_by_line_and_the_stream_goes_on(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Whatever is raised: the lines before and after it have their answers."""
    write, blocks = WriteService.upsert_lines, list[int]()

    async def failing(self: Any, block: bytes, first_line: int, only_errors: bool) -> Any:
        blocks.append(first_line)
        if len(blocks) == 2:
            raise error
        return await write(self, block, first_line, only_errors)

    monkeypatch.setattr(WriteService, "upsert_lines", failing)
    pad = "x" * (line_blocks.BLOCK_BYTES // 2)
    lines = [json.dumps(doc(f"block{i}", f"{i} {pad}")) for i in range(12)]
    *results, last = gateway.stream("\n".join(lines).encode())
    assert len(blocks) > 2
    assert [result["line"] for result in results] == list(range(1, 13))
    failed = [result for result in results if result["status"] == "failed"]
    assert failed[0]["line"] == blocks[1]
    assert {result["error"]["outcome"] for result in failed} == {"unknown"}
    assert type(error).__name__ in json.dumps(failed[0]["error"])
    assert last["totals"]["created"] + last["totals"]["unchanged"] == 12 - len(failed)
    assert last["totals"]["failed"] == len(failed)


def test_the_same_id_in_two_lines_is_written_in_their_order(gateway: Gateway) -> None:
    pad = "x" * (line_blocks.BLOCK_BYTES // 4)
    lines = [json.dumps(doc("twice", f"{i} {pad}")) for i in range(12)]
    gateway.stream("\n".join(lines).encode())
    assert gateway.document("GET", "twice").json()["text"].startswith("11 ")


class Duplex:
    """A client that reads while it sends, over one socket, as curl does."""

    def __init__(self, url: str) -> None:
        parsed = urlparse(url)
        self.socket = socket.create_connection((parsed.hostname, parsed.port), timeout=30)
        self.socket.sendall(
            b"POST /v1/documents HTTP/1.1\r\nhost: localhost\r\n"
            b"content-type: application/x-ndjson\r\n"
            b"transfer-encoding: chunked\r\n\r\n"
        )
        self.reader = self.socket.makefile("rb")

    def send(self, data: bytes) -> None:
        self.socket.sendall(b"%x\r\n%b\r\n" % (len(data), data))

    def line(self) -> dict[str, Any]:
        """The next line of the answer, wherever its chunks end."""
        while True:
            line = self.reader.readline()
            assert line
            if line.startswith(b"{"):
                return dict(json.loads(line))

    def close(self) -> None:
        self.reader.close()
        self.socket.close()


def test_results_come_while_the_stream_is_still_being_sent(gateway: Gateway) -> None:
    duplex = Duplex(gateway.url)
    for i in range(3):
        duplex.send(b'{"id":"live%d","text":"x"}\n' % i)
        answer = duplex.line()
        shown = gateway.document("GET", f"live{i}").raise_for_status().json()
        assert answer == {
            "line": i + 1, "id": f"live{i}", "status": "created", "error": None,
            "version": shown["version"],
        }  # fmt: skip
    duplex.send(b"")
    assert duplex.line()["totals"]["created"] == 3
    duplex.close()


def test_a_stream_that_stops_is_ended_and_says_so(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(document_stream, "IDLE_S", 0.3)
    duplex = Duplex(gateway.url)
    duplex.send(b'{"id":"idle","text":"x"}\n')
    assert duplex.line()["status"] == "created"
    last = duplex.line()
    assert last["totals"]["created"] == 1
    assert last["error"]["type"] == "DeadlineExceeded"
    duplex.close()


def test_a_sender_that_goes_away_leaves_room_for_others_and_is_no_error(
    gateway: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(document_routes.CALLS_MAX + 1):
        duplex = Duplex(gateway.url)
        duplex.send(b'{"id":"gone","text":"x"}\n{"id":"half')
        duplex.line()
        duplex.close()
    assert gateway.stream(b'{"id":"next","text":"x"}')[-1]["totals"]["created"] == 1
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


def test_the_routes_are_described(gateway: Gateway) -> None:
    paths = httpx.get(f"{gateway.url}/openapi.json").json()["paths"]
    assert set(paths["/v1/documents"]) == {"post"}
    assert set(paths["/v1/documents/{document_id}"]) == {"get", "patch", "delete"}
    assert "post" in paths["/v1/documents/delete"]
    content = paths["/v1/documents"]["post"]["requestBody"]["content"]
    assert set(content) == {"application/json", NDJSON}
    items = content["application/json"]["schema"]["properties"]["documents"]["items"]
    assert set(items["properties"]) == {
        "id", "title", "text", "metadata", "vector", "if_absent", "if_version",
    }  # fmt: skip
