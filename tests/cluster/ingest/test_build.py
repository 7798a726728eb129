"""Builds from precomputed embeddings, on a real Ray cluster of this machine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import orjson
import pytest
from typer.testing import CliRunner, Result

from bitsift.cluster.cli.main import app
from bitsift.cluster.ingest.build import build_index
from bitsift.cluster.ingest.options import BuildOptions
from bitsift.cluster.ingest.progress import IndexStage
from bitsift.cluster.manifest import read_manifest
from bitsift.cluster.serving.local import search_local
from bitsift.cluster.serving.ray_cluster import ray_cluster
from bitsift.cluster.sources.synthetic import SyntheticSpec, synthetic_block
from bitsift.errors import InvalidRequest
from bitsift.options import SearchOptions
from bitsift.router.model.spec import EncoderSpec
from bitsift.shard_worker.layout import shard_folder
from bitsift.shard_worker.shard import Shard
from bitsift.shard_worker.types import Document, Query
from tests.tiny_model import build_tiny_model

TWO_SHARDS = BuildOptions(shards=2)


@pytest.fixture(scope="module", autouse=True)
def one_cluster() -> Iterator[None]:
    with ray_cluster(None):
        yield


class Stopped(Exception):
    """What a progress callback raises to end a build in its midst."""


def bitsift(*arguments: object) -> Result:
    """The command line, on the cluster of these tests."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def opened(index: Path) -> list[Shard]:
    manifest = read_manifest(index)
    return [
        Shard(shard_folder(index, number), manifest.calibration, manifest.identity(number))
        for number in range(manifest.shards)
    ]


def stored_ids(index: Path) -> list[str]:
    ids = []
    for shard in opened(index):
        documents = shard.documents(shard.origin, range(shard.status().rows))
        ids += [document.id for document in documents if isinstance(document, Document)]
        shard.close()
    return ids


def test_a_synthetic_corpus_is_built_killed_and_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bitsift.cluster.ingest.load.VECTOR_BATCH_ROWS", 250)
    spec = SyntheticSpec(12_000, dim=64, seed=2)
    seen: list[IndexStage] = []

    def stop_midway(stage: IndexStage) -> None:
        seen.append(stage)
        if stage.stage == "index":
            raise Stopped

    with pytest.raises(Stopped):
        build_index([str(spec)], tmp_path / "index", TWO_SHARDS, on_progress=stop_midway)
    assert seen[-1].total == spec.rows
    assert 0 < seen[-1].documents < spec.rows
    report = build_index([str(spec)], tmp_path / "index", TWO_SHARDS)
    assert report.documents == spec.rows
    assert report.encoded < spec.rows
    assert report.rejects == 0
    assert sorted(map(int, stored_ids(tmp_path / "index"))) == list(range(spec.rows))
    vector = synthetic_block(spec, 11_345, 1)[0]
    best = []
    for shard in opened(tmp_path / "index"):
        (found,) = shard.search([Query(SearchOptions(vector=vector))])
        best += [
            d.id
            for d in shard.documents(found.origin, found.rows[:3].tolist())
            if isinstance(d, Document)
        ]
        counters = shard._current.store.counters
        assert counters.merged_rows == shard.status().rows  # a finished index is all on disk
        shard.close()
    assert "11345" in best


def test_bad_rows_of_a_matrix_are_found_while_it_is_loaded(tmp_path: Path) -> None:
    matrix = np.random.default_rng(0).standard_normal((5_000, 48)).astype(np.float32)
    matrix[[3, 4_999]] = np.nan
    matrix[77] = 0
    np.save(tmp_path / "v.npy", matrix)
    stages: list[IndexStage] = []
    report = build_index(
        [tmp_path / "v.npy"], tmp_path / "index", TWO_SHARDS, on_progress=stages.append
    )
    assert (report.documents, report.rejects) == (4_997, 3)
    assert stages[-1].documents == stages[-1].total == 5_000
    lines = (tmp_path / "index" / "rejects.jsonl").read_text().splitlines()
    assert sorted(orjson.loads(line)["line"] for line in lines) == [4, 78, 5_000]
    assert "v-0000000078" in stored_ids(tmp_path / "index")


