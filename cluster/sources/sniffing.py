r"""What the first rows of a text table say about how it is written.

Decisions. What the caller said is never questioned; the rest is what makes the first rows whole.
* JSON lines with the ending of a table are read as what they are.
* delimiter: Excel's ``sep=;`` line, else the one of , ; tab | that gives rows as many cells as the
  first row has, where one of its cells is a usual name before others; that of the file's ending
  where it makes two cells or more as well.
* quote: ". Between tabs only where it is seen: the header is all in quotes, as many cells are
  written as those that need quotes (those in it are doubled) as begin with one otherwise, or more
  rows are whole with quotes than without. So ``"Twilight" is a novel`` keeps its quotes.
* blanks before quotes are left out where cells begin with a blank and a quote, and no more rows are
  broken without them: ``1, "a, b"``.
* escape: a backslash where a cell is ``\N``, or where quotes in cells are written ``\"`` and rows
  are whole with it that are not without.
* header: the first row, unless one of its cells is a number or long, and none a usual name. Two
  columns without header are id and text where the first are different words; else they are
  called column_1, column_2, …
* comments: lines at the start that begin with #, where a header with a usual name follows them and
  they are none: ``#id,text`` is one.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from itertools import chain, takewhile

import orjson

from bitsift.cluster.sources.delimited import read_rows
from bitsift.cluster.sources.dialect import DETECT_LAYOUT, Dialect, Layout
from bitsift.cluster.sources.encoding import UTF8, detected_encoding, first_bytes, utf8_blocks
from bitsift.cluster.sources.plan import Format, SourceFile
from bitsift.cluster.sources.streams import LINE_BYTES_MAX, DamagedStream, read_blocks
from bitsift.cluster.sources.table_rows import NULL, Row

SAMPLE_BYTES = 256 << 10
"""Of a table that are looked at."""
_DELIMITERS = (",", ";", "\t", "|")
NAME_CHARACTERS_MAX = 80
"""Of a column whose name is not known: a first line with a longer cell is data."""
_SEPARATOR_LINE = re.compile(rb'"?sep=(.)"?\r?\n', re.I)
_NUMBER = re.compile(r"[+-]?(\d+([.,]\d*)?|[.,]\d+)([eE][+-]?\d+)?")
_WRAPPED = re.compile(r'"((?:[^"]|"")*)"', re.S)


@dataclass(frozen=True)
class _Sample:
    """The first lines of a table, in UTF-8; all of them where it `is_whole`."""

    head: bytes
    is_whole: bool = True

    def rows(self, dialect: Dialect) -> Iterator[Row]:
        """Its rows, without one that the end of the sample cuts."""
        with contextlib.suppress(DamagedStream):
            yield from read_rows(self._blocks(), dialect)

    def _blocks(self) -> Iterator[bytes]:
        yield self.head
        if not self.is_whole:
            raise DamagedStream("the sample ends here")


@dataclass(frozen=True)
class _Reading:
    """The sample as one dialect reads it: `whole` rows have as many cells as the first.

    `rows` have cells; `first` are those of the first row, as far as they can be seen in a broken
    one.
    """

    dialect: Dialect
    first: list[str]
    rows: list[list[str]]
    width: int
    whole: int
    broken: int

    def named(self, names: Collection[str]) -> bool:
        """Whether a cell of the first row has one of the names."""
        return any(cell.strip().lower() in names for cell in self.first)


def with_dialect(file: SourceFile, layout: Layout, names: Collection[str]) -> SourceFile:
    """The same file with its encoding, and its dialect where it is a text table.

    `names` are those that a header may have, in lower case. Never raises for what is in the file.
    """
    if file.format is Format.TEXT and layout.delimiter is not None:
        file = replace(file, format=Format.TSV if layout.delimiter == "\t" else Format.CSV)
    is_table = file.format in (Format.CSV, Format.TSV)
    if not is_table and file.format not in (Format.JSON_LINES, Format.TEXT, Format.MARKDOWN):
        return file
    file = replace(file, encoding=layout.encoding or "")
    if not is_table:
        return file
    ending = "," if file.format is Format.CSV else "\t"
    encoding, sample = _sample(file)
    if layout == replace(DETECT_LAYOUT, encoding=layout.encoding) and _is_json(sample.head):
        return replace(file, format=Format.JSON_LINES, note=f"{file.path}: found JSON lines")
    is_spreadsheet = encoding.startswith("utf-16")
    dialect = sniff(sample, layout, ending, names, is_spreadsheet=is_spreadsheet)
    note = _note(file, encoding, dialect, ending, layout)
    return replace(file, encoding=encoding, dialect=dialect, note=note)


def _is_json(head: bytes) -> bool:
    """Whether the first line is a JSON object, which no row of a table is."""
    line = head.lstrip().split(b"\n", 1)[0]
    try:
        return line.startswith(b"{") and isinstance(orjson.loads(line), dict)
    except orjson.JSONDecodeError:
        return False


def _sample(file: SourceFile) -> tuple[str, _Sample]:
    """The encoding of a table and its first lines, in UTF-8."""
    encoding, head, is_whole = file.encoding, b"", True
    blocks = read_blocks(file.path, file.compression)
    with contextlib.suppress(DamagedStream):
        if not encoding:
            first, blocks = first_bytes(blocks)
            encoding = detected_encoding(first)
            blocks = chain([first] if first else [], blocks)
        for block in utf8_blocks(blocks, encoding):
            if (len(head) >= SAMPLE_BYTES and head.count(b"\n") > 2) or len(head) > LINE_BYTES_MAX:
                is_whole = False
                break
            head += block
    if not is_whole and b"\n" in head:
        head = head[: head.rindex(b"\n") + 1]
    return encoding, _Sample(head, is_whole)


def _note(file: SourceFile, encoding: str, dialect: Dialect, ending: str, layout: Layout) -> str:
    """What was found out about a table that nobody said, and that is not the usual."""
    said = []
    if not layout.encoding and encoding != UTF8:
        said.append(f"encoding {encoding} (--encoding)")
    if layout.delimiter is None and dialect.delimiter != ending:
        said.append(f"delimiter {_shown(dialect.delimiter)} (--delimiter)")
    if layout.quote is None and dialect.quote != ("" if dialect.delimiter == "\t" else '"'):
        said.append(f"quote {_shown(dialect.quote)} (--quote)")
    if dialect.skips_blanks:
        said.append("blanks before quotes, which are left out (--quote)")
    if layout.escape is None and dialect.escape:
        said.append(f"escape {dialect.escape} (--escape)")
    if layout.skip_lines is None and dialect.skipped_lines:
        lines = "1 line" if dialect.skipped_lines == 1 else f"{dialect.skipped_lines} lines"
        said.append(f"{lines} before the header (--skip-lines)")
    if layout.header is None and not dialect.has_header:
        columns = "" if layout.columns else f", columns {', '.join(dialect.columns)} (--columns)"
        said.append(f"no header (--header){columns}")
    return f"{file.path}: found {', '.join(said)}" if said else ""


def _shown(character: str) -> str:
    return {"\t": "tab", "": "none"}.get(character, character)


def sniff(
    sample: _Sample, layout: Layout, ending: str, names: Collection[str], *, is_spreadsheet: bool
) -> Dialect:
    """The dialect of a table that begins with `sample`.

    `ending` is the delimiter that the file's name says; `names` are those that a header may have,
    in lower case; `is_spreadsheet` is for what programs like Excel write, which quote.
    """
    head = sample.head
    dialect = Dialect(carriage_returns=b"\r" in head and b"\n" not in head)
    said = _SEPARATOR_LINE.match(head)
    skipped = layout.skip_lines
    if skipped is None:
        skipped = 1 if said is not None else 0
    delimiter = layout.delimiter
    if delimiter is None and said is not None:
        delimiter = said[1].decode("latin-1")
    guesses = dict.fromkeys([ending, *_DELIMITERS] if delimiter is None else [delimiter])

    def rank(reading: _Reading) -> tuple[object, ...]:
        return _rank(reading, ending, names)

    def best(skipped_lines: int) -> _Reading:
        readings = list[_Reading]()
        for guess in guesses:
            whole = replace(dialect, delimiter=guess, skipped_lines=skipped_lines)
            quoted = _quoted(sample, whole, layout, is_spreadsheet)
            readings.append(_with_blanks(sample, _read(sample, quoted)))
            if readings[-1].named(names) and readings[-1].width > 1 and not readings[-1].broken:
                break  # nothing to be wished for
        return max(readings, key=rank)

    found = best(skipped)
    comments = _comment_lines(head) if layout.skip_lines is None else 0
    if comments:
        without = best(comments)
        if without.named(names) and rank(without) > rank(found):
            found = without
    return _with_names(found, layout, names)


def _comment_lines(head: bytes) -> int:
    """How many lines at the start begin with #."""
    lines = takewhile(lambda line: line.startswith(b"#"), head.splitlines())
    return sum(1 for _ in lines)


