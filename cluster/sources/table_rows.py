"""Rows of text tables that have no quotes, and what all readers of rows have in common."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from typing import NamedTuple

from bitsift.cluster.sources.dialect import Dialect
from bitsift.cluster.sources.encoding import invalid
from bitsift.cluster.sources.streams import LINE_BYTES_MAX, TOO_LONG

NULL = r"\N"
"""As MySQL and PostgreSQL write it. An empty cell says the same here: there is no value."""
_SURROGATE = re.compile("[\udc80-\udcff]")
_LETTERS = {
    **{"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"},
    **{"0": "\0", "Z": "\x1a"},
}
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


def size_in_bytes(text: str) -> int:
    """Of a text in UTF-8."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogateescape"))


def measured_row(line: int, cells: list[str], size_bytes: int, lines: int = 1) -> Row:
    """A row with its cells, or a reason where it is too long for a record."""
    row = Row(line, cells, None, size_bytes, lines)
    if size_bytes > LINE_BYTES_MAX + 1:
        return row._replace(cells=None, reason=TOO_LONG + row.span)
    return row


class RowsReader:
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
            return self._too_long()
        if not text.isascii() and _SURROGATE.search(text) is not None:
            self._has_bad_bytes = True  # until the end: lines may be held
        lines = list(io.StringIO(text, newline="\n"))
        if self._skip:
            skipped = min(self._skip, len(lines))
            del lines[:skipped]
            self._skip -= skipped
            self.number += skipped
        return self._sound(self._rows(lines))

    def _too_long(self) -> Iterator[Row]:
        yield from self.close()
        yield Row(self.number, None, TOO_LONG, 0)
        self.number += 1

    def close(self) -> Iterator[Row]:
        """The rows that end with the table."""
        return self._sound(self._last_rows())

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


class PlainRows(RowsReader):
    """No quotes, no escapes: a line is a row."""

    def _rows(self, lines: list[str]) -> Iterator[Row]:
        delimiter = self._dialect.delimiter
        for line in lines:
            number = self.number
            self.number += 1
            if cells := line.rstrip("\r\n"):
                yield measured_row(number, cells.split(delimiter), size_in_bytes(line))


class EscapedRows(RowsReader):
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
                yield measured_row(number, cells.split(delimiter), size_in_bytes(line))

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
            yield measured_row(number, self._cells(body), size_in_bytes(text), spans)

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
