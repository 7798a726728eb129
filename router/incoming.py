"""From the bytes of a request to documents that may be stored, or why one may not. Pure functions.

What is wrong with a whole request is an InvalidRequest that is raised; what is wrong with one
document is an InvalidRequest in its place, and the next one is read.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from router.document_rules import (
    RefusedDocument,
    checked_id,
    checked_text,
    checked_title,
    metadata_text,
    parse_json,
    parse_vector,
    without_surrogates,
)
from router.documents_schema import (
    DOCUMENT_BYTES_MAX,
    DOCUMENTS_MAX,
    ID_BYTES_MAX,
    DeleteBody,
    DocumentBody,
    RequestTooLarge,
)
from shard_worker.codes import bad_rows
from shard_worker.errors import InvalidRequest

_FIELDS = frozenset(DocumentBody.model_fields)


@dataclass(frozen=True, slots=True, eq=False)
class Incoming:
    """A document to store. ``metadata`` is the text of a JSON object, "" for none.

    ``vector`` float32 (dimension,) is what the caller gave; None leaves it to the model.
    """

    id: str
    title: str
    text: str
    metadata: str
    vector: NDArray[np.float32] | None

    @property
    def size_bytes(self) -> int:
        """About what it takes in RAM and on the wire."""
        vector = 0 if self.vector is None else self.vector.nbytes
        return len(self.id) + len(self.title) + len(self.text) + len(self.metadata) + vector


@dataclass(frozen=True, slots=True)
class Item:
    """One document of a request: ``document``, or ``error`` in its place; ``id`` if it has one."""

    id: str | None
    document: Incoming | None = None
    error: InvalidRequest | None = None
    line: int = 0


class DocumentReader:
    """Reads documents for an index of ``dimension``, with a model or for ready-made vectors."""

    def __init__(self, dimension: int, *, has_model: bool) -> None:
        self._dimension = dimension
        self._has_model = has_model

    def read_body(self, body: bytes) -> list[Item]:
        """The documents of ``{"documents": […]}``. Raises InvalidRequest, RequestTooLarge."""
        try:
            whole, is_suspect = parse_json(body)
        except RefusedDocument as error:
            raise InvalidRequest(f"body: {error}") from error
        if not isinstance(whole, dict):
            raise InvalidRequest('body: not a JSON object {"documents": […]}')
        unknown = sorted(whole.keys() - {"documents"})
        if unknown:
            raise InvalidRequest(f"body: unknown field {_shown(unknown[0])}")
        documents = whole.get("documents")
        if not isinstance(documents, list):
            raise InvalidRequest("documents: a list of documents is required")
        if len(documents) > DOCUMENTS_MAX:
            raise RequestTooLarge(
                f"documents: {len(documents):,} of them, a call takes at most {DOCUMENTS_MAX:,}; "
                "send several calls, or a stream of lines"
            )
        return [self._item(value, is_suspect, 0) for value in documents]

    def read_lines(self, block: bytes, first_line: int) -> list[Item]:
        """The documents of whole lines, counted from ``first_line``; a blank line is none."""
        items = []
        for number, line in enumerate(block.split(b"\n"), start=first_line):
            if not line.strip():
                continue
            try:
                value, is_suspect = parse_json(line)
            except RefusedDocument as error:
                items.append(Item(None, error=InvalidRequest(str(error)), line=number))
                continue
            items.append(self._item(value, is_suspect, number))
        return items

    def _item(self, value: object, is_suspect: bool, line: int) -> Item:
        key = None
        try:
            if not isinstance(value, dict):
                raise RefusedDocument(f"a json {type(value).__name__}, not a json object")
            key = _id(value)
            return Item(key, self._document(key, value, is_suspect), line=line)
        except RefusedDocument as error:
            return Item(key, error=InvalidRequest(str(error)), line=line)
        except RecursionError:
            return Item(key, error=InvalidRequest("document is nested too deeply"), line=line)

    def _document(self, key: str, value: dict[str, Any], is_suspect: bool) -> Incoming:
        unknown = sorted(value.keys() - _FIELDS)
        if unknown:
            raise RefusedDocument(
                f"unknown field {_shown(unknown[0])}: what is not one of "
                f"{', '.join(sorted(_FIELDS))} belongs into metadata"
            )
        if is_suspect:
            value = without_surrogates(value)
        vector = self._vector(value.get("vector"))
        title = checked_title(value.get("title"))
        text = checked_text(value.get("text"), None if vector is not None else " and no vector")
        metadata = value.get("metadata")
        if metadata is not None and not isinstance(metadata, dict):
            raise RefusedDocument(f"metadata is a {type(metadata).__name__}, not an object")
        packed = metadata_text(metadata or {})
        size = sum(len(part.encode()) for part in (title, text, packed))
        if size > DOCUMENT_BYTES_MAX:
            raise RefusedDocument(
                f"title, text and metadata take {size:,} bytes, at most {DOCUMENT_BYTES_MAX:,} "
                "are kept: cut the document into several"
            )
        return Incoming(key, title, text, packed, vector)

    def _vector(self, value: object) -> NDArray[np.float32] | None:
        if value is None:
            if self._has_model:
                return None
            raise RefusedDocument(
                f"no vector: this index holds ready-made vectors of {self._dimension} numbers"
            )
        is_list = isinstance(value, list)
        found = parse_vector(value, self._dimension) if is_list else self._decoded(value)
        if isinstance(found, str):
            raise RefusedDocument(found)
        square = float(found @ found)
        if not 0 < square < np.inf and bad_rows(found[None, :])[0]:
            finite = bool(np.isfinite(found).all())
            raise RefusedDocument(
                "vector is all zeros" if finite else "vector holds NaN or infinity"
            )
        return found

    def _decoded(self, value: object) -> NDArray[np.float32] | str:
        """A vector from base64 of little-endian float32, or the reason why there is none."""
        if not isinstance(value, str):
            return f"vector is a {type(value).__name__}, not a list of numbers or base64"
        try:
            data = base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            return "vector is a string, but not base64"
        if len(data) != 4 * self._dimension:
            return f"vector has {len(data)} bytes, expected {self._dimension} float32 of 4 bytes"
        return np.frombuffer(data, dtype="<f4").astype(np.float32, copy=False)


def read_ids(body: bytes) -> list[str]:
    """The ids of ``{"ids": […]}``. Raises InvalidRequest, RequestTooLarge."""
    try:
        return DeleteBody.model_validate_json(body).ids
    except ValidationError as error:
        reasons = error.errors(include_url=False, include_context=False, include_input=False)
        if any(reason["type"] == "too_long" for reason in reasons):
            raise RequestTooLarge(f"ids: a call takes at most {DOCUMENTS_MAX:,}") from error
        raise InvalidRequest(
            "; ".join(
                f"{'.'.join(map(str, reason['loc'])) or 'body'}: {reason['msg']}"
                for reason in reasons[:5]
            )
        ) from error


def _id(value: dict[str, Any]) -> str:
    key = value.get("id")
    if key is None:
        raise RefusedDocument("no id: a document that is written alone needs one")
    key = checked_id(key)
    size = len(key.encode())
    if size > ID_BYTES_MAX:
        raise RefusedDocument(f"the id has {size:,} bytes, at most {ID_BYTES_MAX:,}")
    return key


def _shown(name: str) -> str:
    """A field's name for a message: short, and valid Unicode."""
    return repr(without_surrogates(name)[:40])
