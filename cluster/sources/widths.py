"""A first look at the vectors of a file: how wide they are, and whether they are numbers at all."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
from numpy.typing import NDArray

from bitsift.cluster.sources.plan import SourceFile
from bitsift.cluster.sources.records import read_records
from bitsift.cluster.sources.stored_vectors import suspicion
from bitsift.cluster.sources.streams import DamagedStream
from bitsift.cluster.sources.tables import read_batches
from bitsift.cluster.sources.vectors import plain_column, stack_vectors
from bitsift.errors import InvalidRequest
from bitsift.shard_worker.codes import DIMENSION_MIN

_GOOD_ENOUGH = 100
"""Good vectors that are looked at for what kind of numbers they hold,"""
_FEW = 10_000
"""among so many records after the first one that has one."""


@dataclass(frozen=True)
class Look:
    """`width` is that of the first good vector, None where there is none: `reason` says why."""

    width: int | None
    reason: str = ""


def look_at_vectors(file: SourceFile) -> Look:
    """The width of the first good vector of a file's field, wherever it stands.

    Raises InvalidRequest where its vectors look quantized and the caller has not said how.
    """
    good: list[NDArray[Any]] = []
    reason = ""
    last = -1  # the record that is looked at last
    for number, value in _values(file):
        if len(good) == _GOOD_ENOUGH or (good and number > last):
            break
        vector = value if isinstance(value, np.ndarray) else file.stored.numbers(value)
        problem = vector if isinstance(vector, str) else _problem(file, vector)
        if not isinstance(vector, str) and problem is None:
            good.append(vector)
            last = number + _FEW if len(good) == 1 else last
        elif not reason and problem is not None:
            reason = f"record {number + 1}: {problem}"
    if not good:
        return Look(None, reason or "no record has one")
    why = suspicion(good) if file.stored.type is None else None
    if why is not None:
        raise InvalidRequest(f"{file.path}, field {file.fields.vector!r}: {why}")
    return Look(file.stored.width(len(good[0])))


def forgotten_vectors(path: str, table: pa.Table | None) -> str:
    """A line for people where documents have vectors in their metadata; "" where they have none.

    `table` are the first documents of a file of which no field was named as the vector.
    """
    texts = [] if table is None else table["metadata"].drop_null().to_pylist()
    found = orjson.loads(texts[0]) if texts and texts[0] else {}
    names = [name for name, value in found.items() if _is_like_a_vector(value)]
    if not names:
        return ""
    return (
        f"{path}: field {names[0]!r} looks like a vector and becomes metadata of every document: "
        f"--vector-field {names[0]} if it is one"
    )


def _is_like_a_vector(value: object) -> bool:
    if not isinstance(value, list) or len(value) < DIMENSION_MIN:
        return False
    return all(type(number) is float for number in value)


def _problem(file: SourceFile, vector: NDArray[Any]) -> str | None:
    with np.errstate(over="ignore"):
        floats = vector.astype(np.float32)
    checked = stack_vectors([floats], file.stored.width(len(floats)), file.stored)
    return checked.reasons.get(0)


def _values(file: SourceFile) -> Iterator[tuple[int, object]]:
    """(number of a record, its vector as it is written) of all that have one."""
    name = file.fields.vector
    assert name is not None
    if file.format.is_table:
        yield from _column_values(file, name)
        return
    try:
        for number, record in enumerate(read_records(file)):
            if record.row is not None and record.row.get(name) is not None:
                yield number, record.row[name]
    except DamagedStream:
        return


def _column_values(file: SourceFile, name: str) -> Iterator[tuple[int, object]]:
    for first, batch, _ in read_batches(file, _GOOD_ENOUGH, columns=[name]):
        if batch is not None:
            column = plain_column(batch.column(name))
            for row in np.flatnonzero(column.is_valid().to_numpy(zero_copy_only=False)):
                value = column[int(row)]
                if isinstance(value, pa.ListScalar):
                    yield first + int(row), value.values.to_numpy(zero_copy_only=False)
                else:
                    yield first + int(row), _plain(value)


def _plain(value: pa.Scalar) -> object:
    try:
        return value.as_py()
    except UnicodeDecodeError:
        return "not UTF-8"