def _rank(reading: _Reading, ending: str, names: Collection[str]) -> tuple[object, ...]:
    rows = max(1, reading.whole + reading.broken)
    splits = reading.width >= 2 and (reading.named(names) or 2 * reading.whole >= rows)
    is_ending = reading.dialect.delimiter == ending
    return (splits, reading.named(names), is_ending, reading.whole / rows, reading.width)


def _read(sample: _Sample, dialect: Dialect) -> _Reading:
    found = list(sample.rows(dialect))
    rows = [row.cells for row in found if row.cells is not None]
    width = len(rows[0]) if rows else 0
    whole = sum(len(cells) == width for cells in rows)
    first = found[0].cells if found else []
    if first is None:
        line = sample.head.splitlines()[dialect.skipped_lines].decode(errors="replace")
        first = [cell.strip(dialect.quote) for cell in line.split(dialect.delimiter)]
    return _Reading(dialect, first, rows, width, whole, len(found) - whole)


def _quoted(sample: _Sample, dialect: Dialect, layout: Layout, is_spreadsheet: bool) -> Dialect:
    """The dialect with its quote and its escape."""
    quotes = [layout.quote] if layout.quote is not None else _quotes(sample, dialect, layout)
    escapes = [layout.escape] if layout.escape is not None else ["", "\\"]
    if layout.escape is None and b"\\" not in sample.head:
        escapes = [""]
    readings = [
        _read(sample, replace(dialect, quote=quote, escape=escape))
        for quote in quotes
        for escape in escapes
    ]
    if len(readings) == 1:
        return readings[0].dialect
    with_nulls = [reading for reading in readings if reading.dialect.escape and _nulls(reading)]
    readings = with_nulls or readings
    plain = [reading for reading in readings if not reading.dialect.quote]
    if plain and len(readings) > len(plain):
        readings = _with_or_without(readings, plain[0], is_spreadsheet)
    return min(readings, key=lambda reading: reading.broken).dialect


