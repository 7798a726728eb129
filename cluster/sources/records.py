"""Records: from the bytes of one file to one dict per record, or the reason why there is none.

One generator per format, each streaming and each knowing only its format: what a field means is
decided in `cluster.documents`. A broken record is a `Record` with a reason, never an exception.
`DamagedStream` passes through with the line where reading ended.

Decisions
* JSON lines: blank lines are not records. A line that orjson refuses gets a second look by the
  json module, for what other writers produce: NaN and lone surrogates.
  Typed values of MongoDB's extended JSON become what they stand for.
* CSV and TSV: the first row names the fields; quotes as RFC 4180, also across lines; a row with
  more or fewer cells than the header is broken. Every value is a string; empty cells are left
  out, except those of the fields that are looked for.
* Text and Markdown: the file is the record. Its title is that of its front matter, the first
  heading, else the file name.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import orjson

from bitsift.cluster.sources.extended_json import SIGN, without_types
from bitsift.cluster.sources.front_matter import split_front_matter
from bitsift.cluster.sources.json_values import cut_values
from bitsift.cluster.sources.plan import Fields, Format, SourceFile
from bitsift.cluster.sources.sqlite import rows_of_database
from bitsift.cluster.sources.streams import (
    LINE_BYTES_MAX,
    TOO_LONG,
    DamagedStream,
    read_blocks,
    read_lines,
)
from bitsift.errors import InvalidRequest
from bitsift.router.write.document_rules import RefusedDocument, parse_json

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_HEADING = re.compile(r" {0,3}#{1,6}[ \t]+(.*?)(?:[ \t]+#+)?[ \t]*$")
_UNDERLINE = re.compile(r" {0,3}(?:=+|-{2,})[ \t]*$")
_FENCE = re.compile(r" {0,3}(```|~~~)")


class Record(NamedTuple):
    """One record of a file: a row, or a reason. Its line counts from 1; its size is in bytes.

    `is_suspect` marks a row that came through the second look: strings in it may hold lone
    surrogates, numbers may be NaN.
    """

    line: int
    row: dict[str, Any] | None
    reason: str | None = None
    size_bytes: int = 0
    is_suspect: bool = False


def read_records(file: SourceFile) -> Iterator[Record]:
    """All records of a JSON, JSON lines, CSV, TSV, text or Markdown file, in order.

    Raises DamagedStream at the point where a file is cut off or damaged; InvalidRequest where it
    cannot be opened or its header is unusable.
    """
    if file.format.is_whole_document:
        yield _text_record(file)
        return
    if file.format is Format.SQLITE:
        yield from _database_records(file)
        return
    blocks = _without_mark(read_blocks(file.path, file.compression))
    if file.format is Format.JSON_LINES:
        yield from _json_records(blocks)
    elif file.format is Format.JSON:
        yield from _cut_records(blocks)
    else:
        delimiter = "," if file.format is Format.CSV else "\t"
        yield from _csv_records(blocks, delimiter, file)


def count_records(file: SourceFile) -> int:
    """How many records a JSON, JSON lines, CSV or TSV file has, broken ones included.

    Reads the whole file, without parsing JSON. Of a damaged file it counts what can be read.
    """
    count = 0
    try:
        if file.format is Format.JSON_LINES:
            for line in read_lines(read_blocks(file.path, file.compression), LINE_BYTES_MAX):
                count += line is None or bool(line.strip())
        else:
            for _ in read_records(file):
                count += 1
    except DamagedStream:
        pass
    return count


def _without_mark(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Drops the byte order mark that some editors put before the first line."""
    for block in blocks:
        yield block.removeprefix(_BYTE_ORDER_MARK)
        break
    yield from blocks


def _json_records(blocks: Iterator[bytes]) -> Iterator[Record]:
    number = 0
    try:
        for line in read_lines(blocks, LINE_BYTES_MAX):
            number += 1
            if line is None:
                yield Record(number, None, TOO_LONG)
                continue
            try:
                value = orjson.loads(line)
            except orjson.JSONDecodeError:
                if line.strip():
                    yield _second_look(number, line)
                continue
            if SIGN in line:
                value = without_types(value)
            yield _json_record(number, value, len(line), is_suspect=False)
    except DamagedStream as damage:
        damage.line = number + 1
        raise


def _database_records(file: SourceFile) -> Iterator[Record]:
    for number, (row, reason, size_bytes) in enumerate(rows_of_database(file), start=1):
        yield Record(number, row, reason, size_bytes)


def _cut_records(blocks: Iterator[bytes]) -> Iterator[Record]:
    for line, data, reason in cut_values(blocks):
        yield Record(line, None, reason) if data is None else _second_look(line, data)


def _json_record(number: int, value: object, size_bytes: int, *, is_suspect: bool) -> Record:
    if type(value) is dict:
        return Record(number, value, None, size_bytes, is_suspect)
    return Record(number, None, f"a JSON {type(value).__name__}, not a JSON object")


def _second_look(number: int, line: bytes) -> Record:
    """Says what is wrong with a line, or accepts what only orjson refuses."""
    try:
        value, is_suspect = parse_json(line)
    except RefusedDocument as reason:
        return Record(number, None, str(reason))
    if SIGN in line:
        value = without_types(value)
    return _json_record(number, value, len(line), is_suspect=is_suspect)


