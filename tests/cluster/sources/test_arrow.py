"""Arrow files and streams, the datasets that Hugging Face saves, and damage in them."""

from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import orjson
import pyarrow as pa
import pyarrow.feather
import pytest

from bitsift.cluster.sources.files import plan_sources
from bitsift.cluster.sources.plan import Fields
from bitsift.errors import InvalidRequest
from tests.source_files import fresh, read, rejects

TABLE = pa.table(
    {
        "id": range(3_000),
        "text": [f"text {row} é" for row in range(3_000)],
        "n": [row % 7 or None for row in range(3_000)],
    }
)


def write(path: Path, table: pa.Table = TABLE, kind: str = "file", rows: int = 1_000) -> Path:
    make = pa.ipc.new_stream if kind == "stream" else pa.ipc.new_file
    options = pa.ipc.IpcWriteOptions(compression="zstd" if kind == "compressed" else None)
    with make(path, table.schema, options=options) as writer:
        writer.write_table(table, rows)
    return path


@pytest.mark.parametrize("kind", ["file", "stream", "compressed"])
@pytest.mark.parametrize("rows", [70, 3_000])
def test_files_and_streams_are_read(tmp_path: Path, kind: str, rows: int) -> None:
    found = read(write(tmp_path / "a.arrow", kind=kind, rows=rows), batch_rows=200)
    assert rejects(found) == []
    assert [(row["id"], row["text"]) for row in found] == [
        (str(row), f"text {row} é") for row in range(3_000)
    ]
    assert [row["line"] for row in found] == list(range(1, 3_001))
    assert [row["metadata"] for row in found[:2]] == ["", '{"n":1}']


def test_feather_is_read_and_its_first_version_refused(tmp_path: Path) -> None:
    pa.feather.write_feather(TABLE, str(tmp_path / "a.feather"))
    assert len(read(tmp_path / "a.feather")) == 3_000
    (tmp_path / "b.feather").write_bytes(b"FEA1" + bytes(60))
    with pytest.raises(InvalidRequest, match="Feather version 1: write it as version 2"):
        plan_sources([tmp_path / "b.feather"])


def test_a_url_is_read_as_a_stream(tmp_path: Path) -> None:
    content = write(tmp_path / "a.arrow", kind="stream").read_bytes()
    fsspec.filesystem("memory").pipe("/arrow/a.arrow", content)
    plan = plan_sources(["memory://arrow"])
    from bitsift.cluster.sources.readers import read_documents

    assert sum(table.num_rows for table in read_documents(plan.files[0])) == 3_000


@pytest.mark.parametrize(
    "column",
    [
        pa.array([[1, 2], None, [3, 4]], pa.list_view(pa.float32())),
        pa.array([[1, 2], None, [3, 4]], pa.large_list_view(pa.float64())),
        pa.array([[1, 2], None, [3, 4]], pa.list_(pa.float16(), 2)),
        pa.array([[1, 2], None, [3, 4]], pa.large_list(pa.int32())),
        pa.ExtensionArray.from_storage(
            pa.fixed_shape_tensor(pa.float32(), [2]),
            pa.array([[1, 2], None, [3, 4]], pa.list_(pa.float32(), 2)),
        ),
        pa.array(["[1, 2]", None, "[3 4]"]).dictionary_encode(),
        pa.array(["{1,2}", None, "(3, 4)"], pa.string_view()),
    ],
    ids=str,
)
def test_vectors_of_every_type_are_read(tmp_path: Path, column: pa.Array) -> None:
    path = write(tmp_path / "v.arrow", pa.table({"v": column}))
    rows = read(path, fields=Fields(vector="v"))
    assert [row["vector"] for row in rows] == [[1, 2], None, [3, 4]]
    assert rejects(rows) == [(2, "no vector")]


def test_a_matrix_may_hold_the_vectors_of_a_table(tmp_path: Path) -> None:
    path = write(tmp_path / "a.arrow", TABLE.slice(0, 5), "stream", rows=2)
    np.save(tmp_path / "v.npy", np.eye(5, dtype="f4"))
    rows = read(path, vectors=tmp_path / "v.npy")
    assert [row["vector"] for row in rows] == np.eye(5).tolist()
    np.save(tmp_path / "v.npy", np.eye(6, dtype="f4"))
    with pytest.raises(InvalidRequest, match=r"v.npy has 6 rows and .*a.arrow has 5 records"):
        plan_sources([path], vectors=tmp_path / "v.npy")


