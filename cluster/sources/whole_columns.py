"""Ordinary rows of a table: ids, titles and texts become columns of documents as they are.

A row is ordinary where its text is a string that is not blank, its id another, or a whole number,
if there is a field of ids, and its title a string or null: what the rules of `cluster.documents`
make of them is themselves. All other rows go through those rules one by one, and so do batches with
few ordinary rows, and those whose strings are much larger than the batch: a dictionary may hold a
text once for all of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from bitsift.cluster.sources.columns import BATCH_BYTES, is_large, rows_of_batch, strings_of
from bitsift.cluster.sources.documents import SCHEMA, content_id, metadata_of
from bitsift.cluster.sources.metadata_columns import metadata_column
from bitsift.cluster.sources.plan import SourceFile
from bitsift.cluster.sources.vectors import Vectors, vector_column
from bitsift.router.write.document_rules import RefusedDocument, metadata_text

_RUNS_MAX = 16
"""Of rows that are ordinary or not, in a batch that is read by columns: each becomes a table."""
_NOT_PLAIN = 0x7F
"""A string that begins with a byte above the space and below this one is not blank."""


def runs_of(file: SourceFile, batch: pa.RecordBatch) -> Iterator[tuple[int, int, bool]]:
    """(begin, end, whether its rows are ordinary) of the runs of a batch."""
    ordinary = _ordinary(file, batch)
    if ordinary is None:
        borders = [0, batch.num_rows]
    else:
        changes = np.flatnonzero(ordinary[1:] != ordinary[:-1]) + 1
        borders = [0, *changes.tolist(), batch.num_rows]
        if len(borders) > _RUNS_MAX + 1:
            ordinary, borders = None, [0, batch.num_rows]
    for begin, end in itertools.pairwise(borders):
        if begin < end:
            yield begin, end, ordinary is not None and bool(ordinary[begin])


def _ordinary(file: SourceFile, batch: pa.RecordBatch) -> Any:
    """Which rows are ordinary, bool (rows,); None where no row is read by columns."""
    key, text, title = file.fields.id, file.fields.text, file.fields.title
    if text is None or file.is_export:
        return None
    names = [name for name in (key, text, title) if name is not None]
    if sum(batch.column(name).nbytes for name in names) > BATCH_BYTES:
        return None
    if any(is_large(column) for column in batch.columns):
        return None
    strings = {name: strings_of(batch.column(name)) for name in names if name != key}
    if key is not None:
        strings[key] = _ids(batch.column(key))
    if any(column is None for column in strings.values()):
        return None
    is_odd = _is_blank(strings[text])
    return ~(is_odd if key is None else is_odd | _is_blank(strings[key]))


def _ids(column: pa.Array) -> pa.Array | None:
    """Strings and whole numbers as strings; None for other ids."""
    if pa.types.is_integer(column.type):
        return column.cast(pa.string())
    return strings_of(column)


def _is_blank(column: pa.Array) -> npt.NDArray[np.bool_]:
    """Which strings are null, empty or blank, bool (rows,)."""
    _, offsets, data = column.buffers()
    starts = np.frombuffer(offsets, np.int32)[column.offset : column.offset + len(column) + 1]
    blank = np.ones(len(column), dtype=bool)
    is_given = (starts[1:] > starts[:-1]) & column.is_valid().to_numpy(zero_copy_only=False)
    if is_given.any():
        first = np.frombuffer(data, np.uint8)[starts[:-1][is_given]]
        blank[is_given] = (first <= ord(" ")) | (first >= _NOT_PLAIN)
    unknown = np.flatnonzero(blank & is_given)  # no plain ASCII: Python knows
    if len(unknown):
        blank[unknown] = [text.isspace() for text in column.take(pa.array(unknown)).to_pylist()]
    return blank


def table_of_columns(
    file: SourceFile, batch: pa.RecordBatch, start: int, vectors: Vectors | None
) -> pa.Table:
    """The documents of ordinary rows, of which the first is record `start` of the file."""
    count = batch.num_rows
    metadata, reasons = _metadata(file, batch)
    if vectors is not None:
        missing = np.ones(count, dtype=bool)
        missing[vectors.rows] = False
        for row in np.flatnonzero(missing).tolist():
            reasons.setdefault(row, vectors.reasons.get(row, "no vector"))
    keep = np.ones(count, dtype=bool)
    keep[list(reasons)] = False
    numbers = np.arange(start, start + count, dtype=np.int64)
    title = pa.repeat(pa.scalar(""), count)
    if file.fields.title is not None:
        title = pc.fill_null(strings_of(batch.column(file.fields.title)), "")
    text: Any = strings_of(batch.column(file.fields.text))
    if file.fields.id is not None:
        ids = _ids(batch.column(file.fields.id))
    else:
        contents = (part.to_pylist() for part in (title, text, metadata))
        ids = pa.array(map(content_id, *contents), pa.string())
    parts = [ids, title, text, metadata]
    rejects = pa.nulls(count, pa.string())
    if reasons:
        good = pa.array(keep)
        parts = [pc.if_else(good, part, None) for part in parts]
        rejects = pa.array([reasons.get(row) for row in range(count)], pa.string())
    columns = [
        pa.array(file.first_position + numbers),
        pa.repeat(pa.scalar(file.path), count),
        pa.array(numbers + 1),
        *parts,
        vector_column(vectors, keep),
        rejects,
    ]
    return pa.Table.from_arrays(columns, schema=SCHEMA)


def _metadata(file: SourceFile, batch: pa.RecordBatch) -> tuple[pa.Array, dict[int, str]]:
    """The other columns of each row as JSON, and the rows where they cannot be."""
    taken = {name for _, name in file.fields.named()}
    names = [name for name in batch.schema.names if name not in taken]
    if not names and not file.partitions:
        return pa.repeat(pa.scalar(""), batch.num_rows), {}
    others = batch.select(names)
    written = metadata_column(others, file.partitions)
    if written is not None:
        return written, {}
    rows, reasons = rows_of_batch(others, set(), None)
    if file.partitions:
        partitions = dict(file.partitions)
        rows = ({**partitions, **row} for row in rows)
    write = metadata_of if "metadata" in names or file.partitions else metadata_text
    texts = [_text(write, row, place, reasons) for place, row in enumerate(rows)]
    return pa.array(texts, pa.string()), reasons


def _text(
    write: Callable[[dict[str, Any]], str],
    row: dict[str, Any],
    place: int,
    reasons: dict[int, str],
) -> str:
    try:
        return write(row)
    except RefusedDocument as error:
        reasons.setdefault(place, str(error))
    except RecursionError:
        reasons.setdefault(place, "record is nested too deeply")
    return ""
