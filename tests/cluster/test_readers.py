"""Reading one file: what becomes a document, what is rejected and why, and at what cost."""

import bz2
import csv
import datetime
import decimal
import gzip
import io
import itertools
import json
import lzma
import re
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cluster.documents import SCHEMA
from cluster.readers import read_documents, read_text_files
from cluster.source_plan import POSITION_BITS, Compression, Fields, Format, SourceFile
from cluster.source_vectors import vectors_of
from cluster.sources import plan_sources
from cluster.streams import LINE_BYTES_MAX
from shard_worker.errors import InvalidRequest

PACKERS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".zst": zstandard.ZstdCompressor(write_checksum=True).compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
}
GOOD = b'{"id": "good", "text": "words"}\n'
COUNTER = itertools.count()
in_one_folder = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
not_blank = st.text(min_size=1).filter(lambda text: not text.isspace())


def fresh(folder: Path, ending: str) -> Path:
    return folder / f"file{next(COUNTER)}{ending}"


def put(folder: Path, content: bytes, ending: str = ".jsonl") -> Path:
    path = fresh(folder, ending)
    path.write_bytes(content)
    return path


def read(path: Path, batch_rows: int = 4096, **plan: Any) -> list[dict[str, Any]]:
    """All rows of a source, planned and read."""
    tables = []
    for file in plan_sources([path], **plan).files:
        tables += list(read_documents(file, batch_rows))
    assert all(table.schema.equals(SCHEMA) for table in tables)
    assert all(0 < table.num_rows <= batch_rows for table in tables)
    for table in tables:
        table.validate(full=True)
    return [row for table in tables for row in table.to_pylist()]


def rejects(rows: list[dict[str, Any]]) -> list[tuple[int, str]]:
    return [(row["line"], row["reject"]) for row in rows if row["reject"] is not None]


def planned_blindly(path: Path, kind: Format, **more: Any) -> SourceFile:
    """A file that nobody looked into, as if it had changed its content at the same size."""
    fields = Fields(id="id", text="text", title="title")
    size_bytes = path.stat().st_size
    return SourceFile(0, str(path), path.name, kind, Compression.NONE, size_bytes, fields, **more)


# --- records to documents ------------------------------------------------------------------


def test_a_json_line_becomes_a_document_with_the_rest_as_metadata(tmp_path: Path) -> None:
    row = {"_id": "a", "title": "T", "text": "words", "year": 1999, "tags": ["x", None]}
    (document,) = read(put(tmp_path, orjson.dumps(row)))
    assert document["position"] == 0
    assert (document["line"], document["id"], document["title"]) == (1, "a", "T")
    assert document["text"] == "words"
    assert orjson.loads(document["metadata"]) == {"year": 1999, "tags": ["x", None]}
    assert document["vector"] is document["reject"] is None


def test_a_document_without_further_fields_has_empty_metadata(tmp_path: Path) -> None:
    assert read(put(tmp_path, GOOD))[0]["metadata"] == ""


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"metadata": {}}, {}),
        ({"metadata": {"a": 1}}, {"a": 1}),
        ({"metadata": {"a": 1}, "b": 2}, {"b": 2, "a": 1}),
        ({"metadata": {"b": 1}, "b": 2}, {"metadata": {"b": 1}, "b": 2}),
        ({"metadata": "x"}, {"metadata": "x"}),
    ],
)
def test_a_field_metadata_is_merged_unless_names_collide(
    tmp_path: Path, fields: dict[str, Any], expected: dict[str, Any]
) -> None:
    (document,) = read(put(tmp_path, orjson.dumps({"text": "words"} | fields)))
    assert orjson.loads(document["metadata"] or "{}") == expected


