"""Looks at the first records of a file: which fields it has, how wide its vectors are, how big
its documents get in RAM.

Reads at most PROBE_RECORDS records; only where an npy file goes with a file of JSON lines or CSV
is that file read to its end once, because its records must be counted.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

import pyarrow as pa

from bitsift.cluster.sources.exports import EXPORT_FIELDS, EXPORT_KEY
from bitsift.cluster.sources.matrix_files import open_matrix
from bitsift.cluster.sources.plan import Compression, Fields, Format, SourceFile
from bitsift.cluster.sources.readers import read_documents
from bitsift.cluster.sources.records import TEXT_FIELDS, Record, count_records, read_records
from bitsift.cluster.sources.stored_vectors import EXPORTED
from bitsift.cluster.sources.streams import DamagedStream, expansion
from bitsift.cluster.sources.synthetic import SyntheticSpec
from bitsift.cluster.sources.tables import count_rows, with_schema
from bitsift.cluster.sources.vectors import is_vector_type
from bitsift.cluster.sources.widths import look_at_vectors
from bitsift.errors import InvalidRequest

PROBE_RECORDS = 1000  # so many records are looked at for one that can be read
PROBE_ROWS = 100  # so many readable ones are enough

NAMES = {
    "id": ("_id", "id", "doc_id", "docid"),
    "text": ("text", "body", "content", "passage", "abstract"),
    "title": ("title", "name", "heading"),
}


def probe(file: SourceFile, wanted: Fields) -> SourceFile:
    """The same file with its fields, row counts, width and size in RAM filled in.

    The width stays None where a file has no vectors, or none that is good among its first rows.
    Raises InvalidRequest where the file cannot be what the caller says it is.
    """
    if file.format.is_whole_document:
        packed = 1 if file.compression is Compression.NONE else 3
        return replace(
            file, fields=TEXT_FIELDS, memory_bytes=packed * file.size_bytes + 4 * len(file.path)
        )
    if file.format.is_matrix:
        return _probe_matrix(file, wanted)
    rows: list[Record] = []
    if file.format.is_table:
        file, found = _probe_table(file, wanted)
    else:
        rows = _first_rows(replace(file, fields=wanted))
        found = _found_in_rows(rows)
    is_empty = not rows and not file.format.is_table
    if file.records == 0 or (file.records is None and is_empty):
        return replace(
            file, fields=wanted, records=0
        )  # an empty file: nothing to detect, nothing to read
    if file.is_export:
        wanted = replace(EXPORT_FIELDS, **{r: n for r, n in wanted.named() if r != "vector"})
    carries_vectors = file.vectors is not None or wanted.vector is not None
    file = replace(file, fields=resolve(file.path, wanted, found, carries_vectors))
    if file.vectors is not None:
        file = _probe_companion(file)
    elif file.fields.vector is not None:
        file = replace(file, width=look_at_vectors(file).width)
    return replace(file, memory_bytes=_memory_bytes(file, rows))


def resolve(path: str, wanted: Fields, found: dict[str, bool], carries_vectors: bool) -> Fields:
    """Names every field of a file, given its fields and whether each holds strings.

    Raises InvalidRequest, listing the fields found, where a named one is missing or there is no
    text to be had.
    """
    listed = ", ".join(found) or "none"
    for role, name in wanted.named():
        if name not in found:
            raise InvalidRequest(
                f"{path} has no field {name!r} (--{role}-field); fields found: {listed}"
            )
    taken = {name for _, name in wanted.named()}
    parts = {"id": wanted.id, "text": wanted.text, "title": wanted.title}
    for role, part in parts.items():
        if part is None:
            parts[role] = _detect(role, found, taken)
    if parts["text"] is None and not carries_vectors:
        raise InvalidRequest(
            f"{path} has no field called {', '.join(NAMES['text'])}; fields found: {listed}; "
            "name the one to search with --text-field, or the vectors with --vector-field"
        )
    return Fields(**parts, vector=wanted.vector)


def _detect(role: str, found: dict[str, bool], taken: set[str]) -> str | None:
    """The first candidate that is there; exact names before other case, strings first."""
    free = [name for name in found if name not in taken]
    by_lower = {name.lower(): name for name in reversed(free)}
    present = [name for name in NAMES[role] if name in free]
    present += [by_lower[name] for name in NAMES[role] if name in by_lower]
    if role != "id":
        present = [name for name in present if found[name]] or present
    return present[0] if present else None


def _first_rows(file: SourceFile) -> list[Record]:
    """The first records that are rows. Empty only where the file has no records at all."""
    rows: list[Record] = []
    first_reason: str | None = None
    records = read_records(file)
    try:
        for record in islice(records, PROBE_RECORDS):
            if record.row is not None:
                rows.append(record)
            elif first_reason is None:
                first_reason = f"line {record.line}: {record.reason}"
            if len(rows) == PROBE_ROWS:
                break
    except DamagedStream as damage:
        first_reason = first_reason or str(damage)
    if not rows and first_reason is not None:
        raise InvalidRequest(f"no record at the start of {file.path} can be read ({first_reason})")
    return rows


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


def _memory_bytes(file: SourceFile, rows: list[Record]) -> int:
    """Bytes per row of the first table that the reader makes, times the rows of the file."""
    if file.fields.vector is not None and file.width is None:
        return file.size_bytes
    table = next(read_documents(file, PROBE_ROWS), None)
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
