"""Tables of pandas, polars and pyarrow as documents, row by row, without loading any of these."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any

Documents = Mapping[str, Any] | Iterable[Mapping[str, Any]]
"""One, several, or a table."""
ROWS = 1_000
"""Rows of a table that are Python's objects at once."""
_METADATA = "metadata"
_FIELDS = ("id", "title", "text", _METADATA, "vector", "if_absent", "if_version")
"""Of a document that is written."""
_MISSING = ("NAType", "NaTType")
"""pandas' own: comparing one with itself is an error, or false."""


def table_rows(documents: Any) -> Iterable[Mapping[str, Any]] | None:
    """The documents of a table; None where it is none.

    Columns that are no field of a document become metadata, as in a bulk load; a missing value
    is left out. An index of pandas that has a name is a column.
    """
    rows: Iterable[Mapping[str, Any]]
    if hasattr(documents, "iter_rows") and hasattr(documents, "columns"):
        rows = documents.iter_rows(named=True)  # polars
    elif hasattr(documents, "to_batches"):
        rows = _of_arrow(documents.to_batches(max_chunksize=ROWS))
    elif hasattr(documents, "read_next_batch"):
        rows = _of_arrow(documents)
    elif hasattr(documents, "to_pylist") and hasattr(documents, "schema"):
        rows = _of_arrow([documents])
    elif hasattr(documents, "iloc") and hasattr(documents, "columns"):
        rows = _of_pandas(documents)
    else:
        return None
    return map(_document, rows)


def _of_arrow(batches: Iterable[Any]) -> Iterator[Mapping[str, Any]]:
    for batch in batches:
        for start in range(0, batch.num_rows, ROWS):
            yield from batch.slice(start, ROWS).to_pylist()


def _of_pandas(frame: Any) -> Iterator[Mapping[str, Any]]:
    for start in range(0, len(frame), ROWS):
        part = frame.iloc[start : start + ROWS]
        if any(name is not None for name in part.index.names):
            part = part.reset_index()
        yield from part.to_dict("records")


def _document(row: Mapping[Any, Any]) -> dict[str, Any]:
    document: dict[str, Any] = {}
    others: dict[str, Any] = {}
    for name, value in row.items():
        if not _is_missing(value):
            (document if name in _FIELDS else others)[str(name)] = value
    nested = document.get(_METADATA)
    if isinstance(nested, str):  # as `bitsift export` writes it
        with suppress(ValueError):
            nested = document[_METADATA] = json.loads(nested)
    if not others:
        return document
    if isinstance(nested, dict) and nested.keys().isdisjoint(others):
        return {**document, _METADATA: {**others, **nested}}
    if nested is not None:
        others[_METADATA] = nested
    return {**document, _METADATA: others}


def _is_missing(value: Any) -> bool:
    is_nan = isinstance(value, float) and value != value
    return value is None or is_nan or type(value).__name__ in _MISSING
