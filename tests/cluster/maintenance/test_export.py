from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from bitsift.cluster.bench.index import write_index
from bitsift.cluster.maintenance.export import SCHEMA, export, plain_vectors, symmetric
from bitsift.cluster.maintenance.opened import open_shard, open_store
from bitsift.cluster.manifest import Manifest, read_manifest
from bitsift.cluster.sources.files import plan_sources
from bitsift.cluster.sources.plan import Fields
from bitsift.cluster.sources.readers import read_documents
from bitsift.cluster.sources.synthetic import SyntheticSpec, synthetic_block
from bitsift.cluster.sources.vectors import vectors_of
from bitsift.errors import ChecksumMismatch, InvalidRequest, Unavailable
from bitsift.shard_worker.codes import Calibration, Transform, normalize
from bitsift.shard_worker.operations import Delete, Upsert
from bitsift.shard_worker.types import LIVE_POSITION
from tests.writing import written

SPEC = SyntheticSpec(3_000, 100)  # no multiple of 8: codes have padding
SHARDS = 2
DEAD = [str(i) for i in range(50)]


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("built") / "index"
    manifest = write_index(folder, SPEC, SHARDS, texts=[f"some words {i}" for i in range(500)])
    for number in range(SHARDS):
        with open_shard(folder, manifest, number) as shard:
            written(shard, Delete(DEAD))
    with open_shard(folder, manifest, 0) as shard:
        written(shard, documents_with_everything(manifest))
    return folder


def documents_with_everything(manifest: Manifest) -> Upsert:
    units = manifest.calibration.units(synthetic_block(SPEC, 0, 2))
    return Upsert(
        ids=["naïve/ID \U0001f600", "x" * 3_000],
        titles=["a title", ""],
        texts=["line\nline", ""],
        metadata=['{"year":1999,"tags":["a",{"b":null}]}', ""],
        positions=[LIVE_POSITION] * 2,
        codes=manifest.calibration.quantize(units)[0],
    )


def read(path: Path) -> list[dict[str, Any]]:
    return list(pq.read_table(path).to_pylist())


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = a.astype(np.float64), b.astype(np.float64)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.asarray(np.einsum("ij,ij->i", a, b) / norms)


def test_every_living_document_is_there_with_all_that_it_has(index: Path, tmp_path: Path) -> None:
    report = export(index, tmp_path / "all.parquet")
    rows = read(tmp_path / "all.parquet")
    by_id = {row["id"]: row for row in rows}
    assert len(by_id) == len(rows) == report.documents == SPEC.rows - len(DEAD) + 2
    assert not by_id.keys() & set(DEAD)
    assert by_id["700"]["text"] == "some words 200"
    whole = by_id["naïve/ID \U0001f600"]
    assert (whole["title"], whole["text"]) == ("a title", "line\nline")
    assert orjson.loads(whole["metadata"]) == {"year": 1999, "tags": ["a", {"b": None}]}
    assert by_id["x" * 3_000]["metadata"] == ""
    assert (report.files, report.bytes) == (1, (tmp_path / "all.parquet").stat().st_size)


def test_vectors_are_int8_times_scale(index: Path, tmp_path: Path) -> None:
    export(index, tmp_path / "all.parquet")
    rows = [row for row in read(tmp_path / "all.parquet") if row["id"].isdecimal()]
    vectors = np.array([row["int8"] for row in rows]) * np.array([[row["scale"]] for row in rows])
    originals = synthetic_block(SPEC, 0, SPEC.rows)[[int(row["id"]) for row in rows]]
    assert vectors.shape[1] == SPEC.dim
    assert cosines(vectors, originals).min() >= 0.999
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=0.02)


@pytest.mark.parametrize("transform", list(Transform))
def test_a_second_quantization_keeps_the_cosine_and_undoes_the_rotation(
    transform: Transform,
) -> None:
    spec = SyntheticSpec(2_000, 256)
    units = normalize(synthetic_block(spec, 0, spec.rows), spec.dim)
    calibration = Calibration.from_sample(units, spec.dim, transform)
    codes, _ = calibration.quantize(calibration.units(units))
    int8, scale = symmetric(plain_vectors(calibration, codes))
    decoded = plain_vectors(calibration, codes)
    assert cosines(int8 * scale[:, None], decoded).min() >= 0.9998
    assert cosines(int8 * scale[:, None], units[:, : spec.dim]).min() >= 0.999


