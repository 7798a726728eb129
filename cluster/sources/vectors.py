"""Precomputed embeddings: from matrices, columns, lists and texts to one checked Arrow column.

Vectors of matrices and lists of Arrow stay in numpy buffers from the file to the Arrow table; a
copy is made only where they are not float32 or where a row of the batch is rejected.

Refused for a row: no vector, not a list of numbers, another width than the plan's, NaN or
infinity (also after rounding to float32), all zeros. The rest of the file goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from bitsift.cluster.sources.stored_vectors import FLOATS, Stored, wrong_width

_LISTS = (
    pa.types.is_list,
    pa.types.is_large_list,
    pa.types.is_fixed_size_list,
    pa.types.is_list_view,
    pa.types.is_large_list_view,
)
_VALUES = (
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_string_view,
    pa.types.is_binary,
    pa.types.is_large_binary,
    pa.types.is_binary_view,
    pa.types.is_fixed_size_binary,
)
FloatMatrix = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Vectors:
    """The vectors of a batch of records.

    `matrix` is float32, shape (m, width); `rows` is int64, shape (m,), ascending: which record
    of the batch each vector belongs to. `reasons` says, for every other record, why it has none.
    """

    matrix: FloatMatrix
    rows: npt.NDArray[np.int64]
    reasons: dict[int, str]

    def __post_init__(self) -> None:
        assert self.matrix.ndim == 2
        assert len(self.matrix) == len(self.rows)


def checked_vectors(matrix: npt.NDArray[Any], stored: Stored = FLOATS) -> Vectors:
    """The vectors (n, width) of n records, less those that are bad; no copy of good float32."""
    return _decoded(matrix, np.arange(len(matrix), dtype=np.int64), {}, stored)


def stack_vectors(
    parsed: Sequence[FloatMatrix | str], width: int, stored: Stored = FLOATS
) -> Vectors:
    """The checked vectors of a batch whose records were parsed one by one."""
    rows = [row for row, vector in enumerate(parsed) if not isinstance(vector, str)]
    good = [vector for vector in parsed if not isinstance(vector, str)]
    reasons = {row: vector for row, vector in enumerate(parsed) if isinstance(vector, str)}
    shape = (0, stored.stored_width(width))
    matrix = np.stack(good) if good else np.empty(shape, dtype=np.float32)
    return _decoded(matrix, np.array(rows, dtype=np.int64), reasons, stored)


def is_vector_type(kind: pa.DataType) -> bool:
    """True for Arrow lists, of any kind, of numbers; for texts and bytes; also inside extensions
    and dictionaries.
    """
    kind = _plain_type(kind)
    return _is_list(kind) or any(test(kind) for test in _VALUES)


def _plain_type(kind: pa.DataType) -> pa.DataType:
    if isinstance(kind, pa.BaseExtensionType):
        return _plain_type(kind.storage_type)
    return _plain_type(kind.value_type) if pa.types.is_dictionary(kind) else kind


def _is_list(kind: pa.DataType) -> bool:
    if not any(test(kind) for test in _LISTS):
        return False
    number = kind.value_type
    return bool(pa.types.is_floating(number) or pa.types.is_integer(number))


def plain_column(column: pa.Array) -> pa.Array:
    """A column of vectors without its extension or dictionary."""
    if isinstance(column, pa.ExtensionArray):
        return plain_column(column.storage)
    if isinstance(column, pa.DictionaryArray):
        return plain_column(column.dictionary_decode())
    return column


def vectors_of_column(column: pa.Array, width: int, stored: Stored = FLOATS) -> Vectors:
    """The checked vectors of an Arrow column for which `is_vector_type` holds."""
    column = plain_column(column)
    if not _is_list(column.type):
        parsed = [stored.parsed(value, width) for value in _values(column)]
        return stack_vectors(parsed, width, stored)
    lengths = pc.fill_null(pc.list_value_length(column), -1).to_numpy(zero_copy_only=False)
    stored_width = stored.stored_width(width)
    fits = lengths == stored_width
    reasons = {
        int(row): "no vector"
        if lengths[row] < 0
        else wrong_width(stored.width(int(lengths[row])), width)
        for row in np.flatnonzero(~fits)
    }
    if reasons:
        column = column.filter(pa.array(fits))
    numbers = column.flatten().to_numpy(zero_copy_only=False)  # a null number becomes NaN
    matrix = numbers.reshape(-1, stored_width)
    return _decoded(matrix, np.flatnonzero(fits), reasons, stored)


def _values(column: pa.Array) -> list[object]:
    try:
        return list(column.to_pylist())
    except UnicodeDecodeError:  # parquet does not check its strings
        texts = column.cast(pa.large_binary()).to_pylist()
        return [None if text is None else text.decode("utf-8", "replace") for text in texts]


def _decoded(
    matrix: npt.NDArray[Any],
    rows: npt.NDArray[np.int64],
    reasons: dict[int, str],
    stored: Stored,
) -> Vectors:
    """Stored numbers as the vectors they stand for, less those that are bad."""
    vectors, bad = stored.decoded(matrix)
    if bad:
        reasons = reasons | {int(rows[row]): reason for row, reason in bad.items()}
        keep = np.ones(len(vectors), dtype=bool)
        keep[list(bad)] = False
        vectors, rows = vectors[keep], rows[keep]
    return _checked(vectors, rows, reasons)


def _checked(matrix: FloatMatrix, rows: npt.NDArray[np.int64], reasons: dict[int, str]) -> Vectors:
    """Takes out the vectors that are not finite or all zeros; touches the good ones only once."""
    with np.errstate(over="ignore", invalid="ignore"):
        squares = np.einsum("ij,ij->i", matrix, matrix)
        suspects = np.flatnonzero(~(np.isfinite(squares) & (squares > 0)))
    bad = {}
    for suspect in suspects:  # squares of huge or tiny numbers overflow or vanish: look again
        if not np.isfinite(matrix[suspect]).all():
            bad[int(suspect)] = "vector contains NaN or infinity"
        elif not matrix[suspect].any():
            bad[int(suspect)] = "vector is all zeros"
    if not bad:
        return Vectors(matrix, rows, reasons)
    keep = np.ones(len(matrix), dtype=bool)
    keep[list(bad)] = False
    found = {int(rows[suspect]): reason for suspect, reason in bad.items()}
    return Vectors(matrix[keep], rows[keep], reasons | found)


def vector_column(vectors: Vectors | None, keep: npt.NDArray[np.bool_]) -> pa.Array:
    """A list<float32> column as long as `keep`, null wherever `keep` is False.

    Null rows own no numbers, so `flatten()` gives exactly the kept vectors, one after the other.
    """
    if vectors is None:
        return pa.nulls(len(keep), pa.list_(pa.float32()))
    kept = keep[vectors.rows]
    matrix = vectors.matrix if kept.all() else vectors.matrix[kept]
    lengths = np.zeros(len(keep), dtype=np.int32)
    lengths[vectors.rows[kept]] = matrix.shape[1]
    offsets = np.zeros(len(keep) + 1, dtype=np.int32)
    np.cumsum(lengths, out=offsets[1:])
    numbers = pa.array(matrix.reshape(-1))
    mask = None if keep.all() else pa.array(~keep)
    return pa.ListArray.from_arrays(pa.array(offsets), numbers, mask=mask)


def vectors_of(table: pa.Table, width: int) -> FloatMatrix:
    """The vectors of all rows of `table` that have one: float32, shape (n, width)."""
    column = table.column("vector")
    parts = [chunk.flatten().to_numpy() for chunk in column.chunks]
    numbers = parts[0] if len(parts) == 1 else np.concatenate([*parts, np.empty(0, np.float32)])
    return numbers.reshape(-1, width)


def take_good(table: pa.Table, rows: npt.NDArray[np.int64]) -> pa.Table:
    """The good rows at these places of a table of documents, in the order of `rows`.

    The same as `table.take` for rows that are not rejected, but vectors are gathered by numpy:
    1 instead of 10 µs for 1,024 numbers, which pyarrow copies one list at a time. Nothing is
    copied where all rows are taken.
    """
    if len(rows) == table.num_rows and np.array_equal(rows, np.arange(len(rows))):
        return table
    place = table.schema.get_field_index("vector")
    taken = table.remove_column(place).take(pa.array(rows))
    has_vector = table.column(place).is_valid().to_numpy()
    if not has_vector.any():
        column = vector_column(None, np.ones(len(rows), dtype=bool))
    else:
        held = np.cumsum(has_vector) - 1  # which vector belongs to which row
        width = int(pc.max(pc.list_value_length(table.column(place))).as_py())
        matrix = vectors_of(table, width)[held[rows]]
        vectors = Vectors(matrix, np.arange(len(rows), dtype=np.int64), {})
        column = vector_column(vectors, np.ones(len(rows), dtype=bool))
    return taken.add_column(place, table.schema.field(place), column)
