"""Parquet: row groups in, rows as dicts and vectors as numpy buffers out.

A row group is read as a stream of batches, never whole. One that is damaged costs its unread
rows and no others. Everything but the vectors goes through Python dicts, like the records of
every other format; nulls are left out.

A value that a column's dictionary holds once may be that of every row: 37 KB of Parquet were 4,096
texts of 256 KiB, and 3.7 GB of RAM. So such columns stay dictionaries, and equal values of a batch
are one Python object.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bitsift.cluster.sources.plan import SourceFile
from bitsift.cluster.sources.streams import is_url, open_source
from bitsift.errors import InvalidRequest

BATCH_BYTES = 32 << 20
_VALUE_BYTES = 4
_LONG_VALUES = (pa.string(), pa.large_string(), pa.binary(), pa.large_binary())
BUFFER_BYTES = 1 << 20  # without one, pyarrow downloads the whole column chunk of a row group


class ParquetBatch(NamedTuple):
    """Rows `first`… of a file; or, with a `reason`, the place where a row group broke off."""

    first: int
    batch: pa.RecordBatch | None
    reason: str | None = None


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
        raise InvalidRequest(f"{path} is not a readable parquet file: {error}") from error


def read_batches(
    file: SourceFile, batch_rows: int, first: int, stop: int
) -> Iterator[ParquetBatch]:
    """The rows first…stop of a Parquet file; both lie on borders of row groups."""
    with open_parquet(file.path) as opened:
        dictionaries = _dictionaries(opened.metadata)
    with _open(file.path, dictionaries) as opened:
        start = 0
        for group, rows in enumerate(file.row_groups):
            if first <= start < stop:
                yield from _read_group(opened, group, start, batch_rows)
            start += rows


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
    opened: pq.ParquetFile, group: int, start: int, batch_rows: int
) -> Iterator[ParquetBatch]:
    size = opened.metadata.row_group(group)
    values = sum(size.column(place).num_values for place in range(size.num_columns))
    group_bytes = max(size.total_byte_size, _VALUE_BYTES * values)  # runs of one value take nothing
    row_bytes = group_bytes // max(1, size.num_rows)
    rows = max(1, min(batch_rows, BATCH_BYTES // max(1, row_bytes)))
    try:
        for batch in opened.iter_batches(batch_size=rows, row_groups=[group]):
            yield ParquetBatch(start, batch)
            start += batch.num_rows
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk or the network failed, not the file: pyarrow's own have no errno
        yield ParquetBatch(start, None, f"row group {group} is damaged: {error}")


def rows_of_batch(
    batch: pa.RecordBatch, wanted: set[str], vector: str | None
) -> tuple[list[dict[str, Any]], dict[int, str]]:
    """The rows of a batch without the `vector` column, and the reasons for those that broke.

    `wanted` names the columns that documents need: bytes in them are taken as text, and their
    nulls are kept.
    """
    reasons: dict[int, str] = {}
    names: list[str] = []
    columns: list[list[Any]] = []
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        if name != vector:
            names.append(name)
            columns.append(_values(column, name, name in wanted, reasons))
    if not columns:
        return [{} for _ in range(batch.num_rows)], reasons
    return [
        {
            name: value
            for name, value in zip(names, values, strict=True)
            if value is not None or name in wanted
        }
        for values in zip(*columns, strict=True)
    ], reasons


def _values(column: pa.Array, name: str, as_text: bool, reasons: dict[int, str]) -> list[Any]:
    kind = column.type
    if pa.types.is_dictionary(kind) and kind.value_type in _LONG_VALUES:
        return _shared_values(column, name, as_text, reasons)
    if as_text and (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        column = column.cast(pa.large_string(), safe=False)
    try:
        return list(column.to_pylist())
    except (ValueError, OverflowError):  # parquet checks neither its strings nor its dates
        return [_value(column, row, name, reasons) for row in range(len(column))]


def _shared_values(
    column: pa.DictionaryArray, name: str, as_text: bool, reasons: dict[int, str]
) -> list[Any]:
    """The same of a dictionary; where it would be large, each distinct value is one object."""
    lengths = pc.binary_length(column.dictionary)
    if (pc.sum(lengths.take(column.indices)).as_py() or 0) <= BATCH_BYTES:
        return _values(column.dictionary_decode(), name, as_text, reasons)
    used = pc.unique(column.indices)
    problems: dict[int, str] = {}
    values = _values(column.dictionary.take(used), name, as_text, problems)
    places = pc.index_in(column.indices, used).to_pylist()
    reasons.update({row: problems[at] for row, at in enumerate(places) if at in problems})
    return [values[at] for at in places]


def _value(column: pa.Array, row: int, name: str, reasons: dict[int, str]) -> Any:
    try:
        return column[row].as_py()
    except UnicodeDecodeError:
        reasons[row] = f"invalid UTF-8 in field {name!r}"
    except (ValueError, OverflowError) as error:
        reasons[row] = f"value of field {name!r} cannot be used: {error}"
    return None