class _BrokenRow(Exception):
    """A CSV row that cannot be read; the message says why."""


class _LineFeed:
    """Hands lines to csv.reader and remembers what the row in progress is made of."""

    def __init__(self, lines: Iterator[bytes | None]) -> None:
        self._lines = lines
        self.number = 0
        self.is_exhausted = False
        self.start_row()

    def start_row(self) -> None:
        self.row_line = self.number + 1
        self.row_bytes = 0
        self.row_is_utf8 = True

    def __iter__(self) -> _LineFeed:
        return self

    def __next__(self) -> str:
        try:
            line = next(self._lines)
        except StopIteration:
            self.is_exhausted = True
            raise
        self.number += 1
        self.row_bytes += 0 if line is None else len(line)
        if line is None or self.row_bytes > LINE_BYTES_MAX:
            raise _BrokenRow(TOO_LONG)
        try:
            return line.decode() + "\n"
        except UnicodeDecodeError:
            self.row_is_utf8 = False
            return line.decode("utf-8", "replace") + "\n"


def _csv_records(blocks: Iterator[bytes], delimiter: str, file: SourceFile) -> Iterator[Record]:
    csv.field_size_limit(LINE_BYTES_MAX)  # process-wide; the default refuses cells over 128 KiB
    feed = _LineFeed(read_lines(blocks, LINE_BYTES_MAX))
    reader = csv.reader(feed, delimiter=delimiter, strict=False)
    wanted = {name for _, name in file.fields.named()}
    names: list[str] | None = None
    while True:
        feed.start_row()
        try:
            cells = next(reader)
        except StopIteration:
            return
        except DamagedStream as damage:
            damage.line = feed.row_line
            raise
        except (csv.Error, _BrokenRow) as error:
            if names is None:
                raise InvalidRequest(f"{file.path} has no readable header: {error}") from error
            yield Record(feed.row_line, None, f"broken row: {error}")
            continue
        if not cells:
            continue  # a blank line
        if names is None:
            names = _header(cells, file.path)
        else:
            yield _csv_record(feed, names, cells, wanted)


def _csv_record(feed: _LineFeed, names: list[str], cells: list[str], wanted: set[str]) -> Record:
    if not feed.row_is_utf8:
        return Record(feed.row_line, None, "invalid UTF-8")
    if feed.is_exhausted:  # csv.reader asks for a line after the last one only inside quotes
        return Record(feed.row_line, None, "broken row: a quote is never closed")
    if len(cells) != len(names):
        reason = f"broken row: it has {len(cells)} cells, the header has {len(names)}"
        return Record(feed.row_line, None, reason)
    pairs = zip(names, cells, strict=True)
    row = {name: cell for name, cell in pairs if cell or name in wanted}
    return Record(feed.row_line, row, None, feed.row_bytes)


def _header(cells: list[str], path: str) -> list[str]:
    """The field names; a column without one (pandas writes its index so) is called column_N."""
    names = [cell.strip() or f"column_{number}" for number, cell in enumerate(cells, start=1)]
    if len(set(names)) != len(names):
        raise InvalidRequest(f"{path} names a column twice in its header: {', '.join(names)}")
    return names


TEXT_FIELDS = Fields(id="id", text="text", title="title")


def _text_record(file: SourceFile) -> Record:
    parts: list[bytes] = []
    size_bytes = 0
    try:
        for block in read_blocks(file.path, file.compression):
            size_bytes += len(block)
            if size_bytes > LINE_BYTES_MAX:
                return Record(1, None, TOO_LONG)
            parts.append(block)
        text = b"".join(parts).decode("utf-8-sig")
    except DamagedStream as damage:
        return Record(1, None, str(damage))
    except UnicodeDecodeError as error:
        return Record(1, None, f"invalid UTF-8 at byte {error.start + 1} of the file")
    title = _markdown_heading(text) if file.format is Format.MARKDOWN else None
    name = PurePosixPath(file.name.removesuffix(file.compression.value))
    fields, text = split_front_matter(text)
    if isinstance(fields.get("title"), str):
        title = fields.pop("title")
    row: dict[str, Any] = {"id": file.name, "title": title or name.stem, "text": text}
    if fields:
        row["metadata"] = fields
    return Record(1, row, None, size_bytes)


def _markdown_heading(text: str) -> str | None:
    """The first heading outside code fences and front matter, without its marks."""
    fence: str | None = None
    previous = ""
    for number, line in enumerate(io.StringIO(text, newline=None)):
        line = line.rstrip("\n")
        mark = "---" if number == 0 and line.rstrip() == "---" else None
        if found := _FENCE.match(line):
            mark = found[1]
        if fence is not None:
            closes = line.rstrip() == "---" if fence == "---" else mark == fence
            fence = None if closes else fence
        elif mark is not None:
            fence, previous = mark, ""
        elif (heading := _HEADING.match(line)) and heading[1].strip("#"):
            return heading[1].strip()
        elif previous.strip() and _UNDERLINE.match(line):
            return previous.strip()
        else:
            previous = line
    return None