def _with_blanks(sample: _Sample, reading: _Reading) -> _Reading:
    """The reading without blanks before quotes, where cells begin so and rows stay whole."""
    quote = reading.dialect.quote
    begins = f" {quote}".encode()
    if not quote or reading.dialect.delimiter == " " or begins not in sample.head:
        return reading
    found = _read(sample, replace(reading.dialect, skips_blanks=True))
    if not _behind_blanks(quote, reading) - _behind_blanks(quote, found):  # they are in quotes
        return reading
    return found if found.broken <= reading.broken and found.whole >= reading.whole else reading


def _behind_blanks(quote: str, reading: _Reading) -> set[str]:
    """The cells that begin with blanks and a quote, of whole rows: others may be parts of a cell
    whose quote is missing.
    """
    whole = (cells for cells in reading.rows if len(cells) == reading.width)
    starts = (cell for cells in whole for cell in cells if cell[:1] == " ")
    return {cell for cell in starts if cell.lstrip(" ").startswith(quote)}


def _with_or_without(
    readings: list[_Reading], plain: _Reading, is_spreadsheet: bool
) -> list[_Reading]:
    """The readings between tabs that take quotes for marks, or those that take them for letters."""
    first = plain.rows[0] if plain.rows else []
    are_marks = bool(first) and all(_WRAPPED.fullmatch(cell) for cell in first)
    needed = other = 0
    for cell in (cell for cells in plain.rows for cell in cells if cell.startswith('"')):
        wrapped = _WRAPPED.fullmatch(cell)
        other += wrapped is None and '""' not in cell[1:]
        needed += wrapped is not None and '"' in wrapped[1]
    if needed and needed >= other:
        are_marks = True
    elif not are_marks:
        with_quotes, without = (
            min(reading.broken for reading in readings if bool(reading.dialect.quote) == wanted)
            for wanted in (True, False)
        )
        likely = needed > 0 or (is_spreadsheet and not other)
        are_marks = with_quotes < without or (with_quotes == without and likely)
    return [reading for reading in readings if bool(reading.dialect.quote) == are_marks]


def _quotes(sample: _Sample, dialect: Dialect, layout: Layout) -> list[str]:
    if dialect.delimiter == "\t":
        return ["", '"'] if b'"' in sample.head and not layout.escape else [""]
    head = sample.head.splitlines()[dialect.skipped_lines : dialect.skipped_lines + 1]
    return ["'"] if head and head[0].startswith(b"'") and head[0].count(b"'") > 2 else ['"']


def _nulls(reading: _Reading) -> bool:
    return any(NULL in cells for cells in reading.rows)


def _with_names(reading: _Reading, layout: Layout, names: Collection[str]) -> Dialect:
    """The dialect with its header, or the names of its columns."""
    has_header = layout.header
    if has_header is None:
        said = {name.lower() for name in layout.columns}
        has_header = reading.named({*names, *said}) or not _looks_like_data(reading)
    columns = layout.columns
    if not columns and not has_header:
        columns = _default_columns(reading)
    return replace(reading.dialect, has_header=has_header, columns=columns)


def _looks_like_data(reading: _Reading) -> bool:
    return any(
        _NUMBER.fullmatch(cell.strip()) or len(cell) > NAME_CHARACTERS_MAX or cell == NULL
        for cell in reading.first
    )


def _default_columns(reading: _Reading) -> tuple[str, ...]:
    if reading.width == 1:
        return ("text",)
    if reading.width == 2:
        keys = [cells[0] for cells in reading.rows if len(cells) == 2]
        if len(set(keys)) == len(keys) and all(key and " " not in key for key in keys):
            return ("id", "text")
    return tuple(f"column_{number}" for number in range(1, reading.width + 1))
