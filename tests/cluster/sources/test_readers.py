"""Any content comes back as it was, and none makes a reader raise."""

import contextlib
import csv
import io
import json
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitsift.cluster.sources.files import plan_sources
from bitsift.cluster.sources.plan import Compression, Fields, Format, SourceFile
from bitsift.cluster.sources.readers import read_documents
from bitsift.errors import InvalidRequest
from tests.source_files import GOOD, fresh, in_one_folder, put, read

not_blank = st.text(min_size=1).filter(lambda text: not text.isspace())


def planned_blindly(path: Path, kind: Format, **more: Any) -> SourceFile:
    """A file that nobody looked into, as if it had changed its content at the same size."""
    fields = Fields(id="id", text="text", title="title")
    size_bytes = path.stat().st_size
    return SourceFile(0, str(path), path.name, kind, Compression.NONE, size_bytes, fields, **more)


@in_one_folder
@given(st.lists(st.tuples(not_blank, st.text(), not_blank), min_size=1, max_size=8))
def test_any_id_title_and_text_round_trip(
    tmp_path: Path, documents: list[tuple[str, str, str]]
) -> None:
    rows = [dict(zip(("id", "title", "text"), values, strict=True)) for values in documents]
    lines = put(tmp_path, b"".join(orjson.dumps(row) + b"\n" for row in rows))
    ascii_lines = put(tmp_path, "".join(f"{json.dumps(row)}\r\n" for row in rows).encode())
    table = fresh(tmp_path, ".parquet")
    pq.write_table(pa.Table.from_pylist(rows), table)
    sheets = [put(tmp_path, _csv(rows, ","), ".csv"), put(tmp_path, _csv(rows, "\t"), ".tsv")]
    for path in (lines, ascii_lines, table, *sheets):
        found = [(row["id"], row["title"], row["text"]) for row in read(path)]
        assert found == documents, path.suffix


def _csv(rows: list[dict[str, str]], delimiter: str) -> bytes:
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, list(rows[0]), delimiter=delimiter, quoting=csv.QUOTE_ALL)
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue().encode()


@in_one_folder
@given(st.binary(max_size=400) | st.text(alphabet='{}[]",:\\undt\n\t\r x1').map(str.encode))
def test_no_bytes_make_a_reader_raise(tmp_path: Path, content: bytes) -> None:
    path = put(tmp_path, content, ".any")
    for kind in (Format.JSON_LINES, Format.CSV, Format.TSV, Format.TEXT, Format.MARKDOWN):
        tables = []
        # only the header of a table is refused as a whole
        with contextlib.suppress(*([InvalidRequest] if kind in (Format.CSV, Format.TSV) else [])):
            tables = list(read_documents(planned_blindly(path, kind), batch_rows=3))
        for row in (row for table in tables for row in table.to_pylist()):
            assert (row["reject"] is None) == (row["text"] is not None and row["id"] is not None)


def test_a_file_that_changed_since_it_was_planned_is_refused(tmp_path: Path) -> None:
    path = put(tmp_path, GOOD)
    file = plan_sources([path]).files[0]
    path.write_bytes(GOOD + GOOD)
    with pytest.raises(InvalidRequest, match=r"has 64 bytes here; it had 32 when"):
        list(read_documents(file))
    path.unlink()
    with pytest.raises(InvalidRequest, match="cannot be read on"):
        list(read_documents(file))
