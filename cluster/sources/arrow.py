"""Arrow's own formats: IPC files (.feather too), and streams, as Hugging Face's `datasets` saves.

A file here is memory-mapped, so a batch that is not compressed costs no RAM until its rows are
read; one behind a URL is read as a stream, a batch at a time. Arrow trusts the offsets in such a
file, so every batch is validated before a value is looked at.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.ipc

from bitsift.cluster.sources.columns import BATCH_BYTES, TableBatch
from bitsift.cluster.sources.streams import is_url, open_source, unreadable
from bitsift.errors import InvalidRequest

_FILE = b"ARROW1"
_FEATHER_1 = b"FEA1"


def schema_of(path: str) -> pa.Schema:
    """The schema of a file. Raises InvalidRequest where it is not one of Arrow's."""
    try:
        with _opened(path) as source:
            return _reader(path, source).schema
    except (pa.ArrowException, OSError, EOFError) as error:
        raise unreadable(path, "arrow", error) from error


def read_batches(path: str, batch_rows: int, columns: list[str] | None) -> Iterator[TableBatch]:
    """All rows of a file in order, `columns` of them, or all."""
    first = 0
    with _opened(path) as source:
        batches = _batches(_reader(path, source))
        while True:
            try:
                batch = next(batches, None)
            except (pa.ArrowException, OSError, EOFError) as error:
                if isinstance(error, OSError) and error.errno is not None:
                    raise  # the disk or the network failed, not the file
                reason = f"the file is damaged: {error}; {first} records were read before it"
                yield TableBatch(first, None, reason)
                return
            if batch is None:
                return
            chosen = batch if columns is None else batch.select(columns)
            yield from _validated(first, chosen, batch_rows)
            first += batch.num_rows


@contextlib.contextmanager
def _opened(path: str) -> Iterator[pa.NativeFile]:
    with open_source(path) as source:
        if is_url(path):
            yield pa.PythonFile(source, mode="r")
        else:
            with pa.memory_map(path) as mapped:
                yield mapped


def _reader(path: str, source: pa.NativeFile) -> Any:
    head = source.read(len(_FILE))
    source.seek(0)
    if head.startswith(_FEATHER_1):
        raise InvalidRequest(f"{path} is Feather version 1: write it as version 2 or Parquet")
    return pyarrow.ipc.open_file(source) if head == _FILE else pyarrow.ipc.open_stream(source)


def _batches(reader: Any) -> Iterator[pa.RecordBatch]:
    if isinstance(reader, pyarrow.ipc.RecordBatchFileReader):
        return (reader.get_batch(number) for number in range(reader.num_record_batches))
    return (batch for batch in reader)


def _validated(first: int, batch: pa.RecordBatch, batch_rows: int) -> Iterator[TableBatch]:
    """Slices of a batch; where it is not valid, row by row, and the rows that are not refused."""
    row_bytes = batch.nbytes // max(1, batch.num_rows)
    rows = max(1, min(batch_rows, BATCH_BYTES // max(1, row_bytes)))
    for start in range(0, batch.num_rows, rows):
        part = batch.slice(start, rows)
        if _problem(part) is None:
            yield TableBatch(first + start, part)
            continue
        for row in range(part.num_rows):
            single = part.slice(row, 1)
            why = _problem(single)
            number = first + start + row
            yield TableBatch(number, single) if why is None else TableBatch(number, None, why)


def _problem(batch: pa.RecordBatch) -> str | None:
    try:
        batch.validate(full=True)
    except pa.ArrowInvalid as error:
        return f"invalid data: {error}"
    return None