@example(np.full((3, 32), 1e-40, dtype=np.float32))
@given(arrays(np.float32, (3, 32), elements=st.floats(-2.0, 2.0, width=32)))
def test_no_number_is_off_by_more_than_half_a_step(vectors: np.ndarray) -> None:
    int8, scale = symmetric(vectors)
    assert (np.abs(int8 * scale[:, None] - vectors) <= 0.5001 * scale[:, None]).all()
    assert (np.abs(vectors).max(axis=1) <= 127.001 * scale).all()


def test_a_folder_has_one_file_a_shard_and_the_same_rows(index: Path, tmp_path: Path) -> None:
    export(index, tmp_path / "all.parquet")
    report = export(index, tmp_path / "folder")
    names = sorted(path.name for path in (tmp_path / "folder").iterdir())
    assert names == ["shard-00000.parquet", "shard-00001.parquet"]
    assert report.files == 2
    both = pa.concat_tables([pq.read_table(tmp_path / "folder" / name) for name in names])
    assert both.equals(pq.read_table(tmp_path / "all.parquet"))


def test_the_file_says_what_it_holds(index: Path, tmp_path: Path) -> None:
    export(index, tmp_path / "all.parquet")
    schema = pq.read_schema(tmp_path / "all.parquet")
    assert schema.equals(SCHEMA)
    facts = orjson.loads(schema.metadata[b"bitsift"])
    manifest = read_manifest(index)
    assert (facts["uuid"], facts["dimension"], facts["model"]) == (manifest.uuid, SPEC.dim, None)


def test_an_index_without_living_documents_is_an_empty_file(tmp_path: Path) -> None:
    manifest = write_index(tmp_path / "index", SyntheticSpec(10, 64))
    with open_shard(tmp_path / "index", manifest, 0) as shard:
        written(shard, Delete([str(i) for i in range(10)]))
    assert export(tmp_path / "index", tmp_path / "none.parquet").documents == 0
    assert pq.read_table(tmp_path / "none.parquet").schema.equals(SCHEMA)


@pytest.mark.parametrize("name", ["all.parquet", "all.jsonl", "folder"])
def test_damage_stops_the_export_with_nothing_left(index: Path, tmp_path: Path, name: str) -> None:
    copy = Path(shutil.copytree(index, tmp_path / "index"))
    with open_store(copy, read_manifest(copy), 1) as store:
        ((_, record),) = store.reader.scan_records(900, 901)
    data = copy / "shard-00001" / "store-00000" / "data.mdb"
    found = record.tobytes()
    data.write_bytes(data.read_bytes().replace(found, bytes([found[0] ^ 1]) + found[1:]))
    with pytest.raises(ChecksumMismatch, match="row 900"):
        export(copy, tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["index"]


def test_what_exists_and_what_is_running_is_refused(index: Path, tmp_path: Path) -> None:
    (tmp_path / "all.parquet").write_text("dear")
    with pytest.raises(InvalidRequest, match="exists"):
        export(index, tmp_path / "all.parquet")
    assert (tmp_path / "all.parquet").read_text() == "dear"
    with (
        open_shard(index, read_manifest(index), 0),
        pytest.raises(Unavailable, match="stop that one"),
    ):
        export(index, tmp_path / "other.parquet")


def test_an_export_can_be_indexed_again(index: Path, tmp_path: Path) -> None:
    from bitsift.cluster.ingest.build import build_index
    from bitsift.cluster.ingest.options import BuildOptions

    export(index, tmp_path / "folder")
    report = build_index([tmp_path / "folder"], tmp_path / "again", BuildOptions(shards=1))
    assert (report.documents, report.rejects) == (SPEC.rows - len(DEAD) + 2, 0)
    again = read_manifest(tmp_path / "again")
    with open_shard(tmp_path / "again", again, 0) as shard:
        assert shard.document("700").text == "some words 200"
        whole = shard.document("naïve/ID \U0001f600")
        assert whole.metadata == {"year": 1999, "tags": ["a", {"b": None}]}


def test_both_formats_are_read_as_the_same_documents_with_the_same_vectors(
    index: Path, tmp_path: Path
) -> None:
    """inputs.md B8: without options for Parquet; JSON lines have their vectors in a field."""
    tables = []
    for name, fields in (("all.parquet", Fields()), ("all.jsonl", Fields(vector="vector"))):
        export(index, tmp_path / name)
        (file,) = plan_sources([tmp_path / name], fields).files
        table = pa.concat_tables(read_documents(file)).drop_columns(["file"])
        assert table["reject"].null_count == len(table) == SPEC.rows - len(DEAD) + 2
        tables.append(table)
    one, other = tables
    assert one.drop_columns(["vector"]).equals(other.drop_columns(["vector"]))
    assert cosines(vectors_of(one, SPEC.dim), vectors_of(other, SPEC.dim)).min() > 0.9998
