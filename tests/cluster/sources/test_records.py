"""Tables, text files and Markdown: where a record begins and what is its title."""

import gzip
from pathlib import Path

import orjson
import pytest

from bitsift.cluster.sources.files import plan_sources
from bitsift.cluster.sources.plan import POSITION_BITS
from bitsift.cluster.sources.readers import read_text_files
from bitsift.cluster.sources.streams import LINE_BYTES_MAX
from tests.source_files import fresh, put, read, rejects


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
        (b"1,\xff", "invalid UTF-8"),
        (b"1,", "blank text in field 'text'"),
        (b",a", "empty id"),
        (b"1,a\rb", "broken row: a carriage return"),
    ],
)
def test_a_bad_row_of_a_table_is_rejected(tmp_path: Path, line: bytes, reason: str) -> None:
    rows = read(put(tmp_path, b"id,text\n0,a\n" + line + b"\n2,c\n", ".csv"))
    ((number, found),) = rejects(rows)
    assert (number, found[: len(reason)]) == (3, reason)
    assert rows[2]["id"] == "2"


@pytest.mark.parametrize("ending", [".csv", ".tsv"])
def test_empty_cells_after_the_last_column_are_no_cells(tmp_path: Path, ending: str) -> None:
    table = b"id,text\n1,a,\n2,b,,\n3,,\n4,d,,e\n"
    data = table if ending == ".csv" else table.replace(b",", b"\t")
    rows = read(put(tmp_path, data, ending))
    assert [(row["id"], row["text"]) for row in rows[:2]] == [("1", "a"), ("2", "b")]
    assert rejects(rows) == [
        (4, "blank text in field 'text'"),
        (5, "broken row: it has 4 cells, the header has 2"),
    ]


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("header", ["id,text", '"id","text"', " id ,text"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_the_header_of_a_file_that_was_joined_is_no_document(
    tmp_path: Path, mark: str, header: str, ending: str
) -> None:
    parts = [f"{mark}{header}{ending}{number},words{ending}" for number in (1, 2)]
    rows = read(put(tmp_path, "".join(parts).encode(), ".csv"))
    assert [row["id"] for row in rows] == ["1", None, "2"]
    assert rejects(rows) == [
        (3, "the header once more, no record: were files with headers joined?")
    ]


def test_a_row_that_is_only_in_part_the_header_is_a_document(tmp_path: Path) -> None:
    assert len(read(put(tmp_path, b"id,text\nid,words\n1,text\n", ".csv"))) == 2
    rows = read(put(tmp_path, b"text\ntext\nwords\n", ".csv"))  # one column: it may be a text
    assert [row["text"] for row in rows] == ["text", "words"]


def test_marks_of_files_that_were_joined_are_no_part_of_records(tmp_path: Path) -> None:
    line = b'\xef\xbb\xbf{"id": "a", "text": "words"}\n'
    assert [row["id"] for row in read(put(tmp_path, line + line))] == ["a", "a"]
    rows = read(put(tmp_path, "\ufeff\ufeffid,\u200btext\n1,words\n".encode(), ".csv"))
    assert [(row["id"], row["text"], row["metadata"]) for row in rows] == [("1", "words", "")]


def test_a_quote_that_is_never_closed_is_one_reject_at_its_line(tmp_path: Path) -> None:
    rows = read(put(tmp_path, b'id,text\n1,a\n2,"b\n3,c\n', ".csv"))
    reason = 'broken row: a quote " is opened in it and never closed'
    assert rejects(rows) == [(3, f"{reason}; the line after it is read as a row of its own")]
    assert [row["id"] for row in rows] == ["1", None, "3"]


def test_a_cell_over_the_default_limit_of_the_csv_module_is_read(tmp_path: Path) -> None:
    rows = read(put(tmp_path, b"text\n" + b"a" * 1_000_000 + b"\n", ".csv"))
    assert len(rows[0]["text"]) == 1_000_000


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
    assert rejects(read(path)) == [(1, "record is longer than 16 MiB")]
