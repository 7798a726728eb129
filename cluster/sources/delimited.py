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

from collections.abc import Iterator

from bitsift.cluster.sources.dialect import Dialect
from bitsift.cluster.sources.encoding import UTF8
from bitsift.cluster.sources.quoted_rows import QuotedRows
from bitsift.cluster.sources.streams import LINE_BYTES_MAX, DamagedStream
from bitsift.cluster.sources.table_rows import EscapedRows, PlainRows, Row, RowsReader


def read_rows(blocks: Iterator[bytes], dialect: Dialect, encoding: str = UTF8) -> Iterator[Row]:
    """The rows of a table in UTF-8, with the header, without `dialect.skipped_lines`.

    `encoding` is what it was written in. Raises DamagedStream with the line where a stream is cut
    off or damaged.
    """
    if dialect.carriage_returns:
        blocks = (block.replace(b"\r", b"\n") for block in blocks)
    if dialect.quote:
        reader: RowsReader = QuotedRows(dialect, encoding)
    else:
        reader = (EscapedRows if dialect.escape else PlainRows)(dialect, encoding)
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
