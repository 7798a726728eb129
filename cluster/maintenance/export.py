"""An index as Parquet or JSON lines, for readers that know nothing of Bitsift.

Parquet has these columns; `bitsift index` knows such a file and reads it as what it was:

    id, title, text   strings
    metadata          a JSON object as text, "" for none
    int8, scale       the vector is int8 · scale: of unit length nearly, in the model's own space

JSON lines have id, title, text, metadata as an object, and the vector as a list of float32: they
can be indexed with `--vector-field vector`, or added to a running index.

The index's own codes have a range for each dimension, and may be rotated; here both are undone, and
each vector gets one symmetric scale of its own. That costs little: the cosine between a vector of
the index and its export is 0.9999 on average and 0.9998 at least (8,192 synthetic vectors of 1,024
dimensions; the index's own codes keep 0.9999 and 0.9990 of the vectors they were made of).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from bitsift.cluster.maintenance.aside import written_aside
from bitsift.cluster.maintenance.opened import open_store
from bitsift.cluster.manifest import Manifest, open_manifest
from bitsift.errors import BitsiftError, ChecksumMismatch
from bitsift.shard_worker.codes import Calibration, rotation
from bitsift.shard_worker.store import Store
from bitsift.shard_worker.types import Document, Found

ROW_GROUP_BYTES = 16 << 20
"""Of codes. A reader holds one row group at a time, and so does the export."""
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("title", pa.string()),
        ("text", pa.string()),
        ("metadata", pa.string()),
        ("int8", pa.list_(pa.int8())),
        ("scale", pa.float32()),
    ]
)
PARQUET_SUFFIX = ".parquet"
LINES_SUFFIX = ".jsonl"

OnRows = Callable[[int, int], None]
"""Called with the documents that were written so far, and those that will be."""


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What was written."""

    dest: str
    files: int
    documents: int
    bytes: int


def export(index: Path, dest: Path, on_rows: OnRows = lambda _, __: None) -> ExportReport:
    """Write all documents of an index to ``dest``: one file, or a folder with one file per shard.

    A name with the ending .jsonl gives JSON lines, all others Parquet.

    Raises InvalidRequest where ``dest`` exists, Unavailable while the index is being served,
    ChecksumMismatch for the first damaged row. Nothing is left then.
    """
    manifest, report = open_manifest(index)
    counter = _Counter(report.documents, on_rows)
    with written_aside(dest) as aside:
        if dest.suffix in (PARQUET_SUFFIX, LINES_SUFFIX):
            kind = _lines_writer if dest.suffix == LINES_SUFFIX else _writer
            with kind(aside, manifest) as writer:
                for number in range(manifest.shards):
                    _write_shard(writer, index, manifest, number, counter)
        else:
            aside.mkdir()
            for number in range(manifest.shards):
                with _writer(aside / f"shard-{number:05d}{PARQUET_SUFFIX}", manifest) as writer:
                    _write_shard(writer, index, manifest, number, counter)
    files = sorted(dest.iterdir()) if dest.is_dir() else [dest]
    size = sum(path.stat().st_size for path in files)
    return ExportReport(str(dest), len(files), counter.documents, size)


class _Counter:
    def __init__(self, total: int, on_rows: OnRows) -> None:
        self.documents = 0
        self._total = total
        self._on_rows = on_rows

    def add(self, documents: int) -> None:
        self.documents += documents
        self._on_rows(self.documents, max(self.documents, self._total))


Write = Callable[[list[Document], NDArray[np.float32]], None]
"""Writes documents and their vectors (n, dimension)."""


@contextlib.contextmanager
def _lines_writer(path: Path, _: Manifest) -> Iterator[Write]:
    with path.open("xb") as file:

        def write(documents: list[Document], vectors: NDArray[np.float32]) -> None:
            for document, vector in zip(documents, vectors, strict=True):
                row = {
                    "id": document.id,
                    "title": document.title,
                    "text": document.text,
                    "metadata": document.metadata or {},
                    "vector": vector,
                }
                options = orjson.OPT_APPEND_NEWLINE | orjson.OPT_SERIALIZE_NUMPY
                file.write(orjson.dumps(row, option=options))

        yield write


