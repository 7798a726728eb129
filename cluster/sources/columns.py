"""Columns: the rows of an Arrow batch as dicts, which become documents like any other records.

Equal values of a column that is a dictionary are one Python object where they would be large.

An id is the natural string of what its column holds: a UUID (also as 16 bytes) in its usual form,
other bytes of a fixed width, or that are no text, as hex digits, a decimal as it is written, a
whole float as a whole number, a date or time as ISO 8601.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterator
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

BATCH_BYTES = 32 << 20
"""Of strings in a table of documents."""
_LONG_VALUES = (pa.string(), pa.large_string(), pa.binary(), pa.large_binary())
_UUID_BYTES = 16
_EXACT_MAX = {pa.float16(): 2**11, pa.float32(): 2**24, pa.float64(): 2**53}
"""Whole numbers below it are exact in a float of this type."""


class TableBatch(NamedTuple):
    """Rows `first`… of a file; or, with a `reason`, the place where reading broke off."""

    first: int
    batch: pa.RecordBatch | None
    reason: str | None = None


def rows_of_batch(
    batch: pa.RecordBatch, wanted: set[str], vector: str | None, key: str | None = None
) -> tuple[Iterator[dict[str, Any]], dict[int, str]]:
    """The rows of a batch without the `vector` column, and the reasons for those that broke.

    `key` is the column of ids. `wanted` names the columns that documents need: bytes in them are
    taken as text, and their nulls are kept.
    """
    reasons: dict[int, str] = {}
    names: list[str] = []
    columns: list[list[Any]] = []
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        if name != vector:
            names.append(name)
            if name == key:
                columns.append(_ids(column, name, reasons))
            else:
                columns.append(_values(column, name, name in wanted, reasons))
    if not columns:
        return ({} for _ in range(batch.num_rows)), reasons
    return _rows(names, columns, wanted), reasons


def _rows(names: list[str], columns: list[list[Any]], wanted: set[str]) -> Iterator[dict[str, Any]]:
    """One dict at a time: thousands that live together cost Python's garbage collector."""
    if not any(None in values for values in columns):
        rows = zip(*columns, strict=True)
        return (dict(zip(names, row, strict=False)) for row in rows)  # strict is half as fast
    return (
        {
            name: value
            for name, value in zip(names, values, strict=True)
            if value is not None or name in wanted
        }
        for values in zip(*columns, strict=True)
    )


def _ids(column: pa.Array, name: str, reasons: dict[int, str]) -> list[Any]:
    """The ids of a column: natural strings, and what `checked_id` decides about as it is."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    kind = column.type
    if (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)) and _is_raw(column):
        column = column.cast(pa.binary())
        return [None if value is None else _hexadecimal(value) for value in column.to_pylist()]
    values = _values(column, name, not pa.types.is_fixed_size_binary(kind), reasons)
    if pa.types.is_fixed_size_binary(kind):
        return [None if value is None else _hexadecimal(value) for value in values]
    if pa.types.is_decimal(kind):
        return [None if value is None else format(value, "f") for value in values]
    if pa.types.is_date(kind) or pa.types.is_time(kind) or pa.types.is_timestamp(kind):
        return [None if value is None else value.isoformat() for value in values]
    if pa.types.is_floating(kind):
        exact_max = _EXACT_MAX[kind]
        for row, value in enumerate(values):
            if value is not None and exact_max <= abs(value) < math.inf:
                reasons[row] = f"id {value} is not exact as a {kind}: write ids as strings"
        return [_whole(value) for value in values]
    return values


def _is_raw(column: pa.Array) -> bool:
    """Whether most of the bytes are no text: then none is one, not even by chance."""
    values = [value for value in column.to_pylist() if value is not None]
    return 2 * sum(not _is_utf8(value) for value in values) > len(values)


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _hexadecimal(value: bytes) -> str:
    return str(uuid.UUID(bytes=value)) if len(value) == _UUID_BYTES else value.hex()


def _whole(value: float | None) -> int | float | None:
    return int(value) if value is not None and value.is_integer() else value


def _values(column: pa.Array, name: str, as_text: bool, reasons: dict[int, str]) -> list[Any]:
    kind = column.type
    if pa.types.is_dictionary(kind) and kind.value_type in _LONG_VALUES:
        return _shared_values(column, name, as_text, reasons)
    if as_text and (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        column = column.cast(pa.large_string(), safe=False)
    try:
        return python_values(column)
    except (ValueError, OverflowError, KeyError):  # parquet checks no strings, dates and keys
        return [_value(column, row, name, reasons) for row in range(len(column))]


def _shared_values(
    column: pa.DictionaryArray, name: str, as_text: bool, reasons: dict[int, str]
) -> list[Any]:
    """The same of a dictionary; where it would be large, each distinct value is one object."""
    if not is_large(column):
        return _values(column.dictionary_decode(), name, as_text, reasons)
    used = pc.unique(column.indices)
    problems: dict[int, str] = {}
    values = _values(column.dictionary.take(used), name, as_text, problems)
    places = pc.index_in(column.indices, used).to_pylist()
    reasons.update({row: problems[at] for row, at in enumerate(places) if at in problems})
    return [values[at] for at in places]


def _value(column: pa.Array, row: int, name: str, reasons: dict[int, str]) -> Any:
    try:
        return python_values(column[row : row + 1])[0]
    except UnicodeDecodeError:
        reasons[row] = f"invalid UTF-8 in field {name!r}"
    except KeyError:
        reasons[row] = f"field {name!r} is a map that has a key twice"
    except (ValueError, OverflowError) as error:
        reasons[row] = f"value of field {name!r} cannot be used: {error}"
    return None


def python_values(column: pa.Array) -> list[Any]:
    """The values of a column as JSON has them: maps are objects where all their keys are texts,
    else lists of pairs. Raises KeyError for a key that is there twice.
    """
    maps = "strict" if _are_objects(column.type) else None
    return list(column.to_pylist(maps_as_pydicts=maps))


def _are_objects(kind: pa.DataType) -> bool:
    """Whether all maps in values of a type, at any depth, have texts as keys."""
    if isinstance(kind, pa.BaseExtensionType):
        return _are_objects(kind.storage_type)
    if pa.types.is_map(kind):
        return _is_text(kind.key_type) and _are_objects(kind.item_type)
    if pa.types.is_dictionary(kind):
        return _are_objects(kind.value_type)
    return all(_are_objects(kind.field(place).type) for place in range(kind.num_fields))


def strings_of(column: pa.Array) -> pa.Array | None:
    """A column of strings as such, checked; None for any other, and for one of many bytes."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        if not _is_text(kind.value_type) or is_large(column):
            return None
        column = column.dictionary_decode()
    if not _is_text(column.type):
        return None
    try:
        column.validate(full=True)
        return column.cast(pa.string())
    except pa.ArrowInvalid:
        return None


def is_large(column: pa.Array) -> bool:
    """Whether a dictionary stands for much more than it takes."""
    if not pa.types.is_dictionary(column.type) or column.type.value_type not in _LONG_VALUES:
        return False
    lengths = pc.binary_length(column.dictionary)
    return (pc.sum(lengths.take(column.indices)).as_py() or 0) > BATCH_BYTES


def _is_text(kind: pa.DataType) -> bool:
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    return any(test(kind) for test in tests)
