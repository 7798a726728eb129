"""Sources whose documents are nothing but vectors: npy files and synthetic corpora.

Any rows of them can be read, and how many there are is known, so a sample needs no pass over all.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from bitsift.cluster.sources.columns import BATCH_BYTES
from bitsift.cluster.sources.documents import SCHEMA
from bitsift.cluster.sources.matrix_files import open_matrix
from bitsift.cluster.sources.plan import Format, SourceFile, SourcePlan
from bitsift.cluster.sources.streams import DamagedStream
from bitsift.cluster.sources.synthetic import SyntheticSpec, synthetic_block
from bitsift.cluster.sources.vectors import Vectors, checked_vectors, vector_column
from bitsift.router.write.document_rules import metadata_text

_ROW_DIGITS = 10


def read_matrix(file: SourceFile, batch_rows: int, first: int, stop: int) -> Iterator[pa.Table]:
    """The documents of rows first…stop, good and rejected, in order.

    The numbers of an npy file stay in the memory map: no row costs a Python object.
    """
    assert file.width is not None
    step = max(1, min(batch_rows, BATCH_BYTES // (4 * file.width)))
    if file.format is Format.SYNTHETIC:
        spec = SyntheticSpec.parse(file.path)
        for start in range(first, stop, step):
            numbers = np.arange(start, min(start + step, stop), dtype=np.int64)
            yield _table(file, numbers, checked_vectors(synthetic_block(spec, start, len(numbers))))
        return
    matrix = open_matrix(file.path, file.fields.vector, file.stored)
    for start in range(first, stop, step):
        numbers = np.arange(start, min(start + step, stop), dtype=np.int64)
        try:
            rows = matrix.rows(start, start + len(numbers))
        except DamagedStream as damage:
            yield _rejected(file, start, f"{damage}; {start} records were read before it")
            return
        yield _table(file, numbers, checked_vectors(rows, file.stored))


def sample_matrices(plan: SourcePlan, k: int, seed: int) -> pa.Table:
    """`k` rows of a plan of matrices, each with the same chance, less those that are bad."""
    random = np.random.default_rng(seed)
    records = [file.records or 0 for file in plan.files]
    shares = random.multivariate_hypergeometric(records, min(k, sum(records)), method="marginals")
    tables = [
        _sample(file, int(share), random)
        for file, share in zip(plan.files, shares, strict=True)
        if share
    ]
    sample = pa.concat_tables([SCHEMA.empty_table(), *tables])
    return sample.filter(pc.is_null(sample.column("reject")))


def _sample(file: SourceFile, count: int, random: np.random.Generator) -> pa.Table:
    if file.format is Format.SYNTHETIC:  # its rows are independent: the first are a sample
        numbers = np.arange(count, dtype=np.int64)
        rows = synthetic_block(SyntheticSpec.parse(file.path), 0, count)
    else:
        assert file.records is not None
        numbers = np.sort(random.choice(file.records, count, replace=False))
        try:
            rows = open_matrix(file.path, file.fields.vector, file.stored).at(numbers)
        except DamagedStream:  # the pass over all finds where
            return SCHEMA.empty_table()
    return _table(file, numbers, checked_vectors(rows, file.stored))


def _rejected(file: SourceFile, number: int, reason: str) -> pa.Table:
    row = {"position": file.first_position + number, "file": file.path, "line": number + 1}
    return pa.Table.from_pylist([{**row, "reject": reason}], schema=SCHEMA)


def _without_ending(name: str) -> str:
    return name.removesuffix(PurePosixPath(name).suffix)


def _table(file: SourceFile, numbers: npt.NDArray[np.int64], vectors: Vectors) -> pa.Table:
    """The documents of the rows `numbers`; ids are <name>-<row in 10 digits>, or just the row."""
    count = len(numbers)
    keep = np.ones(count, dtype=bool)
    keep[list(vectors.reasons)] = False
    ids = pa.array(numbers).cast(pa.string())
    if file.format is Format.VECTORS:
        digits = pc.utf8_lpad(ids, _ROW_DIGITS, "0")
        ids = pc.binary_join_element_wise(_without_ending(file.name), digits, "-")
    empty = pa.repeat(pa.scalar(""), count)
    reasons = [vectors.reasons.get(row) for row in range(count)] if vectors.reasons else None
    columns = [
        pa.array(file.first_position + numbers),
        pa.repeat(pa.scalar(file.path), count),
        pa.array(numbers + 1),
        ids,
        empty,
        empty,
        pa.repeat(pa.scalar(metadata_text(dict(file.partitions))), count),
        vector_column(vectors, keep),
        pa.nulls(count, pa.string()) if reasons is None else pa.array(reasons, pa.string()),
    ]
    return pa.Table.from_arrays(columns, schema=SCHEMA)
