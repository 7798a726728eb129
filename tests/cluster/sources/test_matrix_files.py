"""Matrices of every kind of file that people bring, and of files that hold none."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

from bitsift.cluster.sources import matrix_files
from bitsift.cluster.sources.files import plan_sources
from bitsift.cluster.sources.matrices import sample_matrices
from bitsift.cluster.sources.matrix_files import open_matrix
from bitsift.cluster.sources.plan import Fields
from bitsift.cluster.sources.readers import read_documents
from bitsift.cluster.sources.vectors import vectors_of
from bitsift.errors import InvalidRequest

MATRIX = np.random.default_rng(0).standard_normal((300, 8)).astype(np.float32)
# Of 8 bits of mantissa, so that bfloat16 holds them.
ROUND = (MATRIX.view("<u4") & 0xFFFF0000).view("<f4")


def bfloat16(matrix: NDArray[np.float32]) -> NDArray[Any]:
    """As ml_dtypes has it: numpy writes its type as V2."""
    return (matrix.view("<u4") >> 16).astype("<u2").view("V2")


def put(folder: Path, kind: str) -> Path:
    path = folder / f"v.{kind.split()[0]}"
    if kind == "npy bfloat16":
        np.save(path, bfloat16(ROUND))
    elif kind == "npy by columns":
        np.save(path, np.asfortranarray(ROUND))
    elif kind == "npz":
        np.savez(path, ids=np.arange(300), vectors=ROUND)
    elif kind == "npz compressed":
        np.savez_compressed(path, ids=np.arange(300), vectors=ROUND)
    elif kind == "npz by columns":
        np.savez(path, np.asfortranarray(ROUND))
    elif kind == "npz bfloat16":
        np.savez_compressed(path, bfloat16(ROUND))
    elif kind == "safetensors":
        save_file({"bias": np.ones(8, "f4"), "vectors": ROUND}, path)
    else:
        write_bfloat16(path)
    return path


def write_bfloat16(path: Path) -> None:
    """safetensors.numpy has no bfloat16: its type is written in the place of F16's."""
    save_file({"vectors": bfloat16(ROUND).view(np.float16)}, path)
    content = path.read_bytes().replace(b'"dtype":"F16"', b'"dtype":"BF16"', 1)
    size = int.from_bytes(content[:8], "little")
    header, data = content[8 : 8 + size + 1], content[8 + size + 1 :]
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)


KINDS = [
    "npy bfloat16",
    "npy by columns",
    "npz",
    "npz compressed",
    "npz by columns",
    "npz bfloat16",
    "safetensors",
    "safetensors bfloat16",
]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_matrix_is_read(tmp_path: Path, kind: str) -> None:
    """inputs.md H30."""
    plan = plan_sources([put(tmp_path, kind)])
    (file,) = plan.files
    assert (file.records, plan.expected_width) == (300, 8)
    tables = list(read_documents(file, batch_rows=128))
    assert np.array_equal(np.concatenate([vectors_of(table, 8) for table in tables]), ROUND)
    assert tables[0]["id"][0].as_py() == "v-0000000000"
    (part,) = read_documents(file, rows=(290, 295))
    assert np.array_equal(vectors_of(part, 8), ROUND[290:295])
    sample = sample_matrices(plan, 20, seed=1)
    numbers = [int(key.removeprefix("v-")) for key in sample["id"].to_pylist()]
    assert np.array_equal(vectors_of(sample, 8), ROUND[numbers])


def test_arrays_that_are_not_read_are_said(tmp_path: Path) -> None:
    path = put(tmp_path, "npz")
    assert plan_sources([path]).notes == (f"{path}: arrays that are not read: ids",)


@pytest.mark.parametrize("kind", ["npz", "safetensors"])
def test_one_of_several_matrices_has_to_be_named(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"v.{kind}"
    arrays: dict[str, Any] = {"a": ROUND, "b": ROUND[:, :4].copy(), "c": np.ones(3, "f4")}
    np.savez(path, **arrays) if kind == "npz" else save_file(arrays, path)
    with pytest.raises(InvalidRequest, match=r"2 arrays of two.*a \(300, 8\), b \(300, 4\)"):
        plan_sources([path])
    with pytest.raises(InvalidRequest, match=r"no array 'x' \(--vector-field\); it has a"):
        plan_sources([path], Fields(vector="x"))
    plan = plan_sources([path], Fields(vector="b"))
    assert plan.expected_width == 4
    (table,) = read_documents(plan.files[0])
    assert np.array_equal(vectors_of(table, 4), ROUND[:, :4])


def test_a_pickle_in_an_npz_file_is_never_loaded(tmp_path: Path) -> None:
    for name, save in (("a.npz", np.savez), ("b.npz", np.savez_compressed)):
        save(tmp_path / name, np.array([[{}]], dtype=object))
        with pytest.raises(InvalidRequest, match="object|Python objects"):
            plan_sources([tmp_path / name])


@pytest.mark.parametrize("kind", ["npz", "npz compressed", "safetensors"])
def test_a_file_that_is_cut_off_is_refused(tmp_path: Path, kind: str) -> None:
    path = put(tmp_path, kind)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(InvalidRequest, match="not a readable"):
        open_matrix(str(path))


def test_a_compressed_matrix_that_is_damaged_says_where_it_ends(tmp_path: Path) -> None:
    path = put(tmp_path, "npz compressed")
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo("vectors.npy")
    content = bytearray(path.read_bytes())
    middle = info.header_offset + info.compress_size // 2
    content[middle : middle + 400] = b"\xff" * 400
    path.write_bytes(content)
    tables = list(read_documents(plan_sources([path]).files[0], batch_rows=10))
    reasons = [reason for table in tables for reason in table["reject"].to_pylist() if reason]
    assert len(reasons) == 1
    assert "vectors is damaged" in reasons[0]
    assert "records were read before it" in reasons[0]


def test_records_whose_vectors_are_damaged_are_rejected(tmp_path: Path) -> None:
    path = put(tmp_path, "npz compressed")
    content = bytearray(path.read_bytes())
    late = len(content) * 3 // 4
    content[late : late + 400] = b"\xff" * 400
    path.write_bytes(content)
    (tmp_path / "a.jsonl").write_text('{"text": "words"}\n' * 300)
    (file,) = plan_sources([tmp_path / "a.jsonl"], vectors=path).files
    tables = list(read_documents(file, batch_rows=10))
    reasons = [reason for table in tables for reason in table["reject"].to_pylist()]
    assert len(reasons) == 300
    assert reasons[0] is None
    assert reasons[-1].startswith("no vector: vectors is")


def test_the_header_of_a_safetensors_file_has_a_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = put(tmp_path, "safetensors")
    size = int.from_bytes(path.read_bytes()[:8], "little")
    monkeypatch.setattr(matrix_files, "HEADER_BYTES_MAX", size)
    open_matrix(str(path))
    monkeypatch.setattr(matrix_files, "HEADER_BYTES_MAX", size - 1)
    with pytest.raises(InvalidRequest, match=f"its header has {size} bytes"):
        open_matrix(str(path))


def test_a_tensor_of_another_type_is_refused(tmp_path: Path) -> None:
    save_file({"v": np.ones((2, 8), "i8")}, tmp_path / "v.safetensors")
    with pytest.raises(InvalidRequest, match=r"holds I64 of shape \(2, 8\); expected F16, F32"):
        plan_sources([tmp_path / "v.safetensors"])
