"""Records: from the bytes of one file to one dict per record, or the reason why there is none.

One generator per format, each streaming and each knowing only its format: what a field means is
decided in `cluster.documents`. A broken record is a `Record` with a reason, never an exception.
`DamagedStream` passes through with the line where reading ended.

Decisions
* JSON lines: blank lines are not records. A line that orjson refuses gets a second look by the
  json module, for what other writers produce: NaN and lone surrogates.
  Typed values of MongoDB's extended JSON become what they stand for.
* CSV and TSV (`cluster.delimited`): the first row names the fields, where the table has such a
  row; a row with more or fewer cells is broken, but for empty ones after the last. Every value is a
  string; empty cells are left out, except those of the fields that are looked for.
* Text and Markdown: the file is the record. Its title is that of its front matter, the first
  heading, else the file name.
"""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Collection, Iterable, Iterator
from itertools import islice
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import msgspec

from bitsift.cluster.sources.delimited import read_rows
from bitsift.cluster.sources.dialect import Dialect
from bitsift.cluster.sources.encoding import MARK, UTF8, invalid, utf8_blocks
from bitsift.cluster.sources.extended_json import SIGN, without_types
from bitsift.cluster.sources.front_matter import split_front_matter
from bitsift.cluster.sources.json_values import cut_values
from bitsift.cluster.sources.plan import Fields, Format, SourceFile, usual_dialect
from bitsift.cluster.sources.sqlite import rows_of_database
from bitsift.cluster.sources.streams import (
    LINE_BYTES_MAX,
    TOO_LONG,
    DamagedStream,
    read_blocks,
    read_lines,
)
from bitsift.cluster.sources.table_rows import NULL, Row
from bitsift.errors import InvalidRequest
from bitsift.router.write.document_rules import RefusedDocument, parse_json

_decoded = msgspec.json.Decoder().decode
_new = tuple.__new__
"""Makes a record in half of the time."""
_NAMES_SHOWN = 20
_NAME_CHARACTERS = 60
"""Of a field, in a message: where there is no header, names are texts."""
HEADER_AGAIN = "the header once more, no record: were files with headers joined?"
_INVISIBLE = f"{MARK}\N{ZERO WIDTH SPACE}"
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
    blocks = utf8_blocks(read_blocks(file.path, file.compression), file.encoding)
    if file.format is Format.JSON_LINES:
        yield from _json_records(blocks, file.encoding)
    elif file.format is Format.JSON:
        yield from _cut_records(blocks, file.encoding)
    else:
        yield from _table_records(blocks, file)


def table_columns(file: SourceFile) -> list[str]:
    """The names of a text table's columns. Raises InvalidRequest where its header is unusable."""
    dialect = file.dialect or usual_dialect(file.format)
    if not dialect.has_header:
        return list(dialect.columns)
    blocks = utf8_blocks(read_blocks(file.path, file.compression), file.encoding)
    try:
        for row in read_rows(blocks, dialect, file.encoding or UTF8):
            return _header(row, list(dialect.columns), file.path)
    except DamagedStream:
        pass  # reading it says so
    return list(dialect.columns)


def count_records(file: SourceFile) -> int:
    """How many records a JSON, JSON lines, CSV or TSV file has, broken ones included.

    Reads the whole file, without parsing JSON. Of a damaged file it counts what can be read.
    """
    count = 0
    try:
        if file.format is Format.JSON_LINES:
            blocks = utf8_blocks(read_blocks(file.path, file.compression), file.encoding)
            for line in read_lines(blocks, LINE_BYTES_MAX):
                count += line is None or bool(line.strip())
        else:
            for _ in read_records(file):
                count += 1
    except DamagedStream:
        pass
    return count


def _json_records(blocks: Iterator[bytes], encoding: str = "") -> Iterator[Record]:
    number = 0
    try:
        for line in read_lines(blocks, LINE_BYTES_MAX):
            number += 1
            if line is None:
                yield Record(number, None, TOO_LONG)
                continue
            try:
                value = _decoded(line)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                if line.strip():
                    yield _second_look(number, line, encoding)
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


def _cut_records(blocks: Iterator[bytes], encoding: str) -> Iterator[Record]:
    for line, data, reason in cut_values(blocks):
        yield Record(line, None, reason) if data is None else _second_look(line, data, encoding)


def _json_record(number: int, value: object, size_bytes: int, *, is_suspect: bool) -> Record:
    if type(value) is dict:
        return _new(Record, (number, value, None, size_bytes, is_suspect))
    return Record(number, None, f"a JSON {type(value).__name__}, not a JSON object")


