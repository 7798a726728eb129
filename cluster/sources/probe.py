"""Looks at the first records of a file: which fields it has, how wide its vectors are, how big
its documents get in RAM.

Reads at most PROBE_RECORDS records; only where an npy file goes with a file of JSON lines or CSV
is that file read to its end once, because its records must be counted.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import replace
from itertools import islice

import pyarrow as pa

from bitsift.cluster.sources.dialect import DETECT_LAYOUT, Layout
from bitsift.cluster.sources.encoding import utf8_blocks
from bitsift.cluster.sources.exports import EXPORT_FIELDS, EXPORT_KEY
from bitsift.cluster.sources.matrix_files import open_matrix
from bitsift.cluster.sources.plan import NAMES, Compression, Fields, Format, SourceFile
from bitsift.cluster.sources.readers import read_documents
from bitsift.cluster.sources.records import (
    TEXT_FIELDS,
    Record,
    count_records,
    listed,
    read_records,
    table_columns,
)
from bitsift.cluster.sources.sniffing import with_dialect
from bitsift.cluster.sources.stored_vectors import EXPORTED
from bitsift.cluster.sources.streams import DamagedStream, expansion, read_blocks
from bitsift.cluster.sources.synthetic import SyntheticSpec
from bitsift.cluster.sources.tables import count_rows, with_schema
from bitsift.cluster.sources.vectors import is_vector_type
from bitsift.cluster.sources.widths import forgotten_vectors, look_at_vectors
from bitsift.errors import InvalidRequest
from bitsift.nearest import nearest

PROBE_RECORDS = 1000  # so many records are looked at for one that can be read
PROBE_ROWS = 100  # so many readable ones are enough

_OPTIONAL = ("id", "title")
"""Fields that not every file of a source has to have."""


def probe_all(
    files: Sequence[SourceFile],
    wanted: Fields,
    layout: Layout = DETECT_LAYOUT,
) -> list[SourceFile]:
    """`probe` of each file. One of several may lack an id or a title, all of them may not."""
    lacking: dict[str, list[InvalidRequest]] = {role: [] for role in _OPTIONAL}
    probed = [probe(file, wanted, layout, lacking if len(files) > 1 else None) for file in files]
    filled = sum(file.records != 0 for file in probed)
    for reasons in lacking.values():
        if reasons and len(reasons) == filled:
            raise reasons[0]
    return probed


def probe(
    file: SourceFile,
    wanted: Fields,
    layout: Layout = DETECT_LAYOUT,
    lacking: dict[str, list[InvalidRequest]] | None = None,
) -> SourceFile:
    """The same file with its fields, row counts, width and size in RAM filled in.

    The width stays None where a file has no vectors, or none that is good among its first rows.
    Where an id or a title is named and the file has none, the reason goes to `lacking`, by role.
    Raises InvalidRequest where the file cannot be what the caller says it is.
    """
    names = {name for usual in NAMES.values() for name in usual}
    names.update(name.lower() for _, name in wanted.named())
    file = with_dialect(file, layout, names)
    if file.format.is_whole_document:
        packed = 1 if file.compression is Compression.NONE else 3
        return replace(
            file, fields=TEXT_FIELDS, memory_bytes=packed * file.size_bytes + 4 * len(file.path)
        )
    if file.format.is_matrix:
        return _probe_matrix(file, wanted)
    rows: list[Record] = []
    broken = False
    if file.format.is_table:
        file, found = _probe_table(file, wanted)
    else:
        rows, broken = _first_rows(replace(file, fields=wanted))
        columns = table_columns(file) if file.dialect is not None else ()
        found = {**dict.fromkeys(columns, False), **_found_in_rows(rows)}
    is_empty = not rows and not broken and not file.format.is_table
    if file.records == 0 or (file.records is None and is_empty):
        return replace(
            file, fields=wanted, records=0
        )  # an empty file: nothing to detect, nothing to read
    if not rows and not file.format.is_table:
        return replace(file, fields=_unseen(wanted), memory_bytes=file.size_bytes)
    if file.is_export:
        wanted = replace(EXPORT_FIELDS, **{r: n for r, n in wanted.named() if r != "vector"})
    carries_vectors = file.vectors is not None or wanted.vector is not None
    for role, name in wanted.named():
        if name not in found and (why := _why_missing(file, role, name, found)) is not None:
            if lacking is None or role not in lacking or file.format.is_table:
                raise why
            lacking[role].append(why)
        found.setdefault(name, True)
    file = replace(file, fields=resolve(file, wanted, found, carries_vectors))
    if file.vectors is not None:
        file = _probe_companion(file)
    elif file.fields.vector is not None:
        file = replace(file, width=look_at_vectors(file).width)
    first = None
    if file.fields.vector is None or file.width is not None:
        first = next(read_documents(file, PROBE_ROWS), None)
    notes = (file.note, "" if file.carries_vectors else forgotten_vectors(file.path, first))
    note = "\n".join(filter(None, notes))
    return replace(file, note=note, memory_bytes=_memory_bytes(file, rows, first))


def _unseen(wanted: Fields) -> Fields:
    """The fields of a file without a readable record, so that each of them is rejected."""
    return replace(wanted, text=wanted.text or NAMES["text"][0])


def _why_missing(
    file: SourceFile, role: str, name: str, found: Collection[str]
) -> InvalidRequest | None:
    """Why a field that was named cannot be used; None where a record farther on may have it."""
    if file.format.is_json and _occurs(file, name):
        return None
    meant = nearest(name, found)
    said = f"did you mean {meant!r}? " if meant is not None else ""
    return InvalidRequest(
        f"{file.path} has no field {name!r} (--{role}-field); {said}fields found: "
        f"{listed(found) or 'none'}"
    )


def _occurs(file: SourceFile, name: str) -> bool:
    """Whether a name stands anywhere in a file of JSON, in quotes. Reads until it is found."""
    wanted = {json.dumps(name).encode(), json.dumps(name, ensure_ascii=False).encode()}
    before = b""
    try:
        for block in utf8_blocks(read_blocks(file.path, file.compression), file.encoding):
            text = before + block
            if any(quoted in text for quoted in wanted):
                return True
            before = text[-max(map(len, wanted)) :]
    except DamagedStream:
        pass
    return False


def resolve(
    file: SourceFile, wanted: Fields, found: dict[str, bool], carries_vectors: bool
) -> Fields:
    """Names every field of a file, given its fields and whether each holds strings.

    Raises InvalidRequest, listing the fields found, where there is no text to be had.
    """
    taken = {name for _, name in wanted.named()}
    parts = {"id": wanted.id, "text": wanted.text, "title": wanted.title}
    for role, part in parts.items():
        if part is None:
            parts[role] = _detect(role, found, taken)
    if parts["text"] is None and not carries_vectors:
        raise InvalidRequest(
            f"{file.path} has no field called {', '.join(NAMES['text'])}; fields found: "
            f"{listed(found) or 'none'}; name the one to search with --text-field, or the vectors "
            f"with --vector-field{_of_columns(file)}"
        )
    return Fields(**parts, vector=wanted.vector)


def _of_columns(file: SourceFile) -> str:
    """What else may be said of a text table."""
    if file.dialect is None:
        return ""
    if not file.dialect.has_header:
        return (
            "; the first row is taken for data: name the columns with --columns id,text,…, or say "
            "--header"
        )
    return (
        "; a table without header needs --no-header, another delimiter --delimiter, lines before "
        "the header --skip-lines"
    )


def _detect(role: str, found: dict[str, bool], taken: set[str]) -> str | None:
    """The first candidate that is there; exact names before other case, strings first."""
    free = [name for name in found if name not in taken]
    by_lower = {name.lower(): name for name in reversed(free)}
    present = [name for name in NAMES[role] if name in free]
    present += [by_lower[name] for name in NAMES[role] if name in by_lower]
    if role != "id":
        present = [name for name in present if found[name]] or present
    return present[0] if present else None


def _first_rows(file: SourceFile) -> tuple[list[Record], bool]:
    """The first records that are rows, and whether others are none."""
    rows: list[Record] = []
    broken = False
    try:
        for record in islice(read_records(file), PROBE_RECORDS):
            if record.row is not None:
                rows.append(record)
            broken = broken or record.row is None
            if len(rows) == PROBE_ROWS:
                break
    except DamagedStream:
        broken = True
    return rows, broken


def _found_in_rows(rows: list[Record]) -> dict[str, bool]:
    """Every field of the rows, in order of appearance, and whether it ever holds a string."""
    found: dict[str, bool] = {}
    for record in rows:
        for name, value in (record.row or {}).items():
            found[name] = found.get(name, False) or isinstance(value, str)
    return found


def _probe_table(file: SourceFile, wanted: Fields) -> tuple[SourceFile, dict[str, bool]]:
    file, schema = with_schema(file)
    if len(set(schema.names)) != len(schema.names):
        raise InvalidRequest(f"{file.path} names a column twice: {', '.join(schema.names)}")
    if EXPORT_KEY in (schema.metadata or {}) and wanted.vector in (None, EXPORT_FIELDS.vector):
        file = replace(file, is_export=True, stored=EXPORTED)
    for role in ("text", "title"):
        name = getattr(wanted, role)
        if name in schema.names and not _is_text_type(schema.field(name).type):
            kind = schema.field(name).type
            raise InvalidRequest(f"{file.path}: field {name!r} is {kind}, which is not text")
    if wanted.vector in schema.names and not is_vector_type(schema.field(wanted.vector).type):
        raise InvalidRequest(
            f"{file.path}: field {wanted.vector!r} is {schema.field(wanted.vector).type}, "
            "not a list of numbers"
        )
    found = {field.name: _is_text_type(field.type) for field in schema}
    return file, found


def _is_text_type(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    tests = (
        pa.types.is_string,
        pa.types.is_large_string,
        pa.types.is_string_view,
        pa.types.is_binary,
        pa.types.is_large_binary,
    )
    return any(test(kind) for test in tests)


def _probe_matrix(file: SourceFile, wanted: Fields) -> SourceFile:
    if file.format is Format.SYNTHETIC:
        spec = SyntheticSpec.parse(file.path)
        records, width = spec.rows, spec.dim
    else:
        matrix = open_matrix(file.path, wanted.vector, file.stored)
        records, width = matrix.shape[0], file.stored.width(matrix.shape[1])
        file = replace(file, fields=Fields(vector=wanted.vector))
    if width == 0:
        raise InvalidRequest(f"{file.path} has {records} vectors of width 0")
    row_bytes = 4 * width + 2 * len(file.path) + 64
    return replace(file, records=records, width=width, memory_bytes=records * row_bytes)


def _probe_companion(file: SourceFile) -> SourceFile:
    """Checks that an npy file has a vector for every record of the file that it goes with."""
    assert file.vectors is not None
    matrix = open_matrix(file.vectors, None, file.stored)
    records = count_rows(file) if file.format.is_table else count_records(file)
    if matrix.shape[0] != records:
        raise InvalidRequest(
            f"{file.vectors} has {matrix.shape[0]} rows and {file.path} has {records} records "
            "(broken ones counted): row i must be the vector of record i"
        )
    return replace(file, width=file.stored.width(matrix.shape[1]))


def _memory_bytes(file: SourceFile, rows: list[Record], table: pa.Table | None) -> int:
    """Bytes per row of the first table that the reader makes, times the rows of the file."""
    if table is None or table.num_rows == 0:
        return file.size_bytes
    row_bytes = float(table.nbytes) / int(table.num_rows)
    if file.records is not None:
        return round(row_bytes * file.records)
    if not rows:  # a table that does not say how many rows it has
        return 2 * file.size_bytes
    line_bytes = sum(record.size_bytes + 1 for record in rows) / len(rows)
    unpacked = file.size_bytes * expansion(file.path, file.compression)
    return round(row_bytes * unpacked / line_bytes)
