"""Parquet: row groups in, rows as dicts and vectors as numpy buffers out.

A row group is read as a stream of batches, never whole. One that is damaged costs its unread
rows and no others. Everything but the vectors goes through Python dicts, like the records of
every other format; nulls are left out.

A value that a column's dictionary holds once may be that of every row: 37 KB of Parquet were 4,096
texts of 256 KiB, and 3.7 GB of RAM. So columns with long values in their dictionary stay
dictionaries; others do not, which is four times as fast.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bitsift.cluster.sources.columns import BATCH_BYTES, TableBatch
from bitsift.cluster.sources.plan import SourceFile
from bitsift.cluster.sources.streams import is_url, open_source, unreadable

_VALUE_BYTES = 4
BUFFER_BYTES = 1 << 20  # without one, pyarrow downloads the whole column chunk of a row group


def open_parquet(path: str) -> pq.ParquetFile:
    """Opens a Parquet file here or behind a URL. Raises InvalidRequest where it is not one."""
    return _open(path, [])


def _open(path: str, dictionaries: list[str]) -> pq.ParquetFile:
    """The columns ``dictionaries`` are read as what they are."""
    source = open_source(path)
    options = {"pre_buffer": False, "read_dictionary": dictionaries}
    try:
        if is_url(path):
            return pq.ParquetFile(source, buffer_size=BUFFER_BYTES, **options)
        source.close()  # it can be opened; pyarrow then maps it, 1.7 x as fast as reading it
        return pq.ParquetFile(path, memory_map=True, **options)
    except (pa.ArrowException, OSError) as error:
        raise unreadable(path, "parquet", error) from error


def read_batches(
    file: SourceFile,
    wanted_rows: int,
    first: int,
    stop: int,
    columns: list[str] | None = None,
) -> Iterator[TableBatch]:
    """The rows first…stop of a Parquet file; both lie on borders of row groups.

    `columns` are read, None for all.
    """
    with open_parquet(file.path) as opened:
        names = _dictionaries(opened.metadata)
        names = [name for name in names if columns is None or name in columns]
        with _open(file.path, names) as shared:
            start = 0
            for group, rows in enumerate(file.row_groups):
                if first <= start < stop:
                    batch_rows = _rows_at_once(opened, group, wanted_rows)
                    is_shared = bool(names) and _is_large(shared, group, names, batch_rows)
                    source = shared if is_shared else opened
                    yield from _read_group(source, group, start, batch_rows, columns)
                start += rows


def _rows_at_once(opened: pq.ParquetFile, group: int, wanted_rows: int) -> int:
    size = opened.metadata.row_group(group)
    values = sum(size.column(place).num_values for place in range(size.num_columns))
    group_bytes = max(size.total_byte_size, _VALUE_BYTES * values)  # runs of one value take nothing
    row_bytes = group_bytes // max(1, size.num_rows)
    return int(max(1, min(wanted_rows, BATCH_BYTES // max(1, row_bytes))))


def _is_large(shared: pq.ParquetFile, group: int, names: list[str], rows: int) -> bool:
    """Whether so many rows could take much more than a batch, by the longest value that a
    dictionary has for them.
    """
    try:
        batches = shared.iter_batches(batch_size=1, row_groups=[group], columns=names)
        columns = next(batches).columns
    except (pa.ArrowException, OSError, StopIteration):
        return True  # reading says why
    longest = [pc.max(pc.binary_length(column.dictionary)).as_py() or 0 for column in columns]
    return sum(longest) * rows > 4 * BATCH_BYTES


def _dictionaries(metadata: Any) -> list[str]:
    """Columns of strings or bytes with a dictionary in any row group; none within lists."""
    names = set()
    for group in range(metadata.num_row_groups):
        for place in range(metadata.num_columns):
            column = metadata.row_group(group).column(place)
            if column.has_dictionary_page and column.physical_type == "BYTE_ARRAY":
                names.add(column.path_in_schema)
    return sorted(name for name in names if "." not in name)


def _read_group(
    opened: pq.ParquetFile, group: int, start: int, batch_rows: int, columns: list[str] | None
) -> Iterator[TableBatch]:
    try:
        for batch in opened.iter_batches(
            batch_size=batch_rows, row_groups=[group], columns=columns
        ):
            yield TableBatch(start, batch)
            start += batch.num_rows
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk or the network failed, not the file: pyarrow's own have no errno
        yield TableBatch(start, None, f"row group {group} is damaged: {error}")
