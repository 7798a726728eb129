"""Rows whose cells may be quoted, by the csv module; see `delimited` for what is decided here."""

from __future__ import annotations

import csv
import itertools
import re
from collections.abc import Iterable, Iterator
from typing import Any

from bitsift.cluster.sources.dialect import Dialect
from bitsift.cluster.sources.streams import LINE_BYTES_MAX
from bitsift.cluster.sources.table_rows import Row, RowsReader, measured_row, size_in_bytes

_OPEN = "unexpected end of data"
"""How the csv module says that the lines end in a quoted cell."""
_ESCAPED_END = "\ufdd0\ufdd1"
"""In the place of an escape before a line end: two code points that are no characters."""
_LINES_AFTER = 8
"""That are looked at when a quote is closed where one may as well have been opened."""
_LINES_PASSED = 1_000
"""Of so many lines that are done with, a list is freed when reading starts again after a fault."""
_DIGITS = re.compile(r"\W?(\d{1,18})")
_KEY_CHARACTERS = 19
_new = tuple.__new__
"""Makes a row in half of the time."""


class QuotedRows(RowsReader):
    """Quoted cells may hold line ends, so lines are kept until the row that they are of ends."""

    def __init__(self, dialect: Dialect, encoding: str) -> None:
        super().__init__(dialect, encoding)
        self._lines: list[str] = []  # from the first line of the row that comes next
        self._width = 0  # cells of the first row
        self._enough_bytes = 0  # of lines, before an open row is tried again
        csv.field_size_limit(2 * LINE_BYTES_MAX)  # process-wide; records are measured here
        if dialect.escape:
            escape = re.escape(dialect.escape)
            self._escapes = re.compile(f"{escape}(.)", re.S)
            self._kept = {dialect.escape, dialect.quote}
            self._open_end = re.compile(f"(?<!{escape})(?:{escape}{escape})*({escape})\r?\n\\Z")

    def _reader(self, lines: Iterable[str]) -> Any:
        return csv.reader(
            lines,
            delimiter=self._dialect.delimiter,
            quotechar=self._dialect.quote,
            escapechar=self._dialect.escape or None,
            skipinitialspace=self._dialect.skips_blanks,
            strict=True,
        )

    def _sound(self, rows: Iterator[Row]) -> Iterator[Row]:
        return super()._sound(map(self._unmarked, rows) if self._dialect.escape else rows)

    def _rows(self, lines: list[str]) -> Iterator[Row]:
        if self._dialect.escape:
            lines = [self._protected(line) for line in lines]
        self._lines += lines
        if self._enough_bytes and sum(map(len, self._lines)) < self._enough_bytes:
            return iter(())
        return self._complete_rows(is_end=False)

    def _last_rows(self) -> Iterator[Row]:
        return self._complete_rows(is_end=True)

    def _protected(self, line: str) -> str:
        """The escape is a letter but before a quote or itself: Spark's rule. Before a line end it
        is marked: in a quoted cell it has no meaning, as MySQL writes it, elsewhere it is a letter.
        """
        escape = self._dialect.escape
        if escape not in line:
            return line
        if found := self._open_end.search(line):
            line = line[: found.start(1)] + _ESCAPED_END + line[found.end(1) :]
        kept = self._kept
        return self._escapes.sub(lambda it: it[0] if it[1] in kept else escape + it[0], line)

    def _unmarked(self, row: Row) -> Row:
        if row.cells is None or not any(_ESCAPED_END in cell for cell in row.cells):
            return row
        mark, escape = _ESCAPED_END, self._dialect.escape
        cells = [
            cell.replace(f"{mark}\n", "\n").replace(f"{mark}\r\n", "\r\n").replace(mark, escape)
            for cell in row.cells
        ]
        return row._replace(cells=cells)

    def _complete_rows(self, *, is_end: bool) -> Iterator[Row]:
        """The rows of the lines that are here. An open one stays, while it may still be closed."""
        lines, self._enough_bytes = self._lines, 0
        at, first = 0, self.number  # the line of lines[0]
        while at < len(lines):
            if at > _LINES_PASSED:
                del lines[:at]
                at, first = 0, first + at
            reader = self._reader(itertools.islice(lines, at, None))
            start = end = at
            why, waits = "", False
            try:
                for cells in reader:
                    end = start + reader.line_num
                    if end - at == 1 and cells and self._width:  # nearly all rows
                        line = lines[at]
                        size_bytes = len(line) if line.isascii() else size_in_bytes(line)
                        yield _new(Row, (first + at, cells, None, size_bytes, 1))
                    elif cells:
                        after = lines[end : end + _LINES_AFTER] if end - at > 1 else []
                        swallows = self._swallows(lines[at:end], cells, after, is_end=is_end)
                        if swallows is None:
                            waits = True
                            break
                        if swallows:
                            why = self._why_swallowed(end - at, first + end - 1)
                            break
                        self._width = self._width or len(cells)
                        size_bytes = sum(map(size_in_bytes, lines[at:end]))
                        yield measured_row(first + at, cells, size_bytes, end - at)
                    at = end
            except csv.Error as error:
                end = start + reader.line_num
                waits = str(error) == _OPEN and not is_end and self._waits(lines, at)
                why = self._why(error, end - at, first + end - 1)
            if waits:
                break
            if why:
                yield _broken(lines[at], first + at, why)
                at += 1
                yield from self._single_rows(lines[at : end - 1], first + at)
                at = max(at, end - 1)
        self._lines, self.number = lines[at:], first + at

    def _waits(self, lines: list[str], at: int) -> bool:
        """Whether the open row at `at` may still be closed. Twice as much is read before it is
        tried again.
        """
        held_bytes = sum(map(len, itertools.islice(lines, at, None)))
        self._enough_bytes = min(2 * held_bytes, LINE_BYTES_MAX + 1)
        return held_bytes <= LINE_BYTES_MAX

    def _swallows(
        self, lines: list[str], cells: list[str], after: list[str], *, is_end: bool
    ) -> bool | None:
        """Whether a row of several lines is none: a quote that was left open took rows into it.

        Lines between its first and its last are rows, and the row has other cells than it may; the
        lines after the first are rows, and numbered as it is; or its last quote stands where one
        may be opened as well, and the row after it is broken. None: that row is not there yet.
        """
        if len(lines) == 1 or self._width < 2:
            return False
        if len(cells) != self._width:
            between = [self._single(line) for line in lines[1:-1]]
            whole = sum(map(self._is_whole, between))
            return whole > 0 and 2 * whole >= len(between)
        if _are_counted([cells[0], *_first(lines[1])]):
            inner = [self._single(line) for line in lines[1:]]
            keys = [row[0] for row in [cells, *inner] if row]
            if all(map(self._is_whole, inner)) and _are_counted(keys):
                return True
        if not lines[-1].rstrip("\r\n").endswith(self._dialect.delimiter + self._dialect.quote):
            return False
        return self._breaks(after, is_end=is_end)

    def _is_whole(self, cells: list[str] | None) -> bool:
        return cells is not None and len(cells) == self._width

    def _breaks(self, lines: list[str], *, is_end: bool) -> bool | None:
        """Whether the row that begins with `lines` is broken. None: they are too few to say."""
        try:
            for cells in self._reader(lines):
                if cells:
                    return not self._is_whole(cells)
        except csv.Error as error:
            if str(error) != _OPEN:
                return True
            if is_end or len(lines) == _LINES_AFTER:
                return len(lines) < _LINES_AFTER
        return False if is_end else None

    def _why_swallowed(self, lines: int, last: int) -> str:
        quote = self._dialect.quote
        return f"a quote {quote} is opened in it and closed in line {last}{_after(lines)}"

    def _single(self, line: str) -> list[str] | None:
        """The cells of a line that is a row by itself; None if it is none."""
        try:
            return next(self._reader([line]), [])
        except csv.Error:
            return None

    def _single_rows(self, lines: list[str], first: int) -> Iterator[Row]:
        """The rows of lines of which it is known that no cell may go on in the next one."""
        for number, line in enumerate(lines, start=first):
            try:
                for cells in self._reader([line]):
                    if cells:
                        yield measured_row(number, cells, size_in_bytes(line))
            except csv.Error as error:
                yield _broken(line, number, self._why(error, 1, number))

    def _why(self, error: csv.Error, lines: int, last: int) -> str:
        """Why a row is broken that was read up to the line `last`."""
        quote, reason = self._dialect.quote, str(error)
        if reason == _OPEN:
            return f"a quote {quote} is opened in it and never closed{_after(lines)}"
        if reason.endswith(f"expected after '{quote}'"):
            where = f", in line {last}" if lines > 1 else ""
            return f"text follows the quote {quote} that closes a cell{where}{_after(lines)}"
        if reason.startswith("new-line"):
            return "a carriage return stands in a cell without quotes"
        return reason


def _broken(line: str, number: int, why: str) -> Row:
    return Row(number, None, f"broken row: {why}", size_in_bytes(line))


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
