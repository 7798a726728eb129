"""Builds from ready-made vectors, on a real Ray cluster of this machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import orjson
import pytest

from cluster.ingest import build_index
from cluster.ingest_progress import IndexStage
from cluster.launch import ray_cluster
from cluster.manifest import read_manifest
from cluster.source_plan import Fields
from cluster.synthetic import SyntheticSpec, synthetic_block
from shard_worker.errors import InvalidRequest
from shard_worker.layout import shard_folder
from shard_worker.shard import Shard
from shard_worker.types import Document, Query


@pytest.fixture(scope="module", autouse=True)
def one_cluster() -> Iterator[None]:
    with ray_cluster(None):
        yield


class Stopped(Exception):
    """What a progress callback raises to end a build in its midst."""


def opened(index: Path) -> list[Shard]:
    manifest = read_manifest(index)
    return [
        Shard(shard_folder(index, number), manifest.calibration, manifest.identity(number))
        for number in range(manifest.shards)
    ]


def stored_ids(index: Path) -> list[str]:
    ids = []
    for shard in opened(index):
        documents = shard.documents(range(shard.status().rows))
        ids += [document.id for document in documents if isinstance(document, Document)]
        shard.close()
    return ids


def test_a_synthetic_corpus_is_built_killed_and_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.load.VECTOR_BATCH_ROWS", 250)
    spec = SyntheticSpec(12_000, dim=64, seed=2)
    seen: list[IndexStage] = []

    def stop_midway(stage: IndexStage) -> None:
        seen.append(stage)
        if stage.stage == "index":
            raise Stopped

    with pytest.raises(Stopped):
        build_index([str(spec)], tmp_path / "index", shards=2, on_progress=stop_midway)
    assert seen[-1].total == spec.rows
    assert 0 < seen[-1].documents < spec.rows
    report = build_index([str(spec)], tmp_path / "index", shards=2)
    assert report.documents == spec.rows
    assert report.encoded < spec.rows
    assert report.rejects == 0
    assert sorted(map(int, stored_ids(tmp_path / "index"))) == list(range(spec.rows))
    vector = synthetic_block(spec, 11_345, 1)[0]
    best = []
    for shard in opened(tmp_path / "index"):
        (found,) = shard.search([Query(vector)])
        best += [d.id for d in shard.documents(found.rows[:3].tolist()) if isinstance(d, Document)]
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
        [tmp_path / "v.npy"], tmp_path / "index", shards=2, on_progress=stages.append
    )
    assert (report.documents, report.rejects) == (4_997, 3)
    assert stages[-1].documents == stages[-1].total == 5_000
    lines = (tmp_path / "index" / "rejects.jsonl").read_text().splitlines()
    assert sorted(orjson.loads(line)["line"] for line in lines) == [4, 78, 5_000]
    assert "v-0000000078" in stored_ids(tmp_path / "index")


def test_two_documents_with_one_id_leave_the_first_of_them(tmp_path: Path) -> None:
    rows = [
        orjson.dumps({"id": f"d{n % 90}", "text": "", "embedding": [1.0 + n] * 31 + [1.0]})
        for n in range(100)
    ]
    (tmp_path / "v.jsonl").write_bytes(b"\n".join(rows))
    report = build_index(
        [tmp_path / "v.jsonl"],
        tmp_path / "index",
        shards=2,
        fields=Fields(vector="embedding", id="id", text="text"),
    )
    assert (report.documents, report.rejects) == (90, 10)


def test_a_matrix_without_one_good_row_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", np.zeros((50, 48), dtype=np.float32))
    with pytest.raises(InvalidRequest, match="all 50 records are bad"):
        build_index([tmp_path / "v.npy"], tmp_path / "index", shards=1)
