"""Rows of text tables: quotes, escapes, and what a quote that is left open may not swallow."""

import csv
import io
from collections.abc import Iterator
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitsift.cluster.sources.delimited import read_rows
from bitsift.cluster.sources.dialect import Dialect
from bitsift.cluster.sources.streams import LINE_BYTES_MAX, DamagedStream
from bitsift.cluster.sources.table_rows import NULL, Row

CSV = Dialect()
TSV = Dialect("\t", quote="")
DUMP = Dialect("\t", quote="", escape="\\")
SPARK = Dialect(escape="\\")


def blocks(data: bytes, size: int) -> Iterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


def rows_of(data: str | bytes, dialect: Dialect = CSV, encoding: str = "utf-8") -> list[Row]:
    """The rows, the same for blocks of every size."""
    data = data.encode() if isinstance(data, str) else data
    whole = list(read_rows(iter([data]), dialect, encoding))
    for size in (1, 2, 7):
        assert list(read_rows(blocks(data, size), dialect, encoding)) == whole
    return whole


def cells_of(data: str, dialect: Dialect = CSV) -> list[list[str] | None]:
    return [row.cells for row in rows_of(data, dialect)]


cell = st.text(alphabet='ab",;\t\\\n\r é', max_size=6)
table = st.integers(2, 4).flatmap(
    lambda width: st.lists(st.lists(cell, min_size=width, max_size=width), min_size=1, max_size=6)
)


@given(table, st.sampled_from(",;\t|"), st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))
def test_what_the_csv_module_writes_comes_back(
    rows: list[list[str]], delimiter: str, quoting: Literal[0, 1]
) -> None:
    stream = io.StringIO(newline="")
    csv.writer(stream, delimiter=delimiter, quoting=quoting).writerows(rows)
    assert cells_of(stream.getvalue(), Dialect(delimiter)) == rows


@given(
    st.text(alphabet='a1",\n\r\\ \ud83d\ude00', max_size=60).map(
        lambda text: text.encode("utf-8", "replace")
    )
    | st.binary(max_size=60)
)
def test_every_line_is_in_a_row_and_no_row_swallows_a_broken_one(data: bytes) -> None:
    for dialect in (CSV, TSV, DUMP, SPARK):
        rows = rows_of(data, dialect)
        lines = data.split(b"\n")
        covered = {line for row in rows for line in range(row.line, row.line + row.lines)}
        assert sum(row.lines for row in rows) == len(covered), "no line twice"
        left = [lines[number] for number in range(len(lines)) if number + 1 not in covered]
        assert all(line.strip(b"\r") in (b"", b"\\.") for line in left), "none left out"
        assert all(row.lines == 1 for row in rows if "broken" in (row.reason or ""))


@pytest.mark.parametrize(
    ("table", "bad", "good"),
    [
        ('5,"3 feet\n6,b\n7,c\n', [1], 2),  # never closed
        ('5,"3 feet\n6,"b"\n7,c\n', [1], 2),  # closed where the next cell begins
        ('5,"3 feet\n6,"b\n7,"c\n8,d', [1, 2, 3], 1),
        ('1,a\n5,"3 feet\n6,b\n7,size 5"\n8,c\n', [2], 4),  # closed by another mark of inches
        ('a,b,c\nx,"3 feet,f\ny,b,b\nz,5",e\nw,c,d\n', [], 3),  # a cell of three lines
        ('a,b,c\nx,g,"3 feet,f\ny,b,b\nz,5",e\nw,c,d\n', [2], 4),  # with a cell too many
        ('5,"3 feet\n6,"",\n7,c\n', [1], 2),
        ('"5","3 feet\n"6","b"\n"7","c"\n', [1], 2),
        ('5,"a" b\n6,b\n', [1], 1),
        ('5,"a"\n6,"b\r\nc"\n7,d"e"\n', [], 3),
        ('1,"a\n2, b"\n', [], 1),
        ('1,x\n2,"12 Main\nSpringfield, IL"\n', [], 2),
        ('1,x\n2,"12 Main\nSpringfield, IL",y,z\n', [], 2),
        ('1,x\n2,"12 Main\nSpringfield", IL\n', [], 2),
        ('a,b\nx,"3 feet\ny,b\nz,"\nc d"\n', [2], 3),  # closed where the next one opens
    ],
)
def test_a_quote_that_is_left_open_makes_one_broken_row(
    table: str, bad: list[int], good: int
) -> None:
    rows = rows_of(table)
    assert [row.line for row in rows if row.cells is None] == bad
    assert sum(row.cells is not None for row in rows) == good


def test_a_broken_row_says_what_became_of_the_lines_after_it() -> None:
    opened = 'broken row: a quote " is opened in it and '
    (row, *_) = rows_of('5,"3 feet\n' + "6,b\n" * 1_200)
    assert (
        row.reason
        == f"{opened}never closed; the 1,200 lines after it are read as rows of their own"
    )
    (_, row, *_) = rows_of('1,a\n5,"3 feet\n6,b"\n')
    assert row.reason == f"{opened}closed in line 3; the line after it is read as a row of its own"


