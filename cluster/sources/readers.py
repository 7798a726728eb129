"""Readers: a file of a plan in, tables of documents out. Plain generators that know no Ray.

A file is streamed in tables of at most `batch_rows` rows and about BATCH_BYTES. No record ever
raises: one that cannot be read is a row whose `reject` says why, at the position and line where
it stands. Raised are only InvalidRequest, where the file is not the one that was planned, and
the OSErrors of a failing disk or network.

The columns of every table (`cluster.documents.SCHEMA`): position int64, file, line int64 (from 1;
the record number from 1 in Parquet and npy), id, title, text, metadata (a JSON object, or ""),
vector list<float32> or null, reject (null for a good row; else the columns from id on are null).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from bitsift.cluster.sources.columns import BATCH_BYTES, rows_of_batch
from bitsift.cluster.sources.documents import DocumentBatch, RowReader
from bitsift.cluster.sources.exports import as_before
from bitsift.cluster.sources.matrices import read_matrix
from bitsift.cluster.sources.matrix_files import Matrix, open_matrix
from bitsift.cluster.sources.plan import Format, SourceFile
from bitsift.cluster.sources.records import Record, read_records
from bitsift.cluster.sources.sqlite import Database
from bitsift.cluster.sources.streams import DamagedStream, size_of
from bitsift.cluster.sources.tables import read_batches
from bitsift.cluster.sources.vectors import (
    Vectors,
    checked_vectors,
    stack_vectors,
    vectors_of_column,
)
from bitsift.cluster.sources.whole_columns import runs_of, table_of_columns
from bitsift.errors import InvalidRequest

BATCH_ROWS = 4096


def read_documents(
    file: SourceFile, batch_rows: int = BATCH_ROWS, rows: tuple[int, int] | None = None
) -> Iterator[pa.Table]:
    """Streams the documents of one file, good and rejected, in file order.

    `rows` = (first, stop) reads only these records; a matrix takes any range, Parquet one that
    begins and ends with a row group, other formats none.
    """
    _require_unchanged(file)
    first, stop = rows or (0, file.records or 0)
    if file.format.is_matrix:
        return read_matrix(file, batch_rows, first, stop)
    if file.format.is_table:
        return _read_table(file, batch_rows, rows)
    assert rows is None, f"{file.format} files are read as a whole"
    return _read_rows([file], batch_rows)


def read_text_files(
    files: Sequence[SourceFile], batch_rows: int = BATCH_ROWS
) -> Iterator[pa.Table]:
    """Streams files that are one document each, many of them in one table."""
    assert all(file.format.is_whole_document for file in files)
    for file in files:
        _require_unchanged(file)
    return _read_rows(files, batch_rows)


def _require_unchanged(file: SourceFile) -> None:
    size_bytes = 0 if file.format is Format.SYNTHETIC else size_of(_path_of(file))
    if size_bytes != file.size_bytes:
        raise InvalidRequest(
            f"{file.path} has {size_bytes} bytes here; it had {file.size_bytes} when the run was "
            "planned: do not change the sources during a run"
        )


def _path_of(file: SourceFile) -> str:
    return Database.parse(file.path).file if file.format is Format.SQLITE else file.path


def _companion(file: SourceFile) -> Matrix | None:
    """The matrix that goes with a file, if there is one."""
    if file.vectors is None:
        return None
    matrix = open_matrix(file.vectors, None, file.stored)
    if file.stored.width(matrix.shape[1]) != file.width:
        raise InvalidRequest(
            f"{file.vectors} has vectors of {matrix.shape[1]} numbers; they had {file.width} when "
            "the run was planned: do not change the sources during a run"
        )
    return matrix


def _vectors(file: SourceFile, matrix: Matrix, first: int, stop: int) -> Vectors:
    try:
        return checked_vectors(matrix.rows(first, stop), file.stored)
    except DamagedStream as damage:
        reasons = [f"no vector: {damage}"] * (stop - first)
        return stack_vectors(reasons, file.width or 0, file.stored)


def _read_rows(files: Sequence[SourceFile], batch_rows: int) -> Iterator[pa.Table]:
    batch = DocumentBatch(files[0].width, files[0].stored)
    for file in files:
        reader = RowReader(file)
        matrix = _companion(file)
        first = 0  # the number of the record that opens the batch
        for number, record in _numbered(file):
            batch.add(file, reader, number, _with_partitions(record, file))
            if len(batch) >= batch_rows or batch.size_bytes >= BATCH_BYTES:
                yield batch.table(
                    None if matrix is None else _vectors(file, matrix, first, number + 1)
                )
                batch = DocumentBatch(file.width, file.stored)
                first = number + 1
        if matrix is not None and len(batch):
            yield batch.table(_vectors(file, matrix, first, first + len(batch)))
            batch = DocumentBatch(file.width, file.stored)
    if len(batch):
        yield batch.table()


def _with_partitions(record: Record, file: SourceFile) -> Record:
    """The same record with the fields that its folders name; its own fields come first."""
    if not file.partitions or record.row is None:
        return record
    return record._replace(row={**dict(file.partitions), **record.row})


def _numbered(file: SourceFile) -> Iterator[tuple[int, Record]]:
    """The records of a file with their numbers; the last one says where reading broke off."""
    number = 0
    try:
        for record in read_records(file):
            yield number, record
            number += 1
    except DamagedStream as damage:
        yield number, Record(damage.line, None, f"{damage}; {number} records were read before it")


def _read_table(
    file: SourceFile, batch_rows: int, part: tuple[int, int] | None
) -> Iterator[pa.Table]:
    reader = RowReader(file)
    matrix = _companion(file)
    for start, columns, damage in read_batches(file, batch_rows, part):
        if columns is None:
            batch = DocumentBatch(file.width)
            batch.add(file, reader, start, Record(start + 1, None, damage))
            yield batch.table()
            continue
        for begin, end, is_ordinary in runs_of(file, columns):
            run = columns.slice(begin, end - begin)
            read = _by_columns if is_ordinary else _by_rows
            yield from read(file, run, start + begin, matrix)


def _by_columns(
    file: SourceFile, batch: pa.RecordBatch, start: int, matrix: Matrix | None
) -> Iterator[pa.Table]:
    yield table_of_columns(file, batch, start, _vectors_of(file, batch, start, matrix))


def _vectors_of(
    file: SourceFile, batch: pa.RecordBatch, start: int, matrix: Matrix | None
) -> Vectors | None:
    if matrix is not None:
        return _vectors(file, matrix, start, start + batch.num_rows)
    if file.fields.vector is None or file.width is None:
        return None
    return vectors_of_column(batch.column(file.fields.vector), file.width, file.stored)


def _by_rows(
    file: SourceFile, batch: pa.RecordBatch, start: int, matrix: Matrix | None
) -> Iterator[pa.Table]:
    reader = RowReader(file)
    wanted = {name for _, name in file.fields.named()}
    found, reasons = rows_of_batch(batch, wanted, file.fields.vector, file.fields.id)
    rows = list(found)
    for begin, end in _shares(rows):
        documents = DocumentBatch(file.width)
        for offset in range(begin, end):
            reason = reasons.get(offset)
            row = rows[offset] if reason is None else None
            if file.is_export and row is not None:
                row = as_before(row)
            record = Record(start + offset + 1, row, reason)
            documents.add(file, reader, start + offset, _with_partitions(record, file))
        part = batch.slice(begin, end - begin)
        yield documents.table(_vectors_of(file, part, start + begin, matrix))


def _shares(rows: Sequence[dict[str, Any]]) -> Iterator[tuple[int, int]]:
    """(begin, end) of runs of rows with strings of some BATCH_BYTES."""
    begin = size = 0
    for end, row in enumerate(rows, start=1):
        size += sum(len(value) for value in row.values() if isinstance(value, str | bytes))
        if size >= BATCH_BYTES or end == len(rows):
            yield begin, end
            begin, size = end, 0