def test_positions_count_records_and_lines_count_lines(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(GOOD + b"\n  \n{broken\n" + GOOD)
    (tmp_path / "b.jsonl").write_bytes(GOOD)
    rows = read(tmp_path, batch_rows=1)
    assert [row["position"] for row in rows] == [0, 1, 2, 1 << POSITION_BITS]
    assert [row["line"] for row in rows] == [1, 4, 5, 1]
    assert [row["file"][-7:] for row in rows] == ["a.jsonl"] * 3 + ["b.jsonl"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "broken json: .* at character"),
        (b'{"text": "a"} {}', "broken json"),
        (b"[" * 5000, "broken json"),
        (b'{"a\\u0041":' * 20000, "broken json"),
        (b"[1]", "a json list, not a json object"),
        (b"null", "a json NoneType, not a json object"),
        (b'"text"', "a json str, not a json object"),
        (b'{"text": "\xff"}', "invalid utf-8 at byte 11 of the line"),
        (b'{"id": "a"}', "no text in field 'text'"),
        (b'{"text": null}', "no text"),
        (b'{"text": ""}', "blank text"),
        (b'{"text": " \\n\\t\\u3000"}', "blank text"),
        (b'{"text": 5}', "text is a int, not a string"),
        (b'{"text": ["a"]}', "text is a list, not a string"),
        (b'{"text": "a", "title": ["t"]}', "title is a list, not a string"),
        (b'{"text": "a", "title": true}', "title is a bool, not a string"),
        (b'{"text": "a", "id": ""}', "empty id"),
        (b'{"text": "a", "id": "  "}', "empty id"),
        (b'{"text": "a", "id": true}', "id is a bool"),
        (b'{"text": "a", "id": {"x": 1}}', "id is a dict"),
        (b'{"text": "a", "id": 123456789012345678901}', "id .* is not exact"),
        (b'{"text": "a", "id": NaN}', "id nan is not exact"),
        (b'{"text": "a", "id": "\\ud800"}', "id holds a lone surrogate"),
    ],
)
def test_a_bad_line_is_rejected_with_a_reason_and_the_next_one_is_read(
    tmp_path: Path, line: bytes, reason: str
) -> None:
    start = b'{"id": "good", "title": "t", "text": "words"}\n'
    rows = read(put(tmp_path, start + line + b"\n" + start))
    ((number, found),) = rejects(rows)
    assert number == 2
    assert re.search(reason, found)
    assert rows[1]["id"] is rows[1]["text"] is None
    assert [row["id"] for row in rows] == ["good", None, "good"]


def test_numbers_become_ids_and_titles(tmp_path: Path) -> None:
    lines = b'{"id": 7, "text": "a", "title": 1984}\n{"id": 1.5, "text": "a"}\n'
    rows = read(put(tmp_path, lines + b'{"id": "t", "title": "t", "text": "a"}'))
    assert [row["id"] for row in rows] == ["7", "1.5", "t"]
    assert [row["title"] for row in rows] == ["1984", "", "t"]


def test_lone_surrogates_are_replaced_everywhere_but_in_the_id(tmp_path: Path) -> None:
    line = rb'{"id": "\u00e9", "title": "t\ud800", "text": "a\udfffb", "m": {"\ud801": ["\ud802"]}}'
    (row,) = read(put(tmp_path, line))
    assert (row["id"], row["title"], row["text"]) == ("é", "t\ufffd", "a\ufffdb")
    assert orjson.loads(row["metadata"]) == {"m": {"\ufffd": ["\ufffd"]}}


def test_nan_in_metadata_becomes_null_and_the_document_stays(tmp_path: Path) -> None:
    (row,) = read(put(tmp_path, b'{"text": "a", "score": NaN, "rank": -Infinity}'))
    assert orjson.loads(row["metadata"]) == {"score": None, "rank": None}


def test_nul_is_a_character(tmp_path: Path) -> None:
    (row,) = read(put(tmp_path, rb'{"id": "a\u0000b", "text": "\u0000"}'))
    assert (row["id"], row["text"]) == ("a\0b", "\0")


@pytest.mark.parametrize(("leaf", "is_good"), [(b"1", True), (b"NaN", False)])
def test_deep_nesting_is_kept_or_rejected_but_never_raises(
    tmp_path: Path, leaf: bytes, is_good: bool
) -> None:
    deep = b'{"a":' * 900 + leaf + b"}" * 900
    rows = read(put(tmp_path, GOOD + b'{"text": "a", "m": ' + deep + b"}\n" + GOOD))
    assert rejects(rows) == ([] if is_good else [(2, "record is nested too deeply")])


def test_a_byte_order_mark_is_not_part_of_the_first_record(tmp_path: Path) -> None:
    assert rejects(read(put(tmp_path, b"\xef\xbb\xbf" + GOOD))) == []
    assert read(put(tmp_path, b"\xef\xbb\xbftext\na\n", ".csv"))[0]["text"] == "a"


