"""The sources as Ray Data sees them: read tasks over the readers, and one survey of it all.

`read_sources` gives the dataset that `bitsift index` encodes. `sample_rows` reads the same tasks
once before that, where it must: it counts the documents and draws a random sample for the
calibration. `digest_sources` is for what a read task can do itself, so that little travels.

Nothing here depends on the order in which tasks run or blocks arrive: `position` names a record.
"""

from __future__ import annotations

import functools
import logging
import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate, groupby, zip_longest
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import ray.data
from ray._private.log import PlainRayHandler
from ray.data.block import BlockMetadata
from ray.data.context import DataContext
from ray.data.datasource import Datasource, ReadTask

from bitsift.cluster.sources.documents import SCHEMA
from bitsift.cluster.sources.matrices import sample_matrices
from bitsift.cluster.sources.plan import Format, SourceFile, SourcePlan
from bitsift.cluster.sources.readers import BATCH_ROWS, read_documents, read_text_files
from bitsift.cluster.sources.synthetic import BLOCK_ROWS
from bitsift.cluster.sources.vectors import take_good
from bitsift.router.shards.ray_calls import Callee, rows_of

TASK_BYTES_MIN = 16 << 20  # a file is not split into tasks smaller than this
TASK_BYTES = 512 << 20  # a task that lets only a digest out may read this much
TASKS_MIN = 16  # but small sources too are shared out

_SURVEY_SCHEMA = pa.schema(
    [*SCHEMA, ("priority", pa.uint64()), ("documents", pa.int64()), ("rejects", pa.int64())]
)


@dataclass(frozen=True)
class Piece:
    """A file, or the records first…stop of one that can be read from the middle."""

    file: SourceFile
    rows: tuple[int, int] | None
    memory_bytes: int


@dataclass(frozen=True)
class Survey:
    """What one pass over all sources found; `sample` holds good rows only, by position."""

    documents: int
    rejects: int
    sample: pa.Table


@dataclass(frozen=True)
class Digest:
    """What a read task makes of its tables before anything leaves it: tables of `schema`.

    `at_once`: each row leaves the task when it is made, not when there is a blockful.
    """

    name: str
    schema: pa.Schema
    convert: Callable[[Iterator[pa.Table]], Iterator[pa.Table]]
    at_once: bool = False


