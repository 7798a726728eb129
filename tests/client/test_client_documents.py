"""Client and AsyncClient write, read and delete documents of a real gateway."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import json
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from bitsift.client import AsyncClient, Client
from bitsift.client.sending import BATCH_BYTES, IDS_BYTES, delete_bodies, upsert_bodies
from bitsift.errors import (
    InvalidRequest,
    NotFound,
    RequestOutcome,
    StorageFull,
    Unavailable,
)
from bitsift.write_status import WriteStatus
from bitsift.write_token import Reached, WriteToken, joined_text, read_token
from tests.fakes import BrokenLink, make_service, make_shards, make_writer
from tests.gateways import Running, running_empty
from tests.threads import ended

DIMENSION = 64


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_empty(tmp_path_factory.mktemp("client"), DIMENSION) as running:
        yield running.url


def docs(count: int, name: str = "d") -> Iterator[dict[str, Any]]:
    return ({"id": f"{name}{i}", "text": f"text {i}"} for i in range(count))


def test_a_long_iterable_is_sent_in_batches_and_answered_in_order(url: str) -> None:
    with Client(url) as client:
        answer = client.add(docs(600))
        assert (answer.created, len(answer.results)) == (600, 600)
        assert [result.id for result in answer.results] == [f"d{i}" for i in range(600)]
        parts = list(client.add_batches(docs(600), batch=250))
        assert [part.unchanged for part in parts] == [250, 250, 100]
        assert client.get("d7").text == "text 7"
        gone = client.delete(f"d{i}" for i in range(601))
        assert (gone.deleted, gone.missing) == (600, 1)
        assert client.delete("d0").results[0].status is WriteStatus.MISSING
        assert client.add([]).results == ()


@pytest.mark.parametrize("key", ["../x", "..", "a/b?c#d", "a\nb\n", "é", "e\u0301", "x" * 5_000])
def test_any_id_is_added_shown_and_deleted(url: str, key: str) -> None:
    with Client(url) as client:
        assert client.add([{"id": key, "text": "t"}]).results[0].id == key
        assert client.get(key).id == key
        assert client.delete(key).deleted == 1
        with pytest.raises(NotFound):
            client.get(key)


@pytest.mark.parametrize("key", [7, 7.0, np.int64(7), np.float32(7)])
def test_a_number_is_an_id_in_every_call(url: str, key: Any) -> None:
    with Client(url) as client:
        assert client.add([{"id": key, "text": "seven"}]).results[0].id == "7"
        assert client.get(key).id == "7"
        assert client.patch(key, {"a": 1}).status == "updated"
        assert [it.id for it in client.get_many([key]).documents] == ["7"]
        assert client.search(like=[key], keep_liked=True, top_k=1).hits[0].id == "7"
        without: Any = np.array([key])
        assert all(hit.id != "7" for hit in client.search("seven", exclude=without).hits)
        assert client.count({"id": key}) == client.count({"id": {"$in": [key]}}) == 1
        version = client.get(key).version
        assert client.delete(key, if_version=version).deleted == 1
        assert client.delete(key).missing == client.delete(np.array([key])).missing == 1


def test_numbers_and_arrays_of_numpy_are_taken_wherever_python_has_its_own(url: str) -> None:
    metadata = {"n": np.int64(4), "f": np.float32(1.5), "b": np.bool_(True),
                "a": np.arange(6)[::2], "day": datetime.date(2026, 1, 31)}  # fmt: skip
    vector = np.random.default_rng(2).standard_normal((1, DIMENSION))
    with Client(url) as client:
        document = {"id": np.str_("np"), "text": np.str_("x"), "metadata": metadata}
        few: Any = np.int64(3)
        assert client.add([{**document, "vector": vector}], batch=few).created == 1
        assert client.get("np").metadata == {
            "n": 4, "f": 1.5, "b": True, "a": [0, 2, 4], "day": "2026-01-31",
        }  # fmt: skip
        filter = {"n": {"$gte": np.int64(4)}, "b": np.bool_(True), "f": {"$in": np.array([1.5])}}
        options: dict[str, Any] = {
            "explain": np.bool_(False), "top_k": np.int64(5), "min_score": np.float32(0.5),
            "filter": filter,
        }  # fmt: skip
        for given in (vector, vector.tolist(), vector[0], vector[0].astype("float16"), [vector[0]]):
            hits = client.search(vector=given, **options).hits
            assert [hit.id for hit in hits] == ["np"]
        assert client.page(limit=few).documents
        client.delete(["np"])


def test_a_nan_in_metadata_is_judged_by_the_gateway_and_not_sent_as_null(url: str) -> None:
    with Client(url) as client:
        sent = client.add({"id": "nan", "text": "x", "metadata": {"a": np.array([1.0, np.nan])}})
        line = b'{"id": "nan", "text": "x", "metadata": {"a": [1.0, NaN]}}'
        headers = {"Content-Type": "application/x-ndjson"}
        answer = httpx.post(f"{url}/v1/documents", content=line, headers=headers)
        said = json.loads(answer.text.splitlines()[0])
        assert (sent.rejected == 1) == (said["status"] == "rejected")
        client.delete("nan")


@pytest.mark.parametrize("kind", [list, tuple, np.array, np.float32])
def test_vectors_of_any_kind_arrive_as_they_are(url: str, kind: Any) -> None:
    vector = np.random.default_rng(1).standard_normal(DIMENSION)
    with Client(url) as client:
        assert client.add([{"id": "v", "vector": kind(vector)}]).failed == 0
        answer = client.search(vector=vector.tolist(), top_k=1)
        assert (answer.hits[0].id, round(answer.hits[0].score, 2)) == ("v", 1.0)
        client.delete("v")


def test_what_cannot_be_a_vector_is_rejected_by_the_gateway_not_sent_as_another(url: str) -> None:
    bad = [["a"], [float("nan")] * DIMENSION, np.ones((2, DIMENSION // 2)), [1e300] * DIMENSION, []]
    with Client(url) as client:
        answer = client.add({"id": "b", "vector": vector} for vector in bad)
        assert answer.rejected == len(bad)


def test_a_bad_document_is_a_result_and_no_exception(url: str) -> None:
    with Client(url) as client:
        answer = client.add([{"id": "a\ud800", "text": "x"}, {"id": "n", "text": 10**30}, {}])
        assert answer.rejected == 3
        assert answer.results[0].error is not None
        assert "surrogate" in answer.results[0].error.detail
        with pytest.raises(InvalidRequest, match="'a' cannot be written as JSON"):
            client.add([{"id": "a", "text": object()}])


def test_the_asynchronous_client_does_the_same(url: str) -> None:
    async def scenario() -> None:
        async with AsyncClient(url) as client:
            assert (await client.add(docs(300, "async"))).created == 300
            assert (await client.get("async1")).text == "text 1"
            assert (await client.delete(f"async{i}" for i in range(300))).deleted == 300
            assert (await client.delete("async1")).missing == 1

    asyncio.run(scenario())


class AnswerLoser:
    """A proxy before the gateway at ``url``: the first request gets there, its answer does not get
    back, and ``between`` happens then. All later ones pass.
    """

    def __init__(self, url: str, between: Callable[[], object]) -> None:
        self.forwarded = 0
        self._target = ("127.0.0.1", int(url.rpartition(":")[2]))
        self._between = between
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        with self._listener, contextlib.suppress(OSError):  # closed by close()
            while True:
                client, _ = self._listener.accept()
                with client, socket.create_connection(self._target) as gateway:
                    self.forwarded += 1
                    gateway.sendall(_whole_request(client))
                    answer = gateway.recv(1 << 16)
                    if self.forwarded == 1:
                        self._between()
                    else:
                        client.sendall(answer)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        ended(self._thread)


def _whole_request(client: socket.socket) -> bytes:
    data = b""
    client.settimeout(30)
    while b"\r\n\r\n" not in data:
        data += client.recv(1 << 16)
    head, _, body = data.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    while len(body) < length:
        body += client.recv(1 << 16)
    return head + b"\r\n\r\n" + body


def test_a_write_whose_answer_is_lost_does_not_undo_what_another_client_wrote_since(
    url: str,
) -> None:
    """B7, as it happens: the copy that a client sends by itself comes after the other's change."""
    with Client(url) as other:
        acts: list[Callable[[Client], object]] = [
            lambda client: client.add([{"id": "lost", "text": "mine"}]),
            lambda client: client.delete("lost"),
        ]
        for act in acts:
            other.add([{"id": "lost", "text": "at first"}])
            loser = AnswerLoser(url, lambda: other.add([{"id": "lost", "text": "the other's"}]))
            try:
                with Client(loser.url) as client, pytest.raises(Unavailable) as raised:
                    act(client)
            finally:
                loser.close()
            assert raised.value.outcome is RequestOutcome.UNKNOWN
            assert loser.forwarded == 1
            assert other.get("lost").text == "the other's"


