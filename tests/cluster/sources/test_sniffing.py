"""How tables are written that databases, spreadsheets and programs write, found and said."""

import csv
import gzip
import io
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitsift.cluster.sources.dialect import Dialect, Layout, checked_layout
from bitsift.cluster.sources.files import plan_sources
from bitsift.cluster.sources.sniffing import NAME_CHARACTERS_MAX
from bitsift.errors import InvalidRequest
from tests.source_files import in_one_folder, put, read, rejects

ROWS = [("1", 'He said "hi, you"'), ("2", "semi;colon | pipe"), ("3", "two\nlines"), ("4", "plain")]


def found(folder: Path, data: str | bytes, ending: str = ".csv", **said: Any) -> Dialect:
    """The dialect that is found in a file."""
    data = data.encode() if isinstance(data, str) else data
    plan = plan_sources([put(folder, data, ending)], layout=checked_layout(Layout(**said)))
    dialect = plan.files[0].dialect
    assert dialect is not None
    return dialect


def texts(folder: Path, data: str | bytes, ending: str = ".csv", **said: Any) -> dict[str, str]:
    """The texts of a file by their ids; none of it is rejected."""
    data = data.encode() if isinstance(data, str) else data
    rows = read(put(folder, data, ending), layout=checked_layout(Layout(**said)))
    assert rejects(rows) == []
    return {row["id"]: row["text"] for row in rows}


def written(**rules: Any) -> str:
    """ROWS with a header, as the csv module writes them."""
    stream = io.StringIO(newline="")
    csv.writer(stream, **rules).writerows([("id", "text"), *ROWS])
    return stream.getvalue()


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("ending", [".csv", ".tsv"])
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC])
def test_every_delimiter_is_found(
    tmp_path: Path, delimiter: str, ending: str, quoting: int
) -> None:
    assert texts(tmp_path, written(delimiter=delimiter, quoting=quoting), ending) == dict(ROWS)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le"])
def test_what_excel_saves_is_read(tmp_path: Path, encoding: str) -> None:
    sheet = written(delimiter="\t").encode(encoding)
    assert texts(tmp_path, sheet) == dict(ROWS)
    sheet = ("sep=;\r\n" + written(delimiter=";")).encode(encoding)
    assert texts(tmp_path, sheet) == dict(ROWS)
    sheet = '1\tsay "hi"\r\n'.encode(encoding)
    assert texts(tmp_path, sheet, ".txt", delimiter="tab") == {"1": 'say "hi"'}


def test_a_code_page_has_to_be_said(tmp_path: Path) -> None:
    sheet = "id;text\r\n1;prénom\r\n".encode("cp1252")
    assert texts(tmp_path, sheet, encoding="cp1252") == {"1": "prénom"}
    ((line, reason),) = rejects(read(put(tmp_path, sheet, ".csv")))
    assert (line, reason) == (
        2,
        "invalid UTF-8 at byte 3 of cell 2: if it is in cp1252, say --encoding cp1252",
    )
    with pytest.raises(
        InvalidRequest, match=r"no readable header: invalid UTF-8 at byte 3 of.*cp1"
    ):
        found(tmp_path, "id,text,prénom\n1,a,b\n".encode("cp1252"))


@pytest.mark.parametrize(
    "dump",
    [
        '1\tHe said "hi"\n2\tC:\\\\new\\ttab\n3\ttwo\\nlines\n4\t\\N\n',  # PostgreSQL, COPY
        '1\tHe said "hi"\n2\tC:\\\\new\\\ttab\n3\ttwo\\\nlines\n4\t\\N\n',  # MySQL, OUTFILE
    ],
)
def test_what_databases_dump_is_read(tmp_path: Path, dump: str) -> None:
    rows = read(put(tmp_path, dump.encode(), ".tsv"))
    assert [row["text"] for row in rows[:3]] == ['He said "hi"', "C:\\new\ttab", "two\nlines"]
    assert rejects(rows) == [(len(dump.splitlines()), "no text in field 'text'")]


def test_what_spark_writes_is_read(tmp_path: Path) -> None:
    spark = r'1,"He said \"hi, you\" to \\"' + "\n2,C:\\new\n" + '3,"two\nlines"\n'
    right = {"1": 'He said "hi, you" to \\', "2": "C:\\new", "3": "two\nlines"}
    assert texts(tmp_path, spark) == right
    assert texts(tmp_path, "id,text\n" + spark) == right


def test_single_quotes_are_found_in_the_header(tmp_path: Path) -> None:
    assert texts(tmp_path, "'id','text'\n'1','it''s, so'\n") == {"1": "it's, so"}


def test_between_tabs_quotes_are_letters_unless_they_are_needed(tmp_path: Path) -> None:
    table = 'id\ttext\n1\t"Twilight" is a novel\n2\t"Hello\n3\tplain\n4\t"all"\n'
    kept = {"1": '"Twilight" is a novel', "2": '"Hello', "3": "plain", "4": '"all"'}
    assert texts(tmp_path, table, ".tsv") == kept
    assert texts(tmp_path, 'id\ttext\n1\t"say ""hi"""\n', ".tsv") == {"1": 'say "hi"'}
    assert texts(tmp_path, 'id\ttext\n1\t"a\tb"\n2\tc\n', ".tsv") == {"1": "a\tb", "2": "c"}
    table = 'id\ttext\n1\t"all"\n'
    assert texts(tmp_path, table, ".tsv", quote='"') == {"1": "all"}
    assert texts(tmp_path, table, ".tsv") == {"1": '"all"'}


