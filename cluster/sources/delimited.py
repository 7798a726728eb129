r"""Rows of text tables: from UTF-8 blocks to the cells of each row, or why a row has none.

Three ways of reading, by the dialect: quoted cells (RFC 4180, by the csv module), cells with
escapes and no quotes (as MySQL and PostgreSQL dump tables), cells with neither.

Decisions
* A quote opens a cell at its start only; elsewhere it is a letter. After the quote that closes a
  cell comes a delimiter or the end of the row, or the row is broken.
* A quote that is never closed, or closed where no cell can end, makes one broken row: the line
  that it stands in. Reading goes on with the next line, so it swallows nothing. So it is where the
  lines that it took are rows by themselves, and the row has too many cells, or is one of rows that
  are numbered, as they are. Of every line that was read over in vain it is then known that a cell
  may not go on there: each is read a few times at most, whatever stands in it.
* Lines end with \n; a \r before it belongs to the line end. A line without anything is no row.
* What is not UTF-8 makes a broken row of the row that it stands in.
"""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections.abc import Iterator
from typing import NamedTuple

from bitsift.cluster.sources.dialect import Dialect
from bitsift.cluster.sources.encoding import UTF8, invalid
from bitsift.cluster.sources.streams import LINE_BYTES_MAX, TOO_LONG, DamagedStream

NULL = r"\N"
"""As MySQL and PostgreSQL write it. An empty cell says the same here: there is no value."""
_OPEN = "unexpected end of data"
"""How the csv module says that the lines end in a quoted cell."""
_SURROGATE = re.compile("[\udc80-\udcff]")
_LETTERS = {
    **{"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"},
    **{"0": "\0", "Z": "\x1a"},
}
_LINES_PASSED = 1_000
"""Of so many lines that are done with, a list is freed when reading starts again after a fault."""
_DIGITS = re.compile(r"\W?(\d{1,18})")
_KEY_CHARACTERS = 19
_END_OF_DATA = r"\."
"""PostgreSQL's last line."""


class Row(NamedTuple):
    """One row: its cells, or a reason. Its line counts from 1; its size is in bytes."""

    line: int
    cells: list[str] | None
    reason: str | None
    size_bytes: int
    lines: int = 1

    @property
    def span(self) -> str:
        """The lines of a row of several, for people."""
        return f" (lines {self.line} to {self.line + self.lines - 1})" if self.lines > 1 else ""


def read_rows(blocks: Iterator[bytes], dialect: Dialect, encoding: str = UTF8) -> Iterator[Row]:
    """The rows of a table in UTF-8, with the header, without `dialect.skipped_lines`.

    `encoding` is what it was written in. Raises DamagedStream with the line where a stream is cut
    off or damaged.
    """
    if dialect.carriage_returns:
        blocks = (block.replace(b"\r", b"\n") for block in blocks)
    if dialect.quote:
        reader: _Reader = _Quoted(dialect, encoding)
    else:
        reader = (_Escaped if dialect.escape else _Plain)(dialect, encoding)
    try:
        for text in whole_lines(blocks):
            yield from reader.read(text)
    except DamagedStream as damage:
        damage.line = reader.number
        raise
    yield from reader.close()


def whole_lines(blocks: Iterator[bytes]) -> Iterator[str | None]:
    """The same text, cut after line ends; None for a line over LINE_BYTES_MAX.

    What is not UTF-8 comes as lone surrogates. A line that a DamagedStream cuts is not given.
    """
    held: list[bytes] = []  # pieces of a line that has not ended
    held_bytes = 0
    for block in blocks:
        end = block.rfind(b"\n") + 1
        if end:
            if held_bytes:
                first = block.find(b"\n") + 1
                line = b"".join([*held, block[:first]])
                yield _decoded(line) if held_bytes + first <= LINE_BYTES_MAX + 1 else None
                block, end = block[first:], end - first
            if end:
                yield _decoded(block[:end])
            held, held_bytes = [], 0
        if end < len(block):
            held_bytes += len(block) - end
            held = [] if held_bytes > LINE_BYTES_MAX else [*held, block[end:]]
    if held_bytes:
        yield None if held_bytes > LINE_BYTES_MAX else _decoded(b"".join(held))


