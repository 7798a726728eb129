"""Files over HTTP: a real gateway, real shards, and readers in processes of their own."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import socket
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import httpx
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bitsift.cluster.sources.live import live_documents
from bitsift.cluster.sources.plan import Fields
from bitsift.errors import BitsiftError
from bitsift.router.http import file_reader, file_routes
from bitsift.router.http.file_routes import FILE_PATH
from bitsift.router.http.media_types import NDJSON, OCTETS
from tests.commands import wait_until
from tests.gateways import running_empty

pytestmark = pytest.mark.slow  # each reader is a process that loads Arrow
DIMENSION = 64
WORDS = [{"id": f"w{n}", "title": f"word {n}", "text": f"the meaning of {n}", "year": n}
         for n in range(50)]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Gateway:
    url: str

    def send(self, name: str, data: bytes, kind: str = OCTETS, **said: str) -> httpx.Response:
        return httpx.post(
            f"{self.url}{FILE_PATH}", params={"name": name, **said}, content=data,
            headers={"content-type": kind}, timeout=60,
        )  # fmt: skip

    def lines(self, name: str, data: bytes, **said: str) -> list[dict[str, Any]]:
        answer = self.send(name, data, **said)
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"].startswith(NDJSON)
        return [json.loads(line) for line in answer.text.splitlines()]

    def refused(self, name: str, data: bytes, kind: str = OCTETS, **said: str) -> tuple[int, str]:
        answer = self.send(name, data, kind, **said)
        return answer.status_code, answer.json()["detail"]

    def document(self, key: str) -> dict[str, Any]:
        found: dict[str, Any] = httpx.get(f"{self.url}/v1/documents/{key}").json()
        return found


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """An index of two shards that the tests fill."""
    with running_empty(tmp_path_factory.mktemp("index"), DIMENSION) as running:
        yield Gateway(running.url)


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Nothing is left of a file that was taken."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert wait_until(lambda: not list(folder.iterdir()))


def jsonl(rows: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def csv(rows: list[dict[str, Any]], separator: str = ",") -> bytes:
    lines = [separator.join(rows[0]), *(separator.join(map(str, row.values())) for row in rows)]
    return "\n".join([*lines, ""]).encode()


def parquet(rows: list[dict[str, Any]]) -> bytes:
    out = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), out)
    return bytes(out.getvalue())


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("words.jsonl", jsonl(WORDS)),
        ("words.json", json.dumps(WORDS).encode()),
        ("words.csv", csv(WORDS)),
        ("words.csv", b"\xff\xfe" + csv(WORDS, ";").decode().encode("utf-16-le")),
        ("words.tsv.gz", gzip.compress(csv(WORDS, "\t"))),
        ("words.parquet", parquet(WORDS)),
        ("../../words of mine.jsonl", jsonl(WORDS)),
        ("-.jsonl", jsonl(WORDS)),
    ],
)
def test_a_file_is_read_by_its_name(gateway: Gateway, name: str, data: bytes) -> None:
    *before, last = gateway.lines(name, data)
    totals = last["totals"]
    assert totals["created"] + totals["updated"] + totals["unchanged"] == len(WORDS)
    assert (totals["rejected"], last["error"]) == (0, None)
    assert last["token"]
    assert before
    assert all(set(line) == {"totals"} for line in before)
    stored = gateway.document("w7")
    assert (stored["title"], stored["text"]) == ("word 7", "the meaning of 7")
    assert stored["metadata"]["year"] in (7, "7")


def test_every_record_is_a_document_or_has_a_line_with_its_place(
    gateway: Gateway, tmp_path: Path
) -> None:
    """As `bitsift add` says of the same file."""
    data = jsonl(WORDS[:3]) + b"{broken\n\n" + jsonl([{"id": "n", "year": 3}, {"text": "x"}])
    data += jsonl([{"id": "v", "text": "y", "vector": [1.0, 2.0]}, {"id": "c", "if_version": "1",
                                                                   "text": "z"}])  # fmt: skip
    *said, last = gateway.lines("some.jsonl", data)
    problems = {line["line"]: line for line in said if "line" in line}
    file = tmp_path / "some.jsonl"
    file.write_bytes(data)
    found = list(live_documents([str(file)], Fields())[0])
    assert [it.line for it in found if it.document is None] == [4]
    assert set(problems) == {4, 6, 8, 9}
    assert problems[4]["error"]["detail"] == found[3].reason
    assert {line["error"]["outcome"] for line in problems.values()} == {"not_done"}
    assert "expected 64 float32" in problems[8]["error"]["detail"]
    assert problems[9]["status"] == "conflict"
    assert (last["totals"]["rejected"], last["totals"]["conflict"]) == (3, 1)
    assert sum(last["totals"].values()) == len(found)


def test_vectors_and_fields_are_taken_as_said(gateway: Gateway) -> None:
    rows = [{"key": f"k{n}", "kopf": f"t{n}", "inhalt": "words", "e": [float(n + 1)] + [0.5] * 63}
            for n in range(3)]  # fmt: skip
    fields = {"id_field": "key", "text_field": "inhalt", "title_field": "kopf", "vector_field": "e"}
    for name, data in (("rows.jsonl", jsonl(rows)), ("rows.parquet", parquet(rows))):
        *_, last = gateway.lines(name, data, **fields)
        assert sum(last["totals"].values()) == 3
        assert last["totals"]["rejected"] == 0, last
        assert gateway.document("k1")["title"] == "t1"


def test_the_form_of_a_table_can_be_said(gateway: Gateway) -> None:
    data = b"# a comment of ours\n" + b"".join(
        b"t%d!'a text! of %d'!z\n" % (n, n) for n in range(3)
    )
    said = {"header": "false", "columns": "id,text,kind", "delimiter": "!", "quote": "'"}
    *_, last = gateway.lines("rows.csv", data, skip_lines="1", **said)
    assert last["totals"]["created"] == 3, last
    assert gateway.document("t2")["text"] == "a text! of 2"
    status, detail = gateway.refused("rows.csv", b"a,b\n1,2\n", delimiter='"')
    assert (status, "--" in detail) == (422, False), detail


def test_a_long_name_of_other_letters_is_a_name(gateway: Gateway) -> None:
    for ending in (".csv", ".tsv.gz"):
        data = csv(WORDS) if ending == ".csv" else gzip.compress(csv(WORDS, "\t"))
        *_, last = gateway.lines("日" * 90 + ending, data)
        assert sum(last["totals"].values()) == len(WORDS)


def test_what_was_found_out_of_a_table_is_said(gateway: Gateway) -> None:
    *_, last = gateway.lines("words.csv", csv(WORDS, "|"))
    assert last["notes"] == ["words.csv: found delimiter | (delimiter)"]
    *_, last = gateway.lines("words.csv", csv(WORDS, "|"), delimiter="|")
    assert last["totals"]["unchanged"] == len(WORDS)


def test_an_empty_file_has_no_documents(gateway: Gateway) -> None:
    *_, last = gateway.lines("words.jsonl", b"")
    assert (sum(last["totals"].values()), last["error"], last["token"]) == (0, None, None)


@pytest.mark.parametrize(
    ("name", "data", "said", "reason"),
    [
        ("words", b"x", {}, "does not say the format"),
        ("words.xyz", b"x", {}, "words.xyz"),
        (".csv", b"x", {}, "does not say the format"),
        ("words.csv", b"a,b\n1,2\n", {}, "text"),
        ("words.csv", csv(WORDS), {"delimiter": ";;"}, "delimiter"),
        ("words.csv", csv(WORDS), {"text_field": "meaning"}, "meaning"),
        ("words.csv", csv(WORDS), {"encoding": "klingon"}, "klingon"),
        ("words.parquet", b"PAR1 and no more", {}, "words.parquet"),
        ("words.csv", csv(WORDS), {"textfield": "text"}, "text_field"),
        ("n" * 300 + ".csv", b"x", {}, "name"),
        ("", b"x", {}, "name"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_by_its_name(
    gateway: Gateway, temporary: Path, name: str, data: bytes, said: dict[str, str], reason: str
) -> None:
    status, detail = gateway.refused(name, data, **said)
    assert (status, reason in detail) == (422, True), (status, detail)
    assert str(temporary) not in detail
    assert "bitsift-file-" not in detail


def test_other_types_and_larger_files_are_refused(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert gateway.refused("words.csv", csv(WORDS), "text/plain")[0] == 415
    assert gateway.refused("words.csv", csv(WORDS), "text/csv")[0] == 415
    monkeypatch.setattr(file_routes, "FILE_BYTES_MAX", 1_000)
    status, detail = gateway.refused("words.jsonl", jsonl(WORDS))
    assert (status, "bitsift add" in detail) == (413, True)

    def pieces() -> Iterator[bytes]:
        yield from (jsonl(WORDS[n : n + 5]) for n in range(0, 50, 5))

    answer = httpx.post(
        f"{gateway.url}{FILE_PATH}", params={"name": "words.jsonl"}, content=pieces(),
        headers={"content-type": OCTETS}, timeout=60,
    )  # fmt: skip
    assert answer.status_code == 413


def begun(gateway: Gateway, data: bytes, length: int) -> socket.socket:
    """A connection that sends ``data`` of a file of ``length`` bytes."""
    address = urlparse(gateway.url)
    connection = socket.create_connection((str(address.hostname), int(address.port or 0)))
    head = (
        f"POST {FILE_PATH}?name=words.jsonl HTTP/1.1\r\nHost: {address.netloc}\r\n"
        f"Content-Type: {OCTETS}\r\nContent-Length: {length}\r\n\r\n"
    )
    connection.sendall(head.encode() + data)
    return connection


def test_only_so_many_files_are_taken_at_once(gateway: Gateway) -> None:
    half = [begun(gateway, b"{", 100) for _ in range(file_routes.FILES_MAX)]
    try:
        assert wait_until(lambda: gateway.send("a.jsonl", jsonl(WORDS)).status_code == 429)
    finally:
        for connection in half:
            connection.close()
    assert wait_until(lambda: gateway.send("a.jsonl", jsonl(WORDS)).status_code == 200)


def readers() -> list[psutil.Process]:
    found = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            found += [child] if file_reader.READER in child.cmdline() else []
    return found


def test_nobody_reads_for_a_caller_that_went_away(gateway: Gateway) -> None:
    data = jsonl([{"id": f"many {n}", "text": f"words {n} " * 20} for n in range(60_000)])
    connection = begun(gateway, data, len(data))
    assert wait_until(readers)
    connection.close()
    assert wait_until(lambda: not readers())


def test_one_file_is_read_after_the_other(gateway: Gateway) -> None:
    data = [
        jsonl([{"id": f"{name} {n}", "text": f"words {n} " * 20} for n in range(5_000)])
        for name in "abc"
    ]
    most = 0
    with ThreadPoolExecutor(3) as pool:
        answers = [pool.submit(gateway.lines, "words.jsonl", one) for one in data]
        while not all(answer.done() for answer in answers):
            most = max(most, len(readers()))
            time.sleep(0.01)
    assert most == file_routes.READERS_MAX
    assert all(sum(it.result(60)[-1]["totals"].values()) == 5_000 for it in answers)


def test_a_reader_that_is_killed_is_said_in_the_last_line(gateway: Gateway) -> None:
    data = jsonl([{"id": f"many {n}", "text": f"words {n} " * 20} for n in range(60_000)])
    address = f"{gateway.url}{FILE_PATH}?name=words.jsonl"
    with httpx.stream(
        "POST", address, content=data, headers={"content-type": OCTETS}, timeout=60
    ) as answer:
        found = answer.iter_lines()
        next(found)
        (reader,) = readers()
        reader.kill()
        last = json.loads(list(found)[-1])
    assert last["error"]["type"] == "Unavailable"
    assert "the process that read the file ended" in last["error"]["detail"]
    assert 0 < last["totals"]["created"] + last["totals"]["unchanged"] < 60_000


def test_a_reader_that_finds_nothing_out_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_reader, "BEGIN_TIMEOUT_S", 0.01)
    file = tmp_path / "words.jsonl"
    file.write_bytes(jsonl(WORDS))

    async def read() -> None:
        async with file_reader.reading(file, {}):
            pass

    with pytest.raises(BitsiftError, match="the form of the file was not found in 0 s"):
        asyncio.run(read())
    assert not readers()


def test_a_file_may_be_called_as_ours_are(gateway: Gateway) -> None:
    for name in ("errors.txt", ".errors.txt", "~$errors.jsonl"):
        data = jsonl(WORDS) if name.endswith("l") else b"A text about errors."
        *_, last = gateway.lines(name, data)
        assert sum(last["totals"].values()) == (len(WORDS) if name.endswith("l") else 1)