def test_what_befell_all_documents_is_raised(tmp_path_factory: pytest.TempPathFactory) -> None:
    nothing = np.empty((0, DIMENSION), dtype=np.float32)
    _, calibration = make_shards(tmp_path_factory.mktemp("full"), nothing, DIMENSION, 0)
    links = [BrokenLink(StorageFull("the disk is full"))]
    running = Running(make_service(links, calibration), make_writer(links, calibration))
    try:
        with Client(running.url) as client, pytest.raises(StorageFull, match="the disk is full"):
            client.add([{"id": "a", "text": "b"}])
    finally:
        running.stop()


def test_bodies_are_cut_by_number_and_by_bytes() -> None:
    sizes = [len(json.loads(body)["documents"]) for body in upsert_bodies(docs(10), 4)]
    assert sizes == [4, 4, 2]
    large = ({"id": str(i), "text": "x" * (BATCH_BYTES // 3)} for i in range(5))
    assert [len(json.loads(body)["documents"]) for body in upsert_bodies(large)] == [2, 2, 1]
    one = list(upsert_bodies([{"id": "a", "text": "x" * (2 * BATCH_BYTES)}]))
    assert len(one) == 1
    assert [len(json.loads(b)["ids"]) for b in delete_bodies(["x"] * 10_001)] == [10_000, 1]
    long_ids = ["x" * (IDS_BYTES // 3)] * 5
    assert [len(json.loads(b)["ids"]) for b in delete_bodies(long_ids)] == [2, 2, 1]


def test_a_client_that_remembers_its_writes_sends_their_token_with_each_read(url: str) -> None:
    with Client(url, read_your_writes=True) as client, Client(url) as other:
        client.search("nothing was written yet")
        first = client.add([{"id": "s1", "text": "one"}]).token
        second = client.delete(["s1", "s2"]).token
        assert client._session.token == joined_text([first, second])
        (part,) = client.add_batches([{"id": "s3", "text": "three"}])
        last = part.token
        assert client._session.token == joined_text([first, second, last])
        assert client.get("s3").text == "three"
        assert client.search("three", top_k=1).hits[0].id == "s3"
        assert client.search_many(["three"], top_k=1)[0].hits[0].id == "s3"
        token = read_token(client._session.token or "")
        (shard,) = read_token(last or "").reached
        later = token.reached[shard].version + (1 << 16)
        to_come = {shard: Reached(0, later)}  # of a write that has not arrived
        client._session.token = WriteToken(token.index, to_come).text()
        (seen,) = client.search_many(["three"], timeout_ms=400)
        for answer in (seen, client.search("three", timeout_ms=400)):
            assert {failure.error for failure in answer.coverage.failures} == {"ReplicaBehind"}
        assert client.search("three", read_your_writes=last, top_k=1).hits[0].id == "s3"
        assert client.get("s3", read_your_writes=last).text == "three"
        assert other.add([{"id": "s3", "text": "three"}]).token is not None
        assert other._session.token is None
        assert other.search("three", top_k=1).hits[0].id == "s3"
        for broken in ("", "none", b"x", 5):
            with pytest.raises(InvalidRequest, match="read_your_writes"):
                other.get("s3", read_your_writes=broken)  # type: ignore[arg-type]


def test_an_async_client_does_the_same(url: str) -> None:
    async def scenario() -> None:
        async with AsyncClient(url, read_your_writes=True) as client:
            added = await client.add([{"id": "t1", "text": "one"}])
            gone = await client.delete("t2")
            assert client._session.token == joined_text([added.token, gone.token])
            assert (await client.get("t1")).text == "one"
            assert (await client.search("one", top_k=1)).hits[0].id == "t1"
            with pytest.raises(InvalidRequest, match="read_your_writes"):
                await client.get("t1", read_your_writes="none")

    asyncio.run(scenario())
