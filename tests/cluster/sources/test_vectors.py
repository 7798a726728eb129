"""Ready-made vectors: which are refused, whose they are, and what they cost."""

import tracemalloc
from pathlib import Path
from typing import Any, Literal

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bitsift.cluster.sources.files import plan_sources
from bitsift.cluster.sources.plan import Fields
from bitsift.cluster.sources.readers import read_documents
from bitsift.cluster.sources.vectors import take_good, vectors_of
from bitsift.errors import InvalidRequest
from tests.source_files import fresh, put, read, rejects

VECTORS = Fields(vector="v")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"[1, NaN]", "vector contains NaN or infinity"),
        (b"[1, Infinity]", "vector contains NaN or infinity"),
        (b"[1, 1e39]", "vector contains NaN or infinity"),
        (b"[0, -0.0]", "vector is all zeros"),
        (b"[1, 2, 3]", "vector has 3 numbers, expected 2"),
        (b"[]", "vector is empty or holds something else than numbers"),
        (b'[1, "2"]', "vector is empty or holds something else than numbers"),
        (b"[true, false]", "vector is empty or holds something else than numbers"),
        (b"[1, null]", "vector is empty or holds something else than numbers"),
        (b"[[1, 2], [3]]", "vector is a nested list"),
        (b'"abc"', "vector is a str, not a list of numbers: 'abc'"),
        (b'{"a": 1}', "vector is a dict, not a list of numbers"),
        (b"null", "no vector"),
    ],
)
def test_a_bad_vector_rejects_its_record(tmp_path: Path, value: bytes, reason: str) -> None:
    good = b'{"id": "good", "v": [3, 4]}\n'
    rows = read(put(tmp_path, good + b'{"id": "b", "v": ' + value + b"}\n" + good), fields=VECTORS)
    assert rejects(rows) == [(2, reason)]
    assert [row["vector"] for row in rows] == [[3, 4], None, [3, 4]]