def _decoded(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("utf-8", "surrogateescape")


def _size_bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogateescape"))


def _row(line: int, cells: list[str], size_bytes: int, lines: int = 1) -> Row:
    row = Row(line, cells, None, size_bytes, lines)
    if size_bytes > LINE_BYTES_MAX + 1:
        return row._replace(cells=None, reason=TOO_LONG + row.span)
    return row


class _Reader:
    """Reads whole lines; `number` is the line, from 1, of the row that comes next."""

    def __init__(self, dialect: Dialect, encoding: str) -> None:
        self._dialect = dialect
        self._encoding = encoding
        self._has_bad_bytes = False
        self._skip = dialect.skipped_lines
        self.number = 1

    def read(self, text: str | None) -> Iterator[Row]:
        """The rows that are known to end in `text`; None is a line that is too long."""
        if text is None:
            yield from self.close()
            yield Row(self.number, None, TOO_LONG, 0)
            self.number += 1
            return
        if not text.isascii() and _SURROGATE.search(text) is not None:
            self._has_bad_bytes = True  # until the end: lines may be held
        lines = list(io.StringIO(text, newline="\n"))
        if self._skip:
            skipped = min(self._skip, len(lines))
            del lines[:skipped]
            self._skip -= skipped
            self.number += skipped
        yield from self._sound(self._rows(lines))

    def close(self) -> Iterator[Row]:
        """The rows that end with the table."""
        yield from self._sound(self._last_rows())

    def _sound(self, rows: Iterator[Row]) -> Iterator[Row]:
        return map(self._without_bad_bytes, rows) if self._has_bad_bytes else rows

    def _without_bad_bytes(self, row: Row) -> Row:
        for number, cell in enumerate(row.cells or (), start=1):
            if not cell.isascii() and _SURROGATE.search(cell):
                data = cell.encode("utf-8", "surrogateescape")
                reason = invalid(data, self._encoding, f"cell {number}")
                return row._replace(cells=None, reason=reason)
        return row

    def _last_rows(self) -> Iterator[Row]:
        yield from ()

    def _rows(self, lines: list[str]) -> Iterator[Row]:
        raise NotImplementedError


class _Plain(_Reader):
    """No quotes, no escapes: a line is a row."""

    def _rows(self, lines: list[str]) -> Iterator[Row]:
        delimiter = self._dialect.delimiter
        for line in lines:
            number = self.number
            self.number += 1
            if cells := line.rstrip("\r\n"):
                yield _row(number, cells.split(delimiter), _size_bytes(line))


class _Escaped(_Reader):
    """Escapes and no quotes: a line whose end is escaped goes on in the next one."""

    def __init__(self, dialect: Dialect, encoding: str) -> None:
        super().__init__(dialect, encoding)
        escape, delimiter = re.escape(dialect.escape), re.escape(dialect.delimiter)
        plain = f"[^{escape}{delimiter}]*"
        self._cell = re.compile(f"({plain}(?:{escape}.{plain})*{escape}?)({delimiter})?", re.S)
        self._escape = re.compile(f"{escape}(.)", re.S)
        self._held: list[str] = []
        self._held_bytes = 0

    def _rows(self, lines: list[str]) -> Iterator[Row]:
        escape, delimiter = self._dialect.escape, self._dialect.delimiter
        for line in lines:
            if self._held or escape in line:
                self._held.append(line)
                self._held_bytes += len(line)
                if self._held_bytes > LINE_BYTES_MAX or not self._goes_on(line):
                    yield from self._last_rows()
                continue
            number = self.number
            self.number += 1
            if cells := line.rstrip("\r\n"):
                yield _row(number, cells.split(delimiter), _size_bytes(line))

    def _goes_on(self, line: str) -> bool:
        """Whether the line end is escaped: an odd number of escapes stands before it."""
        body = line.removesuffix("\n").removesuffix("\r")
        return line[-1] == "\n" and (len(body) - len(body.rstrip(self._dialect.escape))) % 2 == 1

    def _last_rows(self) -> Iterator[Row]:
        if not self._held:
            return
        text, spans, number = "".join(self._held), len(self._held), self.number
        self._held, self._held_bytes = [], 0
        self.number += spans
        body = text.removesuffix("\n").removesuffix("\r")
        if body != _END_OF_DATA:
            yield _row(number, self._cells(body), _size_bytes(text), spans)

    def _cells(self, body: str) -> list[str]:
        cells, at, null = list[str](), 0, self._dialect.escape + "N"
        while found := self._cell.match(body, at):
            cell = found[1]
            cells.append(NULL if cell == null else self._escape.sub(_meant, cell))
            at = found.end()
            if found[2] is None:
                break
        return cells


def _meant(found: re.Match[str]) -> str:
    return _LETTERS.get(found[1], found[1])


class _Quoted(_Reader):
    """Quoted cells may hold line ends, so lines are kept until the row that they are of ends."""

    def __init__(self, dialect: Dialect, encoding: str) -> None:
        super().__init__(dialect, encoding)
        self._rules = {
            "delimiter": dialect.delimiter,
            "quotechar": dialect.quote,
            "escapechar": dialect.escape or None,
            "strict": True,
        }
        self._lines: list[str] = []  # from the first line of the row that comes next
        self._width = 0  # cells of the first row
        self._enough_bytes = 0  # of lines, before an open row is tried again
        csv.field_size_limit(2 * LINE_BYTES_MAX)  # process-wide; records are measured here
        if dialect.escape:
            escape = re.escape(dialect.escape)
            self._escapes = re.compile(f"{escape}(.)", re.S)
            self._kept = {dialect.escape, dialect.quote, "\n", "\r"}

    def _rows(self, lines: list[str]) -> Iterator[Row]:
        if self._dialect.escape:
            lines = [self._protected(line) for line in lines]
        self._lines += lines
        if self._enough_bytes:
            held_bytes = sum(map(len, self._lines))
            if held_bytes < self._enough_bytes:
                return
        yield from self._complete_rows(is_end=False)

    def _last_rows(self) -> Iterator[Row]:
        yield from self._complete_rows(is_end=True)

    def _protected(self, line: str) -> str:
        """The escape is a letter but before a quote, itself, or a line end: Spark's rule."""
        escape = self._dialect.escape
        if escape not in line:
            return line
        kept = self._kept
        return self._escapes.sub(lambda it: it[0] if it[1] in kept else escape + it[0], line)

    def _complete_rows(self, *, is_end: bool) -> Iterator[Row]:
        """The rows of the lines that are here. An open one stays, while it may still be closed."""
        lines, self._enough_bytes = self._lines, 0
        at = 0
        while at < len(lines):
            if at > _LINES_PASSED:
                del lines[:at]
                at = 0
            reader = csv.reader(itertools.islice(lines, at, None), **self._rules)  # type: ignore[arg-type]
            start = end = at
            why = ""
            try:
                for cells in reader:
                    end = start + reader.line_num
                    if end - at > 1 and (why := self._why_swallowed(lines[at:end], cells)):
                        break
                    if cells:
                        self._width = self._width or len(cells)
                        yield self._measured(lines, at, end, cells)
                    self.number += end - at
                    at = end
            except csv.Error as error:
                end = start + reader.line_num
                if str(error) == _OPEN and not is_end and self._waits(lines, at):
                    break
                why = self._why(error, end - at)
            if why:
                yield Row(self.number, None, f"broken row: {why}", _size_bytes(lines[at]))
                self.number += 1
                at += 1
                yield from self._single_rows(lines[at : end - 1])
                at = max(at, end - 1)
        self._lines = lines[at:]

    def _waits(self, lines: list[str], at: int) -> bool:
        """Whether the open row at `at` may still be closed. Twice as much is read before it is
        tried again.
        """
        held_bytes = sum(map(len, itertools.islice(lines, at, None)))
        self._enough_bytes = min(2 * held_bytes, LINE_BYTES_MAX + 1)
        return held_bytes <= LINE_BYTES_MAX

    def _why_swallowed(self, lines: list[str], cells: list[str]) -> str:
        """Why a row of several lines is none: a quote that was left open took other rows into it.

        The lines after the first are rows, and the row has more cells than it may, or is one of a
        series of numbered rows that goes on within it.
        """
        is_whole = len(cells) == self._width
        if self._width < 2 or (is_whole and not _are_counted([cells[0], *_first(lines[1])])):
            return ""
        inner = [self._single(line) for line in lines[1:]]
        whole = [row for row in inner if row is not None and len(row) == self._width]
        if is_whole:
            keys = [row[0] for row in [cells, *whole]]
            swallows = len(whole) == len(inner) and _are_counted(keys)
        else:
            swallows = 2 * len(whole) >= len(inner)
        after = self._after(len(lines))
        last = self.number + len(lines) - 1
        quote = self._dialect.quote
        return (
            f"a quote {quote} is opened in it and closed in line {last}{after}" if swallows else ""
        )

    def _single(self, line: str) -> list[str] | None:
        """The cells of a line that is a row by itself; None if it is none."""
        try:
            return next(csv.reader([line], **self._rules), [])  # type: ignore[arg-type]
        except csv.Error:
            return None

    def _single_rows(self, lines: list[str]) -> Iterator[Row]:
        """The rows of lines of which it is known that no cell may go on in the next one."""
        for line in lines:
            try:
                for cells in csv.reader([line], **self._rules):  # type: ignore[arg-type]
                    if cells:
                        yield _row(self.number, cells, _size_bytes(line))
            except csv.Error as error:
                yield Row(
                    self.number, None, f"broken row: {self._why(error, 1)}", _size_bytes(line)
                )
            self.number += 1

    def _measured(self, lines: list[str], at: int, end: int, cells: list[str]) -> Row:
        if end - at == 1:
            return Row(self.number, cells, None, _size_bytes(lines[at]))
        size_bytes = sum(map(_size_bytes, lines[at:end]))
        return _row(self.number, cells, size_bytes, end - at)

    def _why(self, error: csv.Error, lines: int) -> str:
        quote, reason = self._dialect.quote, str(error)
        if reason == _OPEN:
            return f"a quote {quote} is opened in it and never closed{self._after(lines)}"
        if reason.endswith(f"expected after '{quote}'"):
            where = f", in line {self.number + lines - 1}" if lines > 1 else ""
            return f"text follows the quote {quote} that closes a cell{where}{self._after(lines)}"
        if reason.startswith("new-line"):
            return "a carriage return stands in a cell without quotes"
        return reason

    @staticmethod
    def _after(lines: int) -> str:
        """What becomes of the lines after the first one of a broken row."""
        if lines < 2:
            return ""
        if lines == 2:
            return "; the line after it is read as a row of its own"
        return f"; the {lines - 1:,} lines after it are read as rows of their own"


def _first(line: str) -> list[str]:
    """The digits that a line begins with, if it does, quoted or not."""
    found = _DIGITS.match(line)
    return [found[1]] if found else [""]


def _are_counted(keys: list[str]) -> bool:
    """Whether they are whole numbers, each one more than the one before."""
    if not all(key.strip().isdecimal() and len(key) < _KEY_CHARACTERS for key in keys):
        return False
    first = int(keys[0])
    return [int(key) for key in keys] == list(range(first, first + len(keys)))
