"""Documents: what a record must hold to become one, and the Arrow table that carries them.

Decisions (`refused` = the row is rejected with a reason, and the next one is read)
* id, title, metadata, surrogates: as `router.document_rules` says, for live writes alike.
* text: a string that is not blank. A number or a list is refused, not converted. Where there is
  a title, or vectors come with the source, text may be missing, null or blank.
* JSON lines: a field may be missing in any record, and in the first ones. So where no id or title
  was found in them, each later record is looked through for one.
* no id, or null: the document gets the blake2b-128 of its title, text and metadata (and of its
  vector where it has no text) as 32 hex digits. A blank id is refused.
* metadata: all other fields. A field `metadata` that holds an object is merged into them, unless
  names would collide.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from bitsift.cluster.sources.plan import NAMES, SourceFile
from bitsift.cluster.sources.records import Record
from bitsift.cluster.sources.stored_vectors import FLOATS, Stored
from bitsift.cluster.sources.vectors import Vectors, stack_vectors, vector_column
from bitsift.router.write.document_rules import (
    RefusedDocument,
    checked_id,
    checked_text,
    checked_title,
    metadata_text,
    without_surrogates,
)

SCHEMA = pa.schema(
    [
        ("position", pa.int64()),
        ("file", pa.string()),
        ("line", pa.int64()),
        ("id", pa.string()),
        ("title", pa.string()),
        ("text", pa.string()),
        ("metadata", pa.string()),
        ("vector", pa.list_(pa.float32())),
        ("reject", pa.string()),
    ]
)


_CONTENT_ID_BYTES = 16
_NAMING = (str, int, float)
"""Types of an id or a title; a field of another one is metadata, whatever its name."""


class RowReader:
    """Takes the parts of a document out of the rows of one file."""

    def __init__(self, file: SourceFile) -> None:
        fields = file.fields
        self.id_field = fields.id
        self.title_field = fields.title
        self.text_field = fields.text
        where = f" in field {self.text_field!r}"
        self._title_suffices = not file.format.is_whole_document  # whose title may be its name
        self._missing_text = None if file.carries_vectors else where
        named = {name for _, name in fields.named()}
        late = file.format.is_json  # no field need be in the first records
        self._late_ids, self._late_titles = (
            tuple(name for name in NAMES[role] if late and name not in named)
            for role in ("id", "title")
        )
        # parquet vectors never become Python objects: they come to the batch as one matrix
        self.vector_field = None if file.format.is_table else fields.vector

    def read(self, row: dict[str, Any], is_suspect: bool) -> tuple[str | None, str, str, str]:
        """Takes id, title and text out of `row`; returns (id, title, text, metadata).

        The id is None where the row has none. Raises RefusedDocument.
        """
        if self.id_field is not None:
            key = row.pop(self.id_field, None)
        else:
            key = _late(row, self._late_ids)
        if key is not None and (type(key) is not str or key.isspace() or not key or is_suspect):
            key = _named(self.id_field, checked_id, key)
        if is_suspect:
            row = without_surrogates(row)
        text = row.pop(self.text_field, None) if self.text_field is not None else None
        if self.title_field is not None:
            title = row.pop(self.title_field, None)
        else:
            title = _late(row, self._late_titles)
        if type(title) is not str:
            title = _named(self.title_field, checked_title, title)
        if type(text) is not str or not text or text.isspace():
            text = self._text(text, title if self._title_suffices else "")
        return key, title, text, metadata_of(row) if row else ""

    def _text(self, text: object, title: str) -> str:
        if text is None or type(text) is str:
            return checked_text(text, title, self._missing_text)
        return _named(self.text_field, lambda it: checked_text(it, title, None), text)


def _late(row: dict[str, Any], names: Sequence[str]) -> Any:
    """An id or a title, taken out of a row of a file in whose first ones it was not seen."""
    for name in names:
        if type(row.get(name)) in _NAMING:
            return row.pop(name)
    return None


def _named(field: str | None, check: Callable[[object], str], value: object) -> str:
    """What `check` makes of the value of a field. Raises RefusedDocument, which names the field."""
    try:
        return check(value)
    except RefusedDocument as error:
        raise RefusedDocument(f"{error} (field {field!r})" if field else str(error)) from error


def metadata_of(row: dict[str, Any]) -> str:
    """A row's other fields as JSON text. Raises RefusedDocument where JSON cannot hold them."""
    nested = row.get("metadata")
    if type(nested) is dict and (len(row) == 1 or nested.keys().isdisjoint(row)):
        row = {name: value for name, value in row.items() if name != "metadata"} | nested
    return metadata_text(row)