@contextlib.contextmanager
def _writer(path: Path, manifest: Manifest) -> Iterator[Write]:
    """A Parquet file that says which model its vectors come from.

    A dictionary of 256 values takes 8 bits a code, where Parquet stores an int8 in 32.
    """
    facts = {
        "index": manifest.name,
        "uuid": manifest.uuid,
        "dimension": manifest.calibration.dimension,
        "model": manifest.describe().to_json()["model"],
    }
    schema = SCHEMA.with_metadata({"bitsift": orjson.dumps(facts)})
    with pq.ParquetWriter(
        path, schema, compression="zstd", use_dictionary=["int8.list.element"]
    ) as writer:
        yield lambda documents, vectors: writer.write_table(_table(documents, *symmetric(vectors)))


def _write_shard(
    write: Write, index: Path, manifest: Manifest, number: int, counter: _Counter
) -> None:
    calibration = manifest.calibration
    with open_store(index, manifest, number) as store:
        for documents, codes in _living(store, max(1, ROW_GROUP_BYTES // calibration.width)):
            write(documents, plain_vectors(calibration, codes))
            counter.add(len(documents))


def _living(store: Store, rows_max: int) -> Iterator[tuple[list[Document], NDArray[np.int8]]]:
    """The living documents with their codes (n, width), in the order they came."""
    alive = np.ones(store.rows, dtype=np.bool_)
    alive[store.dead()] = False
    for first in range(0, store.rows, rows_max):
        rows = first + np.flatnonzero(alive[first : first + rows_max])
        if not len(rows):
            continue
        scanned = list(store.reader.scan_codes(first, min(first + rows_max, store.rows)))
        codes = np.concatenate([codes for _, codes, _ in scanned])[rows - first]
        intact = np.concatenate([intact for _, _, intact in scanned])[rows - first]
        if not intact.all():
            raise ChecksumMismatch(
                f"{store.path}: the code of row {rows[~intact][0]} is damaged; see bitsift verify"
            )
        yield [_sound(found) for found in store.reader.documents(rows.tolist())], codes


def _sound(found: Found) -> Document:
    if isinstance(found, BitsiftError):
        raise found
    assert isinstance(found, Document), found  # nothing is too large for an export
    return found


def plain_vectors(calibration: Calibration, codes: NDArray[np.int8]) -> NDArray[np.float32]:
    """What ``codes`` (n, width) stand for in the model's own space, float32 (n, dimension)."""
    vectors = calibration.decode(codes)[:, : calibration.dimension]
    if calibration.rotation_seed is None:
        return vectors
    return vectors @ rotation(calibration.dimension, calibration.rotation_seed).T


def symmetric(vectors: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """int8 (n, dimension) and scale float32 (n,) of ``vectors``: nearly ``int8 * scale``."""
    largest = np.abs(vectors).max(axis=1)
    # A subnormal scale has too few bits to be divided by.
    scale = np.maximum(largest / np.float32(127), np.finfo(np.float32).tiny)
    scale[largest == 0] = 1
    return np.rint(vectors / scale[:, None]).astype(np.int8), scale


def _table(
    documents: list[Document], int8: NDArray[np.int8], scale: NDArray[np.float32]
) -> pa.Table:
    ends = np.arange(0, int8.size + 1, int8.shape[1], dtype=np.int32)
    columns = [
        pa.array([document.id for document in documents], pa.string()),
        pa.array([document.title for document in documents], pa.string()),
        pa.array([document.text for document in documents], pa.string()),
        pa.array([_metadata_text(document) for document in documents], pa.string()),
        pa.ListArray.from_arrays(pa.array(ends), pa.array(int8.reshape(-1))),
        pa.array(scale),
    ]
    return pa.Table.from_arrays(columns, schema=SCHEMA)


def _metadata_text(document: Document) -> str:
    return orjson.dumps(document.metadata).decode() if document.metadata else ""