@pytest.mark.parametrize("line", ['5,"3 feet\n', 'a","""\n', '"\n', '1,"a" b\n', '1,"a\nb",c\n'])
def test_reading_is_linear_whatever_the_quotes(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted are the lines that the csv module is given."""
    given_lines = 0
    real = csv.reader

    def counting(lines: Iterator[str], **rules: str) -> object:
        def counted() -> Iterator[str]:
            nonlocal given_lines
            for line in lines:
                given_lines += 1
                yield line

        return real(counted(), **rules)  # type: ignore[arg-type]

    monkeypatch.setattr("bitsift.cluster.sources.quoted_rows.csv.reader", counting)
    data = (line * 3_000).encode()
    for _ in read_rows(blocks(data, 4_096), CSV):
        pass
    assert given_lines <= 5 * data.count(b"\n")


def test_an_open_row_is_given_up_when_it_is_too_long() -> None:
    line = b"6," + b"b" * 998 + b"\n"

    def table() -> Iterator[bytes]:
        yield b'id,text\n5,"3 feet\n'
        for _ in range(34):
            yield line * 524

    rows = list(read_rows(table(), CSV))
    assert len(rows) == 2 + 34 * 524
    (broken,) = (row for row in rows if row.cells is None)
    assert broken.line == 2


@pytest.mark.parametrize("dialect", [CSV, TSV, DUMP, SPARK])
def test_a_line_over_the_limit_is_one_row_without_cells(dialect: Dialect) -> None:
    quoted = b'3,"a\n' if dialect.quote else b"3,a\n"
    data = b"1,a\n2," + b"b" * LINE_BYTES_MAX + b"\n" + quoted + b'4,b"\n'
    rows = list(read_rows(blocks(data, 1 << 20), dialect))
    assert [row.line for row in rows][:3] == [1, 2, 3]
    assert rows[1].reason == "record is longer than 16 MiB"


def test_a_record_of_several_lines_over_the_limit_says_which() -> None:
    data = b'id,text\n1,"' + (b"a" * 1_000 + b"\n") * (LINE_BYTES_MAX // 1_001 + 1)
    rows = list(read_rows(iter([data + b'"\n', b"2,b\n"]), CSV))
    assert rows[1].reason == f"record is longer than 16 MiB (lines 2 to {rows[-1].line - 1})"
    assert rows[-1].cells == ["2", "b"]


def test_between_tabs_quotes_are_letters() -> None:
    assert cells_of('1\t"Twilight" is\r\n\n2\t"b\n', TSV) == [["1", '"Twilight" is'], ["2", '"b']]


@pytest.mark.parametrize(
    ("dumped", "cells"),
    [
        (r"1	a\tb\nc\\d\'e", ["1", "a\tb\nc\\d'e"]),  # PostgreSQL
        ("1\ta\\\tb\\\nc\\0\\Z", ["1", "a\tb\nc\0\x1a"]),  # MySQL
        ("\\N\t", [NULL, ""]),
        ("1\ta\\\\", ["1", "a\\"]),
        ("a\\\t", ["a\t"]),
    ],
)
def test_dumps_of_databases_have_escapes_and_no_quotes(dumped: str, cells: list[str]) -> None:
    assert cells_of(dumped + "\n2\tb\n\\.\n", DUMP) == [cells, ["2", "b"]]


def test_the_last_line_of_a_dump_may_end_with_an_escape() -> None:
    assert cells_of("1\ta\\", DUMP) == [["1", "a\\"]]
    assert cells_of("1\ta\\\n2\tb", DUMP) == [["1", "a\n2", "b"]]


@pytest.mark.parametrize(
    ("written", "cell"),
    [
        (r'"He said \"hi, you\""', 'He said "hi, you"'),
        (r'"C:\new\\"', "C:\\new\\"),
        (r'"a ""b"""', 'a "b"'),
        (r"C:\new", r"C:\new"),
        ('"a\\\nb"', "a\nb"),
        (r"\N", NULL),
    ],
)
def test_spark_escapes_quotes_with_a_backslash(written: str, cell: str) -> None:
    assert cells_of(f"1,{written}\n2,b\n", SPARK) == [["1", cell], ["2", "b"]]


def test_lines_may_end_with_carriage_returns_alone() -> None:
    assert cells_of("a,b\r1,2\r", Dialect(carriage_returns=True)) == [["a", "b"], ["1", "2"]]


def test_what_is_no_utf8_breaks_the_row_that_it_stands_in() -> None:
    rows = rows_of(b'1,a\n2,"pr\xe9\nnom"\n3,c\n4,"\xff\n5,d\n')
    assert [row.line for row in rows] == [1, 2, 4, 5, 6]
    assert rows[1].reason == (
        "invalid UTF-8 at byte 3 of cell 2: if it is in cp1252, say --encoding cp1252"
    )
    bad = "\ud800".encode("utf-8", "surrogatepass")
    assert rows_of(b"1,a\n2," + bad, encoding="utf-16")[1].reason == "invalid utf-16 in cell 2"


def test_a_damaged_stream_names_the_line_of_the_open_row() -> None:
    def damaged() -> Iterator[bytes]:
        yield b'1,a\n2,"b\nc\nd'
        raise DamagedStream("cut")

    rows = read_rows(damaged(), CSV)
    assert next(rows).cells == ["1", "a"]
    with pytest.raises(DamagedStream) as damage:
        next(rows)
    assert damage.value.line == 2