def test_the_id_of_a_document_without_one_depends_on_its_content_only(tmp_path: Path) -> None:
    rows = [{"text": "a"}, {"text": "b"}, {"text": "a", "title": "t"}, {"text": "a", "x": 1}]
    content = b"".join(orjson.dumps(row) + b"\n" for row in rows)
    ids = [row["id"] for row in read(put(tmp_path, content))]
    assert len(set(ids)) == 4
    assert all(len(name) == 32 and int(name, 16) >= 0 for name in ids)
    again = read(put(tmp_path, b"{broken\n" + content))[1:]
    assert [row["id"] for row in again] == ids
    assert ids[0] == "c01c764d55ce18dd4a1a64be2f246371"  # another one would encode all anew


def test_the_content_id_of_a_vector_without_text_depends_on_the_vector(tmp_path: Path) -> None:
    content = b'{"v": [1, 2]}\n{"v": [2, 1]}\n{"v": [1, 2]}\n'
    rows = read(put(tmp_path, content), fields=Fields(vector="v"))
    first, second, third = (row["id"] for row in rows)
    assert first == third != second


# --- formats round-trip --------------------------------------------------------------------


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
        try:
            tables = list(read_documents(planned_blindly(path, kind), batch_rows=3))
        except InvalidRequest as error:  # only a header of a table may be refused as a whole
            assert "header" in str(error)
            assert kind in (Format.CSV, Format.TSV)
            continue
        for row in (row for table in tables for row in table.to_pylist()):
            assert (row["reject"] is None) == (row["text"] is not None and row["id"] is not None)


# --- compression and damage ----------------------------------------------------------------


def many_lines(count: int) -> bytes:
    noise = np.random.default_rng(7).bytes(count * 30).hex()
    return b"".join(
        orjson.dumps({"id": str(row), "text": noise[60 * row : 60 * row + 60]}) + b"\n"
        for row in range(count)
    )


@pytest.mark.parametrize("ending", PACKERS)
def test_a_compressed_file_reads_like_the_plain_one(tmp_path: Path, ending: str) -> None:
    content = many_lines(20_000)
    plain = read(put(tmp_path, content))
    packed = read(put(tmp_path, PACKERS[ending](content), f".jsonl{ending}"))
    assert len(plain) == 20_000
    for row in plain + packed:
        del row["file"]
    assert plain == packed


