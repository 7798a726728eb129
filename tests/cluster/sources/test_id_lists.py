"""Lists of ids: one a line, or a field of records; what deletes by them is tests/cluster/cli."""

from __future__ import annotations

import gzip
import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import feather

from bitsift.cluster.sources.id_lists import read_ids
from bitsift.errors import InvalidRequest


@pytest.mark.parametrize(
    ("name", "content", "options"),
    [
        ("bom.txt", "\ufeffd1\r\nd2\r\n", ()),
        ("ids", "d1\n\nd2", ()),
        ("a.csv", "\ufeffid,x\r\nd1,1\r\nd2,2\r\n", ()),
        ("a.tsv", "x\tkey\n1\td1\n2\td2\n", ("--id-field", "key")),
        ("a.jsonl", '\ufeff{"_id": "d1"}\n{"_id": "d2", "text": 1}\n', ()),
        ("a.json", '[{"ID": "d1"},\n {"ID": "d2"}]', ()),
    ],
)
def test_ids_to_delete_are_lines_or_a_field(
    tmp_path: Path, name: str, content: str, options: tuple[str, ...]
) -> None:
    file = tmp_path / name
    file.write_text(content, encoding="utf-8", newline="")
    assert list(read_ids(str(file), *options[1:])) == ["d1", "d2"]
    packed = tmp_path / f"{name}.gz"
    packed.write_bytes(gzip.compress(content.encode()))
    assert list(read_ids(str(packed), *options[1:])) == ["d1", "d2"]


def test_standard_input_is_a_file_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"nobody\nno one\n")))
    assert list(read_ids("-")) == ["nobody", "no one"]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_list_may_be_in_an_encoding_that_its_mark_says(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "ids.txt").write_bytes("é1\r\n\r\nd2\r\n".encode(encoding))
    assert list(read_ids(str(tmp_path / "ids.txt"))) == ["é1", "d2"]


@pytest.mark.parametrize("ending", ["parquet", "arrow"])
def test_ids_of_a_table_are_its_column(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"ids.{ending}"
    table = pa.table({"text": ["x"] * 9_000, "id": range(9_000)})
    if ending == "parquet":
        pq.write_table(table, path, row_group_size=4_000)
    else:
        feather.write_feather(table, path)
    assert list(read_ids(str(path))) == [str(n) for n in range(9_000)]
    with pytest.raises(InvalidRequest, match="no field 'key'; fields found: text, id"):
        list(read_ids(str(path), "key"))
