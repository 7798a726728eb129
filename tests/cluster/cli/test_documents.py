"""bitsift add, delete and get against a real gateway in this process."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import re
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

from bitsift.client import Client
from bitsift.cluster.cli import documents as cli_documents
from bitsift.cluster.cli.main import app
from bitsift.cluster.sources.id_lists import read_ids
from bitsift.errors import (
    BitsiftError,
    InvalidRequest,
    NotFound,
    RequestOutcome,
    ShardUnavailable,
    StorageFull,
)
from bitsift.shard_worker.operations import Delete, Operation, Outcome
from bitsift.write_status import WriteStatus
from bitsift.write_token import read_token
from tests.fakes import BrokenLink, make_service, make_shards, make_writer
from tests.gateways import Running, running_empty
from tests.threads import ended

DIMENSION = 64


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_empty(tmp_path_factory.mktemp("cli"), DIMENSION) as running:
        yield running.url


def bitsift(*arguments: object, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin)


def put(path: Path, *lines: str) -> Path:
    data = "\n".join(lines).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def line(key: object, text: str = "a text", **more: Any) -> str:
    return json.dumps({"id": key, "text": text, **more})


def test_files_are_added_packed_or_not_and_added_again_change_nothing(
    url: str, tmp_path: Path
) -> None:
    one = put(tmp_path / "one.jsonl", *[line(f"f{i}") for i in range(300)])
    two = put(tmp_path / "two.jsonl.gz", line("g", title="t", metadata={"k": 1}), "")
    done = bitsift("add", one, two, "--url", url)
    assert done.exit_code == 0, done.output
    assert "301 created" in done.output
    again = bitsift("add", one, two, "--url", url, "--json")
    said = json.loads(again.stdout)
    assert read_token(said.pop("token")).reached.keys() == {0, 1}
    assert said == {
        "created": 0, "updated": 0, "unchanged": 301, "conflict": 0, "rejected": 0, "failed": 0,
        "errors": [],
    }  # fmt: skip


def test_bad_lines_are_shown_with_file_and_line_and_the_others_are_stored(
    url: str, tmp_path: Path
) -> None:
    source = put(
        tmp_path / "bad.jsonl", line("b0"), line("b1"), '{"id":', line(""), "5", line("b2")
    )
    done = bitsift("add", source, "--url", url)
    assert done.exit_code == 1
    for said in ("bad.jsonl:3: rejected: broken JSON", "bad.jsonl:4: rejected: empty id",
                 "bad.jsonl:5: rejected: a JSON int", "3 created, 3 rejected"):  # fmt: skip
        assert said in done.output.replace("\n", " ") or said in done.output, done.output
    report = json.loads(bitsift("add", source, "--url", url, "--json").stdout)
    assert (report["unchanged"], report["rejected"]) == (3, 3)
    assert sorted(error["line"] for error in report["errors"]) == [3, 4, 5]
    with Client(url) as client:
        assert client.get("b2").id == "b2"


def test_only_so_many_errors_are_listed(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli_documents, "ERRORS_KEPT_MAX", 2)
    source = put(tmp_path / "bad.jsonl", line("ok"), *["{"] * 5)
    report = json.loads(bitsift("add", source, "--url", url, "--json").stdout)
    assert (report["rejected"], len(report["errors"])) == (5, 2)


def test_a_damaged_file_is_an_error_and_what_came_before_is_stored(
    url: str, tmp_path: Path
) -> None:
    source = put(
        tmp_path / "cut.jsonl.gz", *[line(f"cut{i}", "x" * 99 + str(i)) for i in range(99)]
    )
    source.write_bytes(source.read_bytes()[:-40])
    done = bitsift("add", source, "--url", url)
    assert done.exit_code == 1
    assert "cannot be read" in done.output
    with Client(url) as client:
        assert client.get("cut0").id == "cut0"


def test_an_id_is_shown_and_deleted(url: str, tmp_path: Path) -> None:
    source = put(tmp_path / "x.jsonl", line("a/b", "text", title="title", metadata={"year": 1999}))
    assert bitsift("add", source, "--url", url).exit_code == 0
    token = json.loads(bitsift("add", source, "--url", url, "--json").stdout)["token"]
    shown = bitsift("get", "a/b", "--url", url, "--read-your-writes", token)
    for said in ("title", "text", "year: 1999", "id a/b"):
        assert said in shown.output
    stored = json.loads(bitsift("get", "a/b", "--url", url, "--json").stdout)
    assert (stored["id"], stored["metadata"]) == ("a/b", {"year": 1999})
    refused = bitsift("get", "a/b", "--url", url, "--read-your-writes", token[1:])
    assert isinstance(refused.exception, InvalidRequest)
    gone = bitsift("delete", "a/b", "nobody", "--url", url)
    assert gone.exit_code == 0
    assert "1 deleted, 1 not there" in gone.output
    missing = bitsift("get", "a/b", "--url", url)
    assert isinstance(missing.exception, NotFound)


def test_several_documents_are_shown_and_those_that_are_missing_named(
    url: str, tmp_path: Path
) -> None:
    bitsift("add", put(tmp_path / "x.jsonl", line("g1", "one"), line("g2", "two")), "--url", url)
    shown = bitsift("get", "g2", "g1", "--url", url)
    assert shown.exit_code == 0
    assert shown.stdout.index("two") < shown.stdout.index("one")
    found = bitsift("get", "g1", "nobody", "--vector", "--json", "--url", url)
    assert found.exit_code == 1
    said = json.loads(found.stdout)
    assert [(it["id"], it["text"]) for it in said["documents"]] == [("g1", "one")]
    assert said["documents"][0]["vector"]
    assert said["missing"] == ["nobody"]
    missing = bitsift("get", "nobody", "no[one]", "--url", url)
    assert (missing.exit_code, "no[one]: not there" in missing.stderr) == (1, True)


def test_a_document_is_deleted_in_the_version_that_is_said(url: str, tmp_path: Path) -> None:
    bitsift("add", put(tmp_path / "x.jsonl", line("v1", "one")), "--url", url)
    version = json.loads(bitsift("get", "v1", "--json", "--url", url).stdout)["version"]
    refused = bitsift("delete", "v1", "--if-version", "12345", "--url", url)
    assert (refused.exit_code, "1 in another version" in refused.output) == (1, True)
    done = bitsift("delete", "v1", "--if-version", version, "--url", url)
    assert (done.exit_code, "1 deleted" in done.output) == (0, True)
    for wrong in (["v1", "v2"], ["--filter", "lang = de"], ["--ids-from", "x"]):
        said = bitsift("delete", *wrong, "--if-version", version, "--url", url).exception
        assert isinstance(said, InvalidRequest)
        assert "of one document" in said.message


def test_ids_to_delete_come_from_a_file_too(url: str, tmp_path: Path) -> None:
    bitsift("add", put(tmp_path / "x.jsonl", line(" e1 "), line("e2"), line("e3")), "--url", url)
    ids = put(tmp_path / "ids.txt", " e1 ", "", "e2\r", "nobody")
    answer = json.loads(bitsift("delete", "e3", "--ids-from", ids, "--url", url, "--json").stdout)
    assert (answer["deleted"], answer["missing"]) == (3, 1)
    assert bitsift("delete", "--url", url).exit_code != 0
    assert bitsift("delete", "--ids-from", tmp_path / "none", "--url", url).exit_code != 0


CSV = '\ufeffid,title,text,year\r\n7,one,"first, of all",1999\r\n8,,second,\r\n9,,,\r\n'


def parquet_of(folder: Path) -> Path:
    rows = [{"doc": 7.0, "body": "first", "year": 1999}, {"doc": 8.0, "body": "second"}]
    pq.write_table(pa.Table.from_pylist(rows), folder / "b.parquet")
    return folder / "b.parquet"


def test_standard_input_is_added_in_the_format_that_is_said(url: str, tmp_path: Path) -> None:
    done = bitsift("add", "-", "--format", "csv", "--url", url, stdin=b"id,text\nin1,a\nin2,b\n")
    assert (done.exit_code, "2 created" in done.output) == (0, True)
    pq.write_table(pa.table({"key": ["in3"], "body": ["c"]}), tmp_path / "b.parquet")
    table, names = (tmp_path / "b.parquet").read_bytes(), ["--id-field", "key"]
    done = bitsift("add", "-", "--format", "parquet", *names, "--url", url, stdin=table)
    assert "1 created" in done.output
    with Client(url) as client:
        assert [client.get(f"in{number}").text for number in (1, 2, 3)] == ["a", "b", "c"]


def test_every_source_of_an_index_is_added(url: str, tmp_path: Path) -> None:
    table = tmp_path / "a.csv"
    table.write_text(CSV, encoding="utf-8", newline="")
    done = bitsift("add", table, "--url", url)
    assert (done.exit_code, "2 created, 1 rejected" in done.output) == (1, True), done.output
    assert "a.csv:4: rejected: " in done.output
    with Client(url) as client:
        found = client.get(7)
        assert (found.title, found.text, found.metadata) == (
            "one", "first, of all", {"year": "1999"},
        )  # fmt: skip
        columns = ("--id-field", "doc", "--text-field", "body")
        done = bitsift("add", parquet_of(tmp_path), *columns, "--url", url)
        assert "1 updated, 1 unchanged" in done.output
        assert client.get("7").metadata == {"year": 1999}
        beir = tmp_path / "beir"
        beir.mkdir()
        put(
            beir / "corpus.jsonl", *[json.dumps({"_id": f"beir{i}", "text": "x"}) for i in range(3)]
        )
        put(beir / "queries.jsonl", json.dumps({"_id": "q", "text": "x"}))
        (tmp_path / "note.md").write_text("# A note\n\nof some words\n")
        assert "4 created" in bitsift("add", beir, tmp_path / "note.md", "--url", url).output
        assert client.get("note.md").title == "A note"
        matrix = np.random.default_rng(3).standard_normal((3, DIMENSION)).astype(np.float32)
        np.save(tmp_path / "m.npy", matrix)
        assert "3 created" in bitsift("add", tmp_path / "m.npy", "--url", url).output
        assert client.search(vector=matrix[1], top_k=1).hits[0].id == "m-0000000001"


def test_records_of_json_may_have_vectors_conditions_and_no_id(url: str, tmp_path: Path) -> None:
    vector = np.random.default_rng(4).standard_normal(DIMENSION).tolist()
    source = put(
        tmp_path / "mixed.jsonl",
        line("m1", "own vector", vector=vector, lang="de"),
        line("m2", "of the model"),
        line("m6", "once", if_absent=True),
        json.dumps({"id": "m3", "vector": vector}),
        json.dumps({"id": "m4", "title": "a title alone"}),
        *[json.dumps({"text": "no id"})] * 2,
    )
    report = json.loads(bitsift("add", source, "--url", url, "--json").stdout)
    assert (report["created"], report["unchanged"], report["conflict"]) == (6, 1, 0), report
    with Client(url) as client:
        assert client.get("m1").metadata == {"lang": "de"}
        assert {hit.id for hit in client.search(vector=vector, top_k=2).hits} == {"m1", "m3"}
    only = put(tmp_path / "only.jsonl", json.dumps({"id": "m5", "vector": vector}))
    assert "1 created" in bitsift("add", only, "--url", url).output
    late = put(tmp_path / "late.jsonl", line("m1", "x", if_absent=True))
    assert "1 conflict" in bitsift("add", late, "--url", url).output


def test_a_record_of_json_without_anything_to_read_is_named(url: str, tmp_path: Path) -> None:
    source = put(tmp_path / "e.jsonl", line("e1"), json.dumps({"id": "e2"}), line("e3", " "))
    said = bitsift("add", source, "--url", url).output
    assert "e.jsonl:2: rejected: no text, no title and no vector" in said
    assert "e.jsonl:3: rejected: blank text, no title and no vector" in said


def test_a_pipe_is_read_as_json_lines(url: str, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    data = b"\xef\xbb\xbf" + f"{line('p1', _id='p0')}\n{{\n".encode()
    writer = threading.Thread(target=pipe.write_bytes, args=(data,))
    writer.start()
    done = bitsift("add", pipe, "--url", url)
    ended(writer)
    assert "pipe:2: rejected: broken JSON" in done.output
    assert "1 created, 1 rejected" in done.output
    with Client(url) as client:
        assert client.get("p0").metadata == {"id": "p1"}


def test_numbers_are_ids_to_delete(url: str, tmp_path: Path) -> None:
    file = parquet_of(tmp_path)
    assert list(read_ids(str(file), "doc")) == ["7", "8"]
    lines = put(tmp_path / "n.jsonl", line(7), line(8.0), line(9))
    assert bitsift("add", lines, "--url", url).exit_code == 0
    done = bitsift("delete", "--ids-from", file, "--id-field", "doc", "--url", url)
    assert "2 deleted" in done.output


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.npy", b"", "no list of ids"),
        ("a.txt", b"d1\n\xff\n", "a.txt:2: invalid UTF-8"),
        ("a.csv", b"x,y\n1,2\n", "no field called _id.*--id-field"),
        ("a.jsonl", b'{"id": "d1"}\n{"x": 1}\n', "fields found: x"),
        ("a.jsonl", b'{"id": "d1"}\n{"id": null}\n', "a.jsonl:2: no id"),
        ("a.jsonl", b'{"id": "d1"}\n{\n', "a.jsonl:2: broken JSON"),
        ("a.jsonl", b'{"id": [1]}\n', "a.jsonl:1: id is a list"),
        ("a.txt.gz", gzip.compress(b"d1\nd2\n", mtime=0)[:-9], "truncated"),
    ],
)
def test_a_list_of_ids_that_is_read_in_part_deletes_nothing(
    url: str, tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    (tmp_path / name).write_bytes(content)
    done = bitsift("delete", "--ids-from", tmp_path / name, "--url", url)
    assert isinstance(done.exception, InvalidRequest)
    assert re.search(said, done.exception.message), done.exception.message


@contextlib.contextmanager
def failing(folder: Path, error: BitsiftError) -> Iterator[str]:
    """A gateway whose only shard raises ``error``."""
    _, calibration = make_shards(folder, np.empty((0, DIMENSION), dtype=np.float32), DIMENSION, 0)
    links = [BrokenWrites(error)]
    running = Running(make_service(links, calibration), make_writer(links, calibration))
    try:
        yield running.url
    finally:
        running.stop()


class BrokenWrites(BrokenLink):
    """A shard that can say what it holds, and raises on every write but the ``fine`` first."""

    fine = 0

    async def foresee(self, operations: Sequence[Operation]) -> Sequence[Outcome]:
        return [[WriteStatus.MISSING] * len(operation) for operation in operations]

    async def write(
        self, operations: Sequence[Operation], epoch: int = 0, term: int = 0
    ) -> Sequence[Outcome]:
        self.calls += 1
        if self.calls <= self.fine:
            stored = [WriteStatus.CREATED, WriteStatus.DELETED]
            return [[stored[isinstance(o, Delete)]] * len(o) for o in operations]
        raise self.error


def test_a_cluster_that_is_full_ends_the_command_with_that_error(tmp_path: Path) -> None:
    with failing(tmp_path, StorageFull("the disk is full")) as url:
        done = bitsift("add", put(tmp_path / "x.jsonl", line("a")), "--url", url)
        assert isinstance(done.exception, StorageFull)
        assert "x.jsonl:1: failed, not done: the disk is full" in done.output


def test_documents_of_unknown_outcome_are_named_and_end_the_command_with_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shard dies in the second call: what came before is stored, what comes after is not sent."""
    monkeypatch.setattr(BrokenWrites, "fine", 1)
    source = put(tmp_path / "x.jsonl", *[line(f"d{i}") for i in range(900)])
    with failing(tmp_path, ShardUnavailable("shard 0 died")) as url:
        done = bitsift("add", source, "--url", url)
        assert isinstance(done.exception, ShardUnavailable)
        assert done.exception.outcome is RequestOutcome.UNKNOWN
        assert "x.jsonl:257: failed, may or may not be done: shard 0 died" in done.output
        assert "until then: 256 created" in done.output
    with failing(tmp_path / "json", ShardUnavailable("shard 0 died")) as url:
        report = json.loads(bitsift("add", source, "--url", url, "--json").stdout)
    assert report["created"] == 256
    (error,) = report["errors"]
    assert (error["line"], error["status"]) == (257, "failed")
    assert error["error"]["outcome"] == "unknown"