@pytest.mark.parametrize("ending", PACKERS)
def test_a_truncated_file_keeps_what_was_read_and_ends_with_a_reject(
    tmp_path: Path, ending: str
) -> None:
    packed = PACKERS[ending](many_lines(50_000))
    rows = read(put(tmp_path, packed[: len(packed) // 2], f".jsonl{ending}"))
    good = len(rows) - 1
    assert good > 5_000
    assert [row["id"] for row in rows[:-1]] == [str(number) for number in range(good)]
    ((line, reason),) = rejects(rows)
    assert (line, rows[-1]["position"]) == (good + 1, good)
    assert reason.startswith("truncated") and f"{good} records were read before it" in reason


@pytest.mark.parametrize("ending", PACKERS)
def test_a_file_damaged_in_the_middle_keeps_what_was_read(tmp_path: Path, ending: str) -> None:
    packed = bytearray(PACKERS[ending](many_lines(50_000)))
    middle = len(packed) // 2
    packed[middle : middle + 4096] = bytes(4096)
    rows = read(put(tmp_path, bytes(packed), f".jsonl{ending}"))
    assert "damaged" in rows[-1]["reject"]
    assert len([row for row in rows if row["reject"] is None]) > 5_000


@pytest.mark.parametrize("ending", PACKERS)
def test_members_one_after_the_other_are_one_file(tmp_path: Path, ending: str) -> None:
    pack = PACKERS[ending]
    rows = read(put(tmp_path, pack(GOOD) + pack(GOOD) + bytes(4), f".jsonl{ending}"))
    assert [row["reject"] for row in rows] == [None, None]


def test_a_truncated_table_names_the_line_where_it_ends(tmp_path: Path) -> None:
    content = b"id,text\n" + b"".join(b'%d,"a\nb %d"\n' % (row, row**9) for row in range(20_000))
    packed = gzip.compress(content)
    rows = read(put(tmp_path, packed[: len(packed) // 2], ".csv.gz"))
    assert rows[-1]["reject"].startswith("truncated gzip")
    assert rows[-1]["line"] == 2 * len(rows)


def test_a_line_over_the_limit_is_rejected_without_being_kept(tmp_path: Path) -> None:
    huge = b'{"text": "' + b"a" * (4 * LINE_BYTES_MAX) + b'"}\n'
    path = put(tmp_path, gzip.compress(GOOD + huge + GOOD, compresslevel=1), ".jsonl.gz")
    del huge
    tracemalloc.start()
    try:
        rows = read(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert rejects(rows) == [(2, "record is longer than 64 MiB")]
    assert [row["id"] for row in rows] == ["good", None, "good"]
    assert peak < 1.5 * LINE_BYTES_MAX


def test_a_file_that_changed_since_it_was_planned_is_refused(tmp_path: Path) -> None:
    path = put(tmp_path, GOOD)
    file = plan_sources([path]).files[0]
    path.write_bytes(GOOD + GOOD)
    with pytest.raises(InvalidRequest, match=r"has 64 bytes here; it had 32 when"):
        list(read_documents(file))
    path.unlink()
    with pytest.raises(InvalidRequest, match="cannot be read on"):
        list(read_documents(file))


# --- tables: CSV and TSV -------------------------------------------------------------------


def test_table_rows_have_strings_and_leave_empty_cells_out_of_the_metadata(tmp_path: Path) -> None:
    content = b'id,text,year,note,\r\n07,"a, ""b""\r\nc",1999,,z\r\n\r\n8,d,,,\r\n'
    rows = read(put(tmp_path, content, ".csv"))
    assert [row["line"] for row in rows] == [2, 5]
    assert (rows[0]["id"], rows[0]["text"]) == ("07", 'a, "b"\r\nc')
    assert orjson.loads(rows[0]["metadata"]) == {"year": "1999", "column_5": "z"}
    assert rows[1]["metadata"] == ""


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"1,a,b", "broken row: it has 3 cells, the header has 2"),
        (b"1", "broken row: it has 1 cells, the header has 2"),
        (b"1,\xff", "invalid utf-8"),
        (b"1,", "blank text in field 'text'"),
        (b",a", "empty id"),
        (b"1,a\rb", "broken row: new-line character"),
    ],
)
def test_a_bad_row_of_a_table_is_rejected(tmp_path: Path, line: bytes, reason: str) -> None:
    rows = read(put(tmp_path, b"id,text\n0,a\n" + line + b"\n2,c\n", ".csv"))
    ((number, found),) = rejects(rows)
    assert (number, found[: len(reason)]) == (3, reason)
    assert rows[2]["id"] == "2"


def test_a_quote_that_is_never_closed_is_one_reject_at_its_line(tmp_path: Path) -> None:
    rows = read(put(tmp_path, b'id,text\n1,a\n2,"b\n3,c\n', ".csv"))
    assert rejects(rows) == [(3, "broken row: a quote is opened and never closed")]


def test_a_cell_over_the_default_limit_of_the_csv_module_is_read(tmp_path: Path) -> None:
    rows = read(put(tmp_path, b"text\n" + b"a" * 1_000_000 + b"\n", ".csv"))
    assert len(rows[0]["text"]) == 1_000_000


# --- text and Markdown ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "title"),
    [
        ("# One #\ntext", "One"),
        ("text first\n\n  ### Two\n# One", "Two"),
        ("```\n# code\n```\n~~~\n# code\n~~~\n# One", "One"),
        ("---\n# a comment: in front matter\n---\n# One", "One"),
        ("One\n===\ntext", "One"),
        ("text\n\n---\n\nmore", "notes"),
        ("#hashtag is no heading", "notes"),
        ("#\n# One", "One"),
        ("no heading", "notes"),
    ],
)
def test_the_title_of_a_markdown_file_is_its_first_heading(
    tmp_path: Path, content: str, title: str
) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "notes.md").write_text(content)
    (row,) = read(tmp_path)
    assert (row["id"], row["title"], row["text"]) == ("docs/notes.md", title, content)


def test_a_text_file_is_one_document_whatever_is_in_it(tmp_path: Path) -> None:
    for name, content in {
        "a.txt": b"# not a heading\nwords",
        "b.txt": b" \n",
        "c.txt": b"\xff",
        "d.txt.gz": gzip.compress(b"packed"),
        "e.txt.gz": gzip.compress(b"packed")[:-9],
    }.items():
        (tmp_path / name).write_bytes(content)
    files = plan_sources([tmp_path]).files
    (table,) = read_text_files(files)
    rows = table.to_pylist()
    assert [row["id"] for row in rows] == ["a.txt", None, None, "d.txt.gz", None]
    assert [row["title"] for row in rows] == ["a", None, None, "d", None]
    assert [row["position"] >> POSITION_BITS for row in rows] == [0, 1, 2, 3, 4]
    reasons = [row["reject"] or "" for row in rows]
    assert [reason.split()[0] if reason else "" for reason in reasons] == [
        "", "blank", "invalid", "", "truncated",
    ]  # fmt: skip


def test_a_text_file_over_the_limit_is_rejected(tmp_path: Path) -> None:
    path = fresh(tmp_path, ".txt")
    with path.open("wb") as stream:
        stream.truncate(LINE_BYTES_MAX + 1)
    assert rejects(read(path)) == [(1, "record is longer than 64 MiB")]


# --- Parquet -------------------------------------------------------------------------------


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


def test_invalid_utf8_in_parquet_rejects_its_row_only(tmp_path: Path) -> None:
    texts = pa.array([b"good", b"\xff", b"fine"]).cast(pa.large_binary())
    text = pa.Array.from_buffers(pa.large_string(), 3, texts.buffers())
    path = fresh(tmp_path, ".parquet")
    pq.write_table(pa.table({"text": text, "m": pa.array([b"\xff", b"", b""])}), path)
    rows = read(path)
    assert rejects(rows) == [(2, "invalid utf-8 in field 'text'")]


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


# --- vectors -------------------------------------------------------------------------------

VECTORS = Fields(vector="v")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"[1, NaN]", "vector holds NaN or infinity"),
        (b"[1, Infinity]", "vector holds NaN or infinity"),
        (b"[1, 1e39]", "vector holds NaN or infinity"),
        (b"[0, -0.0]", "vector is all zeros"),
        (b"[1, 2, 3]", "vector has 3 numbers, expected 2"),
        (b"[]", "vector is empty or holds something else than numbers"),
        (b'[1, "2"]', "vector is empty or holds something else than numbers"),
        (b"[true, false]", "vector is empty or holds something else than numbers"),
        (b"[1, null]", "vector is empty or holds something else than numbers"),
        (b"[[1, 2], [3]]", "vector is a nested list"),
        (b'"abc"', "vector is a str, not a list of numbers"),
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
    assert rejects(rows) == [(5, "text is a int, not a string")]


def test_a_vector_in_a_table_is_a_json_list(tmp_path: Path) -> None:
    content = b'id,v\n1,"[1, 2]"\n2,"[1, 2"\n3,\n'
    rows = read(put(tmp_path, content, ".csv"), fields=VECTORS)
    assert [row["vector"] for row in rows] == [[1, 2], None, None]
    assert [reason.split(":")[0] for _, reason in rejects(rows)] == [
        "vector is not a json list",
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
    expected = [None, "no vector", "vector is all zeros", "vector holds NaN or infinity", None]
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
def test_a_lone_npy_file_gives_a_document_a_row(tmp_path: Path, kind: str, order: str) -> None:
    matrix = np.asarray([[1, 2], [np.nan, 1], [0, 0], [3, 4]], dtype=kind, order=order)
    np.save(tmp_path / "some.npy", matrix)
    rows = read(tmp_path / "some.npy", batch_rows=3)
    assert [row["id"] for row in rows] == [f"some-000000000{row}" for row in range(4)]
    assert [row["vector"] for row in rows] == [[1, 2], None, None, [3, 4]]
    assert [row["text"] for row in rows] == [""] * 4
    assert rejects(rows) == [(2, "vector holds NaN or infinity"), (3, "vector is all zeros")]


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
