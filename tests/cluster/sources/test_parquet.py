"""Parquet: its types as JSON, and damage that stays where it is."""

import datetime
import decimal
import subprocess
import sys
import uuid
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.source_files import fresh, read, rejects


def test_parquet_types_become_json(tmp_path: Path) -> None:
    table = pa.table(
        {
            "id": pa.array([5], pa.int32()),
            "text": pa.array(["words"]).dictionary_encode(),
            "title": pa.array([b"bytes"]),
            "day": [datetime.date(2020, 1, 2)],
            "time": pa.array([1_000_000_001], pa.timestamp("ns", tz="UTC")),
            "price": [decimal.Decimal("1.10")],
            "raw": [b"\xff\x00"],
            "span": [datetime.timedelta(seconds=90)],
            "nested": [{"a": [1, None]}],
            "nan": [float("nan")],
            "nothing": pa.array([None], pa.string()),
        }
    )
    path = fresh(tmp_path, ".parquet")
    pq.write_table(table, path)
    (row,) = read(path)
    assert (row["id"], row["title"], row["text"], row["line"]) == ("5", "bytes", "words", 1)
    assert orjson.loads(row["metadata"]) == {
        "day": "2020-01-02",
        "time": "1970-01-01T00:00:01.000000001+00:00",
        "price": "1.10",
        "raw": "/wA=",
        "span": 90.0,
        "nested": {"a": [1, None]},
        "nan": None,
    }


KEY = uuid.UUID("12345678-1234-5678-1234-567812345678")


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (pa.ExtensionArray.from_storage(pa.uuid(), pa.array([KEY.bytes], pa.binary(16))), str(KEY)),
        (pa.array([KEY.bytes], pa.binary(16)), str(KEY)),
        (pa.array([b"\xff\x00\x01"], pa.binary(3)), "ff0001"),
        (pa.array([decimal.Decimal(10**37 + 1)], pa.decimal128(38, 0)), f"{10**37 + 1}"),
        (pa.array([decimal.Decimal("1.10")], pa.decimal128(10, 2)), "1.10"),
        (pa.array([datetime.date(2020, 1, 2)], pa.date32()), "2020-01-02"),
        (pa.array([datetime.date(2020, 1, 2)], pa.date64()), "2020-01-02"),
        (pa.array([datetime.datetime(2020, 1, 2)], pa.timestamp("s")), "2020-01-02T00:00:00"),
        (pa.array([-128], pa.int8()), "-128"),
        (pa.array([2**64 - 1], pa.uint64()), f"{2**64 - 1}"),
        (pa.array([7.0], pa.float64()), "7"),
        (pa.array([7.0], pa.float32()), "7"),
        (pa.array([np.float16(7)], pa.float16()), "7"),
        (pa.array([7.5], pa.float64()), "7.5"),
        (pa.array([7], pa.int64()).dictionary_encode(), "7"),
        (pa.array(["7"], pa.string_view()), "7"),
        (pa.array([b"7"], pa.large_binary()), "7"),
        (
            pa.array([KEY.bytes[:8] + b"\xff" * 8], pa.binary()),
            f"{str(KEY)[:18]}-ffff-ffffffffffff",
        ),
        (pa.array([b"\xff\x00\x01"], pa.large_binary()), "ff0001"),
    ],
)
def test_an_id_is_the_natural_string_of_its_type(
    tmp_path: Path, ids: pa.Array, expected: str
) -> None:
    """inputs.md E16: all records of such files were refused."""
    path = fresh(tmp_path, ".parquet")
    pq.write_table(pa.table({"id": ids, "text": ["words"]}), path)
    assert [(row["id"], row["reject"]) for row in read(path)] == [(expected, None)]


