"""Vectors that were quantized before they came: taken only for what the caller says they are."""

import base64
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from bitsift.cluster.ingest.options import BuildOptions
from bitsift.cluster.sources import ranges as module
from bitsift.cluster.sources.files import plan_sources
from bitsift.cluster.sources.live import live_documents
from bitsift.cluster.sources.plan import Fields
from bitsift.cluster.sources.ranges import read_ranges, stored_as
from bitsift.cluster.sources.readers import read_documents
from bitsift.cluster.sources.stored_vectors import FLOATS, Ranges, Stored, VectorType, suspicion
from bitsift.cluster.sources.vectors import vectors_of
from bitsift.errors import InvalidRequest
from bitsift.shard_worker.codes import Calibration, normalize

ROWS, WIDTH = 40, 128
FIELDS = Fields(vector="v")
KINDS = [
    "parquet",
    "parquet of texts",
    "parquet of bytes",
    "json lines",
    "base64",
    "csv",
    "npy",
    "companion",
]


@pytest.fixture(scope="module")
def floats() -> NDArray[np.float32]:
    spread = np.linspace(0.1, 3, WIDTH)
    found = np.random.default_rng(1).standard_normal((ROWS, WIDTH)) * spread + spread
    return found.astype(np.float32)


def quantized(floats: NDArray[np.float32], kind: VectorType) -> NDArray[Any]:
    """As sentence-transformers' `quantize_embeddings` does it."""
    low, high = floats.min(axis=0), floats.max(axis=0)
    levels = (floats - low) / ((high - low) / 255)
    bits = np.packbits(floats > 0, axis=1)
    found: dict[VectorType, NDArray[Any]] = {
        VectorType.INT8: (levels - 128).astype(np.int8),
        VectorType.UINT8: levels.astype(np.uint8),
        VectorType.UBINARY: bits,
        VectorType.BINARY: (bits.astype(np.int16) - 128).astype(np.int8),
    }
    return found[kind]


def put(folder: Path, vectors: NDArray[Any], layout: str) -> tuple[Path, dict[str, Any]]:
    """A source of these vectors, and how it is to be planned."""
    texts = [orjson.dumps(vector.tolist()).decode() for vector in vectors]
    path = folder / "v.jsonl"
    if layout.startswith("parquet"):
        path = folder / "v.parquet"
        column: Any = list(vectors)
        if layout.endswith("texts"):
            column = texts
        if layout.endswith("bytes"):
            column = pa.array([vector.tobytes() for vector in vectors], pa.binary())
        table = pa.table({"id": [str(row) for row in range(len(vectors))], "v": column})
        pq.write_table(table, path)
    elif layout == "json lines":
        path.write_text("".join(f'{{"v": {text}}}\n' for text in texts))
    elif layout == "base64":
        packed = [base64.b64encode(vector.tobytes()).decode() for vector in vectors]
        path.write_text("".join(f'{{"v": "{text}"}}\n' for text in packed))
    elif layout == "csv":
        path = folder / "v.csv"
        path.write_text("v,n\n" + "".join(f'"{text}",1\n' for text in texts))
    else:
        np.save(folder / "v.npy", vectors)
        if layout == "npy":
            return folder / "v.npy", {}
        path.write_text("".join(f'{{"text": "{row}"}}\n' for row in range(len(vectors))))
        return path, {"vectors": folder / "v.npy"}
    return path, {"fields": FIELDS}


def read(path: Path, stored: Stored, **plan: Any) -> NDArray[np.float32]:
    planned = plan_sources([path], stored=stored, **plan)
    tables = list(read_documents(planned.files[0]))
    assert planned.expected_width is not None
    assert not any(reason for table in tables for reason in table["reject"].to_pylist())
    return np.concatenate([vectors_of(table, planned.expected_width) for table in tables])


def cosines(one: NDArray[Any], other: NDArray[Any]) -> NDArray[np.float64]:
    one, other = one.astype(float), other.astype(float)
    norms = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return np.asarray((one * other).sum(axis=1) / norms)


@pytest.mark.parametrize("layout", KINDS)
@pytest.mark.parametrize("kind", ["ubinary", "binary", "int8", "uint8"])
def test_bytes_are_refused_until_the_caller_says_what_they_are(
    tmp_path: Path, floats: NDArray[np.float32], layout: str, kind: str
) -> None:
    """inputs.md H28: packed bits were indexed as numbers, with an overlap@10 of 0.13."""
    path, plan = put(tmp_path, quantized(floats, VectorType(kind)), layout)
    expected = "--vector-type"
    if layout == "base64":
        expected = "no good vector in"
    elif kind.startswith("u") and "bytes" not in layout:
        expected = "unsigned bytes.*--vector-type: ubinary"
    elif "bytes" not in layout:
        expected = "signed bytes.*--vector-type: binary .*or int8"
    with pytest.raises(InvalidRequest, match=expected):
        plan_sources([path], **plan)