class DocumentDatasource(Datasource):
    """All documents of a plan as tables of `cluster.documents.SCHEMA`, or what `digest` makes."""

    def __init__(
        self, plan: SourcePlan, batch_rows: int = BATCH_ROWS, digest: Digest | None = None
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # ray declares no types for it
        self._plan = plan
        self._batch_rows = batch_rows
        self._digest = digest

    def get_name(self) -> str:
        """What Ray Data calls the read in its progress lines."""
        return self._digest.name if self._digest else "Documents"

    def estimate_inmemory_data_size(self) -> int | None:
        """Bytes of all documents as Arrow tables, extrapolated from each file's first rows.

        Nothing is said of a digest: Ray would cut its small tables as if they were documents.
        """
        return None if self._digest else self._plan.memory_bytes

    def get_read_tasks(
        self,
        parallelism: int,
        per_task_row_limit: int | None = None,
        data_context: DataContext | None = None,
    ) -> list[ReadTask]:
        """At most about `parallelism` tasks of even size, more only where Ray asks for more."""
        return [
            ReadTask(
                functools.partial(_read_task, pieces, self._batch_rows, self._digest),
                BlockMetadata(
                    num_rows=None,
                    size_bytes=None if self._digest else sum(p.memory_bytes for p in pieces),
                    exec_stats=None,
                    input_files=tuple(sorted({piece.file.path for piece in pieces})),
                ),
                schema=self._digest.schema if self._digest else SCHEMA,
                per_task_row_limit=per_task_row_limit,
            )
            for pieces in share_out(self._plan, parallelism)
        ]


def read_sources(plan: SourcePlan, batch_rows: int = BATCH_ROWS) -> ray.data.Dataset:
    """The documents of a plan, good and rejected, as a lazy dataset in no particular order.

    What a function mapped over it raises arrives as it was raised: Ray's own wrapper loses it.
    """
    context = _quiet_context().copy()
    context.raise_original_map_exception = True
    with DataContext.current(context):
        dataset: ray.data.Dataset = ray.data.read_datasource(DocumentDatasource(plan, batch_rows))
    return dataset


def digest_sources(
    plan: SourcePlan, digest: Digest, batch_rows: int = BATCH_ROWS, tasks: int | None = None
) -> ray.data.Dataset:
    """What `digest` makes of the documents, as a lazy dataset; at most `tasks` run at once."""
    blocks = max(TASKS_MIN, plan.memory_bytes // TASK_BYTES)
    context = _quiet_context()
    if digest.at_once:
        context = context.copy()
        context.target_max_block_size = 1
    with DataContext.current(context):
        dataset: ray.data.Dataset = ray.data.read_datasource(
            DocumentDatasource(plan, batch_rows, digest),
            override_num_blocks=len(share_out(plan, blocks)) or 1,
            concurrency=tasks,
        )
    return dataset


def _quiet_context() -> DataContext:
    """Ray Data's settings of this thread, now quiet: the command line shows progress itself, and an
    error of a task in one line. Ray's log keeps the traces.
    """
    logger = logging.getLogger("ray.data")
    logger.setLevel(logging.ERROR)
    for handler in logger.handlers:
        if isinstance(handler, PlainRayHandler):  # Ray's own, of the terminal
            handler.setLevel(logging.CRITICAL)
    with warnings.catch_warnings():  # of its own settings, as it sets them: an error where the
        warnings.simplefilter("ignore", DeprecationWarning)  # environment says PYTHONWARNINGS=error
        context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    return context


def share_out(plan: SourcePlan, parallelism: int) -> list[list[Piece]]:
    """Cuts what can be cut and packs what is small, into about `parallelism` even shares."""
    share_bytes = max(1, math.ceil(plan.memory_bytes / max(1, parallelism)))
    shares: list[list[Piece]] = []
    held: list[Piece] = []
    held_bytes = 0
    for file in plan.files:
        for piece in _cut(file, max(share_bytes, TASK_BYTES_MIN)):
            if held and held_bytes + piece.memory_bytes > share_bytes:
                shares.append(held)
                held, held_bytes = [], 0
            held.append(piece)
            held_bytes += piece.memory_bytes
    return [*shares, held] if held else shares


def _cut(file: SourceFile, piece_bytes: int) -> Iterator[Piece]:
    """The pieces of a file: row ranges of matrices, runs of row groups of Parquet, else all."""
    cuttable = file.format.is_matrix or file.format is Format.PARQUET
    if not cuttable or not file.records:
        yield Piece(file, None, file.memory_bytes)
        return
    row_bytes = max(1.0, file.memory_bytes / file.records)
    rows = max(1, int(piece_bytes / row_bytes))
    if file.format is Format.SYNTHETIC:
        rows = -(-rows // BLOCK_ROWS) * BLOCK_ROWS  # no block is made by two tasks
    if file.format.is_matrix:
        borders = [*range(rows, file.records, rows), file.records]
    else:
        borders = list(accumulate(file.row_groups))
    first = 0
    for border, after in zip_longest(borders, borders[1:]):
        if after is None or after - first > rows:  # the next row group would be too much
            if border > first:
                yield Piece(file, (first, border), round((border - first) * row_bytes))
            first = border


def _read_task(pieces: list[Piece], batch_rows: int, digest: Digest | None) -> Iterable[pa.Table]:
    tables = _read_pieces(pieces, batch_rows)
    return tables if digest is None else digest.convert(tables)


def _read_pieces(pieces: list[Piece], batch_rows: int) -> Iterator[pa.Table]:
    """Streams the pieces in order; neighbouring text files come many to a table."""
    for is_text, run in groupby(pieces, lambda piece: piece.file.format.is_whole_document):
        if is_text:
            yield from read_text_files([piece.file for piece in run], batch_rows)
        else:
            for piece in run:
                yield from read_documents(piece.file, batch_rows, piece.rows)


def sample_rows(plan: SourcePlan, k: int, seed: int) -> Survey:
    """Counts all records and draws `k` good rows at random, each with the same chance.

    Where all sources are matrices, only the sample is read, and records that turn out to be bad
    later are counted as documents. Else there is one pass through Ray Data: a row's priority is a
    hash of (`seed`, position), so the sample is the same for every number of machines and order
    of tasks; a task holds about twice k rows at most, and so does the driver. Where there are
    fewer good rows than k, the sample is all.
    """
    if all(file.format.is_matrix for file in plan.files):
        sample = sample_matrices(plan, k, seed)
        if sample.num_rows or not plan.files:
            return Survey(sum(file.records or 0 for file in plan.files), 0, sample)
    digest = Digest("Survey", _SURVEY_SCHEMA, functools.partial(_survey_task, k=k, seed=seed))
    tables: Iterable[Any] = digest_sources(plan, digest).iter_batches(
        batch_size=None, batch_format="pyarrow"
    )
    best = _Smallest(k)
    documents = rejects = 0
    for table in rows_of(tables, Callee("a reading process")):
        documents += int(np.sum(table.column("documents").to_numpy()))
        rejects += int(np.sum(table.column("rejects").to_numpy()))
        best.offer(table.filter(table.column("priority").is_valid()))
    sample = best.table().select(SCHEMA.names).sort_by("position")
    return Survey(documents, rejects, sample)


def _survey_task(tables: Iterator[pa.Table], k: int, seed: int) -> Iterator[pa.Table]:
    """One row of counts, then the task's share of the sample."""
    best = _Smallest(k)
    documents = rejects = 0
    for table in tables:
        good = table.column("reject").is_null().to_numpy()
        documents += int(good.sum())
        rejects += len(good) - int(good.sum())
        priority = priorities(table.column("position").to_numpy(), seed)
        chosen = np.flatnonzero(good & (priority <= best.limit))
        if len(chosen):
            best.offer(_with_counts(take_good(table, chosen), priority[chosen]))
    counts = {"documents": documents, "rejects": rejects}
    yield pa.Table.from_pylist([counts], schema=_SURVEY_SCHEMA)
    yield best.table()


def _with_counts(table: pa.Table, priority: npt.NDArray[np.uint64]) -> pa.Table:
    zeros = pa.array(np.zeros(table.num_rows, dtype=np.int64))
    extra = [pa.array(priority), zeros, zeros]
    return pa.Table.from_arrays([*table.columns, *extra], schema=_SURVEY_SCHEMA)


def priorities(positions: npt.NDArray[np.int64], seed: int) -> npt.NDArray[np.uint64]:
    """A well-mixed uint64 per position: splitmix64 (Steele, Lea, Flood 2014), twice."""
    start = _splitmix(np.array([seed & (2**64 - 1)], dtype=np.uint64))
    return _splitmix(positions.astype(np.uint64) ^ start)


def _splitmix(state: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    mixed = state + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


class _Smallest:
    """Keeps the k rows of smallest (priority, position) among all that are offered."""

    def __init__(self, k: int) -> None:
        self._k = k
        self._parts: list[pa.Table] = [_SURVEY_SCHEMA.empty_table()]
        self._rows = 0
        self.limit = np.uint64(2**64 - 1)  # no row above it can get in any more

    def offer(self, table: pa.Table) -> None:
        self._parts.append(table)
        self._rows += table.num_rows
        if self._rows > 2 * self._k:
            self._trim()

    def table(self) -> pa.Table:
        self._trim()
        return self._parts[0]

    def _trim(self) -> None:
        rows = pa.concat_tables(self._parts)
        if rows.num_rows > self._k:
            priority = rows.column("priority").to_numpy()
            order = np.lexsort((rows.column("position").to_numpy(), priority))[: self._k]
            rows = take_good(rows, order)
            self.limit = priority[order[-1]] if self._k else self.limit
        self._parts = [rows]
        self._rows = rows.num_rows