def test_what_passes_a_filter_is_deleted(url: str, tmp_path: Path) -> None:
    lines = [{"id": f"f{n}", "text": f"text {n}", "metadata": {"f": n}} for n in range(5)]
    file = tmp_path / "new.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert bitsift("add", file, "--url", url).exit_code == 0
    gone = bitsift("delete", "--filter", "f >= 2", "--url", url)
    assert gone.exit_code == 0, gone.output
    assert "3 deleted" in gone.output
    answer = json.loads(bitsift("delete", "--filter", "f exists", "--url", url, "--json").stdout)
    assert {result["id"] for result in answer["results"]} == {"f0", "f1"}
    assert bitsift("delete", "--filter", "f >= 2", "--url", url).output.strip() == "0 deleted"
    for wrong in (["f1", "--filter", "f = 1"], ["--filter", "f => 1"], ["--filter", ""]):
        assert bitsift("delete", *wrong, "--url", url).exit_code != 0


def test_ids_of_unknown_outcome_are_named_after_those_that_are_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BrokenWrites, "fine", 1)
    ids = put(tmp_path / "ids.txt", *[f"d{i}" for i in range(10_001)])
    with failing(tmp_path, ShardUnavailable("shard 0 died")) as url:
        done = bitsift("delete", "--ids-from", ids, "--url", url)
        assert isinstance(done.exception, ShardUnavailable)
        assert "10,000 deleted" in done.output
        assert "d10000: failed, may or may not be done: shard 0 died" in done.output
    with failing(tmp_path / "json", ShardUnavailable("shard 0 died")) as url:
        report = json.loads(bitsift("delete", "--ids-from", ids, "--url", url, "--json").stdout)
    assert (report["deleted"], len(report["results"])) == (10_000, 10_001)
    assert report["results"][-1]["error"]["outcome"] == "unknown"
