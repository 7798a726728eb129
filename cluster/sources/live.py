"""Documents of sources for a running cluster: one by one, in bounded RAM, each with its place.

Sources are planned and read as for `bitsift index`. JSON is also the form in which documents are
written live, so its records keep the fields that only such a document has: conditions, and a vector
in some records and not in others. What the gateway judges anyway is left to it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain, groupby, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orjson
import pyarrow as pa

from bitsift.cluster.sources.dialect import DETECT_LAYOUT, Layout
from bitsift.cluster.sources.documents import RowReader, content_id
from bitsift.cluster.sources.files import plan_sources
from bitsift.cluster.sources.kinds import FORMATS
from bitsift.cluster.sources.plan import Compression, Fields, Format, SourceFile, SourcePlan
from bitsift.cluster.sources.probe import PROBE_ROWS, resolve
from bitsift.cluster.sources.readers import read_documents, read_text_files
from bitsift.cluster.sources.records import Record, read_records
from bitsift.cluster.sources.stdin import STDIN
from bitsift.cluster.sources.stored_vectors import FLOATS, Stored
from bitsift.cluster.sources.streams import DamagedStream, is_url
from bitsift.cluster.sources.vectors import vectors_of
from bitsift.errors import InvalidRequest
from bitsift.router.write.document_rules import RefusedDocument, parse_vector

VECTOR = "vector"
CONDITIONS = ("if_absent", "if_version")


class Sourced(NamedTuple):
    """A document, or why the record at this place is none. Lines count from 1."""

    file: str
    line: int
    document: dict[str, Any] | None
    reason: str | None = None


def live_documents(
    paths: Sequence[str],
    fields: Fields,
    layout: Layout = DETECT_LAYOUT,
    stored: Stored = FLOATS,
    stdin: str | None = None,
) -> tuple[Iterator[Sourced], list[str]]:
    """All documents of ``paths``, and what is to be said of files: those that are passed over, and
    what was found out of tables where ``layout`` says nothing. ``stored`` says how vectors are.

    A path that is no file or folder but a pipe is read as JSON lines while it is written, and so is
    "-", the standard input, where its format ``stdin`` is not another: then it is copied first.
    Raises InvalidRequest as ``plan_sources`` does.
    """
    is_read_once = {path: _is_stream(path, stdin) for path in paths}
    streams = [path for path in paths if is_read_once[path]]
    others = [path for path in paths if not is_read_once[path]]
    plan = _planned(others, fields, layout, stored, stdin) if others or not streams else None
    found: list[Iterator[Sourced]] = []
    if plan is not None:
        whole = groupby(plan.files, lambda file: file.format.is_whole_document)
        for is_text, files in whole:
            found += [_of_texts(list(files))] if is_text else map(_of_file, files)
    found += [_of_stream(path, fields, layout, stored) for path in streams]
    said = () if plan is None else filter(None, (plan.passed_over_said, *plan.notes))
    return chain.from_iterable(found), list(said)


def _is_stream(path: str, stdin: str | None) -> bool:
    if path == STDIN:
        return stdin is None or FORMATS[f".{stdin}"] is Format.JSON_LINES
    if is_url(path) or not os.path.exists(path):
        return False
    return not os.path.isfile(path) and not os.path.isdir(path)


def _planned(
    paths: Sequence[str], fields: Fields, layout: Layout, stored: Stored, stdin: str | None
) -> SourcePlan:
    """A live document's vector is called ``vector`` where nothing else is said, and may be all
    that it has.
    """
    try:
        return plan_sources(paths, fields, layout=layout, stored=stored, stdin=stdin)
    except InvalidRequest as error:
        if fields.vector is not None:
            raise
        try:
            fields = replace(fields, vector=VECTOR)
            return plan_sources(paths, fields, layout=layout, stored=stored, stdin=stdin)
        except InvalidRequest:
            raise error from None


def _of_file(file: SourceFile) -> Iterator[Sourced]:
    if file.format.is_json:
        return _of_json(file, read_records(file), file.path)
    return _of_tables(read_documents(file))


def _of_texts(files: Sequence[SourceFile]) -> Iterator[Sourced]:
    return _of_tables(read_text_files(files))


def _of_tables(tables: Iterator[pa.Table]) -> Iterator[Sourced]:
    for table in tables:
        has_vector = table["vector"].is_valid().to_pylist()
        lengths = set(table["vector"].combine_chunks().value_lengths().drop_null().to_pylist())
        vectors = iter(vectors_of(table, lengths.pop()) if lengths else ())
        rows = table.drop_columns(["vector", "position"]).to_pylist()
        for row, is_given in zip(rows, has_vector, strict=True):
            vector = next(vectors) if is_given else None
            if row["reject"] is not None:
                yield Sourced(row["file"], row["line"], None, row["reject"])
                continue
            document = _document(row["id"], row["title"], row["text"], row["metadata"])
            yield Sourced(row["file"], row["line"], document | _given(vector))


def _of_stream(path: str, fields: Fields, layout: Layout, stored: Stored) -> Iterator[Sourced]:
    """JSON lines that can be read once: the fields are found in the first of them."""
    endings = {compression.value: compression for compression in Compression}
    packed = endings.get(Path(path).suffix.lower(), Compression.NONE)
    opened = "/dev/stdin" if path == STDIN else path
    encoding = layout.encoding or ""
    file = SourceFile(
        0, opened, path, Format.JSON_LINES, packed, 0, stored=stored, encoding=encoding
    )
    records = read_records(file)
    first = list[Record]()
    damage: DamagedStream | None = None
    try:
        first += islice(records, PROBE_ROWS)
    except DamagedStream as error:
        damage = error
    found: dict[str, bool] = {}
    for record in first:
        for name, value in (record.row or {}).items():
            found[name] = found.get(name, False) or isinstance(value, str)
    if found:
        fields = resolve(file, fields, found, carries_vectors=VECTOR in found)
    rest = records if damage is None else _raising(damage)
    yield from _of_json(replace(file, fields=fields), chain(first, rest), path)


def _raising(damage: DamagedStream) -> Iterator[Record]:
    yield from ()
    raise damage


def _of_json(file: SourceFile, records: Iterator[Record], path: str) -> Iterator[Sourced]:
    vector = file.fields.vector or VECTOR
    reader = RowReader(replace(file, fields=replace(file.fields, vector=vector)))
    partitions = dict(file.partitions)
    try:
        for record in records:
            if record.row is None:
                yield Sourced(path, record.line, None, record.reason or "no document")
                continue
            yield _read(reader, record._replace(row={**partitions, **record.row}), file, path)
    except DamagedStream as damage:
        yield Sourced(path, damage.line, None, f"the rest of the file cannot be read: {damage}")


def _read(reader: RowReader, record: Record, file: SourceFile, path: str) -> Sourced:
    row = record.row
    assert row is not None
    conditions = {name: row.pop(name) for name in CONDITIONS if name in row}
    vector = row.pop(reader.vector_field, None) if reader.vector_field is not None else None
    if vector is not None and file.stored != FLOATS:
        vector = file.stored.decoded_list(vector)
        if isinstance(vector, str):
            return Sourced(path, record.line, None, vector)
    try:
        key, title, text, metadata = reader.read(row, record.is_suspect)
    except RefusedDocument as error:
        return Sourced(path, record.line, None, str(error))
    except RecursionError:
        return Sourced(path, record.line, None, "record is nested too deeply")
    if key is None:
        numbers = b"" if text else parse_vector(vector, None)
        data = numbers.tobytes() if isinstance(numbers, np.ndarray) else b""
        key = content_id(title, text, metadata, vector=data)
    document = _document(key, title, text, metadata)
    return Sourced(path, record.line, document | _given(vector) | conditions)


def _document(key: str, title: str, text: str, metadata: str) -> dict[str, Any]:
    packed = orjson.Fragment(metadata) if metadata else None
    fields = {"title": title, "text": text, "metadata": packed}
    return {"id": key} | {name: value for name, value in fields.items() if value}


def _given(vector: Any) -> dict[str, Any]:
    return {} if vector is None else {VECTOR: vector}