def test_between_tabs_one_quote_that_is_left_open_makes_no_letters_of_the_others(
    tmp_path: Path,
) -> None:
    table = b'id\ttext\n1\t"say ""hi"""\n2\t"say ""ho"""\n3\t"open\n4\tb\n'
    rows = read(put(tmp_path, table, ".tsv"))
    assert [row["text"] for row in rows] == ['say "hi"', 'say "ho"', None, "b"]
    assert rejects(rows)[0][0] == 4


def test_a_table_without_header_is_found_and_said(tmp_path: Path) -> None:
    path = put(tmp_path, b"0\tThe presence of communication\n1\tThe Manhattan\n", ".tsv")
    plan = plan_sources([path])
    assert plan.notes == (f"{path}: found no header (--header), columns id, text (--columns)",)
    assert [row["id"] for row in read(path)] == ["0", "1"]
    assert found(tmp_path, "the first text of all\nanother\n", header=False).columns == ("text",)


def test_the_name_of_a_column_has_so_many_characters_at_most(tmp_path: Path) -> None:
    name = "x" * NAME_CHARACTERS_MAX
    with pytest.raises(InvalidRequest, match="fields found: number, xxx"):
        found(tmp_path, f"number,{name}\n1,a\n2,b\n")
    assert found(tmp_path, f"number,{name}x\n1,a\n2,b\n").columns == ("id", "text")
    assert found(tmp_path, f"text,{name}x\na,1\nb,2\n").has_header, "known names decide"


@pytest.mark.parametrize("table", ["1,2,a b\n2,3,b\n", "0\tgood one\n0\tbad one\n1\tc\n"])
def test_columns_without_names_have_to_be_named(tmp_path: Path, table: str) -> None:
    with pytest.raises(InvalidRequest, match="name the columns with --columns"):
        found(tmp_path, table, ".tsv" if "\t" in table else ".csv")


def test_what_is_said_is_done(tmp_path: Path) -> None:
    assert texts(tmp_path, "id,text\n1,a\n", header=False) == {"id": "text", "1": "a"}
    assert texts(tmp_path, "1,a\n", header=False, columns=("id", "text")) == {"1": "a"}
    assert texts(tmp_path, "7,x\n1,a\n", header=True, columns=("id,text",)) == {"1": "a"}
    assert texts(tmp_path, "number,words\n1,a\n", columns=("id", "text")) == {"1": "a"}
    assert texts(tmp_path, "id:text\n1:'a:b'\n", delimiter=":", quote="'") == {"1": "a:b"}
    assert texts(tmp_path, 'id,text\n1,"a"\n', quote="none") == {"1": '"a"'}
    assert texts(tmp_path, "id\ttext\n1\ta\\tb\n", ".tsv", escape="\\") == {"1": "a\tb"}
    with pytest.raises(InvalidRequest, match="--columns names 3 columns, its header has 2"):
        found(tmp_path, "id,text\n1,a\n", columns=("a", "b", "c"))


@pytest.mark.parametrize("delimiter", [",", ";", "|"])
@pytest.mark.parametrize("blanks", [" ", "   "])
def test_a_quote_after_a_blank_opens_a_cell(tmp_path: Path, delimiter: str, blanks: str) -> None:
    between = delimiter + blanks
    rows = [("1", f'"a{delimiter} b"'), ("2", '"c"'), ("3", "d e"), ("4", '"two\nlines"')]
    table = "".join(f"{between.join(row)}\n" for row in [("id", "text"), *rows])
    read_texts = {"1": f"a{delimiter} b", "2": "c", "3": "d e", "4": "two\nlines"}
    assert texts(tmp_path, table) == read_texts
    (note,) = plan_sources([put(tmp_path, table.encode(), ".csv")]).notes
    assert "blanks before quotes, which are left out (--quote)" in note
    assert found(tmp_path, table, quote="none").quote == ""


@pytest.mark.parametrize(
    "table",
    [
        'id,text\n1,"she said, ""hi"", and"\n2, b\n',
        'id,text\n1, "Emma" is a novel\n2, "c"\n',
        "id,text\n1, a\n",
        'id,text\n1," ""in quotes"""\n2, b\n',
    ],
)
def test_blanks_are_left_in_where_no_cell_begins_with_them_and_a_quote(
    tmp_path: Path, table: str
) -> None:
    assert not found(tmp_path, table).skips_blanks


def test_a_table_of_the_usual_kind_needs_no_note(tmp_path: Path) -> None:
    for ending, table in ((".csv", "id,text\n1,a\n"), (".tsv", "id\ttext\n1\ta\n"), (".csv", "")):
        assert plan_sources([put(tmp_path, table.encode(), ending)]).notes == ()
    assert found(tmp_path, "text\nhello, world\na; b\n") == Dialect()
    assert found(tmp_path, 'id,text\n1,C:\\dir\\\n2,"C:\\x\\"\n') == Dialect()


