"""Metadata by columns: each value as JSON, then all of a row joined, without an object per row.

The text is, to the byte, what `document_rules.metadata_text` writes of the row. Where that would
refuse a row, or nest one field in another, nothing is written here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from bitsift.cluster.sources.columns import python_values, strings_of
from bitsift.router.write.document_rules import as_json

_NESTED = "metadata"
_QUOTE, _BACKSLASH, _SPACE = 0x22, 0x5C, 0x20


def metadata_column(batch: pa.RecordBatch, constants: Sequence[tuple[str, Any]]) -> pa.Array | None:
    """The fields of each row of a batch as JSON text, "" for none; nulls are left out.

    `constants` are fields that every row begins with. None where a row needs another look.
    """
    names = [name for name, _ in constants] + batch.schema.names
    if _NESTED in names or len(set(names)) < len(names):
        return None
    pieces = [pa.repeat(_piece(name, value), batch.num_rows) for name, value in constants]
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        values = _as_json(column)
        if values is None:
            return None
        key = pa.scalar(f",{orjson.dumps(name).decode()}:")
        written = pc.binary_join_element_wise(key, values, "")
        pieces.append(pc.fill_null(written, "") if column.null_count else written)
    if not pieces:
        return pa.repeat(pa.scalar(""), batch.num_rows)
    fields = pc.utf8_replace_slice(pc.binary_join_element_wise(*pieces, ""), 0, 1, "{")
    closed = pc.binary_join_element_wise(fields, "}", "")
    return pc.if_else(pc.equal(fields, "{"), "", closed)


def _piece(name: str, value: Any) -> pa.Scalar:
    return pa.scalar(f",{orjson.dumps(name).decode()}:{orjson.dumps(value).decode()}")


def _as_json(column: pa.Array) -> pa.Array | None:
    """Each value as JSON, null where it is null; None where a value cannot be written as it is."""
    kind = column.type
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        return column.cast(pa.string())
    if pa.types.is_float32(kind) or pa.types.is_float64(kind):
        return _floats(column)
    strings = strings_of(column)
    if strings is not None and not _needs_escapes(strings):
        return pc.binary_join_element_wise('"', strings, '"', "")
    try:
        return _one_by_one(python_values(column))
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError):
        return None


def _floats(column: pa.Array) -> pa.Array | None:
    """As orjson writes them. NaN becomes null; what is infinite is refused elsewhere."""
    if pc.any(pc.is_inf(column)).as_py():
        return None
    written = orjson.dumps(column.to_pylist())[1:-1].split(b",") if len(column) else []
    texts = pa.array(written, pa.string())
    return pc.if_else(column.is_valid(), texts, None) if column.null_count else texts


def _needs_escapes(strings: pa.Array) -> bool:
    _, offsets, data = strings.buffers()
    places = np.frombuffer(offsets, np.int32)
    start, stop = places[strings.offset], places[strings.offset + len(strings)]
    if start == stop:
        return False
    part = np.frombuffer(data, np.uint8)[start:stop]
    return bool(((part < _SPACE) | (part == _QUOTE) | (part == _BACKSLASH)).any())


def _one_by_one(values: list[Any]) -> pa.Array | None:
    option = orjson.OPT_NON_STR_KEYS
    texts = [
        None if value is None else orjson.dumps(value, default=as_json, option=option).decode()
        for value in values
    ]
    if any(text is not None and "null" in text for text in texts):
        return None  # as orjson writes what is infinite
    return pa.array(texts, pa.string())