@pytest.mark.parametrize("layout", KINDS)
@pytest.mark.parametrize("kind", ["ubinary", "binary"])
def test_packed_bits_are_the_signs_of_the_numbers(
    tmp_path: Path, floats: NDArray[np.float32], layout: str, kind: str
) -> None:
    path, plan = put(tmp_path, quantized(floats, VectorType(kind)), layout)
    found = read(path, Stored(VectorType(kind)), **plan)
    assert np.array_equal(found, np.where(floats > 0, 1, -1))


@pytest.mark.parametrize("layout", KINDS)
@pytest.mark.parametrize("kind", ["int8", "uint8"])
def test_bytes_with_ranges_are_what_they_were_made_of(
    tmp_path: Path, floats: NDArray[np.float32], layout: str, kind: str
) -> None:
    """inputs.md H29: taken raw, the worst cosine was 0.959."""
    np.save(tmp_path / "ranges.npy", np.stack([floats.min(axis=0), floats.max(axis=0)]))
    path, plan = put(tmp_path, quantized(floats, VectorType(kind)), layout)
    stored = stored_as(VectorType(kind), tmp_path / "ranges.npy")
    assert cosines(read(path, stored, **plan), floats).min() > 0.999


@pytest.mark.parametrize("layout", ["parquet", "json lines", "base64", "npy"])
def test_documents_for_a_running_cluster_have_the_same_vectors(
    tmp_path: Path, floats: NDArray[np.float32], layout: str
) -> None:
    path, plan = put(tmp_path, quantized(floats, VectorType.UBINARY), layout)
    fields = plan.get("fields", Fields())
    documents, _ = live_documents([str(path)], fields, stored=Stored(VectorType.UBINARY))
    found = [document.document for document in documents]
    vectors = [document["vector"] for document in found if document is not None]
    assert np.array_equal(np.array(vectors), np.where(floats > 0, 1, -1))
    if layout != "base64":
        with pytest.raises(InvalidRequest, match="--vector-type: ubinary"):
            live_documents([str(path)], fields)


def test_a_live_document_whose_bytes_are_none_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "v.jsonl"
    path.write_text('{"v": [0, 255]}\n{"v": [0, 256]}\n{"v": "no"}\n')
    documents, _ = live_documents([str(path)], FIELDS, stored=Stored(VectorType.UBINARY))
    assert [document.reason for document in documents] == [
        None,
        "vector holds numbers that are no ubinary: 0 to 255",
        "vector is a str, not a list of numbers: 'no'",
    ]
    stored = Stored(VectorType.INT8, Ranges((0.0,) * 3, (1.0,) * 3))
    assert stored.decoded_list([1, 2]) == "vector has 2 numbers, expected 3"


def test_int8_without_ranges_is_taken_as_numbers_and_said(
    tmp_path: Path, floats: NDArray[np.float32]
) -> None:
    codes = np.rint(floats / np.abs(floats).max() * 127).astype(np.int8)
    path, plan = put(tmp_path, codes, "parquet")
    assert np.array_equal(read(path, Stored(VectorType.INT8), **plan), codes)
    (note,) = plan_sources([path], stored=Stored(VectorType.INT8), **plan).notes
    assert "it is assumed that all dimensions share one scale" in note


def test_bytes_of_floats_and_numbers_after_all(tmp_path: Path, floats: NDArray[np.float32]) -> None:
    path, plan = put(tmp_path, floats, "base64")
    assert np.array_equal(read(path, FLOATS, **plan), floats)
    path, plan = put(tmp_path, floats, "parquet of bytes")
    assert np.array_equal(read(path, Stored(VectorType.FLOAT), **plan), floats)
    counts = np.arange(ROWS * WIDTH).reshape(ROWS, WIDTH) % 100
    path, plan = put(tmp_path, counts, "json lines")
    assert np.array_equal(read(path, Stored(VectorType.FLOAT), **plan), counts)