def save_to_disk(folder: Path, names: list[str]) -> None:
    """The layout of `datasets.Dataset.save_to_disk`."""
    folder.mkdir(parents=True)
    for number, name in enumerate(names):
        write(folder / name, TABLE.slice(number * 10, 10), "stream")
    state: dict[str, Any] = {"_data_files": [{"filename": name} for name in names]}
    (folder / "state.json").write_bytes(orjson.dumps(state | {"_split": "train"}))
    (folder / "dataset_info.json").write_bytes(orjson.dumps({"text": "x", "features": {}}))


def test_a_saved_dataset_is_its_shards(tmp_path: Path) -> None:
    save_to_disk(tmp_path / "train", ["data-00000-of-00002.arrow", "data-00001-of-00002.arrow"])
    save_to_disk(tmp_path / "test", ["data-00000-of-00001.arrow"])
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    write(tmp_path / "train" / "cache-0123456789abcdef.arrow", kind="stream")
    plan = plan_sources([tmp_path])
    assert [file.name for file in plan.files] == [
        "test/data-00000-of-00001.arrow",
        "train/data-00000-of-00002.arrow",
        "train/data-00001-of-00002.arrow",
    ]
    listed = {item.path.removeprefix(f"{tmp_path}/"): item.reason for item in plan.passed_over}
    assert listed == {
        "dataset_dict.json": "the description of a dataset",
        "test/dataset_info.json": "the description of a dataset",
        "test/state.json": "the description of a saved dataset",
        "train/cache-0123456789abcdef.arrow": "not among the data files that state.json names",
        "train/dataset_info.json": "the description of a dataset",
        "train/state.json": "the description of a saved dataset",
    }


def test_the_caches_of_a_prepared_dataset_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "dataset_info.json").write_text("{}")
    for name in ("set-train.arrow", "cache-00ff.arrow", "cache-00ff_00000_of_00002.arrow"):
        write(tmp_path / name, TABLE.slice(0, 3), "stream")
    assert [file.name for file in plan_sources([tmp_path]).files] == ["set-train.arrow"]


def test_a_shard_that_is_not_there_is_said(tmp_path: Path) -> None:
    save_to_disk(tmp_path / "d", ["data-0.arrow", "data-1.arrow"])
    (tmp_path / "d" / "data-1.arrow").unlink()
    reasons = [item.reason for item in plan_sources([tmp_path]).passed_over]
    assert "the description of a saved dataset; data-1.arrow, which it names, is not there" in (
        reasons
    )


def test_a_stream_that_is_cut_off_gives_what_came_before(tmp_path: Path) -> None:
    path = write(tmp_path / "a.arrow", kind="stream")
    path.write_bytes(path.read_bytes()[:-5_000])
    rows = read(path)
    ((line, reason),) = rejects(rows)
    assert line == 2_001
    assert reason.startswith("the file is damaged")
    assert reason.endswith("2000 records were read before it")


def test_offsets_that_point_outside_cost_their_rows_only(tmp_path: Path) -> None:
    """Arrow trusts them: a reader that did too would read memory that is not the file's."""
    path = fresh(tmp_path, ".arrow")
    texts = pa.array(["aaaa", "bbbb", "cccc"])
    write(path, pa.table({"text": texts}))
    content = path.read_bytes()
    good = np.array([0, 4, 8, 12], np.int32).tobytes()
    assert content.count(good) == 1
    path.write_bytes(content.replace(good, np.array([0, 4, 1 << 30, 12], np.int32).tobytes()))
    rows = read(path)
    assert [line for line, _ in rejects(rows)] == [2, 3]
    assert rows[0]["text"] == "aaaa"


@pytest.mark.parametrize("content", [b"", b"not arrow", b"ARROW1\0\0"])
def test_a_file_that_is_not_arrow_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.arrow").write_bytes(content)
    with pytest.raises(InvalidRequest, match="not a readable arrow file"):
        plan_sources([tmp_path / "a.arrow"])