def test_huge_and_tiny_vectors_are_good_though_their_squares_are_not(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", np.array([[1e30, 0], [1e-30, 0], [0, 1]], dtype="f4"))
    assert rejects(read(tmp_path / "v.npy")) == []


def test_with_vectors_a_text_may_be_missing_but_not_be_a_number(tmp_path: Path) -> None:
    lines = [b'"text": "words"', b'"text": null', b'"text": " "', b'"other": 1', b'"text": 5']
    content = b"".join(b'{"v": [1, 2], ' + line + b"}\n" for line in lines)
    rows = read(put(tmp_path, content), fields=VECTORS)
    assert [row["text"] for row in rows] == ["words", "", " ", "", None]
    assert rejects(rows) == [(5, "text is a int, not a string (field 'text')")]


def test_a_vector_in_a_table_is_a_text(tmp_path: Path) -> None:
    content = b'id,v\n1,"[1, 2]"\n2,"[1, 2"\n3,\n'
    rows = read(put(tmp_path, content, ".csv"), fields=VECTORS)
    assert [row["vector"] for row in rows] == [[1, 2], None, None]
    assert [reason.split(":")[0] for _, reason in rejects(rows)] == [
        "vector begins with [ and does not end with ]",
        "no vector",
    ]


@pytest.mark.parametrize("batch_rows", [2, 100])
@pytest.mark.parametrize(
    "kind",
    [
        pa.list_(pa.float32()),
        pa.large_list(pa.float64()),
        pa.list_(pa.float16()),
        pa.list_(pa.int16()),
        pa.list_(pa.float32(), 3),
    ],
)
def test_parquet_vectors_of_every_list_type_are_read(
    tmp_path: Path, kind: pa.DataType, batch_rows: int
) -> None:
    values: list[Any] = [[1, 2, 3], None, [0, 0, 0], [4, None, 6], [7, 8, 9]]
    expected = [None, "no vector", "vector is all zeros", "vector contains NaN or infinity", None]
    if not pa.types.is_fixed_size_list(kind):
        values.append([1, 2])
        expected.append("vector has 2 numbers, expected 3")
    path = fresh(tmp_path, ".parquet")
    pq.write_table(pa.table({"v": pa.array(values, kind)}), path)
    rows = read(path, batch_rows, fields=VECTORS)
    assert [row["reject"] for row in rows] == expected
    assert [row["vector"] for row in rows if row["vector"]] == [[1, 2, 3], [7, 8, 9]]


def test_a_fixed_shape_tensor_is_a_vector(tmp_path: Path) -> None:
    matrix = np.arange(1, 7, dtype="f4").reshape(2, 3)
    path = fresh(tmp_path, ".parquet")
    pq.write_table(pa.table({"v": pa.FixedShapeTensorArray.from_numpy_ndarray(matrix)}), path)
    assert [row["vector"] for row in read(path, fields=VECTORS)] == matrix.tolist()


@pytest.mark.parametrize("kind", ["f2", "f4", "f8", ">f4"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_a_lone_npy_file_gives_a_document_a_row(
    tmp_path: Path, kind: str, order: Literal["C", "F"]
) -> None:
    matrix = np.asarray([[1, 2], [np.nan, 1], [0, 0], [3, 4]], np.dtype(kind), order)
    np.save(tmp_path / "some.npy", matrix)
    rows = read(tmp_path / "some.npy", batch_rows=3)
    assert [row["id"] for row in rows] == [f"some-000000000{row}" for row in range(4)]
    assert [row["vector"] for row in rows] == [[1, 2], None, None, [3, 4]]
    assert [row["text"] for row in rows] == [""] * 4
    assert rejects(rows) == [(2, "vector contains NaN or infinity"), (3, "vector is all zeros")]


def test_any_range_of_npy_rows_can_be_read_alone(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", np.arange(1, 11, dtype="f4").reshape(10, 1))
    file = plan_sources([tmp_path / "v.npy"]).files[0]
    (table,) = read_documents(file, rows=(3, 5))
    assert table.column("position").to_pylist() == [3, 4]
    assert vectors_of(table, 1).tolist() == [[4], [5]]


@pytest.mark.parametrize("batch_rows", [1, 2, 100])
@pytest.mark.parametrize("ending", [".jsonl", ".csv"])
def test_a_broken_record_keeps_the_place_of_its_vector(
    tmp_path: Path, ending: str, batch_rows: int
) -> None:
    if ending == ".jsonl":
        content = b'{"id": 0}\n\n{broken\n{"id": 2}\n{"id": 3}\n{"id": 4}\n'
    else:
        content = b"id,note\n0,\n1\n2,\n3,\n4,\n"
    np.save(tmp_path / "v.npy", np.array([[9, 0], [9, 1], [9, 2], [0, 0], [9, 4]], dtype="f8"))
    rows = read(put(tmp_path, content, ending), batch_rows, vectors=tmp_path / "v.npy")
    assert [row["vector"] for row in rows] == [[9, 0], None, [9, 2], None, [9, 4]]
    assert [row["id"] for row in rows] == ["0", None, "2", "3", "4"]
    assert rows[3]["reject"] == "vector is all zeros"


def test_vectors_beside_parquet_belong_to_its_rows(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": list("abcde")}), tmp_path / "a.parquet", row_group_size=2)
    np.save(tmp_path / "v.npy", np.arange(1, 11, dtype="f4").reshape(5, 2))
    rows = read(tmp_path / "a.parquet", 100, vectors=[tmp_path / "v.npy"])
    assert [row["vector"][0] for row in rows] == [1, 3, 5, 7, 9]


def test_npy_vectors_are_not_copied_on_their_way_to_arrow(tmp_path: Path) -> None:
    matrix = np.ones((20_000, 256), dtype="f4")
    np.save(tmp_path / "v.npy", matrix)
    file = plan_sources([tmp_path / "v.npy"]).files[0]
    tracemalloc.start()
    try:
        tables = list(read_documents(file))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert sum(table.num_rows for table in tables) == len(matrix)
    assert np.array_equal(vectors_of(pa.concat_tables(tables), 256), matrix)
    assert peak < matrix.nbytes / 10


def test_kept_vectors_follow_one_another_without_gaps(tmp_path: Path) -> None:
    content = b'{"v": [1, 2]}\n{"v": [0, 0]}\n{broken\n{"v": [3, 4]}\n'
    file = plan_sources([put(tmp_path, content)], VECTORS).files[0]
    (table,) = read_documents(file)
    assert vectors_of(table, 2).tolist() == [[1, 2], [3, 4]]
    assert vectors_of(table.slice(2), 2).tolist() == [[3, 4]]


@pytest.mark.parametrize("fields", [VECTORS, Fields(text="id")])
def test_good_rows_are_taken_with_their_own_vectors(tmp_path: Path, fields: Fields) -> None:
    lines = [f'{{"id": "{n}", "v": [{n}, 1]}}\n' for n in range(1, 5)]
    content = "".join([lines[0], "{broken\n", *lines[1:]]).encode()
    (table,) = read_documents(plan_sources([put(tmp_path, content)], fields).files[0])
    table = pa.concat_tables([table.slice(0, 2), table.slice(2)])
    for places in ([4, 0, 2, 2], [], [3]):
        expected = table.take(pa.array(places, pa.int64()))
        assert take_good(table, np.array(places, dtype=np.int64)).equals(expected)


@pytest.mark.parametrize("ending", [".parquet", ".jsonl"])
def test_vectors_that_nobody_named_are_said_to_become_metadata(tmp_path: Path, ending: str) -> None:
    path = fresh(tmp_path, ending)
    row = {"id": "a", "text": "words", "few": [0.5] * 31, "whole": [1] * 40, "emb": [0.5] * 32}
    if ending == ".parquet":
        pq.write_table(pa.Table.from_pylist([row]), path)
    else:
        path.write_bytes(orjson.dumps(row))
    (note,) = plan_sources([path]).notes
    assert "field 'emb' looks like a vector and becomes metadata" in note
    assert plan_sources([path], Fields(vector="emb")).notes == ()


@pytest.mark.parametrize("ending", [".parquet", ".jsonl", ".csv"])
def test_a_file_whose_first_vectors_are_null_is_read(tmp_path: Path, ending: str) -> None:
    """inputs.md F21: of 1,400 nulls in front the file was refused."""
    path = fresh(tmp_path, ending)
    vectors = [None] * 1400 + ["[0.5, 1]", "[0.5 1.\n]", "{0.5,1}"]
    table = pa.table({"id": [str(row) for row in range(1403)], "v": vectors})
    if ending == ".parquet":
        pq.write_table(table, path, row_group_size=300)
    elif ending == ".jsonl":
        path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in table.to_pylist()))
    else:
        lines = [f'{row},"{vector or ""}"\n' for row, vector in enumerate(vectors)]
        path.write_text("id,v\n" + "".join(lines))
    rows = read(path, fields=VECTORS)
    assert rejects(rows) == [
        (row["line"], "no vector") for row in rows if row["reject"] is not None
    ]
    assert [row["vector"] for row in rows[1399:]] == [None, [0.5, 1], [0.5, 1], [0.5, 1]]


def test_a_column_of_texts_without_a_vector_says_why(tmp_path: Path) -> None:
    path = fresh(tmp_path, ".parquet")
    pq.write_table(pa.table({"text": ["a"], "v": ["[0.1 0.2 ... 0.9]"]}), path)
    with pytest.raises(InvalidRequest, match=r"no good vector in .*record 1: .*printed with '...'"):
        plan_sources([path], VECTORS)
