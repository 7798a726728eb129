"""Lists of ids: one a line, or a field of records; what deletes by them is tests/cluster/cli."""

from __future__ import annotations

import gzip
import io
from pathlib import Path

import pytest

from bitsift.cluster.sources.id_lists import read_ids


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