def test_the_last_of_several_documents_with_one_id_wins_and_equal_ones_are_merged(
    tmp_path: Path,
) -> None:
    rows = [
        orjson.dumps({"id": f"d{n % 90}", "text": f"{n}", "embedding": [1.0 + n] * 31 + [1.0]})
        for n in range(100)
    ]
    nameless = [orjson.dumps({"text": "again and again", "embedding": [1.0] * 32})] * 7
    (tmp_path / "v.jsonl").write_bytes(b"\n".join([*rows, *nameless]))
    command = ["index", tmp_path / "v.jsonl", "--vector-field", "embedding", "--max-rejects", 0]
    report = orjson.loads(bitsift(*command, "--out", tmp_path / "i", "--json").stdout)
    assert (report["documents"], report["rejects"]) == (91, 0)
    assert (report["replaced"], report["merged"]) == (10, 6)
    answer = search_local(tmp_path / "i", SearchOptions(vector=[1.0] * 32, top_k=100))
    texts = {hit.id: hit.text for hit in answer.hits}
    assert texts["d3"] == "93"
    assert texts["d10"] == "10"
    said = bitsift(*command, "--out", tmp_path / "i").stdout
    assert "replaced by a later record of their id  10" in said


def test_a_matrix_without_one_good_row_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", np.zeros((50, 48), dtype=np.float32))
    with pytest.raises(InvalidRequest, match="all 50 records are bad"):
        build_index([tmp_path / "v.npy"], tmp_path / "index", BuildOptions(shards=1))


def test_precomputed_embeddings_need_no_model(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).standard_normal((700, 100)).astype(np.float32)
    vectors[13] = np.nan
    np.save(tmp_path / "corpus.npy", vectors)
    rows = [orjson.dumps({"id": f"v{i}", "text": f"text {i}", "n": i}) for i in range(700)]
    source = tmp_path / "repository"
    source.mkdir()
    (source / "corpus.jsonl").write_bytes(b"\n".join(rows))
    (source / "README.md").write_text("words")
    index = tmp_path / "index"
    done = bitsift(
        "index", source, "--vectors", tmp_path / "corpus.npy",
        "--out", index, "--shards", 2, "--json",
    )  # fmt: skip
    report = orjson.loads(done.stdout)
    assert report["documents"] == 699
    assert [item["path"] for item in report["passed_over"]] == [str(source / "README.md")]
    refused = bitsift("search", "words", "--index", index).exception
    assert isinstance(refused, InvalidRequest)
    assert "search with a vector" in refused.message
    answer = search_local(index, SearchOptions(vector=vectors[77], top_k=5))
    assert answer.hits[0].id == "v77"
    assert answer.hits[0].metadata == {"n": 77}


def test_precomputed_embeddings_of_a_named_model_take_questions_in_text(tmp_path: Path) -> None:
    model = str(build_tiny_model(tmp_path / "tiny", 64))
    vectors = np.random.default_rng(0).standard_normal((200, 64)).astype(np.float32)
    np.save(tmp_path / "corpus.npy", vectors)
    rows = [orjson.dumps({"id": f"v{i}", "text": f"text {i}"}) for i in range(200)]
    (tmp_path / "corpus.jsonl").write_bytes(b"\n".join(rows))
    options = BuildOptions(model=model, vectors=tmp_path / "corpus.npy", shards=1)
    build_index([tmp_path / "corpus.jsonl"], tmp_path / "index", options)
    of_text = EncoderSpec(model).load().encode_queries(["a question"])[0]
    asked = search_local(tmp_path / "index", SearchOptions("a question", top_k=5))
    given = search_local(tmp_path / "index", SearchOptions(vector=of_text, top_k=5))
    assert [hit.id for hit in asked.hits] == [hit.id for hit in given.hits]
    own = search_local(tmp_path / "index", SearchOptions(vector=vectors[77], top_k=1))
    assert own.hits[0].id == "v77"