class DocumentBatch:
    """Collects records, of one file or of several, and turns them into one table of SCHEMA."""

    def __init__(self, width: int | None, stored: Stored = FLOATS) -> None:
        self._width = width
        self._stored = stored
        self._positions: list[int] = []
        self._files: list[str] = []
        self._lines: list[int] = []
        self._ids: list[str | None] = []
        self._titles: list[str | None] = []
        self._texts: list[str | None] = []
        self._metadata: list[str | None] = []
        self._rejects: list[str | None] = []
        self._parsed: list[Any] = []  # vectors that came as lists: float32 arrays, or reasons
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._positions)

    def add(self, file: SourceFile, reader: RowReader, number: int, record: Record) -> None:
        """Adds record `number` (from 0) of `file`. Never raises for what the record holds."""
        self._positions.append(file.first_position + number)
        self._files.append(file.path)
        self._lines.append(record.line)
        self.size_bytes += record.size_bytes
        key = title = text = metadata = None
        reason = record.reason
        vector: Any = reason
        if record.row is not None:
            if reader.vector_field is not None:
                value = record.row.pop(reader.vector_field, None)
                vector = self._stored.parsed(value, self._width)
            try:
                key, title, text, metadata = reader.read(record.row, record.is_suspect)
            except RefusedDocument as error:
                reason = str(error)
            except RecursionError:
                reason = "record is nested too deeply"
        self._ids.append(key)
        self._titles.append(title)
        self._texts.append(text)
        self._metadata.append(metadata)
        self._rejects.append(reason)
        if reader.vector_field is not None:
            self._parsed.append(vector)

    def table(self, vectors: Vectors | None = None) -> pa.Table:
        """Everything added so far as one table, with `vectors` or those that came as lists."""
        if self._parsed and vectors is None:
            assert self._width is not None
            vectors = stack_vectors(self._parsed, self._width, self._stored)
        if vectors is not None:
            self._refuse_without_vector(vectors)
        keep = np.array([reason is None for reason in self._rejects], dtype=bool)
        self._name_by_content(vectors)
        columns: list[Any] = [
            self._positions,
            self._files,
            self._lines,
            self._ids,
            self._titles,
            self._texts,
            self._metadata,
        ]
        arrays = [
            pa.array(values, field.type) for values, field in zip(columns, SCHEMA, strict=False)
        ]
        arrays.append(vector_column(vectors, keep))
        arrays.append(pa.array(self._rejects, pa.string()))
        return pa.Table.from_arrays(arrays, schema=SCHEMA)

    def _refuse_without_vector(self, vectors: Vectors) -> None:
        missing = np.ones(len(self), dtype=bool)
        missing[vectors.rows] = False
        for row in np.flatnonzero(missing):
            if self._rejects[row] is None:
                self._rejects[row] = vectors.reasons.get(int(row), "no vector")

    def _name_by_content(self, vectors: Vectors | None) -> None:
        for row, key in enumerate(self._ids):
            if key is None and self._rejects[row] is None:
                vector = b""
                if vectors is not None and not self._texts[row]:
                    vector = vectors.matrix[np.searchsorted(vectors.rows, row)].tobytes()
                parts = (self._titles[row], self._texts[row], self._metadata[row])
                self._ids[row] = content_id(*(part or "" for part in parts), vector=vector)


def content_id(title: str, text: str, metadata: str, *, vector: bytes = b"") -> str:
    """The id of a document that has none: 32 hex digits, the same in every run."""
    digest = hashlib.blake2b(digest_size=_CONTENT_ID_BYTES)
    for part in (title.encode(), text.encode(), metadata.encode(), vector):
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()


def is_named_by_content(id: str, title: str, text: str, metadata: str) -> bool:
    """Whether a document that had no id has this one. A vector without text is not compared: then
    any id of this form is taken for one.
    """
    if len(id) != 2 * _CONTENT_ID_BYTES:
        return False
    if not text:
        return set(id) <= set("0123456789abcdef")
    return content_id(title, text, metadata) == id