def _second_look(number: int, line: bytes, encoding: str = "") -> Record:
    """Says what is wrong with a line, or accepts what only orjson refuses; and the mark of a file
    that was joined to others.
    """
    line = line.removeprefix(codecs.BOM_UTF8)
    try:
        value, is_suspect = parse_json(line)
    except RefusedDocument as reason:
        said = str(reason)
        if said.startswith("invalid UTF-8"):
            said = invalid(line, encoding, "the line")
        return Record(number, None, said)
    if SIGN in line:
        value = without_types(value)
    return _json_record(number, value, len(line), is_suspect=is_suspect)


def _table_records(blocks: Iterator[bytes], file: SourceFile) -> Iterator[Record]:
    dialect = file.dialect or usual_dialect(file.format)
    wanted = {name for _, name in file.fields.named()}
    names = list(dialect.columns)
    has_header = dialect.has_header
    header: list[str] | None = None
    for row in read_rows(blocks, dialect, file.encoding or UTF8):
        line, cells, reason, size_bytes, _ = row
        if has_header:
            names = _header(row, names, file.path)
            has_header = False
            header = row.cells if row.cells is not None and len(row.cells) > 1 else None
        elif cells is None:
            yield Record(line, None, reason)
        elif len(cells) != len(names) and (len(cells) < len(names) or any(cells[len(names) :])):
            yield Record(line, None, _wrong_width(row, len(names), dialect))
        elif header is not None and cells[-1] == header[-1] and _is_header(cells, header):
            yield Record(line, None, HEADER_AGAIN)
        else:
            values: dict[str, Any] = dict(zip(names, cells))  # noqa: B905 (its cost)
            if dialect.escape or not all(cells):
                values = _without_empty(values, wanted, NULL if dialect.escape else None)
            yield _new(Record, (line, values, None, size_bytes, False))


def _without_empty(
    values: dict[str, Any], wanted: Collection[str], null: str | None
) -> dict[str, Any]:
    """The cells that hold something, and those of fields that are looked for."""
    found = ((name, None if cell == null else cell) for name, cell in values.items())
    return {name: cell for name, cell in found if cell or name in wanted}


def _is_header(cells: list[str], header: list[str]) -> bool:
    """Whether a row is the header once more, perhaps behind the byte order mark of its file."""
    return cells[1:] == header[1:] and cells[0].lstrip(MARK).strip('"') == header[0]


def _wrong_width(row: Row, width: int, dialect: Dialect) -> str:
    found = f"broken row: it has {len(row.cells or ())} cells, "
    of = "the header has" if dialect.has_header else "the table has"
    return f"{found}{of} {width}{row.span}"


def _header(row: Row, names: list[str], path: str) -> list[str]:
    """The field names; a column without one (pandas writes its index so) is called column_N.

    Where there are `names`, they take the place of the header's.
    """
    if row.cells is None:
        raise InvalidRequest(f"{path} has no readable header: {row.reason}")
    if names and len(names) != len(row.cells):
        raise InvalidRequest(
            f"{path}: --columns names {len(names)} columns, its header has {len(row.cells)}: "
            f"{listed(row.cells)}"
        )
    if names:
        return names
    cells = [cell.strip().strip(_INVISIBLE) for cell in row.cells]
    names = [cell or f"column_{number}" for number, cell in enumerate(cells, start=1)]
    if len(set(names)) != len(names):
        raise InvalidRequest(f"{path} names a column twice in its header: {listed(names)}")
    return names


def listed(names: Iterable[str]) -> str:
    """Names of fields for people: none of them long, what is no letter escaped."""
    shown = []
    for name in islice(names, _NAMES_SHOWN + 1):
        text = name if name.isprintable() else repr(name)[1:-1]
        cut = f"{text[:_NAME_CHARACTERS]}…" if len(text) > _NAME_CHARACTERS else text
        shown.append(cut)
    return ", ".join([*shown[:_NAMES_SHOWN], "…"] if len(shown) > _NAMES_SHOWN else shown)


TEXT_FIELDS = Fields(id="id", text="text", title="title")


def _text_record(file: SourceFile) -> Record:
    parts: list[bytes] = []
    size_bytes = 0
    try:
        for block in utf8_blocks(read_blocks(file.path, file.compression), file.encoding):
            size_bytes += len(block)
            if size_bytes > LINE_BYTES_MAX:
                return Record(1, None, TOO_LONG)
            parts.append(block)
        data = b"".join(parts)
        text = data.decode()
    except DamagedStream as damage:
        return Record(1, None, str(damage))
    except UnicodeDecodeError:
        return Record(1, None, invalid(data, file.encoding, "the file"))
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