def test_a_number_that_is_no_byte_rejects_its_record_alone(tmp_path: Path) -> None:
    rows = [[1] * 16, [256] * 16, [1.5] * 16, [-1] * 16, [2] * 16]
    path = tmp_path / "v.jsonl"
    path.write_text("".join(f'{{"v": {row}}}\n' for row in rows))
    plan = plan_sources([path], FIELDS, stored=Stored(VectorType.UBINARY))
    (table,) = read_documents(plan.files[0])
    why = "vector holds numbers that are no ubinary: 0 to 255"
    assert table["reject"].to_pylist() == [None, why, why, why, None]


@pytest.mark.parametrize(
    "vector",
    [
        np.array([0.5] * 32),
        np.array([0, 1] * 16),
        np.array([-1, 1] * 16),
        np.array([1, 2, 3]),
        np.array([300] * 32),
        np.array([-1, 200] * 16),
        np.array([0, 1000], np.int16),
    ],
)
def test_numbers_that_are_no_bytes_are_taken(vector: NDArray[Any]) -> None:
    assert suspicion([vector]) is None


def test_small_numbers_may_be_signed_or_not() -> None:
    found = suspicion([np.array([5, 9] * 8)]) or ""
    assert "small bytes, 5 to 9" in found
    assert "ubinary" in found
    assert "or int8" in found


def test_ranges_come_from_numpy_json_and_our_own_manifest(
    tmp_path: Path, floats: NDArray[np.float32]
) -> None:
    low, high = floats.min(axis=0), floats.max(axis=0)
    np.save(tmp_path / "r.npy", np.stack([low, high]))
    (tmp_path / "r.json").write_bytes(orjson.dumps([low.tolist(), high.tolist()]))
    assert read_ranges(tmp_path / "r.npy").low == read_ranges(tmp_path / "r.json").low
    calibration = Calibration.from_sample(normalize(floats, WIDTH), WIDTH)
    manifest = tmp_path / "manifest.json"
    manifest.write_bytes(orjson.dumps({"calibration": calibration.to_json()}))
    codes, _ = calibration.quantize(calibration.units(floats))
    stored = stored_as(VectorType.INT8, manifest)
    decoded, _ = stored.decoded(codes)
    assert np.allclose(decoded, calibration.decode(codes), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("r.json", b"[[1, 2], [3]]", "no ranges"),
        ("r.json", b"[[1, 2], [3, 4], [5, 6]]", r"shape \(3, 2\)"),
        ("r.json", b"[[2], [1]]", "a highest value is below the lowest"),
        ("r.json", b'[["a"], ["b"]]', "no ranges"),
        ("r.json", b'{"dimension": 1, "rotation_seed": 5}', "rotated"),
        ("r.json", b"{}", "'dimension'"),
        ("r.json", b"{", "no ranges"),
        ("r.npy", b"x", "no ranges"),
    ],
)
def test_what_has_no_ranges_is_refused(tmp_path: Path, name: str, content: bytes, why: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidRequest, match=why):
        read_ranges(tmp_path / name)


def test_a_file_of_ranges_has_so_many_bytes_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = b"[[1], [2]]"
    (tmp_path / "r.json").write_bytes(content)
    monkeypatch.setattr(module, "FILE_BYTES_MAX", len(content))
    read_ranges(tmp_path / "r.json")
    (tmp_path / "r.json").write_bytes(content + b" ")
    with pytest.raises(InvalidRequest, match="more than"):
        read_ranges(tmp_path / "r.json")


def test_options_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a"}')
    with pytest.raises(InvalidRequest, match="uint8 needs --ranges"):
        _ = BuildOptions(vector_type=VectorType.UINT8).stored
    with pytest.raises(InvalidRequest, match="goes with --vector-type int8 or uint8"):
        _ = BuildOptions(ranges=tmp_path / "r.npy").stored
    with pytest.raises(InvalidRequest, match="is for sources that have vectors"):
        plan_sources([tmp_path / "a.jsonl"], stored=Stored(VectorType.INT8))
    np.save(tmp_path / "v.npy", np.ones((2, 3), "i1"))
    (tmp_path / "r.json").write_text("[[0, 0], [1, 1]]")
    stored = stored_as(VectorType.INT8, tmp_path / "r.json")
    with pytest.raises(InvalidRequest, match="2 dimensions, the vectors have 3"):
        plan_sources([tmp_path / "v.npy"], stored=stored)


def test_another_type_is_another_plan(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", np.ones((2, 8), "f4"))
    plans = [
        plan_sources([tmp_path / "v.npy"], stored=stored)
        for stored in (FLOATS, Stored(VectorType.UBINARY))
    ]
    assert plans[0].fingerprint != plans[1].fingerprint
    assert [plan.expected_width for plan in plans] == [8, 64]