def test_long_texts_are_cut_and_counted_or_indexed_in_passages(tmp_path: Path) -> None:
    model = str(build_tiny_model(tmp_path / "tiny", 32))  # it reads 64 tokens
    long = " ".join(f"Now comes number {number}." for number in range(30))
    rows = [{"id": "long", "title": "t", "text": long}, {"id": "short", "text": "A few words."}]
    source = tmp_path / "texts.jsonl"
    source.write_bytes(b"\n".join(map(orjson.dumps, rows)))
    options = BuildOptions(model=model, shards=1, text_field="text")
    whole = build_index([source], tmp_path / "whole", options)
    assert (whole.documents, whole.cut, whole.max_tokens) == (2, 1, 64)
    chunked = replace(options, chunk="tokens=40,overlap=20")
    stages: list[IndexStage] = []
    parts = build_index([source], tmp_path / "parts", chunked, on_progress=stages.append)
    assert parts.documents > 10
    assert parts.cut == 0
    assert stages[-1].documents == stages[-1].total == 2
    asked = SearchOptions("number 17", top_k=10, group_by="chunk.document")
    hits = {hit.id.partition("#")[0]: hit for hit in search_local(tmp_path / "parts", asked).hits}
    assert hits.keys() == {"long", "short"}
    about = (hits["long"].metadata or {})["chunk"]
    assert hits["long"].text == long[about["start"] : about["end"]]
    assert hits["short"].id == "short#1"
    with pytest.raises(InvalidRequest, match="reads 64 tokens"):
        build_index([source], tmp_path / "none", replace(chunked, chunk="tokens=64"))


@pytest.mark.parametrize(("width", "name"), [(48, None), (64, "/no/such/model"), (64, "no/such")])
def test_a_wrong_model_is_known_before_the_sources_are_read(
    width: int, name: str | None, tmp_path: Path
) -> None:
    model = name or str(build_tiny_model(tmp_path / "tiny", 64))
    np.save(tmp_path / "v.npy", np.ones((50, width), dtype=np.float32))
    stages: list[IndexStage] = []
    with pytest.raises(InvalidRequest, match="those of the model|cannot be loaded") as said:
        build_index(
            [tmp_path / "v.npy"],
            tmp_path / "index",
            BuildOptions(model=model, shards=1),
            on_progress=stages.append,
        )
    assert model in said.value.message
    assert not stages
    assert not (tmp_path / "index" / "manifest.json").exists()


def test_too_many_bad_records_stop_the_build(tmp_path: Path) -> None:
    source = tmp_path / "bad.jsonl"
    good = orjson.dumps({"text": "good", "vector": [1.0] * 32})
    source.write_bytes(b"\n".join([good] * 3 + [b"{"] * 30))
    command = ["index", source, "--vector-field", "vector", "--out", tmp_path / "i"]
    stopped = bitsift(*command, "--max-rejects", 5).exception
    assert isinstance(stopped, InvalidRequest)
    assert "more than 5 records are bad" in stopped.message
    assert f"({source}, line 4: broken JSON: " in stopped.message


def test_a_source_of_bad_records_says_why_and_lists_all_of_them(tmp_path: Path) -> None:
    source, index = tmp_path / "bad.jsonl", tmp_path / "index"
    bad = [b'{"id": 1, "v": [1]}', b"{", b'{"id": 2}', b"[]", b'{"id": [3]}']
    source.write_bytes(b"\n".join([orjson.dumps({"v": [0.0] * 32}), *bad]))
    np.save(tmp_path / "v.npy", np.full((len(bad) + 1, 32), np.nan, dtype=np.float32))
    command = ["index", source, "--vectors", tmp_path / "v.npy", "--out", index]
    stopped = bitsift(*command).exception
    assert isinstance(stopped, InvalidRequest)
    listed = [orjson.loads(line) for line in (index / "rejects.jsonl").read_bytes().splitlines()]
    assert [reject["line"] for reject in listed] == [1, 2, 3, 4, 5, 6]
    assert "all 6 records are bad" in stopped.message
    for reject in (listed[0], listed[2], listed[4]):
        assert f"{source}, line {reject['line']}: {reject['reason']}" in stopped.message
    np.save(tmp_path / "v.npy", np.ones((len(bad) + 1, 32), dtype=np.float32))
    again = bitsift(*command)
    assert again.exception is None, again.exception
    assert "rejected records         3" in again.stdout
    assert f"{source}, line 3: broken JSON" in again.stdout


def test_a_table_is_read_as_it_was_said(tmp_path: Path) -> None:
    source = tmp_path / "table.csv"
    vector = ",".join(["1"] * 32)
    source.write_bytes(f"1;pr\xe9nom;[{vector}]\n2;b;[{vector}]\n".encode("cp1252"))
    layout = "--delimiter", ";", "--encoding", "cp1252", "--columns", "id,text,vector"
    command = "index", source, *layout, "--vector-field", "vector", "--out", tmp_path / "i"
    done = bitsift(*command, "--shards", 1)
    assert done.exception is None, done.exception
    assert "found no header (--header)" in done.stderr
    assert sorted(stored_ids(tmp_path / "i")) == ["1", "2"]