def test_a_map_with_texts_as_keys_is_an_object(tmp_path: Path) -> None:
    """So filters find what is in it; Spark, DuckDB and Trino write maps."""
    of_texts = pa.map_(pa.string(), pa.int64())
    table = pa.table(
        {
            "text": ["a", "b", "c"],
            "m": pa.array([[("k", 1), ("l", 2)], [("k", 3), ("k", 4)], None], of_texts),
            "nested": pa.array(
                [[{"m": [("x", 1)]}], [], None], pa.list_(pa.struct([("m", of_texts)]))
            ),
            "pairs": pa.array([[(7, 1)], None, None], pa.map_(pa.int64(), pa.int64())),
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    rows = read(tmp_path / "a.parquet")
    assert orjson.loads(rows[0]["metadata"]) == {
        "m": {"k": 1, "l": 2},
        "nested": [{"m": {"x": 1}}],
        "pairs": [[7, 1]],
    }
    assert rejects(rows) == [(2, "field 'm' is a map that has a key twice")]
    assert rows[2]["metadata"] == ""


def test_bytes_are_ids_as_text_or_as_digits_but_not_some_of_both(tmp_path: Path) -> None:
    path = fresh(tmp_path, ".parquet")
    for ids, expected in (
        ([b"a", b"\xff", b"b"], ["a", None, "b"]),
        ([b"a", b"\xff", b"\xfe"], ["61", "ff", "fe"]),
    ):
        pq.write_table(pa.table({"id": ids, "text": ["words"] * 3}), path)
        assert [row["id"] for row in read(path)] == expected


def test_a_float_that_cannot_hold_its_id_exactly_is_refused(tmp_path: Path) -> None:
    path = fresh(tmp_path, ".parquet")
    ids = pa.array([2.0**24, 2.0**24 - 1], pa.float32())
    pq.write_table(pa.table({"id": ids, "text": ["a", "b"]}), path)
    rows = read(path)
    (reject,) = rejects(rows)
    assert reject == (1, "id 16777216.0 is not exact as a float: write ids as strings")
    assert rows[1]["id"] == "16777215"


def test_invalid_utf8_in_parquet_rejects_its_row_only(tmp_path: Path) -> None:
    texts = pa.array([b"good", b"\xff", b"fine"]).cast(pa.large_binary())
    text = pa.Array.from_buffers(pa.large_string(), 3, texts.buffers())
    path = fresh(tmp_path, ".parquet")
    pq.write_table(pa.table({"text": text, "m": pa.array([b"\xff", b"", b""])}), path)
    rows = read(path)
    assert rejects(rows) == [(2, "invalid UTF-8 in field 'text'")]


def test_a_date_that_python_cannot_hold_rejects_its_row_only(tmp_path: Path) -> None:
    day = pa.array([0, 2**31 - 1], pa.int32()).cast(pa.date32())
    path = fresh(tmp_path, ".parquet")
    pq.write_table(pa.table({"text": ["a", "b"], "day": day}), path)
    ((line, reason),) = rejects(read(path))
    assert (line, reason.split(":")[0]) == (2, "value of field 'day' cannot be used")


def test_a_damaged_row_group_costs_its_own_rows_only(tmp_path: Path) -> None:
    path = fresh(tmp_path, ".parquet")
    texts = [f"text {row} {row**7}" for row in range(3000)]
    pq.write_table(pa.table({"text": texts}), path, row_group_size=1000, use_dictionary=False)
    column = pq.ParquetFile(path).metadata.row_group(1).column(0)
    content = bytearray(path.read_bytes())
    middle = column.data_page_offset + column.total_compressed_size // 2
    content[column.data_page_offset : middle] = b"\xff" * (middle - column.data_page_offset)
    path.write_bytes(content)
    rows = read(path)
    ((line, reason),) = rejects(rows)
    assert (line, reason.split(":")[0]) == (1001, "row group 1 is damaged")
    assert [row["text"] for row in rows if row["reject"] is None] == texts[:1000] + texts[2000:]


READ = """
import sys
from pathlib import Path
from bitsift.cluster.sources.readers import read_documents
from bitsift.cluster.sources.files import plan_sources
def highest():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) << 10
before = highest()
(file,) = plan_sources([sys.argv[1]]).files
tables = (table for table in read_documents(file))
characters = sum(sum(map(len, table.column("text").to_pylist())) for table in tables)
print(characters, highest() - before)
"""


def test_a_text_that_every_row_shares_takes_no_ram_for_each(tmp_path: Path) -> None:
    """1 GiB of texts in 40 KB of Parquet: no more than some batches of 32 MiB at a time."""
    text, rows = "words " * 43_690, 4_096
    shared = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array([text]))
    path = fresh(tmp_path, ".parquet")
    table = pa.table({"id": [str(row) for row in range(rows)], "text": shared})
    pq.write_table(table, path, dictionary_pagesize_limit=8 << 20, store_schema=False)
    assert path.stat().st_size < 100_000
    done = subprocess.run(
        [sys.executable, "-c", READ, str(path)],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    characters, grown = map(int, done.stdout.split())
    assert characters == rows * len(text)
    assert grown < 500 << 20


def test_values_that_rows_share_are_the_same_as_written(tmp_path: Path) -> None:
    long = "x" * (1 << 20)
    texts = [long, None, "short", long, "é", *[long, "more"] * 40]
    bad = pa.array([b"good", b"\xff", b"good"] * 28 + [b"last"]).cast(pa.large_binary())
    title = pa.Array.from_buffers(pa.large_string(), len(bad), bad.buffers())
    note = pa.array(["a", None, "b"] * 28 + ["c"])
    path = fresh(tmp_path, ".parquet")
    pq.write_table(pa.table({"text": texts, "title": title, "note": note}), path)
    rows = read(path)
    assert [line for line, _ in rejects(rows)] == [row + 1 for row in range(85) if row % 3 == 1]
    good = [row for row in range(85) if row % 3 != 1]
    kept = [row for row in rows if row["reject"] is None]
    assert [row["text"] for row in kept] == [texts[row] for row in good]
    assert [orjson.loads(row["metadata"])["note"] for row in kept] == [
        note[row].as_py() for row in good
    ]