def test_what_is_found_changes_what_identifies_a_plan(tmp_path: Path) -> None:
    path = put(tmp_path, b"id,text\n1,a\n", ".csv")
    usual = plan_sources([path]).fingerprint
    assert plan_sources([path], layout=Layout(quote='"', encoding="utf-8")).fingerprint == usual
    assert plan_sources([path], layout=Layout(quote="")).fingerprint != usual
    assert plan_sources([path], layout=Layout(encoding="cp1252")).fingerprint != usual


def test_only_the_first_rows_are_looked_at_and_a_record_may_be_longer(tmp_path: Path) -> None:
    long = "x" * 600_000
    table = f'id;text\n1;"{long}\n{long}"\n' + "2;b\n" * 10
    assert found(tmp_path, gzip.compress(table.encode()), ".csv.gz").delimiter == ";"
    rows = "".join(f'{number}\t"two\nlines {number}"\n' for number in range(40_000))
    assert found(tmp_path, f"id\ttext\n{rows}", ".tsv").quote == '"'


cell = st.text(alphabet="ab ,;|\"\n'\\é", min_size=1, max_size=8).filter(lambda text: text.strip())


@in_one_folder
@given(
    st.lists(cell, min_size=1, max_size=6),
    st.sampled_from([",", ";", "|"]),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
)
def test_what_the_csv_module_writes_comes_back(
    tmp_path: Path, cells: list[str], delimiter: str, quoting: Literal[0, 1]
) -> None:
    stream = io.StringIO(newline="")
    rows = [("id", "text"), *((f"k{number}", text) for number, text in enumerate(cells))]
    csv.writer(stream, delimiter=delimiter, quoting=quoting).writerows(rows)
    assert list(texts(tmp_path, stream.getvalue()).values()) == cells


@pytest.mark.parametrize(
    "comments", ["# made today\n", "# made today, by hand\n#\n", "#a\n#b\n#c\n#d\n"]
)
@pytest.mark.parametrize("delimiter", [",", "\t"])
def test_comments_before_a_header_are_passed_over_and_said(
    tmp_path: Path, comments: str, delimiter: str
) -> None:
    table = f"id{delimiter}text\n1{delimiter}a text\n2{delimiter}another\n"
    assert texts(tmp_path, comments + table) == {"1": "a text", "2": "another"}
    plan = plan_sources([put(tmp_path, (comments + table).encode(), ".csv")])
    lines = comments.count("\n")
    assert f"{lines} line{'s' * (lines > 1)} before the header (--skip-lines)" in plan.notes[0]


def test_a_first_row_that_begins_like_a_comment_is_one(tmp_path: Path) -> None:
    """A header may begin so, and so may a text where there is no header."""
    assert found(tmp_path, "#id,text\n1,one\n2,two\n").skipped_lines == 0
    assert found(tmp_path, "#spiders,1\n#flies,2\nplain,3\n").skipped_lines == 0


def test_lines_before_the_header_can_be_said(tmp_path: Path) -> None:
    table = "A report, of today\n\nid;text\n1;one\n2;two\n"
    assert texts(tmp_path, table, skip_lines=2) == {"1": "one", "2": "two"}
    assert texts(tmp_path, "sep=;\nid;text\n1;one\n", skip_lines=1) == {"1": "one"}
    assert found(tmp_path, "# made today\nid,text\n1,one\n", skip_lines=0).skipped_lines == 0
    assert texts(tmp_path, "'one',2\n'id','text'\n'1','two'\n", skip_lines=1) == {"1": "two"}


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".csv.gz"])
def test_json_lines_called_a_table_are_read_as_json_lines(tmp_path: Path, ending: str) -> None:
    lines = b'{"id": "1", "text": "a, b"}\n{"id": "2", "text": "c"}\n'
    data = gzip.compress(lines) if ending.endswith(".gz") else lines
    path = put(tmp_path, data, ending)
    assert [row["text"] for row in read(path)] == ["a, b", "c"]
    assert plan_sources([path]).notes == (f"{path}: found JSON lines",)


def test_a_table_is_one_where_it_was_said_to_be(tmp_path: Path) -> None:
    path = put(tmp_path, b'{"a": 1}\n{"a": 2}\n', ".csv")
    rows = read(path, layout=checked_layout(Layout(header=False, columns=("text",))))
    assert [row["text"] for row in rows] == ['{"a": 1}', '{"a": 2}']


def test_a_line_of_a_cell_whose_quote_is_missing_says_nothing_of_blanks(tmp_path: Path) -> None:
    """Found by the comparison with other readers: blanks at the start of all cells were lost."""
    table = 'id\ttitle\ttext\n1\t""""\t blank\n2\t\t"\n """" two\tcells\n3\t""""\tthree\n'
    rows = read(put(tmp_path, table.encode(), ".tsv"))
    assert next(row["text"] for row in rows if row["id"] == "1") == " blank"
    assert not found(tmp_path, table, ".tsv").skips_blanks
