"""Ids to delete, from a file: one a line, or a field of the records of JSON, CSV or a table."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from bitsift.cluster.sources.columns import rows_of_batch
from bitsift.cluster.sources.dialect import DETECT_LAYOUT
from bitsift.cluster.sources.encoding import utf8_blocks
from bitsift.cluster.sources.json_files import with_layout
from bitsift.cluster.sources.kinds import FORMATS, kind_of
from bitsift.cluster.sources.plan import NAMES, Compression, Fields, Format, SourceFile
from bitsift.cluster.sources.records import HEADER_AGAIN, read_records
from bitsift.cluster.sources.sniffing import with_dialect
from bitsift.cluster.sources.stdin import STDIN
from bitsift.cluster.sources.streams import (
    BLOCK_BYTES,
    LINE_BYTES_MAX,
    DamagedStream,
    read_blocks,
    read_lines,
    size_of,
)
from bitsift.cluster.sources.tables import read_batches, with_schema
from bitsift.errors import InvalidRequest
from bitsift.router.write.document_rules import RefusedDocument, checked_id

_ROWS = 4_096


def read_ids(path: str, id_field: str | None = None) -> Iterator[str]:
    """The ids of a file; the field is found as `bitsift index` finds it where none is named.

    A file of another ending than those of records has one id a line, and so has "-", the standard
    input. Raises InvalidRequest for what cannot be read, and for a record without an id: a list
    that is read in part is not the one that was meant.
    """
    ending = Path(path.removesuffix(_compression(path).value)).suffix.lower()
    kind = FORMATS.get(ending)
    if path == STDIN or kind is None or kind.is_whole_document:
        yield from _of_lines(path)
        return
    if kind.is_matrix or kind is Format.SQLITE:
        raise InvalidRequest(f"{path} is no list of ids: write them to a text file, one a line")
    file = SourceFile(0, path, path, *kind_of(path), size_of(path))
    rows = _table_rows(file, id_field) if kind.is_table else _rows(file, id_field)
    for line, row in rows:
        field = _field(path, row, id_field)
        if row.get(field) is None:
            raise InvalidRequest(f"{path}:{line}: no id in field {field!r}; nothing was deleted")
        yield _checked(row[field], path, line)


def _compression(path: str) -> Compression:
    endings = {item.value: item for item in Compression}
    return endings.get(Path(path).suffix.lower(), Compression.NONE)


def _of_lines(path: str) -> Iterator[str]:
    if path == STDIN:
        blocks = iter(functools.partial(sys.stdin.buffer.read, BLOCK_BYTES), b"")
    else:
        blocks = read_blocks(path, _compression(path))
    try:
        for number, line in enumerate(read_lines(utf8_blocks(blocks), LINE_BYTES_MAX), start=1):
            if line is None:
                raise InvalidRequest(f"{path}:{number}: longer than {LINE_BYTES_MAX:,} bytes")
            text = _text(line.removesuffix(b"\r"), path, number)
            if text.strip():
                yield text
    except DamagedStream as damage:
        raise InvalidRequest(f"{path} cannot be read: {damage}") from damage
    except OSError as error:
        raise InvalidRequest(f"{path} cannot be read: {error}") from error


def _text(line: bytes, path: str, number: int) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        said = f"invalid UTF-8 at byte {error.start + 1}"
        raise InvalidRequest(f"{path}:{number}: {said}") from error


def _rows(file: SourceFile, id_field: str | None) -> Iterator[tuple[int, dict[str, Any]]]:
    file = with_layout(replace(file, fields=Fields(id=id_field)))
    names = {*NAMES["id"], *([] if id_field is None else [id_field.lower()])}
    file = with_dialect(file, DETECT_LAYOUT, names)
    try:
        for record in read_records(file):
            if record.reason == HEADER_AGAIN:
                continue
            if record.row is None:
                raise InvalidRequest(f"{file.path}:{record.line}: {record.reason}")
            yield record.line, record.row
    except DamagedStream as damage:
        raise InvalidRequest(f"{file.path} cannot be read: {damage}") from damage


def _table_rows(file: SourceFile, id_field: str | None) -> Iterator[tuple[int, dict[str, Any]]]:
    file, schema = with_schema(file)
    field = _field(file.path, dict.fromkeys(schema.names), id_field)
    for first, batch, damage in read_batches(file, _ROWS, columns=[field]):
        if batch is None:
            raise InvalidRequest(f"{file.path} cannot be read: {damage}")
        found, reasons = rows_of_batch(batch, {field}, None, field)
        rows = list(found)
        if reasons:
            place = min(reasons)
            raise InvalidRequest(f"{file.path}:{first + place + 1}: {reasons[place]}")
        yield from enumerate(rows, start=first + 1)


def _field(path: str, row: dict[str, Any], id_field: str | None) -> str:
    """Which field of ``row`` is the id: the one that is named, or the first that is called so."""
    if id_field is not None:
        if id_field in row:
            return id_field
        raise InvalidRequest(f"{path} has no field {id_field!r}; fields found: {', '.join(row)}")
    lower = {name.lower(): name for name in reversed(row)}
    for name in NAMES["id"]:
        if name in row or name in lower:
            return name if name in row else lower[name]
    raise InvalidRequest(
        f"{path} has no field called {', '.join(NAMES['id'])}; fields found: {', '.join(row)}; "
        "name the one of the ids with --id-field"
    )


def _checked(key: object, path: str, line: int) -> str:
    try:
        return checked_id(key)
    except RefusedDocument as error:
        raise InvalidRequest(f"{path}:{line}: {error}; nothing was deleted") from error
