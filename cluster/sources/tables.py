"""Tables with columns, Parquet or Arrow: their schema and their batches, whichever it is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pyarrow as pa

from bitsift.cluster.sources import arrow, parquet
from bitsift.cluster.sources.columns import TableBatch
from bitsift.cluster.sources.plan import Format, SourceFile

_COUNTED_ROWS = 1 << 16


def with_schema(file: SourceFile) -> tuple[SourceFile, pa.Schema]:
    """The schema of a table, and the file with what is known of its rows. Raises InvalidRequest."""
    if file.format is Format.ARROW:
        return file, arrow.schema_of(file.path)
    with parquet.open_parquet(file.path) as opened:
        metadata = opened.metadata
        groups = tuple(metadata.row_group(n).num_rows for n in range(metadata.num_row_groups))
        return replace(file, records=sum(groups), row_groups=groups), opened.schema_arrow


def count_rows(file: SourceFile) -> int:
    """How many records a table has, broken ones included."""
    if file.records is not None:
        return file.records
    batches = read_batches(file, _COUNTED_ROWS, columns=[])
    return sum(1 if part.batch is None else part.batch.num_rows for part in batches)


def read_batches(
    file: SourceFile,
    batch_rows: int,
    rows: tuple[int, int] | None = None,
    columns: list[str] | None = None,
) -> Iterator[TableBatch]:
    """The rows first…stop of a table, which Arrow reads as a whole; `columns` None: all."""
    if file.format is Format.ARROW:
        return arrow.read_batches(file.path, batch_rows, columns)
    first, stop = rows or (0, file.records or 0)
    return parquet.read_batches(file, batch_rows, first, stop, columns)
